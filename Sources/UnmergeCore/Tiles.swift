import UnmergeLinalg

/// A factored column on a module: scale·B·A, with its rank rows [offset, offset + rank) of the stacked factors.
struct Factor: Sendable {
  let column: Int
  let b: View
  let a: View
  let scale: Double
  let offset: Int
  var rank: Int { a.rows }
}

/// A dense column on a module.
struct Dense: Sendable {
  let column: Int
  let values: View
  let base: View?
  let scale: Double
}

/// The columns of one module sorted by how they are stored. Columns are numbered atoms first, then targets.
struct Layout: Sendable {
  let key: UInt64
  let rows: Int
  let cols: Int
  let atoms: Int
  private(set) var dense: [Dense] = []
  private(set) var denseAtoms = 0
  private(set) var factors: [Factor] = []
  private(set) var rank = 0
  /// All atoms as one matrix, to be read where they are when BLAS can.
  let matrix: View?
  /// Dense atoms are all atoms, in order.
  var isFull: Bool { denseAtoms == atoms }

  init(_ a: Module, _ y: Module, atoms: Int, targets: Int) {
    key = Folds.key(a.name)
    rows = a.rows
    cols = a.cols
    self.atoms = atoms
    matrix = a.matrix
    for column in 0..<(atoms + targets) {
      switch column < atoms ? a.piece(column) : y.piece(column - atoms) {
      case .dense(let values, let base, let scale)?:
        dense.append(Dense(column: column, values: values, base: base, scale: scale))
        if column < atoms { denseAtoms += 1 }
      case .lora(let b, let a, let scale)?:
        factors.append(Factor(column: column, b: b, a: a, scale: scale, offset: rank))
        rank += a.rows
      case nil: break
      }
    }
  }

  /// Entries of one tile. Dense panels stay in cache; a module with factors wants taller tiles, so that the product with A
  /// is a matrix product and not a row of vector products.
  var tileEntries: Int { factors.isEmpty ? panelEntries : max(panelEntries, min(1 << 18, (1 << 22) / max(dense.count, 1))) }
}

/// Rows that go through one BLAS call in float32 before they are summed in double: more is faster by a few per cent and
/// less exact by √.
let panelEntries = 1024

/// A rectangle of a module: rows (as runs, because folds pick rows) × a range of columns.
struct Tile {
  var runs: [Range<Int>] = []
  var rows = 0
  var cols: Range<Int>
  var entries: Int { rows * cols.count }
}

/// Cuts rows of a module into tiles, in a fixed order that depends on the shape alone. `pick` says which rows belong.
struct Tiling: Sequence, IteratorProtocol {
  private let rowsPerTile: Int
  private let colsPerTile: Int
  private let cols: Int
  private let end: Int
  private let pick: ((Int) -> Bool)?
  private var nextRow: Int
  private var runs: [Range<Int>] = []
  private var rows = 0
  private var nextCol: Int

  init(rows: Range<Int>, cols: Int, entries: Int, pick: ((Int) -> Bool)? = nil) {
    colsPerTile = Swift.max(1, Swift.min(cols, entries))
    rowsPerTile = Swift.max(1, entries / colsPerTile)
    self.cols = cols
    end = rows.upperBound
    nextRow = rows.lowerBound
    nextCol = cols
    self.pick = pick
  }

  mutating func next() -> Tile? {
    if nextCol >= cols {
      guard takeRows() else { return nil }
      nextCol = 0
    }
    let c = nextCol..<Swift.min(nextCol + colsPerTile, cols)
    nextCol = c.upperBound
    return c.isEmpty ? nil : Tile(runs: runs, rows: rows, cols: c)
  }

  private mutating func takeRows() -> Bool {
    runs.removeAll(keepingCapacity: true)
    rows = 0
    guard let pick else {
      let upper = Swift.min(nextRow + rowsPerTile, end)
      guard upper > nextRow else { return false }
      runs.append(nextRow..<upper)
      rows = upper - nextRow
      nextRow = upper
      return true
    }
    while nextRow < end, rows < rowsPerTile {
      if pick(nextRow) {
        if let last = runs.last, last.upperBound == nextRow {
          runs[runs.count - 1] = last.lowerBound..<(nextRow + 1)
        } else {
          runs.append(nextRow..<(nextRow + 1))
        }
        rows += 1
      }
      nextRow += 1
    }
    return rows > 0
  }
}

