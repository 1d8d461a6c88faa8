import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Where the task model of an atom comes from, on one module.
enum Source: Sendable {
  /// The atom does not touch the module: its model is the base there.
  case absent
  /// A stored checkpoint.
  case checkpoint(View)
  /// scale·B·A, A in float32, row-major
  case factors(b: View, a: Buffer<Float>, rank: Int, scale: Float)
  /// A part of an adapter stored in the compute type: round(B)·A, weight and scale already in A, which is rounded
  case part(b: View, a: Buffer<Float>, rank: Int)
  /// scale·(values − base) or scale·values, a task vector without a checkpoint
  case vector(values: View, base: View?, scale: Float)
}

/// One module of a merge: the base and the task models of the atoms that take part, as the tool saw them.
///
/// Tiles are runs of whole rows, cut the same way whenever the module is read, so that a product of factors has the same
/// bits every time.
package struct Stack: Sendable {
  package let module: Int
  package let name: String
  package let rows: Int
  package let cols: Int
  /// Columns of the atoms with a weight here, and the weights as given.
  package let atoms: [Int]
  package let weights: [Double]
  package let densities: [Double]
  package let dtype: ElementType
  package let outType: ElementType
  let taskType: ElementType
  let rounding: TaskRounding
  let base: View
  let stored: View?
  private let sources: [Source]
  private let rank: Int
  private let columns: Columns
  private let target: Columns

  /// Every atom is an adapter here, or nothing.
  var hasOnlyParts: Bool {
    sources.allSatisfy {
      switch $0 {
      case .part, .absent: true
      default: false
      }
    }
  }

  package var entries: Int { rows * cols }
  package var count: Int { atoms.count }

  /// `only` restricts the atoms to one, whatever its weight.
  init(_ a: Columns, _ y: Columns, _ recipe: Recipe, module m: Int, only: Int? = nil) throws(UnmergeError) {
    let module = a.modules[m]
    self.module = m
    name = module.name
    rows = module.rows
    cols = module.cols
    columns = a
    target = y
    guard let piece = y.modules[m].piece(0), case .dense(let values, let origin, let scale) = piece, scale == 1 else {
      throw .range("the target has no stored weights in module '\(module.name)'; values with scale 1 are expected")
    }
    base = origin ?? values
    stored = origin == nil ? nil : values
    guard let type = recipe.dtype ?? (values.type == .f64 ? nil : values.type) else {
      throw UnmergeError(
        UNMERGE_E_DTYPE, "module '\(module.name)' of the target is stored in f64; recipe->dtype must say what to compute in")
    }
    dtype = type
    outType = recipe.outType ?? type
    taskType = recipe.taskType ?? base.type
    rounding = recipe.taskRounding
    var atoms: [Int] = []
    var sources: [Source] = []
    var rank = 0
    for j in 0..<a.count where only == nil ? recipe.weights[j, module: m] != 0 : j == only {
      atoms.append(j)
      switch module.piece(j) {
      case nil: sources.append(.absent)
      case .dense(let values, _?, let scale)? where scale == 1: sources.append(.checkpoint(values))
      case .dense(let values, let base, let scale)?:
        sources.append(.vector(values: values, base: base, scale: Float(scale)))
      case .lora(let b, let a, let scale)?:
        let copy: Buffer<Float> = try allocate(try product(a.rows, a.columns, "a factor"))
        for q in 0..<a.rows {
          Float.load(
            copy.pointer + q * a.columns, a.address(q, 0), a.type, stride: a.columnStride, count: a.columns, scale: 1,
            add: false)
        }
        rank = max(rank, a.rows)
        if recipe.method == .adapterCat {
          ElementType.f32.scale(copy.pointer, copy.count, by: Float(recipe.weights[j, module: m]))
          type.scale(copy.pointer, copy.count, by: Float(scale))
          sources.append(.part(b: b, a: copy, rank: a.rows))
        } else {
          sources.append(.factors(b: b, a: copy, rank: a.rows, scale: Float(scale)))
        }
      }
    }
    self.atoms = atoms
    self.sources = sources
    self.rank = rank
    weights = atoms.map { recipe.weights[$0, module: m] }
    densities = atoms.map { recipe.densities[$0, module: m] }
  }

  /// Rows of a tile: some 2¹⁵ entries, which stay in cache for a few atoms, and eight rows at least of a module with
  /// factors, so that their product is one of matrices.
  var tileRows: Int { min(max(rows, 1), max((1 << 15) / max(cols, 1), rank > 0 ? 8 : 1)) }

  func tile(_ index: Int, of size: Int) -> Range<Int> { index * size..<min((index + 1) * size, rows) }

  private func load(_ v: View, _ rows: Range<Int>, _ destination: UnsafeMutablePointer<Float>) {
    let first = v.address(rows.lowerBound, 0)
    if cols == 1 {
      Float.load(destination, first, v.type, stride: v.rowStride, count: rows.count, scale: 1, add: false)
    } else if v.rowStride == cols * v.columnStride {
      Float.load(destination, first, v.type, stride: v.columnStride, count: rows.count * cols, scale: 1, add: false)
    } else {
      for i in 0..<rows.count {
        Float.load(
          destination + i * cols, first + i * v.rowStride, v.type, stride: v.columnStride, count: cols, scale: 1, add: false)
      }
    }
  }

  /// Base, stored target and every operand of a tile.
  func fill(_ w: Workspace, _ rows: Range<Int>, _ operands: Operands) throws(UnmergeError) {
    try fillBase(w, rows)
    for j in 0..<count { try fill(w, rows, operands, atom: j, w.x(j)) }
  }

  func fillBase(_ w: Workspace, _ rows: Range<Int>) throws(UnmergeError) {
    let n = rows.count * cols
    w.rows = rows
    w.entries = n
    load(base, rows, w.raw.pointer)
    guard Stored.areFinite(w.raw.pointer, n) else { throw notFinite(target, 0, "target") }
    w.base.pointer.update(from: w.raw.pointer, count: n)
    if dtype != base.type { dtype.round(w.base.pointer, n) }
    guard let stored else { return }
    load(stored, rows, w.stored.pointer)
    guard Stored.areFinite(w.stored.pointer, n) else { throw notFinite(target, 0, "target") }
  }

  /// The operand of one atom, after `fillBase`.
  func fill(
    _ w: Workspace, _ rows: Range<Int>, _ operands: Operands, atom j: Int, _ x: UnsafeMutablePointer<Float>
  ) throws(UnmergeError) {
    let n = w.entries
    switch sources[j] {
    case .absent:
      switch operands {
      case .models: x.update(from: w.base.pointer, count: n)
      case .vectors: x.update(repeating: 0, count: n)
      }
      return
    case .checkpoint(let values):
      load(values, rows, x)
      guard Stored.areFinite(x, n) else { throw notFinite(columns, atoms[j], "atom") }
      if dtype != values.type { dtype.round(x, n) }
    case .factors(let b, let a, let rank, let scale):
      form(w, rows, b, a, rank, x, nil)
      if scale != 1 { ElementType.f32.scale(x, n, by: scale) }
      try finish(w, operands, atom: j, x)
    case .part(let b, let a, let rank):
      form(w, rows, b, a, rank, x, dtype)
      guard Stored.areFinite(x, n) else { throw notFinite(columns, atoms[j], "atom") }
      return
    case .vector(let values, let origin, let scale):
      load(values, rows, x)
      if let origin {
        load(origin, rows, w.spare.pointer)
        ElementType.f32.subtract(x, w.spare.pointer, n)
      }
      if scale != 1 { ElementType.f32.scale(x, n, by: scale) }
      try finish(w, operands, atom: j, x)
    }
    let isVector = if case .checkpoint = sources[j] { false } else { rounding == .none }
    if operands == .vectors, !isVector { dtype.subtract(x, w.base.pointer, n) }
  }

  /// The stored values three units in the last place further out: near enough to be as likely a coincidence, never the
  /// truth.
  func moveStored(_ w: Workspace, into moved: UnsafeMutablePointer<Float>) {
    outType.spacing(w.stored.pointer, w.entries, into: moved)
    let stored = UnsafePointer(w.stored.pointer)
    for i in 0..<w.entries { moved[i] = stored[i] + (stored[i] < 0 ? -3 : 3) * moved[i] }
    outType.round(moved, w.entries)
  }

  /// From Δ in float32 to the task model, or to the task vector when there never was a model.
  private func finish(
    _ w: Workspace, _ operands: Operands, atom j: Int, _ x: UnsafeMutablePointer<Float>
  ) throws(UnmergeError) {
    let n = w.entries
    guard Stored.areFinite(x, n) else { throw notFinite(columns, atoms[j], "atom") }
    switch rounding {
    case .none:
      if operands == .models { ElementType.f32.add(x, w.raw.pointer, n) }
    case .stored:
      taskType.add(x, w.raw.pointer, n)
    case .product:
      taskType.round(x, n)
      taskType.add(x, w.raw.pointer, n)
    }
    dtype.round(x, n)
  }

  private func form(
    _ w: Workspace, _ rows: Range<Int>, _ b: View, _ a: Buffer<Float>, _ rank: Int, _ x: UnsafeMutablePointer<Float>,
    _ stored: ElementType?
  ) {
    guard rank > 0 else { return x.update(repeating: 0, count: w.entries) }
    for (i, row) in rows.enumerated() {
      Float.load(
        w.factor.pointer + i * rank, b.address(row, 0), b.type, stride: b.columnStride, count: rank, scale: 1, add: false)
    }
    stored?.round(w.factor.pointer, rows.count * rank)
    Float.gemm(false, false, cols, rows.count, rank, 1, a.pointer, cols, w.factor.pointer, rank, 0, x, cols)
  }

  private func notFinite(_ c: Columns, _ j: Int, _ what: String) -> UnmergeError {
    nonfinite(c, j, what)
      ?? UnmergeError(UNMERGE_E_NONFINITE, "\(what) \(j) ('\(c.names[j])') overflows in float32 in module '\(name)'")
  }

  fileprivate var factorRoom: Int { rank }
}

