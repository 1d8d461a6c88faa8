import CUnmerge
import UnmergeCore
import UnmergeLinalg

// The LASSO with a constraint in place of the penalty
//
//     (τ)  minimise ½‖Aw − y‖²   subject to  Σ π_j |w_j| ≤ τ
//     (σ)  minimise Σ π_j |w_j|  subject to  ‖Aw − y‖ ≤ σ
//     (0)  minimise Σ π_j |w_j|  subject to  ‖Aw − y‖ as small as can be
//
// all optionally with w ≥ 0. Each is the LASSO at some α, the multiplier: Σ π |w| falls and ‖r‖ grows with α, linearly and
// quadratically on a face, and `Multiplier` finds the α that meets the constraint to rounding. No tolerance enters.
//
// Certificates from that of the LASSO at the multiplier α: any admissible w' has, by P_α(w') ≥ P_α(w) − gap_α,
//
//     (τ)  ½‖Aw − y‖² − ½‖Aw' − y‖² ≤ gap_α + α (τ − Σ π |w|)
//     (σ)  Σ π |w| − Σ π |w'| ≤ (gap_α + ½ (σ² − ‖Aw − y‖²)) / α
//
// and where α = 0 that of `BasisPursuit`.
//
// References: Tibshirani 1996; Chen, Donoho & Saunders 1998; van den Berg & Friedlander 2008 (the same problems through a
// root of the Pareto curve).

/// One target of one of the three.
struct ConstrainedLasso: Sendable {
  enum Constraint: Sendable {
    case norm(Double)
    case residual(Double, isRelative: Bool)
    case leastSquares
  }

  let constraint: Constraint
  let weights: Buffer<Double>?
  let bounds: Bounds

  let watch: Watch

  func answer(_ gram: Gram, target t: Int, _ answers: Answers, _ multiplier: Buffer<Double>) throws(UnmergeError) {
    let n = gram.atoms
    let yNorm = gram.targetNorms[t]
    guard yNorm > 0 else {
      return answers.set(t, gram, target: t, nil, emptyEnding(), watch)
    }
    let rho: Buffer<Double> = try allocate(n)
    for j in 0..<n where gram.norms[j] > 0 { rho[j] = (weights?[j] ?? 1) / gram.norms[j] }
    let family = try Multiplier(.penalty, gram, target: t, rho: rho, bounds: bounds, watch)
    let top = try alphaMax(gram, target: t, l1Ratio: 1, weights: weights, bounds: bounds, watch) / yNorm
    var isFound = true
    switch constraint {
    case .norm(let tau): isFound = try meetNorm(tau / yNorm, family, top)
    case .residual(let sigma, let isRelative):
      isFound = try meetResidual(isRelative ? sigma : sigma / yNorm, family, top, isRelative ? sigma * yNorm : sigma)
    case .leastSquares:
      isFound = try family.solve(1e-3 * top)
      if isFound { isFound = try smallest(family) }
    }
    var end = family.ending
    end.certificate = certify(family)
    // Where rounding hides the multiplier the certificate is the judge all the same.
    if isFound || watch.poll() == nil && end.certificate.relativeGap <= watch.tol {
      var isExplained = end.certificate.isExplained(gram) && end.certificate.violation <= watch.tol
      // At the rounding floor of the residual σ means nothing more; the smallest norm does.
      if case .norm = constraint {} else if family.t == 0 { isExplained = false }
      end.outcome = end.certificate.relativeGap <= watch.tol || isExplained ? UNMERGE_CONVERGED : UNMERGE_STALLED
    } else {
      end.outcome = watch.poll()?.outcome ?? (end.outcome == UNMERGE_ITERATION_LIMIT ? end.outcome : UNMERGE_STALLED)
    }
    answers.set(t, family.problem, family.solver.v, end, watch)
    multiplier[t] = family.t * yNorm
  }

