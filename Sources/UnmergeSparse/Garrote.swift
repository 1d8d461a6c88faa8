import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Variational Garrote
//
//     y = Σ s_j w_j a_j + noise, P(s_j = 1) = σ(γ), q(s) = Π q_j with q_j(1) = m_j
//
// For given m the stationary w solve Ĝ_offdiag M w + w = ĉ. With S = M^½ (Ĝ − I) M^½ + I, which is positive definite for m < 1,
//
//     S t = M^½ ĉ,   v = M^½ t,   w = ĉ − Ĝv + v,   e = 1 − ĉᵀv
//
// where e = pE/‖y‖² is what is left of y plus what is undecided about it. (v solves a ridge problem with λ_j = (1 − m_j)/m_j.)
// So F is a function of m alone, with
//
//     ∂F/∂m_j = logit m_j − γ − ½ b w_j²,    b = q/e, or as given
//
// and m ← σ(γ + ½ b w²) points downhill. It is damped until F does not rise, and near a solution replaced by Newton's method
// over the undecided atoms: with K = Ĝ_off − Ĝ_off M^½ S⁻¹ M^½ Ĝ_off and D = m(1 − m),
//
//     ∂²F/∂m² = D⁻¹ + b W K W − (q / 2e²) w²w²ᵀ     (the last term where s² is found)
//
// scaled by D^½ from both sides. Where that is positive definite at the end, the minimum is strict.
//
// References: Kappen & Gómez 2014; the gradient of F over m alone is Danskin's theorem.

/// m, and what follows from it.
private final class GarrotePoint {
  /// m and 1 − m, either of which may be too small to be seen beside the other.
  let m: Buffer<Double>
  let out: Buffer<Double>
  let v: Buffer<Double>
  let w: Buffer<Double>
  /// The right-hand side for m.
  let next: Buffer<Double>
  let nextOut: Buffer<Double>
  /// The factor of S.
  let s: Buffer<Double>
  var e = 1.0
  var b = 0.0
  var freeEnergy = Double.infinity
  var violation = Double.infinity

  init(_ n: Int) throws(UnmergeError) {
    m = try allocate(n)
    out = try allocate(n)
    v = try allocate(n)
    w = try allocate(n)
    next = try allocate(n)
    nextOut = try allocate(n)
    s = try allocate(product(n, n, "the Gram"))
  }
}

private func entropy(_ m: Double, _ out: Double) -> Double {
  (m > 0 ? -m * Platform.log(m) : 0) + (out > 0 ? -out * Platform.log(out) : 0)
}

private func logistic(_ x: Double) -> Double { 1 / (1 + Platform.exp(-x)) }

/// ln(1 + e^x)
private func softplus(_ x: Double) -> Double { max(x, 0) + Platform.log(1 + Platform.exp(-abs(x))) }

private final class Garrote {
  let problem: TemperedGram
  var gamma = 0.0
  private(set) var here: GarrotePoint
  private var trial: GarrotePoint
  private let x: Buffer<Double>
  private var iterations = 0
  private(set) var outcome = UNMERGE_CONVERGED
  private(set) var isStrict = false

  init(_ problem: TemperedGram) throws(UnmergeError) {
    self.problem = problem
    here = try GarrotePoint(problem.n)
    trial = try GarrotePoint(problem.n)
    x = try allocate(problem.n)
  }

