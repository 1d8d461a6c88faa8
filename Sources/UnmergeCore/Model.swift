import CUnmerge
import Synchronization
import UnmergeLinalg

/// Something that is learned from data and has a state: created, stepped, asked, saved and resumed.
///
/// Laws: `step(a)` then `step(b)` leaves the bits of `step(a + b)`, with or without a `write` and `init` between; a call that
/// throws leaves the state as it was (`ModelHandle.change`); an early end (cancel, deadline) leaves that of the last whole iteration.
package protocol Model: AnyObject, Sendable {
  /// Eight characters at the head of what is saved; the last is the version.
  static var magic: String { get }
  /// UNMERGE_MODEL_...
  static var kind: Int32 { get }

  var rows: Int { get }
  var columns: Int { get }
  var components: Int { get }
  /// Iterations of its whole life.
  var iterations: Int { get }

  /// At most `watch.maxIterations` more iterations on the data, which the model does not keep.
  func step(_ x: View?, _ watch: Watch) throws(UnmergeError) -> unmerge_report
  /// The codes of data for the dictionary as it is.
  func transform(_ x: View, _ watch: Watch, _ codes: Output) throws(UnmergeError) -> unmerge_report
  /// W, p×k, and H, k×T.
  func readComponents(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError)
  func readCodes(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError)

  func write(_ bytes: inout ByteWriter)
  /// The reader stands behind the magic.
  init(_ bytes: inout ByteReader) throws(UnmergeError)
}

/// A model behind a C handle. One call at a time; calls from several threads queue.
package final class ModelHandle: Handle, @unchecked Sendable {
  package static let kind: UInt = 6
  package static let name = "a model"
  private var model: any Model
  private let lock = Lock()
  /// The thread inside, 0 for none: its callback must not wait for itself.
  private let inside = Atomic<UInt>(0)

  package init(_ model: any Model) { self.model = model }

  package func use<R>(_ body: (any Model) throws(UnmergeError) -> R) throws(UnmergeError) -> R {
    let caller = Platform.thread
    guard inside.load(ordering: .relaxed) != caller else {
      throw UnmergeError(
        UNMERGE_E_HANDLE,
        "model is in use by this thread, whose progress callback this is; ask it when that call has returned")
    }
    return try lock.locked { () throws(UnmergeError) in
      inside.store(caller, ordering: .relaxed)
      defer { inside.store(0, ordering: .relaxed) }
      return try body(model)
    }
  }

  /// A change that is taken back where it throws.
  package func change<R>(_ body: (any Model) throws(UnmergeError) -> R) throws(UnmergeError) -> R {
    try use { m throws(UnmergeError) in
      let before: Buffer<UInt8> = try allocate(written(m, nil))
      _ = written(m, before.pointer)
      do throws(UnmergeError) {
        return try body(m)
      } catch {
        var reader = ByteReader(own: before.pointer, before.count)
        if let whole = try? type(of: m).init(&reader) { model = whole }
        withExtendedLifetime(before) {}
        throw error
      }
    }
  }
}

private func written(_ m: any Model, _ destination: UnsafeMutableRawPointer?) -> Int {
  var writer = ByteWriter(destination, magic: type(of: m).magic)
  m.write(&writer)
  return writer.count
}

extension unmerge_model_info: Growable {
  package static var defaults: unmerge_model_info {
    var i = unmerge_model_info()
    i.struct_size = MemoryLayout<unmerge_model_info>.size
    return i
  }
}

// MARK: the door

@_cdecl("unmerge_model_destroy") @implementation
public func unmerge_model_destroy(_ model: OpaquePointer?) { release(model, ModelHandle.self) }

@_cdecl("unmerge_model_info_init") @implementation
public func unmerge_model_info_init(_ info: UnsafeMutablePointer<unmerge_model_info>?, _ size: Int) -> unmerge_status {
  initialize(info, size)
}

@_cdecl("unmerge_model_get_info") @implementation
public func unmerge_model_get_info(
  _ model: OpaquePointer?, _ info: UnsafeMutablePointer<unmerge_model_info>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    guard let info else { throw .null("info") }
    try checkResult(info, "info")
    try handle.use { m throws(UnmergeError) in
      var i = unmerge_model_info.defaults
      i.kind = type(of: m).kind
      i.rows = Int64(m.rows)
      i.columns = Int64(m.columns)
      i.components = Int64(m.components)
      i.iterations = Int64(m.iterations)
      store(i, info)
    }
  }
}

@_cdecl("unmerge_model_step") @implementation
public func unmerge_model_step(
  _ model: OpaquePointer?, _ x: UnsafePointer<unmerge_view>?, _ run: UnsafePointer<unmerge_run>?,
  _ report: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    let data = x == nil ? nil : try modelData(x)
    let watch = try Watch(run)
    try checkResult(report, "report")
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try handle.change { m throws(UnmergeError) in store(try m.step(data, watch), report) }
    }
  }
}

@_cdecl("unmerge_model_transform") @implementation
public func unmerge_model_transform(
  _ model: OpaquePointer?, _ x: UnsafePointer<unmerge_view>?, _ run: UnsafePointer<unmerge_run>?,
  _ codes: UnsafePointer<unmerge_view>?, _ report: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    let data = try modelData(x)
    let watch = try Watch(run)
    try checkResult(report, "report")
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try handle.use { m throws(UnmergeError) in
        guard data.rows == m.rows else { throw .shape("x has \(data.rows) rows, the model's data has \(m.rows)") }
        let output = try Output(codes, "codes", rows: m.components, columns: data.columns)
        store(try m.transform(data, watch, output), report)
      }
    }
  }
}

@_cdecl("unmerge_model_components") @implementation
public func unmerge_model_components(
  _ model: OpaquePointer?, _ w: UnsafePointer<unmerge_view>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    try handle.use { m throws(UnmergeError) in try m.readComponents(w) }
  }
}

@_cdecl("unmerge_model_codes") @implementation
public func unmerge_model_codes(
  _ model: OpaquePointer?, _ h: UnsafePointer<unmerge_view>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    try handle.use { m throws(UnmergeError) in try m.readCodes(h) }
  }
}

/// BLAS counts in 32 bits.
package func modelData(_ x: UnsafePointer<unmerge_view>?) throws(UnmergeError) -> View {
  let v = try view(x, "x")
  guard v.rows <= Int(Int32.max), v.columns <= Int(Int32.max) else {
    throw .shape("x is \(v.rows) x \(v.columns); at most \(Int32.max) each way")
  }
  return v
}

private func saved(_ m: any Model, _ destination: UnsafeMutableRawPointer?) -> Int {
  var writer = ByteWriter(destination, magic: type(of: m).magic)
  m.write(&writer)
  writer.close()
  return writer.count
}

@_cdecl("unmerge_model_saved_size") @implementation
public func unmerge_model_saved_size(
  _ model: OpaquePointer?, _ size: UnsafeMutablePointer<Int64>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    guard let size else { throw .null("size") }
    size.pointee = Int64(try handle.use { m throws(UnmergeError) in saved(m, nil) })
  }
}

@_cdecl("unmerge_model_save") @implementation
public func unmerge_model_save(
  _ model: OpaquePointer?, _ bytes: UnsafeMutableRawPointer?, _ size: Int64, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    guard let bytes else { throw .null("bytes") }
    try handle.use { m throws(UnmergeError) in
      let needed = saved(m, nil)
      guard size == needed else { throw .shape("size is \(size), expected \(needed); ask unmerge_model_saved_size") }
      _ = saved(m, bytes)
    }
  }
}
