import CKernels
import COpenBLAS

/// The two types arithmetic is done in. Each requirement is one BLAS operation or kernel on a whole panel, column-major,
/// so that a call through the protocol costs nothing beside its work.
package protocol Real: BinaryFloatingPoint, BitwiseCopyable, Sendable {
  static var elementType: ElementType { get }

  /// destination (+)= scale * elements of `source`, `stride` bytes apart.
  static func load(
    _ destination: UnsafeMutablePointer<Self>, _ source: UnsafeRawPointer, _ type: ElementType, stride: Int, count: Int,
    scale: Double, add: Bool)

  /// destination (+)= scale * the elements of a 2-D array of `cols` columns whose row-major indices are given.
  static func gather(
    _ destination: UnsafeMutablePointer<Self>, _ source: View, _ indices: UnsafePointer<Int64>, count: Int, scale: Double,
    add: Bool)

  /// Upper triangle of C = AᵀA; A is k×n, or its transpose in memory when `rowMajor`.
  static func syrk(
    _ n: Int, _ k: Int, _ a: UnsafePointer<Self>, _ lda: Int, rowMajor: Bool, _ c: UnsafeMutablePointer<Self>, _ ldc: Int)

  /// C = alpha·op(A)·op(B) + beta·C, op(A) m×k.
  static func gemm(
    _ transA: Bool, _ transB: Bool, _ m: Int, _ n: Int, _ k: Int, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int,
    _ b: UnsafePointer<Self>, _ ldb: Int, _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int)

  /// xy += Σ x·y and xx += Σ x·x in one read of x.
  static func dotNorm(
    _ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, _ count: Int, _ xy: UnsafeMutablePointer<Double>,
    _ xx: UnsafeMutablePointer<Double>)

  /// Σ x·y, summed in double.
  static func dot(_ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, _ count: Int) -> Double

  /// xy += Σ x·y and xx += Σ x², summed in double, in one read of x.
  static func dotSquares(
    _ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, _ count: Int, _ xy: UnsafeMutablePointer<Double>,
    _ xx: UnsafeMutablePointer<Double>)

  /// Upper triangle of g += XᵀX for few columns, summed in double; column-major, X k×n with its columns `lead` apart.
  static func smallGram(
    _ g: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Self>, lead: Int, rows k: Int, columns n: Int)

  /// G += XᵀC for few columns C, X k×m and C k×w with their columns `lead` and `leadC` apart; false where BLAS has to do it.
  static func fewProducts(
    _ g: UnsafeMutablePointer<Double>, _ ldg: Int, _ x: UnsafePointer<Self>, lead: Int, rows k: Int, columns m: Int,
    _ c: UnsafePointer<Self>, leadC: Int, few w: Int
  ) -> Bool

  /// `products` is faster than BLAS here.
  static var hasProducts: Bool { get }

  /// g[rows[i] + columns[j]·lead] += ⟨x_i, z_j⟩ for m columns x and w columns z of k values; no places: i and j. `upper`: i ≤ j
  /// only, z being x.
  static func products(
    _ g: UnsafeMutablePointer<Double>, leadG: Int, _ x: UnsafePointer<Self>, leadX: Int, _ m: Int, rows: UnsafePointer<Int>?,
    _ z: UnsafePointer<Self>, leadZ: Int, _ w: Int, columns: UnsafePointer<Int>?, _ k: Int, upper: Bool)

  /// destination, columns `lead` apart, ← the rows of `source`, `stride` elements apart.
  static func columnsOfRows(
    _ destination: UnsafeMutablePointer<Self>, lead: Int, _ source: UnsafePointer<Self>, stride: Int, rows: Int, columns: Int
  )

  /// Σ x², summed in double.
  static func squares(_ x: UnsafePointer<Self>, _ count: Int) -> Double

  /// sum += x, element by element.
  static func accumulate(_ sum: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Self>, _ count: Int)
}

/// BLAS counts in 32 bits. The door refuses what does not fit, and panels are far below it.
@inline(__always) private func i32(_ x: Int) -> Int32 { Int32(truncatingIfNeeded: x) }

