import UnmergeCore
import UnmergeLinalg

// Statistics of a merge need no more than some rows of every module: what is estimated is the same in all of them. A sample holds
// what they need in memory, read once:
//
//     D    = scale·(values − base)      the rows of the target, or of its factors' product
//     u    = unit in the last place of the stored weight, for storage of 16 bits
//     Δ_j  = B_j·A_j or a dense matrix  the same rows of every atom
//
// Which rows and modules depends on shapes and limits alone.

/// An atom's rows in one module.
package enum SampledAtom: Sendable {
  /// scale·B (rows×rank) and A (rank×cols), row-major
  case factors(b: Buffer<Float>, a: Buffer<Float>, rank: Int)
  case dense(Buffer<Float>)
}

/// Rows of one module; everything is rows×cols, row-major.
package struct SampledModule: Sendable {
  /// Its place among the modules of the operators.
  package let index: Int
  package let name: String
  package let rows: Int
  package let cols: Int
  /// The rows taken; of a module with one column, which is laid out as one row, its entries.
  package let picked: [Int]
  /// How the target is stored; nil when it is not (factors, or absent).
  package let storage: ElementType?
  package let target: Buffer<Float>
  /// The base, where the target has one.
  package let base: Buffer<Float>?
  /// Of the stored weights, for storage of 16 bits; finer storage does not show in a difference of weights.
  package let unit: Buffer<Float>?
  /// The mean of unit²/12 over the entries: what rounding to storage adds to the variance of D.
  package let roundingVariance: Double
  /// By column of the atoms' operator; nil: absent here.
  package let atoms: [SampledAtom?]

  package var entries: Int { rows * cols }

  /// Δ_j into `out`, zero where the atom is absent.
  package func form(_ atom: SampledAtom?, _ out: UnsafeMutablePointer<Float>) {
    switch atom {
    case .dense(let x)?: out.update(from: x.pointer, count: entries)
    case .factors(let b, let a, let rank)? where rank > 0:
      Float.gemm(false, false, cols, rows, rank, 1, a.pointer, cols, b.pointer, rank, 0, out, cols)
    default: out.update(repeating: 0, count: entries)
    }
  }
}

package struct RowSample: Sendable {
  package struct Limits: Sendable {
    /// Rows of a module; never more than it has columns, so that D Dᵀ has a floor of noise in all directions.
    package var rows = 512
    /// Entries of a module: of one that is very wide, or a vector.
    package var entries = 1 << 22
    package var modules = Int.max
    package var bytes = 400 << 20

    package init() {}
  }

  /// Columns of the atoms' operator.
  package let atoms: Int
  package let modules: [SampledModule]

  /// The atoms and the target (one column) have the same modules; of them those that hold the target and at least one atom
  /// are sampled.
  package init(_ a: Columns, _ y: Columns, limits: Limits = Limits(), _ watch: Watch) throws(UnmergeError) {
    let plans = a.modules.indices.compactMap { m -> Plan? in
      let plan = Plan(a.modules[m], y.modules[m], index: m, atoms: a.count, limits)
      return plan.rows * plan.cols > 0 && plan.target != nil && plan.atoms.contains { $0 != nil } ? plan : nil
    }
    var chosen = spread(min(limits.modules, plans.count), of: plans.count).map { plans[$0] }
    // Equally spaced over the list, as many as fit; one at least.
    while chosen.count > 1 {
      let bytes = chosen.reduce(0) { saturatingSum($0, $1.bytes) }
      guard bytes > limits.bytes else { break }
      let fits = Int(Double(chosen.count) * Double(limits.bytes) / Double(bytes))
      chosen = spread(max(1, min(fits, chosen.count - 1)), of: plans.count).map { plans[$0] }
    }
    let (tasks, results) = (chosen, Results<SampledModule?>(chosen.count, nil))
    let meter = PassMeter(watch, pass: 1, total: max(1, tasks.reduce(0) { saturatingSum($0, $1.rows * $1.cols) }))
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: tasks.count, slots: min(max(tasks.count, 1), watch.threads), watch) {
        (task, _) throws(UnmergeError) in
        results.set(task, try tasks[task].read(a, y))
        if let stop = meter.advance(tasks[task].rows * tasks[task].cols) { throw stop }
      } finish: { _, _ in
      }
    }
    atoms = a.count
    modules = results.values.compactMap { $0 }
  }
}

