import COpenBLAS

/// G_SS = RᵀR for a growing and shrinking index set S, R upper triangular, column-major with a fixed leading dimension.
///
/// Invariant: after every call R is the factor of the Gram of the atoms in `order`, in that order. Appending costs k²/2
/// multiplications, removing as much through Givens rotations; nothing is ever refactored. A pivot at or below
/// `tolerance` (on the unit-diagonal scale) means the new atom depends on those present: it is refused, R is unchanged.
package final class Cholesky: @unchecked Sendable {
  package private(set) var order: [Int] = []
  package var count: Int { order.count }
  private let r: Buffer<Double>
  private let scratch: Buffer<Double>
  private let capacity: Int
  package let tolerance: Double
  /// Of every entry, when pivots are to be told from what it does to them; 0 takes the pivot alone.
  private let entryError: Double

  package init(capacity: Int, tolerance: Double = 1e-12, entryError: Double = 0) throws(OutOfMemory) {
    let cells = capacity.multipliedReportingOverflow(by: capacity)
    guard !cells.overflow else { throw OutOfMemory(bytes: Int.max) }
    r = try Buffer(cells.partialValue)
    scratch = try Buffer(entryError > 0 ? capacity : 0)
    self.capacity = capacity
    self.tolerance = tolerance
    self.entryError = entryError
    order.reserveCapacity(capacity)
  }

  package func removeAll() { order.removeAll(keepingCapacity: true) }

  /// Appends atom `j` whose inner products with the atoms in `order` are `column[order[i]]`; false when dependent.
  package func append(_ j: Int, column: UnsafePointer<Double>, diagonal: Double) -> Bool {
    let k = count
    let new = r.pointer + k * capacity
    for i in 0..<k { new[i] = column[order[i]] }
    if k > 0 { openblas_dtrsv(0, 1, Int32(truncatingIfNeeded: k), r.pointer, Int32(truncatingIfNeeded: capacity), new, 1) }
    let pivot = diagonal - Vector.dot(k, new, new)
    guard pivot > tolerance * diagonal, pivot.isFinite else { return false }
    guard entryError == 0 || k == 0 || pivot > noise(of: new, k, diagonal) else { return false }
    new[k] = pivot.squareRoot()
    order.append(j)
    return true
  }

  /// What errors of the entries can do to a pivot: that of a combination x of atoms taken from one has (1 + ‖x‖₁)² times
  /// theirs. `column` is R⁻ᵀ of the new column, and x = R⁻¹ of that.
  private func noise(of column: UnsafePointer<Double>, _ k: Int, _ diagonal: Double) -> Double {
    let x = scratch.pointer
    x.update(from: column, count: k)
    openblas_dtrsv(0, 0, Int32(truncatingIfNeeded: k), r.pointer, Int32(truncatingIfNeeded: capacity), x, 1)
    var size = 1.0
    for i in 0..<k { size += abs(x[i]) }
    return entryError * diagonal * size * size
  }

  /// Removes the atom at position `i` of `order`.
  package func remove(at i: Int) {
    let k = count
    order.remove(at: i)
    // Columns right of i move one to the left and leave one entry below the diagonal each; a rotation per column of the
    // rows (c, c+1) puts it back to zero.
    var c = i
    while c < k - 1 {
      let from = r.pointer + (c + 1) * capacity
      let to = r.pointer + c * capacity
      for row in 0...(c + 1) { to[row] = from[row] }
      c += 1
    }
    c = i
    while c < k - 1 {
      let a = r.pointer[c * capacity + c]
      let b = r.pointer[c * capacity + c + 1]
      let h = (a * a + b * b).squareRoot()
      let cosine = a / h
      let sine = b / h
      for col in c..<(k - 1) {
        let p = r.pointer + col * capacity + c
        let x = p[0]
        let y = p[1]
        p[0] = cosine * x + sine * y
        p[1] = cosine * y - sine * x
      }
      c += 1
    }
  }

  /// x ← (RᵀR)⁻¹ x for x in the order of `order`.
  package func solve(_ x: UnsafeMutablePointer<Double>) {
    let k = Int32(truncatingIfNeeded: count)
    let ld = Int32(truncatingIfNeeded: capacity)
    guard k > 0 else { return }
    openblas_dtrsv(0, 1, k, r.pointer, ld, x, 1)
    openblas_dtrsv(0, 0, k, r.pointer, ld, x, 1)
  }

  /// Σ weight_i ((RᵀR)⁻¹)_ii, weights in the order of `order`.
  package func weightedTraceOfInverse(_ weight: UnsafePointer<Double>) throws(OutOfMemory) -> Double {
    try traceOfInverse(count, r.pointer, capacity, weight)
  }
}

