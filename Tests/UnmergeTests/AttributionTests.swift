import CUnmerge
import Testing
import UnmergeLinalg

@testable import UnmergeCore
@testable import UnmergeMerge

/// Row-major matrices kept alive for the operators that borrow them.
private final class Store {
  let atoms = Operator()
  let target = Operator()
  private var buffers: [Buffer<Double>] = []
  private var random: Random

  init(_ seed: UInt64) { random = Random(seed) }

  func normal() -> Double { random.next() + random.next() + random.next() }

  func view(_ x: [Double], _ rows: Int, _ cols: Int) throws -> View {
    let b = try Buffer<Double>(max(x.count, 1))
    for (i, v) in x.enumerated() { b[i] = v }
    buffers.append(b)
    return View(
      base: UnsafeMutableRawPointer(b.pointer), type: .f64, rows: rows, columns: cols, rowStride: cols * 8, columnStride: 8)
  }
}

private func watch(_ threads: Int32 = 1) throws -> Watch {
  var run = unmerge_run()
  _ = unmerge_run_init(&run, MemoryLayout<unmerge_run>.size)
  run.threads = threads
  return try Watch(&run)
}

private func product(_ b: [Double], _ a: [Double], _ rows: Int, _ rank: Int, _ cols: Int) -> [Double] {
  (0..<rows * cols).map { e in (0..<rank).reduce(0) { $0 + b[e / cols * rank + $1] * a[$1 * cols + e % cols] } }
}

/// Rows of A, orthonormal; those that depend on others left out.
private func basis(_ a: [Double], _ rank: Int, _ cols: Int) -> [[Double]] {
  var q: [[Double]] = []
  for i in 0..<rank {
    var x = Array(a[i * cols..<(i + 1) * cols])
    let before = dot(x, x)
    for _ in 0..<2 {
      for p in q {
        let c = dot(p, x)
        for k in x.indices { x[k] -= c * p[k] }
      }
    }
    let left = dot(x, x)
    if left > 1e-10 * before { q.append(x.map { $0 / left.squareRoot() }) }
  }
  return q
}

@Suite struct RowSpacesTests {
  /// ‖R Q_jᵀ‖² and ‖R‖² as they are defined, for any weights; by module and together.
  @Test(arguments: [Set<Int>(), [1], [0, 1, 2, 3]], [(7, 9), (40, 12), (1, 20), (30, 1)])
  func residualsAreThoseOfTheDefinition(dense: Set<Int>, shape: (Int, Int)) throws {
    let (rows, cols) = shape
    let s = Store(UInt64(rows + dense.count))
    let ranks = [2, 3, 1, 12]
    for j in ranks.indices { _ = try s.atoms.addColumn("\(j)") }
    _ = try s.target.addColumn("y")
    var definitions: [(d: [Double], delta: [[Double]], q: [[[Double]]?])] = []
    for m in 0..<3 {
      _ = try s.atoms.addModule("\(m)", rows: rows, cols: cols)
      _ = try s.target.addModule("\(m)", rows: rows, cols: cols)
      let d = (0..<rows * cols).map { _ in s.normal() }
      try s.target.set(.dense(values: s.view(d, rows, cols), base: nil, scale: 1), module: Int64(m), column: 0)
      var deltas: [[Double]] = []
      var bases: [[[Double]]?] = []
      for (j, r) in ranks.enumerated() {
        guard !(j == 2 && m == 1) else {  // an atom that is not everywhere
          deltas.append(Array(repeating: 0, count: rows * cols))
          bases.append([])
          continue
        }
        let b = (0..<rows * r).map { _ in s.normal() }
        var a = (0..<r * cols).map { _ in s.normal() }
        if r == 3 { for k in 0..<cols { a[2 * cols + k] = a[k] - 2 * a[cols + k] } }  // a row that says nothing new
        let delta = product(b, a, rows, r, cols)
        deltas.append(delta)
        bases.append(dense.contains(j) ? nil : basis(a, r, cols))
        let piece: Piece =
          dense.contains(j)
          ? .dense(values: try s.view(delta, rows, cols), base: nil, scale: 1)
          : .lora(b: try s.view(b.map { $0 * 4 }, rows, r), a: try s.view(a, r, cols), scale: 0.25)
        try s.atoms.set(piece, module: Int64(m), column: Int64(j))
      }
      definitions.append((d, deltas, bases))
    }
    let (all, modules) = try RowSpaces(s.atoms.snapshot, s.target.snapshot, try watch(2)).sums()
    #expect(modules.count == 3)
    for w in [[0, 0, 0, 0], [0.5, -1, 0, 2], [1, 1, 1, 1]] {
      var total = 0.0
      var inRows = [0.0, 0, 0, 0]
      var energy = 0.0
      for (m, x) in definitions.enumerated() {
        let r = x.d.indices.map { e in x.d[e] - (0..<4).reduce(0) { $0 + w[$1] * x.delta[$1][e] } }
        energy += dot(x.d, x.d) + (0..<4).reduce(0) { $0 + w[$1] * w[$1] * dot(x.delta[$1], x.delta[$1]) }
        #expect(abs(modules[m].residual(w) - dot(r, r)) < 1e-5 * energy)
        total += dot(r, r)
        for j in 0..<4 {
          guard let q = x.q[j] else {
            inRows[j] += dot(r, r)
            continue
          }
          for p in q {
            for i in 0..<rows {
              let y = dot(p, Array(r[i * cols..<(i + 1) * cols]))
              inRows[j] += y * y
            }
          }
        }
      }
      #expect(abs(all.residual(w) - total) < 1e-5 * energy)
      for j in 0..<4 { #expect(abs(all.residual(w, inRowsOf: j) - inRows[j]) < 1e-5 * energy) }
    }
  }
}

@Suite struct PresenceTests {
  @Test func falseDiscoveryRatesAreThoseOfTheDefinition() {
    var random = Random(3)
    for n in [1, 2, 5, 40] {
      let p = (0..<n).map { $0 % 7 == 3 ? 0.25 : abs(random.next()) }  // some are equal
      let tested = (0..<n).filter { $0 % 5 != 4 }
      let q = falseDiscoveryRates(p, tested)
      for j in 0..<n {
        guard tested.contains(j) else {
          #expect(q[j] == 1)
          continue
        }
        let expected = tested.filter { p[$0] >= p[j] }.map { i in
          p[i] * Double(tested.count) / Double(tested.count(where: { p[$0] <= p[i] }))
        }.min() ?? 1
        #expect(abs(q[j] - min(1, expected)) < 1e-15)
      }
    }
    #expect(falseDiscoveryRates([], []).isEmpty)
  }

