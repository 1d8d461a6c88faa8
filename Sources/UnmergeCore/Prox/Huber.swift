extension Prox {
  /// α Σ π_j h(z_j),  h(z) = z²/(2γ) for |z| ≤ γ, |z| − γ/2 beyond: the l1 norm, rounded at 0. Huber 1964.
  package struct Huber: Separable {
    package let strength: Strength
    package let gamma: Double
    @inlinable package init(_ strength: Strength, gamma: Double) {
      self.strength = strength
      self.gamma = gamma
    }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double {
      strength[j] * (abs(z) <= gamma ? 0.5 * z * z / gamma : abs(z) - 0.5 * gamma)
    }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      let t = step * strength[j]
      return abs(x) <= gamma + t ? x * (gamma / (gamma + t)) : soft(x, t)
    }
  }
}
