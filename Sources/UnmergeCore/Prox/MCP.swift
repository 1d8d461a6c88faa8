extension Prox {
  /// Σ φ(z_j; λ_j),  φ(z) = λ|z| − z²/(2γ) for |z| ≤ γλ, γλ²/2 beyond, with λ_j = α π_j: the minimax concave penalty.
  ///
  /// Its slope falls from λ to 0, so that large coefficients are not shrunk. With step < γ the prox is continuous: soft
  /// thresholding stretched until it meets the identity; else it is hard thresholding. Zhang 2010.
  package struct MCP: Concave {
    package let strength: Strength
    package let gamma: Double
    @inlinable package init(_ strength: Strength, gamma: Double) {
      self.strength = strength
      self.gamma = gamma
    }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double {
      let l = strength[j]
      let a = abs(z)
      return a <= gamma * l ? a * (l - 0.5 * a / gamma) : 0.5 * gamma * l * l
    }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      Prox.mcp(x, step, strength[j], gamma)
    }
    @inlinable package func slope(_ z: Double, _ j: Int) -> Double { max(strength[j] - z / gamma, 0) }
    @inlinable package func curvature(_ z: Double, _ j: Int) -> Double { z < gamma * strength[j] ? -1 / gamma : 0 }
    @inlinable package var concavity: Double { 1 / gamma }
  }

  @inlinable static func mcp(_ x: Double, _ step: Double, _ l: Double, _ gamma: Double) -> Double {
    let a = abs(x)
    if gamma <= step { return a > l * (gamma * step).squareRoot() ? x : 0 }
    if a >= gamma * l { return x }
    if a <= l * step { return 0 }
    let z = min((a - l * step) / (1 - step / gamma), gamma * l)
    return x < 0 ? -z : z
  }

  /// Σ λ_j [z_j ≠ 0], made continuous where the data cannot tell: beside a least-squares term whose atoms have norm a,
  ///
  ///     φ(z) = λ − (a²/2) (|z| − √(2λ)/a)² for |z| ≤ √(2λ)/a, λ beyond,  λ_j = α π_j
  ///
  /// is the largest function below λ [z ≠ 0] that keeps its global minimisers and removes local ones: the MCP with slope
  /// √(2λ) a at 0 and γ = 1/a². Soubies, Blanc-Féraud & Aubert 2015.
  package struct CEL0: Concave {
    package let strength: Strength
    package let norm: Double
    @inlinable package init(_ strength: Strength, norm: Double) {
      self.strength = strength
      self.norm = norm
    }
    /// The slope at 0.
    @inlinable func kink(_ j: Int) -> Double { (2 * strength[j]).squareRoot() * norm }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double {
      let l = kink(j)
      let a = abs(z)
      return a * norm * norm <= l ? a * (l - 0.5 * a * norm * norm) : strength[j]
    }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      Prox.mcp(x, step, kink(j), 1 / (norm * norm))
    }
    @inlinable package func slope(_ z: Double, _ j: Int) -> Double { max(kink(j) - z * norm * norm, 0) }
    @inlinable package func curvature(_ z: Double, _ j: Int) -> Double { z * norm * norm < kink(j) ? -norm * norm : 0 }
    @inlinable package var concavity: Double { norm * norm }
  }
}
