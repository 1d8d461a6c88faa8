import CUnmerge
import Testing
import UnmergeCore
import UnmergeLinalg
import UnmergeMerge

/// Modules, atoms and a target of known making; the memory lives as long as this does.
private final class Merge {
  let atoms = Operator()
  let target = Operator()
  private var memory: [UnsafeMutableRawPointer] = []
  private var random: Random

  init(_ seed: UInt64) { random = Random(seed) }
  deinit { for p in memory { p.deallocate() } }

  /// Roughly normal.
  func normal() -> Double { (0..<6).reduce(0) { s, _ in s + random.next() } / 1.4142135623730951 }

  func view(_ x: [Double], _ rows: Int, _ cols: Int, _ type: ElementType = .f32) -> View {
    let p = UnsafeMutableRawPointer.allocate(byteCount: max(1, x.count * type.size), alignment: 64)
    memory.append(p)
    for (i, v) in x.enumerated() {
      switch type {
      case .f64: p.storeBytes(of: v, toByteOffset: 8 * i, as: Double.self)
      case .f32: p.storeBytes(of: Float(v), toByteOffset: 4 * i, as: Float.self)
      case .f16: p.storeBytes(of: Float16(v), toByteOffset: 2 * i, as: Float16.self)
      case .bf16:
        p.storeBytes(of: UInt16(ElementType.bf16.round(Float(v)).bitPattern >> 16), toByteOffset: 2 * i, as: UInt16.self)
      }
    }
    return View(base: p, type: type, rows: rows, columns: cols, rowStride: cols * type.size, columnStride: type.size)
  }

  /// `count` modules; D = Σ w Δ + an unknown product of rank 3, on a base, in `type`. Atom j with dense[j] is given formed.
  func fill(
    modules count: Int, rows: Int, cols: Int, ranks: [Int], weights: [Double], unknown: Double, dense: Set<Int> = [],
    zero: Set<Int> = [], twins: [Int: Int] = [:], type: ElementType = .f32, keep: Double = 1
  ) throws {
    for j in ranks.indices { _ = try atoms.addColumn("atom \(j)") }
    _ = try target.addColumn("target")
    for m in 0..<count {
      _ = try atoms.addModule("module \(m)", rows: rows, cols: cols)
      _ = try target.addModule("module \(m)", rows: rows, cols: cols)
      let base = (0..<rows * cols).map { _ in Double(type.round(Float(0.05 * normal()))) }
      var d = [Double](repeating: 0, count: rows * cols)
      var factors: [(b: [Double], a: [Double])] = []
      func product(_ b: [Double], _ a: [Double], _ r: Int) -> [Double] {
        (0..<rows * cols).map { e in (0..<r).reduce(0) { $0 + b[e / cols * r + $1] * a[$1 * cols + e % cols] } }
      }
      for (j, r) in ranks.enumerated() {
        var f = (b: (0..<rows * r).map { _ in 0.03 * normal() }, a: (0..<r * cols).map { _ in 0.05 * normal() })
        if zero.contains(j) { f.b = f.b.map { _ in 0 } }
        if let twin = twins[j] { f = factors[twin] }
        factors.append(f)
        let delta = product(f.b, f.a, r)
        for e in d.indices {
          if keep == 1 {
            d[e] += weights[j] * delta[e]
          } else if abs(random.next()) < keep {
            // A tool that drops entries has read the task model as stored.
            d[e] += weights[j] / keep * (Double(type.round(Float(base[e] + delta[e]))) - base[e])
          }
        }
        let piece: Piece =
          dense.contains(j)
          ? .dense(values: view(delta, rows, cols), base: nil, scale: 1)
          : .lora(b: view(f.b.map { 2 * $0 }, rows, r), a: view(f.a, r, cols), scale: 0.5)
        try atoms.set(piece, module: Int64(m), column: Int64(j))
      }
      let extra = product((0..<rows * 3).map { _ in normal() }, (0..<3 * cols).map { _ in normal() }, 3)
      let merged = d.indices.map { base[$0] + d[$0] + unknown * extra[$0] }
      try target.set(
        .dense(values: view(merged, rows, cols, type), base: view(base, rows, cols, type), scale: 1), module: Int64(m),
        column: 0)
    }
  }

  func sample(_ limits: RowSample.Limits = .init(), threads: Int32 = 1) throws -> RowSample {
    try RowSample(atoms.snapshot, target.snapshot, limits: limits, try watch(threads))
  }
}

private func watch(_ threads: Int32) throws -> Watch {
  var run = unmerge_run()
  _ = unmerge_run_init(&run, MemoryLayout<unmerge_run>.size)
  run.threads = threads
  return try Watch(&run)
}

