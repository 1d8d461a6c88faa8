import COpenBLAS
import CKernels
import Dispatch
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The library's only parallelism: independent iterations on Dispatch's pool, the caller among the workers. Survives fork.
package enum Threads {
  package static var available: Int { max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }

  /// Runs `body(0)` … `body(count - 1)`, each once, in any order.
  package static func perform(_ count: Int, _ body: @Sendable (Int) -> Void) {
    if count <= 1 {
      if count == 1 { body(0) }
    } else {
      DispatchQueue.concurrentPerform(iterations: count, execute: body)
    }
  }

  // (calls inside, the host's thread count)
  private static let guests = Mutex<(inside: Int, host: Int32)>((0, 1))

  /// Runs `body` with OpenBLAS on one thread: our own threads split the work, and a pool below them would only fight for
  /// the same cores and make results depend on its size. The count is one per process, so the host's number comes back
  /// when the last of our calls leaves.
  package static func withSingleThreadedBLAS<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    guests.withLock { state in
      if state.inside == 0 {
        state.host = openblas_threads_get()
        if state.host != 1 { openblas_threads_set(1) }
      }
      state.inside += 1
    }
    defer {
      guests.withLock { state in
        state.inside -= 1
        if state.inside == 0, state.host != 1 { openblas_threads_set(state.host) }
      }
    }
    return try body()
  }
}

package enum Platform {
  /// Seconds on a clock that never goes back.
  package static func now() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Double(t.tv_sec) + 1e-9 * Double(t.tv_nsec)
  }

  package static var blasDescription: UnsafePointer<CChar>? { openblas_description() }

  package static func flag(_ p: UnsafePointer<Int32>?) -> Bool { ck_load_flag(p) != 0 }

  package static var thread: UInt { UInt(pthread_self()) }
}

/// max(m, |x|), element by element.
package func accumulateMaxAbs(_ m: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Double>, _ count: Int) {
  ck_max_abs(m, x, count)
}
