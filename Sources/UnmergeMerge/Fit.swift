import UnmergeCore
import UnmergeLinalg

// Scalars that are not in a recipe and that a tool computes from whole modules in float32, so that their last bits hang on
// the machine: norms, angles, factors. They are estimated from the merged weights and then moved by single units in the last
// place to where most of a sample of the entries is reproduced.

/// Some rows in the middle of a module, with one workspace.
struct Sample: Sendable {
  private let stack: Stack
  private let rows: Range<Int>
  private let operands: Operands
  let w: Workspace

  /// At most `limit` entries, but a row at least.
  init(_ stack: Stack, _ crew: Crew, _ operands: Operands, limit: Int) {
    self.stack = stack
    self.operands = operands
    w = crew.workers[0]
    let count = min(crew.tileRows, max(1, limit / max(stack.cols, 1)))
    let size = min(stack.rows, count)
    let first = (stack.rows - size) / 2
    rows = first..<(first + size)
  }

  func load() throws(UnmergeError) { try stack.fill(w, rows, operands) }

  /// Entries of `w.out`, rounded to the stored type, that are as stored.
  func matches() -> Int {
    stack.outType.round(w.out.pointer, w.entries)
    for i in 0..<w.entries { w.same[i] = 0 }
    return Stored.mark(w.out.pointer, w.stored.pointer, w.entries, w.same.pointer)
  }
}

/// Coordinate ascent: every scalar in turn moves by plus and minus so many units in its last place to where more is
/// reproduced; what came wins ties.
func refine(
  _ scalars: [Float], _ type: ElementType, steps: [Int], _ count: ([Float]) throws(UnmergeError) -> Int
) throws(UnmergeError) -> [Float] {
  var best = scalars
  var most = try count(best)
  for _ in 0..<3 {
    let before = most
    for i in scalars.indices {
      for step in steps {
        let center = best[i]
        for units in [Float(step), -Float(step)] {
          var trial = best
          trial[i] = type.round(center + units * type.spacing(center))
          let n = try count(trial)
          if n > most { (best, most) = (trial, n) }
        }
      }
    }
    if most == before { break }
  }
  return best
}

/// The least-squares solution of a small system of normal equations, row-major; nil when it has none.
func solve(_ g: [Double], _ c: [Double]) -> [Double]? {
  let n = c.count
  guard let factor = try? Cholesky(capacity: max(n, 1)) else { return nil }
  let scale = (0..<n).map { g[$0 * n + $0].squareRoot() }
  guard scale.allSatisfy({ $0 > 0 && $0.isFinite }) else { return nil }
  for j in 0..<n {
    let column = (0..<n).map { g[j * n + $0] / scale[j] / scale[$0] }
    guard factor.append(j, column: column, diagonal: 1) else { return nil }
  }
  var x = (0..<n).map { c[$0] / scale[$0] }
  factor.solve(&x)
  return (0..<n).map { x[$0] / scale[$0] }
}
