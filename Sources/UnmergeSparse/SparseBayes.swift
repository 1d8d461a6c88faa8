import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Sparse Bayesian learning
//
//     w_j ~ N(0, 1/α_j);  maximise  log P(y | α, s²) = −½ [ q ln(2π s²) + ln|H| − Σ ln α_j + b − bĉᵀμ ]
//
// over the atoms inside, H = bĜ + diag α (α in the scaled coordinates), Σ = H⁻¹, μ = bΣĉ. As a function of one α_j the
// evidence is ½ [ ln α − ln(α + s_j) + q_j²/(α + s_j) ], s_j and q_j being what the atom adds to the others:
//
//     inside   s = 1/Σ_jj − α_j,            q = μ_j/Σ_jj
//     outside  s = b − b² hᵀΣh,             q = b(ĉ_j − hᵀμ),        h = Ĝ_Aj
//
// with its maximum at α = s²/(q² − s), at infinity where q² ≤ s. The step with the largest gain is taken until Newton's method
// over ln α and ln b takes over. With x_i = ln α_i, z = ln b, t = ΣAμ and ∂Σ_ii/∂z = (ΣAΣ)_ii − Σ_ii
//
//     L_i  = ½ (1 − α_i(Σ_ii + μ_i²))                       L_z  = ½ (q − b rss − Σ (1 − α_iΣ_ii))
//     L_ij = ½ α_iα_jΣ_ij² + α_iα_jμ_iμ_jΣ_ij − δ_ij ½ α_i(Σ_ii + μ_i²)
//     L_iz = −½ α_i (∂Σ_ii/∂z + 2μ_it_i)                    L_zz = ½ (−b rss + 2μᵀAt + Σ α_i ∂Σ_ii/∂z)
//
// References: Tipping 2001; Tipping & Faul 2003; MacKay 1992.

private final class Evidence {
  let problem: TemperedGram
  /// Atoms inside, in the order they came; α by atom.
  var inside: [Int] = []
  let alpha: Buffer<Double>
  var b: Double

  // All of these follow from the above (`refresh`). μ and Σ are in the order of `inside`, Σ k×k.
  private(set) var value = -Double.infinity
  let mu: Buffer<Double>
  let sigma: Buffer<Double>
  private(set) var rss = 1.0
  /// Σ (1 − α_i Σ_ii)
  private(set) var df = 0.0
  private(set) var violation = Double.infinity
  /// Of the atoms inside and s² alone.
  private(set) var interior = Double.infinity
  /// s_j and q_j of every atom.
  private let adds: Buffer<Double>
  private let wants: Buffer<Double>
  private let x: Buffer<Double>
  private let h: Buffer<Double>

  init(_ problem: TemperedGram) throws(UnmergeError) {
    self.problem = problem
    let n = problem.n
    // A tenth of y to the noise, to begin with.
    b = problem.known ?? 10 * problem.q
    alpha = try allocate(n)
    mu = try allocate(n)
    adds = try allocate(n)
    wants = try allocate(n)
    x = try allocate(n)
    h = try allocate(n)
    sigma = try allocate(product(n, n, "the Gram"))
  }