@Suite struct RowSampleTests {
  @Test func holdsDifferencesUnitsAndFactors() throws {
    let merge = Merge(1)
    try merge.fill(modules: 3, rows: 20, cols: 12, ranks: [2, 3], weights: [0.5, 0], unknown: 0, dense: [1], type: .bf16)
    let sample = try merge.sample()
    #expect(sample.modules.count == 3)
    let y = merge.target.snapshot
    for m in sample.modules {
      #expect(m.rows == 12 && m.cols == 12)  // no more rows than columns
      guard case .dense(let values, let base?, _)? = y.modules[m.index].piece(0), let unit = m.unit else {
        Issue.record("not stored")
        continue
      }
      var variance = 0.0
      for (i, row) in m.picked.enumerated() {
        for k in 0..<m.cols {
          let v = values.element(row, k)
          #expect(Double(m.target[i * m.cols + k]) == Double(Float(v - base.element(row, k))))
          // bf16 keeps 8 bits: the next number up is 2⁻⁷ of the power of two below.
          let u = Double(Float(v).binade.magnitude) * 0x1p-7
          #expect(Double(unit[i * m.cols + k]) == u)
          variance += u * u / 12
        }
      }
      #expect(abs(m.roundingVariance / (variance / Double(m.entries)) - 1) < 1e-12)
      // scale·B·A, whichever way it is held
      let formed = try Buffer<Float>(m.entries)
      m.form(m.atoms[0], formed.pointer)
      guard case .lora(let b, let a, let scale)? = merge.atoms.snapshot.modules[m.index].piece(0) else { continue }
      let expected = scale * (0..<2).reduce(0.0) { $0 + b.element(m.picked[3], $1) * a.element($1, 5) }
      #expect(abs(Double(formed[3 * m.cols + 5]) - expected) < 1e-8)
    }
  }

  @Test func limitsChooseEquallySpacedModulesAndRows() throws {
    let merge = Merge(2)
    try merge.fill(modules: 10, rows: 16, cols: 16, ranks: [1], weights: [1], unknown: 0)
    var limits = RowSample.Limits()
    limits.rows = 4
    limits.modules = 5
    #expect(try merge.sample(limits).modules.map(\.index) == [1, 3, 5, 7, 9])
    #expect(try merge.sample(limits).modules[0].picked == [2, 6, 10, 14])
    limits.bytes = 1
    #expect(try merge.sample(limits).modules.count == 1)
  }

  @Test func vectorsLieDown() throws {
    let merge = Merge(3)
    try merge.fill(modules: 1, rows: 50, cols: 1, ranks: [1, 1], weights: [0.5, 0.25], unknown: 0, dense: [1])
    let sample = try merge.sample()
    #expect(sample.modules[0].rows == 1 && sample.modules[0].cols == 50)
    let s = try WhitenedFit(sample, try watch(1)).minimise(from: [0, 0])
    #expect(abs(s.weights[0] - 0.5) < 1e-3 && abs(s.weights[1] - 0.25) < 1e-3)
  }
}

