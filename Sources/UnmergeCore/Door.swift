import CUnmerge
import UnmergeLinalg

// The door between C and Swift. Everything a caller gives is checked here and nowhere else; below it code trusts its inputs.

/// Runs the Swift side of a C function and turns its error into a status and one sentence.
package func door(
  _ error: UnsafeMutablePointer<unmerge_error>?, _ body: () throws(UnmergeError) -> Void
) -> unmerge_status {
  makeMetadata()
  do {
    try body()
    error?.pointee.status = UNMERGE_OK
    if let error { write("", to: error) }
    return UNMERGE_OK
  } catch let failure {
    if let error {
      error.pointee.status = failure.status
      write(failure.message, to: error)
    }
    return failure.status
  }
}

private func write(_ message: String, to error: UnsafeMutablePointer<unmerge_error>) {
  withUnsafeMutableBytes(of: &error.pointee.message) { bytes in
    var n = 0
    for byte in message.utf8 {
      if n == bytes.count - 1 {
        // Cut at a character boundary: drop a trailing partial UTF-8 sequence.
        while n > 0, bytes[n - 1] & 0xC0 == 0x80 { n -= 1 }
        if n > 0, bytes[n - 1] & 0x80 != 0 { n -= 1 }
        break
      }
      bytes[n] = byte
      n += 1
    }
    bytes[n] = 0
  }
}

// MARK: growable structs

/// A struct of the header whose first field is `size_t struct_size` and which may grow in later versions.
package protocol Growable {
  static var defaults: Self { get }
}

/// Larger than any struct of this header will ever be: a size beyond it is garbage, not a newer version.
private let largestStruct = 4096

/// `options` as a caller of any version gave them: fields the caller does not know keep their defaults, fields we do not
/// know must be zero.
package func read<T: Growable>(_ pointer: UnsafePointer<T>?, _ name: String) throws(UnmergeError) -> T {
  var value = T.defaults
  guard let pointer else { return value }
  let raw = UnsafeRawPointer(pointer)
  let size = raw.loadUnaligned(as: Int.self)
  let known = MemoryLayout<T>.size
  guard size >= MemoryLayout<Int>.size, size <= largestStruct else {
    throw UnmergeError(
      UNMERGE_E_VERSION, "\(name)->struct_size is \(size); call its _init function, which sets it to sizeof *\(name)")
  }
  if size > known {
    for i in known..<size where raw.load(fromByteOffset: i, as: UInt8.self) != 0 {
      throw UnmergeError(
        UNMERGE_E_VERSION, "\(name) has \(size) bytes of which this library knows \(known); byte \(i) is not zero")
    }
  }
  withUnsafeMutableBytes(of: &value) { $0.copyMemory(from: UnsafeRawBufferPointer(start: raw, count: min(size, known))) }
  return value
}

/// The _init function of a growable struct.
package func initialize<T: Growable>(_ pointer: UnsafeMutablePointer<T>?, _ size: Int) -> unmerge_status {
  guard let pointer else { return UNMERGE_E_NULL }
  guard size >= MemoryLayout<Int>.size, size <= largestStruct else { return UNMERGE_E_VERSION }
  let raw = UnsafeMutableRawPointer(pointer)
  let known = MemoryLayout<T>.size
  raw.initializeMemory(as: UInt8.self, repeating: 0, count: size)
  withUnsafeBytes(of: T.defaults) { raw.copyMemory(from: $0.baseAddress!, byteCount: min(size, known)) }
  raw.storeBytes(of: size, as: Int.self)
  return UNMERGE_OK
}

/// Writes what fits of a growable result; `index` steps through an array whose first element sets the distance.
package func store<T: Growable>(_ value: T, _ pointer: UnsafeMutablePointer<T>?, index: Int = 0) {
  guard let pointer else { return }
  let raw = UnsafeMutableRawPointer(pointer)
  let size = raw.loadUnaligned(as: Int.self)
  let target = raw + index * size
  withUnsafeBytes(of: value) { target.copyMemory(from: $0.baseAddress!, byteCount: min(size, MemoryLayout<T>.size)) }
  target.storeBytes(of: size, as: Int.self)
}

package func checkResult<T: Growable>(
  _ pointer: UnsafeMutablePointer<T>?, _ name: String, count: Int = 1
) throws(UnmergeError) {
  guard let pointer, count > 0 else { return }
  _ = try read(UnsafePointer(pointer), name)
}

// MARK: views

