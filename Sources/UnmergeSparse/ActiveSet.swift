import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Minimises a `Quadratic`: LASSO, elastic net, non-negative least squares and their mixtures.
///
///     repeat   on the face of v:  Newton with deletions         (`minimiseOnFace`)
///              everywhere:        g = ĉ − Ĝv − μv, who violates? (`enter`)
///              on support + violators: a few coordinate sweeps   (`sweep`)
///
/// A face fixes the signs of v and who is at a bound; on it F is quadratic and one Cholesky solve finds its minimum. If a
/// coefficient would pass 0 or a bound on the way there, v stops where it does, the atom leaves and the solve is repeated. Sweeps choose which atoms
/// enter. Every step lowers F and no face is left but for a lower F, so the loop is finite: a dozen sweeps and pivots on
/// well-conditioned atoms, up to three per atom at condition 1e6, where coordinate descent alone would not arrive.
///
/// Invariant: g = ĉ − Ĝv − μv − τ up to rounding after every step; the Cholesky factor is that of H = Ĝ + μ on a subset of the
/// support whose atoms are numerically independent. An atom that depends on them is moved along the null direction until a
/// coefficient vanishes: the support ends independent.
///
/// Only columns of Ĝ in the support or about to enter are read: on demand, they are asked for in batches.
///
/// References: Friedman, Hastie & Tibshirani 2010 (covariance updates); Lawson & Hanson 1974, ch. 23 (deletions); Kim & Park
/// 2011 (exchanging many atoms at once); Tibshirani 2013 (when the LASSO is unique).
final class ActiveSet {
  private(set) var problem: Quadratic
  let n: Int
  let v: UnsafeMutablePointer<Double>
  /// ĉ − Ĝv − μv − τ
  let g: UnsafeMutablePointer<Double>

  private var factor: Cholesky
  private var capacity: Int
  /// In the order of the factor: subgradients and the step they ask for; scratch elsewhere.
  private let rhs: UnsafeMutablePointer<Double>
  private let step: UnsafeMutablePointer<Double>
  /// Whether an atom is in the factor.
  private let factored: UnsafeMutablePointer<Bool>
  /// Signs of v after the last `minimiseOnFace`, doubled at a bound.
  private let signs: UnsafeMutablePointer<Int8>
  /// Atoms being swept, ascending.
  private let working: UnsafeMutablePointer<Int>
  private var workingCount = 0
  /// The nonzeros of v, ascending, as `findSupport` has found them.
  private let support: UnsafeMutablePointer<Int>
  private var supportCount = 0
  /// Ĝ and g on `working`, for `sweep`.
  private var block: Buffer<Double>?
  /// Decrease of F in this round, summed without cancellation.
  private var progress = 0.0
  private var iterations = 0

  // Own what the pointers above point to.
  private let numbers: Buffer<Double>
  private let marks: Buffer<Bool>
  private let directions: Buffer<Int8>
  private let indices: Buffer<Int>

  /// Sweeps between two visits to a face: enough for the signs to settle, too few to wait for convergence.
  private static let sweepsPerRound = 10
  /// A block of this many atoms fits a core's cache.
  private static let mostGathered = 256

