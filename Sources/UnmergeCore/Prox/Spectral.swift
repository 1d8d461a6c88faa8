import CUnmerge
import UnmergeLinalg

extension Prox {
  /// t Σ σ_i(Z), the nuclear norm: singular values soft-thresholded. Cai, Candès & Shen 2010. X and Z are m×n, column-major.
  package static func nuclear(
    _ m: Int, _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, t: Double
  ) throws(UnmergeError) {
    try spectral(m, n, x, z) { values, count in for i in 0..<count { values[i] = max(values[i] - t, 0) } }
  }

  /// Projection on the matrices of rank at most k: the k largest singular values. Eckart & Young 1936.
  package static func rank(
    _ m: Int, _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, k: Int
  ) throws(UnmergeError) {
    if k >= min(m, n) { return z.update(from: x, count: m * n) }
    try spectral(m, n, x, z) { values, count in for i in k..<count { values[i] = 0 } }
  }

  private static func spectral(
    _ m: Int, _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>,
    _ change: (UnsafeMutablePointer<Double>, Int) -> Void
  ) throws(UnmergeError) {
    let count = min(m, n)
    guard count > 0 else { return }
    guard let svd = try allocating({ () throws(OutOfMemory) in try SVD(m, n, x) }) else {
      throw UnmergeError(UNMERGE_E_INTERNAL, "LAPACK found no singular values of x (\(m) x \(n))")
    }
    change(svd.values.pointer, count)
    for i in 0..<count { for r in 0..<m { svd.left[i * m + r] *= svd.values[i] } }
    Double.gemm(
      false, false, m, n, count, 1, svd.left.pointer, m, svd.right.pointer, count, 0, z, m)
  }
}
