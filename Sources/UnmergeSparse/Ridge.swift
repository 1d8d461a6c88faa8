import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Ridge and least squares
//
//     minimise  ½‖Aw − y‖² + α/2 Σ π_j w_j²
//
// solve (Ĝ + μ) v = ĉ once for all targets. Where H = Ĝ + μ is numerically singular, atoms are taken in their order and one
// that depends on those before it (a pivot that the errors of the Gram can account for) gets 0: the fit is the same, the coefficients are one choice of many.
//
// One step of refinement takes the residual r = ĉ − Hv to the rounding of its own evaluation. Certificate: violation max
// |r_j|, gap ½ rᵀH⁻¹r exactly; for a singular H no bound.

struct LeastSquares: @unchecked Sendable {
  private enum Factor {
    case dense(DenseCholesky)
    /// Of the atoms in its `order`; whether others were refused.
    case partial(Cholesky, refused: Bool)
  }

  private let gram: Gram
  private let alpha: Double
  private let weights: Buffer<Double>?
  private let factor: Factor
  /// Columns of Ĝ, for a Gram on demand.
  private let gathered: Buffer<Double>?
  /// tr Ĝ (Ĝ + μ)⁻¹, over the atoms that are neither excluded nor refused.
  let df: Double

  /// The df costs as much again as the factor; NaN where nobody asks for it.
  init(
    _ gram: Gram, alpha: Double, weights: Buffer<Double>?, _ watch: Watch, findsDF: Bool = true
  ) throws(UnmergeError) {
    self.gram = gram
    self.alpha = alpha
    self.weights = weights
    let n = gram.atoms
    let problem = try Quadratic(gram, target: 0, alpha: alpha, l1Ratio: 0, weights: weights)
    let shift = try allocate(n, of: Double.self)
    var gathered: Buffer<Double>?
    if !gram.isComplete {
      try gram.require(Array(0..<n), watch)
      let all = try allocate(product(n, n, "the Gram"), of: Double.self)
      for j in 0..<n { (all.pointer + j * n).update(from: gram.column(j), count: n) }
      gathered = all
    }
    self.gathered = gathered
    // Excluded atoms stand alone: their column is zero, or its diagonal is made to drown it.
    for j in 0..<n { shift[j] = Self.excludes(gram, alpha, weights, j) ? 1e200 : problem.mu[j] }
    var dense: DenseCholesky?
    // Ĝ is nearly singular and μ is too small to help: pivots would be noise.
    if alpha > 0 || !(gram.condition > 1e11) {
      let matrix = gathered.map { UnsafePointer($0.pointer) } ?? (n > 0 ? gram.column(0) : UnsafePointer(shift.pointer))
      dense = try allocating { () throws(OutOfMemory) in
        try DenseCholesky(n, matrix, addingToDiagonal: shift.pointer)
      }
    }
    if let dense, gram.condition <= 1e11 || dense.condition <= 1e11 {
      factor = .dense(dense)
      var taken = 0
      for j in 0..<n where shift[j] != 1e200 { taken += 1 }
      // Excluded atoms have no μ and so no part in the sum.
      let shrunk =
        alpha == 0 || !findsDF
        ? 0 : try allocating { () throws(OutOfMemory) in try dense.weightedTraceOfInverse(problem.mu) }
      df = findsDF ? max(0, Double(taken) - shrunk) : .nan
      return
    }
    let partial = try allocating { () throws(OutOfMemory) in
      try Cholesky(capacity: n, entryError: gram.precision.entryError)
    }
    var refused = false
    for j in 0..<n where !Self.excludes(gram, alpha, weights, j) {
      if !partial.append(j, column: gram.column(j), diagonal: 1 + problem.mu[j]) { refused = true }
      if j & 63 == 63, let stop = watch.poll() { throw stop.error }
    }
    factor = .partial(partial, refused: refused)
    for (i, j) in partial.order.enumerated() { shift[i] = problem.mu[j] }
    let shrunk =
      alpha == 0 || !findsDF
      ? 0 : try allocating { () throws(OutOfMemory) in try partial.weightedTraceOfInverse(shift.pointer) }
    df = findsDF ? max(0, Double(partial.count) - shrunk) : .nan
  }

  /// Zero atoms, and those whose penalty overflows.
  private static func excludes(_ gram: Gram, _ alpha: Double, _ weights: Buffer<Double>?, _ j: Int) -> Bool {
    let d = gram.norms[j]
    return d == 0 || !(alpha / d * (weights?[j] ?? 1) / d).isFinite
  }

