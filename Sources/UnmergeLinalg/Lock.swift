#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// A value behind a mutex of its own that the child of a fork finds unlocked and whole, whatever the parent's other threads
/// were doing. For the library's few globals; `afterFork` may put right what those threads will never finish.
package final class ForkSafe<Value>: @unchecked Sendable {
  private var value: Value
  private let lock = Lock()
  private let afterFork: (inout Value) -> Void

  package init(_ value: Value, afterFork: @escaping (inout Value) -> Void = { _ in }) {
    self.value = value
    self.afterFork = afterFork
    forkHandlers.add(before: lock.lock, parent: lock.unlock) { [unowned self] in
      lock.reset()
      self.afterFork(&self.value)
    }
  }

  package func withLock<R>(_ body: (inout Value) -> R) -> R { lock.locked { body(&value) } }
}

/// What to do around a fork, for every `ForkSafe`; they are global and live for ever.
private final class ForkHandlers: @unchecked Sendable {
  private var handlers: [(before: () -> Void, parent: () -> Void, child: () -> Void)] = []
  private let lock = Lock()

  init() {
    pthread_atfork(
      {
        forkHandlers.lock.lock()
        for h in forkHandlers.handlers { h.before() }
      },
      {
        for h in forkHandlers.handlers.reversed() { h.parent() }
        forkHandlers.lock.unlock()
      },
      {
        for h in forkHandlers.handlers.reversed() { h.child() }
        forkHandlers.lock.reset()
      })
  }

  func add(before: @escaping () -> Void, parent: @escaping () -> Void, child: @escaping () -> Void) {
    lock.locked { handlers.append((before, parent, child)) }
  }
}

private let forkHandlers = ForkHandlers()

/// A mutex whose critical section may throw typed errors and take as long as a pass over the data. Not `Synchronization.Mutex`,
/// which keeps a thread id of its own that is the parent's after a fork (see CKernels/fork.c).
package final class Lock: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  package init() { pthread_mutex_init(mutex, nil) }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  fileprivate func lock() { pthread_mutex_lock(mutex) }
  fileprivate func unlock() { pthread_mutex_unlock(mutex) }
  fileprivate func reset() { pthread_mutex_init(mutex, nil) }

  package func locked<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body()
  }
}
