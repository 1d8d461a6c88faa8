import CUnmerge
import Synchronization
import UnmergeLinalg

extension unmerge_run: Growable {
  package static var defaults: unmerge_run {
    var r = unmerge_run()
    r.struct_size = MemoryLayout<unmerge_run>.size
    r.tol = 1e-10
    r.max_iter = 10_000
    return r
  }
}

extension unmerge_progress: Growable {
  package static var defaults: unmerge_progress {
    var p = unmerge_progress()
    p.struct_size = MemoryLayout<unmerge_progress>.size
    p.objective = .nan
    p.relative_gap = .nan
    return p
  }
}

/// Why a run ends before its work is done.
package enum Stop: Int, Sendable {
  case cancelled = 1
  case deadline = 2

  /// For calls that have no partial answer.
  package var error: UnmergeError {
    switch self {
    case .cancelled: UnmergeError(UNMERGE_E_CANCELLED, "the call was cancelled before there was an answer")
    case .deadline: UnmergeError(UNMERGE_E_DEADLINE, "run->deadline passed before there was an answer")
    }
  }

  package var outcome: Int32 { self == .cancelled ? UNMERGE_CANCELLED : UNMERGE_TIME_LIMIT }
}

/// The run of one call: tolerances, the clock, the cancel flag and the progress callback.
///
/// `poll` may be asked from any thread and is cheap enough for a panel or a sweep; the callback runs on the calling thread
/// only. Once stopped, it stays stopped.
package final class Watch: @unchecked Sendable {
  package let tol: Double
  package let maxIterations: Int
  package let seed: UInt64
  package let threads: Int
  package let start = Platform.now()

  private let end: Double
  private let cancel: UnsafePointer<Int32>?
  private let callback: unmerge_progress_fn?
  private let user: UnsafeMutableRawPointer?
  private let caller = Platform.thread
  private var lastReport: Double
  private let stopped = Atomic<Int>(0)

  package init(_ pointer: UnsafePointer<unmerge_run>?) throws(UnmergeError) {
    let run = try read(pointer, "run")
    guard run.tol > 0, run.tol < 1 else { throw .range("run->tol is \(run.tol); it must be in (0, 1)") }
    try check(run.max_iter, "run->max_iter", 0...Int64.max, ">= 0")
    try check(run.deadline, "run->deadline", 0...Double.greatestFiniteMagnitude, "finite and >= 0 seconds")
    try check(Int64(run.threads), "run->threads", 0...4096, "between 0 (one per core) and 4096")
    guard run.reserved == 0 else { throw UnmergeError(UNMERGE_E_VERSION, "run->reserved is \(run.reserved); it must be 0") }
    tol = run.tol
    maxIterations = Int(run.max_iter)
    seed = run.seed
    threads = run.threads == 0 ? Threads.available : Int(run.threads)
    end = run.deadline > 0 ? start + run.deadline : .infinity
    cancel = run.cancel
    callback = run.progress
    user = run.progress_user
    lastReport = start
  }

  package var seconds: Double { Platform.now() - start }

  package func poll() -> Stop? {
    if let already = Stop(rawValue: stopped.load(ordering: .relaxed)) { return already }
    if Platform.flag(cancel) { return stop(.cancelled) }
    if end < .infinity, Platform.now() > end { return stop(.deadline) }
    return nil
  }

  private func stop(_ why: Stop) -> Stop {
    _ = stopped.compareExchange(expected: 0, desired: why.rawValue, ordering: .relaxed)
    return Stop(rawValue: stopped.load(ordering: .relaxed)) ?? why
  }

  /// Tells the caller how far we are, at most ten times a second and only from the caller's own thread.
  package func report(
    phase: Int32, pass: Int, done: Int, total: Int, objective: Double = .nan, relativeGap: Double = .nan
  ) {
    guard let callback, Platform.thread == caller, stopped.load(ordering: .relaxed) == 0 else { return }
    let now = Platform.now()
    guard now - lastReport >= 0.1 || (done == total && phase == UNMERGE_PHASE_PASS) else { return }
    lastReport = now
    var p = unmerge_progress.defaults
    p.phase = phase
    p.pass = Int32(truncatingIfNeeded: pass)
    p.done = Int64(done)
    p.total = Int64(total)
    p.objective = objective
    p.relative_gap = relativeGap
    if callback(user, &p) != 0 { _ = stop(.cancelled) }
  }
}
