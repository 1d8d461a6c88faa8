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
    /// x where it is there, else 0.
    case present
    /// (LRᵀ)_ij where x is there, else 0.
    case modelled(Factor, Factor)
    /// 1 where x is there, else 0.
    case presence
  }

  /// Rows of a chunk and columns of a panel: a panel stays in the second-level cache.
  private static func step(_ rows: Int) -> Int { min(4096, max(128, ((rows + 15) / 16 + 63) / 64 * 64)) }
  private var chunks: Int { (rows + DataMatrix.step(rows) - 1) / DataMatrix.step(rows) }
  private func range(_ chunk: Int) -> Range<Int> {
    let step = DataMatrix.step(rows)
    return chunk * step..<min(rows, (chunk + 1) * step)
  }
  private var panelColumns: Int { max(32, min(columns, (1 << 17) / DataMatrix.step(rows))) }

  /// Where the output has few rows the sum over the columns is cut as well; the parts are added in order.
  private static let segmentColumns = 1 << 14
  private var segments: Int { chunks >= 4 ? 1 : min(16, max(1, columns / DataMatrix.segmentColumns)) }
  private func segment(_ i: Int) -> Range<Int> { columns * i / segments..<columns * (i + 1) / segments }

  /// C = E·B for the entries E, B columns×k, C rows×k.
  func multiply(_ b: Factor, into c: Factor, _ entry: Entry = .data) throws(UnmergeError) {
    let k = b.columns
    guard rows > 0, k > 0 else { return }
    let parts = segments
    let partial: Buffer<Double>? = parts > 1 ? try allocate(try product(rows * k, parts, "partial products")) : nil
    nonisolated(unsafe) let output = partial?.pointer ?? c.pointer
    if case .data = entry, let (address, leading, isRowMajor) = view.inPlace(Double.self) {
      nonisolated(unsafe) let x = address
      perform(tasks: chunks * parts, threads: threads(work: 2 * columns * k)) { task, _ in
        let r = range(task / parts)
        let j = segment(task % parts)
        Double.gemm(
          isRowMajor, false, r.count, k, j.count, 1,
          x + r.lowerBound * (isRowMajor ? leading : 1) + j.lowerBound * (isRowMajor ? 1 : leading), leading,
          b.pointer + j.lowerBound, max(columns, 1), 0, output + task % parts * rows * k + r.lowerBound, rows)
      }
    } else {
      try panels(entry, segments: parts, work: 2 * k) { panel in
        Double.gemm(
          panel.isRowMajor, false, panel.rows.count, k, panel.columns.count, 1, panel.x, panel.leading,
          b.pointer + panel.columns.lowerBound, columns, panel.isFirst ? 0 : 1,
          output + panel.segment * rows * k + panel.rows.lowerBound, rows)
      }
    }
    guard let partial else { return }
    c.pointer.update(from: partial.pointer, count: rows * k)
    for part in 1..<parts { Vector.axpy(rows * k, 1, partial.pointer + part * rows * k, c.pointer) }
  }

  /// Sum over the entries that are there of `term(x, (LRᵀ)_ij)`.
  func sum(
    _ left: Factor, _ right: Factor, _ term: @escaping @Sendable (Double, Double) -> Double
  ) throws(UnmergeError) -> Double {
    try total(.data, model: (left, right)) { panel in
      guard let model = panel.model else { return 0 }
      var s = 0.0
      for i in 0..<panel.count where !panel.x[i].isNaN { s += term(panel.x[i], model[i]) }
      return s
    }
  }

  /// ‖X − LRᵀ‖² over the entries that are there.
  func squaredResidual(_ left: Factor, _ right: Factor) throws(UnmergeError) -> Double {
    try total(hasMissing ? .completed(left, right) : .data, model: (left, right)) { panel in
      guard let model = panel.model else { return 0 }
      Vector.axpy(panel.count, -1, panel.x, model)
      return Double.squares(model, panel.count)
    }
  }

  func squares() throws(UnmergeError) -> Double {
    try total(hasMissing ? .present : .data, model: nil) { Double.squares($0.x, $0.count) }
  }

  /// A sum over panels, each summed by `part`.
  private func total(
    _ entry: Entry, model: (Factor, Factor)?, _ part: @escaping @Sendable (Panel) -> Double
  ) throws(UnmergeError) -> Double {
    let parts = segments
    let sums: Buffer<Double> = try allocate(chunks * parts)
    try panels(entry, model: model, segments: parts, work: 16) { panel in
      sums.pointer[panel.chunk * parts + panel.segment] += part(panel)
    }
    var sum = 0.0
    for i in 0..<(chunks * parts) { sum += sums[i] }
    return sum
  }

  /// ‖X‖², ΣX, the smallest entry and a fingerprint of all in their places, over the entries that are there. Throws on a NaN that stands for nothing and on infinities.
  func summary() throws(UnmergeError) -> (squares: Double, sum: Double, least: Double, fingerprint: UInt64) {
    let parts = segments
    let found: Buffer<Double> = try allocate(3 * chunks * parts)
    let bad: Buffer<Int> = try allocate(chunks * parts)
    let prints: Buffer<UInt64> = try allocate(chunks * parts)
    for i in 0..<(chunks * parts) {
      found[3 * i + 2] = .infinity
      bad[i] = -1
    }
    try panels(.data, segments: parts, work: 8) { panel in
      let at = panel.chunk * parts + panel.segment
      let (sums, x) = (found.pointer + 3 * at, panel.x)
      if hasMissing { for i in 0..<panel.count where x[i].isNaN { x[i] = 0 } }
      var (s, q, low) = Vector.summary(panel.count, x)
      if !q.isFinite || !s.isFinite {
        for i in 0..<panel.count where !x[i].isFinite && bad.pointer[at] < 0 {
          let (fast, slow) = (i % panel.leading, i / panel.leading)
          let row = panel.rows.lowerBound + (panel.isRowMajor ? slow : fast)
          bad.pointer[at] = row * columns + panel.columns.lowerBound + (panel.isRowMajor ? fast : slow)
        }
        (s, q, low) = (0, .infinity, 0)
      }
      prints.pointer[at] &+= Vector.fingerprint(
        x, fast: panel.leading, slow: panel.count / max(panel.leading, 1), row: panel.rows.lowerBound,
        column: panel.columns.lowerBound, isRowMajor: panel.isRowMajor)
      sums[0] += s
      sums[1] += q
      sums[2] = min(sums[2], low)
    }
    var (sum, squares, least) = (0.0, 0.0, Double.infinity)
    var fingerprint: UInt64 = 0
    for i in 0..<(chunks * parts) {
      if bad[i] >= 0 {
        let (row, column) = (bad[i] / columns, bad[i] % columns)
        throw UnmergeError(
          UNMERGE_E_NONFINITE,
          "x[\(row)][\(column)] is \(view.element(row, column)); it must be finite\(hasMissing ? " or NaN for missing" : "")"
        )
      }
      fingerprint &+= prints[i]
      sum += found[3 * i]
      squares += found[3 * i + 1]
      least = min(least, found[3 * i + 2])
    }
    // Products of four factors occur, and their quotients.
    guard squares <= 1e200 else { throw UnmergeError(UNMERGE_E_RANGE, "x is too large: its norm is above 1e100; scale it") }
    guard squares >= 1e-200 || (squares == 0 && sum == 0) else {
      throw UnmergeError(UNMERGE_E_RANGE, "x is too small: its norm is below 1e-100; scale it")
    }
    return (squares, sum, least, fingerprint)
  }

  /// Refuses a negative entry by its place; `least` is the smallest there is.
  func checkNonnegative(_ least: Double, _ remedy: String) throws(UnmergeError) {
    guard least < 0 else { return }
    for j in 0..<columns {
      for i in 0..<rows where view.element(i, j) == least {
        throw .range("x[\(i)][\(j)] is \(least); it must be >= 0: \(remedy)")
      }
    }
  }

  /// Threads cost tens of microseconds each: small work is done here.
  private func threads(work perRow: Int) -> Int {
    let work = rows.multipliedReportingOverflow(by: perRow)
    return !work.overflow && work.partialValue < 1 << 21 ? 1 : max(1, min(threads, chunks * segments))
  }

  /// A part of X in scratch memory, its entries what was asked for, with (LRᵀ) of the same shape where there is a model. In the
  /// order of X in memory, without padding.
  struct Panel {
    let x: UnsafeMutablePointer<Double>
    let model: UnsafeMutablePointer<Double>?
    let rows: Range<Int>
    let columns: Range<Int>
    let isRowMajor: Bool
    let chunk: Int
    let segment: Int
    let isFirst: Bool
    var count: Int { rows.count * columns.count }
    var leading: Int { isRowMajor ? columns.count : rows.count }
  }

  /// Hands over X in panels, chunk by chunk of rows and segment by segment of columns, in order within those.
  private func panels(
    _ entry: Entry, model: (Factor, Factor)? = nil, segments parts: Int, work: Int,
    _ body: @escaping @Sendable (Panel) -> Void
  ) throws(UnmergeError) {
    guard rows > 0, columns > 0 else { return }
    var pair = model
    switch entry {
    case .completed(let l, let r), .ratio(let l, let r), .modelled(let l, let r): pair = (l, r)
    case .data, .present, .presence: break
    }
    let threads = threads(work: columns * (work + (pair.map { 2 * $0.0.columns } ?? 0)))
    let width = panelColumns
    let size = DataMatrix.step(rows) * width
    let scratch: Buffer<Double> = try allocate(size * threads)
    let second: Buffer<Double> = try allocate(pair == nil ? 1 : size * threads)
    let factors = pair
    let isRowMajor = abs(view.columnStride) < abs(view.rowStride) && columns > 1
    perform(tasks: chunks * parts, threads: threads) { task, thread in
      let r = range(task / parts)
      let all = segment(task % parts)
      let x = scratch.pointer + thread * size
      let product = second.pointer + thread * size
      for j in stride(from: all.lowerBound, to: all.upperBound, by: width) {
        let panel = Panel(
          x: x, model: factors == nil ? nil : product, rows: r, columns: j..<min(j + width, all.upperBound),
          isRowMajor: isRowMajor, chunk: task / parts, segment: task % parts, isFirst: j == all.lowerBound)
        load(panel)
        if let (l, right) = factors {
          let (a, b) = (l.pointer + r.lowerBound, right.pointer + j)
          if isRowMajor {
            Double.gemm(
              false, true, panel.columns.count, r.count, l.columns, 1, b, right.rows, a, l.rows, 0, product,
              panel.columns.count)
          } else {
            Double.gemm(
              false, true, r.count, panel.columns.count, l.columns, 1, a, l.rows, b, right.rows, 0, product, r.count)
          }
        }
        let n = panel.count
        switch entry {
        case .data: break
        case .completed: for i in 0..<n where x[i].isNaN { x[i] = product[i] }
        case .ratio: Vector.divide(n, x, by: product)
        case .present: for i in 0..<n where x[i].isNaN { x[i] = 0 }
        case .modelled: for i in 0..<n { x[i] = x[i].isNaN ? 0 : product[i] }
        case .presence: for i in 0..<n { x[i] = x[i].isNaN ? 0 : 1 }
        }
        body(panel)
      }
    }
  }

  private func load(_ panel: Panel) {
    let (r, c) = (panel.rows, panel.columns)
    if panel.isRowMajor {
      for i in 0..<r.count {
        Double.load(
          panel.x + i * c.count, view.address(r.lowerBound + i, c.lowerBound), view.type, stride: view.columnStride,
          count: c.count, scale: 1, add: false)
      }
    } else {
      for j in 0..<c.count {
        Double.load(
          panel.x + j * r.count, view.address(r.lowerBound, c.lowerBound + j), view.type, stride: view.rowStride,
          count: r.count, scale: 1, add: false)
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
