import CUnmerge
import UnmergeLinalg

/// What a call answers when it cannot do its work: a status of the header and one sentence that names the argument, what
/// was expected and what came.
package struct UnmergeError: Error {
  package let status: Int32
  package let message: String

  package init(_ status: Int32, _ message: String) {
    self.status = status
    self.message = message
  }

  package static func range(_ message: String) -> UnmergeError { UnmergeError(UNMERGE_E_RANGE, message) }
  package static func shape(_ message: String) -> UnmergeError { UnmergeError(UNMERGE_E_SHAPE, message) }
  package static func null(_ name: String) -> UnmergeError {
    UnmergeError(UNMERGE_E_NULL, "\(name) is NULL; it is required")
  }
  package static func memory(_ bytes: Int) -> UnmergeError {
    UnmergeError(UNMERGE_E_MEMORY, "\(bytes) bytes of working memory could not be allocated")
  }
}

/// Runs code whose only failure is memory.
package func allocating<R>(_ body: () throws(OutOfMemory) -> R) throws(UnmergeError) -> R {
  do {
    return try body()
  } catch {
    throw UnmergeError.memory(error.bytes)
  }
}

package func allocate<E: BitwiseCopyable>(
  _ count: Int, of: E.Type = E.self, zeroed: Bool = true
) throws(UnmergeError) -> Buffer<E> {
  do {
    return try Buffer<E>(count, zeroed: zeroed)
  } catch {
    throw UnmergeError.memory(error.bytes)
  }
}

/// a·b, or the shape error the caller named.
package func product(_ a: Int, _ b: Int, _ what: @autoclosure () -> String) throws(UnmergeError) -> Int {
  let r = a.multipliedReportingOverflow(by: b)
  guard !r.overflow, r.partialValue <= Int.max / 16 else { throw .shape("\(what()) is \(a) x \(b), which overflows") }
  return r.partialValue
}

/// Numbers of entries add up; what a caller merely claims may exceed any integer and then stays at the largest.
package func saturatingSum(_ a: Int, _ b: Int) -> Int {
  let r = a.addingReportingOverflow(b)
  return r.overflow ? .max : r.partialValue
}
