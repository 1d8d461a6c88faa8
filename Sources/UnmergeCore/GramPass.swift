import UnmergeLinalg

/// What a task of a pass works on: rows of a module (one fold of them), kept entries of it, or its factors among themselves.
private struct Work: Sendable {
  enum Kind: Sendable { case rows, masked, factors }
  let module: Int
  let fold: Int
  let block: Int
  let kind: Kind
}

/// The sums of one block.
struct BlockSums {
  let module: Int
  let fold: Int
  var entries = 0
  let sums: Sums
}

/// One pass over atoms and targets: panels of dense columns through BLAS, factors among themselves through their small
/// products, factors against dense columns through U = X·Aᵀ. Nothing of size p is ever made.
///
/// Order of summation: panel → task → block, every step in index order; tasks are cut by the module's shape alone.
struct GramPass<T: Real>: Sendable {
  let layouts: [Layout]
  let n: Int
  let targets: Int
  let mask: Mask?
  let folds: Folds
  let oneBlock: Bool
  let isWide: Bool
  /// Entries of a task: enough for a thread to be worth waking, and no more than bounds the wait at the end of a wave.
  private static func taskEntries(_ layout: Layout) -> Int { layout.factors.isEmpty ? 1 << 16 : 1 << 20 }

  init(_ a: Columns, _ y: Columns, mask: Mask?, folds: Folds, oneBlock: Bool, isWide: Bool = false) {
    n = a.count
    targets = y.count
    let targetCount = y.count
    let atomCount = a.count
    layouts = zip(a.modules, y.modules).map { Layout($0, $1, atoms: atomCount, targets: targetCount) }
    self.mask = mask
    self.folds = folds
    self.oneBlock = oneBlock
    self.isWide = isWide
  }

  private func plan() -> (tasks: TaskList<Work>, blocks: [(module: Int, fold: Int)]) {
    var tasks = TaskList<Work>()
    var blocks: [(module: Int, fold: Int)] = []
    for (m, layout) in layouts.enumerated() {
      for fold in 0..<folds.count {
        let block = oneBlock ? fold : blocks.count
        if !oneBlock || m == 0 { blocks.append((m, fold)) }
        func add(_ kind: Work.Kind, _ length: Int, _ step: Int) {
          tasks.append(Work(module: m, fold: fold, block: block, kind: kind), length: length, step: step)
        }
        let size = Self.taskEntries(layout)
        if let mask {
          add(.masked, mask.modules[m].indices.count, size)
        } else {
          if !layout.dense.isEmpty || layout.factors.isEmpty { add(.rows, layout.rows, size / max(layout.cols, 1)) }
          if !layout.factors.isEmpty { add(.factors, 1, 1) }
        }
      }
    }
    return (tasks, blocks)
  }

  func run(_ request: Request, _ watch: Watch, pass: Int) throws(UnmergeError) -> [BlockSums] {
    let (tasks, blockKeys) = plan()
    var blocks: [BlockSums] = []
    for key in blockKeys {
      blocks.append(BlockSums(module: key.module, fold: key.fold, sums: try Sums(n, targets, request)))
    }
    let slotCount = max(1, min(watch.threads, tasks.count))
    var slots: [PassSlot<T>] = []
    for _ in 0..<slotCount { slots.append(try PassSlot(self, request)) }
    let meter = PassMeter(watch, pass: pass, total: max(1, total))
    let workers = slots
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: tasks.count, slots: slotCount, watch) { (task, slot) throws(UnmergeError) in
        let s = workers[slot]
        s.sums.zero()
        s.entries = 0
        let (work, range) = tasks[task]
        switch work.kind {
        case .rows: try s.addRows(work.module, work.fold, range, meter)
        case .masked: try s.addMasked(work.module, work.fold, range, meter)
        case .factors: try s.addFactors(work.module, work.fold, meter)
        }
      } finish: { task, slot in
        let block = tasks[task].key.block
        blocks[block].sums.add(workers[slot].sums)
        blocks[block].entries += workers[slot].entries
      }
    }
    return blocks
  }

  /// What the meter counts to: entries looked at, and rows of factors.
  private var total: Int {
    if let mask { return mask.total }
    return layouts.reduce(0) { sum, layout in
      let entries = !layout.dense.isEmpty || layout.factors.isEmpty ? layout.rows * layout.cols : 0
      return saturatingSum(sum, saturatingSum(entries, layout.factors.isEmpty ? 0 : layout.rows))
    }
  }

  /// Whether a row of a module belongs to a fold; nil when every row does.
  func pick(_ module: Int, _ fold: Int) -> ((Int) -> Bool)? {
    guard folds.count > 1 else { return nil }
    let folds = self.folds
    let (key, cols) = (layouts[module].key, layouts[module].cols)
    return { folds.fold(module: key, row: $0, cols: cols) == fold }
  }
}

