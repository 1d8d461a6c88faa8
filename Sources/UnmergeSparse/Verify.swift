import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Certificates recomputed from the data, and coefficients refined with a residual that was.
//
//     r = y − A w,  g = Aᵀ r                      one streamed pass in double, entry by entry
//     G_SS δ = (g − penalty gradient)_S           the Gram is good enough for a correction
//
// The Gram squares the condition number and loses the residual near a perfect fit; the streamed residual does neither, so one
// step of this kind wins about four digits up to condition 1e6 of A (iterative refinement, Björck 1996, §2.9).

extension unmerge_problem: Growable {
  package static var defaults: unmerge_problem {
    var p = unmerge_problem()
    p.struct_size = MemoryLayout<unmerge_problem>.size
    p.l1_ratio = 1
    return p
  }
}

/// What the coefficients are said to solve, checked.
private struct Claim {
  let alpha: Double
  let l1Ratio: Double
  let weights: Buffer<Double>?
  let bounds: Bounds
  let supportOnly: Bool
  let mask: Mask?
  /// Group penalties stand in for all of the above but the mask.
  let groups: GroupLasso?

  init(_ pointer: UnsafePointer<unmerge_problem>?, atoms: Int) throws(UnmergeError) {
    let p = try read(pointer, "problem")
    try check(p.alpha, "problem->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try check(p.l1_ratio, "problem->l1_ratio", 0...1, "in [0, 1]")
    try checkFlag(p.positive, "problem->positive")
    try checkFlag(p.support_only, "problem->support_only")
    alpha = p.alpha
    l1Ratio = p.l1_ratio
    weights = try copyWeights(p.weights, atoms, "problem->weights")
    bounds = try Bounds(p.lower, p.upper, positive: p.positive == 1, count: atoms, "problem")
    supportOnly = p.support_only == 1
    mask = p.mask == nil ? nil : try object(p.mask, "problem->mask", Mask.self)
    guard p.groups != nil else {
      groups = nil
      return
    }
    guard p.alpha == 0, p.l1_ratio == 1, p.weights == nil, p.positive == 0, p.support_only == 0, bounds.isEmpty else {
      throw .range(
        "problem->groups is given; alpha, l1_ratio, weights, positive, support_only and bounds must be left as they are")
    }
    let o = try read(p.groups, "problem->groups")
    let lasso = try groupLasso(o, columns: atoms, period: atoms)
    guard !lasso.isRelative, !lasso.isPrediction else {
      throw .range(
        "problem->groups asks for \(lasso.isRelative ? "relative" : "group_norm") = 1, which the data alone do not have")
    }
    let seen = try allocate(atoms, of: Bool.self)
    for k in 0..<lasso.groups.members.count {
      let j = lasso.groups.members[k]
      guard !seen[j] else {
        throw .range("problem->groups has \(j) in several groups; coefficients do not say how they are split between them")
      }
      seen[j] = true
    }
    groups = lasso
  }
}

/// coef as n×T doubles, column-major, finite.
private func coefficients(_ coef: Output, _ n: Int, _ targets: Int) throws(UnmergeError) -> Buffer<Double> {
  let w: Buffer<Double> = try allocate(n * targets)
  for t in 0..<targets {
    for j in 0..<n {
      w[t * n + j] = coef.get(j, t)
      guard w[t * n + j].isFinite else {
        throw UnmergeError(UNMERGE_E_NONFINITE, "coef holds \(w[t * n + j]) at (\(j), \(t)); all values must be finite")
      }
    }
  }
  return w
}

/// One target of a streamed residual, in the units of `Quadratic`.
private struct Streamed {
  let problem: Quadratic
  let v: Buffer<Double>
  let g: Buffer<Double>
  var rss: Double

  /// `summary` has the norms of the residual's own pass; its columns are never asked for.
  init(_ residual: Residual, _ summary: Gram, _ t: Int, _ w: Buffer<Double>, _ claim: Claim) throws(UnmergeError) {
    let n = residual.atoms
    problem = try Quadratic(
      summary, target: t, alpha: claim.alpha, l1Ratio: claim.l1Ratio, weights: claim.weights, bounds: claim.bounds)
    v = try allocate(n)
    g = try allocate(n)
    let unit = problem.unit
    let isEmpty = summary.targetNorms[t] == 0 && claim.bounds.holdsZero(n)
    rss = isEmpty ? 0 : residual.rss[t] / unit / unit
    for j in 0..<n where summary.norms[j] > 0 && !isEmpty {
      let d = summary.norms[j]
      v[j] = w[t * n + j] / unit * d
      // At a bound in the caller's units is at a bound.
      if w[t * n + j] == claim.bounds.lower(j) { v[j] = problem.lower[j] }
      if w[t * n + j] == claim.bounds.upper(j) { v[j] = problem.upper[j] }
      g[j] = residual.correlation[t * n + j] / d / unit - problem.mu[j] * v[j]
      if claim.supportOnly, v[j] == 0 { problem.lambda[j] = .infinity }
    }
  }

