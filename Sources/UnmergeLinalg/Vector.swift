import CKernels
import COpenBLAS

/// The few vector operations the solvers need, in double.
package enum Vector {
  /// y += alpha·x
  package static func axpy(_ n: Int, _ alpha: Double, _ x: UnsafePointer<Double>, _ y: UnsafeMutablePointer<Double>) {
    openblas_daxpy(Int32(truncatingIfNeeded: n), alpha, x, 1, y, 1)
  }

  /// y -= Σ weights[k]·columns[k]
  package static func subtract(
    _ n: Int, _ columns: UnsafePointer<UnsafePointer<Double>?>, _ weights: UnsafePointer<Double>, _ count: Int,
    from y: UnsafeMutablePointer<Double>
  ) {
    ck_subtract_columns(y, columns, weights, count, n)
  }

  package static func dot(_ n: Int, _ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>) -> Double {
    openblas_ddot(Int32(truncatingIfNeeded: n), x, 1, y, 1)
  }

  /// Σx, Σx² and the smallest entry, in one read. Both sums are not finite where an entry is not.
  package static func summary(_ n: Int, _ x: UnsafePointer<Double>) -> (sum: Double, squares: Double, least: Double) {
    var sum = 0.0
    var squares = 0.0
    var least = Double.infinity
    ck_summary(x, n, &sum, &squares, &least)
    return (sum, squares, least)
  }

  /// x ← x/y for y ≥ 0; 0 where x is NaN, or y below 1e-300.
  package static func divide(_ n: Int, _ x: UnsafeMutablePointer<Double>, by y: UnsafePointer<Double>) {
    ck_divide_present(x, y, n)
  }

  /// A sum of the bits of a block's entries, each times a hash of its place: whichever way a matrix is read, its blocks add up to
  /// the same, and other data, or the same in other places, almost surely to something else.
  package static func fingerprint(
    _ x: UnsafePointer<Double>, fast: Int, slow: Int, row: Int, column: Int, isRowMajor: Bool
  ) -> UInt64 {
    ck_fingerprint(x, fast, slow, UInt64(row), UInt64(column), isRowMajor ? 1 : 0)
  }
}