/// `count` of 0 ..< total, equally spaced.
func spread(_ count: Int, of total: Int) -> [Int] {
  let n = max(0, min(count, total))
  return (0..<n).map { spaced($0, n, of: total) }
}

/// One of `count` places in 0 ..< total, equally spaced.
func spaced(_ i: Int, _ count: Int, of total: Int) -> Int {
  count == total ? i : Int((Double(i) + 0.5) * Double(total) / Double(count))
}

/// What to read of one module.
private struct Plan: Sendable {
  let module: Int
  let name: String
  let picked: [Int]
  let rows: Int
  let cols: Int
  /// The module is a column and lies down as a row.
  let isVector: Bool
  let atoms: [Piece?]
  let target: Piece?

  init(_ a: Module, _ y: Module, index: Int, atoms count: Int, _ limits: RowSample.Limits) {
    module = index
    name = a.name
    isVector = a.cols == 1
    let most = isVector ? limits.entries / 16 : max(1, min(limits.rows, a.cols, limits.entries / max(a.cols, 1)))
    picked = spread(max(1, most), of: a.rows)
    rows = isVector ? 1 : picked.count
    cols = isVector ? picked.count : a.cols
    atoms = (0..<count).map { a.piece($0) }
    target = y.piece(0)
  }

  var bytes: Int {
    let dense = rows * cols * MemoryLayout<Float>.size
    return atoms.reduce(3 * dense) { sum, piece in
      switch piece {
      case nil: sum
      case .lora(let b, _, _)? where !isVector:
        saturatingSum(sum, b.columns * (rows + cols) * MemoryLayout<Float>.size)
      default: saturatingSum(sum, dense)
      }
    }
  }

  /// One picked row of a view, or all picked entries of a column.
  private func load<T: Real>(_ v: View, _ i: Int, _ out: UnsafeMutablePointer<T>) {
    if isVector {
      if picked.count == v.rows {
        T.load(out, v.base, v.type, stride: v.rowStride, count: cols, scale: 1, add: false)
      } else {
        for (k, row) in picked.enumerated() {
          T.load(out + k, v.address(row, 0), v.type, stride: v.type.size, count: 1, scale: 1, add: false)
        }
      }
    } else {
      T.load(out, v.address(picked[i], 0), v.type, stride: v.columnStride, count: cols, scale: 1, add: false)
    }
  }

  /// scale·(values − base), subtracted in double: the difference of two stored numbers is exact.
  private func difference(_ values: View, _ base: View?, _ scale: Double) throws(UnmergeError) -> Buffer<Float> {
    let out: Buffer<Float> = try allocate(try product(rows, cols, "a sample"))
    let x: Buffer<Double> = try allocate(cols)
    let z: Buffer<Double> = try allocate(cols)
    for i in 0..<rows {
      load(values, i, x.pointer)
      if let base { load(base, i, z.pointer) }
      let row = out.pointer + i * cols
      for k in 0..<cols { row[k] = Float(scale * (x[k] - z[k])) }
    }
    return out
  }

