import COpenBLAS

/// X = U diag(σ) Vᵀ, thin: X m×n column-major, U m×r, Vᵀ r×n, r = min(m, n), σ descending.
package struct SVD: @unchecked Sendable {
  package let values: Buffer<Double>
  package let left: Buffer<Double>
  /// Vᵀ
  package let right: Buffer<Double>

  /// Nil when LAPACK gives up.
  package init?(_ m: Int, _ n: Int, _ x: UnsafePointer<Double>) throws(OutOfMemory) {
    let r = min(m, n)
    values = try Buffer(r)
    left = try Buffer(m * r)
    right = try Buffer(r * n)
    guard r > 0 else { return }
    let copy = try Buffer<Double>(m * n)
    copy.pointer.update(from: x, count: m * n)
    let integers = try Buffer<Int32>(8 * r)
    let (rows, columns, rank) = (Int32(truncatingIfNeeded: m), Int32(truncatingIfNeeded: n), Int32(truncatingIfNeeded: r))
    var wanted = 0.0
    _ = openblas_dgesdd_thin(
      rows, columns, copy.pointer, values.pointer, left.pointer, right.pointer, rank, &wanted, -1, integers.pointer)
    let work = try Buffer<Double>(max(1, Int(exactly: wanted.rounded(.up)) ?? 1))
    let info = openblas_dgesdd_thin(
      rows, columns, copy.pointer, values.pointer, left.pointer, right.pointer, rank, work.pointer,
      Int32(truncatingIfNeeded: work.count), integers.pointer)
    guard info == 0 else { return nil }
  }
}
