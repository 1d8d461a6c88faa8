import CUnmerge
import Synchronization
import UnmergeLinalg

/// How far a pass is, and whether it should go on. Any thread advances it, panel by panel.
package final class PassMeter: Sendable {
  private let watch: Watch
  private let pass: Int
  private let total: Int
  private let done = Atomic<Int>(0)

  package init(_ watch: Watch, pass: Int, total: Int) {
    self.watch = watch
    self.pass = pass
    self.total = total
  }

  /// Counts entries as done; the error when the pass is to end.
  package func advance(_ entries: Int) -> UnmergeError? {
    let now = done.add(entries, ordering: .relaxed).newValue
    watch.report(phase: UNMERGE_PHASE_PASS, pass: pass, done: min(now, total), total: total)
    return watch.poll()?.error
  }
}

/// Runs the tasks of a pass over the data in waves of one task per slot and hands their results over in order, so that
/// what is summed, and in which order, does not depend on the number of threads.
///
/// `work` is called from any thread with the task and the slot whose buffers it may use; it asks the meter once a panel.
/// `finish` is called on the calling thread, task after task.
package func performPass(
  tasks: Int, slots: Int, _ watch: Watch, work: @escaping @Sendable (_ task: Int, _ slot: Int) throws(UnmergeError) -> Void,
  finish: (_ task: Int, _ slot: Int) -> Void
) throws(UnmergeError) {
  let failures = Failures()
  var first = 0
  while first < tasks {
    if let stop = watch.poll() { throw stop.error }
    let start = first
    let wave = min(slots, tasks - start)
    Threads.perform(wave) { slot in
      do throws(UnmergeError) { try work(start + slot, slot) } catch { failures.add(error) }
    }
    if let failure = failures.first { throw failure }
    for slot in 0..<wave { finish(start + slot, slot) }
    first += wave
  }
}

private final class Failures: @unchecked Sendable {
  private var error: UnmergeError?
  private let lock = Lock()
  func add(_ e: UnmergeError) { lock.locked { error = error ?? e } }
  var first: UnmergeError? { lock.locked { error } }
}

/// Consecutive tasks over one range of rows (or of kept entries), `step` at a time. Tasks are computed, not listed: a view
/// with stride 0 can have more rows than there is memory for a list.
package struct Segment<Key: Sendable>: Sendable {
  package let key: Key
  package let length: Int
  package let step: Int
  package var tasks: Int { length == 0 ? 0 : (length - 1) / step + 1 }
}

package struct TaskList<Key: Sendable>: Sendable {
  private var segments: [Segment<Key>] = []
  private var starts: [Int] = []
  package private(set) var count = 0

  package init() {}

  package mutating func append(_ key: Key, length: Int, step: Int) {
    let segment = Segment(key: key, length: length, step: max(step, 1))
    guard segment.tasks > 0 else { return }
    starts.append(count)
    segments.append(segment)
    count += segment.tasks
  }

  package subscript(_ task: Int) -> (key: Key, range: Range<Int>) {
    var low = 0
    var high = starts.count - 1
    while low < high {
      let middle = (low + high + 1) / 2
      if starts[middle] <= task { low = middle } else { high = middle - 1 }
    }
    let s = segments[low]
    let first = (task - starts[low]) * s.step
    return (s.key, first..<min(first + s.step, s.length))
  }
}
