import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Thresholding methods for
//
//     minimise  ½‖Aw − y‖²  subject to at most k atoms (or groups) with w ≠ 0, optionally w ≥ 0
//
// H_k keeps the k largest |v_j|, v_j = w_j d_j / ‖y‖; g = ĉ − Ĝv, S the support of v, D = v⁺ − v.
//
//     IHT     v⁺ = H_k(v + μg), μ = 1/λ_max(Ĝ)
//     NIHT    μ = ‖g_S‖² / g_SᵀĜ_SS g_S; where S changes, halved until μ ≤ (1 − c)‖D‖²/DᵀĜD, c = 0.01
//     AIHT    NIHT, then z = v⁺ + α₁(v⁺ − v), z' = z + α₂(z − v⁻), α minimising ‖r‖ along the line; H_k of z' kept if ‖r‖ falls
//     HTP     S⁺ = support of H_k(v + μg), v⁺ least squares on it; μ = ‖g_T‖² / g_TᵀĜ_TT g_T with T = the k largest |g_j|: on S g
//             is 0 and NIHT's μ is not defined
//     CoSaMP  b = least squares on S ∪ the 2k largest |g_j|; v⁺ = least squares on the support of H_k(b)
//     SP      the same with k, from S = the k largest |ĉ_j|
//
// A step is accepted only if ‖r‖ falls, so no support comes twice and the last iterate is the best. HTP ends where S⁺ = S, which
// says min_S |v_j| ≥ μ max |g_j| outside; when ‖r‖ would rise, μ is halved first. While S stays, IHT and its kind converge
// linearly to least squares on S: once S has settled that is tried, and taken when it is a fixed point of the iteration.
//
// References: Blumensath & Davies 2009, 2010; Qiu & Dogandzic 2012; Foucart 2011; Needell & Tropp 2009; Dai & Milenkovic 2009.

struct Thresholding: Sendable {
  enum Kind { case htp, iht, niht, aiht, cosamp, subspace }

  let kind: Kind
  let units: Units
  let k: Int
  let step: Double
  let positive: Bool

  func answer(_ gram: Gram, _ start: Buffer<Double>?, _ watch: Watch) throws(UnmergeError) -> Answers {
    let answers = try Answers(gram.atoms, gram.targets)
    let step = kind == .iht && step == 0 && watch.maxIterations > 0 ? try 1 / largestEigenvalue(gram, watch) : step
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      guard gram.targetNorms[t] > 0 else {
        return answers.set(t, gram, target: t, nil, emptyEnding(), watch)
      }
      let state = try ThresholdState(self, gram, target: t, watch)
      if let start { scaleWarmStart(start.pointer + t * gram.atoms, state.fit.problem, state.v) }
      let end = try state.run(start != nil, step)
      answers.set(t, gram, target: t, state.v, end, watch)
    }
    return answers
  }

  /// λ_max(Ĝ) by the power method from below, to a few per cent; a step that is too long is halved by whoever takes it.
  private func largestEigenvalue(_ gram: Gram, _ watch: Watch) throws(UnmergeError) -> Double {
    let n = gram.atoms
    let all: Buffer<Int> = try allocate(n)
    for j in 0..<n { all[j] = j }
    // A run that ends here ends every target.
    guard n > 0, try require(gram, UnsafeBufferPointer(start: all.pointer, count: n), watch) == nil else { return 1 }
    let x: Buffer<Double> = try allocate(n)
    let z: Buffer<Double> = try allocate(n)
    for j in 0..<n { x[j] = 0.5 + CounterRandom.uniform(1, 2, j) }
    var value = 1.0
    Threads.withSingleThreadedBLAS {
      for _ in 0..<12 {
        z.zero()
        for j in 0..<n { Vector.axpy(n, x[j], gram.column(j), z.pointer) }
        let (xx, zz) = (Vector.dot(n, x.pointer, x.pointer), Vector.dot(n, z.pointer, z.pointer))
        guard zz > 0, xx > 0 else { break }
        value = max(value, (zz / xx).squareRoot())
        for j in 0..<n { x[j] = z[j] / zz.squareRoot() }
      }
    }
    return value
  }
}