  private func factors(
    _ b: View, _ a: View, _ scale: Double
  ) throws(UnmergeError) -> (b: Buffer<Float>, a: Buffer<Float>) {
    let rank = a.rows
    let count = isVector ? cols : rows
    let left: Buffer<Float> = try allocate(try product(count, rank, "a sample of b"))
    let right: Buffer<Float> = try allocate(try product(rank, a.columns, "a"))
    for (i, row) in picked.enumerated() where rank > 0 {
      Float.load(
        left.pointer + i * rank, b.address(row, 0), b.type, stride: b.columnStride, count: rank, scale: scale, add: false)
    }
    for q in 0..<rank {
      Float.load(
        right.pointer + q * a.columns, a.address(q, 0), a.type, stride: a.columnStride, count: a.columns, scale: 1,
        add: false)
    }
    return (left, right)
  }

  /// B·A as it lies in the sample; A of a vector is rank×1.
  private func multiply(_ f: (b: Buffer<Float>, a: Buffer<Float>), rank: Int) throws(UnmergeError) -> Buffer<Float> {
    let out: Buffer<Float> = try allocate(try product(rows, cols, "a sample"))
    guard rank > 0 else { return out }
    let (width, height) = isVector ? (1, cols) : (cols, rows)
    Float.gemm(false, false, width, height, rank, 1, f.a.pointer, width, f.b.pointer, rank, 0, out.pointer, width)
    return out
  }

  func read(_ a: Columns, _ y: Columns) throws(UnmergeError) -> SampledModule {
    func finite(_ x: Buffer<Float>, _ c: Columns, _ j: Int, _ what: String) throws(UnmergeError) {
      guard Stored.areFinite(x.pointer, x.count) else {
        throw nonfinite(c, j, what)
          ?? .range("\(what) \(j) ('\(c.names[j])') overflows in float32 in module '\(name)'; scale it down")
      }
    }
    var sampled: [SampledAtom?] = []
    for (j, piece) in atoms.enumerated() {
      switch piece {
      case nil: sampled.append(nil)
      case .dense(let values, let base, let scale)?:
        let x = try difference(values, base, scale)
        try finite(x, a, j, "atom")
        sampled.append(.dense(x))
      case .lora(let b, let right, let scale)?:
        let f = try factors(b, right, scale)
        try finite(f.b, a, j, "atom")
        try finite(f.a, a, j, "atom")
        sampled.append(
          isVector ? .dense(try multiply(f, rank: right.rows)) : .factors(b: f.b, a: f.a, rank: right.rows))
      }
    }
    var storage: ElementType?
    var base: Buffer<Float>?
    var unit: Buffer<Float>?
    var energy = 0.0
    let d: Buffer<Float>
    switch target {
    case nil: d = try allocate(rows * cols)
    case .lora(let b, let right, let scale)?: d = try multiply(try factors(b, right, scale), rank: right.rows)
    case .dense(let values, let origin, let scale)?:
      d = try difference(values, origin, scale)
      storage = values.type
      if let origin { base = try difference(origin, nil, 1) }
      let x: Buffer<Float> = try allocate(cols)
      let spacing: Buffer<Float> = try allocate(cols)
      let isShort = values.type.size == 2
      let units: Buffer<Float> = try allocate(isShort ? rows * cols : 0)
      for i in 0..<rows {
        load(values, i, x.pointer)
        // A weight of zero says nothing about the spacing around it; that of the base does.
        if let base { for k in 0..<cols where x[k] == 0 { x[k] = base[i * cols + k] } }
        let type: ElementType = values.type == .f64 ? .f32 : values.type
        type.spacing(x.pointer, cols, into: spacing.pointer)
        let size = abs(scale) * (values.type == .f64 ? 0x1p-29 : 1)
        for k in 0..<cols {
          let u = size * Double(spacing[k])
          energy += u * u
          if isShort { units[i * cols + k] = Float(u) }
        }
      }
      unit = isShort && scale != 0 ? units : nil
    }
    try finite(d, y, 0, "target")
    return SampledModule(
      index: module, name: name, rows: rows, cols: cols, picked: picked, storage: storage, target: d, base: base, unit: unit,
      roundingVariance: energy / 12 / Double(max(rows * cols, 1)), atoms: sampled)
  }
}
