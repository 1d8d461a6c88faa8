import CUnmerge
import UnmergeLinalg

/// The entries of every module that are kept, ascending.
package final class Mask: Handle, Sendable {
  package static let kind: UInt = 3
  package static let name = "a mask"

  package struct Kept: Sendable {
    package let name: String
    package let rows: Int
    package let cols: Int
    package let indices: Buffer<Int64>
  }
  package let modules: [Kept]
  package var total: Int { modules.reduce(0) { $0 + $1.indices.count } }

  init(_ modules: [Kept]) { self.modules = modules }

  /// The mask fits an operator when it was made for the same modules.
  package func check(_ a: Columns) throws(UnmergeError) {
    guard modules.count == a.modules.count else {
      throw .shape("mask is for \(modules.count) modules, but a has \(a.modules.count)")
    }
    for (k, m) in zip(modules, a.modules) where k.name != m.name || k.rows != m.rows || k.cols != m.cols {
      throw .shape("mask is for module '\(k.name)', \(k.rows) x \(k.cols), where a has '\(m.name)', \(m.rows) x \(m.cols)")
    }
  }
}

/// The factors of one module prepared for single entries: B is rows×rank and Aᵀ cols×rank, both row-major, so that entry
/// (i, j) of a factored column is one short dot product.
struct MaskedFactors<T: Real> {
  let factors: [Factor]
  let rank: Int
  private let b: Buffer<T>
  private let at: Buffer<T>

  init(_ layout: Layout) throws(UnmergeError) {
    factors = layout.factors
    rank = layout.rank
    b = try allocate(try product(layout.rows, rank, "the stacked factors"))
    at = try allocate(try product(layout.cols, rank, "the stacked factors"))
    for f in factors where f.rank > 0 {
      for i in 0..<layout.rows {
        T.load(
          b.pointer + i * rank + f.offset, f.b.address(i, 0), f.b.type, stride: f.b.columnStride, count: f.rank,
          scale: f.scale, add: false)
      }
      for j in 0..<layout.cols {
        T.load(
          at.pointer + j * rank + f.offset, f.a.address(0, j), f.a.type, stride: f.a.rowStride, count: f.rank, scale: 1,
          add: false)
      }
    }
  }

  func load(_ f: Factor, _ indices: UnsafePointer<Int64>, _ count: Int, cols: Int, _ destination: UnsafeMutablePointer<T>) {
    for k in 0..<count {
      let (i, j) = Int(indices[k]).quotientAndRemainder(dividingBy: cols)
      let p = b.pointer + i * rank + f.offset
      let q = at.pointer + j * rank + f.offset
      var sum: T = 0
      for r in 0..<f.rank { sum += p[r] * q[r] }
      destination[k] = sum
    }
  }
}

extension Dense {
  /// The column at single entries.
  func gather<T: Real>(_ indices: UnsafePointer<Int64>, _ count: Int, _ destination: UnsafeMutablePointer<T>) {
    if let base {
      T.gather(destination, values, indices, count: count, scale: 1, add: false)
      T.gather(destination, base, indices, count: count, scale: -1, add: true)
      if scale != 1 { for k in 0..<count { destination[k] *= T(scale) } }
    } else {
      T.gather(destination, values, indices, count: count, scale: scale, add: false)
    }
  }
}

/// The k entries of a module with the largest max over columns of |entry|, ties to the lower index.
///
/// Magnitudes are non-negative doubles, whose bit patterns order as the numbers do: the k-th largest is found exactly by
/// fixing its bits from the top, 16 at a time, by counting; then everything above it is kept and, of its equals, the first.
private func largest(_ k: Int, _ magnitude: Buffer<Double>) throws(UnmergeError) -> Buffer<Int64> {
  let n = magnitude.count
  let kept: Buffer<Int64> = try allocate(min(k, n))
  guard k < n else {
    for i in 0..<n { kept[i] = Int64(i) }
    return kept
  }
  guard k > 0 else { return kept }
  let counts: Buffer<Int> = try allocate(1 << 16)
  var threshold: UInt64 = 0
  var wanted = k  // how many of those that share the bits fixed so far are still to be kept
  for shift in [48, 32, 16, 0] as [UInt64] {
    counts.zero()
    for i in 0..<n {
      let bits = magnitude[i].bitPattern
      if shift == 48 || bits >> (shift + 16) == threshold >> (shift + 16) { counts[Int(bits >> shift & 0xFFFF)] += 1 }
    }
    var digit = 0xFFFF
    while digit > 0, counts[digit] < wanted {
      wanted -= counts[digit]
      digit -= 1
    }
    threshold |= UInt64(digit) << shift
  }
  var next = 0
  for i in 0..<n {
    let bits = magnitude[i].bitPattern
    let equal = bits == threshold && wanted > 0
    if bits > threshold || equal {
      kept[next] = Int64(i)
      next += 1
      if equal { wanted -= 1 }
    }
  }
  return kept
}