  /// Everything that m determines.
  private func evaluate(_ at: GarrotePoint) {
    let n = problem.n
    let (g, c) = (problem.g, problem.c)
    for j in 0..<n { x[j] = at.m[j].squareRoot() }
    for j in 0..<n {
      let from = g + j * n
      let to = at.s.pointer + j * n
      for i in 0..<j { to[i] = x[i] * x[j] * from[i] }
      to[j] = 1
      at.v[j] = x[j] * c[j]
    }
    guard Symmetric.factor(n, at.s.pointer) != nil else {
      at.freeEnergy = .infinity
      at.violation = .infinity
      return
    }
    Symmetric.solve(n, factor: at.s.pointer, at.v.pointer, columns: 1)
    for j in 0..<n { at.v[j] *= x[j] }
    problem.multiply(at.v.pointer, x.pointer)
    at.e = max(1 - Vector.dot(n, c, at.v.pointer), problem.least)
    at.b = problem.known ?? problem.q / at.e
    at.violation = 0
    var sum = 0.0
    var minusEntropy = 0.0
    for j in 0..<n {
      at.w[j] = problem.isZero(j) ? 0 : c[j] - x[j] + at.v[j]
      let field = gamma + 0.5 * at.b * at.w[j] * at.w[j]
      at.next[j] = logistic(field)
      at.nextOut[j] = logistic(-field)
      // The smaller of the two tells them apart.
      at.violation = max(at.violation, field < 0 ? abs(at.next[j] - at.m[j]) : abs(at.nextOut[j] - at.out[j]))
      sum += at.m[j]
      minusEntropy -= entropy(at.m[j], at.out[j])
    }
    let data = 0.5 * (at.b * at.e + problem.constant(at.b))
    at.freeEnergy = data - gamma * sum + Double(n) * softplus(gamma) + minusEntropy
  }

  /// trial ← here moved by `eta` towards its right-hand side.
  private func move(_ eta: Double) {
    for j in 0..<problem.n {
      trial.m[j] = eta == 1 ? here.next[j] : here.m[j] + eta * (here.next[j] - here.m[j])
      trial.out[j] = eta == 1 ? here.nextOut[j] : here.out[j] + eta * (here.nextOut[j] - here.out[j])
    }
    evaluate(trial)
  }

  /// Newton's step over the undecided atoms into `trial`, by logit m, the scaled Hessian plus `shift`; false where that is not
  /// positive definite.
  private func newton(step: Bool, shift: Double = 0) throws(UnmergeError) -> Bool {
    let n = problem.n
    // An atom with a smaller D moves by nothing, whatever its field does.
    let free = (0..<n).filter { here.m[$0] * here.out[$0] > 1e-18 && !problem.isZero($0) }
    let k = free.count
    guard k > 0 else { return false }
    let right = try allocate(product(n, k, "the Hessian"), of: Double.self)
    for (a, j) in free.enumerated() {
      let column = right.pointer + a * n
      for i in 0..<n { column[i] = i == j ? 0 : here.m[i].squareRoot() * problem.g[j * n + i] }
    }
    let solved = try allocating { () throws(OutOfMemory) in try right.copy() }
    Symmetric.solve(n, factor: here.s.pointer, solved.pointer, columns: k)
    let hessian = try allocate(product(k, k, "the Hessian"), of: Double.self)
    Double.gemm(true, false, k, k, n, -1, right.pointer, n, solved.pointer, n, 0, hessian.pointer, k)
    let d = try allocate(k, of: Double.self)
    let z = try allocate(k, of: Double.self)
    for (a, j) in free.enumerated() {
      d[a] = (here.m[j] * here.out[j]).squareRoot()
      let slope = Platform.log(here.m[j]) - Platform.log(here.out[j]) - gamma - 0.5 * here.b * here.w[j] * here.w[j]
      z[a] = -d[a] * slope
    }
    let bend = problem.known == nil && here.e > problem.least ? 0.5 * problem.q / (here.e * here.e) : 0
    for (a, j) in free.enumerated() {
      let wj = here.w[j]
      for (o, i) in free.enumerated() {
        let wi = here.w[i]
        let kernel = (i == j ? 0 : problem.g[j * n + i]) + hessian[a * k + o]
        hessian[a * k + o] = d[a] * d[o] * (here.b * wi * wj * kernel - bend * wi * wi * wj * wj) + (a == o ? 1 + shift : 0)
      }
    }
    guard Symmetric.factor(k, hessian.pointer) != nil else { return false }
    guard step else { return true }
    Symmetric.solve(k, factor: hessian.pointer, z.pointer, columns: 1)
    trial.m.pointer.update(from: here.next.pointer, count: n)
    trial.out.pointer.update(from: here.nextOut.pointer, count: n)
    for (a, j) in free.enumerated() {
      let field = Platform.log(here.m[j]) - Platform.log(here.out[j]) + max(-4, min(4, z[a] / d[a]))
      trial.m[j] = logistic(field)
      trial.out[j] = logistic(-field)
    }
    evaluate(trial)
    return true
  }