  /// False, and the evidence −∞, where H is numerically singular.
  @discardableResult
  func refresh() -> Bool {
    let (n, k, g, c) = (problem.n, inside.count, problem.g, problem.c)
    for (a, j) in inside.enumerated() {
      let from = g + j * n
      let to = sigma.pointer + a * k
      for (o, i) in inside.enumerated() { to[o] = b * from[i] }
      to[a] += alpha[j]
      mu[a] = b * c[j]
    }
    guard let logDeterminant = Symmetric.factor(k, sigma.pointer) else {
      value = -.infinity
      return false
    }
    Symmetric.solve(k, factor: sigma.pointer, mu.pointer, columns: 1)
    guard Symmetric.invert(k, factor: sigma.pointer) else {
      value = -.infinity
      return false
    }
    for j in 0..<n { x[j] = 0 }
    var fit = 0.0
    var logs = 0.0
    for (a, j) in inside.enumerated() {
      Vector.axpy(n, mu[a], g + j * n, x.pointer)
      fit += c[j] * mu[a]
      logs += Platform.log(alpha[j])
    }
    // ‖y − Aμ‖² = 1 − ĉᵀμ − μᵀ(ĉ − Ĝμ), and b(ĉ − Ĝμ) = αμ
    rss = 1 - fit
    df = 0
    interior = 0
    for (a, j) in inside.enumerated() {
      rss -= mu[a] * (c[j] - x[j])
      let variance = sigma[a * k + a]
      df += 1 - alpha[j] * variance
      interior = max(interior, abs(1 - alpha[j] * (variance + mu[a] * mu[a])))
      adds[j] = 1 / variance - alpha[j]
      wants[j] = mu[a] / variance
    }
    rss = max(rss, problem.least)
    value = -0.5 * (problem.constant(b) + logDeterminant - logs + b * (1 - fit))
    if problem.known == nil {
      let misfit = abs(problem.q - b * rss - df) / problem.q
      // At the rounding floor s² is held.
      if b < problem.q / problem.least { interior = max(interior, misfit) }
    }
    violation = interior
    for j in 0..<n where !isInside(j) {
      adds[j] = 0
      wants[j] = 0
      guard !problem.isZero(j) else { continue }
      for (o, i) in inside.enumerated() { h[o] = g[j * n + i] }
      var explained = 0.0
      for a in 0..<k where h[a] != 0 { explained += h[a] * Vector.dot(k, sigma.pointer + a * k, h.pointer) }
      let s = b * (1 - b * explained)
      // What is left of a dependent atom is rounding.
      guard s > b * max(1e-12, 4 * problem.gram.precision.entryError) else { continue }
      adds[j] = s
      wants[j] = b * (c[j] - x[j])
      violation = max(violation, wants[j] * wants[j] / s - 1)
    }
    return true
  }

  private func isInside(_ j: Int) -> Bool { alpha[j] > 0 }

  /// ½ [ ln α − ln(α + s) + q²/(α + s) ]
  private func part(_ alpha: Double, _ j: Int) -> Double {
    let total = alpha + adds[j]
    return 0.5 * (Platform.log(alpha / total) + wants[j] * wants[j] / total)
  }

  /// Takes the one change of an α that raises the evidence most; how much it does, as long as nothing else moves.
  func step() -> Double {
    var best = (gain: 0.0, atom: -1, alpha: 0.0)
    for j in 0..<problem.n where !problem.isZero(j) {
      let (s, q) = (adds[j], wants[j])
      let now = isInside(j) ? part(alpha[j], j) : 0
      var (gain, new) = (-now, 0.0)
      if s > 0, q * q > s {
        new = s * s / (q * q - s)
        gain = part(new, j) - now
      } else if !isInside(j) {
        continue
      }
      if new == 0 || new.isFinite, gain > best.gain { best = (gain, j, new) }
    }
    guard best.atom >= 0 else { return 0 }
    if alpha[best.atom] == 0 { inside.append(best.atom) }
    alpha[best.atom] = best.alpha
    if best.alpha == 0 { inside.removeAll { $0 == best.atom } }
    return best.gain
  }

  /// s² by expectation-maximisation: the evidence does not fall.
  func updateNoise() {
    guard problem.known == nil else { return }
    b = min(problem.q / (rss + df / b), problem.q / problem.least)
  }

  /// One step of expectation-maximisation; atoms whose α is beyond 10¹² of the data's precision are let go.
  func expectationMaximisation() {
    let k = inside.count
    let old = inside
    for (a, j) in old.enumerated() {
      alpha[j] = 1 / (mu[a] * mu[a] + sigma[a * k + a])
      if alpha[j] > 1e12 * b {
        alpha[j] = 0
        inside.removeAll { $0 == j }
      }
    }
    updateNoise()
  }

