import Testing
import UnmergeLinalg

@testable import UnmergeCore
@testable import UnmergeSparse

/// A problem from its data, atoms and targets column by column.
private struct Many: Sendable, CustomStringConvertible {
  let description: String
  let a: [[Double]]
  let y: [[Double]]

  init(
    _ name: String, rows: Int, _ k: Int, targets: Int, common: Double = 0, seed: UInt64,
    _ change: (inout [[Double]]) -> Void = { _ in }
  ) {
    var random = Draws(seed)
    let shared = (0..<rows).map { _ in random.normal() }
    var a = (0..<k).map { _ in (0..<rows).map { i in random.normal() + common * shared[i] } }
    change(&a)
    self.a = a
    y = (0..<targets).map { _ in (0..<rows).map { i in random.normal() + common * shared[i] } }
    description = name
  }

  var k: Int { a.count }
  var gram: [Double] { a.flatMap { p in a.map { dot(p, $0) } } }
  var correlations: [Double] { y.flatMap { p in a.map { dot(p, $0) } } }

  func residual(_ x: ArraySlice<Double>, _ t: Int) -> [Double] {
    var r = y[t]
    for (j, w) in x.enumerated() where w != 0 { for i in r.indices { r[i] -= w * a[j][i] } }
    return r
  }
}

private func solve(
  _ k: Int, _ g: [Double], _ c: [Double], threads: Int = 1, from start: [Double]? = nil
) throws -> (x: [Double], outcome: BlockPivoting.Outcome) {
  var x = start ?? [Double](repeating: 0, count: c.count)
  let solver = try BlockPivoting(size: k, threads: threads)
  solver.prepare(g)
  let outcome = solver.solve(c, &x, targets: c.count / max(k, 1))
  return (x, outcome)
}

private let independent: [Many] = [
  Many("one atom", rows: 5, 1, targets: 40, seed: 1),
  Many("few atoms", rows: 30, 4, targets: 700, seed: 2),
  Many("correlated", rows: 80, 30, targets: 300, common: 2, seed: 3),
  Many("a full word", rows: 90, 64, targets: 60, seed: 4),
  Many("a word and a bit", rows: 90, 65, targets: 60, common: 1, seed: 5),
  Many("scales", rows: 40, 20, targets: 100, seed: 6) { a in
    for j in a.indices { for i in a[j].indices { a[j][i] *= j % 2 == 0 ? 1e-9 : 1e7 } }
  },
]

private let dependent: [Many] = [
  Many("twins", rows: 40, 12, targets: 100, seed: 7) { a in (a[5], a[9]) = (a[0], a[1]) },
  Many("zero atoms", rows: 40, 12, targets: 100, seed: 8) { a in
    for j in [0, 11] { a[j] = [Double](repeating: 0, count: 40) }
  },
  Many("a sum", rows: 40, 12, targets: 100, seed: 9) { a in a[7] = zip(a[2], a[3]).map { $0 + $1 } },
  Many("wide", rows: 6, 20, targets: 100, seed: 10),
]

@Suite struct BlockPivotingTests {
  /// x ≥ 0, Aᵀr ≤ 0 and complementarity, from the data and as correlations.
  @Test(arguments: independent + dependent)
  fileprivate func solutionsAreOptimal(_ data: Many) throws {
    let k = data.k
    let (x, outcome) = try solve(k, data.gram, data.correlations)
    #expect(outcome.violation < 1e-12)
    for t in data.y.indices {
      let w = x[(t * k)..<((t + 1) * k)]
      let r = data.residual(w, t)
      let size = dot(data.y[t], data.y[t]).squareRoot()
      for (j, value) in w.enumerated() {
        let d = dot(data.a[j], data.a[j]).squareRoot()
        let g = d > 0 ? dot(data.a[j], r) / (d * size) : 0
        #expect(value >= 0)
        #expect(g < 1e-11)
        #expect(value == 0 || g > -1e-11)
      }
    }
  }

