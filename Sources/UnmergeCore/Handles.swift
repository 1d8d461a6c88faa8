import CUnmerge
import UnmergeLinalg

/// What a C handle stands for: an index and a generation, never an address, so that a stale or foreign handle is looked up
/// and refused instead of followed.
///
/// Bits: 0-23 slot, 24-55 generation, 56-59 kind, 60-63 the constant 9.
package protocol Handle: AnyObject, Sendable {
  static var kind: UInt { get }
  static var name: String { get }
}

private struct Slot {
  var generation: UInt = 1
  var object: (any Handle)?
}

private struct Table {
  var slots: [Slot] = []
  var free: [Int] = []
}

/// Survives a fork of the host while another of its threads is in here.
private let table = ForkSafe(Table())
private let capacity = 1 << 24

package func register<T: Handle>(_ object: T) throws(UnmergeError) -> OpaquePointer {
  let bits: UInt? = table.withLock { t in
    let slot: Int
    if let reused = t.free.popLast() {
      slot = reused
    } else {
      guard t.slots.count < capacity else { return nil }
      slot = t.slots.count
      t.slots.append(Slot())
    }
    t.slots[slot].object = object
    return 9 << 60 | T.kind << 56 | t.slots[slot].generation << 24 | UInt(slot)
  }
  guard let bits, let pointer = OpaquePointer(bitPattern: bits) else {
    throw UnmergeError(UNMERGE_E_MEMORY, "\(capacity) handles are open already; destroy some")
  }
  return pointer
}

/// The object behind a handle, retained: it lives until the caller lets go of it even when the handle is destroyed meanwhile.
package func object<T: Handle>(_ handle: OpaquePointer?, _ name: String, _: T.Type = T.self) throws(UnmergeError) -> T {
  guard let handle else { throw .null(name) }
  let bits = UInt(bitPattern: handle)
  guard bits >> 60 == 9, bits >> 56 & 15 == T.kind else {
    throw UnmergeError(UNMERGE_E_HANDLE, "\(name) is not a handle of \(T.name)")
  }
  let found: (any Handle)? = table.withLock { t in
    let slot = Int(bits & 0xFF_FFFF)
    guard slot < t.slots.count, t.slots[slot].generation == bits >> 24 & 0xFFFF_FFFF else { return nil }
    return t.slots[slot].object
  }
  guard let typed = found as? T else {
    throw UnmergeError(UNMERGE_E_HANDLE, "\(name) is the handle of \(T.name) that was destroyed")
  }
  return typed
}

/// Forgets a handle; NULL, stale and foreign ones are left alone.
package func release<T: Handle>(_ handle: OpaquePointer?, _: T.Type) {
  guard let handle else { return }
  let bits = UInt(bitPattern: handle)
  guard bits >> 60 == 9, bits >> 56 & 15 == T.kind else { return }
  // The object is let go outside the lock: its deinit may take time.
  let dropped: (any Handle)? = table.withLock { t in
    let slot = Int(bits & 0xFF_FFFF)
    guard slot < t.slots.count, t.slots[slot].generation == bits >> 24 & 0xFFFF_FFFF else { return nil }
    guard let object = t.slots[slot].object, object is T else { return nil }
    t.slots[slot].object = nil
    t.slots[slot].generation = t.slots[slot].generation &+ 1 & 0xFFFF_FFFF
    if t.slots[slot].generation != 0 { t.free.append(slot) }  // a slot that has lived 2^32 times retires
    return object
  }
  _ = dropped
}

/// Stores a new handle in *out, which is checked before any work is done.
package func publish<T: Handle>(_ object: T, _ out: UnsafeMutablePointer<OpaquePointer?>) throws(UnmergeError) {
  out.pointee = try register(object)
}