  /// F is a sum with terms of the size of q and of γn, and ln e of a difference with terms ĉ_j v_j.
  private var noise: Double {
    var l1 = 0.0
    for j in 0..<problem.n { l1 += abs(here.v[j]) }
    return roundoff
      * (64 * (abs(here.freeEnergy) + problem.q + Double(problem.n) * (1 + abs(gamma))) + 16 * here.b * (1 + l1))
  }

  private func start(m: Double) {
    for j in 0..<problem.n {
      here.m[j] = m
      here.out[j] = 1 - m
    }
    evaluate(here)
  }

  private func resume(_ m: Buffer<Double>) {
    for j in 0..<problem.n {
      here.m[j] = m[j]
      here.out[j] = max(1 - m[j], .leastNormalMagnitude)
    }
    evaluate(here)
  }

  /// From where m is to the nearest stationary point.
  private func descend(_ watch: Watch) throws(UnmergeError) {
    evaluate(here)
    isStrict = false
    outcome = UNMERGE_CONVERGED
    // Of Levenberg and Marquardt: rises where Newton's step does not help.
    var shift = 0.0
    var local = 0
    while here.violation > watch.tol {
      if let stop = watch.poll() {
        outcome = stop.outcome
        return
      }
      guard local < watch.maxIterations else {
        outcome = UNMERGE_ITERATION_LIMIT
        return
      }
      local += 1
      iterations += 1
      if local > 4 {
        if try newton(step: true, shift: shift),
          trial.freeEnergy < here.freeEnergy - noise
            || (trial.violation < 0.9 * here.violation && trial.freeEnergy <= here.freeEnergy + noise)
        {
          shift = shift > 1e-3 ? shift / 4 : 0
          swap(&here, &trial)
          continue
        }
        shift = shift > 10 ? 0 : max(4 * shift, 0.01)
      }
      var eta = 1.0
      move(eta)
      while !(trial.freeEnergy <= here.freeEnergy + noise), eta > 1e-9 {
        eta *= 0.5
        move(eta)
      }
      guard trial.freeEnergy <= here.freeEnergy + noise else {
        outcome = UNMERGE_STALLED
        return
      }
      swap(&here, &trial)
    }
  }

  private func certify() throws(UnmergeError) {
    isStrict = outcome == UNMERGE_CONVERGED
    if isStrict {
      let undecided = (0..<problem.n).contains { here.m[$0] * here.out[$0] > 1e-18 && !problem.isZero($0) }
      if undecided { isStrict = try newton(step: false) }
    }
  }

  /// γ below which the model without atoms has the lowest F: all of them gain less than the prior takes for one.
  func emptyGamma() -> Double {
    gamma = 0
    start(m: 1 - 1e-8)
    let left = here.freeEnergy < .infinity ? here.e : problem.least
    let gain = problem.known.map { 0.5 * $0 * (1 - left) } ?? -0.5 * problem.q * Platform.log(left)
    return -max(1.01 * gain, 2)
  }

  /// All solutions along increasing γ, the lower of two directions at each.
  func path(_ gammas: [Double], _ watch: Watch) throws(UnmergeError) -> [Solution] {
    var found: [Solution] = []
    for (i, value) in gammas.enumerated() {
      gamma = value
      if i == 0 { start(m: logistic(value)) }
      try descend(watch)
      try found.append(solution(watch))
    }
    // With as many atoms as half the entries F falls without end towards a fit of the noise: such solutions are no start.
    let most = 0.5 * problem.q
    let last = gammas.indices.last { found[$0].result.expected <= most } ?? gammas.count - 1
    for i in (0...last).reversed() {
      gamma = gammas[i]
      if i == last {
        if Double(problem.n) <= most { start(m: 0.9) } else { resume(found[last].inclusion) }
      }
      try descend(watch)
      // One that is lower by more than rounding, or proved where the other is not.
      let isLower =
        here.freeEnergy < found[i].result.free_energy - noise
        || (outcome == UNMERGE_CONVERGED && found[i].report.outcome != UNMERGE_CONVERGED)
      let other = try solution(watch)
      if isLower, other.result.expected <= max(most, found[i].result.expected) { found[i] = other }
    }
    return found
  }

