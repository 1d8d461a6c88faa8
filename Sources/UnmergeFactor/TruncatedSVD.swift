import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// The leading k singular triplets of data that is only multiplied with: subspace iteration on k + 10 random vectors, each
/// orthonormalised through the eigenvectors of its Gram (Halko, Martinsson & Tropp 2011). Good for starting points; directions
/// whose singular values are close may be turned among themselves.
func truncatedSVD(_ x: DataMatrix, _ k: Int, seed: UInt64, _ watch: Watch, rounds: Int = 4) throws(UnmergeError) -> (
  left: Factor, values: [Double], right: Factor
) {
  let l = min(k + 10, x.rows, x.columns)
  let v = try Factor(x.columns, l)
  for i in 0..<v.values.count { v.values[i] = CounterRandom.uniform(seed, 3, i) - 0.5 }
  let u = try Factor(x.rows, l)
  for _ in 0..<rounds {
    if let stop = watch.poll() { throw stop.error }
    try x.multiply(v, into: u)
    try orthonormalise(u)
    try x.transposed.multiply(u, into: v)
    try orthonormalise(v)
  }
  // X·V = U S Zᵀ with V orthonormal.
  try x.multiply(v, into: u)
  let gram: Buffer<Double> = try allocate(l * l)
  u.gram(into: gram)
  let (values, vectors) = try eigenvectors(gram, l)
  let left = try Factor(x.rows, k)
  let right = try Factor(x.columns, k)
  var singular = [Double](repeating: 0, count: k)
  for j in 0..<min(k, l) {
    let z = vectors.pointer + (l - 1 - j) * l
    let s = max(0, values[l - 1 - j]).squareRoot()
    singular[j] = s
    Double.gemm(false, false, x.columns, 1, l, 1, v.pointer, x.columns, z, l, 0, right.column(j), x.columns)
    guard s > 0 else { continue }
    Double.gemm(false, false, x.rows, 1, l, 1 / s, u.pointer, x.rows, z, l, 0, left.column(j), x.rows)
  }
  return (left, singular, right)
}

func eigenvectors(_ g: Buffer<Double>, _ n: Int) throws(UnmergeError) -> (values: Buffer<Double>, vectors: Buffer<Double>) {
  let found = try allocating { () throws(OutOfMemory) in try Symmetric.eigen(n, g.pointer) }
  guard let found else { throw UnmergeError(UNMERGE_E_INTERNAL, "the eigenvalues of a \(n) x \(n) Gram were not found") }
  return found
}

/// Columns that span the same space; a direction that is nothing beside the largest becomes 0. Twice, as one round loses half
/// the digits.
private func orthonormalise(_ f: Factor) throws(UnmergeError) {
  let k = f.columns
  let gram: Buffer<Double> = try allocate(k * k)
  let copy = try Factor(f.rows, k)
  for _ in 0..<2 {
    f.gram(into: gram)
    let (values, vectors) = try eigenvectors(gram, k)
    let floor = values[k - 1] * 1e-24
    copy.assign(f)
    Double.gemm(false, false, f.rows, k, k, 1, copy.pointer, f.rows, vectors.pointer, k, 0, f.pointer, f.rows)
    for j in 0..<k {
      let s = values[j] > floor && values[j] > 0 ? 1 / values[j].squareRoot() : 0
      let c = f.column(j)
      for i in 0..<f.rows { c[i] *= s }
    }
  }
}
