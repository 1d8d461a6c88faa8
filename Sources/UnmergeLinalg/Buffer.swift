#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Memory that grows with the data could not be had. `bytes` is what was asked for.
package struct OutOfMemory: Error {
  package let bytes: Int
}

/// Owned memory that can fail to be allocated. Swift's own containers abort the process when memory runs out, so
/// everything whose size depends on the caller's data lives in one of these.
///
/// A buffer is a plain block: whoever shares it between threads takes care that they write to different parts.
package final class Buffer<Element: BitwiseCopyable>: @unchecked Sendable {
  package let pointer: UnsafeMutablePointer<Element>
  package let count: Int

  /// `count` elements, on a 64-byte boundary; not zeroed, memory costs nothing until it is touched.
  package init(_ count: Int, zeroed: Bool = true) throws(OutOfMemory) {
    let size = max(count, 1).multipliedReportingOverflow(by: MemoryLayout<Element>.stride)
    guard count >= 0, !size.overflow, size.partialValue <= Int.max / 2 else { throw OutOfMemory(bytes: Int.max) }
    var raw: UnsafeMutableRawPointer?
    let bytes = size.partialValue
    guard posix_memalign(&raw, 64, bytes) == 0, let raw else { throw OutOfMemory(bytes: bytes) }
    if zeroed { memset(raw, 0, bytes) }
    pointer = raw.bindMemory(to: Element.self, capacity: max(count, 1))
    self.count = count
  }

  deinit { free(pointer) }

  @inlinable package subscript(i: Int) -> Element {
    get { pointer[i] }
    set { pointer[i] = newValue }
  }

  package func zero() { memset(pointer, 0, count * MemoryLayout<Element>.stride) }

  package func copy() throws(OutOfMemory) -> Buffer<Element> {
    let other = try Buffer(count)
    memcpy(other.pointer, pointer, count * MemoryLayout<Element>.stride)
    return other
  }
}