  /// The lowest F found at one γ: forward to it from few atoms, back to it from many.
  func solve(_ value: Double, _ watch: Watch) throws(UnmergeError) -> Solution {
    let empty = emptyGamma()
    var best: Solution?
    for isDown in [false, true] {
      let from = isDown ? max(-1, value) : min(empty, value)
      let full = isDown && Double(problem.n) <= 0.5 * problem.q
      for (i, step) in gammaGrid(from, value, count: from == value ? 1 : 12).enumerated() {
        gamma = step
        if i == 0 { start(m: full ? 0.9 : logistic(step)) }
        try descend(watch)
      }
      let isLower = best.map { here.freeEnergy < $0.result.free_energy - noise } ?? true
      let one = try solution(watch)
      if isLower, one.result.expected <= max(0.5 * problem.q, best?.result.expected ?? .infinity) { best = one }
    }
    return best.unsafelyUnwrapped
  }

  struct Solution {
    let coef: Buffer<Double>
    let inclusion: Buffer<Double>
    let weights: Buffer<Double>
    let result: unmerge_garrote_result
    let report: unmerge_report
    /// qE/s² + q ln s² + ln(q) Σm, up to a constant.
    let bic: Double
  }

  private func solution(_ watch: Watch) throws(UnmergeError) -> Solution {
    let n = problem.n
    try certify()
    let coef = try allocate(n, of: Double.self)
    let weights = try allocate(n, of: Double.self)
    let inclusion = try allocating { () throws(OutOfMemory) in try here.m.copy() }
    var r = unmerge_garrote_result.defaults
    r.gamma = gamma
    r.entropy = 0
    r.expected = 0
    for j in 0..<n {
      coef[j] = problem.unscaled(j, here.v[j])
      weights[j] = problem.unscaled(j, here.w[j])
      r.expected += here.m[j]
      r.entropy += entropy(here.m[j], here.out[j]) / Double(max(n, 1))
    }
    r.free_energy = problem.yNorm > 0 || problem.known != nil ? here.freeEnergy : .nan
    r.sigma2 = problem.sigma2(here.b)
    let report = try problem.reported(
      here.v.pointer, objective: r.free_energy, violation: here.violation, iterations: iterations, outcome: outcome,
      flags: isStrict ? UNMERGE_FLAG_LOCAL_MINIMUM : 0, watch)
    iterations = 0
    let bic = here.b * here.e + problem.constant(here.b) + Platform.log(problem.q) * r.expected
    return Solution(coef: coef, inclusion: inclusion, weights: weights, result: r, report: report, bic: bic)
  }
}

/// From `first` to `last`, geometric where both are negative.
private func gammaGrid(_ first: Double, _ last: Double, count: Int) -> [Double] {
  guard count > 1 else { return [last] }
  return (0..<count).map { i in
    let t = Double(i) / Double(count - 1)
    if i == count - 1 { return last }
    return first < 0 && last < 0 ? first * Platform.pow(last / first, t) : first + t * (last - first)
  }
}

// MARK: the path

/// Paths without each fold: squared errors of fold k at γ i, per entry.
private final class HeldOut: @unchecked Sendable {
  let errors: Buffer<Double>
  let unconverged: Buffer<Int64>
  private let count: Int

  init(folds: Int, count: Int) throws(UnmergeError) {
    errors = try allocate(product(folds, count, "errors"))
    unconverged = try allocate(folds)
    self.count = count
  }

  func fill(
    _ k: Int, _ gram: Gram, _ sums: [Block], target: Int, effective: Double, sigma2: Double, _ gammas: [Double],
    _ watch: Watch
  ) throws(UnmergeError) {
    var training = sums
    let held = training.remove(at: k)
    let train = try Gram(
      atoms: gram.atoms, targets: gram.targets, blocks: training, precision: gram.precision, passes: gram.passes)
    let share = Double(train.entries) / Double(gram.entries)
    let problem = try TemperedGram(train, target: target, effective: effective * share, sigma2: sigma2, watch)
    let found = try Garrote(problem).path(gammas, watch)
    for (i, solution) in found.enumerated() {
      if solution.report.outcome != UNMERGE_CONVERGED { unconverged[k] += 1 }
      errors[k * count + i] =
        held.squaredError(atoms: gram.atoms, target: target, solution.coef.pointer) / Double(held.entries)
    }
  }

