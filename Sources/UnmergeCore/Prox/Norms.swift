import UnmergeLinalg

extension Prox {
  /// ‖x‖₂ without overflow or underflow.
  package static func norm(_ n: Int, _ x: UnsafePointer<Double>) -> Double {
    var largest = 0.0
    for i in 0..<n { largest = max(largest, abs(x[i])) }
    guard largest > 0, largest < .infinity else { return largest }
    var sum = 0.0
    for i in 0..<n { sum += (x[i] / largest) * (x[i] / largest) }
    return largest * sum.squareRoot()
  }

  /// t ‖z‖₂: the block soft threshold.
  package static func l2(_ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, t: Double) {
    let size = norm(n, x)
    let scale = size > t ? 1 - t / size : 0
    for i in 0..<n { z[i] = scale * x[i] }
  }

  /// t [ρ Σ π_j |z_j| + (1 − ρ) ‖z‖₂]: soft, then block soft. Friedman, Hastie & Tibshirani 2010 (sparse group).
  package static func sparseGroup(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, t: Strength, l1Ratio: Double
  ) {
    for i in 0..<n { z[i] = soft(x[i], t[i] * l1Ratio) }
    l2(n, z, z, t: t.alpha * (1 - l1Ratio))
  }

  /// t max |z_j|: x is cut at the level that leaves t above it (Moreau, from the projection on the l1 ball).
  package static func lInfinity(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, t: Double
  ) throws(UnmergeError) {
    let level = try excess(n, x, t)
    for i in 0..<n { z[i] = max(-level, min(level, x[i])) }
  }
}
