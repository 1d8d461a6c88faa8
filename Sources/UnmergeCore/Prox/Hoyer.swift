import UnmergeLinalg

/// Sparsity as a ratio of norms, with weights w ≥ 0 (ones unless said otherwise):
///
///     sp(x) = (‖w‖₂ − wᵀ|x| / ‖x‖₂) / (‖w‖₂ − min w)  ∈ [0, 1],    sp(0) = 1
///
/// 0 where |x| ∝ w, 1 where a single entry, of least weight, is not 0. Hoyer 2004; the weights: Ohib et al. 2022.
package enum Hoyer {
  /// Of a vector with these sums at t = 0 (`count` is ‖w‖²) and this least weight.
  package static func sparsity(_ sums: Excess, norm: Double, least: Double) -> Double {
    guard sums.squares > 0 else { return 1 }
    return min(max((norm - sums.level) / (norm - least), 0), 1)
  }

  /// 1 where there are fewer than two entries.
  package static func sparsity(_ n: Int, _ x: UnsafePointer<Double>) -> Double {
    guard n >= 2 else { return 1 }
    var largest = 0.0
    for i in 0..<n { largest = max(largest, abs(x[i])) }
    let unit = scale(for: largest)
    var sums = Excess()
    for i in 0..<n {
      let v = unit * abs(x[i])
      sums.mass += v
      sums.squares += v * v
    }
    return sparsity(sums, norm: Double(n).squareRoot(), least: 1)
  }

  /// A power of two that brings magnitudes whose squares could leave the range of a double near 1; 1 for all others.
  package static func scale(for largest: Double) -> Double {
    guard largest > 0, largest.isFinite, largest > 1e120 || largest < 1e-120 else { return 1 }
    return Double(sign: .plus, exponent: min(-largest.exponent, 1000), significand: 1)
  }

  /// Entries are tied that differ by less than this, relative to the larger.
  package static let tie = 1e-12

  /// The unit vector p·w_T + q·e_l on a tied set T (`square` = Σ_T w², l its lightest entry) whose weighted mass is `level`, between
  /// w_l and its root: the arc from the one sparsest direction to the uniform one.
  package static func arc(_ level: Double, _ square: Double, lightest: Double) -> (p: Double, q: Double) {
    let spread = square - lightest * lightest
    let q = spread > 0 ? (max(0, square - level * level) / spread).squareRoot() : 0
    return (max(0, level - q * lightest) / square, q)
  }
}

extension Prox {
  /// Projection on {sp(z) ≥ s}, with `nonNegative` also z ≥ 0; fewer than two entries are left alone.
  ///
  /// Off the set the answer is d·(dᵀ|x|) with the unit direction d ≥ 0 that has most of |x| among those of ℓ1 mass
  /// ℓ = √n − s(√n − 1): d ∝ u = (|x| − t)₊. On a support of q entries with mean m and scatter V = Σ(x_j − m)² its mass is
  ///
  ///     q(m − t) / √(V + q(m − t)²) = ℓ    at    t = m − ℓ √(V / (q(q − ℓ²)))
  ///
  /// An entry below t that is still counted takes mass away and adds to the norm, so this t is never beyond the right one: t
  /// only grows, supports shrink, and where the support stays t is exact. Each round reads the survivors only; no sort.
  /// Where the survivors are tied no t has the mass; any d on them with that mass is then best, and the first of them is
  /// made the largest. After Hoyer 2004; Thom & Palm 2013 (the closed form).
  package static func hoyer(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, sparsity: Double, nonNegative: Bool
  ) throws(UnmergeError) {
    let memory = try allocate(n, of: Double.self)
    defer { withExtendedLifetime(memory) {} }
    let u = memory.pointer
    for i in 0..<n { z[i] = nonNegative ? max(x[i], 0) : x[i] }
    guard n >= 2 else { return }
    var largest = 0.0
    for i in 0..<n { largest = max(largest, abs(z[i])) }
    let unit = Hoyer.scale(for: largest)
    for i in 0..<n { u[i] = unit * abs(z[i]) }
    let root = Double(n).squareRoot()
    let level = root - sparsity * (root - 1)
    var t = 0.0
    var sums = Double.magnitudes(u, n).sums
    guard sums.level > level + 4 * root.ulp else { return }
    var live = n
    while true {
      let q = sums.count
      var (low, high) = (Double.infinity, 0.0)
      for i in 0..<live {
        low = min(low, u[i])
        high = max(high, u[i])
      }
      if sparsity == 1 { low = high }
      if low == high || high - low <= Hoyer.tie * high {
        let isPeak = sparsity == 1 || q <= 1
        let peak = isPeak ? 1 : level
        let (p, top) = isPeak ? (0, 1) : Hoyer.arc(level, q, lightest: 1)
        var isFirst = true
        for i in 0..<n {
          let v = unit * abs(z[i])
          let d = v < low ? 0 : isFirst ? p + top : p
          if v >= low { isFirst = false }
          z[i] = d == 0 ? 0 : (z[i] < 0 ? -d : d) * (high * peak) / unit
        }
        return
      }
      // About the mean: the survivors may be nearly tied.
      let mean = sums.mass / q
      var scatter = 0.0
      for i in 0..<live { scatter += (u[i] - t - mean) * (u[i] - t - mean) }
      let mass = q > level * level ? level * (q * scatter / (q - level * level)).squareRoot() : sums.mass
      let d = max(0, (sums.mass - mass) / q)
      let next = Double.excess(u, live, above: t + d)
      if next.count == q || next.count == 0 || t + d <= t {
        let squares = scatter + mass * mass / q
        _ = Double.shrink(
          z, z, n, unit: unit, t: t, d: d, scale: (squares + (t + d) * mass) / squares / unit, keep: false)
        return
      }
      t += d
      live = Double.survivors(u, u, live, above: t)
      sums = next
    }
  }
}
