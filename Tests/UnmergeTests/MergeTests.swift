import CUnmerge
import Testing
import UnmergeLinalg

@testable import UnmergeCore
@testable import UnmergeMerge

/// float32 values of every kind: random bits, and the neighbourhoods of all values of the small types.
private func everyKind(_ type: ElementType) -> [Float] {
  var random = Random(1)
  var values = (0..<20_000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: Int64(random.next() * 0x1p62) >> 13)) }
  for bits in 0...UInt16.max {
    let x = type == .f16 ? Float(Float16(bitPattern: bits)) : Float(bitPattern: UInt32(bits) << 16)
    let next = Float(bitPattern: x.bitPattern &+ (type == .f16 ? 0x1000 : 0x8000))  // half-way for normal values
    values += [x, x.nextUp, x.nextDown, next, next.nextUp, next.nextDown]
  }
  return values
}

/// The definition: the nearer of the two neighbours, the even one between them.
private func rounded(_ x: Float, _ type: ElementType) -> Float {
  switch type {
  case .f16: return Float(Float16(x))
  case .bf16:
    guard x.isFinite else { return x }
    let low = Float(bitPattern: x.bitPattern & 0xFFFF_0000)
    let high = Float(bitPattern: low.bitPattern &+ 0x1_0000)
    // Beyond the largest finite value the neighbour is where the next one would be.
    let top = high.isInfinite ? Double(low.sign == .minus ? -0x1p128 : 0x1p128) : Double(high)
    let (below, above) = (abs(Double(x) - Double(low)), abs(top - Double(x)))
    return below < above || (below == above && low.bitPattern >> 16 & 1 == 0) ? low : high
  default: return x
  }
}

@Suite struct StorageTests {
  @Test(arguments: [ElementType.bf16, .f16, .f32]) func roundingIsToTheNearest(type: ElementType) {
    let values = everyKind(type)
    var out = values
    type.round(&out, out.count)
    for (x, y) in zip(values, out) {
      let truth = rounded(x, type)
      #expect(truth.isNaN ? y.isNaN : y.bitPattern == truth.bitPattern)
    }
  }

  @Test(arguments: [ElementType.bf16, .f16, .f32]) func theSpacingIsTheDistanceToTheNextValue(type: ElementType) {
    var random = Random(2)
    for _ in 0..<2000 {
      let x = type.round(Float(random.next()) * Float(sign: .plus, exponent: Int(random.next() * 14), significand: 1))
      let step = type.spacing(x)
      #expect(x + (x < 0 ? -step : step) == type.round(x + (x < 0 ? -step : step)))
      #expect(type.round(x + (x < 0 ? -step : step) * 0.49) == x)
      #expect(type.roundingEnergy([x, x], 2) == Double(step) * Double(step) * 2 / 12)
    }
    #expect(type.spacing(1) == (type == .bf16 ? 0x1p-7 : type == .f16 ? 0x1p-10 : 0x1p-23))
    #expect(type.spacing(0) == (type == .bf16 ? 0x1p-133 : type == .f16 ? 0x1p-24 : 0x1p-149))
  }

  @Test(arguments: [1, 2, 17, 1000], [Float(0.5), 3, 1e30]) func orderStatisticsAreThoseOfASort(count: Int, scale: Float)
    throws
  {
    var random = Random(UInt64(count))
    // Many equal ones, zeros of both signs.
    let x = (0..<count).map { _ in (Float(random.next()) * 8).rounded() * scale }
    let sorted = x.map(abs).sorted()
    for rank in 0..<count {
      let s = try Magnitude.orderStatistic(x, count, rank: rank)
      #expect(s.value == sorted[rank])
      #expect(s.below == sorted.firstIndex(of: sorted[rank]))
      #expect(s.equal == sorted.filter { $0 == sorted[rank] }.count)
    }
  }

  @Test(arguments: [1, 2, 100, 3000]) func ranksCountTheSmaller(count: Int) {
    var random = Random(UInt64(count))
    let x = (0..<count).map { _ in Float(random.next()) * 1e-3 }
    var scratch = [UInt64](repeating: 0, count: 2 * count)
    var rank = [Float](repeating: -1, count: count)
    Magnitude.ranks(x, count, scratch: &scratch, into: &rank)
    let order = x.indices.sorted { abs(x[$0]) < abs(x[$1]) }
    for (r, i) in order.enumerated() {
      #expect(abs(rank[i] - (count == 1 ? 0.5 : Float(r) / Float(count - 1))) < 1e-6)
    }
  }