/// max over columns of |entry| for a whole module, in double.
private func magnitudes(_ layout: Layout, _ meter: PassMeter) throws(UnmergeError) -> Buffer<Double> {
  let most: Buffer<Double> = try allocate(layout.rows * layout.cols)
  let stack = try FactorStack<Double>(layout)
  let entries = 1 << 14
  let x: Buffer<Double> = try allocate(max(entries, layout.cols))
  let b: Buffer<Double> = try allocate(try product(entries, max(stack.rank, 1), "a tile of factors"))
  for tile in Tiling(rows: 0..<layout.rows, cols: layout.cols, entries: entries) {
    if !stack.factors.isEmpty { stack.loadB(tile.runs, b.pointer) }
    func take() {
      for i in 0..<tile.rows {
        let row = tile.runs[0].lowerBound + i
        accumulateMaxAbs(
          most.pointer + row * layout.cols + tile.cols.lowerBound, x.pointer + i * tile.cols.count, tile.cols.count)
      }
    }
    for d in layout.dense {
      d.load(tile, x.pointer)
      take()
    }
    for f in stack.factors {
      stack.form(f, tile, b: b.pointer, x.pointer)
      take()
    }
    if let stop = meter.advance(tile.entries) { throw stop }
  }
  return most
}

package func makeMask(_ a: Columns, perModule: (Int) -> Int, _ watch: Watch) throws(UnmergeError) -> Mask {
  let meter = PassMeter(watch, pass: 1, total: a.entries)
  var kept: [Mask.Kept] = []
  for m in a.modules {
    let layout = Layout(m, Module(name: m.name, rows: m.rows, cols: m.cols), atoms: a.count, targets: 0)
    let magnitude = try magnitudes(layout, meter)
    for i in 0..<magnitude.count where !magnitude[i].isFinite {
      for j in 0..<a.count { if let error = nonfinite(a, j, "atom") { throw error } }
      throw UnmergeError(
        UNMERGE_E_NONFINITE, "module '\(m.name)' has an entry that overflows in double; scale its atoms down")
    }
    let indices = try largest(perModule(m.entries), magnitude)
    kept.append(Mask.Kept(name: m.name, rows: m.rows, cols: m.cols, indices: indices))
  }
  return Mask(kept)
}

// MARK: the door

extension unmerge_mask_options: Growable {
  package static var defaults: unmerge_mask_options {
    var o = unmerge_mask_options()
    o.struct_size = MemoryLayout<unmerge_mask_options>.size
    o.total = 999_936
    return o
  }
}

@_cdecl("unmerge_mask_options_init") @implementation
public func unmerge_mask_options_init(_ options: UnsafeMutablePointer<unmerge_mask_options>?, _ size: Int) -> unmerge_status
{
  initialize(options, size)
}

@_cdecl("unmerge_mask_create") @implementation
public func unmerge_mask_create(
  _ a: OpaquePointer?, _ options: UnsafePointer<unmerge_mask_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let columns = try object(a, "a", Operator.self).snapshot
    guard let out else { throw .null("out") }
    let o = try read(options, "options")
    let watch = try Watch(run)
    try check(o.per_module, "options->per_module", 0...Int64.max, ">= 0 (0 = use total)")
    try check(o.total, "options->total", 1...Int64.max, ">= 1")
    let per = o.per_module > 0 ? Int(o.per_module) : Int(o.total) / max(columns.modules.count, 1)
    guard per > 0 || columns.modules.isEmpty else {
      throw .range("options->total is \(o.total), less than one entry for each of the \(columns.modules.count) modules")
    }
    let mask = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try makeMask(columns, perModule: { min(per, $0) }, watch)
    }
    try publish(mask, out)
  }
}

@_cdecl("unmerge_mask_count") @implementation
public func unmerge_mask_count(
  _ mask: OpaquePointer?, _ module: Int64, _ count: UnsafeMutablePointer<Int64>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let m = try object(mask, "mask", Mask.self)
    guard let count else { throw .null("count") }
    try check(
      module, "module", -1...Int64(m.modules.count) - 1, "-1 (all) or an index of the mask's \(m.modules.count) modules")
    count.pointee = Int64(module < 0 ? m.total : m.modules[Int(module)].indices.count)
  }
}

@_cdecl("unmerge_mask_indices") @implementation
public func unmerge_mask_indices(
  _ mask: OpaquePointer?, _ module: Int64, _ indices: UnsafeMutablePointer<Int64>?, _ capacity: Int64,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let m = try object(mask, "mask", Mask.self)
    guard !m.modules.isEmpty else { throw .range("module is \(module), but the mask has no modules") }
    try check(module, "module", 0...Int64(m.modules.count) - 1, "an index of the mask's \(m.modules.count) modules")
    let kept = m.modules[Int(module)].indices
    guard let indices else { throw .null("indices") }
    guard capacity >= kept.count else {
      throw .shape("capacity is \(capacity); module \(module) keeps \(kept.count) entries")
    }
    indices.update(from: kept.pointer, count: kept.count)
  }
}

@_cdecl("unmerge_mask_destroy") @implementation
public func unmerge_mask_destroy(_ mask: OpaquePointer?) { release(mask, Mask.self) }
