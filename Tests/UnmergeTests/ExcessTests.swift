import Testing

@testable import UnmergeCore
@testable import UnmergeFactor
@testable import UnmergeLinalg

/// The kernels of excess.c against loops that say what they do.
@Suite struct ExcessTests {
  private func twin<T: Real>(_ x: [T], _ t: Double) -> Excess {
    var sums = Excess()
    for v in x where abs(Double(v)) > t {
      let u = abs(Double(v)) - t
      sums += Excess(count: 1, mass: u, squares: u * u)
    }
    return sums
  }

  private func near(_ a: Excess, _ b: Excess) -> Bool {
    a.count == b.count && abs(a.mass - b.mass) <= 1e-13 * (1 + b.mass)
      && abs(a.squares - b.squares) <= 1e-13 * (1 + b.squares)
  }

  private func check<T: Real>(_: T.Type, _ n: Int, _ seed: UInt64) {
    var random = Random(seed)
    let x = (0..<n).map { _ in T(random.next()) }
    let (largest, whole) = T.magnitudes(x, n)
    #expect(largest == x.map { abs(Double($0)) }.max() ?? 0)
    #expect(near(Excess(count: twin(x, 0).count, mass: whole.mass, squares: whole.squares), twin(x, 0)))
    #expect(whole.count == Double(n))
    for t in [0, 0.3, 0.9, 2] {
      #expect(near(T.excess(x, n, above: t), twin(x, t)))
      let expected = x.map { abs($0) }.filter { Double($0) > t }
      var out = [T](repeating: 7, count: max(n, 1))
      let count = T.survivors(&out, x, n, above: t)
      #expect(Array(out[..<count]) == expected)
      var place = x + [0]
      let same = place.withUnsafeMutableBufferPointer { p in T.survivors(p.baseAddress!, p.baseAddress!, n, above: t) }
      #expect(Array(place[..<same]) == expected)
      var z = [Double](repeating: 7, count: max(n, 1))
      for keep in [false, true] {
        let sums = T.shrink(&z, x, n, unit: 2, t: t, d: 0.05, scale: 3, keep: keep)
        var other = Excess()
        for j in 0..<n {
          let v = 2 * abs(Double(x[j]))
          let u = v > t ? max(v - t - 0.05, 0) : 0
          let d = u > 0 ? keep ? v : 3 * u : 0
          #expect(abs(z[j] - (x[j] < 0 ? -d : d)) <= 1e-15 * (1 + d))
          #expect(d > 0 || z[j].sign == .plus)
          if d > 0 { other += Excess(count: 1, mass: d, squares: d * d) }
        }
        #expect(near(sums, other))
      }
    }
  }

  @Test(arguments: [0, 1, 2, 15, 16, 17, 64, 1000])
  func kernelsDoWhatTheirTwinsDo(n: Int) {
    check(Double.self, n, UInt64(n))
    check(Float.self, n, UInt64(n) + 1)
  }

  @Test func theProjectionWorksInPlaceAgainAndAgain() throws {
    var random = Random(5)
    let rows = 50
    let columns = 6
    let state = try GroupSparseProjection(rows: rows, columns: columns)
    for s in [0.4, 0.8, 0.6] {
      var x = (0..<(rows * columns)).map { _ in max(0, random.next()) }
      let found = state.project(&x, sparsity: s)
      let average = (0..<columns).map { j in Hoyer.sparsity(rows, Array(x[(j * rows)..<((j + 1) * rows)])) }.reduce(0, +) / 6
      #expect(average >= s - 1e-13 && abs(found.sparsity - average) <= 1e-13)
      #expect(x.allSatisfy { $0 >= 0 })
      #expect(found.isUnchanged || found.relativeGap <= 1e-13)
      let before = x
      state.project(&x, sparsity: s - 0.1)
      #expect(x == before)
    }
  }
}