@Suite struct WhitenedTests {
  @Test(arguments: [Set<Int>(), [0, 1, 2], [1]]) func findsTheWeightsBesideAnUnknown(dense: Set<Int>) throws {
    let merge = Merge(4)
    let truth = [0.6, 0, -0.3]
    try merge.fill(
      modules: 4, rows: 40, cols: 48, ranks: [3, 2, 4], weights: truth, unknown: 3e-3, dense: dense, type: .bf16)
    let fit = try WhitenedFit(try merge.sample(), try watch(1))
    let s = try fit.minimise(from: [0, 0, 0])
    #expect(s.converged && !s.isRankDeficient && s.zeroAtoms.isEmpty)
    for j in 0..<3 { #expect(abs(s.weights[j] - truth[j]) < 0.02) }
    // From elsewhere, the same place; nothing lower nearby.
    let other = try fit.minimise(from: [0.3, 0.3, 0.3])
    for j in 0..<3 {
      #expect(abs(s.weights[j] - other.weights[j]) < 1e-3)
      var w = s.weights
      w[j] += 0.01
      #expect(try fit.objective(at: w).value > s.objective)
    }
    // The scores of the modules add up to the gradient.
    let gradient = try fit.objective(at: s.weights).gradient
    for j in 0..<3 {
      let sum = s.scores.reduce(0) { $0 + $1[j] }
      #expect(abs(sum - gradient[j]) < 1e-6 * (1 + abs(gradient[j]) + s.curvature[j * 3 + j]))
    }
  }

  @Test(arguments: [Set<Int>(), [0, 1], [0]]) func theGradientIsThatOfFiniteDifferences(dense: Set<Int>) throws {
    let merge = Merge(5)
    // Twelve columns and a rank of thirty: factors that are better formed.
    try merge.fill(
      modules: 2, rows: 12, cols: 12, ranks: dense == [0] ? [3, 30] : [3, 4], weights: [0.5, 0.2], unknown: 1e-3,
      dense: dense,
      type: .bf16)
    let fit = try WhitenedFit(try merge.sample(), try watch(1))
    for target in [WhitenedTarget.stored, .combination([0.7, 0.4], floor: 0.05)] {
      let w = [0.3, -0.1]
      let g = try fit.objective(at: w, target: target).gradient
      for j in 0..<2 {
        let h = 1e-4
        var (up, down) = (w, w)
        up[j] += h
        down[j] -= h
        let slope =
          (try fit.objective(at: up, target: target).value - fit.objective(at: down, target: target).value) / (2 * h)
        #expect(abs(slope - g[j]) < 1e-4 * (1 + abs(g[j])))
      }
    }
  }

  @Test func bothFormsAreOneFunction() throws {
    var values: [(value: Double, gradient: [Double])] = []
    var curvatures: [[Double]] = []
    for dense in [Set<Int>(), [0, 1]] {
      let merge = Merge(6)
      try merge.fill(
        modules: 3, rows: 20, cols: 30, ranks: [3, 4], weights: [0.5, 0.2], unknown: 1e-3, dense: dense, type: .bf16)
      let fit = try WhitenedFit(try merge.sample(), try watch(1))
      values.append(try fit.objective(at: [0.4, 0.4]))
      values.append(try fit.objective(at: [0.4, 0.4], target: .combination([1, 0], floor: 0.1)))
      curvatures.append(try fit.minimise(from: [0, 0]).curvature)
    }
    for i in 0..<2 {
      #expect(abs(values[i].value - values[i + 2].value) < 1e-4 * abs(values[i].value))
      for j in 0..<2 {
        #expect(abs(values[i].gradient[j] - values[i + 2].gradient[j]) < 1e-3 * abs(values[i].gradient[j]) + 1)
      }
    }
    for e in 0..<4 { #expect(abs(curvatures[0][e] - curvatures[1][e]) < 2e-2 * abs(curvatures[0][0])) }
  }

  @Test func anAtomLeftOutIsRebuiltOnlyByItsTwin() throws {
    let merge = Merge(7)
    try merge.fill(
      modules: 3, rows: 24, cols: 24, ranks: [2, 2, 2], weights: [0.5, 0, 0], unknown: 0, twins: [2: 0], type: .bf16)
    let fit = try WhitenedFit(try merge.sample(), try watch(1))
    let twin = try fit.minimise(from: [0, 0, 0], active: [1, 2], target: .combination([1, 0, 0], floor: 0.02))
    #expect(abs(twin.weights[2] - 1) < 0.02 && abs(twin.weights[1]) < 0.02 && twin.weights[0] == 0)
    let alone = try fit.minimise(from: [0, 0, 0], active: [1], target: .combination([1, 0, 0], floor: 0.02))
    #expect(abs(alone.weights[1]) < 0.1)
  }

  @Test func identicalAndZeroAtomsAreSaid() throws {
    let merge = Merge(8)
    try merge.fill(
      modules: 3, rows: 24, cols: 24, ranks: [2, 3, 2, 2], weights: [0.8, 0.3, 0, 0], unknown: 1e-3, zero: [3],
      twins: [2: 0],
      type: .bf16)
    let s = try WhitenedFit(try merge.sample(), try watch(1)).minimise(from: [0, 0, 0, 0])
    #expect(s.isRankDeficient && s.zeroAtoms == [3])
    // Least norm: the twins share alike.
    #expect(abs(s.weights[0] - s.weights[2]) < 1e-6 && abs(s.weights[0] + s.weights[2] - 0.8) < 0.02)
    #expect(abs(s.weights[1] - 0.3) < 0.02 && s.weights[3] == 0 && s.standardErrors[3].isNaN)
  }

  @Test func aZeroTargetHasNoAtoms() throws {
    let merge = Merge(9)
    try merge.fill(modules: 2, rows: 10, cols: 10, ranks: [2, 2], weights: [0, 0], unknown: 0)
    let s = try WhitenedFit(try merge.sample(), try watch(1)).minimise(from: [0.5, 0])
    #expect(s.weights.allSatisfy { abs($0) < 1e-3 })
  }

  @Test func oneRowOneModule() throws {
    let merge = Merge(10)
    try merge.fill(modules: 1, rows: 1, cols: 200, ranks: [1, 1], weights: [0.5, -0.25], unknown: 0)
    let s = try WhitenedFit(try merge.sample(), try watch(1)).minimise(from: [0, 0])
    #expect(abs(s.weights[0] - 0.5) < 1e-2 && abs(s.weights[1] + 0.25) < 1e-2)
  }

  @Test func anyNumberOfThreadsGivesTheSameBits() throws {
    let merge = Merge(11)
    try merge.fill(
      modules: 7, rows: 24, cols: 30, ranks: [2, 3, 2], weights: [0.5, 0.2, 0], unknown: 1e-3, dense: [1], type: .bf16)
    var seen: [(WhitenedSolution, [Double])] = []
    for threads in [Int32(1), 2, 5] {
      let sample = try merge.sample(threads: threads)
      let votes = try Spikes(sample, try watch(threads)).votes
      seen.append(
        (
          try WhitenedFit(sample, try watch(threads)).minimise(from: [0, 0, 0]),
          votes.flatMap { [Double($0.entries), $0.atom.z, $0.null.z, $0.decoy.share] }
        ))
    }
    for s in seen.dropFirst() {
      #expect(s.0.weights == seen[0].0.weights && s.0.objective == seen[0].0.objective)
      #expect(s.0.standardErrors == seen[0].0.standardErrors)
      #expect(s.1 == seen[0].1)
    }
  }
}

@Suite struct SpikeTests {
  @Test(arguments: [ElementType.bf16, .f16, .f32]) func aDroppedAndRescaledAtomStandsOut(type: ElementType) throws {
    let merge = Merge(12)
    // DARE of one half: kept entries are 0.8/0.5 of the atom.
    try merge.fill(
      modules: 4, rows: 64, cols: 64, ranks: [3, 3], weights: [0.8, 0], unknown: 0, type: type, keep: 0.5)
    let votes = try Spikes(try merge.sample(), try watch(1)).votes
    #expect(abs(votes[0].atom.ratio - 1.6) < 0.02)
    #expect(votes[0].atom.share > 0.5 && votes[0].atom.z > 20 && votes[0].null.z < 8)
    #expect(votes[1].atom.z < 8 && votes[1].atom.share < 0.05)
  }

  @Test func theKernelEqualsItsNaiveTwin() throws {
    var random = Random(13)
    let n = 3000
    let unit = (0..<n).map { _ in Float(sign: .plus, exponent: Int(4 * random.next()), significand: 1) }
    let t = unit.map { ($0 * Float(30 * random.next())).rounded() }
    let d = unit.map { ($0 * Float(20 * random.next())).rounded() }
    var edges = [Int32](repeating: 0, count: Spike.counters)
    let used = Spike.vote(&edges, d, t, unit: unit, n, minUnits: 4)
    let kept = (0..<n).filter {
      abs(t[$0]) > 4 * unit[$0] && abs(d[$0]) > 1.5 * max(unit[$0], 0.004 * max(abs(t[$0]), abs(d[$0])))
    }
    #expect(used == kept.count)
    for (sign, place) in [(Float(1), 0), (-1, Spike.points + 1)] {
      for p in stride(from: 0, to: Spike.points, by: 97) {
        let r = Float(Spike.ratio(p))
        let center = (0...p).reduce(0) { $0 + Int(edges[4 * (place + $1) + 1]) - Int(edges[4 * (place + $1) + 2]) }
        // Entries on an edge up to rounding may fall on either side.
        func inside(_ slack: Float) -> Int {
          kept.filter { sign * t[$0] * d[$0] > 0 && abs(abs(d[$0]) - r * abs(t[$0])) <= 0.5 * unit[$0] * slack }.count
        }
        #expect(center >= inside(0.999) && center <= inside(1.001))
      }
    }
    #expect(Spike.ratio(0) < 0.02 && Spike.ratio(Spike.points - 1) > 4)
  }

  @Test func nothingToVoteOnIsNothing() throws {
    let merge = Merge(14)
    try merge.fill(modules: 1, rows: 1, cols: 5, ranks: [1, 1], weights: [0, 0], unknown: 0, zero: [1], type: .bf16)
    for v in try Spikes(try merge.sample(), try watch(1)).votes {
      #expect(v.entries == 0 && v.atom.share == 0 && v.atom.z == 0 && v.null.z == 0)
    }
  }
}
