import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// The Dantzig selector, in the coordinates of `Quadratic`:
///
///     minimise Σ ρ_j |v_j|  subject to  |ĉ − Ĝv|_j ≤ λ_j        dual: maximise ĉᵀu − Σ λ_j |u_j|,  |Ĝu|_j ≤ ρ_j
///
/// by the simplex method. A vertex is a set S of atoms in use with signs s and as many constraints E that hold with equality on
/// the side σ: Ĝ_ES v_S = (ĉ − σλ)_E, and u = Ĝ_ES⁻ᵀ (ρ s)_S prices it. With z = Ĝu
///
///     |z_j| > ρ_j     atom j enters        σ_e u_e < 0     constraint e is let go
///
/// until an atom of S reaches 0 or a constraint outside E its bound. Where neither is left u is dual feasible, up to a factor that
/// the bound takes into account. It begins at the LASSO's answer for the same λ, a vertex with E = S that is mostly a few
/// exchanges away; the matrix of a vertex is factored anew, so no errors accumulate.
///
/// References: Candès & Tao 2007; James, Radchenko & Lv 2009; Harris 1973.
private final class DantzigSelector {
  private let problem: Quadratic
  private let rho: Buffer<Double>
  private let n: Int
  private let gram: Gram
  /// S and E in the order of the matrix's columns and rows; s and σ by atom, 0 for the others.
  private var support: [Int] = []
  private var active: [Int] = []
  private var signs: [Double]
  private var sides: [Double]
  private let lu: LU
  private let v: UnsafeMutablePointer<Double>
  private let g: UnsafeMutablePointer<Double>
  private let u: UnsafeMutablePointer<Double>
  private let z: UnsafeMutablePointer<Double>
  /// How v and g move per step.
  private let dv: UnsafeMutablePointer<Double>
  private let dg: UnsafeMutablePointer<Double>
  private let memory: Buffer<Double>
  private(set) var iterations = 0
  /// A lower bound of the smallest norm.
  private(set) var least = 0.0
  private var noise = 0.0

  init(_ problem: Quadratic, rho: Buffer<Double>) throws(UnmergeError) {
    (self.problem, self.rho, n, gram) = (problem, rho, problem.n, problem.gram)
    memory = try allocate(product(6, n, "the working memory"))
    v = memory.pointer
    (g, u, z, dv, dg) = (v + n, v + 2 * n, v + 3 * n, v + 4 * n, v + 5 * n)
    signs = Array(repeating: 0, count: n)
    sides = signs
    lu = LU()
  }

  var coefficients: UnsafePointer<Double> { UnsafePointer(v) }

  /// Σ ρ |v|
  var size: Double {
    var sum = 0.0
    for j in support { sum += rho[j] * abs(v[j]) }
    return sum
  }

  /// The largest breach of a constraint, a correlation.
  var violation: Double {
    var worst = 0.0
    for j in 0..<n where problem.lambda[j] < .infinity { worst = max(worst, abs(g[j]) - problem.lambda[j]) }
    return worst
  }

  /// From the LASSO's answer; false when stopped on the way.
  func run(from start: UnsafePointer<Double>, _ watch: Watch) throws(UnmergeError) -> Bool {
    let usable = (0..<n).filter { problem.lambda[$0] < .infinity }
    let stop = try usable.withUnsafeBufferPointer { columns throws(UnmergeError) in try require(gram, columns, watch) }
    if stop != nil { return false }
    for j in usable where start[j] != 0 {
      support.append(j)
      signs[j] = start[j] < 0 ? -1 : 1
      sides[j] = signs[j]
    }
    active = support
    guard factor() else { return false }
    var isBarred = Array(repeating: false, count: 2 * n)
    var barred: [Int] = []
    var idle = 0
    while true {
      settle()
      price(usable)
      if iterations >= watch.maxIterations || watch.poll() != nil { return false }
      let isStuck = idle > 2 * n
      guard let entering = improving(usable, isBarred, first: isStuck) else { return barred.isEmpty }
      iterations += 1
      direct(entering)
      guard let (blocking, step) = blocking(usable, entering, first: isStuck), exchange(entering, blocking) else {
        isBarred[entering] = true
        barred.append(entering)
        continue
      }
      idle = step > 1e-14 ? 0 : idle + 1
      for i in barred { isBarred[i] = false }
      barred.removeAll(keepingCapacity: true)
    }
  }

