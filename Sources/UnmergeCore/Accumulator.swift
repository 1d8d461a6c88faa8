import CUnmerge
import UnmergeLinalg

/// Sums of rows that come in calls of any size.
///
/// Invariant: rows are gathered into panels of exactly `panelEntries` rows and panels into tasks as a pass over the whole
/// matrix would cut them, so neither the calls' boundaries nor their number reach the result.
private final class RowSums<T: Real>: @unchecked Sendable {
  private let n: Int
  private let targets: Int
  private let kernel: PanelKernel<T>
  private var x: Buffer<T>
  private var y: Buffer<T>
  private var rows = 0
  private var task: Sums
  private var panels = 0
  private var total: Sums
  private(set) var entries = 0

  init(_ n: Int, _ targets: Int) throws(UnmergeError) {
    self.n = n
    self.targets = targets
    kernel = try PanelKernel(atoms: n, targets: targets, .complete)
    x = try allocate(try product(panelEntries, n, "a panel"))
    y = try allocate(try product(panelEntries, targets, "a panel"))
    task = try Sums(n, targets, .complete)
    total = try Sums(n, targets, .complete)
  }

  private init(copy s: RowSums) throws(UnmergeError) {
    n = s.n
    targets = s.targets
    kernel = s.kernel
    (x, y) = try allocating { () throws(OutOfMemory) in (try s.x.copy(), try s.y.copy()) }
    rows = s.rows
    task = try Sums(n, targets, .complete)
    task.add(s.task)
    panels = s.panels
    total = try Sums(n, targets, .complete)
    total.add(s.total)
    entries = s.entries
  }

  func copy() throws(UnmergeError) -> RowSums { try RowSums(copy: self) }

  private func flush() {
    kernel.add(
      x.pointer, lead: panelEntries, rowMajor: false, atoms: nil, y.pointer, leadY: panelEntries,
      targets: Array(0..<targets),
      rows: rows, to: task)
    rows = 0
    panels += 1
    if panels * panelEntries == 1 << 16 { close() }
  }

  private func close() {
    total.add(task)
    task.zero()
    panels = 0
  }

  func add(_ a: View, _ b: View, _ meter: PassMeter) throws(UnmergeError) {
    var i = 0
    while i < a.rows {
      let k = min(panelEntries - rows, a.rows - i)
      for j in 0..<n {
        T.load(
          x.pointer + j * panelEntries + rows, a.address(i, j), a.type, stride: a.rowStride, count: k, scale: 1, add: false)
      }
      for t in 0..<targets {
        T.load(
          y.pointer + t * panelEntries + rows, b.address(i, t), b.type, stride: b.rowStride, count: k, scale: 1, add: false)
      }
      rows += k
      i += k
      entries += k
      if rows == panelEntries { flush() }
      if let stop = meter.advance(k) { throw stop }
    }
  }

  func finish() throws(UnmergeError) -> Sums {
    let s = try copy()
    if s.rows > 0 { s.flush() }
    if s.panels > 0 { s.close() }
    return s.total
  }
}

package final class Accumulator: Handle, @unchecked Sendable {
  package static let kind: UInt = 4
  package static let name = "an accumulator"

  private enum State {
    case fast(RowSums<Float>)
    case exact(RowSums<Double>)
  }
  let atoms: Int
  let targets: Int
  private var state: State
  private let lock = Lock()

  package init(atoms: Int, targets: Int, precision: Precision) throws(UnmergeError) {
    self.atoms = atoms
    self.targets = targets
    state = precision == .fast ? .fast(try RowSums(atoms, targets)) : .exact(try RowSums(atoms, targets))
  }

  package func add(_ a: View, _ y: View, _ watch: Watch) throws(UnmergeError) {
    try lock.locked { () throws(UnmergeError) in
      let meter = PassMeter(watch, pass: 1, total: a.rows)
      // Work on a copy, so that a cancelled call leaves no half of its rows behind.
      switch state {
      case .fast(let sums):
        let next = try sums.copy()
        try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in try next.add(a, y, meter) }
        state = .fast(next)
      case .exact(let sums):
        let next = try sums.copy()
        try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in try next.add(a, y, meter) }
        state = .exact(next)
      }
    }
  }

  package func gram() throws(UnmergeError) -> Gram {
    let (sums, entries, precision): (Sums, Int, Precision) = try lock.locked { () throws(UnmergeError) in
      try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
        switch state {
        case .fast(let s):
          let sums = try s.finish()
          _ = sums.settleDiagonal()
          return (sums, s.entries, .fast)
        case .exact(let s): return (try s.finish(), s.entries, .exact)
        }
      }
    }
    let block = Block(module: try ModuleName(""), fold: 0, entries: entries, g: sums.g, c: sums.c, yy: sums.yy)
    let gram = try Gram(atoms: atoms, targets: targets, blocks: [block], precision: precision, passes: 1)
    for j in 0..<atoms where !gram.norms[j].isFinite {
      throw UnmergeError(
        UNMERGE_E_NONFINITE, "atom \(j) holds NaN or infinity in one of the rows added, or its squared norm overflows")
    }
    for t in 0..<targets where !gram.targetNorms[t].isFinite {
      throw UnmergeError(
        UNMERGE_E_NONFINITE, "target \(t) holds NaN or infinity in one of the rows added, or its squared norm overflows")
    }
    return gram
  }
}

// MARK: the door

@_cdecl("unmerge_accumulator_create") @implementation
public func unmerge_accumulator_create(
  _ atoms: Int64, _ targets: Int64, _ options: UnsafePointer<unmerge_gram_options>?,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    guard let out else { throw .null("out") }
    try check(atoms, "atoms", 0...(1 << 20), "between 0 and \(1 << 20)")
    try check(targets, "targets", 0...(1 << 20), "between 0 and \(1 << 20)")
    let plan = try gramPlan(options, seed: 0)
    guard plan.folds.count == 1, plan.mask == nil, !plan.onDemand else {
      throw .range("options ask for columns on demand, folds or a mask; an accumulator has none of them")
    }
    let precision = atoms <= fewColumns ? .exact : plan.precision ?? .exact
    let accumulator = try Accumulator(atoms: Int(atoms), targets: Int(targets), precision: precision)
    try publish(accumulator, out)
  }
}

@_cdecl("unmerge_accumulator_add") @implementation
public func unmerge_accumulator_add(
  _ acc: OpaquePointer?, _ a: UnsafePointer<unmerge_view>?, _ y: UnsafePointer<unmerge_view>?,
  _ run: UnsafePointer<unmerge_run>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let accumulator = try object(acc, "acc", Accumulator.self)
    let atoms = try view(a, "a")
    let targets = try view(y, "y")
    guard atoms.columns == accumulator.atoms else {
      throw .shape("a is \(atoms.rows) x \(atoms.columns), expected \(accumulator.atoms) columns")
    }
    guard targets.columns == accumulator.targets, targets.rows == atoms.rows else {
      throw .shape("y is \(targets.rows) x \(targets.columns), expected \(atoms.rows) x \(accumulator.targets)")
    }
    try accumulator.add(atoms, targets, try Watch(run))
  }
}

@_cdecl("unmerge_accumulator_finish") @implementation
public func unmerge_accumulator_finish(
  _ acc: OpaquePointer?, _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let accumulator = try object(acc, "acc", Accumulator.self)
    guard let out else { throw .null("out") }
    try publish(try accumulator.gram(), out)
  }
}

@_cdecl("unmerge_accumulator_destroy") @implementation
public func unmerge_accumulator_destroy(_ acc: OpaquePointer?) { release(acc, Accumulator.self) }
