import COpenBLAS

/// The few vector operations the solvers need, in double.
package enum Vector {
  /// y += alpha·x
  package static func axpy(_ n: Int, _ alpha: Double, _ x: UnsafePointer<Double>, _ y: UnsafeMutablePointer<Double>) {
    openblas_daxpy(Int32(truncatingIfNeeded: n), alpha, x, 1, y, 1)
  }

  package static func dot(_ n: Int, _ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>) -> Double {
    openblas_ddot(Int32(truncatingIfNeeded: n), x, 1, y, 1)
  }
}