  private func factor() -> Bool {
    lu.factor(support.count) { row, column in gram.column(support[column])[active[row]] }
  }

  /// v and g of the vertex.
  private func settle() {
    v.update(repeating: 0, count: n)
    for (i, e) in active.enumerated() { dv[i] = problem.c[e] - sides[e] * problem.lambda[e] }
    lu.solve(dv)
    for (i, j) in support.enumerated() { v[j] = dv[i] }
    // Where the tie that made j leave late has turned it by rounding.
    for j in support where rho[j] > 0 && v[j] * signs[j] < 0 && abs(v[j]) <= 1e-11 { v[j] = 0 }
    for j in 0..<n { g[j] = problem.c[j] }
    for j in support where v[j] != 0 { Vector.axpy(n, -v[j], gram.column(j), g) }
  }

  private func price(_ usable: [Int]) {
    u.update(repeating: 0, count: n)
    z.update(repeating: 0, count: n)
    for (i, j) in support.enumerated() { dv[i] = rho[j] * signs[j] }
    lu.solveTransposed(dv)
    var value = 0.0
    noise = 0
    for (i, e) in active.enumerated() {
      u[e] = dv[i]
      value += problem.c[e] * u[e] - problem.lambda[e] * abs(u[e])
      noise += 64 * roundoff * abs(u[e])
      Vector.axpy(n, u[e], gram.column(e), z)
    }
    var stretch = 1.0
    for j in usable where abs(z[j]) > rho[j] + noise { stretch = max(stretch, abs(z[j]) / rho[j]) }
    least = max(0, value / stretch)
  }

  /// Atom j, or n + e for constraint e, that lowers the norm fastest; or the first that does.
  private func improving(_ usable: [Int], _ isBarred: [Bool], first: Bool) -> Int? {
    var best: Int?
    var rate = 0.0
    for j in usable {
      var (over, which) = (abs(z[j]) - rho[j] * (1 + 1e-12) - noise, j)
      if signs[j] != 0 { over = 0 }
      if sides[j] != 0, problem.lambda[j] > 0, -sides[j] * u[j] > max(over, noise), !isBarred[n + j] {
        (over, which) = (-sides[j] * u[j], n + j)
      }
      if over > rate, !isBarred[which] {
        (best, rate) = (which, over)
        if first { break }
      }
    }
    return best
  }

  /// dv and dg of what enters.
  private func direct(_ entering: Int) {
    for i in 0..<active.count { u[i] = 0 }
    if entering < n {
      let column = gram.column(entering)
      let direction = z[entering] > 0 ? 1.0 : -1.0
      for (i, e) in active.enumerated() { u[i] = -direction * column[e] }
    } else {
      for (i, e) in active.enumerated() where e == entering - n { u[i] = sides[e] }
    }
    lu.solve(u)
    dv.update(repeating: 0, count: n)
    for (i, j) in support.enumerated() { dv[j] = u[i] }
    if entering < n { dv[entering] = z[entering] > 0 ? 1 : -1 }
    dg.update(repeating: 0, count: n)
    for j in 0..<n where dv[j] != 0 { Vector.axpy(n, -dv[j], gram.column(j), dg) }
    for e in active { dg[e] = entering == n + e ? -sides[e] : 0 }
  }

