extension Prox {
  /// Σ φ(z_j; λ_j) with φ′(z) = λ for 0 < z ≤ λ, (γλ − z)/(γ − 1) up to γλ, 0 beyond, and λ_j = α π_j: the smoothly clipped
  /// absolute deviation. Fan & Li 2001.
  ///
  /// With step ≥ γ − 1 the middle piece is concave even with ½ (z − x)² added: the minimum is on one of the other two.
  package struct SCAD: Concave {
    package let strength: Strength
    package let gamma: Double
    @inlinable package init(_ strength: Strength, gamma: Double) {
      self.strength = strength
      self.gamma = gamma
    }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double {
      let l = strength[j]
      let a = abs(z)
      if a <= l { return l * a }
      if a <= gamma * l { return l * a - 0.5 * (a - l) * (a - l) / (gamma - 1) }
      return 0.5 * l * l * (gamma + 1)
    }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      let l = strength[j]
      let a = abs(x)
      var z = max(a - step * l, 0)
      if step < gamma - 1 {
        if a >= gamma * l {
          z = a
        } else if z > l {
          z = min(((gamma - 1) * a - step * gamma * l) / (gamma - 1 - step), gamma * l)
        }
      } else {
        z = min(z, l)
        let far = max(a, gamma * l)
        let near = step * l * z + 0.5 * (z - a) * (z - a)
        if 0.5 * step * l * l * (gamma + 1) + 0.5 * (far - a) * (far - a) < near { z = far }
      }
      return x < 0 ? -z : z
    }
    @inlinable package func slope(_ z: Double, _ j: Int) -> Double {
      let l = strength[j]
      return z <= l ? l : max((gamma * l - z) / (gamma - 1), 0)
    }
    @inlinable package func curvature(_ z: Double, _ j: Int) -> Double {
      let l = strength[j]
      return z > l && z < gamma * l ? -1 / (gamma - 1) : 0
    }
    @inlinable package var concavity: Double { 1 / (gamma - 1) }
  }
}
