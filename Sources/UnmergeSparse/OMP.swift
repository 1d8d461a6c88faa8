import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Orthogonal matching pursuit: greedily
//
//     minimise ‖Aw − y‖²  subject to at most k non-zeros
//
// by taking the atom with the largest |u_j|, u = ĉ − Ĝv being the correlations with the residual of the best fit so far.
// With Ĝ_SS = LLᵀ and W = L⁻¹Ĝ_S,: (one row per selected atom) a step costs one row and no solve:
//
//     W_t = (Ĝ_j − Σ_i W_ij W_i) / √h_j,   z_t = u_j / √h_j,   u −= z_t W_t,   h −= W_t²,   ‖r‖² −= z_t²
//
// where h_j = 1 − Σ_i W_ij² is what of atom j is outside the span. h_j ≤ 1e-12: dependent, passed over. At the end
// LLᵀ v_S = ĉ_S, refined once. The certificate is that of least squares on S: |u_j| = 0 for j in S. There is no bound on the
// distance to the best k atoms.
//
// The positive variant takes the largest u_j > 0 and refits by NNLS on the selection.
//
// It stops before k when no correlation is above the entry error of the Gram, or the residual of an exact one is rounding.
// (That of a fast one is not asked: its ‖r‖² is worth 2e-8, a correlation of 1e-4, where correlations are worth 4e-8.)
//
// References: Pati, Rezaiifar & Krishnaprasad 1993; Rubinstein, Zibulevsky & Elad 2008; Bruckstein, Elad & Zibulevsky 2008.

struct Pursuit: Sendable {
  let k: Int
  let residualTol: Double
  let positive: Bool

