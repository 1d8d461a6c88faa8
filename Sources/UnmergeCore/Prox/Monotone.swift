import UnmergeLinalg

extension Prox {
  /// Projection on {z_0 ≤ z_1 ≤ …} (`decreasing`: ≥) in the norm Σ π_j (·)², by pooling adjacent violators: one pass, each
  /// pool its weighted mean. Ayer, Brunk, Ewing, Reid & Silverman 1955. z may be x.
  package static func monotone(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, weights: UnsafePointer<Double>? = nil,
    decreasing: Bool = false
  ) throws(UnmergeError) {
    let means = try allocate(n, of: Double.self)
    let masses = try allocate(n, of: Double.self)
    let counts = try allocate(n, of: Int.self)
    pool(n, x, z, weights, decreasing, means.pointer, masses.pointer, counts.pointer)
  }

  /// The same with memory that is there: three times n cells.
  static func pool(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, _ weights: UnsafePointer<Double>?,
    _ decreasing: Bool, _ means: UnsafeMutablePointer<Double>, _ masses: UnsafeMutablePointer<Double>,
    _ counts: UnsafeMutablePointer<Int>
  ) {
    var top = -1
    for i in 0..<n {
      top += 1
      means[top] = x[i]
      masses[top] = weights?[i] ?? 1
      counts[top] = 1
      while top > 0, decreasing ? means[top] > means[top - 1] : means[top] < means[top - 1] {
        let mass = masses[top - 1] + masses[top]
        // A pool without weight is no reason for a mean.
        let share = mass > 0 ? masses[top] / mass : 0.5
        means[top - 1] += share * (means[top] - means[top - 1])
        masses[top - 1] = mass
        counts[top - 1] += counts[top]
        top -= 1
      }
    }
    var i = 0
    for pool in 0..<(top + 1) {
      for _ in 0..<counts[pool] {
        z[i] = means[pool]
        i += 1
      }
    }
  }
}
