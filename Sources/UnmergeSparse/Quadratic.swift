import UnmergeCore
import UnmergeLinalg

/// The problem every method of this room is a case of, for one target and free of scales:
///
///     minimise  F(v) = ½ − ĉᵀv + ½ vᵀĜv + τᵀv + Σ λ_j |v_j| + ½ Σ μ_j v_j²,   ℓ_j ≤ v_j ≤ u_j
///
/// with v_j = w_j d_j / ‖y‖, λ_j = α l1_ratio π_j / (d_j ‖y‖), μ_j = α (1 − l1_ratio) π_j / d_j², bounds scaled as v and a tilt
/// τ that is 0 but where a multiplier moves the problem. The objective of the header is ‖y‖² F. Gradients are correlations,
/// so one tolerance serves data of any magnitude. For y = 0, which only bounds make a problem, their size stands for ‖y‖ and
/// the constant ½ is not there.
///
/// λ_j = ∞ excludes atom j: zero atoms, atoms whose penalty overflows, atoms a greedy method has not selected. It stays at 0,
/// or at the bound nearest to it.
final class Quadratic: @unchecked Sendable {
  let gram: Gram
  let target: Int
  let n: Int
  /// ĉ
  let c: UnsafePointer<Double>
  let lambda: UnsafeMutablePointer<Double>
  let mu: UnsafeMutablePointer<Double>
  /// ℓ and u; infinite where there is none.
  let lower: UnsafeMutablePointer<Double>
  let upper: UnsafeMutablePointer<Double>
  /// τ, nil for 0.
  var tilt: Buffer<Double>?
  /// ℓ and u as the caller gave them.
  let bounds: Bounds
  /// What v is in units of: ‖y‖, or for y = 0 what the bounds keep away from 0.
  let unit: Double
  /// The atoms the last `certify` had to look at, ascending; see `screen`.
  let candidates: UnsafeMutablePointer<Int>
  var candidateCount = 0
  /// Own λ, μ, ℓ and u, and the candidates: loops index plain pointers.
  private let memory: Buffer<Double>
  private let indices: Buffer<Int>

  init(
    _ gram: Gram, target: Int, alpha: Double, l1Ratio: Double, weights: Buffer<Double>?,
    bounds: Bounds = .none
  ) throws(UnmergeError) {
    self.gram = gram
    self.target = target
    n = gram.atoms
    c = gram.correlation(target)
    memory = try allocate(product(4, n, "the penalty"))
    lambda = memory.pointer
    mu = lambda + n
    lower = mu + n
    upper = lower + n
    indices = try allocate(n)
    candidates = indices.pointer
    self.bounds = bounds
    var yNorm = gram.targetNorms[target]
    if yNorm == 0 { for j in 0..<n { yNorm = max(yNorm, abs(bounds.nearestToZero(j)) * gram.norms[j]) } }
    if !(yNorm > 0 && yNorm < .infinity) { yNorm = 1 }
    unit = yNorm
    penalise(alpha, l1Ratio: l1Ratio, weights: weights)
    lower.update(repeating: -.infinity, count: n)
    upper.update(repeating: .infinity, count: n)
    guard !bounds.isEmpty else { return }
    let norms = gram.norms.pointer
    for j in 0..<n {
      let d = norms[j]
      (lower[j], upper[j]) = (bounds.lower(j), bounds.upper(j))
      // A bound of 0 or infinity is one whatever the scale.
      if lower[j].isFinite, lower[j] != 0 { lower[j] = d > 0 ? lower[j] * (d / yNorm) : 0 }
      if upper[j].isFinite, upper[j] != 0 { upper[j] = d > 0 ? upper[j] * (d / yNorm) : 0 }
    }
  }

  /// Sets λ and μ.
  func penalise(_ alpha: Double, l1Ratio: Double, weights: Buffer<Double>?) {
    let (lambda, mu, norms, weights) = (self.lambda, self.mu, gram.norms.pointer, weights?.pointer)
    // Quotients before products: α may be as small as ‖a‖² or as large as 1/‖a‖².
    let scale = alpha / unit * l1Ratio
    for j in 0..<n {
      let d = norms[j]
      let pi = weights?[j] ?? 1
      let isPenalised = d > 0 && pi > 0 && alpha > 0
      let l = isPenalised && l1Ratio > 0 ? scale / d * pi : 0
      let m = isPenalised && l1Ratio < 1 ? alpha / d * (1 - l1Ratio) / d * pi : 0
      lambda[j] = d == 0 || !m.isFinite || l.isNaN ? .infinity : l
      mu[j] = m.isFinite ? m : 0
    }
  }

