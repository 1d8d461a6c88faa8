import CUnmerge
import UnmergeLinalg

// A Gram as bytes, little-endian:
//
//     "UNMGRAM1"  precision u64  atoms u64  targets u64  blocks u64
//     per block:  name length u64, name UTF-8, fold u64, entries u64,
//                 G upper triangle by columns f64, C by columns f64, yy f64
//     FNV-1a of everything before u64
//
// The version is the last digit of the magic; a reader refuses what it does not know.

private let magic: [UInt8] = Array("UNMGRAM1".utf8)
private let headerWords = 4

private func checksum(_ p: UnsafeRawPointer, _ count: Int) -> UInt64 {
  var h: UInt64 = 0xCBF2_9CE4_8422_2325
  let bytes = p.assumingMemoryBound(to: UInt8.self)
  for i in 0..<count { h = (h ^ UInt64(bytes[i])) &* 0x100_0000_01B3 }
  return h
}

extension Gram {
  private var numbersPerBlock: Int { atoms * (atoms + 1) / 2 + atoms * targets + targets }

  package var savedSize: Int {
    magic.count + 8 * headerWords + blocks.reduce(0) { $0 + 8 * 3 + $1.module.string.utf8.count + 8 * numbersPerBlock } + 8
  }

  package func save(_ destination: UnsafeMutableRawPointer) {
    var at = 0
    func put(_ word: UInt64) {
      destination.storeBytes(of: word.littleEndian, toByteOffset: at, as: UInt64.self)
      at += 8
    }
    func put(_ bytes: some Collection<UInt8>) {
      for byte in bytes {
        destination.storeBytes(of: byte, toByteOffset: at, as: UInt8.self)
        at += 1
      }
    }
    put(magic)
    for word in [Int(precision.rawValue), atoms, targets, blocks.count] { put(UInt64(word)) }
    for block in blocks {
      put(UInt64(block.module.string.utf8.count))
      put(block.module.string.utf8)
      put(UInt64(block.fold))
      put(UInt64(block.entries))
      for j in 0..<atoms { for i in 0...j { put(block.g[j * atoms + i].bitPattern) } }
      for k in 0..<(atoms * targets) { put(block.c[k].bitPattern) }
      for t in 0..<targets { put(block.yy[t].bitPattern) }
    }
    put(checksum(destination, at))
  }

  package static func load(_ bytes: UnsafeRawPointer, _ size: Int) throws(UnmergeError) -> Gram {
    func bad(_ why: String) -> UnmergeError { UnmergeError(UNMERGE_E_FORMAT, "bytes is not a saved Gram: \(why)") }
    let least = magic.count + 8 * headerWords + 8
    guard size >= least else { throw bad("it has \(size) bytes, fewer than the \(least) of an empty one") }
    let start = (0..<magic.count).map { bytes.load(fromByteOffset: $0, as: UInt8.self) }
    guard start.dropLast() == magic.dropLast() else { throw bad("it does not begin with UNMGRAM") }
    guard start.last == magic.last else {
      throw bad("its version is '\(Character(UnicodeScalar(start[7])))', this library reads '1'")
    }
    let end = size - 8
    guard UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: end, as: UInt64.self)) == checksum(bytes, end) else {
      throw bad("the checksum does not match; it is damaged or truncated")
    }
    // From here on only a writer with a defect can surprise us; sizes are checked all the same.
    var at = magic.count
    func word(_ what: String) throws(UnmergeError) -> UInt64 {
      guard end - at >= 8 else { throw bad("it ends inside \(what)") }
      defer { at += 8 }
      return UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
    }
    func count(_ what: String, _ limit: Int = Int(Int32.max)) throws(UnmergeError) -> Int {
      let w = try word(what)
      guard w <= UInt64(limit) else { throw bad("\(what) is \(w)") }
      return Int(w)
    }
    func number(_ what: String) throws(UnmergeError) -> Double {
      let x = Double(bitPattern: try word(what))
      guard x.isFinite else { throw bad("\(what) holds \(x)") }
      return x
    }
    guard let precision = Precision(rawValue: Int32(try count("precision"))) else { throw bad("its precision is unknown") }
    let n = try count("atoms", 1 << 20)
    let t = try count("targets")
    let blockCount = try count("blocks")
    let triangle = n * (n + 1) / 2
    let numbers = triangle.addingReportingOverflow(try product(n, t, "C")).partialValue + t
    var blocks: [Block] = []
    for _ in 0..<blockCount {
      let length = try count("a name", 1 << 20)
      guard end - at >= length else { throw bad("it ends inside a name") }
      let name = String(decoding: UnsafeRawBufferPointer(start: bytes + at, count: length), as: UTF8.self)
      at += length
      let fold = try count("a fold")
      let entries = try count("entries", Int.max / 2)
      guard (end - at) / 8 >= numbers else { throw bad("it ends inside block '\(name)'") }
      let block = Block(
        module: try ModuleName(name), fold: fold, entries: entries, g: try allocate(try product(n, n, "G")),
        c: try allocate(n * t), yy: try allocate(t))
      for j in 0..<n { for i in 0...j { block.g[j * n + i] = try number("G") } }
      for k in 0..<(n * t) { block.c[k] = try number("C") }
      for k in 0..<t { block.yy[k] = try number("yy") }
      blocks.append(block)
    }
    guard at == end else { throw bad("\(end - at) bytes are left over") }
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
    g.save(bytes)
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
