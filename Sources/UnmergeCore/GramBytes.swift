import CUnmerge
import UnmergeLinalg

// A Gram as bytes, little-endian:
//
//     "UNMGRAM1"  precision u64  atoms u64  targets u64  blocks u64
//     per block:  name length u64, name UTF-8, fold u64, entries u64,
//                 G upper triangle by columns f64, C by columns f64, yy f64
//     FNV-1a of everything before u64

private let magic = "UNMGRAM1"

extension Gram {
  package var savedSize: Int { write(nil) }

  @discardableResult
  package func write(_ destination: UnsafeMutableRawPointer?) -> Int {
    var out = ByteWriter(destination, magic: magic)
    for word in [Int(precision.rawValue), atoms, targets, blocks.count] { out.put(word) }
    for block in blocks {
      out.put(block.module.string)
      out.put(block.fold)
      out.put(block.entries)
      for j in 0..<atoms { out.put(block.g.pointer + j * atoms, j + 1) }
      out.put(block.c.pointer, atoms * targets)
      out.put(block.yy.pointer, targets)
    }
    out.close()
    return out.count
  }

  package static func load(_ bytes: UnsafeRawPointer, _ size: Int) throws(UnmergeError) -> Gram {
    var reader = try ByteReader(bytes, size, magic: magic, what: "a saved Gram")
    guard let precision = Precision(rawValue: Int32(try reader.integer("precision", 0...Int(Int32.max)))) else {
      throw reader.bad("its precision is unknown")
    }
    let n = try reader.integer("atoms", 0...1 << 20)
    let t = try reader.integer("targets", 0...Int(Int32.max))
    let blockCount = try reader.integer("blocks", 0...Int(Int32.max))
    let triangle = n * (n + 1) / 2
    let numbers = triangle.addingReportingOverflow(try product(n, t, "C")).partialValue + t
    var blocks: [Block] = []
    for _ in 0..<blockCount {
      let name = try reader.string("a name")
      let fold = try reader.integer("a fold", 0...Int(Int32.max))
      let entries = try reader.integer("entries", 0...Int.max / 2)
      guard reader.wordsLeft >= numbers else { throw reader.bad("it ends inside block '\(name)'") }
      let block = Block(
        module: try ModuleName(name), fold: fold, entries: entries, g: try allocate(try product(n, n, "G")),
        c: try allocate(n * t), yy: try allocate(t))
      for j in 0..<n { try reader.numbers(into: block.g.pointer + j * n, j + 1, "G") }
      try reader.numbers(into: block.c.pointer, n * t, "C")
      try reader.numbers(into: block.yy.pointer, t, "yy")
      blocks.append(block)
    }
    try reader.finish()
    return try Gram(atoms: n, targets: t, blocks: blocks, precision: precision, passes: 0)
  }
}

// MARK: the door

@_cdecl("unmerge_gram_saved_size") @implementation
public func unmerge_gram_saved_size(
  _ gram: OpaquePointer?, _ size: UnsafeMutablePointer<Int64>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    guard let size else { throw .null("size") }
    try g.needBlocks("save")
    size.pointee = Int64(g.savedSize)
  }
}

@_cdecl("unmerge_gram_save") @implementation
public func unmerge_gram_save(
  _ gram: OpaquePointer?, _ bytes: UnsafeMutableRawPointer?, _ size: Int64, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    guard let bytes else { throw .null("bytes") }
    try g.needBlocks("save")
    guard size == g.savedSize else { throw .shape("size is \(size), expected \(g.savedSize); ask unmerge_gram_saved_size") }
    g.write(bytes)
  }
}

@_cdecl("unmerge_gram_load") @implementation
public func unmerge_gram_load(
  _ bytes: UnsafeRawPointer?, _ size: Int64, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    guard let bytes else { throw .null("bytes") }
    guard let out else { throw .null("out") }
    try check(size, "size", 0...Int64.max / 2, ">= 0")
    try publish(try Gram.load(bytes, Int(size)), out)
  }
}
