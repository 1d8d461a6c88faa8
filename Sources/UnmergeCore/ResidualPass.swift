import UnmergeLinalg

/// What one streamed look at the data says of coefficients W: r = y − A·w per target, from the entries themselves, so
/// nothing cancels as it does in yy − 2cᵀw + wᵀGw.
package struct Residual: Sendable {
  package let atoms: Int
  package let targets: Int
  /// Aᵀr, n×T column-major
  package let correlation: Buffer<Double>
  /// ‖r‖², ‖y‖², ‖a_j‖²
  package let rss: Buffer<Double>
  package let yy: Buffer<Double>
  package let squares: Buffer<Double>

  fileprivate init(_ n: Int, _ t: Int) throws(UnmergeError) {
    atoms = n
    targets = t
    correlation = try allocate(try product(n, t, "A'r"))
    rss = try allocate(t)
    yy = try allocate(t)
    squares = try allocate(n)
  }

  fileprivate func zero() { for b in [correlation, rss, yy, squares] { b.zero() } }

  fileprivate func add(_ o: Residual) {
    for (mine, other) in [(correlation, o.correlation), (rss, o.rss), (yy, o.yy), (squares, o.squares)] {
      Double.accumulate(mine.pointer, other.pointer, mine.count)
    }
  }
}

/// One pass in double over atoms and targets. `w` is n×T, column-major. Factored atoms enter the residual through
/// (B·w)·A, a tile at a time, and the correlations through U = R·Aᵀ.
package func residualPass(
  _ a: Columns, _ y: Columns, mask: Mask?, _ w: UnsafePointer<Double>, _ watch: Watch
) throws(UnmergeError) -> Residual {
  try checkSameModules(a, y)
  try mask?.check(a)
  let n = a.count
  let targets = y.count
  let layouts = zip(a.modules, y.modules).map { Layout($0, $1, atoms: n, targets: targets) }
  var tasks = TaskList<Int>()
  for (m, layout) in layouts.enumerated() {
    let step = (layout.factors.isEmpty ? 1 << 16 : 1 << 20) / max(layout.cols, 1)
    tasks.append(m, length: mask?.modules[m].indices.count ?? layout.rows, step: mask == nil ? step : 1 << 16)
  }
  let total = try Residual(n, targets)
  let slotCount = max(1, min(watch.threads, tasks.count))
  var slots: [ResidualSlot] = []
  for _ in 0..<slotCount { slots.append(try ResidualSlot(n, targets)) }
  let meter = PassMeter(watch, pass: 1, total: max(1, mask?.total ?? a.entries))
  let workers = slots
  let plan = tasks
  nonisolated(unsafe) let w = w
  try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
    try performPass(tasks: plan.count, slots: slotCount, watch) { (task, slot) throws(UnmergeError) in
      let s = workers[slot]
      s.sums.zero()
      let (m, range) = plan[task]
      if let mask {
        try s.addMasked(layouts[m], m, mask.modules[m].indices, range, w, meter)
      } else {
        try s.addRows(layouts[m], m, range, w, meter)
      }
    } finish: { _, slot in
      total.add(workers[slot].sums)
    }
  }
  return total
}

private final class ResidualSlot: @unchecked Sendable {
  let sums: Residual
  private let n: Int
  private let targets: Int
  private var x: Buffer<Double>
  private var r: Buffer<Double>
  private var b: Buffer<Double>
  private var bw: Buffer<Double>
  private var u: Buffer<Double>
  private var wd: Buffer<Double>
  private var correlations: Buffer<Double>
  private var stack: (module: Int, value: FactorStack<Double>)?
  private var masked: (module: Int, value: MaskedFactors<Double>)?

  init(_ n: Int, _ targets: Int) throws(UnmergeError) {
    self.n = n
    self.targets = targets
    sums = try Residual(n, targets)
    x = try allocate(0)
    r = try allocate(0)
    b = try allocate(0)
    bw = try allocate(0)
    u = try allocate(0)
    wd = try allocate(try product(n, targets, "coef"))
    correlations = try allocate(n * targets)
  }

