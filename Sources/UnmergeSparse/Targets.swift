import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Coefficients and reports of all targets. Nothing reaches the caller's arrays before every target is answered.
final class Answers: @unchecked Sendable {
  let rows: Int
  let columns: Int
  /// In the caller's units, column-major.
  private let coef: Buffer<Double>
  private let reports: Buffer<unmerge_report>

  init(_ rows: Int, _ columns: Int) throws(UnmergeError) {
    self.rows = rows
    self.columns = columns
    reports = try allocate(columns)
    coef = try allocate(product(rows, columns, "coef"))
  }

  /// w_j = v_j ‖y‖ / d_j
  func set(
    _ column: Int, _ gram: Gram, target t: Int, _ v: UnsafePointer<Double>?, _ end: Ending, sensitivity: Double? = nil,
    _ watch: Watch
  ) {
    let w = coef.pointer + column * rows
    var nonzeros = 0
    if let v {
      let (norms, yNorm) = (gram.norms.pointer, gram.targetNorms[t])
      for j in 0..<rows where v[j] != 0 && norms[j] > 0 {
        w[j] = v[j] * (yNorm / norms[j])
        nonzeros += 1
      }
    }
    reports[column] = report(end, gram, target: t, nonzeros: nonzeros, sensitivity: sensitivity, watch)
  }

  /// The same for a problem with bounds, which coefficients then keep to the last bit.
  func set(_ column: Int, _ problem: Quadratic, _ v: UnsafePointer<Double>, _ end: Ending, _ watch: Watch) {
    let w = coef.pointer + column * rows
    let gram = problem.gram
    var nonzeros = 0
    let isBounded = !problem.bounds.isEmpty
    for j in 0..<rows where isBounded || v[j] != 0 {
      w[j] = gram.norms[j] > 0 ? v[j] * (problem.unit / gram.norms[j]) : 0
      if v[j] == problem.lower[j] { w[j] = problem.bounds.lower(j) }
      if v[j] == problem.upper[j] { w[j] = problem.bounds.upper(j) }
      if gram.norms[j] == 0 { w[j] = problem.bounds.nearestToZero(j) }
      w[j] = min(max(w[j], problem.bounds.lower(j)), problem.bounds.upper(j))
      if w[j] != 0 { nonzeros += 1 }
    }
    reports[column] = report(end, gram, target: problem.target, unit: problem.unit, nonzeros: nonzeros, watch)
  }

  /// Takes over those of the caller's coefficients that the solver has left where they were.
  func keep(_ column: Int, _ problem: Quadratic, _ v: UnsafePointer<Double>, _ start: UnsafePointer<Double>) {
    for j in 0..<rows where v[j] != 0 && v[j] == scaled(start[j], problem, j) { coef[column * rows + j] = start[j] }
  }

  /// Coefficients that are not of the form v ‖y‖ / d.
  func set(_ column: Int, _ j: Int, _ value: Double) { coef[column * rows + j] = value }

  func set(_ column: Int, report: unmerge_report) { reports[column] = report }

  /// In the caller's units.
  func coefficients(_ column: Int) -> UnsafePointer<Double> { UnsafePointer(coef.pointer + column * rows) }

  func reported(_ column: Int) -> unmerge_report { reports[column] }

  func deliver(_ output: Output, _ results: UnsafeMutablePointer<unmerge_report>?) {
    for t in 0..<columns {
      output.set(column: t, coefficients(t))
      store(reports[t], results, index: t)
    }
  }
}

/// Runs `body` for every target, over the threads of the run. What a target's answer is does not depend on the others. A
/// Gram on demand is left to one thread: its columns come in passes that are worth sharing.
func eachTarget(
  _ gram: Gram, _ watch: Watch, _ body: @escaping @Sendable (Int) throws(UnmergeError) -> Void
) throws(UnmergeError) {
  try eachTask(gram.targets, gram.isComplete ? watch.threads : 1, body)
}

/// Runs `body` for tasks 0 ..< count over so many threads; the error is that of the first task that failed.
func eachTask(
  _ count: Int, _ threads: Int, _ body: @escaping @Sendable (Int) throws(UnmergeError) -> Void
) throws(UnmergeError) {
  let workers = min(count, threads)
  let failures = TargetFailures()
  Threads.withSingleThreadedBLAS {
    Threads.perform(workers) { worker in
      for t in stride(from: worker, to: count, by: workers) {
        do throws(UnmergeError) {
          try body(t)
        } catch {
          failures.add(t, error)
          return
        }
      }
    }
  }
  if let failure = failures.first { throw failure }
}

/// The error of the first target that has one.
private final class TargetFailures: @unchecked Sendable {
  private var failure: (target: Int, error: UnmergeError)?
  private let lock = Lock()
  func add(_ t: Int, _ e: UnmergeError) {
    lock.locked { if failure.map({ t < $0.target }) ?? true { failure = (t, e) } }
  }
  var first: UnmergeError? { lock.locked { failure?.error } }
}

/// The caller's weights, or nil for ones.
func copyWeights(
  _ pointer: UnsafePointer<Double>?, _ count: Int, _ name: String = "options->weights"
) throws(UnmergeError) -> Buffer<Double>? {
  guard let pointer = try weights(pointer, count, name) else { return nil }
  let copy = try allocate(count, of: Double.self)
  for j in 0..<count { copy[j] = UnsafeRawPointer(pointer + j).loadUnaligned(as: Double.self) }
  return copy
}

/// The coefficients a warm start begins from; n×T, in the caller's units.
func readWarmStart(_ coef: Output, _ gram: Gram) throws(UnmergeError) -> Buffer<Double> {
  let n = gram.atoms
  let start = try allocate(product(n, gram.targets, "coef"), of: Double.self)
  for t in 0..<gram.targets {
    for j in 0..<n {
      let w = coef.get(j, t)
      guard w.isFinite else {
        throw UnmergeError(UNMERGE_E_NONFINITE, "coef[\(j), \(t)] is \(w); a warm start must be finite")
      }
      start[t * n + j] = w
    }
  }
  return start
}

/// v_j = w_j d_j / ‖y‖; a start too large to square is no start.
func scaleWarmStart(_ w: UnsafePointer<Double>, _ problem: Quadratic, _ v: UnsafeMutablePointer<Double>) {
  for j in 0..<problem.n { v[j] = scaled(w[j], problem, j) }
}

private func scaled(_ w: Double, _ problem: Quadratic, _ j: Int) -> Double {
  let x = w * (problem.gram.norms[j] / problem.unit)
  return abs(x) < 1e100 ? x : 0
}

/// The answer for y = 0.
func emptyEnding(df: Double = .nan) -> Ending {
  var end = Ending(df: df)
  end.certificate.gap = 0
  end.certificate.relativeGap = 0
  return end
}