/// The buffers of one thread for the tiles of one module.
final class Workspace: @unchecked Sendable {
  var rows = 0..<0
  var entries = 0
  /// The base as stored and as the tool computes with it.
  let raw: Buffer<Float>
  let base: Buffer<Float>
  let stored: Buffer<Float>
  let out: Buffer<Float>
  let spare: Buffer<Float>
  let factor: Buffer<Float>
  let same: Buffer<UInt8>
  /// Bit j: the entry's fate in atom j's selection hung on the order of equal magnitudes.
  let ties: Buffer<UInt64>
  private let operands: Buffer<Float>
  private let extras: Buffer<Float>
  private let stride: Int

  init(_ stack: Stack, tileRows: Int, atoms: Int, extraTiles: Int) throws(UnmergeError) {
    stride = try product(tileRows, max(stack.cols, 1), "a tile")
    raw = try allocate(stride)
    base = try allocate(stride)
    stored = try allocate(stride)
    out = try allocate(stride)
    spare = try allocate(stride)
    same = try allocate(stride)
    ties = try allocate(stride)
    factor = try allocate(try product(tileRows, stack.factorRoom, "a tile of factors"))
    operands = try allocate(try product(stride, atoms, "the tiles of the atoms"))
    extras = try allocate(try product(stride, extraTiles, "the tiles of a rule"))
  }

