import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Mixtures
//
//     minimise ½‖Aw − y‖²  subject to  Σ w_j = s,  ℓ ≤ w ≤ u        (the simplex: ℓ = 0, s = 1)
//
// For the multiplier ν of the sum w minimises ½‖Aw − y‖² + ν Σ w_j between the bounds, which `ActiveSet` does; Σ w_j falls
// linearly in ν on every face, and `Multiplier` finds the ν whose sum is s.
//
// Where all lower bounds are finite so is what the sum leaves for each atom, u_j ≤ s − Σ_{i≠j} ℓ_i: the set is a polytope and
// the gap is Σ_j max over the box of (g_j − ν)(x − w_j), an upper bound on what any admissible w could gain.
//
// References: Stark & Parker 1995; Condat 2016 (A = I: the projection on the simplex).

private struct SumConstrained: Sendable {
  let total: Double
  let bounds: Bounds

  func answer(
    _ gram: Gram, target t: Int, _ answers: Answers, _ multiplier: Buffer<Double>, _ watch: Watch
  ) throws(UnmergeError) {
    let n = gram.atoms
    let box = try implied(gram)
    let rho: Buffer<Double> = try allocate(n)
    for j in 0..<n where gram.norms[j] > 0 { rho[j] = 1 / gram.norms[j] }
    let family = try Multiplier(.tilt, gram, target: t, rho: rho, bounds: box, watch)
    // Zero atoms stay where their bounds leave them nearest to 0.
    var goal = total
    for j in 0..<n where gram.norms[j] == 0 { goal -= bounds.nearestToZero(j) }
    let unit = family.problem.unit
    goal /= unit
    let isFound = try meet(goal, family)
    if isFound { settle(goal, family) }
    var end = family.ending
    end.certificate.objective = 0.5 * end.certificate.rss
    let certificate = try certify(family, end.certificate)
    end.certificate = certificate
    if isFound {
      end.outcome =
        certificate.relativeGap <= watch.tol || certificate.violation <= watch.tol ? UNMERGE_CONVERGED : UNMERGE_STALLED
    } else {
      end.outcome = watch.poll()?.outcome ?? (end.outcome == UNMERGE_ITERATION_LIMIT ? end.outcome : UNMERGE_STALLED)
    }
    answers.set(t, family.problem, family.solver.v, end, watch)
    multiplier[t] = -family.t * unit
  }

  private func meet(_ goal: Double, _ family: Multiplier) throws(UnmergeError) -> Bool {
    guard try family.solve(0) else { return false }
    var largest = 0.0
    for j in 0..<family.gram.atoms { largest = max(largest, family.rho[j]) }
    guard largest > 0 else { return true }
    func excess() -> Double { family.size - goal }
    func step() throws(UnmergeError) -> Double {
      let decline = family.decline(try family.slope())
      return decline > 0 ? excess() / decline : .nan
    }
    func precision() -> Double { 4 * roundoff * max(abs(goal), family.gross) }
    if abs(excess()) <= precision() { return true }
    // Outwards until the sum is on the other side; a face whose atoms all stand at bounds gives no direction of its own.
    var (near, reach) = (0.0, 1e-3 / largest)
    let isAbove = excess() > 0
    for _ in 0..<200 {
      family.remember(excess())
      let change = try step()
      var next = near + change
      if !next.isFinite || abs(next - near) > 10 * reach || abs(next - near) < 1e-3 * reach {
        next = near + (isAbove ? reach : -reach)
      }
      guard try family.solve(next) else { return false }
      if abs(excess()) <= precision() { return true }
      if (excess() > 0) != isAbove {
        family.remember(excess())
        return try family.find(
          from: 0.5 * (near + next), precision: precision, resolution: roundoff / largest, excess: excess, step: step)
      }
      near = next
      reach *= 4
    }
    return false
  }

