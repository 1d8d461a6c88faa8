import CUnmerge
import UnmergeLinalg

extension unmerge_gram_options: Growable {
  package static var defaults: unmerge_gram_options {
    var o = unmerge_gram_options()
    o.struct_size = MemoryLayout<unmerge_gram_options>.size
    o.folds = 1
    o.accuracy = 1e-5
    return o
  }
}

extension unmerge_gram_info: Growable {
  package static var defaults: unmerge_gram_info {
    var i = unmerge_gram_info()
    i.struct_size = MemoryLayout<unmerge_gram_info>.size
    i.condition = .nan
    return i
  }
}

/// Options and run of unmerge_gram_create as a plan.
func gramPlan(_ pointer: UnsafePointer<unmerge_gram_options>?, seed: UInt64) throws(UnmergeError) -> GramPlan {
  let o = try read(pointer, "options")
  try check(Int64(o.precision), "options->precision", 0...2, "UNMERGE_PRECISION_AUTO, _FAST or _EXACT")
  try check(Int64(o.columns), "options->columns", 0...1, "UNMERGE_COLUMNS_ALL or _ON_DEMAND")
  try check(Int64(o.blocks), "options->blocks", 0...1, "UNMERGE_BLOCKS_PER_MODULE or _ONE")
  try check(Int64(o.folds), "options->folds", 1...1000, "between 1 and 1000")
  guard o.accuracy > 0, o.accuracy < 1 else { throw .range("options->accuracy is \(o.accuracy); it must be in (0, 1)") }
  return GramPlan(
    precision: Precision(rawValue: o.precision), onDemand: o.columns == UNMERGE_COLUMNS_ON_DEMAND,
    oneBlock: o.blocks == UNMERGE_BLOCKS_ONE, folds: Folds(count: Int(o.folds), seed: seed), accuracy: o.accuracy,
    mask: o.mask == nil ? nil : try object(o.mask, "options->mask", Mask.self))
}

extension Gram {
  /// A Gram whose G is known block by block.
  package func needBlocks(_ what: String) throws(UnmergeError) {
    guard isComplete else {
      throw .range("gram has its columns on demand; make it with columns = UNMERGE_COLUMNS_ALL to \(what) it")
    }
  }

  package static func merge(_ a: Gram, _ b: Gram) throws(UnmergeError) -> Gram {
    guard a.atoms == b.atoms, a.targets == b.targets else {
      throw .shape(
        "b is over \(b.atoms) atoms and \(b.targets) targets, a over \(a.atoms) and \(a.targets); they must be the same")
    }
    try a.needBlocks("merge")
    try b.needBlocks("merge")
    var blocks = a.blocks
    for other in b.blocks {
      if let k = blocks.firstIndex(where: { $0.module.string == other.module.string && $0.fold == other.fold }) {
        let mine = blocks[k]
        let (g, c, yy) = try allocating { () throws(OutOfMemory) in
          (try mine.g.copy(), try mine.c.copy(), try mine.yy.copy())
        }
        Double.accumulate(g.pointer, other.g.pointer, g.count)
        Double.accumulate(c.pointer, other.c.pointer, c.count)
        Double.accumulate(yy.pointer, other.yy.pointer, yy.count)
        blocks[k] = Block(
          module: mine.module, fold: mine.fold, entries: saturatingSum(mine.entries, other.entries), g: g, c: c, yy: yy)
      } else {
        blocks.append(other)
      }
    }
    let precision: Precision = a.precision == .fast || b.precision == .fast ? .fast : .exact
    return try Gram(
      atoms: a.atoms, targets: a.targets, blocks: blocks, precision: precision, passes: max(a.passes, b.passes))
  }

  package func subset(_ chosen: [Int], _ chosenBlocks: [Int]) throws(UnmergeError) -> Gram {
    try needBlocks("take a subset of")
    let m = chosen.count
    var result: [Block] = []
    for b in chosenBlocks {
      let block = blocks[b]
      let g: Buffer<Double> = try allocate(try product(m, m, "the Gram"))
      let c: Buffer<Double> = try allocate(try product(m, targets, "C = A'Y"))
      for (q, j) in chosen.enumerated() {
        for (p, i) in chosen[...q].enumerated() { g[q * m + p] = block.g[max(i, j) * atoms + min(i, j)] }
        for t in 0..<targets { c[t * m + q] = block.c[t * atoms + j] }
      }
      result.append(Block(module: block.module, fold: block.fold, entries: block.entries, g: g, c: c, yy: block.yy))
    }
    return try Gram(atoms: m, targets: targets, blocks: result, precision: precision, passes: passes)
  }
}