  private func grow(_ buffer: inout Buffer<Double>, _ count: Int, by factor: Int) throws(UnmergeError) {
    let size = try product(count, factor, "a panel")
    if buffer.count < size { buffer = try allocate(size) }
  }

  /// The part of dense atoms: R −= X·W, ‖r‖², XᵀR and ‖x‖²; R holds y (less factored atoms) on entry.
  private func subtractDense(_ atoms: [Int], lead: Int, rows k: Int, _ w: UnsafePointer<Double>) {
    let m = atoms.count
    guard m > 0, targets > 0 else { return }
    for t in 0..<targets { for (s, j) in atoms.enumerated() { wd[t * m + s] = w[t * n + j] } }
    Double.gemm(false, false, k, targets, m, -1, x.pointer, lead, wd.pointer, m, 1, r.pointer, lead)
  }

  private func close(_ atoms: [Int], lead: Int, rows k: Int) {
    let m = atoms.count
    for (s, j) in atoms.enumerated() {
      var ignored = 0.0
      Double.dotNorm(x.pointer + s * lead, x.pointer + s * lead, k, &ignored, sums.squares.pointer + j)
    }
    for t in 0..<targets {
      var ignored = 0.0
      Double.dotNorm(r.pointer + t * lead, r.pointer + t * lead, k, &ignored, sums.rss.pointer + t)
    }
    guard m > 0, targets > 0 else { return }
    Double.gemm(true, false, m, targets, k, 1, x.pointer, lead, r.pointer, lead, 0, correlations.pointer, m)
    for t in 0..<targets { for (s, j) in atoms.enumerated() { sums.correlation[t * n + j] += correlations[t * m + s] } }
  }

  func addRows(_ layout: Layout, _ m: Int, _ rows: Range<Int>, _ w: UnsafePointer<Double>, _ meter: PassMeter)
    throws(UnmergeError)
  {
    let atoms = layout.dense.prefix(layout.denseAtoms).map(\.column)
    if !layout.factors.isEmpty, stack?.module != m { stack = (m, try FactorStack(layout)) }
    let stack = layout.factors.isEmpty ? nil : self.stack?.value
    if rows.lowerBound == 0, let stack { try factorSquares(layout, stack) }
    // A panel holds all atoms: of many it has fewer rows.
    let limit = min(layout.tileEntries, max(64, (1 << 21) / max(layout.denseAtoms, 1)))
    for tile in Tiling(rows: rows, cols: layout.cols, entries: limit) {
      let k = tile.entries
      try grow(&x, max(k, 1), by: max(layout.denseAtoms, 1))
      try grow(&r, max(k, 1), by: targets)
      for i in 0..<(k * targets) { r[i] = 0 }
      for (s, d) in layout.dense.enumerated() {
        d.load(tile, d.column < n ? x.pointer + s * k : r.pointer + (d.column - n) * k)
      }
      if let stack {
        try grow(&b, tile.rows, by: stack.rank)
        try grow(&bw, tile.rows, by: stack.rank)
        try grow(&u, tile.rows, by: stack.rank)
        stack.loadB(tile.runs, b.pointer)
        for f in stack.factors where f.column >= n { stack.form(f, tile, b: b.pointer, r.pointer + (f.column - n) * k) }
      }
      for t in 0..<targets {
        var ignored = 0.0
        Double.dotNorm(r.pointer + t * k, r.pointer + t * k, k, &ignored, sums.yy.pointer + t)
      }
      subtractDense(atoms, lead: k, rows: k, w)
      if let stack, stack.rank > 0 {
        for t in 0..<targets {
          for i in 0..<tile.rows {
            for f in stack.factors {
              let weight = f.column < n ? w[t * n + f.column] : 0
              for q in f.offset..<(f.offset + f.rank) { bw[i * stack.rank + q] = weight * b[i * stack.rank + q] }
            }
          }
          let width = tile.cols.count
          Double.gemm(
            false, false, width, tile.rows, stack.rank, -1, stack.a.pointer + tile.cols.lowerBound, stack.cols, bw.pointer,
            stack.rank, 1, r.pointer + t * k, width)
        }
      }
      close(atoms, lead: k, rows: k)
      if let stack {
        for t in 0..<targets {
          stack.products(r.pointer + t * k, tile, b: b.pointer, u: u.pointer) { f, value in
            if f.column < n { sums.correlation[t * n + f.column] += value }
          }
        }
      }
      if let stop = meter.advance(k) { throw stop }
    }
  }

