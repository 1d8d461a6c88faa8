import UnmergeLinalg

extension Prox {
  /// α Σ π_j |z_j|^q, 0 < q < 1.
  ///
  /// With μ = step α π_j and h = (2μ(1 − q))^{1/(2−q)}, the prox is 0 up to |x| = h + μ q h^{q−1}; beyond it is the larger root
  /// of z + μ q z^{q−1} = |x|, which Newton reaches from |x| monotonically (the left side is convex): four to eight steps to
  /// rounding. For q = ½ and ⅔ closed forms exist, with more rounding than this has. Marjanovic & Solo 2012; Xu, Chang, Xu
  /// & Zhang 2012.
  package struct LQ: Concave {
    package let strength: Strength
    package let q: Double
    @inlinable package init(_ strength: Strength, q: Double) {
      self.strength = strength
      self.q = q
    }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double {
      z == 0 ? 0 : strength[j] * Platform.pow(abs(z), q)
    }
    /// The smallest |z| other than 0 that the prox takes.
    @inlinable package func jump(_ mu: Double) -> Double { Platform.pow(2 * mu * (1 - q), 1 / (2 - q)) }

    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      let mu = step * strength[j]
      let a = abs(x)
      if mu == 0 { return x }
      let h = jump(mu)
      guard a > h, a > h + mu * q * Platform.pow(h, q - 1) else { return 0 }
      var z = a
      for _ in 0..<64 {
        let slope = mu * q * Platform.pow(z, q - 1)
        let next = z - (z + slope - a) / (1 - (1 - q) * slope / z)
        if !(next < z) { break }
        z = max(next, h)
      }
      return x < 0 ? -z : z
    }
    @inlinable package func slope(_ z: Double, _ j: Int) -> Double {
      let l = strength[j]
      return l == 0 ? 0 : z == 0 ? .infinity : l * q * Platform.pow(z, q - 1)
    }
    @inlinable package func curvature(_ z: Double, _ j: Int) -> Double {
      let l = strength[j]
      return l == 0 ? 0 : -l * q * (1 - q) * Platform.pow(z, q - 2)
    }
    @inlinable package var concavity: Double { .infinity }
  }
}