// MARK: the door

@_cdecl("unmerge_gram_options_init") @implementation
public func unmerge_gram_options_init(_ options: UnsafeMutablePointer<unmerge_gram_options>?, _ size: Int) -> unmerge_status
{
  initialize(options, size)
}

@_cdecl("unmerge_gram_create") @implementation
public func unmerge_gram_create(
  _ a: OpaquePointer?, _ y: OpaquePointer?, _ options: UnsafePointer<unmerge_gram_options>?,
  _ run: UnsafePointer<unmerge_run>?,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let atoms = try object(a, "a", Operator.self).snapshot
    let targets = try object(y, "y", Operator.self).snapshot
    guard let out else { throw .null("out") }
    let watch = try Watch(run)
    let plan = try gramPlan(options, seed: watch.seed)
    try publish(try makeGram(atoms, targets, plan, watch), out)
  }
}

@_cdecl("unmerge_gram_from_arrays") @implementation
public func unmerge_gram_from_arrays(
  _ g: UnsafePointer<unmerge_view>?, _ c: UnsafePointer<unmerge_view>?, _ yy: UnsafePointer<unmerge_view>?, _ p: Int64,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gv = try view(g, "g")
    let cv = try view(c, "c")
    let yv = try view(yy, "yy")
    guard let out else { throw .null("out") }
    try check(p, "p", 0...Int64.max, ">= 0")
    let n = gv.columns
    let t = cv.columns
    guard gv.rows == n else { throw .shape("g is \(gv.rows) x \(n), expected a square matrix") }
    guard cv.rows == n else { throw .shape("c is \(cv.rows) x \(t), expected \(n) rows as g has") }
    guard yv.rows == t, yv.columns == 1 else { throw .shape("yy is \(yv.rows) x \(yv.columns), expected \(t) x 1") }
    let block = Block(
      module: try ModuleName(""), fold: 0, entries: Int(p), g: try allocate(try product(n, n, "g")),
      c: try allocate(try product(n, t, "c")), yy: try allocate(t))
    func value(_ v: View, _ i: Int, _ j: Int, _ name: String) throws(UnmergeError) -> Double {
      let x = v.element(i, j)
      guard x.isFinite else {
        throw UnmergeError(UNMERGE_E_NONFINITE, "\(name) holds \(x) at (\(i), \(j)); all values must be finite")
      }
      return x
    }
    for j in 0..<n {
      for i in 0...j { block.g[j * n + i] = try value(gv, i, j, "g") }
      guard block.g[j * n + j] >= 0 else {
        throw .range("g(\(j), \(j)) is \(block.g[j * n + j]); a squared norm must be >= 0")
      }
      for s in 0..<t { block.c[s * n + j] = try value(cv, j, s, "c") }
    }
    for s in 0..<t {
      block.yy[s] = try value(yv, s, 0, "yy")
      guard block.yy[s] >= 0 else { throw .range("yy(\(s)) is \(block.yy[s]); a squared norm must be >= 0") }
    }
    try publish(try Gram(atoms: n, targets: t, blocks: [block], precision: .exact, passes: 0), out)
  }
}

@_cdecl("unmerge_gram_get_info") @implementation
public func unmerge_gram_get_info(
  _ gram: OpaquePointer?, _ info: UnsafeMutablePointer<unmerge_gram_info>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    guard let info else { throw .null("info") }
    try checkResult(info, "info")
    var i = unmerge_gram_info.defaults
    i.atoms = Int64(g.atoms)
    i.targets = Int64(g.targets)
    i.blocks = Int64(g.blocks.count)
    i.entries = Int64(g.entries)
    i.passes = Int64(g.passes)
    i.columns = Int64(g.knownColumns)
    i.precision = g.precision.rawValue
    i.condition = g.condition
    store(i, info)
  }
}