  func report(_ summary: Gram, _ t: Int, _ watch: Watch) -> unmerge_report {
    let certificate = problem.certify(v.pointer, g.pointer, rss: rss)
    var end = Ending()
    end.certificate = certificate
    if rss <= 4 * roundoff * roundoff * Double(max(summary.entries, 1)) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    var nonzeros = 0
    for j in 0..<problem.n where v[j] != 0 { nonzeros += 1 }
    let reached =
      certificate.gap.isNaN ? certificate.violation <= max(watch.tol, 1e-8) : certificate.relativeGap <= watch.tol
    end.outcome = reached ? UNMERGE_CONVERGED : UNMERGE_STALLED
    var r = UnmergeSparse.report(end, summary, target: t, unit: problem.unit, nonzeros: nonzeros, watch)
    r.streamed = 1
    return r
  }

  /// One Newton step on the support (or all atoms, when neither sign nor l1 holds them), residual and gradient carried along.
  mutating func refine(_ gram: Gram, all: Bool, _ watch: Watch) throws(UnmergeError) {
    let n = problem.n
    let support = (0..<n).filter { problem.lambda[$0] < .infinity && (all || problem.isFree($0, v[$0])) }
    try gram.require(support, watch)
    let factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: support.count) }
    for j in support { _ = factor.append(j, column: gram.column(j), diagonal: 1 + problem.mu[j]) }
    let step: Buffer<Double> = try allocate(support.count)
    for (i, j) in factor.order.enumerated() {
      // Gradient of the smooth part less the sign's penalty; 0 for a coefficient a bound holds at 0.
      step[i] = problem.descent(j, v[j], g[j])
    }
    factor.solve(step.pointer)
    var change = 0.0
    for (i, j) in factor.order.enumerated() {
      let next = v[j] + step[i]
      let isSigned = problem.lambda[j] > 0
      guard !isSigned || next * v[j] > 0 || (v[j] == 0 && next == 0),
        (next > problem.lower[j] && next < problem.upper[j]) || next == v[j]
      else { continue }
      // ‖r − Aδ‖² for one coordinate at a time: δ is small, so nothing cancels.
      let delta = step[i]
      change += delta * (delta - 2 * (g[j] + problem.mu[j] * v[j]))
      Vector.axpy(n, -delta, gram.column(j), g.pointer)
      g[j] -= problem.mu[j] * delta
      v[j] = next
    }
    rss = max(0, rss + change)
  }
}

/// The report of one target whose penalties are of groups; `summary` as in `Streamed`.
private func report(
  _ lasso: GroupLasso, _ residual: Residual, _ summary: Gram, _ t: Int, _ w: Buffer<Double>, _ watch: Watch
) throws(UnmergeError) -> unmerge_report {
  let (n, unit) = (residual.atoms, summary.targetNorms[t])
  var end = Ending()
  var nonzeros = 0
  for j in 0..<n where w[t * n + j] != 0 && summary.norms[j] > 0 { nonzeros += 1 }
  if unit > 0 {
    let space = try lasso.space(DenseForm(gram: summary), norms: lasso.alpha > 0)
    let solver = try GroupSolver(space, target: t)
    solver.penalise(lasso.alpha)
    for j in 0..<n where summary.norms[j] > 0 { solver.g[j] = residual.correlation[t * n + j] / summary.norms[j] / unit }
    var isAdmissible = true
    for b in 0..<space.groups {
      for i in space.start[b]..<space.start[b + 1] {
        let value = w[t * n + space.column[i]]
        solver.u[i] = value / unit * space.scale[b]
        if lasso.positive, value < 0 { isAdmissible = false }
      }
    }
    let rss = residual.rss[t] / unit / unit
    end.certificate = solver.certify(rss: rss)
    if !isAdmissible { (end.certificate.gap, end.certificate.relativeGap) = (.infinity, .infinity) }
    if rss <= 4 * roundoff * roundoff * Double(max(summary.entries, 1)) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
  } else if nonzeros == 0 {
    end = emptyEnding()
  } else {
    end.certificate = .unknown
  }
  let c = end.certificate
  let reached = c.gap.isNaN ? c.violation <= max(watch.tol, 1e-8) : c.relativeGap <= watch.tol
  end.outcome = reached ? UNMERGE_CONVERGED : UNMERGE_STALLED
  var r = report(end, summary, target: t, nonzeros: nonzeros, watch)
  r.streamed = 1
  return r
}