/// Σ weight_i ((RᵀR)⁻¹)_ii; the diagonal of the inverse holds the squared rows of R⁻¹.
private func traceOfInverse(
  _ n: Int, _ r: UnsafePointer<Double>, _ leading: Int, _ weight: UnsafePointer<Double>
) throws(OutOfMemory) -> Double {
  guard n > 0 else { return 0 }
  let inverse = try Buffer<Double>(n * n)
  for j in 0..<n { (inverse.pointer + j * n).update(from: r + j * leading, count: j + 1) }
  let k = Int32(truncatingIfNeeded: n)
  guard openblas_dtrtri_upper(k, inverse.pointer, k) == 0 else { return .nan }
  var sum = 0.0
  for j in 0..<n {
    let column = inverse.pointer + j * n
    for i in 0...j { sum += weight[i] * (column[i] * column[i]) }
  }
  return sum
}

/// A = RᵀR of a whole symmetric positive definite matrix by LAPACK, for many right-hand sides and a condition estimate.
package struct DenseCholesky: @unchecked Sendable {
  package let n: Int
  private let r: Buffer<Double>
  /// Estimates in the 1-norm: ‖A‖·‖A⁻¹‖, and ‖A⁻¹‖ alone.
  package let condition: Double
  package let inverseNorm: Double

  /// Nil when the matrix (n×n, upper triangle, column-major) is not numerically positive definite.
  package init?(_ n: Int, _ a: UnsafePointer<Double>, addingToDiagonal shift: UnsafePointer<Double>?) throws(OutOfMemory) {
    let r = try Buffer<Double>(n * n)
    var norm = 0.0
    let sums = try Buffer<Double>(3 * n)
    for j in 0..<n {
      for i in 0...j {
        var x = a[j * n + i]
        if i == j, let shift { x += shift[j] }
        r[j * n + i] = x
        sums[j] += abs(x)
        if i != j { sums[i] += abs(x) }
      }
    }
    for j in 0..<n { norm = max(norm, sums[j]) }
    let k = Int32(truncatingIfNeeded: n)
    if n > 0 {
      guard norm.isFinite, openblas_dpotrf_upper(k, r.pointer, k) == 0 else { return nil }
      let integers = try Buffer<Int32>(n)
      var reciprocal = 0.0
      _ = openblas_dpocon_upper(k, r.pointer, k, norm, &reciprocal, sums.pointer, integers.pointer)
      // Below n roundings the factor that dpotrf still found is one of noise.
      condition = reciprocal > Double(n) * 0x1p-52 ? 1 / reciprocal : .infinity
      inverseNorm = norm > 0 ? condition / norm : .infinity
    } else {
      condition = 1
      inverseNorm = 1
    }
    self.n = n
    self.r = r
  }

  /// Σ weight_i (A⁻¹)_ii
  package func weightedTraceOfInverse(_ weight: UnsafePointer<Double>) throws(OutOfMemory) -> Double {
    try traceOfInverse(n, r.pointer, n, weight)
  }

  package func solve(_ x: UnsafeMutablePointer<Double>, columns: Int = 1, leading: Int? = nil) {
    guard n > 0, columns > 0 else { return }
    let k = Int32(truncatingIfNeeded: n)
    let c = Int32(truncatingIfNeeded: columns)
    let ld = Int32(truncatingIfNeeded: leading ?? n)
    openblas_dtrsm_left(0, 1, k, c, r.pointer, k, x, ld)
    openblas_dtrsm_left(0, 0, k, c, r.pointer, k, x, ld)
  }
}