/// Which fold a row of a module belongs to: a hash of seed, module name and row (of a vector: of 64 rows together), so shards of
/// a model fall into the same folds as the whole.
package struct Folds: Sendable {
  package let count: Int
  package let seed: UInt64

  package init(count: Int, seed: UInt64) {
    self.count = count
    self.seed = seed
  }

  /// FNV-1a of a module's name, the `module` of `fold`.
  package static func key(_ name: String) -> UInt64 {
    name.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
  }

  package func fold(module: UInt64, row: Int, cols: Int) -> Int {
    let unit = UInt64(truncatingIfNeeded: cols == 1 ? row / 64 : row)
    return Int(CounterRandom.bits(seed, module, unit) % UInt64(count))
  }
}

extension Dense {
  /// The column on a tile, row-major, into `destination`.
  func load<T: Real>(_ tile: Tile, _ destination: UnsafeMutablePointer<T>) {
    var d = destination
    let width = tile.cols.count
    func rectangle(_ v: View, _ rows: Range<Int>, scale: Double, add: Bool) {
      let first = v.address(rows.lowerBound, tile.cols.lowerBound)
      if width == 1 {
        T.load(d, first, v.type, stride: v.rowStride, count: rows.count, scale: scale, add: add)
      } else if v.rowStride == width * v.columnStride {
        T.load(d, first, v.type, stride: v.columnStride, count: rows.count * width, scale: scale, add: add)
      } else {
        for i in 0..<rows.count {
          T.load(
            d + i * width, first + i * v.rowStride, v.type, stride: v.columnStride, count: width, scale: scale, add: add)
        }
      }
    }
    for run in tile.runs {
      if let base {
        // Subtract first: the difference of two stored numbers is exact or nearly so, their scaled difference is not.
        rectangle(values, run, scale: 1, add: false)
        rectangle(base, run, scale: -1, add: true)
        if scale != 1 { for i in 0..<(run.count * width) { d[i] *= T(scale) } }
      } else {
        rectangle(values, run, scale: scale, add: false)
      }
      d += run.count * width
    }
  }
}

/// The stacked factors of one module, in T: A is rank×cols row-major and kept; rows of B (times scale) come tile by tile.
struct FactorStack<T: Real> {
  let factors: [Factor]
  let rank: Int
  let cols: Int
  let a: Buffer<T>

  init(_ layout: Layout) throws(UnmergeError) {
    factors = layout.factors
    rank = layout.rank
    cols = layout.cols
    a = try allocate(try product(rank, cols, "the stacked factors"))
    for f in factors {
      for q in 0..<f.rank {
        T.load(
          a.pointer + (f.offset + q) * cols, f.a.address(q, 0), f.a.type, stride: f.a.columnStride, count: cols, scale: 1,
          add: false)
      }
    }
  }

  /// Rows of scale·B as rows×rank, row-major.
  func loadB(_ runs: [Range<Int>], _ destination: UnsafeMutablePointer<T>) {
    for f in factors where f.rank > 0 {
      var d = destination + f.offset
      for run in runs {
        for i in run {
          T.load(d, f.b.address(i, 0), f.b.type, stride: f.b.columnStride, count: f.rank, scale: f.scale, add: false)
          d += rank
        }
      }
    }
  }

  /// One factored column on a tile, row-major: B_tile·A.
  func form(_ f: Factor, _ tile: Tile, b: UnsafePointer<T>, _ destination: UnsafeMutablePointer<T>) {
    let width = tile.cols.count
    guard f.rank > 0 else {
      for i in 0..<tile.entries { destination[i] = 0 }
      return
    }
    T.gemm(
      false, false, width, tile.rows, f.rank, 1, a.pointer + f.offset * cols + tile.cols.lowerBound, cols, b + f.offset,
      rank, 0,
      destination, width)
  }

  /// ⟨x, scale·B·A⟩ on a tile for every factored column at once: U = X·Aᵀ, then Σ U∘B. `u` has room for rows×rank.
  func products(
    _ x: UnsafePointer<T>, _ tile: Tile, b: UnsafePointer<T>, u: UnsafeMutablePointer<T>, add: (Factor, Double) -> Void
  ) {
    guard rank > 0 else { return }
    let width = tile.cols.count
    T.gemm(true, false, rank, tile.rows, width, 1, a.pointer + tile.cols.lowerBound, cols, x, width, 0, u, rank)
    for f in factors {
      var sum = 0.0
      for i in 0..<tile.rows {
        let p = u + i * rank + f.offset
        let q = b + i * rank + f.offset
        for r in 0..<f.rank { sum += Double(p[r]) * Double(q[r]) }
      }
      add(f, sum)
    }
  }
}
