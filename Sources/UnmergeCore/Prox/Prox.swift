/// Proximal operators and projections, as the field writes them:
///
///     prox_{step f}(x) = argmin_z  step·f(z) + ½ ‖z − x‖²
///
/// A file per function (or per family of one formula). All are exact: closed forms, one sort, or one pass that pools; none
/// iterates to a tolerance but l_q, whose scalar equation Newton solves to rounding. Where two minimisers tie (non-convex f)
/// the one nearer to 0 is taken, among equal entries the lower index.
///
/// References: Parikh & Boyd 2014; Beck 2017, ch. 6; each file names its own.
package enum Prox {}

/// f(z) = Σ_j f_j(z_j). Solvers instantiate their own kernels: small enough to be inlined across modules.
package protocol Separable: Sendable {
  /// f_j(z); infinite outside the domain.
  func value(_ z: Double, _ j: Int) -> Double
  /// argmin_z  step·f_j(z) + ½ (z − x)²
  func prox(_ x: Double, _ step: Double, _ j: Int) -> Double
}

/// A separable function that is increasing and concave in |z|, with a kink at 0: what makes exact zeros and leaves large
/// coefficients alone.
package protocol Concave: Separable {
  /// f_j′(z) for z > 0; at 0 the limit from the right, which may be infinite.
  func slope(_ z: Double, _ j: Int) -> Double
  /// f_j″(z) for z > 0 where f_j is smooth; ≤ 0.
  func curvature(_ z: Double, _ j: Int) -> Double
  /// The largest −f″ there is; ∞ where it is unbounded.
  var concavity: Double { get }
}

extension Separable {
  /// z ← prox(x); z may be x.
  @inlinable package func apply(_ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, step: Double) {
    for j in 0..<n { z[j] = prox(x[j], step, j) }
  }
}

extension Prox {
  /// α π_j, the strength of a separable penalty at coordinate j.
  package struct Strength: @unchecked Sendable {
    package let alpha: Double
    /// π; nil = ones.
    package let weights: UnsafePointer<Double>?

    @inlinable package init(_ alpha: Double, _ weights: UnsafePointer<Double>? = nil) {
      self.alpha = alpha
      self.weights = weights
    }

    @inlinable package subscript(j: Int) -> Double {
      guard let weights else { return alpha }
      return alpha * weights[j]
    }
  }
}