  /// Ranks inside the sample; beyond it never more, and 0 only at infinity.
  @Test(arguments: [0, 39, 40, 1000]) func tailsAreMonotone(count: Int) {
    var random = Random(UInt64(count) + 1)
    let sample = (0..<count).map { _ in abs(random.next()) }.sorted()
    let tail = NullTail(sample)
    #expect(tail.isEmpirical == (count >= 40))
    var last = 1.0
    for i in 0...4000 {
      let p = tail.pValue(Double(i) / 1000)
      #expect(p > 0 && p <= last + 1e-12)
      last = p
    }
    #expect(tail.pValue(0) > 0.9 && tail.pValue(.infinity) == 0 && tail.pValue(1e9) > 0)
    guard count >= 40 else { return }
    for i in stride(from: 0, to: Int(0.9 * Double(count)), by: 7) {
      #expect(abs(tail.pValue(sample[i]) - Double(count - i + 1) / Double(count + 1)) < 1e-12)
    }
  }

  @Test func aNullOfZerosIsANull() {
    let tail = NullTail(Array(repeating: 0, count: 100))
    #expect(tail.pValue(0) <= 1 && tail.pValue(0) > 0.5 && tail.pValue(1) < 1e-6)
  }

  @Test func dependentAtomsGetNothing() throws {
    // The third is the sum of the first two, the fourth is zero.
    let x: [[Double]] = [[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 2, 0], [0, 0, 0, 0]]
    let y: [Double] = [1, 2, 4, 1]
    let fit = DictionaryFit(x.flatMap { a in x.map { dot(a, $0) } }, atoms: 4)
    let c = x.map { dot($0, y) }
    let w = try fit.solve(c, [0, 1, 2, 3])
    #expect(w[2] == 0 && w[3] == 0)
    for j in 0..<2 { #expect(abs(c[j] - (0..<4).reduce(0) { $0 + w[$1] * dot(x[j], x[$1]) }) < 1e-12) }
    #expect(try fit.solve(c, []) == [0, 0, 0, 0])
    #expect(abs(try fit.solve(c, [2])[2] - c[2] / dot(x[2], x[2])) < 1e-12)
    #expect(fit.norm(3) == 0 && fit.cosine(0, 3) == 0 && abs(fit.cosine(0, 1) - 0.5) < 1e-15)
    #expect(try fit.condition([]) == 1)
    let third = try fit.condition([0, 1])  // 1-norm, exactly (1 + c)² / (1 − c²)
    #expect(third > 1 && third < 3.1)
  }
}