/// One target's iteration.
private final class ThresholdState {
  let method: Thresholding
  let gram: Gram
  let watch: Watch
  let n: Int
  let fit: SupportFit
  /// The best iterate, its gradient and its support (units, ascending; atoms).
  let v: UnsafeMutablePointer<Double>
  let g: UnsafeMutablePointer<Double>
  private var rss = 1.0
  private var support: [Int] = []
  private var iterations = 0
  private var outcome = UNMERGE_CONVERGED
  private var isDeficient = false

  private let numbers: Buffer<Double>
  private let next: UnsafeMutablePointer<Double>
  private let nextGradient: UnsafeMutablePointer<Double>
  private let earlier: UnsafeMutablePointer<Double>
  private let earlierGradient: UnsafeMutablePointer<Double>
  private let trial: UnsafeMutablePointer<Double>
  private let score: UnsafeMutablePointer<Double>
  private let indices: Buffer<Int>
  private let index: UnsafeMutablePointer<Int>
  private let atoms: UnsafeMutablePointer<Int>
  private let isKept: Buffer<Bool>

  init(_ method: Thresholding, _ gram: Gram, target: Int, _ watch: Watch) throws(UnmergeError) {
    self.method = method
    self.gram = gram
    self.watch = watch
    n = gram.atoms
    let units = method.units
    let most = min(method.k, max(units.count, 1))
    let perSupport = method.kind == .cosamp ? 3 : method.kind == .subspace ? 2 : 1
    let wanted = most.multipliedReportingOverflow(by: perSupport * max(units.largest, 1))
    fit = try SupportFit(
      gram, target: target, capacity: wanted.overflow ? n : min(n, wanted.partialValue), positive: method.positive)
    numbers = try allocate(product(7, n, "the working memory") + units.count)
    v = numbers.pointer
    g = v + n
    next = g + n
    nextGradient = next + n
    earlier = nextGradient + n
    earlierGradient = earlier + n
    trial = earlierGradient + n
    score = trial + n
    indices = try allocate(units.count + n)
    index = indices.pointer
    atoms = index + units.count
    isKept = try allocate(units.count)
    g.update(from: gram.correlation(target), count: n)
  }

  private var k: Int { min(method.k, method.units.count) }

  func run(_ isWarm: Bool, _ step: Double) throws(UnmergeError) -> Ending {
    var isReady = true
    if isWarm {
      for j in 0..<n where gram.norms[j] == 0 || (method.positive && v[j] < 0) { v[j] = 0 }
      support = largest(v)
      trial.update(from: v, count: n)
      keep(support, of: trial, v)
      isReady = try fetch(support)
      if isReady {
        fit.problem.gradient(v, g)
        rss = residual(v, g)
        // Worse than nothing is no start.
        if rss > 1, watch.maxIterations > 0 {
          v.update(repeating: 0, count: n)
          fit.problem.gradient(v, g)
          rss = 1
          support = []
        }
      } else {
        v.update(repeating: 0, count: n)
        support = []
      }
    }
    if isReady, watch.maxIterations > 0 {
      switch method.kind {
      case .iht, .niht, .aiht: try descend(step)
      case .htp: try pursue(step)
      case .cosamp, .subspace: try expand()
      }
      try debias()
    } else if isReady {
      outcome = UNMERGE_ITERATION_LIMIT
    }
    return ending()
  }

  // MARK: supports

  /// The k units with the largest ‖x‖ (the positive part of it), those with 0 left out; ascending.
  private func largest(_ x: UnsafePointer<Double>, _ count: Int? = nil, without excluded: [Int] = []) -> [Int] {
    let units = method.units
    units.score(x, positive: method.positive, score)
    for i in excluded { score[i] = 0 }
    let k = min(count ?? self.k, units.count)
    selectLargest(k, score, index, count: units.count)
    var found: [Int] = []
    found.reserveCapacity(k)
    for i in 0..<k where score[index[i]] > 0 { found.append(index[i]) }
    found.sort()
    return found
  }