  /// Rounding of the evidence, which has the difference 1 − ĉᵀμ in it.
  var noise: Double {
    var l1 = 0.0
    for a in inside.indices { l1 += abs(mu[a]) }
    return roundoff * (64 * (abs(value) + problem.q + Double(problem.n)) + 16 * b * (1 + l1))
  }

  /// Newton's step where minus the Hessian is positive definite and the violation falls; `moves` false: is it?
  func newton(moves: Bool = true) throws(UnmergeError) -> Bool {
    let k = inside.count
    let free = problem.known == nil && b < problem.q / problem.least
    let m = k + (free ? 1 : 0)
    guard m > 0 else { return true }
    let hessian = try allocate(product(m, m, "the Hessian"), of: Double.self)
    let gradient = try allocate(m, of: Double.self)
    let t = try allocate(k, of: Double.self)
    for a in 0..<k {
      for o in 0..<k { t[a] += sigma[a * k + o] * alpha[inside[o]] * mu[o] }
    }
    var bend = -b * rss
    for a in 0..<k {
      let (ai, variance) = (alpha[inside[a]], sigma[a * k + a])
      let size = ai * (variance + mu[a] * mu[a])
      gradient[a] = 0.5 * (1 - size)
      var turned = 0.0
      for o in 0..<k {
        let (ao, s) = (alpha[inside[o]], sigma[a * k + o])
        turned += ao * s * s
        hessian[a * m + o] = -(0.5 * ai * ao * s * s + ai * ao * mu[a] * mu[o] * s)
      }
      hessian[a * m + a] += 0.5 * size
      guard free else { continue }
      let slope = turned - variance
      let cross = 0.5 * ai * (slope + 2 * mu[a] * t[a])
      hessian[a * m + k] = cross
      hessian[k * m + a] = cross
      bend += 2 * ai * mu[a] * t[a] + ai * slope
    }
    if free {
      gradient[k] = 0.5 * (problem.q - b * rss - df)
      hessian[k * m + k] = -0.5 * bend
    }
    guard Symmetric.factor(m, hessian.pointer) != nil else { return false }
    guard moves else { return true }
    Symmetric.solve(m, factor: hessian.pointer, gradient.pointer, columns: 1)
    let (before, floor, violated, noise) = (inside.map { alpha[$0] }, b, interior, noise)
    let old = value
    for (a, j) in inside.enumerated() { alpha[j] *= Platform.exp(max(-2, min(2, gradient[a]))) }
    if free { b = min(b * Platform.exp(max(-2, min(2, gradient[k]))), problem.q / problem.least) }
    if refresh(), interior < 0.5 * violated, value >= old - noise { return true }
    for (a, j) in inside.enumerated() { alpha[j] = before[a] }
    b = floor
    refresh()
    return false
  }
}

private struct SparseBayes {
  let evidence: Evidence
  var outcome = UNMERGE_CONVERGED
  var iterations = 0
  var isStrict = false

  init(_ problem: TemperedGram, algorithm: Int32, _ watch: Watch) throws(UnmergeError) {
    evidence = try Evidence(problem)
    guard problem.yNorm > 0 else {
      evidence.refresh()
      return
    }
    if algorithm == UNMERGE_EVIDENCE_EM {
      for j in 0..<problem.n where !problem.isZero(j) {
        evidence.inside.append(j)
        evidence.alpha[j] = Double(problem.n)
      }
    }
    evidence.refresh()
    var wait = 0
    while evidence.violation > watch.tol {
      if let stop = watch.poll() {
        outcome = stop.outcome
        break
      }
      guard iterations < watch.maxIterations else {
        outcome = UNMERGE_ITERATION_LIMIT
        break
      }
      iterations += 1
      if algorithm == UNMERGE_EVIDENCE_EM {
        evidence.expectationMaximisation()
        evidence.refresh()
        continue
      }
      // Nobody wants in or out: what is left is smooth.
      if evidence.violation == evidence.interior, evidence.interior < 0.5, iterations >= wait {
        if try evidence.newton() { continue }
        wait = iterations + 5
      }
      let before = evidence.violation
      let gain = evidence.step()
      evidence.refresh()
      evidence.updateNoise()
      evidence.refresh()
      if !(gain > 1e-15), !(evidence.violation < before) {
        outcome = UNMERGE_STALLED
        break
      }
    }
    if outcome == UNMERGE_CONVERGED { isStrict = try evidence.newton(moves: false) }
  }
}