  func answer(_ gram: Gram, _ answers: Answers, _ order: Buffer<Int64>, _ watch: Watch) throws(UnmergeError) {
    let width = gram.targets
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      var selection = Selection()
      if gram.targetNorms[t] == 0 {
        answers.set(t, gram, target: t, nil, emptyEnding(), watch)
      } else if positive {
        try selectPositive(gram, t, &selection, answers, watch)
      } else {
        try select(gram, t, &selection, answers, watch)
      }
      for i in 0..<min(k, gram.atoms) {
        order[i * width + t] = i < selection.atoms.count ? Int64(selection.atoms[i]) : -1
      }
    }
  }

  private struct Selection {
    var atoms: [Int] = []
    var outcome = UNMERGE_CONVERGED
    /// No atom is left that would improve the fit.
    var isExhausted = false
  }

  /// The unselected atom with the largest score above `floor`; a later one must beat an earlier by more than rounding.
  private func best(
    _ u: UnsafePointer<Double>, _ n: Int, above floor: Double, where isFree: (Int) -> Bool
  ) -> Int? {
    var best: Int?
    var score = floor
    for j in 0..<n {
      let s = positive ? u[j] : abs(u[j])
      if s > score, best == nil || s > score * (1 + 1e-14), isFree(j) {
        best = j
        score = s
      }
    }
    return best
  }

  /// Makes column j of Ĝ known; on demand the most promising others come along.
  private func fetch(
    _ gram: Gram, _ j: Int, _ u: UnsafePointer<Double>, selected: Int, _ watch: Watch, where isFree: (Int) -> Bool
  ) throws(UnmergeError) -> Stop? {
    if let stop = watch.poll() { return stop }
    if gram.has(j) { return nil }
    let batch = try allocate(gram.atoms, of: Int.self)
    var count = 0
    for i in 0..<gram.atoms where isFree(i) && (positive ? u[i] : abs(u[i])) > 0 {
      batch[count] = i
      count += 1
    }
    var list = UnsafeMutableBufferPointer(start: batch.pointer, count: count)
    list.sort { abs(u[$0]) != abs(u[$1]) ? abs(u[$0]) > abs(u[$1]) : $0 < $1 }
    return try require(gram, UnsafeBufferPointer(start: batch.pointer, count: min(count, max(16, 2 * selected))), watch)
  }

  // MARK: least squares on the selection

  private func select(
    _ gram: Gram, _ t: Int, _ selection: inout Selection, _ answers: Answers, _ watch: Watch
  ) throws(UnmergeError) {
    let n = gram.atoms
    let c = gram.correlation(t)
    let u = try allocate(n, of: Double.self)
    u.pointer.update(from: c, count: n)
    // What of each atom is outside the span; 0 once selected, so that it is not free.
    let h = try allocate(n, of: Double.self)
    for j in 0..<n where gram.norms[j] > 0 { h[j] = 1 }
    var rows: [Buffer<Double>] = []
    var rss = 1.0
    while rows.count < k {
      if rss.squareRoot() <= residualTol || (gram.precision == .exact && rss <= floor(gram)) { break }
      guard let j = best(u.pointer, n, above: 2 * gram.precision.entryError, where: { h[$0] > 1e-12 }) else {
        selection.isExhausted = true
        break
      }
      if rows.count >= watch.maxIterations {
        selection.outcome = UNMERGE_ITERATION_LIMIT
        break
      }
      if let stop = try fetch(gram, j, u.pointer, selected: rows.count, watch, where: { h[$0] > 1e-12 }) {
        selection.outcome = stop.outcome
        break
      }
      let row = try allocate(n, of: Double.self)
      let w = row.pointer
      w.update(from: gram.column(j), count: n)
      for earlier in rows { Vector.axpy(n, -earlier[j], earlier.pointer, w) }
      let root = h[j].squareRoot()
      let size = u[j] / root
      let (h, u) = (h.pointer, u.pointer)
      for i in 0..<n {
        w[i] /= root
        h[i] -= w[i] * w[i]
        u[i] -= size * w[i]
      }
      w[j] = root
      h[j] = 0
      rss = max(0, rss - size * size)
      rows.append(row)
      selection.atoms.append(j)
      report(gram, t, rss, watch)
    }
    let problem = try selectable(gram, t)
    for j in selection.atoms { problem.lambda[j] = 0 }
    let v = try allocate(n, of: Double.self)
    let x = try allocate(rows.count, of: Double.self)
    for _ in 0..<2 {
      problem.gradient(v.pointer, u.pointer)
      for (i, j) in selection.atoms.enumerated() {
        var sum = u[j]
        for l in 0..<i { sum -= rows[l][j] * x[l] }
        x[i] = sum / rows[i][j]
      }
      for i in stride(from: rows.count - 1, through: 0, by: -1) {
        var sum = x[i]
        for l in (i + 1)..<rows.count { sum -= rows[i][selection.atoms[l]] * x[l] }
        x[i] = sum / rows[i][selection.atoms[i]]
        v[selection.atoms[i]] += x[i]
      }
    }
    problem.gradient(v.pointer, u.pointer)
    finish(selection, problem, v.pointer, u.pointer, answers, watch)
  }

  // MARK: non-negative least squares on the selection

  private func selectPositive(
    _ gram: Gram, _ t: Int, _ selection: inout Selection, _ answers: Answers, _ watch: Watch
  ) throws(UnmergeError) {
    let n = gram.atoms
    let problem = try selectable(gram, t)
    let solver = try ActiveSet(problem)
    let isFree = try allocate(n, of: Bool.self)
    for j in 0..<n { isFree[j] = gram.norms[j] > 0 }
    var passedOver: [Int] = []
    var certificate = problem.certify(solver.v, solver.g)
    while selection.atoms.count < k {
      let rss = certificate.rss
      if rss.squareRoot() <= residualTol || (gram.precision == .exact && rss <= floor(gram)) { break }
      guard let j = best(solver.g, n, above: 2 * gram.precision.entryError, where: { isFree[$0] }) else {
        selection.isExhausted = true
        break
      }
      if selection.atoms.count >= watch.maxIterations {
        selection.outcome = UNMERGE_ITERATION_LIMIT
        break
      }
      if let stop = try fetch(gram, j, solver.g, selected: selection.atoms.count, watch, where: { isFree[$0] }) {
        selection.outcome = stop.outcome
        break
      }
      isFree[j] = false
      if try solver.isDependent(j) {
        passedOver.append(j)
        continue
      }
      selection.atoms.append(j)
      for i in passedOver { isFree[i] = true }
      passedOver = []
      problem.lambda[j] = 0
      solver.v[j] = solver.g[j]
      let end = try solver.run(watch, tol: min(watch.tol, 1e-10), maxIterations: .max)
      certificate = end.certificate
      if let stop = watch.poll() {
        selection.outcome = stop.outcome
        break
      }
      report(gram, t, certificate.rss, watch)
    }
    finish(selection, problem, solver.v, solver.g, answers, watch)
  }

  /// Least squares, or NNLS, over no atom yet: λ = ∞ excludes all until they are selected.
  private func selectable(_ gram: Gram, _ t: Int) throws(UnmergeError) -> Quadratic {
    let problem = try Quadratic(gram, target: t, alpha: 0, l1Ratio: 1, weights: nil, bounds: positive ? .positive : .none)
    problem.lambda.update(repeating: .infinity, count: gram.atoms)
    return problem
  }

  private func report(_ gram: Gram, _ t: Int, _ rss: Double, _ watch: Watch) {
    watch.report(
      phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: t, total: gram.targets, objective: 0.5 * rss)
  }

  private func finish(
    _ selection: Selection, _ problem: Quadratic, _ v: UnsafePointer<Double>, _ u: UnsafePointer<Double>,
    _ answers: Answers, _ watch: Watch
  ) {
    let gram = problem.gram
    var end = Ending(outcome: selection.outcome, iterations: selection.atoms.count)
    end.certificate = problem.certify(v, u)
    end.certificate.gap = .nan
    end.certificate.relativeGap = .nan
    if end.outcome == UNMERGE_CONVERGED, end.certificate.violation > watch.tol { end.outcome = UNMERGE_STALLED }
    let usable = (0..<gram.atoms).reduce(0) { $0 + (gram.norms[$1] > 0 ? 1 : 0) }
    if end.certificate.isExplained(gram) {
      end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED
    } else if selection.isExhausted {
      end.flags |= UNMERGE_FLAG_CLIPPED
    }
    if k > usable { end.flags |= UNMERGE_FLAG_CLIPPED }
    answers.set(problem.target, gram, target: problem.target, v, end, watch)
  }
}

