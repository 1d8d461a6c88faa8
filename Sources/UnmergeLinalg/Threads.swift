import CKernels
import COpenBLAS

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The library's only parallelism: independent iterations on short-lived threads, the caller among the workers.
///
/// A thread costs some twenty microseconds against the milliseconds it works. In return there is no pool: nothing to
/// survive a fork, nothing that decides by the machine's load whether to help, nothing left behind.
package enum Threads {
  package static var available: Int { max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }

  private final class Iteration {
    let body: @Sendable (Int) -> Void
    let index: Int
    init(_ body: @escaping @Sendable (Int) -> Void, _ index: Int) {
      self.body = body
      self.index = index
    }
  }

  /// Runs `body(0)` … `body(count - 1)`, each once, all at the same time; returns when all are done.
  package static func perform(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    var threads: [pthread_t] = []
    var late: [Int] = []
    // Workers take none of the host's signals.
    var all = sigset_t()
    var before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    for index in 1..<max(count, 1) {
      let context = Unmanaged.passRetained(Iteration(body, index))
      var thread = pthread_t()
      let failed = pthread_create(
        &thread, nil,
        { raw in
          guard let raw else { return nil }
          let iteration = Unmanaged<Iteration>.fromOpaque(raw).takeRetainedValue()
          iteration.body(iteration.index)
          return nil
        }, context.toOpaque())
      if failed == 0 {
        threads.append(thread)
      } else {
        context.release()
        late.append(index)
      }
    }
    pthread_sigmask(SIG_SETMASK, &before, nil)
    if count > 0 { body(0) }
    for index in late { body(index) }
    for thread in threads { pthread_join(thread, nil) }
  }

  private struct Guests {
    var inside = 0
    /// The host's thread count, to be put back.
    var host: Int32 = 1
    /// The parent had calls inside when this process was forked: the count in force is ours, not the host's.
    var isInherited = false
  }
  private static let guests = ForkSafe(Guests()) { state in
    state.isInherited = state.isInherited || state.inside > 0
    state.inside = 0
  }

  /// Runs `body` with OpenBLAS on one thread: our own threads split the work, and a pool below them would only fight for
  /// the same cores and make results depend on its size. The count is one per process, so the host's number comes back
  /// when the last of our calls leaves.
  package static func withSingleThreadedBLAS<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    guests.withLock { state in
      if state.inside == 0 {
        if !state.isInherited { state.host = openblas_threads_get() }
        state.isInherited = false
        if state.host != 1 { openblas_threads_set(1) }
      }
      state.inside += 1
    }
    defer {
      guests.withLock { state in
        state.inside = max(0, state.inside - 1)  // a callback may have forked: then the child has fewer inside
        if state.inside == 0, state.host != 1 { openblas_threads_set(state.host) }
      }
    }
    return try body()
  }
}

private func naturalLogarithm(_ x: Double) -> Double { log(x) }
private func exponential(_ x: Double) -> Double { exp(x) }
private func complementaryError(_ x: Double) -> Double { erfc(x) }
private func power(_ x: Double, _ y: Double) -> Double { pow(x, y) }

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

  package static func log(_ x: Double) -> Double { naturalLogarithm(x) }
  package static func exp(_ x: Double) -> Double { exponential(x) }
  /// The distribution function of the normal distribution.
  package static func normal(_ x: Double) -> Double { 0.5 * complementaryError(-x / 2.0.squareRoot()) }
  package static func pow(_ x: Double, _ y: Double) -> Double { power(x, y) }
}

/// max(m, |x|), element by element.
package func accumulateMaxAbs(_ m: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Double>, _ count: Int) {
  ck_max_abs(m, x, count)
}
