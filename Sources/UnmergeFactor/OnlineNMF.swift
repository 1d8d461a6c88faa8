import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Non-negative factorisation of a stream
//
//     minimise over W ≥ 0:  Σ_t  min over h ≥ 0 of ½‖x_t − W h‖² + l1 Σ h + l2/2 ‖h‖²
//
// from mini-batches, in memory that does not depend on how many there are. A batch's codes are exact (block pivoting); what it
// says about W is kept in two sums,
//
//     A ← ρ A + H Hᵀ,   B ← ρ B + X Hᵀ,   ρ = (1 − 1/t)^decay,
//
// and W descends on their surrogate ½⟨WᵀW, A⟩ − ⟨B, W⟩, which majorises the past. Where codes are penalised the columns of W
// have norm at most 1.
//
// References: Mairal, Bach, Ponce & Sapiro 2010; Guan, Tao, Luo & Yuan 2012 (online NMF).

package final class OnlineNMF: Model, @unchecked Sendable {
  package static let magic = "UNMONM_1"
  package static let kind = UNMERGE_MODEL_ONLINE_NMF

  private static let remedy = "split x into max(x, 0) and max(-x, 0)"

  struct Options: Equatable, Sendable {
    var batch = 256
    var decay = 2.0
    var h = FactorPenalty()
    var w: FactorPenalty { FactorPenalty(isUnit: !h.isNone) }
  }

  let options: Options
  let w: Factor
  /// A (k×k) and B (p×k), weighted sums over the batches so far.
  private let codes: Buffer<Double>
  private let products: Factor
  package private(set) var iterations = 0
  /// The column the next batch begins with.
  private var position = 0

  package var rows: Int { w.rows }
  package var columns: Int { 0 }
  package var components: Int { w.columns }

  init(_ options: Options, rows: Int, components: Int) throws(UnmergeError) {
    self.options = options
    w = try Factor(rows, components)
    products = try Factor(rows, components)
    codes = try allocate(try product(components, components, "a Gram of components"))
  }

  /// Batches of the columns of x in order, from where the last call ended, round and round.
  package func step(_ x: View?, _ watch: Watch) throws(UnmergeError) -> unmerge_report {
    guard let x else { throw .null("x") }
    guard x.rows == rows else { throw .shape("x has \(x.rows) rows, the model's data has \(rows)") }
    guard x.columns > 0 else { throw .shape("x has no columns") }
    let whole = DataMatrix(view: x, threads: watch.threads, hasMissing: false)
    try whole.checkNonnegative(whole.summary().least, OnlineNMF.remedy)

    let k = components
    let wStep = try FactorStep(rows: rows, components: k, threads: watch.threads)
    let gram: Buffer<Double> = try allocate(k * k)
    let fresh = try Factor(rows, k)
    let scratch = try Factor(rows, k)
    var report = unmerge_report.defaults
    report.objective = 0
    report.rss = 0
    report.yy = 0
    report.outcome = UNMERGE_ITERATION_LIMIT
    var done = 0
    var read = 0
    while done < watch.maxIterations {
      if let stop = watch.poll() {
        report.outcome = stop.outcome
        break
      }
      if position >= x.columns { position = 0 }
      let count = min(options.batch, x.columns - position)
      let batch = DataMatrix(
        view: View(
          base: x.address(0, position), type: x.type, rows: rows, columns: count, rowStride: x.rowStride,
          columnStride: x.columnStride), threads: watch.threads, hasMissing: false)
      let h = try encode(batch, watch.threads)

      // What the W of before makes of data it has not seen.
      let rss = try batch.squaredResidual(w, h)
      report.rss += rss
      report.yy += try batch.squares()
      report.objective += rss / 2 + options.h.value(h)

      let t = Double(iterations + 1)
      let keep = options.decay == 0 ? 1 : Platform.pow(1 - 1 / t, options.decay)
      h.gram(into: gram)
      for i in 0..<(k * k) { codes.pointer[i] = keep * codes.pointer[i] + gram.pointer[i] }
      try batch.multiply(h, into: fresh)
      for i in 0..<(rows * k) { products.pointer[i] = keep * products.pointer[i] + fresh.pointer[i] }
      scratch.assign(w)
      _ = try wStep.sweep(w, products, codes, options.w, sweeps: 10)

      iterations += 1
      done += 1
      position = position + count < x.columns ? position + count : 0
      read += count
      var moved = 0.0
      for i in 0..<(rows * k) {
        moved += (w.pointer[i] - scratch.pointer[i]) * (w.pointer[i] - scratch.pointer[i])
      }
      let size = Double.squares(w.pointer, rows * k)
      let change = size > 0 ? (moved / size).squareRoot() : 0
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: 0, done: done, total: watch.maxIterations, objective: report.objective,
        relativeGap: change)
      if change <= watch.tol {
        report.outcome = UNMERGE_CONVERGED
        break
      }
    }
    let squares = products.values.count == 0 ? 0 : Double.squares(products.pointer, products.values.count)
    let violation = wStep.violation(w, products, codes, options.w, scratch)
    report.violation = squares > 0 ? min(violation / weightedSquares(), 1).squareRoot() : 0
    report.r2 = report.yy > 0 ? 1 - report.rss / report.yy : 0
    report.iterations = Int64(done)
    report.passes = Int64((read + x.columns - 1) / x.columns + 1)
    report.streamed = 1
    report.seconds = watch.seconds
    var nonzeros = 0
    for i in 0..<(rows * k) where w.pointer[i] != 0 { nonzeros += 1 }
    report.nonzeros = Int64(nonzeros)
    return report
  }

  /// ⟨B, W⟩, what W explains of the past: the unit of its violation.
  private func weightedSquares() -> Double {
    var sum = 0.0
    for l in 0..<components { sum += max(Double.dot(products.column(l), w.column(l), rows), 0) }
    return max(sum, .leastNormalMagnitude)
  }

  /// The codes of data, transposed.
  private func encode(_ x: DataMatrix, _ threads: Int) throws(UnmergeError) -> Factor {
    let k = components
    let h = try Factor(x.columns, k)
    let product = try Factor(x.columns, k)
    let gram: Buffer<Double> = try allocate(k * k)
    let step = try FactorStep(rows: x.columns, components: k, threads: threads)
    w.gram(into: gram)
    options.h.add(to: gram, k)
    try x.transposed.multiply(w, into: product)
    _ = try step.minimise(h, product, gram, options.h)
    return h
  }

  package func transform(_ x: View, _ watch: Watch, _ codes: Output) throws(UnmergeError) -> unmerge_report {
    let data = DataMatrix(view: x, threads: watch.threads, hasMissing: false)
    let summary = try data.summary()
    try data.checkNonnegative(summary.least, OnlineNMF.remedy)
    let h = try encode(data, watch.threads)
    var report = unmerge_report.defaults
    report.rss = try data.squaredResidual(w, h)
    for t in 0..<x.columns { for l in 0..<components { codes.set(l, t, h.values[l * x.columns + t]) } }
    report.yy = summary.squares
    report.r2 = report.yy > 0 ? 1 - report.rss / report.yy : 0
    report.objective = report.rss / 2 + options.h.value(h)
    report.streamed = 1
    report.outcome = UNMERGE_CONVERGED
    report.iterations = 1
    report.seconds = watch.seconds
    return report
  }

  package func readComponents(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    try w.read(into: Output(output, "w", rows: rows, columns: components))
  }

  package func readCodes(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    throw .range("model learns from a stream and keeps no codes; ask unmerge_model_transform for those of its data")
  }

  // MARK: start and saved form
  //
  //     "UNMONM_1"  p  k  batch  iterations  position   decay  l1  l2   W  A  B

  func begin(_ x: DataMatrix, _ watch: Watch) throws(UnmergeError) {
    let summary = try x.summary()
    try x.checkNonnegative(summary.least, OnlineNMF.remedy)
    let h = try Factor(x.columns, components)
    if components <= min(x.rows, x.columns) {
      try nndsvdStart(
        x, w, h, fill: summary.sum / (Double(x.rows) * Double(x.columns)), seed: watch.seed, watch)
    } else {
      try randomStart(x, w, h, sum: summary.sum, seed: watch.seed)
    }
    options.w.project(w)
  }

  package func write(_ bytes: inout ByteWriter) {
    for n in [rows, components, options.batch, iterations, position] { bytes.put(n) }
    for value in [options.decay, options.h.l1, options.h.l2] { bytes.put(value) }
    bytes.put(w.pointer, w.values.count)
    bytes.put(codes.pointer, codes.count)
    bytes.put(products.pointer, products.values.count)
  }

  package convenience init(_ bytes: inout ByteReader) throws(UnmergeError) {
    let p = try bytes.integer("rows", 1...Int(Int32.max))
    let k = try bytes.integer("components", 1...65536)
    var o = Options()
    o.batch = try bytes.integer("batch", 1...Int(Int32.max))
    let iterations = try bytes.integer("iterations", 0...Int.max / 2)
    let position = try bytes.integer("position", 0...Int(Int32.max))
    o.decay = try bytes.number("decay")
    o.h = FactorPenalty(l1: try bytes.number("l1"), l2: try bytes.number("l2"))
    guard bytes.wordsLeft >= 2 * p * k + k * k else { throw bytes.bad("it ends inside its factors") }
    try self.init(o, rows: p, components: k)
    self.iterations = iterations
    self.position = position
    try bytes.numbers(into: w.pointer, w.values.count, "W")
    try bytes.numbers(into: codes.pointer, codes.count, "A")
    try bytes.numbers(into: products.pointer, products.values.count, "B")
  }
}

