import CUnmerge
import UnmergeLinalg

/// Precision a Gram was computed in.
package enum Precision: Int32, Sendable {
  case fast = 1
  case exact = 2

  /// Bound on |error of G_ij| / (‖a_i‖ ‖a_j‖): the floor below which a correlation means nothing.
  package var entryError: Double { self == .fast ? 2e-8 : 5e-15 }
}

/// The sums over one block of rows: G = AᵀA (upper triangle, column-major n×n), C = AᵀY (n×T), yy = diag(YᵀY).
package struct Block: Sendable {
  package let module: ModuleName
  package let fold: Int
  package let entries: Int
  package let g: Buffer<Double>
  package let c: Buffer<Double>
  package let yy: Buffer<Double>
}

/// A name that C can borrow: NUL-terminated bytes that live as long as the Gram.
package final class ModuleName: Sendable {
  package let string: String
  package let bytes: Buffer<CChar>

  package init(_ string: String) throws(UnmergeError) {
    self.string = string
    bytes = try allocate(string.utf8.count + 1)
    for (i, byte) in string.utf8.enumerated() { bytes[i] = CChar(bitPattern: byte) }
  }
}

/// Where further columns of a Gram on demand come from: one pass over the data.
package protocol ColumnSource: Sendable {
  /// G[:, columns] as n×columns.count, column-major, unscaled.
  func columns(_ columns: [Int], _ watch: Watch) throws(UnmergeError) -> Buffer<Double>
}

