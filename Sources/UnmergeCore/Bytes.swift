import CUnmerge
import UnmergeLinalg

// What is saved: a magic of eight characters, little-endian words and numbers, and at the end the FNV-1a of all before it. The
// last character of the magic is the version; a reader refuses what it does not know.

private func checksum(_ p: UnsafeRawPointer, _ count: Int) -> UInt64 {
  var h: UInt64 = 0xCBF2_9CE4_8422_2325
  let bytes = p.assumingMemoryBound(to: UInt8.self)
  for i in 0..<count { h = (h ^ UInt64(bytes[i])) &* 0x100_0000_01B3 }
  return h
}

/// Writes into the caller's memory, or, without a destination, only counts.
package struct ByteWriter {
  private let destination: UnsafeMutableRawPointer?
  package private(set) var count = 0

  package init(_ destination: UnsafeMutableRawPointer?, magic: String) {
    self.destination = destination
    put(magic.utf8)
  }

  private mutating func put(_ bytes: some Collection<UInt8>) {
    for byte in bytes {
      destination?.storeBytes(of: byte, toByteOffset: count, as: UInt8.self)
      count += 1
    }
  }

  private mutating func put(_ word: UInt64) {
    destination?.storeBytes(of: word.littleEndian, toByteOffset: count, as: UInt64.self)
    count += 8
  }

  package mutating func put(_ value: Int) { put(UInt64(bitPattern: Int64(value))) }
  package mutating func put(_ value: Double) { put(value.bitPattern) }

  package mutating func put(_ string: String) {
    put(string.utf8.count)
    put(string.utf8)
  }

  package mutating func put(_ values: UnsafePointer<Double>, _ n: Int) {
    #if _endian(little)
      if let destination { (destination + count).copyMemory(from: values, byteCount: 8 * n) }
      count += 8 * n
    #else
      for i in 0..<n { put(values[i]) }
    #endif
  }

  /// The checksum of all that was put.
  package mutating func close() { put(destination.map { checksum($0, count) } ?? 0) }
}

/// Reads what a writer wrote. After the checksum only a writer with a defect can surprise it; sizes are checked all the same.
package struct ByteReader {
  private let bytes: UnsafeRawPointer
  private let end: Int
  private let what: String
  private var at: Int

  /// What stands at the head of saved bytes.
  package static func magic(_ bytes: UnsafeRawPointer, _ size: Int) -> String {
    String(decoding: UnsafeRawBufferPointer(start: bytes, count: min(size, 8)), as: UTF8.self)
  }

  package init(_ bytes: UnsafeRawPointer, _ size: Int, magic: String, what: String) throws(UnmergeError) {
    self.bytes = bytes
    self.what = what
    end = size - 8
    at = 8
    let start = ByteReader.magic(bytes, size)
    guard start.dropLast() == magic.dropLast() else { throw bad("it does not begin with \(magic.dropLast())") }
    guard start == magic else {
      throw bad("its version is '\(start.last ?? " ")', this library reads '\(magic.last ?? " ")'")
    }
    guard size >= 16 else { throw bad("it has \(size) bytes, fewer than the 16 of an empty one") }
    guard UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: end, as: UInt64.self)) == checksum(bytes, end) else {
      throw bad("the checksum does not match; it is damaged or truncated")
    }
  }

  /// What this process wrote itself, without a checksum.
  package init(own bytes: UnsafeRawPointer, _ size: Int) {
    self.bytes = bytes
    what = "what was written"
    end = size
    at = 8
  }

  package func bad(_ why: String) -> UnmergeError { UnmergeError(UNMERGE_E_FORMAT, "bytes is not \(what): \(why)") }

  /// Whole words between here and the end.
  package var wordsLeft: Int { (end - at) / 8 }

  private mutating func word(_ name: String) throws(UnmergeError) -> UInt64 {
    guard end - at >= 8 else { throw bad("it ends inside \(name)") }
    defer { at += 8 }
    return UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
  }

  package mutating func integer(_ name: String, _ range: ClosedRange<Int>) throws(UnmergeError) -> Int {
    let w = Int(Int64(bitPattern: try word(name)))
    guard range.contains(w) else { throw bad("\(name) is \(w)") }
    return w
  }

  package mutating func number(_ name: String) throws(UnmergeError) -> Double {
    let x = Double(bitPattern: try word(name))
    guard x.isFinite else { throw bad("\(name) holds \(x)") }
    return x
  }

  package mutating func string(_ name: String) throws(UnmergeError) -> String {
    let length = try integer(name, 0...1 << 20)
    guard end - at >= length else { throw bad("it ends inside \(name)") }
    defer { at += length }
    return String(decoding: UnsafeRawBufferPointer(start: bytes + at, count: length), as: UTF8.self)
  }

  package mutating func numbers(into values: UnsafeMutablePointer<Double>, _ n: Int, _ name: String) throws(UnmergeError) {
    guard wordsLeft >= n else { throw bad("it ends inside \(name)") }
    for i in 0..<n { values[i] = try number(name) }
  }

  package func finish() throws(UnmergeError) {
    guard at == end else { throw bad("\(end - at) bytes are left over") }
  }
}
