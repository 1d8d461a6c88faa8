import UnmergeLinalg

/// x ↦ AᵀA x of an operator, tile by tile: r = A x on a tile and Aᵀr are had from one look at it. What it needs beside the data
/// are n numbers per thread, a tile of one column, and factors in double; nothing of size p, n² or n·p.
///
/// Order of summation: tile → task, tasks in their order, cut by the module's shape alone: as many threads, the same bits.
package final class NormalProduct: @unchecked Sendable {
  private let n: Int
  private let layouts: [Layout]
  private let stacks: [FactorStack<Double>?]
  private let tasks: TaskList<Int>
  private let slots: [Slot]
  /// Products made so far, each a pass over the data.
  package private(set) var passes = 0

  /// Tall enough to make calls of BLAS worth their while, small enough for its columns to be in cache when they are read again.
  private static func entries(_ layout: Layout) -> Int { layout.factors.isEmpty ? 4096 : layout.tileEntries }

  package init(_ a: Columns, threads: Int) throws(UnmergeError) {
    let count = a.count
    n = count
    let layouts = a.modules.map {
      Layout($0, Module(name: $0.name, rows: $0.rows, cols: $0.cols), atoms: count, targets: 0)
    }
    var stacks: [FactorStack<Double>?] = []
    var tasks = TaskList<Int>()
    var (largest, rows) = (0, 0)
    for (m, layout) in layouts.enumerated() {
      stacks.append(layout.factors.isEmpty ? nil : try FactorStack(layout))
      tasks.append(m, length: layout.rows, step: (layout.factors.isEmpty ? 1 << 16 : 1 << 20) / max(layout.cols, 1))
      let tile = min(Self.entries(layout), try product(layout.rows, layout.cols, "a module"))
      largest = max(largest, tile)
      rows = max(rows, try product(tile / max(min(layout.cols, tile), 1) + 1, layout.rank, "a tile of factors"))
    }
    self.layouts = layouts
    self.stacks = stacks
    self.tasks = tasks
    var slots: [Slot] = []
    for _ in 0..<max(1, min(threads, tasks.count)) { slots.append(try Slot(count, tile: largest, factors: rows)) }
    self.slots = slots
  }

  /// z ← AᵀA x; z is not x. Columns with x_j = 0 are read once, for Aᵀr.
  package func apply(_ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    passes += 1
    z.update(repeating: 0, count: n)
    nonisolated(unsafe) let x = x
    var first = 0
    while first < tasks.count {
      let (start, wave) = (first, min(slots.count, tasks.count - first))
      Threads.perform(wave) { slot in
        let (m, rows) = self.tasks[start + slot]
        self.add(m, rows, x, self.slots[slot])
      }
      for slot in 0..<wave { Vector.axpy(n, 1, slots[slot].sums.pointer, z) }
      first += wave
    }
  }

  private func add(_ m: Int, _ rows: Range<Int>, _ x: UnsafePointer<Double>, _ s: Slot) {
    let layout = layouts[m]
    s.sums.zero()
    let r = s.r.pointer
    for tile in Tiling(rows: rows, cols: layout.cols, entries: Self.entries(layout)) {
      let k = tile.entries
      r.update(repeating: 0, count: k)
      for d in layout.dense where x[d.column] != 0 {
        Vector.axpy(k, x[d.column], values(d, tile, layout, s.column.pointer), r)
      }
      if let stack = stacks[m], stack.rank > 0 {
        stack.loadB(tile.runs, s.b.pointer)
        for i in 0..<tile.rows {
          for f in stack.factors {
            for q in (i * stack.rank + f.offset)..<(i * stack.rank + f.offset + f.rank) { s.u[q] = x[f.column] * s.b[q] }
          }
        }
        let width = tile.cols.count
        Double.gemm(
          false, false, width, tile.rows, stack.rank, 1, stack.a.pointer + tile.cols.lowerBound, stack.cols, s.u.pointer,
          stack.rank, 1, r, width)
      }
      for d in layout.dense { s.sums[d.column] += Vector.dot(k, values(d, tile, layout, s.column.pointer), r) }
      stacks[m]?.products(r, tile, b: s.b.pointer, u: s.u.pointer) { s.sums[$0.column] += $1 }
    }
  }

  /// A column on a tile: where it is when it is doubles side by side, else in `copy`.
  @inline(__always)
  private func values(
    _ d: Dense, _ tile: Tile, _ layout: Layout, _ copy: UnsafeMutablePointer<Double>
  ) -> UnsafePointer<Double> {
    if layout.cols == 1, d.values.type == .f64, d.base == nil, d.scale == 1, d.values.rowStride == 8 {
      let first = d.values.address(tile.runs[0].lowerBound, 0)
      if UInt(bitPattern: first) % 8 == 0 { return first.assumingMemoryBound(to: Double.self) }
    }
    d.load(tile, copy)
    return UnsafePointer(copy)
  }

  /// The buffers of one worker.
  private final class Slot: @unchecked Sendable {
    let sums: Buffer<Double>
    let r: Buffer<Double>
    let column: Buffer<Double>
    let b: Buffer<Double>
    let u: Buffer<Double>

    init(_ n: Int, tile: Int, factors: Int) throws(UnmergeError) {
      sums = try allocate(n)
      r = try allocate(tile)
      column = try allocate(tile)
      b = try allocate(factors)
      u = try allocate(factors)
    }
  }
}