  /// What stops the step first, atom i of S or n + k for a constraint; of those that rounding cannot tell apart the one with the
  /// largest pivot, or the first.
  private func blocking(_ usable: [Int], _ entering: Int, first: Bool) -> (which: Int, step: Double)? {
    var (size, pivot) = (0.0, 0.0)
    for j in 0..<n {
      size = max(size, abs(v[j]))
      pivot = max(pivot, abs(dv[j]))
    }
    // How far, and how fast, atom j goes to 0 and constraint j to its bound.
    func atom(_ j: Int) -> (room: Double, rate: Double) {
      guard signs[j] != 0, rho[j] > 0 else { return (.infinity, 0) }
      return (max(0, v[j] * signs[j]), -dv[j] * signs[j])
    }
    func constraint(_ j: Int) -> (room: Double, rate: Double) {
      guard sides[j] == 0 || entering == n + j else { return (.infinity, 0) }
      return (max(0, problem.lambda[j] - (dg[j] > 0 ? g[j] : -g[j])), abs(dg[j]))
    }
    let least = 1e-9 * pivot
    let slack = first ? 0 : 1e-13
    var reach = Double.infinity
    for j in usable {
      let (a, c) = (atom(j), constraint(j))
      if a.rate > least { reach = min(reach, (a.room + slack * size) / a.rate) }
      if c.rate > least { reach = min(reach, (c.room + slack) / c.rate) }
    }
    guard reach < .infinity else { return nil }
    var best: (which: Int, step: Double)?
    var rate = 0.0
    for j in usable {
      for (which, way) in [(j, atom(j)), (n + j, constraint(j))] where way.rate > max(least, rate) {
        guard way.room <= reach * way.rate, best == nil || !first else { continue }
        best = (which, way.room / way.rate)
        rate = way.rate
      }
    }
    return best
  }

  /// The next vertex; false, and nothing has changed, when its matrix is singular.
  private func exchange(_ entering: Int, _ blocking: Int) -> Bool {
    let before = (support, active, signs, sides)
    if entering < n {
      support.append(entering)
      signs[entering] = z[entering] > 0 ? 1 : -1
    } else {
      active.removeAll { $0 == entering - n }
      sides[entering - n] = 0
    }
    if blocking < n {
      support.removeAll { $0 == blocking }
      signs[blocking] = 0
    } else {
      active.append(blocking - n)
      sides[blocking - n] = dg[blocking - n] > 0 ? 1 : -1
    }
    if factor() { return true }
    (support, active, signs, sides) = before
    _ = factor()
    return false
  }
}

/// LU with row exchanges of a small square matrix, by rows.
private final class LU {
  private var n = 0
  private var a: [Double] = []
  private var order: [Int] = []
  private var work: [Double] = []

  /// False when singular to rounding.
  func factor(_ n: Int, _ element: (_ row: Int, _ column: Int) -> Double) -> Bool {
    self.n = n
    if a.count < n * n { a = Array(repeating: 0, count: n * n) }
    order = Array(0..<n)
    if work.count < n { work = Array(repeating: 0, count: n) }
    for j in 0..<n { for i in 0..<n { a[i * n + j] = element(i, j) } }
    return a.withUnsafeMutableBufferPointer { a in
      guard let a = a.baseAddress else { return true }
      for k in 0..<n {
        var best = k
        for i in k..<n where abs(a[i * n + k]) > abs(a[best * n + k]) { best = i }
        guard abs(a[best * n + k]) > 1e-13 else { return false }
        if best != k {
          for j in 0..<n { (a[k * n + j], a[best * n + j]) = (a[best * n + j], a[k * n + j]) }
          order.swapAt(k, best)
        }
        for i in (k + 1)..<max(n, k + 1) where a[i * n + k] != 0 {
          a[i * n + k] /= a[k * n + k]
          Vector.axpy(n - k - 1, -a[i * n + k], a + k * n + k + 1, a + i * n + k + 1)
        }
      }
      return true
    }
  }

  /// x ← M⁻¹ x
  func solve(_ x: UnsafeMutablePointer<Double>) {
    for i in 0..<n {
      var sum = x[order[i]]
      for j in 0..<i { sum -= a[i * n + j] * work[j] }
      work[i] = sum
    }
    for i in stride(from: n - 1, through: 0, by: -1) {
      for j in (i + 1)..<max(n, i + 1) { work[i] -= a[i * n + j] * work[j] }
      work[i] /= a[i * n + i]
    }
    for i in 0..<n { x[i] = work[i] }
  }

