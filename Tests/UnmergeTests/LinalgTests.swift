import Testing

@testable import UnmergeLinalg

/// splitmix64, for test data only.
struct Random {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> Double {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return Double((z ^ (z >> 31)) >> 11) * 0x1p-53 * 2 - 1
  }
}

@Suite struct LinalgTests {
  @Test func everyHalfConvertsAsTheHardwareTypeDoes() {
    var halves = (0...UInt16.max).map { $0 }
    var out = [Float](repeating: 0, count: halves.count)
    var wide = [Double](repeating: 0, count: halves.count)
    Float.load(&out, &halves, .f16, stride: 2, count: halves.count, scale: 1, add: false)
    Double.load(&wide, &halves, .f16, stride: 2, count: halves.count, scale: 1, add: false)
    for h in halves {
      let truth = Float(Float16(bitPattern: h))
      let i = Int(h)
      #expect(truth.isNaN ? out[i].isNaN : out[i].bitPattern == truth.bitPattern)
      #expect(truth.isNaN ? wide[i].isNaN : wide[i] == Double(truth))
    }
  }

  @Test func everyBFloatConvertsByItsDefinition() {
    var values = (0...UInt16.max).map { $0 }
    var out = [Float](repeating: 0, count: values.count)
    Float.load(&out, &values, .bf16, stride: 2, count: values.count, scale: 1, add: false)
    for v in values {
      let truth = Float(bitPattern: UInt32(v) << 16)
      #expect(truth.isNaN ? out[Int(v)].isNaN : out[Int(v)].bitPattern == truth.bitPattern)
    }
  }

  @Test(arguments: [1, 2, 3, -1, -5, 0])
  func loadsAnyStrideUnalignedScaledAndAdded(step: Int) {
    let count = 37
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: 8 * 400, alignment: 8)
    defer { bytes.deallocate() }
    for i in 0..<398 { bytes.storeBytes(of: Double(i) - 7.25, toByteOffset: 8 * i + 3, as: Double.self) }
    let first = step < 0 ? 390 : 1
    var out = [Double](repeating: 0.5, count: count)
    Double.load(&out, bytes + 8 * first + 3, .f64, stride: 8 * step, count: count, scale: -2, add: true)
    for k in 0..<count { #expect(out[k] == 0.5 - 2 * (Double(first + k * step) - 7.25)) }
  }

  @Test func choleskyStaysTheFactorUnderInsertionsAndDeletions() throws {
    var random = Random(3)
    let n = 24
    let p = 60
    let a = (0..<(n * p)).map { _ in random.next() }
    var gram = [Double](repeating: 0, count: n * n)
    for i in 0..<n { for j in 0..<n { gram[i * n + j] = (0..<p).reduce(0) { $0 + a[i * p + $1] * a[j * p + $1] } } }
    let factor = try Cholesky(capacity: n)
    var present: [Int] = []
    for step in 0..<200 {
      let j = Int((random.next() + 1) / 2 * Double(n)) % n
      if let at = present.firstIndex(of: j) {
        factor.remove(at: at)
        present.remove(at: at)
      } else {
        let added = gram.withUnsafeBufferPointer {
          factor.append(j, column: $0.baseAddress! + j * n, diagonal: gram[j * n + j])
        }
        #expect(added)
        present.append(j)
      }
      #expect(factor.order == present)
      guard step % 10 == 9 else { continue }
      // G_SS x = b, checked by multiplying back.
      let b = present.map { _ in random.next() }
      var x = b
      factor.solve(&x)
      for (r, i) in present.enumerated() {
        let product = present.enumerated().reduce(0) { $0 + gram[i * n + $1.element] * x[$1.offset] }
        #expect(abs(product - b[r]) < 1e-10)
      }
    }
  }

  @Test(arguments: 1...17) func theSmallGramKernelEqualsItsNaiveTwin(n: Int) {
    var random = Random(UInt64(n))
    let k = 37
    let lead = 41
    let x = (0..<(n * lead)).map { _ in random.next() }
    var g = [Double](repeating: 1, count: n * n)
    Double.smallGram(&g, x, lead: lead, rows: k, columns: n)
    for j in 0..<n {
      for i in 0..<n {
        let sum = (0..<k).reduce(1.0) { $0 + x[i * lead + $1] * x[j * lead + $1] }
        #expect(i <= j ? abs(g[j * n + i] - sum) < 1e-13 : g[j * n + i] == 1)
      }
    }
    // float32 values give the same bits through either kernel.
    let narrow = x.map { Float($0) }
    let wide = narrow.map { Double($0) }
    var (a, b) = ([Double](repeating: 0, count: n * n), [Double](repeating: 0, count: n * n))
    Float.smallGram(&a, narrow, lead: lead, rows: k, columns: n)
    Double.smallGram(&b, wide, lead: lead, rows: k, columns: n)
    #expect(a == b)
    #expect(Float.dot(narrow, narrow, lead) == Double.dot(wide, wide, lead))
  }