/// The summary every method answers from.
///
/// Methods work on the *unit-diagonal* form: with d_j = ‖a_j‖ and v_j = w_j d_j / ‖y‖ the data term is
/// ‖y‖² (½ − ĉᵀv + ½ vᵀĜv), Ĝ_ij = G_ij / (d_i d_j), ĉ_j = c_j / (d_j ‖y‖). Scales of atoms and target drop out, gradients
/// are correlations in [−1, 1]. Zero atoms have d = 0, a zero column (diagonal 0 included) and ĉ = 0.
///
/// Read-only once made; columns of Ĝ may appear later (`require`), under a lock, and never change.
package final class Gram: Handle, @unchecked Sendable {
  package static let kind: UInt = 2
  package static let name = "a Gram"

  package let atoms: Int
  package let targets: Int
  package let entries: Int
  package let precision: Precision
  /// Sums per block; their `g` is empty when columns come on demand.
  package let blocks: [Block]
  /// d_j = ‖a_j‖
  package let norms: Buffer<Double>
  /// Some d_j is 0.
  package let hasZeroAtom: Bool
  /// ‖y_t‖
  package let targetNorms: Buffer<Double>
  /// Ĝ is complete: nothing is on demand.
  package let isComplete: Bool
  /// Estimate for Ĝ (zero atoms aside); ∞ when singular, NaN on demand.
  package let condition: Double
  /// Estimate of ‖Ĝ⁻¹‖: what an error of Ĝ or ĉ is multiplied by in least-squares coefficients (same special values).
  package let sensitivity: Double

  private let correlations: Buffer<Double>
  /// Columns of Ĝ by atom; unknown ones are nil.
  private let known: Buffer<UnsafePointer<Double>?>
  private var owners: [Buffer<Double>] = []
  private var count = 0
  private var passesMade: Int
  private let source: (any ColumnSource)?
  private let lock = Lock()

  /// A complete Gram: the sum of its blocks.
  package convenience init(
    atoms: Int, targets: Int, blocks: [Block], precision: Precision, passes: Int
  ) throws(UnmergeError) {
    let n = atoms
    let total = try allocate(n * n, of: Double.self)
    let c = try allocate(n * targets, of: Double.self)
    let yy = try allocate(targets, of: Double.self)
    for block in blocks {
      Double.accumulate(total.pointer, block.g.pointer, n * n)
      Double.accumulate(c.pointer, block.c.pointer, n * targets)
      Double.accumulate(yy.pointer, block.yy.pointer, targets)
    }
    let d = try allocate(n, of: Double.self)
    for j in 0..<n { d[j] = total[j * n + j].squareRoot() }
    // Scale in place, both triangles.
    for j in 0..<n {
      for i in 0..<j {
        let s = d[i] > 0 && d[j] > 0 ? total[j * n + i] / d[i] / d[j] : 0
        total[j * n + i] = s
        total[i * n + j] = s
      }
      total[j * n + j] = d[j] > 0 ? 1 : 0
    }
    let shift = try allocate(n, of: Double.self)
    for j in 0..<n where d[j] == 0 { shift[j] = 1 }
    let factor = try allocating { () throws(OutOfMemory) in
      try DenseCholesky(n, total.pointer, addingToDiagonal: shift.pointer)
    }
    try self.init(
      atoms: n, targets: targets, entries: blocks.reduce(0) { saturatingSum($0, $1.entries) }, blocks: blocks, norms: d,
      c: c, yy: yy,
      precision: precision, passes: passes, condition: factor?.condition ?? .infinity,
      sensitivity: factor?.inverseNorm ?? .infinity,
      complete: total, source: nil)
  }

  /// The common initialiser: `complete` holds Ĝ, or `source` computes its columns when asked. `c` is taken over and scaled.
  package init(
    atoms: Int, targets: Int, entries: Int, blocks: [Block], norms: Buffer<Double>, c: Buffer<Double>, yy: Buffer<Double>,
    precision: Precision, passes: Int, condition: Double = .nan, sensitivity: Double = .nan, complete: Buffer<Double>?,
    source: (any ColumnSource)?
  ) throws(UnmergeError) {
    self.atoms = atoms
    self.targets = targets
    self.entries = entries
    self.blocks = blocks
    self.norms = norms
    hasZeroAtom = (0..<atoms).contains { norms[$0] == 0 }
    self.precision = precision
    self.condition = condition
    self.sensitivity = sensitivity
    self.source = source
    isComplete = complete != nil
    passesMade = passes
    targetNorms = try allocate(targets)
    for t in 0..<targets { targetNorms[t] = max(yy[t], 0).squareRoot() }
    for t in 0..<targets {
      for j in 0..<atoms {
        let scale = norms[j] > 0 && targetNorms[t] > 0
        c[t * atoms + j] = scale ? max(-1, min(1, c[t * atoms + j] / norms[j] / targetNorms[t])) : 0
      }
    }
    correlations = c
    known = try allocate(atoms)
    if let complete {
      owners = [complete]
      for j in 0..<atoms { known[j] = UnsafePointer(complete.pointer + j * atoms) }
      count = atoms
    }
  }

  package var passes: Int { lock.locked { passesMade } }
  package var knownColumns: Int { lock.locked { count } }

  /// ĉ for target t.
  package func correlation(_ t: Int) -> UnsafePointer<Double> { UnsafePointer(correlations.pointer + t * atoms) }

  /// Column j of Ĝ; `require` has been called for it (always true of a complete Gram).
  package func column(_ j: Int) -> UnsafePointer<Double> {
    assert(known[j] != nil, "column \(j) was not required")
    return known[j].unsafelyUnwrapped
  }

  package func has(_ j: Int) -> Bool { isComplete || lock.locked { known[j] != nil } }

  /// Makes columns known, in one pass over the data when any of them is not.
  package func require(_ columns: [Int], _ watch: Watch) throws(UnmergeError) {
    guard !isComplete, let source else { return }
    try lock.locked { () throws(UnmergeError) in
      let n = atoms
      var missing = columns.filter { known[$0] == nil }
      guard !missing.isEmpty else { return }
      // The answer is not sparse after all: one triangular product for the rest beats pass after pass.
      if count + missing.count > n / 4 { missing = (0..<n).filter { known[$0] == nil } }
      let fresh = try source.columns(missing, watch)
      for (k, j) in missing.enumerated() {
        let column = fresh.pointer + k * n
        for i in 0..<n { column[i] = norms[i] > 0 && norms[j] > 0 ? column[i] / norms[i] / norms[j] : 0 }
        column[j] = norms[j] > 0 ? 1 : 0
      }
      owners.append(fresh)
      for (k, j) in missing.enumerated() { known[j] = UnsafePointer(fresh.pointer + k * n) }
      count += missing.count
      passesMade += 1
    }
  }
}
