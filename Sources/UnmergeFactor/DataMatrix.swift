import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// A non-negative factor or its like: n vectors of k entries, one column per component. W is p×k; H is held transposed, T×k,
/// so that both sides of a factorisation are the same problem.
final class Factor: Sendable {
  let rows: Int
  let columns: Int
  let values: Buffer<Double>
  var pointer: UnsafeMutablePointer<Double> { values.pointer }

  init(_ rows: Int, _ columns: Int) throws(UnmergeError) {
    self.rows = rows
    self.columns = columns
    values = try allocate(try product(rows, columns, "a factor"))
  }

  func column(_ l: Int) -> UnsafeMutablePointer<Double> { values.pointer + l * rows }

  func assign(_ other: Factor) { values.pointer.update(from: other.values.pointer, count: values.count) }

  /// FᵀF, both triangles.
  func gram(into g: Buffer<Double>) {
    Double.syrk(columns, rows, pointer, max(rows, 1), rowMajor: false, g.pointer, columns)
    for j in 0..<columns { for i in 0..<j { g[i * columns + j] = g[j * columns + i] } }
  }

  func read(into output: Output) {
    for l in 0..<columns { for i in 0..<rows { output.set(i, l, values[l * rows + i]) } }
  }

  func scale(_ factor: Double) {
    for i in 0..<values.count { values[i] *= factor }
  }
}

/// The data X as factorisations read it: never copied as a whole, in fixed chunks of its output, each of which one thread
/// computes in a fixed order. So no bit depends on the number of threads.
struct DataMatrix {
  let view: View
  let threads: Int
  /// A NaN is an entry that is not there.
  let hasMissing: Bool

  var rows: Int { view.rows }
  var columns: Int { view.columns }
  var transposed: DataMatrix {
    DataMatrix(
      view: View(
        base: view.base, type: view.type, rows: view.columns, columns: view.rows, rowStride: view.columnStride,
        columnStride: view.rowStride), threads: threads, hasMissing: hasMissing)
  }

  /// What stands in X's place in a product.
  enum Entry {
    case data
    /// x where it is there, else (LRᵀ)_ij: the data completed by the model.
    case completed(Factor, Factor)
    /// x/(LRᵀ)_ij where it is there, else 0.
    case ratio(Factor, Factor)
    /// 1 where x is there, else 0.
    case presence
  }

  private static let panelColumns = 256
  private static func step(_ rows: Int) -> Int { max(128, ((rows + 15) / 16 + 63) / 64 * 64) }
  private var chunks: Int { (rows + DataMatrix.step(rows) - 1) / DataMatrix.step(rows) }
  private func range(_ chunk: Int) -> Range<Int> {
    let step = DataMatrix.step(rows)
    return chunk * step..<min(rows, (chunk + 1) * step)
  }

  /// C = E·B for the entries E, B columns×k, C rows×k.
  func multiply(_ b: Factor, into c: Factor, _ entry: Entry = .data) throws(UnmergeError) {
    let k = b.columns
    guard rows > 0, k > 0 else { return }
    if case .data = entry, let (address, leading, isRowMajor) = view.inPlace(Double.self) {
      nonisolated(unsafe) let x = address
      perform(tasks: chunks, threads: threads(work: 2 * columns * k)) { chunk, _ in
        let r = range(chunk)
        Double.gemm(
          isRowMajor, false, r.count, k, columns, 1, x + r.lowerBound * (isRowMajor ? leading : 1), leading,
          b.pointer, max(columns, 1), 0, c.pointer + r.lowerBound, rows)
      }
      return
    }
    try panels(entry, work: 2 * k) { panel, r, j, count, _ in
      Double.gemm(
        false, false, r.count, k, count, 1, panel, r.count, b.pointer + j, columns, j == 0 ? 0 : 1, c.pointer + r.lowerBound,
        rows)
    }
  }

  /// Sum over the entries that are there of `term(x, (LRᵀ)_ij)`.
  func sum(_ left: Factor, _ right: Factor, _ term: @escaping @Sendable (Double, Double) -> Double) throws(UnmergeError)
    -> Double
  {
    let sums: Buffer<Double> = try allocate(chunks)
    try panels(.data, model: (left, right), work: 8 * left.columns) { panel, r, _, count, model in
      guard let model else { return }
      var s = 0.0
      for i in 0..<(r.count * count) where !panel[i].isNaN { s += term(panel[i], model[i]) }
      sums[r.lowerBound / DataMatrix.step(rows)] += s
    }
    return total(sums)
  }