  /// z ← x on the units, 0 elsewhere.
  private func keep(_ support: [Int], of x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    z.update(repeating: 0, count: n)
    for i in support {
      for m in 0..<method.units.size(i) {
        let j = method.units.atom(i, m)
        z[j] = method.positive ? max(x[j], 0) : x[j]
      }
    }
  }

  /// The atoms of the units in `atoms`; zero atoms left out.
  private func expandAtoms(_ support: [Int]) -> Int {
    var count = 0
    for i in support {
      for m in 0..<method.units.size(i) {
        let j = method.units.atom(i, m)
        if gram.norms[j] > 0 {
          atoms[count] = j
          count += 1
        }
      }
    }
    return count
  }

  /// Makes the columns of the units known; false when the run ended instead.
  private func fetch(_ support: [Int]) throws(UnmergeError) -> Bool {
    if let stop = watch.poll() {
      outcome = stop.outcome
      return false
    }
    guard !gram.isComplete else { return true }
    let count = expandAtoms(support)
    if let stop = try require(gram, UnsafeBufferPointer(start: atoms, count: count), watch) {
      outcome = stop.outcome
      return false
    }
    return true
  }

  private func residual(_ x: UnsafePointer<Double>, _ gradient: UnsafePointer<Double>) -> Double {
    var sum = 1.0
    for j in 0..<n where x[j] != 0 { sum -= x[j] * (fit.problem.c[j] + gradient[j]) }
    return max(sum, 0)
  }

  private func refit(_ support: [Int], refine: Bool = false) throws(UnmergeError) {
    let count = expandAtoms(support)
    try fit.fit(atoms, count, refine: refine, watch)
  }

  /// Lower by more than rounding.
  private func improves(_ new: Double, noise: Double) -> Bool { new < rss * (1 - 1e-12) - noise }

  private func accept(_ x: UnsafePointer<Double>, _ gradient: UnsafePointer<Double>, _ support: [Int], _ rss: Double) {
    v.update(from: x, count: n)
    g.update(from: gradient, count: n)
    self.support = support
    self.rss = rss
  }

  private var isExplained: Bool {
    var l2 = 0.0
    for j in 0..<n { l2 += v[j] * v[j] }
    return gram.precision == .exact && rss <= floor(gram) * (1 + l2)
  }

  /// Whether the iteration goes on; counts it.
  private func advance() -> Bool {
    if isExplained { return false }
    if let stop = watch.poll() {
      outcome = stop.outcome
      return false
    }
    if iterations >= watch.maxIterations {
      outcome = UNMERGE_ITERATION_LIMIT
      return false
    }
    iterations += 1
    watch.report(
      phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: fit.problem.target, total: gram.targets, objective: 0.5 * rss)
    return true
  }

  /// ‖x_S‖² / x_SᵀĜx_S: the exact step along x_S; 0 where that is no direction.
  private func exactStep(_ x: UnsafePointer<Double>, _ support: [Int]) -> Double {
    let count = expandAtoms(support)
    var (square, curvature) = (0.0, 0.0)
    for a in 0..<count {
      let i = atoms[a]
      let xi = method.positive && v[i] == 0 ? max(x[i], 0) : x[i]
      if xi == 0 { continue }
      square += xi * xi
      let column = gram.column(i)
      var sum = 0.0
      for b in 0..<count {
        let j = atoms[b]
        sum += column[j] * (method.positive && v[j] == 0 ? max(x[j], 0) : x[j])
      }
      curvature += xi * sum
    }
    return square > 0 && curvature > 1e-14 * square ? square / curvature : 0
  }

  // MARK: gradient steps

