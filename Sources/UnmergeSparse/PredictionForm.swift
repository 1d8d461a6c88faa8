import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Groups whose norm is that of what they contribute, ‖A_g w_g‖: the group LASSO with every group made orthonormal.
///
/// With Ĝ_gg = V Λ Vᵀ, v_g = V Λ^{−½} u_g has ‖Â_g v_g‖ = ‖u_g‖: a column per eigenvector that is not numerically in the kernel,
/// of length 1, orthogonal to the others of its group. An atom in several groups has a part in each; one in no group is a
/// column of its own. Where atoms of a group are dependent, v_g is the shortest of those that contribute the same.
///
/// Reference: Simon & Tibshirani 2012, "Standardization and the group lasso penalty".
struct PredictionForm: GramForm {
  let gram: Gram
  /// Those of the columns, in order; weights by default of the sizes of the caller's groups.
  private(set) var groups: Groups
  let count: Int
  private let given: Groups
  private let matrix: Buffer<Double>
  private let correlations: Buffer<Double>
  /// Of a column: its group (−1: none), or the atom it is.
  private let group: Buffer<Int>
  /// v of the members of the column's group for u = 1, and u for v = 1; from at[i], as many numbers as the group has members.
  private let back: Buffer<Double>
  private let forth: Buffer<Double>
  private let at: Buffer<Int>
  private let atom: Buffer<Int>

  var parts: Int { 1 }
  var height: Int { max(count, 1) }
  var rows: Int { gram.atoms }
  func norm(_ i: Int) -> Double { 1 }
  func correlation(_ t: Int) -> UnsafePointer<Double> { UnsafePointer(correlations.pointer + t * count) }
  @inline(__always)
  func column(_ i: Int) -> UnsafePointer<Double> { UnsafePointer(matrix.pointer + i * count) }

  init(_ gram: Gram, _ given: Groups) throws(UnmergeError) {
    guard gram.isComplete else {
      throw .shape("gram has its columns on demand; options->group_norm needs all of them: make it with UNMERGE_COLUMNS_ALL")
    }
    let n = gram.atoms
    let total = given.members.count
    let most = try product(1, total + n, "the groups")
    let grouped = try allocate(n, of: Bool.self)
    group = try allocate(most)
    at = try allocate(most)
    atom = try allocate(most)
    var cells = 0
    for g in 0..<given.count {
      let size = given.offsets[g + 1] - given.offsets[g]
      cells += try product(size, size, "the groups")
    }
    back = try allocate(cells)
    forth = try allocate(cells)
    let offsets = try allocate(given.count + 1, of: Int.self)
    let weights = try allocate(given.count, of: Double.self)
    var (columns, cell) = (0, 0)
    for g in 0..<given.count {
      let first = given.offsets[g]
      let size = given.offsets[g + 1] - first
      weights[g] = given.weights?[g] ?? Double(size).squareRoot()
      let q = try allocate(size * size, of: Double.self)
      for b in 0..<size {
        let j = given.members[first + b]
        grouped[j] = true
        for a in 0..<size { q[b * size + a] = gram.column(j)[given.members[first + a]] }
      }
      let eigen = try allocating { () throws(OutOfMemory) in try Symmetric.eigen(size, q.pointer) }
      guard let eigen else {
        throw UnmergeError(UNMERGE_E_INTERNAL, "the eigenvalues of a group's Gram could not be computed")
      }
      let floor = Double(size) * max(1e-12, gram.precision.entryError)
      // The strongest directions first.
      for k in (0..<size).reversed() where eigen.values[k] > floor {
        (group[columns], at[columns], atom[columns]) = (g, cell, -1)
        let root = eigen.values[k].squareRoot()
        for a in 0..<size {
          back[cell + a] = eigen.vectors[k * size + a] / root
          forth[cell + a] = eigen.vectors[k * size + a] * root
        }
        cell += size
        columns += 1
      }
      offsets[g + 1] = columns
    }
    let inGroups = columns
    for j in 0..<n where !grouped[j] && gram.norms[j] > 0 {
      (group[columns], at[columns], atom[columns]) = (-1, 0, j)
      columns += 1
    }
    count = columns
    self.gram = gram
    self.given = given
    let members = try allocate(inGroups, of: Int.self)
    for i in 0..<inGroups { members[i] = i }
    groups = Groups(offsets: offsets, members: members, weights: weights, ridgeWeights: given.ridgeWeights)
    matrix = try allocate(product(columns, columns, "the Gram"))
    correlations = try allocate(product(columns, gram.targets, "C = A'Y"))
    try fill()
  }

  /// MᵀĜM and Mᵀĉ, M being `back`.
  private func fill() throws(UnmergeError) {
    let n = gram.atoms
    let m = try allocate(product(n, count, "the groups"), of: Double.self)
    let half = try allocate(n * count, of: Double.self)
    for i in 0..<count { forEachAtom(i) { j, _, a in m[i * n + j] += a } }
    Threads.withSingleThreadedBLAS {
      guard n > 0, count > 0 else { return }
      Double.gemm(false, false, n, count, n, 1, gram.column(0), n, m.pointer, n, 0, half.pointer, n)
      Double.gemm(true, false, count, count, n, 1, m.pointer, n, half.pointer, n, 0, matrix.pointer, count)
      for t in 0..<gram.targets {
        Double.gemm(
          true, false, count, 1, n, 1, m.pointer, n, gram.correlation(t), n, 0, correlations.pointer + t * count, count)
      }
    }
    for i in 0..<count {
      for k in 0..<i {
        // What it is but for rounding.
        let x = group[i] >= 0 && group[i] == group[k] ? 0 : matrix[i * count + k]
        (matrix[i * count + k], matrix[k * count + i]) = (x, x)
      }
      matrix[i * count + i] = 1
    }
    for k in 0..<(count * gram.targets) { correlations[k] = max(-1, min(1, correlations[k])) }
  }

  /// The atoms of column i, their memberships (−1: none), v_j for u_i = 1.
  private func forEachAtom(_ i: Int, _ body: (_ atom: Int, _ member: Int, _ value: Double) -> Void) {
    guard group[i] >= 0 else { return body(atom[i], -1, 1) }
    let first = given.offsets[group[i]]
    for a in 0..<(given.offsets[group[i] + 1] - first) { body(given.members[first + a], first + a, back[at[i] + a]) }
  }

  func forEachRow(
    _ i: Int, _ member: Int, _ value: Double, _ body: (_ row: Int, _ member: Int, _ value: Double) -> Void
  ) {
    forEachAtom(i) { j, k, a in if gram.norms[j] > 0 { body(j, k, a * value / gram.norms[j]) } }
  }

  /// u for the caller's w, all targets.
  func start(_ from: GroupStart) throws(UnmergeError) -> GroupStart {
    let numbers = try allocate(product(count, gram.targets, "coef"), of: Double.self)
    for t in 0..<gram.targets {
      for i in 0..<count {
        var u = 0.0
        if group[i] < 0 {
          u = from.value(column: atom[i], member: -1, target: t) * gram.norms[atom[i]]
        } else {
          let first = given.offsets[group[i]]
          for a in 0..<(given.offsets[group[i] + 1] - first) {
            let j = given.members[first + a]
            u += forth[at[i] + a] * from.value(column: j, member: first + a, target: t) * gram.norms[j]
          }
        }
        numbers[t * count + i] = u.isFinite ? u : 0
      }
    }
    return try GroupStart(numbers, rows: count)
  }
}