  /// Σ ρ |v| = τ, or the least-squares solution of smallest norm where that is within.
  private func meetNorm(_ tau: Double, _ family: Multiplier, _ top: Double) throws(UnmergeError) -> Bool {
    guard top > 0 else { return try family.solve(0) }
    guard try family.solve(top) else { return false }
    // Unpenalised atoms alone, or nothing allowed.
    if tau <= family.size { return true }
    // Down until the norm is too large: then the root is bracketed.
    var (low, high) = (top, top)
    while true {
      high = low
      family.remember(family.size - tau)
      let decline = family.decline(try family.slope())
      let newton = decline > 0 ? high - (tau - family.size) / decline : -.infinity
      low = max(min(newton, 0.9 * high), 0.1 * high)
      guard try family.solve(low) else { return false }
      if family.size >= tau { break }
      if low < 1e-13 * top {
        // The constraint does not bind.
        let p = try family.slope()
        if family.size + low * family.decline(p) <= tau {
          guard try smallest(family) else { return false }
          return try keep(tau, family)
        }
        break
      }
    }
    let isFound = try family.find(
      from: low, precision: { 4 * roundoff * tau }, least: 1e-30 * top, excess: { family.size - tau },
      step: { () throws(UnmergeError) in
        let decline = family.decline(try family.slope())
        return decline > 0 ? (family.size - tau) / decline : .nan
      })
    guard isFound else { return false }
    return try keep(tau, family)
  }

  /// Where rounding, times the condition, has left the budget exceeded it is met all the same: along the face, else by scale.
  private func keep(_ tau: Double, _ family: Multiplier) throws(UnmergeError) -> Bool {
    let allowed = tau * (1 + 4 * roundoff)
    if family.size <= allowed { return true }
    let decline = family.decline(try family.slope())
    if decline > 0 { _ = try family.follow((family.size - tau) / decline) }
    if family.size > allowed { try family.scale(by: tau / family.size) }
    return true
  }

  /// ‖r‖² = σ², exact on each face: ‖r + δ A p‖² = ‖r‖² + 2δ pᵀg + δ² pᵀĜp with g = tρ sign(v) there.
  private func meetResidual(
    _ sigma: Double, _ family: Multiplier, _ top: Double, _ asked: Double
  ) throws(UnmergeError) -> Bool {
    guard top > 0 else { return try family.solve(0) }
    guard try family.solve(top) else { return false }
    // σ² − ‖r‖², from what is explained: near σ = ‖y‖ the difference of the two has few digits.
    let needed = (1 - sigma) * (1 + sigma)
    func room() -> Double { family.ending.certificate.explained - needed }
    // σ = ‖y‖ to the rounding of ‖y‖ is met by 0.
    if room() >= -4 * roundoff { return true }
    var (low, high) = (top, top)
    func change() throws(UnmergeError) -> Double {
      let p = try family.slope()
      let decline = family.decline(p)
      // rss(t + δ) = rss + 2 δ t decline + δ² decline: on the face pᵀĜp = decline and pᵀg = t decline.
      let excess = -room()
      guard decline > 0 else { return .nan }
      let d = family.t * family.t - excess / decline
      guard d >= 0 else { return -family.t }
      return -excess / decline / (family.t + d.squareRoot())
    }
    let floorRss = floor(family.gram) * (1 + family.ending.certificate.l2)
    while true {
      high = low
      family.remember(room())
      let newton = high + (try change())
      low = max(min(newton.isNaN ? 0 : newton, 0.9 * high), 0.1 * high)
      guard try family.solve(low) else { return false }
      if room() >= 0 { break }
      if low < 1e-13 * top {
        let p = try family.slope()
        let best = max(0, family.ending.certificate.rss - low * low * family.decline(p))
        guard best > sigma * sigma + floorRss else { return try smallest(family) }
        let yNorm = family.gram.targetNorms[family.target]
        throw UnmergeError(
          UNMERGE_E_INFEASIBLE,
          "options->sigma asks for a residual of \(asked) for target \(family.target), but the smallest one within reach is \(best.squareRoot() * yNorm)"
        )
      }
    }
    let precision = 8 * roundoff * min(needed, sigma * sigma)
    return try family.find(from: low, precision: { precision }, excess: room, step: change)
  }

  /// The least-squares solution of smallest norm: what is left when the constraint does not bind.
  private func smallest(_ family: Multiplier) throws(UnmergeError) -> Bool {
    // Without signs any basis will do, and the one of the last multiplier is near.
    if !bounds.isEmpty { guard try family.solve(0) else { return false } }
    let (v, g) = (family.solver.v, family.solver.g)
    let pursuit = try BasisPursuit(family.gram, rho: family.rho, isPositive: bounds.isPositive)
    guard try pursuit.run(v, g, target: family.target, watch) else { return false }
    try family.rest(after: pursuit.iterations)
    family.least = pursuit.least
    return true
  }