extension Float: Real {
  package static var elementType: ElementType { .f32 }

  package static func load(
    _ destination: UnsafeMutablePointer<Float>, _ source: UnsafeRawPointer, _ type: ElementType, stride: Int, count: Int,
    scale: Double, add: Bool
  ) {
    ck_load_f32(destination, source, type.rawValue, stride, count, Float(scale), add ? 1 : 0)
  }

  package static func gather(
    _ destination: UnsafeMutablePointer<Float>, _ source: View, _ indices: UnsafePointer<Int64>, count: Int, scale: Double,
    add: Bool
  ) {
    ck_gather_f32(
      destination, source.base, source.type.rawValue, source.rowStride, source.columnStride, Int64(source.columns), indices,
      count, Float(scale), add ? 1 : 0)
  }

  package static func syrk(
    _ n: Int, _ k: Int, _ a: UnsafePointer<Float>, _ lda: Int, rowMajor: Bool, _ c: UnsafeMutablePointer<Float>, _ ldc: Int
  ) {
    openblas_ssyrk(rowMajor ? 0 : 1, i32(n), i32(k), a, i32(lda), c, i32(ldc))
  }

  package static func gemm(
    _ transA: Bool, _ transB: Bool, _ m: Int, _ n: Int, _ k: Int, _ alpha: Float, _ a: UnsafePointer<Float>, _ lda: Int,
    _ b: UnsafePointer<Float>, _ ldb: Int, _ beta: Float, _ c: UnsafeMutablePointer<Float>, _ ldc: Int
  ) {
    openblas_sgemm(
      transA ? 1 : 0, transB ? 1 : 0, i32(m), i32(n), i32(k), alpha, a, i32(lda), b, i32(ldb), beta, c, i32(ldc))
  }

  package static func dotNorm(
    _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, _ xy: UnsafeMutablePointer<Double>,
    _ xx: UnsafeMutablePointer<Double>
  ) {
    ck_dot_norm_f32(x, y, count, xy, xx)
  }

  package static func accumulate(_ sum: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Float>, _ count: Int) {
    ck_accumulate_f32(sum, x, count)
  }

  package static func squares(_ x: UnsafePointer<Float>, _ count: Int) -> Double { ck_squares_f32(x, count) }

  package static func dotSquares(
    _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, _ xy: UnsafeMutablePointer<Double>,
    _ xx: UnsafeMutablePointer<Double>
  ) {
    ck_dot_squares_f32(x, y, count, xy, xx)
  }

  package static func dot(_ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int) -> Double {
    ck_dot_f32(x, y, count)
  }

  package static func smallGram(
    _ g: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Float>, lead: Int, rows k: Int, columns n: Int
  ) {
    ck_small_gram_f32(g, x, lead, k, n)
  }

  package static func fewProducts(
    _ g: UnsafeMutablePointer<Double>, _ ldg: Int, _ x: UnsafePointer<Float>, lead: Int, rows k: Int, columns m: Int,
    _ c: UnsafePointer<Float>, leadC: Int, few w: Int
  ) -> Bool {
    ck_few_products_f32(g, ldg, x, lead, k, m, c, leadC, w)
    return true
  }

  package static let hasProducts = ck_has_products() != 0

  package static func products(
    _ g: UnsafeMutablePointer<Double>, leadG: Int, _ x: UnsafePointer<Float>, leadX: Int, _ m: Int,
    rows: UnsafePointer<Int>?, _ z: UnsafePointer<Float>, leadZ: Int, _ w: Int, columns: UnsafePointer<Int>?, _ k: Int,
    upper: Bool
  ) {
    ck_products_f32(g, leadG, x, leadX, m, rows, z, leadZ, w, columns, k, upper ? 1 : 0)
  }

  package static func columnsOfRows(
    _ destination: UnsafeMutablePointer<Float>, lead: Int, _ source: UnsafePointer<Float>, stride: Int, rows: Int,
    columns: Int
  ) {
    ck_columns_of_rows_f32(destination, lead, source, stride, rows, columns)
  }
}