  /// ‖B·A‖² = Σ (BᵀB) ∘ (AAᵀ) of every factored atom, once per module.
  private func factorSquares(_ layout: Layout, _ stack: FactorStack<Double>) throws(UnmergeError) {
    for f in stack.factors where f.column < n && f.rank > 0 {
      let aa: Buffer<Double> = try allocate(try product(f.rank, f.rank, "the Gram of a factor"))
      let bb: Buffer<Double> = try allocate(f.rank * f.rank)
      let part: Buffer<Double> = try allocate(f.rank * f.rank)
      let rows: Buffer<Double> = try allocate(try product(panelEntries, stack.rank, "a tile of factors"))
      Double.syrk(
        f.rank, stack.cols, stack.a.pointer + f.offset * stack.cols, max(stack.cols, 1), rowMajor: false, aa.pointer, f.rank)
      for tile in Tiling(rows: 0..<layout.rows, cols: 1, entries: panelEntries) {
        stack.loadB(tile.runs, rows.pointer)
        Double.syrk(f.rank, tile.rows, rows.pointer + f.offset, stack.rank, rowMajor: true, part.pointer, f.rank)
        Double.accumulate(bb.pointer, part.pointer, f.rank * f.rank)
      }
      for q in 0..<f.rank {
        for p in 0...q { sums.squares[f.column] += (p == q ? 1 : 2) * aa[q * f.rank + p] * bb[q * f.rank + p] }
      }
    }
  }

  func addMasked(
    _ layout: Layout, _ m: Int, _ kept: Buffer<Int64>, _ range: Range<Int>, _ w: UnsafePointer<Double>, _ meter: PassMeter
  ) throws(UnmergeError) {
    if !layout.factors.isEmpty, masked?.module != m { masked = (m, try MaskedFactors(layout)) }
    let atoms = (layout.dense.map(\.column) + layout.factors.map(\.column)).filter { $0 < n }
    let lead = panelEntries
    try grow(&x, lead, by: max(atoms.count, 1))
    try grow(&r, lead, by: targets)
    var place: [Int: UnsafeMutablePointer<Double>] = [:]
    for (s, j) in atoms.enumerated() { place[j] = x.pointer + s * lead }
    for t in 0..<targets { place[n + t] = r.pointer + t * lead }
    var start = range.lowerBound
    while start < range.upperBound {
      let k = min(lead, range.upperBound - start)
      let chosen = kept.pointer + start
      for i in 0..<(lead * targets) { r[i] = 0 }
      for d in layout.dense { if let p = place[d.column] { d.gather(chosen, k, p) } }
      for f in layout.factors { if let p = place[f.column] { masked?.value.load(f, chosen, k, cols: layout.cols, p) } }
      for t in 0..<targets {
        var ignored = 0.0
        Double.dotNorm(r.pointer + t * lead, r.pointer + t * lead, k, &ignored, sums.yy.pointer + t)
      }
      subtractDense(atoms, lead: lead, rows: k, w)
      close(atoms, lead: lead, rows: k)
      start += k
      if let stop = meter.advance(k) { throw stop }
    }
  }
}
