import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Where a factorisation begins.

/// W, H ~ U[0, 1), scaled so that WH has the sum of X. Signed data has no such scale.
func randomStart(_ x: DataMatrix, _ w: Factor, _ h: Factor, sum: Double, seed: UInt64) throws(UnmergeError) {
  for i in 0..<w.values.count { w.values[i] = CounterRandom.uniform(seed, 1, i) }
  for i in 0..<h.values.count { h.values[i] = CounterRandom.uniform(seed, 2, i) }
  guard sum > 0 else { return }
  let modelled = try x.sum(w, h) { _, m in m }
  guard modelled > 0 else { return }
  let scale = (sum / modelled).squareRoot()
  w.scale(scale)
  h.scale(scale)
}

/// NNDSVD: of every singular pair the larger of its positive and negative parts (Boutsidis & Gallopoulos 2008). `fill`, the
/// mean of X, replaces zeros where it is not 0.
func nndsvdStart(_ x: DataMatrix, _ w: Factor, _ h: Factor, fill: Double, seed: UInt64, _ watch: Watch) throws(UnmergeError)
{
  let k = w.columns
  let (u, s, v) = try truncatedSVD(x, k, seed: seed, watch)
  for l in 0..<k {
    let (a, b) = (u.column(l), v.column(l))
    func parts(_ sign: Double) -> (Double, Double) {
      var (p, q) = (0.0, 0.0)
      for i in 0..<u.rows { p += max(0, sign * a[i]) * max(0, sign * a[i]) }
      for j in 0..<v.rows { q += max(0, sign * b[j]) * max(0, sign * b[j]) }
      return (p.squareRoot(), q.squareRoot())
    }
    let (plus, minus) = (parts(1), parts(-1))
    let sign = plus.0 * plus.1 >= minus.0 * minus.1 ? 1.0 : -1.0
    let (p, q) = sign > 0 ? plus : minus
    guard p > 0, q > 0 else { continue }
    let size = (s[l] * p * q).squareRoot()
    let (c, d) = (w.column(l), h.column(l))
    for i in 0..<u.rows { c[i] = size * max(0, sign * a[i]) / p }
    for j in 0..<v.rows { d[j] = size * max(0, sign * b[j]) / q }
  }
  guard fill > 0 else { return }
  for i in 0..<w.values.count where w.values[i] == 0 { w.values[i] = fill }
  for i in 0..<h.values.count where h.values[i] == 0 { h.values[i] = fill }
}

/// The caller's start, `given` n×k or, for H, its transpose.
func givenStart(
  _ given: UnsafePointer<unmerge_view>?, _ name: String, into f: Factor, isTransposed: Bool, isSigned: Bool
) throws(UnmergeError) {
  guard let given else { throw .null(name) }
  let v = try view(given, name)
  let (rows, columns) = isTransposed ? (f.columns, f.rows) : (f.rows, f.columns)
  guard v.rows == rows, v.columns == columns else {
    throw .shape("\(name) is \(v.rows) x \(v.columns), expected \(rows) x \(columns)")
  }
  for l in 0..<f.columns {
    for i in 0..<f.rows {
      let value = isTransposed ? v.element(l, i) : v.element(i, l)
      guard value.isFinite, isSigned || value >= 0 else {
        throw .range(
          "\(name)[\(isTransposed ? l : i)][\(isTransposed ? i : l)] is \(value); it must be finite\(isSigned ? "" : " and >= 0")"
        )
      }
      f.values[l * f.rows + i] = value
    }
  }
}