private func blockIndex(_ g: Gram, _ block: Int64, _ least: Int64) throws(UnmergeError) -> Int {
  guard block >= least, block < Int64(g.blocks.count) else {
    throw .range(
      "block is \(block); it must be \(least < 0 ? "-1 (the sum) or " : "")an index of the gram's \(g.blocks.count) blocks")
  }
  return Int(block)
}

@_cdecl("unmerge_gram_block") @implementation
public func unmerge_gram_block(
  _ gram: OpaquePointer?, _ block: Int64, _ module: UnsafeMutablePointer<UnsafePointer<CChar>?>?,
  _ fold: UnsafeMutablePointer<Int64>?, _ entries: UnsafeMutablePointer<Int64>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    let b = g.blocks[try blockIndex(g, block, 0)]
    module?.pointee = UnsafePointer(b.module.bytes.pointer)
    fold?.pointee = Int64(b.fold)
    entries?.pointee = Int64(b.entries)
  }
}

@_cdecl("unmerge_gram_arrays") @implementation
public func unmerge_gram_arrays(
  _ gram: OpaquePointer?, _ block: Int64, _ g: UnsafePointer<unmerge_view>?, _ c: UnsafePointer<unmerge_view>?,
  _ yy: UnsafePointer<unmerge_view>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let m = try object(gram, "gram", Gram.self)
    let n = m.atoms
    let b = try blockIndex(m, block, -1)
    let gOut = try optionalOutput(g, "g", rows: n, columns: n)
    let cOut = try optionalOutput(c, "c", rows: n, columns: m.targets)
    let yOut = try optionalOutput(yy, "yy", rows: m.targets, columns: 1)
    if gOut != nil { try m.needBlocks("read G from") }
    let chosen = b < 0 ? m.blocks : [m.blocks[b]]
    func sum(_ at: Int, _ part: (Block) -> Buffer<Double>) -> Double { chosen.reduce(0) { $0 + part($1)[at] } }
    if let gOut {
      for j in 0..<n {
        for i in 0...j {
          let x = sum(j * n + i, \.g)
          gOut.set(i, j, x)
          if i != j { gOut.set(j, i, x) }
        }
      }
    }
    for t in 0..<m.targets {
      if let cOut { for j in 0..<n { cOut.set(j, t, sum(t * n + j, \.c)) } }
      yOut?.set(t, 0, sum(t, \.yy))
    }
  }
}

@_cdecl("unmerge_gram_merge") @implementation
public func unmerge_gram_merge(
  _ a: OpaquePointer?, _ b: OpaquePointer?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let first = try object(a, "a", Gram.self)
    let second = try object(b, "b", Gram.self)
    guard let out else { throw .null("out") }
    try publish(try Gram.merge(first, second), out)
  }
}

/// Different indices below `limit`; all of them for NULL.
package func indices(
  _ pointer: UnsafePointer<Int64>?, _ count: Int64, below limit: Int, _ name: String, count countName: String
) throws(UnmergeError) -> [Int] {
  guard let pointer else { return Array(0..<limit) }
  try check(count, countName, 0...Int64(limit), "between 0 and \(limit)")
  var result: [Int] = []
  var seen = Set<Int64>()
  for k in 0..<Int(count) {
    let i = UnsafeRawPointer(pointer + k).loadUnaligned(as: Int64.self)
    guard i >= 0, i < Int64(limit) else { throw .range("\(name)[\(k)] is \(i); it must be an index below \(limit)") }
    guard seen.insert(i).inserted else { throw .range("\(name)[\(k)] is \(i), which is there already") }
    result.append(Int(i))
  }
  return result
}

@_cdecl("unmerge_gram_subset") @implementation
public func unmerge_gram_subset(
  _ gram: OpaquePointer?, _ atoms: UnsafePointer<Int64>?, _ n_atoms: Int64, _ blocks: UnsafePointer<Int64>?,
  _ n_blocks: Int64, _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    guard let out else { throw .null("out") }
    let chosen = try indices(atoms, n_atoms, below: g.atoms, "atoms", count: "n_atoms")
    let chosenBlocks = try indices(blocks, n_blocks, below: g.blocks.count, "blocks", count: "n_blocks")
    try publish(try g.subset(chosen, chosenBlocks), out)
  }
}

@_cdecl("unmerge_gram_destroy") @implementation
public func unmerge_gram_destroy(_ gram: OpaquePointer?) { release(gram, Gram.self) }
