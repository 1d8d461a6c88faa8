import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// F's smooth part for penalties that compare coefficients, where each atom cannot have a scale of its own:
///
///     ½ − bᵀx + ½ xᵀQx,   x = w D / ‖y‖,  Q = G / D²,  b = c / (D ‖y‖),  D = max ‖a_j‖
///
/// Q is block diagonal: one block for the coefficients of whole atoms, one per module where an atom has a coefficient in
/// each (rows of different modules have nothing in common). Entry (module l, atom j) is x[l·n + j].
final class BlockForm: @unchecked Sendable {
  let n: Int
  let blocks: Int
  var count: Int { n * blocks }
  /// D
  let scale: Double
  private let entries: Buffer<Double>
  /// c / D by target
  private let correlations: Buffer<Double>

  func block(_ l: Int) -> UnsafeMutablePointer<Double> { entries.pointer + l * n * n }

  /// Whole atoms.
  init(_ gram: Gram, _ watch: Watch) throws(UnmergeError) {
    n = gram.atoms
    blocks = 1
    try gram.require(Array(0..<n), watch)
    var largest = 0.0
    for j in 0..<n { largest = max(largest, gram.norms[j]) }
    scale = largest
    entries = try allocate(product(n, n, "the Gram"))
    correlations = try allocate(product(n, gram.targets, "c"))
    guard largest > 0 else { return }
    for j in 0..<n {
      let column = gram.column(j)
      let s = gram.norms[j] / largest
      for i in 0..<n { entries[j * n + i] = column[i] * (gram.norms[i] / largest) * s }
    }
    for t in 0..<gram.targets {
      for j in 0..<n { correlations[t * n + j] = gram.correlation(t)[j] * (gram.norms[j] / largest) }
    }
  }

  /// Atoms by modules, for target t; blocks of the same module add.
  init(modulesOf gram: Gram, target t: Int) throws(UnmergeError) {
    guard gram.isComplete else {
      throw .range("gram has columns on demand; coefficients per module need one made with all columns")
    }
    n = gram.atoms
    var names: [String: Int] = [:]
    for block in gram.blocks where names[block.module.string] == nil { names[block.module.string] = names.count }
    blocks = names.count
    let cells = try product(n, n, "the Gram")
    entries = try allocate(product(cells, blocks, "the Gram's blocks"))
    correlations = try allocate(product(n, blocks, "c"))
    for block in gram.blocks {
      guard let l = names[block.module.string] else { continue }
      let q = entries.pointer + l * cells
      for j in 0..<n {
        for i in 0...j { q[j * n + i] += block.g[j * n + i] }
        correlations[l * n + j] += block.c[t * n + j]
      }
    }
    // Diagonals are squares of norms: the root first, so that nothing is squared on the way.
    var largest = 0.0
    for l in 0..<blocks { for j in 0..<n { largest = max(largest, entries[l * cells + j * n + j]) } }
    scale = largest.squareRoot()
    let y = gram.targetNorms[t]
    guard largest > 0, y > 0 else { return }
    for l in 0..<blocks {
      let q = entries.pointer + l * cells
      for j in 0..<n {
        for i in 0...j {
          q[j * n + i] /= largest
          q[i * n + j] = q[j * n + i]
        }
        correlations[l * n + j] = correlations[l * n + j] / scale / y
      }
    }
  }

  /// b for target t.
  func correlation(_ t: Int) -> UnsafePointer<Double> { UnsafePointer(correlations.pointer + t * n) }

  /// z ← Qx
  func apply(_ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    guard n > 0 else { return }
    for l in 0..<blocks {
      Double.gemm(false, false, n, 1, n, 1, block(l), n, x + l * n, n, 0, z + l * n, n)
    }
  }

  /// An estimate of ‖Q‖₂ from below, by power iteration; work 2·count.
  func norm(_ work: UnsafeMutablePointer<Double>) -> Double { powerIteration(count, work) { apply($0, $1) } }
}