  /// What the rounding of the multiplier leaves of an atom that belongs at its bound goes to the largest of the others.
  private func settle(_ goal: Double, _ family: Multiplier) {
    let (problem, v, rho) = (family.problem, family.solver.v, family.rho)
    let level = 16 * roundoff * max(abs(goal), family.gross)
    var largest: Int?
    for j in 0..<problem.n where rho[j] > 0 && problem.isFree(j, v[j]) && abs(v[j]) * rho[j] > 4 * level {
      if largest.map({ abs(v[j]) * rho[j] > abs(v[$0]) * rho[$0] }) ?? true { largest = j }
    }
    for j in 0..<problem.n where j != largest && problem.isFree(j, v[j]) {
      for bound in [problem.lower[j], problem.upper[j]] where abs(v[j] - bound) * rho[j] <= level {
        // Without anybody free to take it, it is rounding of the sum.
        if let k = largest { v[k] = problem.clamp(k, v[k] + (v[j] - bound) * rho[j] / rho[k]) }
        v[j] = bound
        break
      }
    }
  }

  /// The bounds and what the sum leaves of them.
  private func implied(_ gram: Gram) throws(UnmergeError) -> Bounds {
    let n = gram.atoms
    var lowest = 0.0
    for j in 0..<n { lowest += gram.norms[j] > 0 ? bounds.lower(j) : bounds.nearestToZero(j) }
    let lower: Buffer<Double> = try allocate(n)
    let upper: Buffer<Double> = try allocate(n)
    for j in 0..<n {
      lower[j] = bounds.lower(j)
      upper[j] = bounds.upper(j)
      if lowest.isFinite, gram.norms[j] > 0 { upper[j] = max(lower[j], min(upper[j], total - (lowest - lower[j]))) }
    }
    return try Bounds(lower.pointer, upper.pointer, positive: false, count: n)
  }

  /// g is that of the tilted problem: g − ν.
  private func certify(_ family: Multiplier, _ certificate: Certificate) throws(UnmergeError) -> Certificate {
    var r = certificate
    let problem = family.problem
    let (v, g) = (family.solver.v, family.solver.g)
    var gap = 0.0
    for j in 0..<problem.n where problem.lambda[j] < .infinity {
      let end = g[j] > 0 ? problem.upper[j] : problem.lower[j]
      if g[j] != 0 { gap += abs(g[j] * (end - v[j])) }
    }
    if gap.isFinite {
      problem.set(gap: gap, &r)
    } else {
      r.gap = .nan
      r.relativeGap = .nan
    }
    return r
  }
}

// MARK: the door

extension unmerge_simplex_options: Growable {
  package static var defaults: unmerge_simplex_options {
    var o = unmerge_simplex_options()
    o.struct_size = MemoryLayout<unmerge_simplex_options>.size
    o.total = 1
    return o
  }
}

@_cdecl("unmerge_simplex_options_init") @implementation
public func unmerge_simplex_options_init(
  _ options: UnsafeMutablePointer<unmerge_simplex_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_simplex") @implementation
public func unmerge_simplex(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_simplex_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ multiplier: UnsafeMutablePointer<Double>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    let greatest = Double.greatestFiniteMagnitude
    try check(o.total, "options->total", -greatest...greatest, "finite")
    let n = gram.atoms
    let bounds = try Bounds(o.lower, o.upper, positive: o.lower == nil, count: n)
    var (lowest, highest) = (0.0, 0.0)
    for j in 0..<n {
      lowest += gram.norms[j] > 0 ? bounds.lower(j) : bounds.nearestToZero(j)
      highest += gram.norms[j] > 0 ? bounds.upper(j) : bounds.nearestToZero(j)
    }
    guard lowest <= o.total, o.total <= highest else {
      throw UnmergeError(
        UNMERGE_E_INFEASIBLE,
        "options->total is \(o.total), but coefficients of non-zero atoms within the bounds sum to between \(lowest) and \(highest)"
      )
    }
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: n, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let mixture = SumConstrained(total: o.total, bounds: bounds)
    let answers = try Answers(n, gram.targets)
    let multipliers: Buffer<Double> = try allocate(gram.targets)
    try eachTarget(gram, watch) { t throws(UnmergeError) in try mixture.answer(gram, target: t, answers, multipliers, watch)
    }
    answers.deliver(output, reports)
    multiplier?.update(from: multipliers.pointer, count: gram.targets)
  }
}