extension Double: Real {
  package static var elementType: ElementType { .f64 }

  package static func load(
    _ destination: UnsafeMutablePointer<Double>, _ source: UnsafeRawPointer, _ type: ElementType, stride: Int, count: Int,
    scale: Double, add: Bool
  ) {
    ck_load_f64(destination, source, type.rawValue, stride, count, scale, add ? 1 : 0)
  }

  package static func gather(
    _ destination: UnsafeMutablePointer<Double>, _ source: View, _ indices: UnsafePointer<Int64>, count: Int, scale: Double,
    add: Bool
  ) {
    ck_gather_f64(
      destination, source.base, source.type.rawValue, source.rowStride, source.columnStride, Int64(source.columns), indices,
      count, scale, add ? 1 : 0)
  }

  package static func syrk(
    _ n: Int, _ k: Int, _ a: UnsafePointer<Double>, _ lda: Int, rowMajor: Bool, _ c: UnsafeMutablePointer<Double>, _ ldc: Int
  ) {
    openblas_dsyrk(rowMajor ? 0 : 1, i32(n), i32(k), a, i32(lda), c, i32(ldc))
  }

  package static func gemm(
    _ transA: Bool, _ transB: Bool, _ m: Int, _ n: Int, _ k: Int, _ alpha: Double, _ a: UnsafePointer<Double>, _ lda: Int,
    _ b: UnsafePointer<Double>, _ ldb: Int, _ beta: Double, _ c: UnsafeMutablePointer<Double>, _ ldc: Int
  ) {
    openblas_dgemm(
      transA ? 1 : 0, transB ? 1 : 0, i32(m), i32(n), i32(k), alpha, a, i32(lda), b, i32(ldb), beta, c, i32(ldc))
  }

  package static func dotNorm(
    _ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>, _ count: Int, _ xy: UnsafeMutablePointer<Double>,
    _ xx: UnsafeMutablePointer<Double>
  ) {
    ck_dot_norm_f64(x, y, count, xy, xx)
  }

  package static func accumulate(_ sum: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Double>, _ count: Int) {
    for i in 0..<count { sum[i] += x[i] }
  }

  package static func squares(_ x: UnsafePointer<Double>, _ count: Int) -> Double { ck_squares_f64(x, count) }

  package static func dotSquares(
    _ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>, _ count: Int, _ xy: UnsafeMutablePointer<Double>,
    _ xx: UnsafeMutablePointer<Double>
  ) {
    ck_dot_squares_f64(x, y, count, xy, xx)
  }

  package static func dot(_ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>, _ count: Int) -> Double {
    ck_dot_f64(x, y, count)
  }

  package static func smallGram(
    _ g: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Double>, lead: Int, rows k: Int, columns n: Int
  ) {
    ck_small_gram_f64(g, x, lead, k, n)
  }

  package static func fewProducts(
    _ g: UnsafeMutablePointer<Double>, _ ldg: Int, _ x: UnsafePointer<Double>, lead: Int, rows k: Int, columns m: Int,
    _ c: UnsafePointer<Double>, leadC: Int, few w: Int
  ) -> Bool { false }

  package static let hasProducts = false

  package static func products(
    _ g: UnsafeMutablePointer<Double>, leadG: Int, _ x: UnsafePointer<Double>, leadX: Int, _ m: Int,
    rows: UnsafePointer<Int>?, _ z: UnsafePointer<Double>, leadZ: Int, _ w: Int, columns: UnsafePointer<Int>?, _ k: Int,
    upper: Bool
  ) {
    for j in 0..<w {
      for i in 0..<(upper ? j + 1 : m) {
        g[(columns?[j] ?? j) * leadG + (rows?[i] ?? i)] += dot(x + i * leadX, z + j * leadZ, k)
      }
    }
  }

  package static func columnsOfRows(
    _ destination: UnsafeMutablePointer<Double>, lead: Int, _ source: UnsafePointer<Double>, stride: Int, rows: Int,
    columns: Int
  ) {
    for i in 0..<rows { for j in 0..<columns { destination[j * lead + i] = source[i * stride + j] } }
  }
}