  func moments(_ i: Int) -> (mean: Double, error: Double) {
    let k = unconverged.count
    var mean = 0.0
    for f in 0..<k { mean += errors[f * count + i] / Double(k) }
    var squares = 0.0
    for f in 0..<k {
      let d = errors[f * count + i] - mean
      squares += d * d
    }
    return (mean, (squares / Double(k - 1) / Double(k)).squareRoot())
  }
}

private final class FullPath: @unchecked Sendable { var solutions: [Garrote.Solution] = [] }

// MARK: the door

extension unmerge_garrote_options: Growable {
  package static var defaults: unmerge_garrote_options {
    var o = unmerge_garrote_options()
    o.struct_size = MemoryLayout<unmerge_garrote_options>.size
    o.gamma = -3
    return o
  }
}

extension unmerge_garrote_result: Growable {
  package static var defaults: unmerge_garrote_result {
    var r = unmerge_garrote_result()
    r.struct_size = MemoryLayout<unmerge_garrote_result>.size
    r.free_energy = .nan
    r.gamma = .nan
    r.sigma2 = .nan
    r.expected = .nan
    r.entropy = .nan
    return r
  }
}

extension unmerge_garrote_path_options: Growable {
  package static var defaults: unmerge_garrote_path_options {
    var o = unmerge_garrote_path_options()
    o.struct_size = MemoryLayout<unmerge_garrote_path_options>.size
    o.n_gammas = 50
    o.held_out = 1
    return o
  }
}

extension unmerge_garrote_path_result: Growable {
  package static var defaults: unmerge_garrote_path_result {
    var r = unmerge_garrote_path_result()
    r.struct_size = MemoryLayout<unmerge_garrote_path_result>.size
    return r
  }
}