  /// There is an l1 term, so the dual of the norm bounds the gap.
  var hasNorm: Bool {
    for j in 0..<n where lambda[j] > 0 && lambda[j] < .infinity { return true }
    return false
  }

  /// The admissible v_j nearest to x.
  @inline(__always)
  func clamp(_ j: Int, _ x: Double) -> Double { min(max(x, lower[j]), upper[j]) }

  /// Strictly between 0 and the bounds: what the quadratic alone governs.
  @inline(__always)
  func isFree(_ j: Int, _ x: Double) -> Bool { x != 0 && x > lower[j] && x < upper[j] }

  /// Where F ceases to be quadratic when v_j moves from x in the direction of d.
  @inline(__always)
  func kink(_ j: Int, _ x: Double, towards d: Double) -> Double {
    if d > 0 { return x < 0 && lambda[j] > 0 ? min(0, upper[j]) : upper[j] }
    return x > 0 && lambda[j] > 0 ? max(0, lower[j]) : lower[j]
  }

  /// g ← ĉ − Ĝv − μv − τ, from the columns of the support of v.
  func gradient(_ v: UnsafePointer<Double>, _ g: UnsafeMutablePointer<Double>) {
    let (c, mu) = (self.c, self.mu)
    for j in 0..<n { g[j] = c[j] - mu[j] * v[j] }
    if let tilt = tilt?.pointer { for j in 0..<n { g[j] -= tilt[j] } }
    // As many columns as share a read of g.
    let batch = 8
    withUnsafeTemporaryAllocation(of: UnsafePointer<Double>?.self, capacity: batch) { columns in
      withUnsafeTemporaryAllocation(of: Double.self, capacity: batch) { weights in
        guard let columns = columns.baseAddress, let weights = weights.baseAddress else { return }
        var count = 0
        for j in 0..<n where v[j] != 0 {
          (columns + count).initialize(to: gram.column(j))
          (weights + count).initialize(to: v[j])
          count += 1
          if count == batch {
            Vector.subtract(n, columns, weights, count, from: g)
            count = 0
          }
        }
        Vector.subtract(n, columns, weights, count, from: g)
      }
    }
  }
}

/// The smallest α whose elastic net is 0 on every penalised atom: max |g_j| d_j ‖y‖ / (l1_ratio π_j) over them, g being the
/// correlations left when the unpenalised atoms have been fitted; of g_j > 0 (< 0) where the bounds forbid less (more) than 0,
/// which they have to hold.
func alphaMax(
  _ gram: Gram, target: Int, l1Ratio: Double, weights: Buffer<Double>?, bounds: Bounds, _ watch: Watch
) throws(UnmergeError) -> Double {
  let n = gram.atoms
  let yNorm = gram.targetNorms[target]
  guard yNorm > 0 else { return 0 }
  var g = gram.correlation(target)
  var fitted: ActiveSet?
  if let weights, (0..<n).contains(where: { weights[$0] == 0 && gram.norms[$0] > 0 }) {
    let free = try Quadratic(gram, target: target, alpha: 0, l1Ratio: 1, weights: nil, bounds: bounds)
    for j in 0..<n where weights[j] > 0 { free.lambda[j] = .infinity }
    let solver = try ActiveSet(free)
    _ = try solver.run(watch, tol: 1e-10, maxIterations: .max)
    g = UnsafePointer(solver.g)
    fitted = solver
  }
  return withExtendedLifetime(fitted) {
    var largest = 0.0
    for j in 0..<n where gram.norms[j] > 0 {
      let pi = weights?[j] ?? 1
      let size = max(bounds.upper(j) > 0 ? g[j] : 0, bounds.lower(j) < 0 ? -g[j] : 0)
      if pi > 0, size > 0 { largest = max(largest, size * yNorm / l1Ratio * (gram.norms[j] / pi)) }
    }
    return min(largest, .greatestFiniteMagnitude)
  }
}
