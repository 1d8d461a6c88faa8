extension Prox {
  /// sign(x) (|x| − t)₊
  @inlinable package static func soft(_ x: Double, _ t: Double) -> Double { x > t ? x - t : x < -t ? x + t : 0 }

  /// α Σ π_j |z_j|
  package struct L1: Separable {
    package let strength: Strength
    @inlinable package init(_ strength: Strength) { self.strength = strength }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double { strength[j] * abs(z) }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double { soft(x, step * strength[j]) }
  }

  /// α Σ π_j z_j with z ≥ 0
  package struct NonNegativeL1: Separable {
    package let strength: Strength
    @inlinable package init(_ strength: Strength) { self.strength = strength }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double { z < 0 ? .infinity : strength[j] * z }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double { max(x - step * strength[j], 0) }
  }

  /// α [ρ Σ π_j |z_j| + ½ (1 − ρ) Σ π_j z_j²]; ρ = 0 is the square of the l2 norm.
  package struct ElasticNet: Separable {
    package let strength: Strength
    package let l1Ratio: Double
    @inlinable package init(_ strength: Strength, l1Ratio: Double) {
      self.strength = strength
      self.l1Ratio = l1Ratio
    }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double {
      strength[j] * (l1Ratio * abs(z) + 0.5 * (1 - l1Ratio) * z * z)
    }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      let t = step * strength[j]
      return soft(x, t * l1Ratio) / (1 + t * (1 - l1Ratio))
    }
  }
}