  /// x ← M⁻ᵀ x
  func solveTransposed(_ x: UnsafeMutablePointer<Double>) {
    for i in 0..<n {
      work[i] = x[i]
      for j in 0..<i { work[i] -= a[j * n + i] * work[j] }
      work[i] /= a[i * n + i]
    }
    for i in stride(from: n - 1, through: 0, by: -1) {
      for j in (i + 1)..<max(n, i + 1) { work[i] -= a[j * n + i] * work[j] }
    }
    for i in 0..<n { x[order[i]] = work[i] }
  }
}

private func dantzig(
  _ gram: Gram, target t: Int, delta: Double, isRelative: Bool, _ weights: Buffer<Double>?, _ answers: Answers,
  _ watch: Watch
) throws(UnmergeError) {
  let n = gram.atoms
  guard gram.targetNorms[t] > 0 else { return answers.set(t, gram, target: t, nil, emptyEnding(), watch) }
  var alpha = delta
  if isRelative { alpha *= try alphaMax(gram, target: t, l1Ratio: 1, weights: weights, bounds: .none, watch) }
  let problem = try Quadratic(gram, target: t, alpha: alpha, l1Ratio: 1, weights: weights)
  let rho: Buffer<Double> = try allocate(n)
  for j in 0..<n where gram.norms[j] > 0 { rho[j] = (weights?[j] ?? 1) / gram.norms[j] }
  let lasso = try ActiveSet(problem)
  var end = try lasso.run(watch, tol: min(watch.tol, 1e-14), maxIterations: watch.maxIterations)
  var v = UnsafePointer(lasso.v)
  var (size, least, isDone) = (0.0, 0.0, false)
  let selector = try DantzigSelector(problem, rho: rho)
  if watch.poll() == nil, end.outcome != UNMERGE_ITERATION_LIMIT {
    isDone = try selector.run(from: lasso.v, watch)
    v = selector.coefficients
    (size, least) = (selector.size, selector.least)
    problem.gradient(v, lasso.g)
    end.certificate = problem.certify(v, lasso.g)
    end.certificate.violation = selector.violation
  } else {
    for j in 0..<n { size += rho[j] * abs(v[j]) }
  }
  let unit = problem.unit
  end.iterations += selector.iterations
  end.certificate.objective = size / unit
  end.certificate.gap = max(0, size - least) / unit
  end.certificate.relativeGap = size > 0 ? max(0, size - least) / size : 0
  end.outcome =
    end.certificate.relativeGap <= watch.tol && isDone
    ? UNMERGE_CONVERGED
    : watch.poll()?.outcome
      ?? (end.iterations >= watch.maxIterations ? UNMERGE_ITERATION_LIMIT : UNMERGE_STALLED)
  answers.set(t, problem, v, end, watch)
  withExtendedLifetime((lasso, selector)) {}
}

// MARK: the door

extension unmerge_dantzig_options: Growable {
  package static var defaults: unmerge_dantzig_options {
    var o = unmerge_dantzig_options()
    o.struct_size = MemoryLayout<unmerge_dantzig_options>.size
    o.delta = 1
    return o
  }
}

@_cdecl("unmerge_dantzig_options_init") @implementation
public func unmerge_dantzig_options_init(
  _ options: UnsafeMutablePointer<unmerge_dantzig_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_dantzig") @implementation
public func unmerge_dantzig(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_dantzig_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.delta, "options->delta", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try checkFlag(o.relative, "options->relative")
    try checkReserved(o.reserved, "options->reserved")
    if o.delta == 0 { return try answer(gram, .leastSquares, o.weights, 0, run, coef, nil, reports) }
    let weights = try copyWeights(o.weights, gram.atoms)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let answers = try Answers(gram.atoms, gram.targets)
    let (delta, isRelative) = (o.delta, o.relative == 1)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      try dantzig(gram, target: t, delta: delta, isRelative: isRelative, weights, answers, watch)
    }
    answers.deliver(output, reports)
  }
}
