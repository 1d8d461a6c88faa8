import CKernels

/// Coordinate descent on a block of rows that share their matrix, vectorised over the rows.
package enum CoordinateSweeps {
  package static let rowsPerBlock = Int(CK_ROWS)

  /// min ½xᵀGx − bᵀx over x ≥ 0 for `rowsPerBlock` rows; coordinate i of row r at i·rowsPerBlock + r of f and b. Ends when a
  /// sweep moves less than `least` of the first; returns Σ G_ii Δx_i² of the first.
  package static func nonnegative(
    _ f: UnsafeMutablePointer<Double>, _ b: UnsafePointer<Double>, _ g: UnsafePointer<Double>, _ k: Int, sweeps: Int,
    least: Double
  ) -> Double {
    ck_nonnegative_sweeps(f, b, g, k, sweeps, least)
  }
}
