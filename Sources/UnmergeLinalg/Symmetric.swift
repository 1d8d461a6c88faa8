import COpenBLAS

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Symmetric matrices given by their upper triangle, column-major n×n without padding.
package enum Symmetric {
  /// C = alpha·(A·Bᵀ + B·Aᵀ) + beta·C; A and B are n×k, column-major without padding.
  package static func rank2k(
    _ n: Int, _ k: Int, _ alpha: Double, _ a: UnsafePointer<Double>, _ b: UnsafePointer<Double>, _ beta: Double,
    _ c: UnsafeMutablePointer<Double>
  ) {
    let rows = Int32(truncatingIfNeeded: n)
    openblas_dsyr2k(rows, Int32(truncatingIfNeeded: k), alpha, a, max(rows, 1), b, max(rows, 1), beta, c, max(rows, 1))
  }

  /// A ← R with A = RᵀR; log det A, or nil when A is not numerically positive definite.
  package static func factor(_ n: Int, _ a: UnsafeMutablePointer<Double>) -> Double? {
    let k = Int32(truncatingIfNeeded: n)
    guard n > 0 else { return 0 }
    // LAPACK may take a NaN for a pivot.
    guard openblas_dpotrf_upper(k, a, k) == 0 else { return nil }
    var sum = 0.0
    for i in 0..<n { sum += log(a[i * n + i]) }
    return sum.isFinite ? 2 * sum : nil
  }

  /// X ← A⁻¹X from the factor of A, X n×columns.
  package static func solve(
    _ n: Int, factor r: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>, columns: Int
  ) {
    guard n > 0, columns > 0 else { return }
    let k = Int32(truncatingIfNeeded: n)
    let c = Int32(truncatingIfNeeded: columns)
    openblas_dtrsm_left(0, 1, k, c, r, k, x, k)
    openblas_dtrsm_left(0, 0, k, c, r, k, x, k)
  }

  /// R ← A⁻¹, both triangles, from the factor of A; false when it is singular.
  package static func invert(_ n: Int, factor r: UnsafeMutablePointer<Double>) -> Bool {
    let k = Int32(truncatingIfNeeded: n)
    guard n > 0 else { return true }
    guard openblas_dpotri_upper(k, r, k) == 0 else { return false }
    for j in 0..<n { for i in 0..<j { r[i * n + j] = r[j * n + i] } }
    return true
  }

  /// The median eigenvalue (of an even number, the mean of the middle two); `a` is destroyed. NaN when LAPACK gives up.
  package static func medianEigenvalue(_ n: Int, _ a: UnsafeMutablePointer<Double>) throws(OutOfMemory) -> Double {
    guard n > 0 else { return 0 }
    let w = try Buffer<Double>(n)
    let low = (n + 1) / 2
    let high = n / 2 + 1
    guard try eigen(n, a, low...high, w, nil) else { return .nan }
    return low == high ? w[0] : (w[0] + w[1]) / 2
  }

  /// Eigenvalues in ascending order and their vectors in columns; nil when LAPACK gives up. `a` is destroyed.
  package static func eigen(
    _ n: Int, _ a: UnsafeMutablePointer<Double>
  ) throws(OutOfMemory) -> (values: Buffer<Double>, vectors: Buffer<Double>)? {
    let w = try Buffer<Double>(n)
    let z = try Buffer<Double>(n * n)
    guard n > 0 else { return (w, z) }
    return try eigen(n, a, 1...n, w, z) ? (w, z) : nil
  }

  private static func eigen(
    _ n: Int, _ a: UnsafeMutablePointer<Double>, _ range: ClosedRange<Int>, _ w: Buffer<Double>, _ z: Buffer<Double>?
  ) throws(OutOfMemory) -> Bool {
    // Blocks of 32 columns are what LAPACK's reduction to tridiagonal form likes.
    let work = try Buffer<Double>(40 * n)
    let integers = try Buffer<Int32>(12 * n)
    let k = Int32(truncatingIfNeeded: n)
    let info = openblas_dsyevr_upper(
      z == nil ? 0 : 1, k, a, k, Int32(truncatingIfNeeded: range.lowerBound), Int32(truncatingIfNeeded: range.upperBound),
      w.pointer, z?.pointer ?? w.pointer, k, integers.pointer, work.pointer, Int32(truncatingIfNeeded: work.count),
      integers.pointer + 2 * n, Int32(truncatingIfNeeded: 10 * n))
    return info == 0
  }
}
