import CUnmerge
import Testing
import UnmergeLinalg

@testable import UnmergeCore
@testable import UnmergeSparse

/// Columns from a complete Gram, counted; `stop` cancels instead.
private final class Columns: ColumnSource, @unchecked Sendable {
  let complete: Gram
  var asked: [Int] = []

  init(_ complete: Gram) { self.complete = complete }

  func columns(_ columns: [Int], _ watch: Watch) throws(UnmergeError) -> Buffer<Double> {
    if let stop = watch.poll() { throw stop.error }
    let n = complete.atoms
    let result: Buffer<Double> = try allocate(n * columns.count)
    for (k, j) in columns.enumerated() {
      for i in 0..<n { result[k * n + i] = complete.column(j)[i] * complete.norms[i] * complete.norms[j] }
    }
    asked += columns
    return result
  }
}

@Suite struct SparseOnDemand {
  private func make(_ data: Sample) throws -> (TestGram, Columns, TestGram) {
    let complete = try TestGram(data)
    let source = Columns(complete.gram)
    let n = data.n
    let norms = try complete.gram.norms.copy()
    let c = try Buffer<Double>(n)
    for j in 0..<n { c[j] = dot(data.atoms[j], data.targets[0]) }
    let yy = try Buffer<Double>(1)
    yy[0] = dot(data.targets[0], data.targets[0])
    let lazy = try Gram(
      atoms: n, targets: 1, entries: data.rows, blocks: [], norms: norms, c: c, yy: yy, precision: .exact, passes: 1,
      condition: .nan, complete: nil, source: source)
    return (try TestGram(lazy), source, complete)
  }

  /// The same answers from few columns in few passes.
  @Test func sparseAnswersNeedFewColumns() throws {
    let data = Sample.random("", rows: 300, n: 200, noise: 0.1, nonnegative: true, active: 6, seed: 21)
    func same(_ a: Answer, _ b: Answer, _ source: Columns, passes: Int64, _ name: String) {
      #expect(distance(a.coef, b.coef) < 1e-12, "\(name)")
      #expect(a.report.outcome == UNMERGE_CONVERGED, "\(name)")
      #expect(source.asked.count < 50 && a.report.passes <= passes, "\(name): \(source.asked.count), \(a.report.passes)")
    }
    var (g, source, complete) = try make(data)
    same(omp(g, k: 6), omp(complete, k: 6), source, passes: 2, "omp")
    (g, source, complete) = try make(data)
    same(omp(g, k: 6, positive: true), omp(complete, k: 6, positive: true), source, passes: 2, "positive omp")
    for net in [Net(alpha: 0.3, relative: true), Net(alpha: 0.3, l1Ratio: 0.9, positive: true, relative: true)] {
      (g, source, complete) = try make(data)
      same(net.solve(g), net.solve(complete), source, passes: 4, "\(net)")
    }
  }

  @Test func denseAnswersAskForAll() throws {
    let data = Sample.random("", rows: 60, n: 20, noise: 1, active: 10, seed: 22)
    let (g, _, complete) = try make(data)
    #expect(distance(nnls(g).coef, nnls(complete).coef) < 1e-12)
    #expect(nnls(g).report.duality_gap.isNaN)
    #expect(distance(ridge(g, alpha: 1).coef, ridge(complete, alpha: 1).coef) < 1e-12)
    let start = nnls(complete).coef
    let (fresh, _, _) = try make(data)
    #expect(nnls(fresh, start: start).report.iterations <= 1)
  }

  @Test func aRunThatEndsInThePassAnswers() throws {
    let (g, _, _) = try make(problems[2])
    let flag: Int32 = 1
    withUnsafePointer(to: flag) { flag in
      for a in [nnls(g) { $0.cancel = flag }, omp(g, k: 3) { $0.cancel = flag }] {
        #expect(a.status == UNMERGE_OK && a.report.outcome == UNMERGE_CANCELLED && a.coef.allSatisfy { $0 == 0 })
      }
    }
  }
}
