import UnmergeCore
import UnmergeLinalg

/// The problem every method of this room is a case of, for one target and free of scales:
///
///     minimise  F(v) = ½ − ĉᵀv + ½ vᵀĜv + Σ λ_j |v_j| + ½ Σ μ_j v_j²,   optionally v ≥ 0
///
/// with v_j = w_j d_j / ‖y‖, λ_j = α l1_ratio π_j / (d_j ‖y‖) and μ_j = α (1 − l1_ratio) π_j / d_j². The objective of the
/// header is ‖y‖² F. Gradients are correlations, so one tolerance serves data of any magnitude.
///
/// λ_j = ∞ excludes atom j: zero atoms, atoms whose penalty overflows, atoms a greedy method has not selected.
final class Quadratic: @unchecked Sendable {
  let gram: Gram
  let target: Int
  let n: Int
  /// ĉ
  let c: UnsafePointer<Double>
  let lambda: UnsafeMutablePointer<Double>
  let mu: UnsafeMutablePointer<Double>
  let positive: Bool
  /// Owns λ and μ: loops index plain pointers.
  private let memory: Buffer<Double>

  init(
    _ gram: Gram, target: Int, alpha: Double, l1Ratio: Double, weights: Buffer<Double>?, positive: Bool
  ) throws(UnmergeError) {
    self.gram = gram
    self.target = target
    self.positive = positive
    n = gram.atoms
    c = gram.correlation(target)
    memory = try allocate(product(2, n, "the penalty"))
    lambda = memory.pointer
    mu = lambda + n
    let yNorm = gram.targetNorms[target]
    for j in 0..<n {
      let d = gram.norms[j]
      let pi = weights?[j] ?? 1
      // Quotients before products: α may be as small as ‖a‖² or as large as 1/‖a‖².
      if d > 0, pi > 0, alpha > 0 {
        if l1Ratio > 0 { lambda[j] = alpha / yNorm * l1Ratio / d * pi }
        if l1Ratio < 1 { mu[j] = alpha / d * (1 - l1Ratio) / d * pi }
      }
      if d == 0 || yNorm == 0 || !mu[j].isFinite || lambda[j].isNaN { lambda[j] = .infinity }
      if !mu[j].isFinite { mu[j] = 0 }
    }
  }

  /// There is an l1 term, so the dual of the norm bounds the gap.
  var hasNorm: Bool {
    for j in 0..<n where lambda[j] > 0 && lambda[j] < .infinity { return true }
    return false
  }

  /// g ← ĉ − Ĝv − μv, from the columns of the support of v.
  func gradient(_ v: UnsafePointer<Double>, _ g: UnsafeMutablePointer<Double>) {
    for j in 0..<n { g[j] = c[j] - mu[j] * v[j] }
    for j in 0..<n where v[j] != 0 { Vector.axpy(n, -v[j], gram.column(j), g) }
  }
}

/// The smallest α whose elastic net is 0 on every penalised atom: max |g_j| d_j ‖y‖ / (l1_ratio π_j) over them, g being the
/// correlations left when the unpenalised atoms have been fitted.
func alphaMax(
  _ gram: Gram, target: Int, l1Ratio: Double, weights: Buffer<Double>?, positive: Bool, _ watch: Watch
) throws(UnmergeError) -> Double {
  let n = gram.atoms
  let yNorm = gram.targetNorms[target]
  guard yNorm > 0 else { return 0 }
  var g = gram.correlation(target)
  var fitted: ActiveSet?
  if let weights, (0..<n).contains(where: { weights[$0] == 0 && gram.norms[$0] > 0 }) {
    let free = try Quadratic(gram, target: target, alpha: 0, l1Ratio: 1, weights: nil, positive: positive)
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
      let size = positive ? g[j] : abs(g[j])
      if pi > 0, size > 0 { largest = max(largest, size * yNorm / l1Ratio * (gram.norms[j] / pi)) }
    }
    return min(largest, .greatestFiniteMagnitude)
  }
}