  func x(_ j: Int) -> UnsafeMutablePointer<Float> { operands.pointer + j * stride }
  func extra(_ i: Int) -> UnsafeMutablePointer<Float> { extras.pointer + i * stride }
  func all(_ count: Int) -> [UnsafePointer<Float>?] { (0..<count).map { UnsafePointer(x($0)) } }
}

/// The threads that read one module tile by tile.
struct Crew: Sendable {
  let watch: Watch
  let tileRows: Int
  let tiles: Int
  let workers: [Workspace]

  init(_ stack: Stack, _ rule: any Rule, _ watch: Watch) throws(UnmergeError) {
    self.watch = watch
    tileRows = rule.wantsWhole ? max(stack.rows, 1) : stack.tileRows
    tiles = stack.entries == 0 ? 0 : (stack.rows - 1) / tileRows + 1
    var workers: [Workspace] = []
    for _ in 0..<max(1, min(watch.threads, tiles)) {
      workers.append(try Workspace(stack, tileRows: tileRows, atoms: stack.count, extraTiles: rule.extraTiles))
    }
    self.workers = workers
  }

  /// Tiles one thread takes at a time, and places for their results.
  private var group: Int { max(1, min(8, tiles / (2 * workers.count))) }
  var places: Int { workers.count * group }

  /// `work` on every tile (or equally spaced ones, of some `entries` together) with its operands, from any thread, and a place
  /// for its result; `finish` with the places of the tiles in order, on this thread.
  func eachTile(
    _ stack: Stack, _ operands: Operands, entries: Int = .max,
    work: @escaping @Sendable (Workspace, _ place: Int) throws(UnmergeError) -> Void,
    finish: (_ place: Int) -> Void
  ) throws(UnmergeError) {
    let (workers, watch) = (workers, watch)
    let (size, group) = (tileRows, group)
    let all = self.tiles
    let tiles = min(all, max(1, entries / max(1, size * stack.cols)))
    try performPass(tasks: (tiles + group - 1) / group, slots: workers.count, watch) { (task, slot) throws(UnmergeError) in
      let w = workers[slot]
      for tile in task * group..<min((task + 1) * group, tiles) {
        try stack.fill(w, stack.tile(spaced(tile, tiles, of: all), of: size), operands)
        try work(w, slot * group + tile - task * group)
        if let stop = watch.poll() { throw stop.error }
      }
    } finish: { task, slot in
      for tile in task * group..<min((task + 1) * group, tiles) { finish(slot * group + tile - task * group) }
    }
  }

  /// The whole task vector of every atom in turn, atoms in parallel; one buffer per thread.
  func eachAtom(
    _ stack: Stack, _ body: @escaping @Sendable (_ atom: Int, UnsafePointer<Float>) throws(UnmergeError) -> Void
  ) throws(UnmergeError) {
    let slots = max(1, min(workers.count, stack.count))
    var whole: [Buffer<Float>] = []
    for _ in 0..<slots { whole.append(try allocate(stack.entries)) }
    let buffers = whole
    let workers = workers
    let watch = watch
    let (size, tiles) = (tileRows, tiles)
    try performPass(tasks: stack.count, slots: slots, watch) { (j, slot) throws(UnmergeError) in
      for tile in 0..<tiles {
        let rows = stack.tile(tile, of: size)
        try stack.fillBase(workers[slot], rows)
        try stack.fill(workers[slot], rows, .vectors, atom: j, buffers[slot].pointer + rows.lowerBound * stack.cols)
        if let stop = watch.poll() { throw stop.error }
      }
      try body(j, buffers[slot].pointer)
    } finish: { _, _ in
    }
  }
}