  /// ‖X‖², ΣX and the smallest entry, over the entries that are there. Throws on a NaN that stands for nothing and on infinities.
  func summary() throws(UnmergeError) -> (squares: Double, sum: Double, least: Double) {
    let squares: Buffer<Double> = try allocate(chunks)
    let sums: Buffer<Double> = try allocate(chunks)
    let least: Buffer<Double> = try allocate(chunks)
    let bad: Buffer<Int> = try allocate(chunks)
    for c in 0..<chunks {
      least[c] = .infinity
      bad[c] = -1
    }
    try panels(.data, work: 4) { panel, r, j, count, _ in
      let chunk = r.lowerBound / DataMatrix.step(rows)
      var s = 0.0
      var q = 0.0
      var low = least[chunk]
      for i in 0..<(r.count * count) {
        let x = panel[i]
        if !x.isFinite {
          if x.isNaN, hasMissing { continue }
          if bad[chunk] < 0 { bad[chunk] = (r.lowerBound + i % r.count) * columns + j + i / r.count }
          continue
        }
        s += x
        q += x * x
        low = min(low, x)
      }
      sums[chunk] += s
      squares[chunk] += q
      least[chunk] = low
    }
    for c in 0..<chunks where bad[c] >= 0 {
      let (i, j) = (bad[c] / columns, bad[c] % columns)
      throw UnmergeError(
        UNMERGE_E_NONFINITE,
        "x[\(i)][\(j)] is \(view.element(i, j)); it must be finite\(hasMissing ? " or NaN for missing" : "")")
    }
    var low = Double.infinity
    for c in 0..<chunks { low = min(low, least[c]) }
    let q = total(squares)
    guard q.isFinite else {
      throw UnmergeError(UNMERGE_E_RANGE, "x is too large: its sum of squares overflows; scale it")
    }
    return (q, total(sums), low)
  }

  private func total(_ sums: Buffer<Double>) -> Double {
    var t = 0.0
    for c in 0..<chunks { t += sums[c] }
    return t
  }

  /// Threads cost tens of microseconds each: small work is done here.
  private func threads(work perEntry: Int) -> Int {
    rows.multipliedReportingOverflow(by: perEntry).partialValue < 1 << 21 ? 1 : min(threads, chunks)
  }

  /// Hands over X in panels, column-major without padding, chunk by chunk of rows and in order of columns within a chunk, with
  /// (LRᵀ) of the same shape where a model is given. What the entry asks for stands in the panel.
  private func panels(
    _ entry: Entry, model: (Factor, Factor)? = nil, work: Int,
    _ body:
      @escaping @Sendable (
        _ panel: UnsafeMutablePointer<Double>, _ rows: Range<Int>, _ column: Int, _ count: Int,
        _ model: UnsafeMutablePointer<Double>?
      ) -> Void
  ) throws(UnmergeError) {
    guard rows > 0, columns > 0 else { return }
    var pair = model
    switch entry {
    case .completed(let l, let r), .ratio(let l, let r): pair = (l, r)
    case .data, .presence: break
    }
    let threads = threads(work: columns * (work + (pair.map { 2 * $0.0.columns } ?? 0)))
    let size = DataMatrix.step(rows) * DataMatrix.panelColumns
    let scratch: Buffer<Double> = try allocate(size * threads)
    let second: Buffer<Double> = try allocate(pair == nil ? 1 : size * threads)
    let factors = pair
    perform(tasks: chunks, threads: threads) { chunk, thread in
      let r = range(chunk)
      let panel = scratch.pointer + thread * size
      let product = second.pointer + thread * size
      for j in stride(from: 0, to: columns, by: DataMatrix.panelColumns) {
        let count = min(DataMatrix.panelColumns, columns - j)
        load(panel, r, j, count)
        if let (l, right) = factors {
          Double.gemm(
            false, true, r.count, count, l.columns, 1, l.pointer + r.lowerBound, l.rows, right.pointer + j, right.rows, 0,
            product, r.count)
        }
        let n = r.count * count
        switch entry {
        case .data: break
        case .completed: for i in 0..<n where panel[i].isNaN { panel[i] = product[i] }
        case .ratio: for i in 0..<n { panel[i] = panel[i].isNaN || panel[i] == 0 ? 0 : panel[i] / max(product[i], 1e-300) }
        case .presence: for i in 0..<n { panel[i] = panel[i].isNaN ? 0 : 1 }
        }
        body(panel, r, j, count, factors == nil ? nil : product)
      }
    }
  }

  /// The panel, read along whichever direction lies closer in memory.
  private func load(_ panel: UnsafeMutablePointer<Double>, _ r: Range<Int>, _ j: Int, _ count: Int) {
    if abs(view.rowStride) <= abs(view.columnStride) || count == 1 {
      for c in 0..<count {
        Double.load(
          panel + c * r.count, view.address(r.lowerBound, j + c), view.type, stride: view.rowStride, count: r.count,
          scale: 1,
          add: false)
      }
    } else {
      // Rows in memory: short runs, so that the transposed writes stay in cache.
      withUnsafeTemporaryAllocation(of: Double.self, capacity: count) { line in
        guard let row = line.baseAddress else { return }
        for i in 0..<r.count {
          Double.load(
            row, view.address(r.lowerBound + i, j), view.type, stride: view.columnStride, count: count, scale: 1, add: false)
          for c in 0..<count { panel[c * r.count + i] = row[c] }
        }
      }
    }
  }
}

/// Tasks dealt out in turn. Each writes what no other does.
func perform(tasks: Int, threads: Int, _ body: @escaping @Sendable (_ task: Int, _ thread: Int) -> Void) {
  guard threads > 1, tasks > 1 else {
    for task in 0..<tasks { body(task, 0) }
    return
  }
  let workers = min(threads, tasks)
  Threads.perform(workers) { thread in
    for task in stride(from: thread, to: tasks, by: workers) { body(task, thread) }
  }
}
