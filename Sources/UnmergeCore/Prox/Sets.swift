import UnmergeLinalg

extension Prox {
  /// lower ≤ z_j ≤ upper; non-negative with 0 and ∞.
  package struct Box: Separable {
    package let lower: Double
    package let upper: Double
    @inlinable package init(_ lower: Double, _ upper: Double) {
      self.lower = lower
      self.upper = upper
    }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double { z < lower || z > upper ? .infinity : 0 }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double { min(max(x, lower), upper) }
  }

  /// Projection on {aᵀz = b} or, with `halfspace`, {aᵀz ≤ b}; a = nil is ones. a = 0 leaves x alone.
  package static func plane(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, normal a: UnsafePointer<Double>?,
    offset b: Double,
    halfspace: Bool
  ) {
    if z != UnsafeMutablePointer(mutating: x) { z.update(from: x, count: n) }
    let size = a.map { norm(n, $0) } ?? Double(n).squareRoot()
    guard size > 0 else { return }
    // A second step takes up the rounding of the first: z lies in the plane to a rounding of b.
    for _ in 0..<2 {
      var distance = -b / size
      for i in 0..<n { distance += (a?[i] ?? 1) / size * z[i] }
      if halfspace, distance <= 0 { return }
      for i in 0..<n { z[i] -= distance * ((a?[i] ?? 1) / size) }
    }
  }

  /// Projection on {‖z‖₂ ≤ radius}.
  package static func l2Ball(_ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, radius: Double) {
    let size = norm(n, x)
    let scale = size > radius ? radius / size : 1
    for i in 0..<n { z[i] = scale * x[i] }
  }

  /// Projection on the second-order cone {‖(z_1 … z_{n−1})‖₂ ≤ z_0}.
  package static func secondOrderCone(_ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    guard n > 0 else { return }
    let height = x[0]
    let size = norm(n - 1, x + 1)
    if size <= height {
      if z != UnsafeMutablePointer(mutating: x) { z.update(from: x, count: n) }
    } else if size <= -height {
      z.update(repeating: 0, count: n)
    } else {
      let new = 0.5 * height + 0.5 * size
      z[0] = new
      for i in 1..<n { z[i] = new / size * x[i] }
    }
  }
}
