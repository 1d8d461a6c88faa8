extension Prox {
  /// α Σ π_j [z_j ≠ 0]: hard thresholding.
  package struct L0: Separable {
    package let strength: Strength
    @inlinable package init(_ strength: Strength) { self.strength = strength }
    @inlinable package func value(_ z: Double, _ j: Int) -> Double { z == 0 ? 0 : strength[j] }
    @inlinable package func prox(_ x: Double, _ step: Double, _ j: Int) -> Double {
      abs(x) > (2 * step * strength[j]).squareRoot() ? x : 0
    }
  }

  /// Projection on at most k non-zeros: keeps the k largest |x_j|.
  package static func kSparse(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, k: Int
  ) throws(UnmergeError) {
    let order = try descendingMagnitudes(n, x)
    if z != UnsafeMutablePointer(mutating: x) { z.update(from: x, count: n) }
    for i in min(k, n)..<n { z[order[i]] = 0 }
  }
}