/// The buffers of one worker.
private final class PassSlot<T: Real>: @unchecked Sendable {
  let pass: GramPass<T>
  let sums: Sums
  var entries = 0
  private let kernel: PanelKernel<T>
  private var x: Buffer<T>
  private var y: Buffer<T>
  private var b: Buffer<T>
  private var u: Buffer<T>
  private var stack: (module: Int, value: FactorStack<T>)?
  private var masked: (module: Int, value: MaskedFactors<T>)?

  init(_ pass: GramPass<T>, _ request: Request) throws(UnmergeError) {
    self.pass = pass
    sums = try Sums(pass.n, pass.targets, request)
    kernel = try PanelKernel(atoms: pass.n, targets: pass.targets, request, isWide: pass.isWide)
    x = try allocate(0)
    y = try allocate(0)
    b = try allocate(0)
    u = try allocate(0)
  }

  private func grow(_ buffer: inout Buffer<T>, _ count: Int, by factor: Int) throws(UnmergeError) {
    let size = try product(count, factor, "a panel")
    if buffer.count < size { buffer = try allocate(size) }
  }

  func addRows(_ m: Int, _ fold: Int, _ rows: Range<Int>, _ meter: PassMeter) throws(UnmergeError) {
    let layout = pass.layouts[m]
    let dense = layout.dense
    let nd = layout.denseAtoms
    let pick = pass.pick(m, fold)
    let atoms = layout.isFull ? nil : dense.prefix(nd).map(\.column)
    let targets = dense.dropFirst(nd).map { $0.column - pass.n }
    // A matrix that BLAS can read where it lies is not copied.
    var direct = pick == nil ? layout.matrix?.inPlace(T.self) : nil
    let byRows = direct?.rowMajor == true && kernel.wantsColumns ? direct : nil
    if byRows != nil { direct = nil }
    var limit = layout.tileEntries
    // Long columns keep the memory's prefetcher going; a single target stays in cache beside them. Not so long that a
    // deadline would wait: 2²⁶ values are some ten milliseconds.
    if case .first = kernel.request, direct != nil, targets.count == 1, direct?.rowMajor == false {
      limit = max(8 * panelEntries, min(64 * panelEntries, (1 << 26) / max(nd, 1)))
    }
    if !layout.factors.isEmpty, stack?.module != m { stack = (m, try FactorStack(layout)) }
    for tile in Tiling(rows: rows, cols: layout.cols, entries: limit, pick: pick) {
      let k = tile.entries
      entries += k
      try grow(&y, max(k, 1), by: dense.count - nd)
      for (s, d) in dense[nd...].enumerated() { d.load(tile, y.pointer + s * k) }
      if let direct {
        let first = tile.runs[0].lowerBound
        let p = direct.pointer + (direct.rowMajor ? first * direct.leading : first)
        kernel.add(
          p, lead: direct.leading, rowMajor: direct.rowMajor, atoms: nil, y.pointer, leadY: k, targets: targets, rows: k,
          to: sums)
      } else {
        try grow(&x, max(k, 1), by: nd)
        if let byRows {
          let first = byRows.pointer + tile.runs[0].lowerBound * byRows.leading
          T.columnsOfRows(x.pointer, lead: k, first, stride: byRows.leading, rows: k, columns: nd)
        } else {
          for (s, d) in dense[..<nd].enumerated() { d.load(tile, x.pointer + s * k) }
        }
        var start = 0
        while start < k {
          let rows = min(panelEntries, k - start)
          kernel.add(
            x.pointer + start, lead: k, rowMajor: false, atoms: atoms, y.pointer + start, leadY: k, targets: targets,
            rows: rows,
            to: sums)
          start += rows
        }
      }
      if let stack = stack?.value, !layout.factors.isEmpty {
        try grow(&b, tile.rows, by: stack.rank)
        try grow(&u, tile.rows, by: stack.rank)
        stack.loadB(tile.runs, b.pointer)
        for (s, d) in dense.enumerated() {
          let column = s < nd ? x.pointer + s * k : y.pointer + (s - nd) * k
          stack.products(column, tile, b: b.pointer, u: u.pointer) { sums.add($0.column, d.column, $1) }
        }
      }
      if let stop = meter.advance(k) { throw stop }
    }
  }