  init(_ problem: Quadratic) throws(UnmergeError) {
    self.problem = problem
    n = problem.n
    numbers = try allocate(product(4, n, "the working memory"))
    v = numbers.pointer
    g = v + n
    rhs = g + n
    step = rhs + n
    marks = try allocate(n)
    factored = marks.pointer
    directions = try allocate(n)
    signs = directions.pointer
    indices = try allocate(product(2, n, "the working memory"))
    working = indices.pointer
    support = working + n
    let capacity = min(n, 64)
    self.capacity = capacity
    factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: capacity) }
    g.update(from: problem.c, count: n)
  }

  /// The next problem of a path, on the same Gram and target; v stays.
  func change(to next: Quadratic) {
    for j in 0..<n where next.mu[j] != problem.mu[j] {
      emptyFactor()
      break
    }
    problem = next
  }

  /// The same problem at another α.
  func change(alpha: Double, l1Ratio: Double, weights: Buffer<Double>?) {
    problem.penalise(alpha, l1Ratio: l1Ratio, weights: weights)
    if l1Ratio < 1 { emptyFactor() }
  }

  /// Runs from the current v to `tol`, at most `maxIterations` sweeps and pivots; 0 certifies v as it is. `continuing`: v and g are
  /// as the last run left them, and nothing in g has changed.
  func run(
    _ watch: Watch, tol: Double, maxIterations: Int, curvature: SharedCurvature? = nil, continuing: Bool = false
  ) throws(UnmergeError) -> Ending {
    iterations = 0
    if !continuing { for j in 0..<n { v[j] = problem.clamp(j, problem.lambda[j] == .infinity ? 0 : v[j]) } }
    signs.update(repeating: 3, count: n)
    findSupport()
    working.update(from: support, count: supportCount)
    workingCount = supportCount
    var isWarm = workingCount > 0
    var stop = try requireWorking(watch)
    if stop != nil, !problem.gram.isComplete { for j in 0..<n where !problem.gram.has(j) { v[j] = 0 } }
    var certificate: Certificate
    if continuing, isWarm, stop == nil, maxIterations > 0 {
      // The α that v was for is not this one: its support is solved for before anybody is asked who violates.
      stop = try minimiseOnFace(watch, maxIterations)
      _ = rememberFace()
      isWarm = false
      certificate = refresh()
    } else {
      certificate = continuing && stop == nil ? problem.certify(v, g) : refresh()
    }
    var idle = 0
    var atLimit = false
    var isPruned = false
    while stop == nil, idle < 5 {
      if !enter(certificate, tol: tol) {
        if isPruned || maxIterations == 0 || !prune(certificate) { break }
        isPruned = true
        isWarm = true
        certificate = refresh()
      }
      atLimit = iterations >= maxIterations
      if atLimit { break }
      progress = 0
      // A warm support is solved for at once; a cold one is for the sweeps to find.
      if !isWarm {
        stop = try requireWorking(watch)
        if stop == nil { stop = sweep(watch, maxIterations) }
      }
      isWarm = false
      var isNewFace = true
      if stop == nil, iterations < maxIterations {
        stop = try minimiseOnFace(watch, maxIterations)
        isNewFace = rememberFace()
      }
      certificate = refresh()
      // Below the resolution of F: rounding moves v about, and a face that returns will return for ever.
      if progress <= 1e-16 * max(certificate.objective, floor(problem.gram)) { idle += isNewFace ? 1 : 5 } else { idle = 0 }
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: problem.gram.passes, done: problem.target, total: problem.gram.targets,
        objective: certificate.objective, relativeGap: certificate.relativeGap)
      stop = stop ?? watch.poll()
    }
    if !(certificate.relativeGap <= tol), stop == nil {
      try problem.tighten(&certificate, v, g, tol: tol, curvature)
    }
    var end = Ending(iterations: iterations, certificate: certificate)
    if !isSatisfied(certificate, tol: tol) {
      end.outcome = stop?.outcome ?? (atLimit ? UNMERGE_ITERATION_LIMIT : UNMERGE_STALLED)
    }
    if certificate.isExplained(problem.gram) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    if stop == nil, maxIterations > 0, try isNotUnique(certificate) { end.flags |= UNMERGE_FLAG_RANK_DEFICIENT }
    return end
  }

  /// The relative gap where there is one, else the violation.
  private func isSatisfied(_ r: Certificate, tol: Double) -> Bool {
    r.relativeGap.isNaN ? r.violation <= tol : r.relativeGap <= tol
  }

  private func refresh() -> Certificate {
    problem.gradient(v, g)
    return problem.certify(v, g)
  }

  // MARK: who takes part

  private func work(on j: Int) {
    working[workingCount] = j
    workingCount += 1
  }

  private func findSupport() {
    let (v, support) = (self.v, self.support)
    var count = 0
    for j in 0..<n {
      support[count] = j
      count &+= v[j] != 0 ? 1 : 0
    }
    supportCount = count
  }

  /// Sets `working` to the support and the strongest violators among the candidates of `certificate`; false when nobody violates.
  ///
  /// We go on four digits past `tol`, down to the rounding of g: one more face costs little and the coefficients gain what
  /// the objective, being flat there, does not show. Where nothing but the sign keeps an atom out (λ = 0, v ≥ 0) half of
  /// the superfluous ones have g_j > 0 by rounding; those enter only above the Gram's entry error, and above 1e-10 when the
  /// residual is at its floor and all that is left is noise.
  private func enter(_ certificate: Certificate, tol: Double) -> Bool {
    // With an l1 norm small beside the fit, even that rounding shows in the gap; then we polish as long as it helps.
    let noise = gradientNoise(l1: certificate.l1) / (certificate.relativeGap > tol ? 16 : 1)
    let entryFloor = self.entryFloor(certificate)
    // A tilt is a price that keeps atoms out by itself, until the residual is noise.
    let hasFloor = problem.tilt == nil || certificate.isExplained(problem.gram)
    let problem = self.problem
    let (v, g, step, lambda, lower, upper) = (self.v, self.g, self.step, problem.lambda, problem.lower, problem.upper)
    let excess = rhs
    let candidates = UnsafeBufferPointer(start: problem.candidates, count: problem.candidateCount)
    var support = 0
    var violators = 0
    var isOptimal = true
    for (i, j) in candidates.enumerated() {
      let l = lambda[j]
      let violation = abs(problem.descent(j, v[j], g[j]))
      var threshold = max(noise, 1e-4 * tol * (l > 0 ? l : 1))
      if problem.isFree(j, v[j]) {
        support += 1
        if violation > threshold { isOptimal = false }
      } else {
        if l == 0, hasFloor, v[j] == lower[j] || v[j] == upper[j] { threshold = max(threshold, entryFloor) }
        if violation > threshold {
          isOptimal = false
          excess[violators] = violation
          violators += 1
        }
      }
      step[i] = violation > threshold ? violation : 0
    }
    if isOptimal { return false }
    // As many newcomers as there are members: superfluous ones are costly to delete, and on demand a column costs a share
    // of a pass.
    var batch = max(16, support)
    // Once a face has been solved, a crowd that still violates says the answer is dense: then all columns at once.
    if !problem.gram.isComplete, support > 0, violators > n / 4 * 3 { batch = violators }
    var cutoff = 0.0
    if violators > batch {
      cutoff = select(excess, violators, violators - batch)
    }
    workingCount = 0
    var newcomers = 0
    for (i, j) in candidates.enumerated() {
      if problem.isFree(j, v[j]) {
        work(on: j)
      } else if step[i] > 0, step[i] >= cutoff, newcomers < batch {
        newcomers += 1
        work(on: j)
      }
    }
    return true
  }

  private func entryFloor(_ r: Certificate) -> Double {
    if r.isExplained(problem.gram) { return correlationFloor(problem.gram, l2: r.l2) }
    // With a residual worth the name its correlations are too, whatever the Gram's entry error: down to tol they count.
    return min(2 * problem.gram.precision.entryError, 1e-11)
  }

  /// The same for atoms that came along in a batch and whom only rounding keeps positive: out with them, once. Who is needed
  /// after all violates and comes back.
  private func prune(_ certificate: Certificate) -> Bool {
    if problem.tilt != nil { return false }
    let level = 10 * entryFloor(certificate)
    var any = false
    for j in 0..<n where v[j] > 0 && v[j] <= level && problem.lambda[j] == 0 && problem.lower[j] == 0 {
      v[j] = 0
      any = true
    }
    return any
  }

  private func requireWorking(_ watch: Watch) throws(UnmergeError) -> Stop? {
    try require(problem.gram, UnsafeBufferPointer(start: working, count: workingCount), watch)
  }

  /// Records the signs of v; false when they are those of last time.
  private func rememberFace() -> Bool {
    let (v, signs, lower, upper) = (self.v, self.signs, problem.lower, problem.upper)
    var difference: Int8 = 0
    for j in 0..<n {
      let x = v[j]
      let sign: Int8 = (x > 0 ? 1 : 0) &- (x < 0 ? 1 : 0)
      let s = sign &* (x > lower[j] ? 1 : 2) &* (x < upper[j] ? 1 : 2)
      difference |= s ^ signs[j]
      signs[j] = s
    }
    return difference != 0
  }

  // MARK: sweeps

  /// Covariance coordinate descent over `working` until the support has stood for two sweeps, at most `sweepsPerRound`. Each
  /// coordinate goes to its minimum; g follows by one column of Ĝ.
  private func sweep(_ watch: Watch, _ maxIterations: Int) -> Stop? {
    let problem = self.problem
    let (v, g, lambda, mu) = (self.v, self.g, problem.lambda, problem.mu)
    let count = workingCount
    let local = gather()
    defer { if let local { for k in 0..<count { g[working[k]] = local.g[k] } } }
    var quiet = 0
    for _ in 0..<Self.sweepsPerRound where iterations < maxIterations && quiet < 2 {
      iterations += 1
      var moved = false
      var turned = false
      for k in 0..<workingCount {
        let j = working[k]
        let x = v[j]
        let h = 1 + mu[j]
        let z = (local?.g[k] ?? g[j]) + h * x
        let l = lambda[j]
        let new = problem.clamp(j, z > l ? (z - l) / h : z < -l ? (z + l) / h : 0)
        let delta = new - x
        if delta == 0 { continue }
        moved = true
        turned = turned || problem.isFree(j, new) != problem.isFree(j, x)
        if let local {
          v[j] = new
          Vector.axpy(count, -delta, local.columns + k * count, local.g)
          local.g[k] -= mu[j] * delta
        } else {
          move(j, to: new)
        }
        // To its minimum from x: ½ h δ², more when the way is cut short by a bound.
        progress += 0.5 * h * delta * delta
        if n > 2000, k & 63 == 0, let stop = watch.poll() { return stop }
      }
      quiet = turned ? 0 : quiet + 1
      if let stop = watch.poll() { return stop }
      if !moved { break }
    }
    return nil
  }

  // MARK: faces

  /// Goes to the minimum of F on the face of v, deleting what reaches 0 or a bound on the way.
  private func minimiseOnFace(_ watch: Watch, _ maxIterations: Int) throws(UnmergeError) -> Stop? {
    try factorSupport()
    var order = factor.order
    for (i, j) in order.enumerated() { rhs[i] = problem.descent(j, v[j], g[j]) }
    while !order.isEmpty {
      iterations += 1
      let k = order.count
      step.update(from: rhs, count: k)
      factor.solve(step)
      var t = 1.0
      var isBlocked = false
      for i in 0..<k {
        let x = v[order[i]]
        let d = step[i]
        let kink = problem.kink(order[i], x, towards: d)
        guard d > 0 ? x + d >= kink : x + d <= kink, d != 0 else { continue }
        isBlocked = true
        t = min(t, (kink - x) / d)
      }
      progress += t * (1 - 0.5 * t) * Vector.dot(k, rhs, step)
      // The gradient on the face shrinks by 1 − t: no need to recompute it between deletions.
      var kept = 0
      for i in 0..<k {
        let j = order[i]
        let x = v[j]
        let new = x + t * step[i]
        if isBlocked, let kink = reached(j, from: x, new, step[i]) {
          v[j] = kink
        } else {
          v[j] = new
          rhs[kept] = (1 - t) * rhs[i]
          kept += 1
        }
      }
      if !isBlocked { break }
      for i in stride(from: k - 1, through: 0, by: -1) where !problem.isFree(order[i], v[order[i]]) { drop(at: i) }
      order = factor.order
      if let stop = watch.poll() { return stop }
      if iterations >= maxIterations { break }
    }
    return nil
  }

  /// Ĝ and g on `working`, where it is a small part of all atoms: the sweeps then leave the rest of g to the next `refresh`.
  private func gather() -> (columns: UnsafeMutablePointer<Double>, g: UnsafeMutablePointer<Double>)? {
    let count = workingCount
    guard count <= Self.mostGathered, 4 * count <= n else { return nil }
    if block.map({ $0.count < count * (count + 1) }) ?? true {
      let room = min(max(2 * count, 16), Self.mostGathered)
      block = try? Buffer(room * (room + 1))
    }
    guard let columns = block?.pointer else { return nil }
    let local = columns + count * count
    for k in 0..<count {
      let column = problem.gram.column(working[k])
      for i in 0...k {
        let x = column[working[i]]
        columns[k * count + i] = x
        columns[i * count + k] = x
      }
      local[k] = g[working[k]]
    }
    return (columns, local)
  }

  /// v_j ← x, g following.
  @inline(__always)
  private func move(_ j: Int, to x: Double) {
    let delta = v[j] - x
    if delta == 0 { return }
    v[j] = x
    Vector.axpy(n, delta, problem.gram.column(j), g)
    g[j] += problem.mu[j] * delta
  }

  /// The kink that a step by some multiple of d took v_j to, from x to `new`: exactly, beyond, or but for rounding.
  @inline(__always)
  private func reached(_ j: Int, from x: Double, _ new: Double, _ d: Double) -> Double? {
    let kink = problem.kink(j, x, towards: d)
    let slack = 4 * roundoff * max(abs(x), abs(kink))
    return (d > 0 ? new >= kink - slack : new <= kink + slack) && d != 0 && kink.isFinite ? kink : nil
  }

  private func drop(at i: Int) {
    factored[factor.order[i]] = false
    factor.remove(at: i)
  }

  private func emptyFactor() {
    factor.removeAll()
    factored.update(repeating: false, count: n)
  }

  /// The atoms of the face of v, in the order of its factor.
  func face() throws(UnmergeError) -> [Int] {
    try factorSupport()
    return factor.order
  }

  /// x ← H_FF⁻¹ x for x in the order of `face`.
  func solveOnFace(_ x: UnsafeMutablePointer<Double>) { factor.solve(x) }

  /// Governed by the quadratic alone; excluded atoms are not, wherever their bounds keep them.
  @inline(__always)
  private func isFactorable(_ j: Int) -> Bool { problem.isFree(j, v[j]) && problem.lambda[j] < .infinity }

  /// Makes `factor` that of the support: leavers by rotations, newcomers appended, dependent ones moved until they fit.
  private func factorSupport(moving: Bool = true) throws(UnmergeError) {
    findSupport()
    let support = UnsafeBufferPointer(start: self.support, count: supportCount)
    let size = support.reduce(0) { $0 + (isFactorable($1) ? 1 : 0) }
    if size > capacity {
      capacity = min(n, 2 * size)
      factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: capacity) }
      factored.update(repeating: false, count: n)
    }
    let leavers = factor.order.reduce(0) { $0 + (isFactorable($1) ? 0 : 1) }
    if 4 * leavers > factor.count {
      emptyFactor()
    } else if leavers > 0 {
      for i in stride(from: factor.count - 1, through: 0, by: -1) where !isFactorable(factor.order[i]) { drop(at: i) }
    }
    for j in support where isFactorable(j) && !factored[j] {
      while isFactorable(j) {
        if factor.append(j, column: problem.gram.column(j), diagonal: 1 + problem.mu[j]) {
          factored[j] = true
          break
        }
        if !moving || !moveAlongNull(j) { break }
      }
    }
  }

  /// Atom j depends on those in the factor: with x = H_AA⁻¹ H_Aj, F is (nearly) linear along d = (−x, 1). Moves downhill
  /// until a coefficient is 0 or at a bound and leaves. False when the minimum comes first: then j stays, unfactored, and only
  /// sweeps move it.
  private func moveAlongNull(_ j: Int) -> Bool {
    let order = factor.order
    let k = order.count
    let column = problem.gram.column(j)
    for i in 0..<k { step[i] = column[order[i]] }
    factor.solve(step)
    var curvature = 1 + problem.mu[j]
    var slope = problem.descent(j, v[j], g[j])
    var size = 1.0
    for i in 0..<k {
      curvature -= step[i] * column[order[i]]
      slope -= step[i] * problem.descent(order[i], v[order[i]], g[order[i]])
      size += abs(step[i])
    }
    let isLevel = abs(slope) <= 64 * roundoff * size
    // On level ground the newcomer goes.
    let direction = isLevel ? (v[j] > 0 ? -1.0 : 1.0) : (slope > 0 ? 1.0 : -1.0)
    var t = (problem.kink(j, v[j], towards: direction) - v[j]) / direction
    for i in 0..<k {
      let x = v[order[i]]
      let d = -direction * step[i]
      if d != 0 { t = min(t, (problem.kink(order[i], x, towards: d) - x) / d) }
    }
    var reachesKink = true
    if !isLevel, curvature > 64 * roundoff * size, abs(slope) / curvature < t {
      t = abs(slope) / curvature
      reachesKink = false
    }
    let isEndless = t == .infinity
    if isEndless { t = -v[j] * direction }
    progress += max(0, t * abs(slope) - 0.5 * t * t * max(0, curvature))
    for i in 0...k {
      let a = i < k ? order[i] : j
      let x = v[a]
      let d = direction * (i < k ? -step[i] : 1)
      let new = x + t * d
      move(a, to: i == k && isEndless ? 0 : reachesKink ? reached(a, from: x, new, d) ?? new : new)
    }
    for i in stride(from: k - 1, through: 0, by: -1) where !isFactorable(order[i]) { drop(at: i) }
    return reachesKink
  }

  /// The trace of d(Aw)/dy on the face of v: tr Ĝ_AA (Ĝ_AA + μ)⁻¹ = rank − Σ μ_j (H⁻¹)_jj over the atoms A that are neither at
  /// 0 nor at a bound (Zou, Hastie & Tibshirani 2007; Tibshirani & Taylor 2012). NaN where nothing but chance holds an atom
  /// at 0.
  func degreesOfFreedom() throws(UnmergeError) -> Double {
    var isUnshrunk = true
    let (v, lambda, mu) = (self.v, problem.lambda, problem.mu)
    for j in 0..<n where (v[j] != 0 || lambda[j] == 0) && lambda[j] < .infinity {
      if v[j] == 0, problem.lower[j] < 0, problem.upper[j] > 0 { return .nan }
      if v[j] != 0, mu[j] > 0 { isUnshrunk = false }
    }
    try factorSupport(moving: false)
    let order = factor.order
    if isUnshrunk { return Double(order.count) }
    for (i, j) in order.enumerated() { rhs[i] = problem.mu[j] }
    let shrunk = try allocating { () throws(OutOfMemory) in try factor.weightedTraceOfInverse(rhs) }
    return max(0, Double(order.count) - shrunk)
  }

  /// Whether the atoms with the largest admissible correlation, support or not, are dependent: then the fit is unique and
  /// the coefficients need not be. Told atom by atom against the factor of the support.
  private func isNotUnique(_ certificate: Certificate) throws(UnmergeError) -> Bool {
    let gram = problem.gram
    if gram.isComplete, gram.condition < 1e11 { return false }
    var size = 0
    for j in 0..<n where isFactorable(j) {
      size += 1
      if !factored[j] { return true }
    }
    let order = factor.order
    guard size > 0, order.count == size, order.allSatisfy({ isFactorable($0) }) else { return false }
    let slack = correlationFloor(gram, l2: certificate.l2)
    var tried = 0
    for j in 0..<n where !isFactorable(j) && gram.norms[j] > 0 && problem.lambda[j] < .infinity && tried < 64 {
      let l = problem.lambda[j]
      let (up, down) = (v[j] >= 0 ? g[j] - l : g[j] + l, v[j] <= 0 ? -g[j] - l : l - g[j])
      let pull = max(v[j] < problem.upper[j] ? up : -.infinity, v[j] > problem.lower[j] ? down : -.infinity)
      guard pull >= -1e-9 * l - slack else { continue }
      tried += 1
      if try isDependent(j) { return true }
    }
    return false
  }

  /// Whether atom j depends on those in the factor; by the symmetry of Ĝ their columns tell.
  func isDependent(_ j: Int) throws(UnmergeError) -> Bool {
    if factor.count == capacity {
      if capacity == n { return false }
      capacity = min(n, 2 * capacity)
      factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: capacity) }
      factored.update(repeating: false, count: n)
      try factorSupport()
    }
    for a in factor.order { rhs[a] = problem.gram.column(a)[j] }
    if !factor.append(j, column: rhs, diagonal: 1 + problem.mu[j]) { return true }
    factor.remove(at: factor.count - 1)
    return false
  }
}

/// The number that sorting would put at position k; x is reordered. Hoare's quickselect.
private func select(_ x: UnsafeMutablePointer<Double>, _ count: Int, _ k: Int) -> Double {
  var (low, high) = (0, count - 1)
  while low < high {
    let pivot = x[(low + high) / 2]
    var (i, j) = (low, high)
    while i <= j {
      while x[i] < pivot { i += 1 }
      while x[j] > pivot { j -= 1 }
      if i <= j {
        (x[i], x[j]) = (x[j], x[i])
        i += 1
        j -= 1
      }
    }
    if k > j, k < i { break }
    if k <= j { high = j } else { low = i }
  }
  return x[k]
}

/// Makes columns of Ĝ known. A run that ends during the pass is not an error: the method answers with what it has.
func require(_ gram: Gram, _ columns: UnsafeBufferPointer<Int>, _ watch: Watch) throws(UnmergeError) -> Stop? {
  if gram.isComplete { return nil }
  do {
    try gram.require(Array(columns), watch)
    return nil
  } catch {
    if error.status == UNMERGE_E_CANCELLED || error.status == UNMERGE_E_DEADLINE, let stop = watch.poll() { return stop }
    throw error
  }
}