extension unmerge_omp_options: Growable {
  package static var defaults: unmerge_omp_options {
    var o = unmerge_omp_options()
    o.struct_size = MemoryLayout<unmerge_omp_options>.size
    o.k = 10
    return o
  }
}

@_cdecl("unmerge_omp_options_init") @implementation
public func unmerge_omp_options_init(_ options: UnsafeMutablePointer<unmerge_omp_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_omp") @implementation
public func unmerge_omp(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_omp_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ order: UnsafeMutablePointer<Int64>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.k, "options->k", 1...Int64.max, ">= 1")
    try check(o.residual_tol, "options->residual_tol", 0...1, "in [0, 1]")
    try checkFlag(o.positive, "options->positive")
    try checkReserved(o.reserved, "options->reserved")
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    // `order` has k rows, however many atoms there are; what is beyond them is -1.
    let rows = min(Int(o.k), gram.atoms)
    let cells = order == nil ? 0 : try product(Int(o.k), gram.targets, "order")
    let selected = try allocate(product(rows, gram.targets, "order"), of: Int64.self)
    let answers = try Answers(gram.atoms, gram.targets)
    try Pursuit(k: Int(o.k), residualTol: o.residual_tol, positive: o.positive == 1).answer(gram, answers, selected, watch)
    answers.deliver(output, reports)
    guard let order else { return }
    let known = rows * gram.targets
    order.update(from: selected.pointer, count: known)
    if cells > known { (order + known).update(repeating: -1, count: cells - known) }
  }
}