/// The norms and targets of a residual pass as a Gram without columns, and with Aᵀr for its correlations where r = y.
func summary(
  _ r: Residual, _ a: Columns, _ y: Columns, entries: Int, correlations: Buffer<Double>? = nil
) throws(UnmergeError) -> Gram {
  let norms: Buffer<Double> = try allocate(r.atoms)
  for j in 0..<r.atoms { norms[j] = r.squares[j].squareRoot() }
  for j in 0..<r.atoms where !norms[j].isFinite {
    throw nonfinite(a, j, "atom") ?? UnmergeError(UNMERGE_E_NONFINITE, "the squared norm of atom \(j) overflows in double")
  }
  for t in 0..<r.targets where !r.yy[t].isFinite || !r.rss[t].isFinite {
    throw nonfinite(y, t, "target") ?? UnmergeError(UNMERGE_E_NONFINITE, "the residual of target \(t) overflows in double")
  }
  let c = if let correlations { correlations } else { try allocate(r.atoms * r.targets, of: Double.self) }
  return try Gram(
    atoms: r.atoms, targets: r.targets, entries: entries, blocks: [], norms: norms,
    c: c,
    yy: r.yy, precision: .exact, passes: 1, complete: nil, source: nil)
}

// MARK: the door

@_cdecl("unmerge_problem_init") @implementation
public func unmerge_problem_init(_ problem: UnsafeMutablePointer<unmerge_problem>?, _ size: Int) -> unmerge_status {
  initialize(problem, size)
}

@_cdecl("unmerge_verify") @implementation
public func unmerge_verify(
  _ a: OpaquePointer?, _ y: OpaquePointer?, _ problem: UnsafePointer<unmerge_problem>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ residual_correlation: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let atoms = try object(a, "a", Operator.self).snapshot
    let targets = try object(y, "y", Operator.self).snapshot
    let claim = try Claim(problem, atoms: atoms.count)
    let watch = try Watch(run)
    let input = try Output(coef, "coef", rows: atoms.count, columns: targets.count)
    let out = try optionalOutput(residual_correlation, "residual_correlation", rows: atoms.count, columns: targets.count)
    try checkResult(reports, "reports", count: targets.count)
    let w = try coefficients(input, atoms.count, targets.count)
    let residual = try residualPass(atoms, targets, mask: claim.mask, w.pointer, watch)
    let summary = try summary(residual, atoms, targets, entries: claim.mask?.total ?? atoms.entries)
    var results: [unmerge_report] = []
    for t in 0..<targets.count {
      if let groups = claim.groups {
        results.append(try report(groups, residual, summary, t, w, watch))
      } else {
        results.append(try Streamed(residual, summary, t, w, claim).report(summary, t, watch))
      }
    }
    for (t, r) in results.enumerated() {
      store(r, reports, index: t)
      if let out { for j in 0..<atoms.count { out.set(j, t, residual.correlation[t * atoms.count + j]) } }
    }
  }
}

@_cdecl("unmerge_refine") @implementation
public func unmerge_refine(
  _ gram: OpaquePointer?, _ a: OpaquePointer?, _ y: OpaquePointer?, _ problem: UnsafePointer<unmerge_problem>?,
  _ run: UnsafePointer<unmerge_run>?, _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    let atoms = try object(a, "a", Operator.self).snapshot
    let targets = try object(y, "y", Operator.self).snapshot
    let n = atoms.count
    guard g.atoms == n, g.targets == targets.count else {
      throw .shape("gram is over \(g.atoms) atoms and \(g.targets) targets, but a and y have \(n) and \(targets.count)")
    }
    let claim = try Claim(problem, atoms: n)
    guard claim.groups == nil else { throw .range("problem->groups is given; unmerge_refine knows no groups") }
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: n, columns: targets.count)
    try checkResult(reports, "reports", count: targets.count)
    let w = try coefficients(output, n, targets.count)
    let residual = try residualPass(atoms, targets, mask: claim.mask, w.pointer, watch)
    let summary = try summary(residual, atoms, targets, entries: claim.mask?.total ?? atoms.entries)
    let all = claim.bounds.isEmpty && !claim.supportOnly && (claim.alpha == 0 || claim.l1Ratio == 0)
    var results: [unmerge_report] = []
    for t in 0..<targets.count {
      var streamed = try Streamed(residual, summary, t, w, claim)
      try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in try streamed.refine(g, all: all, watch) }
      let (problem, v) = (streamed.problem, streamed.v)
      for j in 0..<n where summary.norms[j] > 0 {
        let (low, high) = (claim.bounds.lower(j), claim.bounds.upper(j))
        let refined = v[j] / summary.norms[j] * problem.unit
        w[t * n + j] = v[j] == problem.lower[j] ? low : v[j] == problem.upper[j] ? high : min(max(refined, low), high)
      }
      results.append(streamed.report(summary, t, watch))
    }
    for (t, r) in results.enumerated() {
      store(r, reports, index: t)
      for j in 0..<n { output.set(j, t, w[t * n + j]) }
    }
  }
}
