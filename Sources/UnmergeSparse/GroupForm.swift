import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// What a group method needs of a Gram: its columns, each over the rows of one part, the Gram being block-diagonal over the
/// parts. Everything is in the unit-diagonal form of `Gram`. Solvers are specialised for each form.
protocol GramForm: Sendable {
  var gram: Gram { get }
  /// Columns of Ĝ.
  var count: Int { get }
  var parts: Int { get }
  /// Rows (and columns) of a part: part k has columns k·height ..< (k + 1)·height.
  var height: Int { get }
  /// d_i
  func norm(_ i: Int) -> Double
  /// ĉ for target t
  func correlation(_ t: Int) -> UnsafePointer<Double>
  /// Column i of Ĝ over the rows of its part.
  func column(_ i: Int) -> UnsafePointer<Double>
  /// Coefficients the caller has, and those that a coefficient `value` of column i comes to.
  var rows: Int { get }
  func forEachRow(
    _ i: Int, _ member: Int, _ value: Double, _ body: (_ row: Int, _ member: Int, _ value: Double) -> Void)
}

extension GramForm {
  var rows: Int { count }
  func forEachRow(
    _ i: Int, _ member: Int, _ value: Double, _ body: (_ row: Int, _ member: Int, _ value: Double) -> Void
  ) {
    body(i, member, value)
  }

  @inline(__always)
  func part(_ i: Int) -> Int { i / height }

  /// g += a·Ĝ_i
  @inline(__always)
  func add(_ i: Int, _ a: Double, _ g: UnsafeMutablePointer<Double>) {
    Vector.axpy(height, a, column(i), g + (i / height) * height)
  }

  /// Ĝ_ij for i and j in the same part.
  @inline(__always)
  func entry(_ i: Int, _ j: Int) -> Double { column(i)[j - (i / height) * height] }
}

/// One part: Ĝ as it is. Columns may come on demand.
struct DenseForm: GramForm {
  let gram: Gram
  var count: Int { gram.atoms }
  var parts: Int { 1 }
  var height: Int { max(gram.atoms, 1) }
  func norm(_ i: Int) -> Double { gram.norms[i] }
  func correlation(_ t: Int) -> UnsafePointer<Double> { gram.correlation(t) }
  @inline(__always)
  func column(_ i: Int) -> UnsafePointer<Double> { gram.column(i) }
}

/// A part per module: column m·n + j is atom j in module m. Rows of different modules are disjoint, so nothing is off the
/// diagonal; L n² numbers, one copy of the Gram's blocks.
struct ModuleForm: GramForm {
  let gram: Gram
  let parts: Int
  private let norms: Buffer<Double>
  private let correlations: Buffer<Double>
  private let matrix: Buffer<Double>

  var count: Int { parts * gram.atoms }
  var height: Int { max(gram.atoms, 1) }
  func norm(_ i: Int) -> Double { norms[i] }
  func correlation(_ t: Int) -> UnsafePointer<Double> { UnsafePointer(correlations.pointer + t * count) }
  @inline(__always)
  func column(_ i: Int) -> UnsafePointer<Double> { UnsafePointer(matrix.pointer + i * gram.atoms) }

  init(_ gram: Gram) throws(UnmergeError) {
    guard gram.isComplete else {
      throw .shape("gram has its columns on demand and keeps no modules apart; make it with UNMERGE_COLUMNS_ALL")
    }
    let n = gram.atoms
    var index: [String: Int] = [:]
    for block in gram.blocks where index[block.module.string] == nil { index[block.module.string] = index.count }
    let parts = index.count
    let columns = try product(parts, n, "the modules' coefficients")
    norms = try allocate(columns)
    correlations = try allocate(product(columns, gram.targets, "the modules' correlations"))
    matrix = try allocate(product(columns, n, "the modules' Grams"))
    for block in gram.blocks {
      guard let k = index[block.module.string] else { continue }
      Double.accumulate(matrix.pointer + k * n * n, block.g.pointer, n * n)
      for t in 0..<gram.targets {
        Double.accumulate(correlations.pointer + t * columns + k * n, block.c.pointer + t * n, n)
      }
    }
    for k in 0..<parts {
      let a = matrix.pointer + k * n * n
      let d = norms.pointer + k * n
      for j in 0..<n { d[j] = a[j * n + j].squareRoot() }
      for j in 0..<n {
        for i in 0..<j {
          let s = d[i] > 0 && d[j] > 0 ? a[j * n + i] / d[i] / d[j] : 0
          a[j * n + i] = s
          a[i * n + j] = s
        }
        a[j * n + j] = d[j] > 0 ? 1 : 0
      }
    }
    for t in 0..<gram.targets {
      for i in 0..<columns {
        let scale = norms[i] > 0 && gram.targetNorms[t] > 0
        let c = correlations.pointer + t * columns + i
        c.pointee = scale ? max(-1, min(1, c.pointee / norms[i] / gram.targetNorms[t])) : 0
      }
    }
    self.gram = gram
    self.parts = parts
  }
}