// MARK: the door

extension unmerge_sparse_bayes_options: Growable {
  package static var defaults: unmerge_sparse_bayes_options {
    var o = unmerge_sparse_bayes_options()
    o.struct_size = MemoryLayout<unmerge_sparse_bayes_options>.size
    return o
  }
}

extension unmerge_sparse_bayes_result: Growable {
  package static var defaults: unmerge_sparse_bayes_result {
    var r = unmerge_sparse_bayes_result()
    r.struct_size = MemoryLayout<unmerge_sparse_bayes_result>.size
    r.log_evidence = .nan
    r.sigma2 = .nan
    return r
  }
}

@_cdecl("unmerge_sparse_bayes_options_init") @implementation
public func unmerge_sparse_bayes_options_init(
  _ options: UnsafeMutablePointer<unmerge_sparse_bayes_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_sparse_bayes_result_init") @implementation
public func unmerge_sparse_bayes_result_init(
  _ result: UnsafeMutablePointer<unmerge_sparse_bayes_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_sparse_bayes") @implementation
public func unmerge_sparse_bayes(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_sparse_bayes_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafeMutablePointer<Double>?, _ variance: UnsafeMutablePointer<Double>?,
  _ alphas: UnsafeMutablePointer<Double>?, _ result: UnsafeMutablePointer<unmerge_sparse_bayes_result>?,
  _ report: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkLikelihood(effective: o.effective, sigma2: o.sigma2, gram)
    let target = try checkTarget(o.target, gram)
    try check(Int64(o.algorithm), "options->algorithm", 0...1, "UNMERGE_EVIDENCE_FAST or _EM")
    try checkReserved(o.reserved, "options->reserved")
    let watch = try Watch(run)
    try checkResult(result, "result")
    try checkResult(report, "report")
    let n = gram.atoms
    let v = try allocate(n, of: Double.self)
    let w = try allocate(n, of: Double.self)
    let variances = try allocate(n, of: Double.self)
    let precisions = try allocate(n, of: Double.self)
    var r = unmerge_sparse_bayes_result.defaults
    let answered = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let problem = try TemperedGram(gram, target: target, effective: o.effective, sigma2: o.sigma2, watch)
      let found = try SparseBayes(problem, algorithm: o.algorithm, watch)
      let evidence = found.evidence
      let k = evidence.inside.count
      for j in 0..<n { precisions[j] = .infinity }
      for (a, j) in evidence.inside.enumerated() {
        let unit = problem.unscaled(j, 1)
        v[j] = evidence.mu[a]
        w[j] = problem.unscaled(j, evidence.mu[a])
        variances[j] = evidence.sigma[a * k + a] * unit * unit
        precisions[j] = evidence.alpha[j] / unit / unit
      }
      let isKnown = problem.yNorm > 0 || problem.known != nil
      r.log_evidence = isKnown ? evidence.value : .nan
      r.sigma2 = problem.sigma2(evidence.b)
      r.atoms = Int64(k)
      return try problem.reported(
        v.pointer, objective: -r.log_evidence, violation: problem.yNorm > 0 ? evidence.violation : 0,
        iterations: found.iterations, outcome: found.outcome, flags: found.isStrict ? UNMERGE_FLAG_LOCAL_MINIMUM : 0,
        df: evidence.df, watch)
    }
    deliver(w, coef)
    deliver(variances, variance)
    deliver(precisions, alphas)
    store(r, result)
    store(answered, report)
  }
}