  @Test(arguments: [ElementType.bf16, .f16, .f32], [1, 2, 5, 16, 17, 40])
  func aStackIsSummedAsItsNaiveTwinSays(type: ElementType, atoms: Int) {
    var random = Random(UInt64(atoms))
    let count = 600
    let x = (0..<atoms).map { _ in (0..<count).map { _ in type.round(Float(random.next()) * 0.01) } }
    let w = (0..<atoms).map { _ in type.round(Float(random.next())) }
    let base = (0..<count).map { _ in type.round(Float(random.next())) }
    /// Sixteen terms at a time, then those sums.
    func sum(_ terms: [Float]) -> Float {
      var (low, high): (Float, Float) = (0, 0)
      for (j, t) in terms.enumerated() {
        low += t
        if j % 16 == 15 { (high, low) = (high + low, 0) }
      }
      return type.round(low + high)
    }
    for consensus in [Merged.Consensus.all, .sum, .count] {
      for normalize in [false, true] {
        var out = [Float](repeating: 0, count: count)
        withPointers(x) { pointers in
          Merged.stack(
            &out, pointers, w, count, consensus: consensus, normalize: normalize, divisor: 0.75, lambda: 0.7, base: base,
            type)
        }
        for i in 0..<count {
          let terms = (0..<atoms).map { type.round(x[$0][i] * w[$0]) }
          let votes = consensus == .count ? terms.map { $0 > 0 ? 1 : $0 < 0 ? -1 : Float(0) } : terms
          let isUp = sum(votes) >= 0
          let counts = terms.map { consensus == .all || (isUp ? $0 > 0 : $0 < 0) }
          var m = sum(zip(terms, counts).map { $1 ? $0 : 0 })
          if normalize {
            let d = consensus == .all ? 0.75 : sum(zip(w, counts).map { $1 ? $0 : 0 })
            m = type.round(m / (consensus != .all && d == 0 ? 1 : d))
          }
          #expect(out[i] == type.round(base[i] + type.round(m * 0.7)))
        }
      }
    }
  }
}

private func withPointers(_ x: [[Float]], _ body: ([UnsafePointer<Float>?]) -> Void) {
  let flat = x.flatMap { $0 }
  flat.withUnsafeBufferPointer { p in
    body(x.indices.map { p.baseAddress! + $0 * (x.first?.count ?? 0) })
  }
}

@Suite struct ReplayTests {
  /// rows×cols arrays that live as long as the test; the caller keeps them.
  private func columns(_ vectors: [Buffer<Float>], base: Buffer<Float>, rows: Int, cols: Int) throws -> Columns {
    func view(_ b: Buffer<Float>) -> View {
      View(base: b.pointer, type: .f32, rows: rows, columns: cols, rowStride: 4 * cols, columnStride: 4)
    }
    var columns = Columns()
    columns.names = vectors.indices.map(String.init)
    columns.modules = [
      Module(
        name: "m", rows: rows, cols: cols, pieces: vectors.map { .dense(values: view($0), base: view(base), scale: 1) })
    ]
    return columns
  }

  @Test(arguments: MergeMethod.allCases.filter { $0 != .adapterCat }) func anyNumberOfThreadsGivesTheSameBits(
    method: MergeMethod
  ) throws {
    var random = Random(UInt64(method.rawValue))
    let (rows, cols) = (700, 300)
    func buffer() throws -> Buffer<Float> {
      let b = try Buffer<Float>(rows * cols)
      for i in 0..<b.count { b[i] = Float(random.next()) * 0.1 }
      return b
    }
    let base = try buffer()
    let models = [try buffer(), try buffer()]
    let merged = try buffer()
    let atoms = try columns(models, base: base, rows: rows, cols: cols)
    let target = try columns([merged], base: base, rows: rows, cols: cols)
    var recipe = Recipe(method, weights: try PerAtom([0.3, 0.6]))
    recipe.densities = PerAtom(constant: 0.4)
    recipe.dtype = .bf16
    var results: [[Float]] = []
    var counts: [[Int?]] = []
    for threads in [1, 2, 5] {
      var run = unmerge_run.defaults
      run.threads = Int32(threads)
      let replay = try Replay(atoms, target, recipe, try Watch(&run))
      let out = try replay.predict(0)
      results.append((0..<out.count).map { out[$0] })
      let r = try #require(try replay.compareAll().last)
      counts.append([r.entries, r.equal, r.near, r.consistent, r.tied])
      #expect(r.entries == rows * cols)
    }
    #expect(results[0] == results[1] && results[0] == results[2])
    #expect(counts[0] == counts[1] && counts[0] == counts[2])

    // A stored task model's vector is the difference in the compute type.
    var run = unmerge_run.defaults
    let tau = try Replay(atoms, target, recipe, try Watch(&run)).taskVector(atom: 1, 0)
    for i in stride(from: 0, to: tau.count, by: 97) {
      let (t, b) = (ElementType.bf16.round(models[1][i]), ElementType.bf16.round(base[i]))
      #expect(tau[i] == ElementType.bf16.round(t - b))
    }
  }
}