  private func descend(_ fixed: Double) throws(UnmergeError) {
    var fixed = fixed
    if support.isEmpty { support = largest(g) }
    guard try fetch(support) else {
      support = []
      return
    }
    var settled = 0
    var wait = 4
    while advance() {
      var mu = fixed
      if method.kind != .iht {
        mu = exactStep(g, support)
        if mu == 0 {
          let pull = largest(g, without: support)
          guard try fetch(pull) else { return }
          mu = exactStep(g, pull)
        }
        if mu == 0 { return }
      }
      var found: [Int] = []
      var new = rss
      var isAccepted = false
      for _ in 0..<60 {
        for j in 0..<n { trial[j] = v[j] + mu * g[j] }
        found = largest(trial)
        keep(found, of: trial, next)
        guard try fetch(found) else { return }
        fit.problem.gradient(next, nextGradient)
        var (square, curvature) = (0.0, 0.0)
        for j in 0..<n where next[j] != v[j] {
          let d = next[j] - v[j]
          square += d * d
          curvature += d * (g[j] - nextGradient[j])
        }
        // Nothing moves: a fixed point.
        if square <= 1e-24 * max(1, norm(v)) { return }
        new = residual(next, nextGradient)
        isAccepted = method.kind == .iht ? new < rss : found == support || mu * curvature <= 0.99 * square
        if isAccepted { break }
        mu /= 2
        if method.kind == .iht { fixed = mu }
      }
      guard isAccepted, new < rss else { return }
      if method.kind == .aiht { new = try relax(new, &found) }
      earlier.update(from: v, count: n)
      earlierGradient.update(from: g, count: n)
      settled = found == support ? settled + 1 : 0
      if settled == 0 { wait = 4 }
      accept(next, nextGradient, found, new)
      if settled >= wait {
        wait *= 2
        if try isAtLimit(mu) { return }
      }
    }
  }

  private func norm(_ x: UnsafePointer<Double>) -> Double { Vector.dot(n, x, x) }

  /// Two over-relaxations of `next`; the new ‖r‖².
  private func relax(_ rss: Double, _ support: inout [Int]) throws(UnmergeError) -> Double {
    // z = next + a (next − v), with ĉ − Ĝz in step.
    var (slope, curvature) = (0.0, 0.0)
    for j in 0..<n {
      let d = next[j] - v[j]
      slope += d * nextGradient[j]
      curvature += d * (g[j] - nextGradient[j])
    }
    guard curvature > 0 else { return rss }
    let first = slope / curvature
    (slope, curvature) = (0, 0)
    for j in 0..<n {
      let z = next[j] + first * (next[j] - v[j])
      let gradient = nextGradient[j] + first * (nextGradient[j] - g[j])
      trial[j] = z
      slope += (z - earlier[j]) * gradient
      curvature += (z - earlier[j]) * (earlierGradient[j] - gradient)
    }
    if iterations > 1, curvature > 0 {
      let second = slope / curvature
      for j in 0..<n { trial[j] += second * (trial[j] - earlier[j]) }
    }
    let found = largest(trial)
    guard try fetch(found) else { return rss }
    // The room of the last but one is free once the line has been searched.
    keep(found, of: trial, earlier)
    fit.problem.gradient(earlier, earlierGradient)
    let relaxed = residual(earlier, earlierGradient)
    guard relaxed < rss else { return rss }
    next.update(from: earlier, count: n)
    nextGradient.update(from: earlierGradient, count: n)
    support = found
    return relaxed
  }

  /// Goes to least squares on the support, the limit of the iteration while that stays, when it is a fixed point.
  private func isAtLimit(_ mu: Double) throws(UnmergeError) -> Bool {
    try refit(support)
    let limit = fit.rss
    guard limit <= rss + fit.noise else { return false }
    method.units.score(fit.v, positive: method.positive, score)
    var smallest = support.count < k ? 0 : Double.infinity
    for i in support {
      smallest = min(smallest, score[i])
      isKept[i] = true
    }
    method.units.score(fit.g, positive: method.positive, score)
    var pull = 0.0
    for i in 0..<method.units.count where !isKept[i] { pull = max(pull, score[i]) }
    for i in support { isKept[i] = false }
    guard smallest >= mu * pull else { return false }
    accept(fit.v, fit.g, support, limit)
    return true
  }

  // MARK: hard thresholding pursuit