@_cdecl("unmerge_garrote_options_init") @implementation
public func unmerge_garrote_options_init(
  _ options: UnsafeMutablePointer<unmerge_garrote_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_garrote_result_init") @implementation
public func unmerge_garrote_result_init(
  _ result: UnsafeMutablePointer<unmerge_garrote_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_garrote_path_options_init") @implementation
public func unmerge_garrote_path_options_init(
  _ options: UnsafeMutablePointer<unmerge_garrote_path_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_garrote_path_result_init") @implementation
public func unmerge_garrote_path_result_init(
  _ result: UnsafeMutablePointer<unmerge_garrote_path_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_variational_garrote") @implementation
public func unmerge_variational_garrote(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_garrote_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafeMutablePointer<Double>?, _ inclusion: UnsafeMutablePointer<Double>?,
  _ weights: UnsafeMutablePointer<Double>?, _ result: UnsafeMutablePointer<unmerge_garrote_result>?,
  _ report: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    guard o.gamma.isFinite else { throw .range("options->gamma is \(o.gamma); it must be finite") }
    try checkLikelihood(effective: o.effective, sigma2: o.sigma2, gram)
    let target = try checkTarget(o.target, gram)
    let watch = try Watch(run)
    try checkResult(result, "result")
    try checkResult(report, "report")
    let found = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let problem = try TemperedGram(gram, target: target, effective: o.effective, sigma2: o.sigma2, watch)
      return try Garrote(problem).solve(o.gamma, watch)
    }
    deliver(found.coef, coef)
    deliver(found.inclusion, inclusion)
    deliver(found.weights, weights)
    store(found.result, result)
    store(found.report, report)
  }
}

@_cdecl("unmerge_garrote_path") @implementation
public func unmerge_garrote_path(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_garrote_path_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ curve: UnsafePointer<unmerge_view>?, _ coef: UnsafePointer<unmerge_view>?, _ inclusion: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ result: UnsafeMutablePointer<unmerge_garrote_path_result>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkLikelihood(effective: o.effective, sigma2: o.sigma2, gram)
    try check(o.n_gammas, "options->n_gammas", 1...1_000_000, "between 1 and 1000000")
    let target = try checkTarget(o.target, gram)
    try checkFlag(o.held_out, "options->held_out")
    try checkReserved(o.reserved, "options->reserved")
    let count = Int(o.n_gammas)
    var gammas: [Double] = []
    if let given = o.gammas {
      for i in 0..<count {
        let value = UnsafeRawPointer(given + i).loadUnaligned(as: Double.self)
        guard value.isFinite, i == 0 || value > gammas[i - 1] else {
          throw .range("options->gammas[\(i)] is \(value); gammas must be finite and increasing")
        }
        gammas.append(value)
      }
    }
    let folds: FoldList = if let given = o.folds { try FoldList(given, gram) } else { FoldList(of: gram) }
    let watch = try Watch(run)
    let n = gram.atoms
    let curveOut = try optionalOutput(curve, "curve", rows: count, columns: 7)
    let coefOut = try optionalOutput(coef, "coef", rows: n, columns: count)
    let inclusionOut = try optionalOutput(inclusion, "inclusion", rows: n, columns: count)
    try checkResult(reports, "reports", count: count)
    try checkResult(result, "result")

    // One sum per fold, and one more of the blocks that always train.
    var sums: [Block] = []
    let k = o.held_out == 1 && gram.isComplete && folds.count >= 2 ? folds.count : 0
    for f in 0..<(k > 0 ? k + 1 : 0) {
      let members = gram.blocks.indices.filter { folds.fold[$0] == (f < k ? f : -1) }.map { gram.blocks[$0] }
      if let sum = try Block.sum(members) { sums.append(sum) }
      if f < k, sums[f].entries == 0 {
        throw .range(
          "fold \(f) has no entries (folds of a one-column module take 64 rows together); make the gram with fewer folds, or set "
            + "options->held_out to 0")
      }
    }
    let all = sums
    let full = FullPath()
    let held = try HeldOut(folds: k, count: count)
    let effective = o.effective > 0 ? o.effective : Double(gram.entries)
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let problem = try TemperedGram(gram, target: target, effective: effective, sigma2: o.sigma2, watch)
      if o.gammas == nil { gammas = gammaGrid(try Garrote(problem).emptyGamma(), -1, count: count) }
      let grid = gammas
      let sigma2 = o.sigma2
      try eachTask(k + 1, watch.threads) { task throws(UnmergeError) in
        if task == k {
          full.solutions = try Garrote(problem).path(grid, watch)
        } else {
          try held.fill(task, gram, all, target: target, effective: effective, sigma2: sigma2, grid, watch)
        }
      }
    }
    if let stop = watch.poll() { throw stop.error }

    var r = unmerge_garrote_path_result.defaults
    r.folds = Int64(k)
    var (best, bic) = (0, 0)
    for (i, solution) in full.solutions.enumerated() {
      let f = solution.result
      let moments = k > 0 ? held.moments(i) : (mean: .nan, error: .nan)
      let row = [f.gamma, f.free_energy, f.expected, f.entropy, f.sigma2, moments.mean, moments.error]
      for (column, value) in row.enumerated() { curveOut?.set(i, column, value) }
      for j in 0..<n {
        coefOut?.set(j, i, solution.coef[j])
        inclusionOut?.set(j, i, solution.inclusion[j])
      }
      store(solution.report, reports, index: i)
      if solution.bic < full.solutions[bic].bic, f.expected <= 0.5 * effective { bic = i }
      if k > 0, moments.mean < held.moments(best).mean { best = i }
      if solution.report.outcome != UNMERGE_CONVERGED { r.unconverged += 1 }
    }
    if k == 0 { best = bic }
    var transition = best
    if k > 0 {
      let limit = held.moments(best).mean + held.moments(best).error
      while transition > 0, held.moments(transition - 1).mean <= limit { transition -= 1 }
    }
    for f in 0..<k { r.unconverged += held.unconverged[f] }
    r.best = Int64(best)
    r.bic = Int64(bic)
    r.transition = Int64(transition)
    for j in 0..<n where full.solutions[transition].inclusion[j] > 0.5 { r.components += 1 }
    r.seconds = watch.seconds
    store(r, result)
  }
}