/// A view of the caller's memory, checked: dtype known, shape non-negative and representable, no address wraps.
package func view(_ pointer: UnsafePointer<unmerge_view>?, _ name: String) throws(UnmergeError) -> View {
  guard let pointer else { throw .null(name) }
  let v = pointer.pointee
  guard let type = ElementType(rawValue: v.dtype) else {
    throw UnmergeError(
      UNMERGE_E_DTYPE, "\(name)->dtype is \(v.dtype); it must be UNMERGE_F64, UNMERGE_F32, UNMERGE_F16 or UNMERGE_BF16")
  }
  guard v.reserved == 0 else { throw UnmergeError(UNMERGE_E_VERSION, "\(name)->reserved is \(v.reserved); it must be 0") }
  let rows = Int(v.shape.0)
  let columns = Int(v.shape.1)
  guard rows >= 0, columns >= 0 else {
    throw .shape("\(name)->shape is \(rows) x \(columns); sizes must not be negative")
  }
  _ = try product(rows, columns, "\(name)->shape")
  // Lowest and highest byte reached, as offsets; both must be addresses.
  var low = 0
  var high = type.size
  var wraps = false
  for (count, stride) in [(rows, Int(v.strides.0)), (columns, Int(v.strides.1))] where count > 1 {
    let span = (count - 1).multipliedReportingOverflow(by: stride)
    wraps = wraps || span.overflow
    let moved =
      span.partialValue < 0
      ? low.addingReportingOverflow(span.partialValue) : high.addingReportingOverflow(span.partialValue)
    wraps = wraps || moved.overflow
    if span.partialValue < 0 { low = moved.partialValue } else { high = moved.partialValue }
  }
  let empty = rows == 0 || columns == 0
  guard let data = v.data else {
    if empty {
      return View(base: UnsafeRawPointer(pointer), type: type, rows: rows, columns: columns, rowStride: 0, columnStride: 0)
    }
    throw .null("\(name)->data")
  }
  let start = min(UInt(bitPattern: data), 1 << 58)
  if !empty {
    // No machine has more than 57 bits of user addresses; below that bound stride arithmetic cannot overflow anywhere.
    let limit = 1 << 57
    let fits = !wraps && low > -limit && high < limit && UInt(-low) <= start && start + UInt(high) <= UInt(limit)
    guard fits else {
      throw .shape(
        "\(name)->strides are \(v.strides.0) and \(v.strides.1) bytes; with shape \(rows) x \(columns) they leave the address space"
      )
    }
  }
  // The stride of a single row or column is never used and may be anything.
  return View(
    base: UnsafeRawPointer(data), type: type, rows: rows, columns: columns, rowStride: rows > 1 ? Int(v.strides.0) : 0,
    columnStride: columns > 1 ? Int(v.strides.1) : 0)
}

/// A view that is written: f32 or f64, of a given shape, no two elements on the same bytes.
package struct Output {
  package let view: View

  package init(_ pointer: UnsafePointer<unmerge_view>?, _ name: String, rows: Int, columns: Int) throws(UnmergeError) {
    view = try UnmergeCore.view(pointer, name)
    guard view.type == .f64 || view.type == .f32 else {
      throw UnmergeError(UNMERGE_E_DTYPE, "\(name) is written; its dtype must be UNMERGE_F64 or UNMERGE_F32")
    }
    guard view.rows == rows, view.columns == columns else {
      throw .shape("\(name) is \(view.rows) x \(view.columns), expected \(rows) x \(columns)")
    }
    let a = (count: rows, stride: abs(view.rowStride))
    let b = (count: columns, stride: abs(view.columnStride))
    let inner = a.stride <= b.stride ? a : b
    let outer = a.stride <= b.stride ? b : a
    let size = view.type.size
    let overlap =
      (inner.count > 1 && inner.stride < size)
      || (outer.count > 1 && outer.stride < (inner.count > 1 ? (inner.count - 1) * inner.stride : 0) + size)
    guard !overlap || rows == 0 || columns == 0 else {
      throw .shape(
        "\(name)->strides are \(view.rowStride) and \(view.columnStride) bytes; elements of an output must not overlap")
    }
  }

  package func set(_ i: Int, _ j: Int, _ value: Double) {
    let p = UnsafeMutableRawPointer(mutating: view.address(i, j))
    if view.type == .f64 { p.storeBytes(of: value, as: Double.self) } else { p.storeBytes(of: Float(value), as: Float.self) }
  }

  /// Column j, of double.
  package func set(column j: Int, _ values: UnsafePointer<Double>) {
    if view.type == .f64, view.rowStride == MemoryLayout<Double>.size {
      UnsafeMutableRawPointer(mutating: view.address(0, j)).copyMemory(
        from: values, byteCount: view.rows * MemoryLayout<Double>.size)
    } else {
      for i in 0..<view.rows { set(i, j, values[i]) }
    }
  }

  package func get(_ i: Int, _ j: Int) -> Double { view.element(i, j) }
}

package func optionalOutput(
  _ pointer: UnsafePointer<unmerge_view>?, _ name: String, rows: Int, columns: Int
) throws(UnmergeError) -> Output? {
  pointer == nil ? nil : try Output(pointer, name, rows: rows, columns: columns)
}

// MARK: scalars

package func check(_ value: Double, _ name: String, _ range: ClosedRange<Double>, _ words: String) throws(UnmergeError) {
  guard value.isFinite, range.contains(value) else { throw .range("\(name) is \(value); it must be \(words)") }
}

package func check(_ value: Int64, _ name: String, _ range: ClosedRange<Int64>, _ words: String) throws(UnmergeError) {
  guard range.contains(value) else { throw .range("\(name) is \(value); it must be \(words)") }
}

package func checkFlag(_ value: Int32, _ name: String) throws(UnmergeError) {
  guard value == 0 || value == 1 else { throw .range("\(name) is \(value); it must be 0 or 1") }
}

/// `count` non-negative finite weights, or nil.
package func weights(_ pointer: UnsafePointer<Double>?, _ count: Int, _ name: String) throws(UnmergeError) -> UnsafePointer<
  Double
>? {
  guard let pointer else { return nil }
  for j in 0..<count {
    let w = UnsafeRawPointer(pointer + j).loadUnaligned(as: Double.self)
    guard w.isFinite, w >= 0 else { throw .range("\(name)[\(j)] is \(w); it must be finite and >= 0") }
  }
  return pointer
}