  /// ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), for all pairs, in double whatever T is: the cost does not depend on rows·cols.
  func addFactors(_ m: Int, _ fold: Int, _ meter: PassMeter) throws(UnmergeError) {
    let layout = pass.layouts[m]
    let pick = pass.pick(m, fold)
    let stack = try FactorStack<Double>(layout)
    let r = stack.rank
    guard r > 0 else { return }
    let aa: Buffer<Double> = try allocate(try product(r, r, "the Gram of stacked factors"))
    let bb: Buffer<Double> = try allocate(r * r)
    let part: Buffer<Double> = try allocate(r * r)
    let rows: Buffer<Double> = try allocate(try product(panelEntries, r, "a tile of factors"))
    Double.syrk(r, stack.cols, stack.a.pointer, max(stack.cols, 1), rowMajor: false, aa.pointer, r)
    var counted = 0
    for tile in Tiling(rows: 0..<layout.rows, cols: 1, entries: panelEntries, pick: pick) {
      stack.loadB(tile.runs, rows.pointer)
      Double.syrk(r, tile.rows, rows.pointer, r, rowMajor: true, part.pointer, r)
      Double.accumulate(bb.pointer, part.pointer, r * r)
      counted += tile.rows
      if let stop = meter.advance(tile.rows) { throw stop }
    }
    if layout.dense.isEmpty { entries += counted * layout.cols }
    for (s, f) in stack.factors.enumerated() {
      for g in stack.factors[s...] {
        var sum = 0.0
        for q in f.offset..<(f.offset + f.rank) {
          for p in g.offset..<(g.offset + g.rank) {
            let at = max(p, q) * r + min(p, q)
            sum += aa[at] * bb[at]
          }
        }
        sums.add(f.column, g.column, sum)
      }
    }
  }

  func addMasked(_ m: Int, _ fold: Int, _ range: Range<Int>, _ meter: PassMeter) throws(UnmergeError) {
    guard let kept = pass.mask?.modules[m].indices else { return }
    let layout = pass.layouts[m]
    let columns = (layout.dense.map(\.column) + layout.factors.map(\.column)).sorted()
    let atoms = columns.filter { $0 < pass.n }
    let targets = columns.filter { $0 >= pass.n }.map { $0 - pass.n }
    if !layout.factors.isEmpty, masked?.module != m { masked = (m, try MaskedFactors(layout)) }
    let chosen: Buffer<Int64> = try allocate(panelEntries)
    try grow(&x, panelEntries, by: atoms.count)
    try grow(&y, panelEntries, by: targets.count)
    var place: [Int: UnsafeMutablePointer<T>] = [:]
    for (s, j) in atoms.enumerated() { place[j] = x.pointer + s * panelEntries }
    for (s, t) in targets.enumerated() { place[pass.n + t] = y.pointer + s * panelEntries }
    let pick = pass.pick(m, fold)
    var next = range.lowerBound
    while next < range.upperBound {
      var k = 0
      while k < panelEntries, next < range.upperBound {
        let index = kept[next]
        if pick?(Int(index) / layout.cols) ?? true {
          chosen[k] = index
          k += 1
        }
        next += 1
      }
      entries += k
      for d in layout.dense { if let p = place[d.column] { d.gather(chosen.pointer, k, p) } }
      for f in layout.factors {
        if let p = place[f.column] { masked?.value.load(f, chosen.pointer, k, cols: layout.cols, p) }
      }
      kernel.add(
        x.pointer, lead: panelEntries, rowMajor: false, atoms: atoms.count == pass.n ? nil : atoms, y.pointer,
        leadY: panelEntries,
        targets: targets, rows: k, to: sums)
      if let stop = meter.advance(k) { throw stop }
    }
  }
}