  /// Counts on both sides of a block of four and of a strip of eight, rows on both sides of a register and of a chunk.
  @Test(arguments: [(1, 1), (3, 15), (4, 16), (7, 33), (8, 512), (9, 513), (18, 1024)])
  func theProductsOfColumnsEqualTheirNaiveTwin(n: Int, k: Int) {
    guard Float.hasProducts else { return }
    var random = Random(UInt64(n))
    let lead = k + 5
    let x = (0..<(n * lead)).map { _ in Float(random.next()) }
    func dot(_ i: Int, _ j: Int) -> Double { (0..<k).reduce(0) { $0 + Double(x[i * lead + $1]) * Double(x[j * lead + $1]) } }
    let tolerance = 1e-5 * Double(k).squareRoot()

    var g = [Double](repeating: 1, count: n * n)
    Float.products(
      &g, leadG: n, x, leadX: lead, n, rows: nil, x, leadZ: lead, n, columns: nil, k, upper: true)
    for j in 0..<n {
      for i in 0..<n { #expect(i <= j ? abs(g[j * n + i] - 1 - dot(i, j)) < tolerance : g[j * n + i] == 1) }
    }

    // Every second column of a wider matrix, and some of the columns in another order.
    let places = (0..<n).map { 2 * $0 }
    let columns = [n, 0, 1]
    let z = Array(x[0..<(min(n, 3) * lead)])
    var c = [Double](repeating: 1, count: 2 * n * (n + 1))
    Float.products(
      &c, leadG: 2 * n, x, leadX: lead, n, rows: places, z, leadZ: lead, min(n, 3), columns: columns, k, upper: false)
    for j in 0...n {
      for i in 0..<(2 * n) {
        let q = columns.prefix(min(n, 3)).firstIndex(of: j)
        let expected = q.map { i % 2 == 0 ? 1 + dot(i / 2, $0) : 1 } ?? 1
        #expect(abs(c[j * 2 * n + i] - expected) < (expected == 1 ? 0x1p-1074 : tolerance))
      }
    }
  }

  @Test func rowsBecomeColumns() {
    let (rows, columns, stride) = (19, 35, 40)
    let x = (0..<(rows * stride)).map { Float($0) }
    var y = [Float](repeating: -1, count: columns * 20)
    Float.columnsOfRows(&y, lead: 20, x, stride: stride, rows: rows, columns: columns)
    for j in 0..<columns {
      for i in 0..<20 { #expect(y[j * 20 + i] == (i < rows ? x[i * stride + j] : -1)) }
    }
  }

  @Test(arguments: [0, 1, 8, 17]) func columnsAreSubtractedTermAfterTerm(count: Int) {
    var random = Random(UInt64(count))
    let n = 37
    let columns = (0..<count).map { _ in (0..<n).map { _ in random.next() } }
    let weights = (0..<count).map { _ in random.next() }
    var y = (0..<n).map { _ in random.next() }
    let expected = (0..<n).map { i in zip(columns, weights).reduce(y[i]) { $0 - $1.1 * $1.0[i] } }
    let flat = columns.flatMap { $0 }
    flat.withUnsafeBufferPointer { p in
      let pointers = (0..<count).map { k in p.baseAddress.map { $0 + k * n } }
      Vector.subtract(n, pointers, weights, count, from: &y)
    }
    #expect(y == expected)
  }

  @Test(arguments: [0, 1, 15, 16, 100]) func squaresAreSummedInDouble(count: Int) {
    // 2⁻¹³ + 1 squared needs 27 bits: float32 would lose the last ones.
    let x = [Float](repeating: 1 + 0x1p-13, count: count)
    #expect(Float.squares(x, count) == Double(count) * (1 + 0x1p-12 + 0x1p-26))
  }

  @Test func choleskyRefusesADependentAtomAndIsUnchanged() throws {
    let gram: [Double] = [1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5, 1]  // atom 2 repeats atom 0
    let factor = try Cholesky(capacity: 3)
    gram.withUnsafeBufferPointer { g in
      #expect(factor.append(0, column: g.baseAddress!, diagonal: 1))
      #expect(factor.append(1, column: g.baseAddress! + 3, diagonal: 1))
      #expect(!factor.append(2, column: g.baseAddress! + 6, diagonal: 1))
    }
    #expect(factor.order == [0, 1])
  }

  @Test func aBufferThatCannotBeHadThrows() {
    #expect(throws: OutOfMemory.self) { _ = try Buffer<Double>(1 << 60) }
    #expect(throws: OutOfMemory.self) { _ = try Buffer<Double>(-1) }
  }

  @Test(arguments: [0, 1, 2, 7]) func everyIterationRunsOnce(count: Int) {
    let hits = Counter()
    Threads.perform(count) { hits.add($0) }
    #expect(hits.sorted == Array(0..<count))
  }
}

final class Counter: @unchecked Sendable {
  private var seen: [Int] = []
  private let lock = Lock()
  func add(_ i: Int) { lock.locked { seen.append(i) } }
  var sorted: [Int] { lock.locked { seen.sorted() } }
}