  /// Every support of six atoms: the best feasible least-squares fit is the solution.
  @Test func agreesWithAllSupports() throws {
    let data = Many("all supports", rows: 9, 6, targets: 50, common: 1, seed: 11)
    let (k, g, c) = (6, data.gram, data.correlations)
    let (x, _) = try solve(k, g, c)
    for t in data.y.indices {
      var best = dot(data.y[t], data.y[t])
      var argument = [Double](repeating: 0, count: k)
      for set in 1..<(1 << k) {
        let s = (0..<k).filter { set >> $0 & 1 == 1 }
        var factor = s.flatMap { i in s.map { g[i * k + $0] } }
        var z = s.map { c[t * k + $0] }
        guard Symmetric.factor(s.count, &factor) != nil else { continue }
        Symmetric.solve(s.count, factor: factor, &z, columns: 1)
        guard z.allSatisfy({ $0 >= 0 }) else { continue }
        var w = [Double](repeating: 0, count: k)
        for (i, j) in s.enumerated() { w[j] = z[i] }
        let r = data.residual(w[...], t)
        if dot(r, r) < best { (best, argument) = (dot(r, r), w) }
      }
      for j in 0..<k { #expect(abs(x[t * k + j] - argument[j]) < 1e-11) }
    }
  }

  /// Orthonormal atoms: x = max(c, 0), and one exchange finds it.
  @Test func orthonormalAtomsAreClipped() throws {
    let k = 5
    let identity = (0..<(k * k)).map { $0 % (k + 1) == 0 ? 1.0 : 0 }
    let c = [0.5, -1, 0, 2, -3, -1, -1, -1, -1, -1, 1, 2, 3, 4, 5]
    let (x, outcome) = try solve(k, identity, c)
    #expect(x == c.map { max($0, 0) })
    #expect(outcome.exchanges == 2 && outcome.violation == 0)
  }

  /// A linear term that is not in the range of G: along the null direction of the twins only the cheaper one stays.
  @Test func penaltyChoosesBetweenTwins() throws {
    let (x, outcome) = try solve(2, [1, 1, 1, 1], [1 - 0.3, 1 - 0.1, 1 - 0.1, 1 - 0.3], from: [1, 0, 1, 1])
    #expect(outcome.violation < 1e-15)
    for (value, expected) in zip(x, [0, 0.9, 0.9, 0]) { #expect(abs(value - expected) < 1e-15) }
  }

  @Test(arguments: independent + dependent)
  fileprivate func bitsDoNotDependOnThreads(_ data: Many) throws {
    let one = try solve(data.k, data.gram, data.correlations)
    for threads in [2, 5] {
      let many = try solve(data.k, data.gram, data.correlations, threads: threads)
      #expect(many.x == one.x)
      #expect(many.outcome.exchanges == one.outcome.exchanges && many.outcome.violation == one.outcome.violation)
    }
  }

  /// From its own solution nothing is exchanged; from anywhere the solution is the same.
  @Test(arguments: independent)
  fileprivate func startsDoNotMatter(_ data: Many) throws {
    let (k, g, c) = (data.k, data.gram, data.correlations)
    let cold = try solve(k, g, c)
    let warm = try solve(k, g, c, from: cold.x)
    #expect(warm.outcome.exchanges == 0 && warm.outcome.fallbacks == 0)
    let full = try solve(k, g, c, from: [Double](repeating: 1, count: c.count))
    for t in data.y.indices {
      for j in 0..<k {
        let unit = g[j * k + j].squareRoot() / dot(data.y[t], data.y[t]).squareRoot()
        #expect(abs(warm.x[t * k + j] - cold.x[t * k + j]) * unit < 1e-11)
        #expect(abs(full.x[t * k + j] - cold.x[t * k + j]) * unit < 1e-11)
      }
    }
  }

  @Test func nothingAndNoNumberAreAnswered() throws {
    #expect(try solve(0, [], []).x.isEmpty)
    #expect(try solve(2, [1, 0, 0, 1], []).x.isEmpty)
    #expect(try solve(2, [1, 0, 0, 1], [0, 0], from: [3, 4]).x == [0, 0])
    #expect(try solve(2, [0, 0, 0, 0], [1, 1], from: [3, 4]).x == [0, 0])
    #expect(try solve(2, [1, 0, 0, 1], [.nan, 1, 1, 2]).outcome.violation.isNaN)
    #expect(try solve(2, [1, 0, 0, 1], [.nan, 1, 1, 2]).x == [0, 0, 1, 2])
  }
}