  private func pursue(_ fixed: Double) throws(UnmergeError) {
    if !support.isEmpty {
      try refit(support)
      if fit.rss <= rss { accept(fit.v, fit.g, support, fit.rss) }
    }
    while advance() {
      var mu = fixed
      if mu == 0 {
        let pull = largest(g, without: support)
        guard try fetch(pull) else { return }
        mu = exactStep(g, pull)
      }
      if mu == 0 { return }
      var isAccepted = false
      for _ in 0..<60 {
        for j in 0..<n { trial[j] = v[j] + mu * g[j] }
        let found = largest(trial)
        if found == support || found.isEmpty { return }
        guard try fetch(found) else { return }
        try refit(found)
        let new = fit.rss
        if improves(new, noise: fit.noise) {
          accept(fit.v, fit.g, found, new)
          isAccepted = true
          break
        }
        mu /= 2
      }
      if !isAccepted { return }
    }
  }

  // MARK: CoSaMP and subspace pursuit

  private func expand() throws(UnmergeError) {
    let added = method.kind == .cosamp ? 2 * k : k
    if support.isEmpty, method.kind == .subspace { support = largest(g) }
    if !support.isEmpty {
      guard try fetch(support) else {
        support = []
        return
      }
      try refit(support)
      if fit.rss <= rss { accept(fit.v, fit.g, support, fit.rss) }
    }
    while advance() {
      let pull = largest(g, added, without: support)
      if pull.isEmpty { return }
      let union = (support + pull).sorted()
      guard try fetch(union) else { return }
      try refit(union)
      let found = largest(fit.v)
      if found == support { return }
      try refit(found)
      let new = fit.rss
      guard improves(new, noise: fit.noise) else { return }
      accept(fit.v, fit.g, found, new)
    }
  }

  // MARK: the end

  private func debias() throws(UnmergeError) {
    try refit(support, refine: true)
    isDeficient = fit.isDeficient
    accept(fit.v, fit.g, support, fit.rss)
  }

  private func ending() -> Ending {
    let count = expandAtoms(support)
    fit.v.update(from: v, count: n)
    fit.g.update(from: g, count: n)
    var end = Ending(outcome: outcome, iterations: iterations)
    end.certificate = fit.certificate(atoms, count)
    if outcome == UNMERGE_CONVERGED, end.certificate.violation > watch.tol { end.outcome = UNMERGE_STALLED }
    if end.certificate.isExplained(gram) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    if isDeficient { end.flags |= UNMERGE_FLAG_RANK_DEFICIENT }
    if method.k > method.units.usable { end.flags |= UNMERGE_FLAG_CLIPPED }
    return end
  }
}

// MARK: the door

extension unmerge_thresholding_options: Growable {
  package static var defaults: unmerge_thresholding_options {
    var o = unmerge_thresholding_options()
    o.struct_size = MemoryLayout<unmerge_thresholding_options>.size
    o.k = 10
    return o
  }
}

@_cdecl("unmerge_thresholding_options_init") @implementation
public func unmerge_thresholding_options_init(
  _ options: UnsafeMutablePointer<unmerge_thresholding_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_thresholding") @implementation
public func unmerge_thresholding(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_thresholding_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.k, "options->k", 1...Int64.max, ">= 1")
    try check(o.step, "options->step", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try check(Int64(o.kind), "options->kind", 0...5, "UNMERGE_THRESHOLDING_HTP, _IHT, _NIHT, _AIHT, _COSAMP or _SUBSPACE")
    try checkFlag(o.positive, "options->positive")
    try checkFlag(o.warm_start, "options->warm_start")
    try checkReserved(o.reserved, "options->reserved")
    let kinds: [Thresholding.Kind] = [.htp, .iht, .niht, .aiht, .cosamp, .subspace]
    let kind = kinds[Int(o.kind)]
    guard o.step == 0 || kind == .htp || kind == .iht else {
      throw .range("options->step is \(o.step); it must be 0 but for UNMERGE_THRESHOLDING_HTP and _IHT")
    }
    let units = try Units.read(gram, o.offsets, o.members, o.n_groups, disjoint: true)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let start = o.warm_start == 1 ? try readWarmStart(output, gram) : nil
    let method = Thresholding(
      kind: kind, units: units, k: Int(min(o.k, Int64(Int.max / 64))), step: min(o.step, 1e100), positive: o.positive == 1)
    try method.answer(gram, start, watch).deliver(output, reports)
  }
}