  var sensitivity: Double {
    if case .dense(let dense) = factor { return dense.inverseNorm }
    return gram.sensitivity
  }

  /// x ← H⁻¹ x, 0 on refused atoms.
  private func solve(_ x: UnsafeMutablePointer<Double>, _ scratch: Buffer<Double>) {
    switch factor {
    case .dense(let dense):
      dense.solve(x)
    case .partial(let partial, _):
      let order = partial.order
      for (i, j) in order.enumerated() { scratch[i] = x[j] }
      partial.solve(scratch.pointer)
      x.update(repeating: 0, count: gram.atoms)
      for (i, j) in order.enumerated() { x[j] = scratch[i] }
    }
  }

  /// Answers target t into a column of `answers`, t unless said otherwise.
  func answer(_ t: Int, _ answers: Answers, column: Int? = nil, _ watch: Watch) throws(UnmergeError) {
    let column = column ?? t
    guard gram.targetNorms[t] > 0 else { return answers.set(column, gram, target: t, nil, emptyEnding(df: df), watch) }
    let n = gram.atoms
    let problem = try Quadratic(gram, target: t, alpha: alpha, l1Ratio: 0, weights: weights)
    let v = try allocate(n, of: Double.self)
    let r = try allocate(n, of: Double.self)
    let step = try allocate(n, of: Double.self)
    let scratch = try allocate(n, of: Double.self)
    // From 0 to the solution, then from there to its refinement; the residual of the last is the certificate.
    for _ in 0..<2 {
      residual(problem, v, r)
      step.pointer.update(from: r.pointer, count: n)
      solve(step.pointer, scratch)
      for j in 0..<n where problem.lambda[j] == 0 { v[j] += step[j] }
    }
    residual(problem, v, r)
    var end = Ending(iterations: 1, certificate: problem.certify(v.pointer, r.pointer), df: df)
    var isSatisfied: Bool
    if case .partial(_, refused: true) = factor {
      end.flags |= UNMERGE_FLAG_RANK_DEFICIENT
      isSatisfied = end.certificate.violation <= max(watch.tol, 2 * gram.precision.entryError)
    } else {
      step.pointer.update(from: r.pointer, count: n)
      solve(step.pointer, scratch)
      problem.set(gap: max(0, 0.5 * Vector.dot(n, r.pointer, step.pointer)), &end.certificate)
      isSatisfied = end.certificate.relativeGap <= watch.tol
    }
    if end.certificate.isExplained(gram) {
      end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED
      isSatisfied = isSatisfied || end.certificate.violation <= watch.tol
    }
    if !isSatisfied { end.outcome = UNMERGE_STALLED }
    answers.set(column, gram, target: t, v.pointer, end, sensitivity: sensitivity, watch)
    watch.report(
      phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: t + 1, total: gram.targets,
      objective: end.certificate.objective, relativeGap: end.certificate.relativeGap)
  }

  /// r ← ĉ − Hv, 0 on excluded atoms.
  private func residual(_ problem: Quadratic, _ v: Buffer<Double>, _ r: Buffer<Double>) {
    problem.gradient(v.pointer, r.pointer)
    for j in 0..<gram.atoms where problem.lambda[j] > 0 { r[j] = 0 }
  }
}

extension unmerge_ridge_options: Growable {
  package static var defaults: unmerge_ridge_options {
    var o = unmerge_ridge_options()
    o.struct_size = MemoryLayout<unmerge_ridge_options>.size
    o.alpha = 1
    return o
  }
}

@_cdecl("unmerge_ridge_options_init") @implementation
public func unmerge_ridge_options_init(
  _ options: UnsafeMutablePointer<unmerge_ridge_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_ridge") @implementation
public func unmerge_ridge(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_ridge_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    let weights = try copyWeights(o.weights, gram.atoms)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    try leastSquares(gram, alpha: o.alpha, weights: weights, watch).deliver(output, reports)
  }
}

func leastSquares(
  _ gram: Gram, alpha: Double, weights: Buffer<Double>?, _ watch: Watch
) throws(UnmergeError) -> Answers {
  let answers = try Answers(gram.atoms, gram.targets)
  let solver = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
    try LeastSquares(gram, alpha: alpha, weights: weights, watch)
  }
  try eachTarget(gram, watch) { t throws(UnmergeError) in try solver.answer(t, answers, watch) }
  return answers
}