  private func certify(_ family: Multiplier) -> Certificate {
    let yNorm = family.gram.targetNorms[family.target]
    var r = family.ending.certificate
    var (gap, objective, scale) = (r.gap, 0.5 * r.rss, 1.0)
    switch constraint {
    case .norm(let tau):
      gap = .minimum(gap + family.t * max(0, tau / yNorm - family.size), reach(family, tau / yNorm))
    case .residual(let sigma, let isRelative):
      let goal = isRelative ? sigma : sigma / yNorm
      objective = family.size
      scale = 1 / yNorm
      if family.t > 0 {
        // Nor is any norm below 0.
        gap = .minimum((gap + 0.5 * max(0, r.explained - (1 - goal) * (1 + goal))) / family.t, objective)
      } else {
        gap = shortfall(family)
      }
    case .leastSquares:
      objective = family.size
      scale = 1 / yNorm
      gap = shortfall(family)
    }
    r.objective = scale * objective
    r.gap = scale * gap
    var least = Double.leastNormalMagnitude
    if case .norm = constraint { least = floor(family.gram) }
    r.relativeGap = gap == 0 ? 0 : gap / max(objective, least)
    return r
  }

  /// What moving to any w' within the budget could gain, had the objective no curvature: max gᵀ(v' − v).
  private func reach(_ family: Multiplier, _ tau: Double) -> Double {
    let (v, g, problem) = (family.solver.v, family.solver.g, family.problem)
    let noise = gradientNoise(l1: family.ending.certificate.l1)
    var (best, here) = (0.0, 0.0)
    for j in 0..<problem.n where problem.lambda[j] < .infinity {
      let pull = bounds.isPositive ? max(g[j], 0) : abs(g[j])
      if family.rho[j] > 0 { best = max(best, pull / family.rho[j]) } else if pull > noise { return .infinity }
      here += g[j] * v[j]
    }
    return max(0, tau * best - here)
  }

  /// What the norm is above the smallest at most; see `BasisPursuit`.
  private func shortfall(_ family: Multiplier) -> Double { max(0, family.size - family.least) }
}

// MARK: the door

extension unmerge_lasso_tau_options: Growable {
  package static var defaults: unmerge_lasso_tau_options {
    var o = unmerge_lasso_tau_options()
    o.struct_size = MemoryLayout<unmerge_lasso_tau_options>.size
    o.tau = 1
    return o
  }
}

@_cdecl("unmerge_lasso_tau_options_init") @implementation
public func unmerge_lasso_tau_options_init(
  _ options: UnsafeMutablePointer<unmerge_lasso_tau_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_lasso_tau") @implementation
public func unmerge_lasso_tau(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_lasso_tau_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ multiplier: UnsafeMutablePointer<Double>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.tau, "options->tau", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try checkReserved(o.reserved, "options->reserved")
    try answer(gram, .norm(o.tau), o.weights, o.positive, run, coef, multiplier, reports)
  }
}

extension unmerge_bpdn_options: Growable {
  package static var defaults: unmerge_bpdn_options {
    var o = unmerge_bpdn_options()
    o.struct_size = MemoryLayout<unmerge_bpdn_options>.size
    return o
  }
}

@_cdecl("unmerge_bpdn_options_init") @implementation
public func unmerge_bpdn_options_init(
  _ options: UnsafeMutablePointer<unmerge_bpdn_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_bpdn") @implementation
public func unmerge_bpdn(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_bpdn_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ multiplier: UnsafeMutablePointer<Double>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.sigma, "options->sigma", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try checkFlag(o.relative, "options->relative")
    try answer(
      gram, .residual(o.sigma, isRelative: o.relative == 1), o.weights, o.positive, run, coef, multiplier, reports)
  }
}

func answer(
  _ gram: Gram, _ constraint: ConstrainedLasso.Constraint, _ weights: UnsafePointer<Double>?, _ positive: Int32,
  _ run: UnsafePointer<unmerge_run>?, _ coef: UnsafePointer<unmerge_view>?, _ multiplier: UnsafeMutablePointer<Double>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?
) throws(UnmergeError) {
  try checkFlag(positive, "options->positive")
  let weights = try copyWeights(weights, gram.atoms)
  let watch = try Watch(run)
  let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
  try checkResult(reports, "reports", count: gram.targets)
  let lasso = ConstrainedLasso(
    constraint: constraint, weights: weights, bounds: positive == 1 ? .positive : .none, watch: watch)
  let answers = try Answers(gram.atoms, gram.targets)
  let multipliers: Buffer<Double> = try allocate(gram.targets)
  try eachTarget(gram, watch) { t throws(UnmergeError) in try lasso.answer(gram, target: t, answers, multipliers) }
  answers.deliver(output, reports)
  multiplier?.update(from: multipliers.pointer, count: gram.targets)
}