// MARK: the door

extension unmerge_online_nmf_options: Growable {
  package static var defaults: unmerge_online_nmf_options {
    var o = unmerge_online_nmf_options()
    o.struct_size = MemoryLayout<unmerge_online_nmf_options>.size
    o.components = 1
    o.batch = 256
    o.decay = 2
    return o
  }
}

@_cdecl("unmerge_online_nmf_options_init") @implementation
public func unmerge_online_nmf_options_init(
  _ options: UnsafeMutablePointer<unmerge_online_nmf_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_online_nmf_create") @implementation
public func unmerge_online_nmf_create(
  _ x: UnsafePointer<unmerge_view>?, _ options: UnsafePointer<unmerge_online_nmf_options>?,
  _ run: UnsafePointer<unmerge_run>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let x = try modelData(x)
    let o = try read(options, "options")
    let watch = try Watch(run)
    guard let out else { throw .null("out") }
    try checkData(x)
    try check(o.components, "options->components", 1...65536, "between 1 and 65536")
    try check(o.batch, "options->batch", 1...Int64(Int32.max), "between 1 and \(Int32.max)")
    let largest = Double.greatestFiniteMagnitude
    try check(o.decay, "options->decay", 0...largest, "finite and >= 0")
    try check(o.l1_h, "options->l1_h", 0...largest, "finite and >= 0")
    try check(o.l2_h, "options->l2_h", 0...largest, "finite and >= 0")
    let options = OnlineNMF.Options(
      batch: Int(o.batch), decay: o.decay, h: FactorPenalty(l1: o.l1_h, l2: o.l2_h))
    let model = try OnlineNMF(options, rows: x.rows, components: Int(o.components))
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try model.begin(DataMatrix(view: x, threads: watch.threads, hasMissing: false), watch)
    }
    try publish(ModelHandle(model), out)
  }
}
