import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// What is common to all targets of a composite problem.
final class CompositeProblem: @unchecked Sendable {
  let form: any QuadraticForm
  let terms: [CompositeTerm]
  /// Where the entries of each term begin in the stacked z, and their number.
  let offsets: [Int]
  let entries: Int
  /// Q as ‖atom‖² = 1 of the largest.
  let scale: Double
  /// q in the caller's units.
  let linear: Buffer<Double>?
  /// Σ KᵀK of the terms with a matrix, and on the diagonal how many of the others act on an atom.
  let dense: Buffer<Double>?
  let covers: Buffer<Double>
  /// The diagonal of Σ KᵀK.
  let pull: Buffer<Double>
  /// Nobody pulls x_j back: a trace of the identity keeps the matrix of the step regular.
  let proximal: Double
  let rho: Double
  let relaxation: Double
  let usesFISTA: Bool
  let polishes: Bool

  init(
    _ form: any QuadraticForm, _ terms: [CompositeTerm], _ o: unmerge_composite_options, linear: Buffer<Double>?
  ) throws(UnmergeError) {
    self.form = form
    self.terms = terms
    self.linear = linear
    scale = form.scale > 0 ? form.scale : 1
    let n = form.n
    var offsets: [Int] = []
    var at = 0
    covers = try allocate(n)
    pull = try allocate(n)
    var dense: Buffer<Double>?
    for term in terms {
      offsets.append(at)
      at = saturatingSum(at, term.count)
      if let k = term.matrix {
        for j in 0..<n { pull[j] += Vector.dot(term.count, k.pointer + j * term.count, k.pointer + j * term.count) }
        guard form.matrix != nil else { continue }
        let sum = if let dense { dense } else { try allocate(product(n, n, "K'K"), of: Double.self) }
        if n > 0, term.count > 0 {
          Double.gemm(true, false, n, n, term.count, 1, k.pointer, term.count, k.pointer, term.count, 1, sum.pointer, n)
        }
        dense = sum
      } else {
        for i in 0..<term.count { covers[term.atoms?[i] ?? i] += 1 }
      }
    }
    self.offsets = offsets
    entries = at
    self.dense = dense
    var isCovered = true
    for j in 0..<n where covers[j] == 0 { isCovered = false }
    for j in 0..<n { pull[j] += covers[j] }
    proximal = isCovered ? 0 : 1e-6
    rho = o.rho / scale / scale
    relaxation = o.relaxation
    usesFISTA = o.engine == UNMERGE_ENGINE_FISTA
    polishes = o.polish == 1 && terms.allSatisfy { $0.call != nil }
  }
}

/// Minimises ½ xᵀQx − bᵀx + Σ g_i(K_i x) for one target.
///
///     ADMM    x = (Q + ρ KᵀK)⁻¹ (b + Kᵀ(ρz − λ)),   v = 1.6 Kx − 0.6 z + λ/ρ,   z = prox_{g/ρ}(v),   λ = ρ (v − z)
///     FISTA   v = x̄ − (Qx̄ − b)/L,                   x = z = prox_{g/L}(v),                           λ = L (v − z)
///
/// Invariant: λ is a subgradient of g at z. So Kx = z and Qx − b + Kᵀλ = 0 are all there is to certify.
///
/// When the face of z comes back, Newton solves for its minimum,
///
///     [Q + KᵀWK  KᵀCᵀ] [x]   [b − Kᵀ(λ − Wz)]
///     [CK         0  ] [ν] = [Cz            ],     λ ← λ + W(Kx − z) + Cᵀν,
///
/// by Cholesky with refinement, and z = prox(Kx + λ/ρ) tells the face of the result. On a right face of a polyhedral g that
/// ends it; balls, cones and norms take a few rounds. The step is kept where the residuals fall.
///
/// Where Q is known through passes over the data alone, conjugate gradients take the place of Cholesky, in ADMM's step to a tenth
/// of the residual they have to lower, and in Newton's on faces without C.
///
/// One eigendecomposition of Q would make changes of ρ free, but costs 35 to 40 Cholesky factors (n = 64, 256), and ρ rarely
/// changes more than a few times before Newton ends the search: it is factored anew.
///
/// References: Boyd, Parikh, Chu, Peleato & Eckstein 2011; Wohlberg 2017 (relative residuals balance ρ); Li, Sun & Toh 2018
/// (Newton on the prox); Banjac, Goulart, Stellato & Boyd 2019 (infeasibility).
final class CompositeSolver {
  private let problem: CompositeProblem
  private let terms: [CompositeTerm]
  private let n: Int
  private let m: Int
  let x: UnsafeMutablePointer<Double>
  private let b: UnsafeMutablePointer<Double>
  private let data: UnsafePointer<Double>
  private let qx: UnsafeMutablePointer<Double>
  /// Qx − b + Kᵀλ
  private let slope: UnsafeMutablePointer<Double>
  private let point: UnsafeMutablePointer<Double>
  private let old: UnsafeMutablePointer<Double>
  private let oldQ: UnsafeMutablePointer<Double>
  private let work: UnsafeMutablePointer<Double>
  private let kx: UnsafeMutablePointer<Double>
  private let z: UnsafeMutablePointer<Double>
  private let lambda: UnsafeMutablePointer<Double>
  private let v: UnsafeMutablePointer<Double>
  /// v and z in the caller's units.
  private let rawV: UnsafeMutablePointer<Double>
  private let rawZ: UnsafeMutablePointer<Double>
  private let stacked: UnsafeMutablePointer<Double>
  private let kept: UnsafeMutablePointer<Double>
  private let before: UnsafeMutablePointer<Double>
  private let numbers: Buffer<Double>
  private let face: CompositeFace
  private let factor: Buffer<Double>
  private var system: Buffer<Double>
  private var rowsOf: Buffer<Double>
  private let free: Buffer<Int>
  /// Residual, direction, its image and the preconditioner of conjugate gradients; empty where Q is a matrix.
  private let conjugate: Buffer<Double>
  /// w = unit·x; objectives are in units of `energy`.
  let unit: Double
  let energy: Double
  private let yy: Double
  private var rho = 0.0
  private var isFactored = false
  private var momentum = 1.0
  private var iterations = 0
  /// Products that conjugate gradients have spent on faces.
  private var spent = 0
  private(set) var primal = Double.infinity
  private(set) var dual = Double.infinity
  private var merit: Double { primal > dual || primal.isNaN ? primal : dual }
  /// What the residuals are relative to.
  private var (primalSize, dualSize) = (0.0, 0.0)

  init(_ problem: CompositeProblem, _ gram: Gram, target t: Int) throws(UnmergeError) {
    self.problem = problem
    terms = problem.terms
    n = problem.form.n
    m = problem.entries
    numbers = try allocate(
      product(9, n, "the working memory") + product(9, m, "the working memory") + 2 * (n + 3 * m))
    x = numbers.pointer
    b = x + n
    qx = b + n
    slope = qx + n
    point = slope + n
    old = point + n
    oldQ = old + n
    work = oldQ + n
    kx = work + 2 * n
    z = kx + m
    lambda = z + m
    v = lambda + m
    rawV = v + m
    rawZ = rawV + m
    stacked = rawZ + m
    before = stacked + 2 * m
    kept = before + m
    face = try CompositeFace(terms.count, m)
    let isMatrix = problem.form.matrix != nil
    factor = try allocate(problem.usesFISTA || !isMatrix ? 0 : product(n, n, "the factor"))
    conjugate = try allocate(isMatrix ? 0 : product(4, n, "the working memory"))
    system = try allocate(0)
    rowsOf = try allocate(0)
    free = try allocate(n)
    data = problem.form.correlation(t)
    let y = gram.targetNorms[t]
    var size = y
    if let q = problem.linear { for j in 0..<n { size = max(size, abs(q[j]) / problem.scale) } }
    if !(size > 0 && size < 1e150) { size = 1 }
    unit = size / problem.scale
    energy = size * size
    yy = y / size * (y / size)
    for j in 0..<n {
      b[j] = data[j] * (y / size)
      if let q = problem.linear { b[j] -= q[j] / problem.scale / size }
    }
  }

  /// What g's second derivative is multiplied by in units of x; so is the step of its prox.
  private func curvature(_ term: CompositeTerm) -> Double {
    let s = 1 / problem.scale / term.kappa
    return min(max(s * s, 1e-250), 1e250)
  }

  private func proximal(_ step: Double) throws(UnmergeError) {
    for (k, term) in terms.enumerated() {
      let at = problem.offsets[k]
      let s = unit / term.kappa
      for i in at..<(at + term.count) { rawV[i] = s * v[i] }
      try term.prox(rawV + at, min(max(step * curvature(term), 1e-300), 1e300), rawZ + at)
      for i in at..<(at + term.count) {
        z[i] = rawZ[i] / s
        lambda[i] = rawV[i] == rawZ[i] ? 0 : (v[i] - z[i]) / step
      }
    }
  }

  private func stack(_ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    for (k, term) in terms.enumerated() { term.apply(n, x, z + problem.offsets[k]) }
  }

  /// x += s Kᵀz
  private func unstack(_ s: Double, _ z: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>) {
    for (k, term) in terms.enumerated() { term.applyTransposed(n, s, z + problem.offsets[k], x) }
  }

  /// Residuals of x, z, λ; qx is that of x already where it `isKnown`.
  private func measure(isKnown: Bool = false) {
    if !isKnown { problem.form.apply(x, qx) }
    stack(x, kx)
    work.update(repeating: 0, count: n)
    unstack(1, lambda, work)
    var (e, sizeB, sizeQ, sizeL) = (0.0, 0.0, 0.0, 0.0)
    var sizeX = 0.0
    for j in 0..<n {
      slope[j] = qx[j] - b[j] + work[j]
      e += slope[j] * slope[j]
      sizeB += b[j] * b[j]
      sizeX += x[j] * x[j]
      sizeQ += qx[j] * qx[j]
      sizeL += work[j] * work[j]
    }
    let size = max(sizeB, sizeQ, sizeL)
    dualSize = size.squareRoot()
    dual = size > 0 ? (e / size).squareRoot() : e.squareRoot()
    var (r, sizeK, sizeZ) = (0.0, 0.0, 0.0)
    for i in 0..<m {
      r += (kx[i] - z[i]) * (kx[i] - z[i])
      sizeK += kx[i] * kx[i]
      sizeZ += z[i] * z[i]
    }
    // b as it stands for the size of a coefficient: where K x = z = 0 there is nothing else to compare rounding with.
    let length = max(max(sizeK, sizeZ), max(sizeX, sizeB))
    primalSize = length.squareRoot()
    primal = length > 0 ? (r / length).squareRoot() : 0
  }

  private func describe() {
    face.clear(terms.count, m)
    for (k, term) in terms.enumerated() {
      let at = problem.offsets[k]
      face.append(
        k, term, at: at, v: rawV + at, z: rawZ + at, multiplier: lambda + at, scaled: z + at, curvature: curvature(term))
    }
  }

  // MARK: the engines

  private func refactor(_ q: UnsafeMutablePointer<Double>) throws(UnmergeError) {
    let h = factor.pointer
    h.update(from: q, count: n * n)
    if let dense = problem.dense { Vector.axpy(n * n, rho, dense.pointer, h) }
    for j in 0..<n { h[j * n + j] += rho * problem.covers[j] + problem.proximal }
    isFactored = Symmetric.factor(n, h) != nil
    if !isFactored { throw UnmergeError(UNMERGE_E_INTERNAL, "the matrix of the ADMM step is not positive definite") }
  }

  private func stepADMM() throws(UnmergeError) {
    for i in 0..<m { stacked[i] = rho * z[i] - lambda[i] }
    if let q = problem.form.matrix {
      if !isFactored { try refactor(q) }
      for j in 0..<n { x[j] = b[j] + problem.proximal * x[j] }
      unstack(1, stacked, x)
      Symmetric.solve(n, factor: factor.pointer, x, columns: 1)
    } else {
      // The residual at the x we have: b + Kᵀ(ρz − λ) − Qx − ρKᵀKx; what is proximal cancels.
      let r = conjugate.pointer
      stack(x, kx)
      for i in 0..<m { stacked[i] -= rho * kx[i] }
      problem.form.apply(x, qx)
      for j in 0..<n { r[j] = b[j] - qx[j] }
      unstack(1, stacked, r)
      solveConjugate(isNewton: false, tol: min(1e-1, max(1e-12, 0.1 * merit)))
    }
    stack(x, kx)
    let a = problem.relaxation
    for i in 0..<m { v[i] = a * kx[i] + (1 - a) * z[i] + lambda[i] / rho }
    try proximal(1 / rho)
  }

  /// x += H⁻¹r by preconditioned conjugate gradients, r in the first quarter of `conjugate` and lowered to tol times what x is
  /// pulled by; H = Q + ρKᵀK (+ proximal), or for Newton Q + KᵀWK on the atoms that no term pins (old = 0).
  private func solveConjugate(isNewton: Bool, tol: Double) {
    let (r, p, q, d) = (conjugate.pointer, conjugate.pointer + n, conjugate.pointer + 2 * n, conjugate.pointer + 3 * n)
    let bent = stacked + m
    func isFree(_ j: Int) -> Bool { !isNewton || old[j] == 0 }
    for j in 0..<n { d[j] = problem.form.diagonal(j) + (isNewton ? 0 : rho * problem.pull[j] + problem.proximal) }
    if isNewton {
      for (k, term) in terms.enumerated() where term.matrix == nil {
        for i in 0..<term.count { d[term.atoms?[i] ?? i] += face.bend[problem.offsets[k] + i] }
      }
    }
    var (rz, size) = (0.0, 0.0)
    for j in 0..<n {
      if !isFree(j) || d[j] <= 0 { r[j] = 0 }
      p[j] = d[j] > 0 ? r[j] / d[j] : 0
      rz += r[j] * p[j]
      if d[j] > 0 { size += b[j] * b[j] / d[j] }
    }
    let goal = tol * tol * max(size, isNewton ? 0 : rz)
    for _ in 0..<min(isNewton ? 50 + iterations : 1000, 2 * n + 20) where rz > goal && rz > 0 {
      if isNewton { spent += 1 }
      problem.form.apply(p, q)
      stack(p, bent)
      for (k, term) in terms.enumerated() {
        let range = problem.offsets[k]..<(problem.offsets[k] + term.count)
        var along = 0.0
        if isNewton, face.rankOne[k] > 0 { for i in range { along += face.unit[i] * bent[i] } }
        for i in range {
          bent[i] = isNewton ? face.bend[i] * bent[i] - (along == 0 ? 0 : face.rankOne[k] * along * face.unit[i]) : rho * bent[i]
        }
      }
      unstack(1, bent, q)
      var curvature = 0.0
      for j in 0..<n {
        q[j] = isFree(j) && d[j] > 0 ? q[j] + (isNewton ? 0 : problem.proximal * p[j]) : 0
        curvature += p[j] * q[j]
      }
      guard curvature > 0, curvature.isFinite else { return }
      let step = rz / curvature
      var next = 0.0
      for j in 0..<n {
        x[j] += step * p[j]
        r[j] -= step * q[j]
        if d[j] > 0 { next += r[j] * r[j] / d[j] }
      }
      let beta = next / rz
      rz = next
      for j in 0..<n { p[j] = beta * p[j] + (d[j] > 0 ? r[j] / d[j] : 0) }
    }
  }

  /// qx, point and work (Q·point) are those of the step before.
  private func stepFISTA() throws(UnmergeError) {
    old.update(from: x, count: n)
    oldQ.update(from: qx, count: n)
    let q = stackedQ
    while true {
      for j in 0..<n { x[j] = point[j] + (b[j] - q[j]) / rho }
      stack(x, v)
      try proximal(1 / rho)
      for (k, term) in terms.enumerated() {
        let at = problem.offsets[k]
        for i in 0..<term.count { x[term.atoms?[i] ?? i] = z[at + i] }
      }
      problem.form.apply(x, qx)
      var bend = 0.0
      var length = 0.0
      for j in 0..<n {
        let d = x[j] - point[j]
        bend += d * (qx[j] - q[j])
        length += d * d
      }
      if bend <= rho * length * (1 + 1e-12) || length == 0 { break }
      rho = max(1.05 * rho, 1.02 * bend / length)
    }
    var uphill = 0.0
    for j in 0..<n { uphill += (point[j] - x[j]) * (x[j] - old[j]) }
    if uphill > 0 { momentum = 1 }
    let next = 0.5 * (1 + (1 + 4 * momentum * momentum).squareRoot())
    let beta = uphill > 0 ? 0 : (momentum - 1) / next
    momentum = next
    for j in 0..<n {
      point[j] = x[j] + beta * (x[j] - old[j])
      q[j] = qx[j] + beta * (qx[j] - oldQ[j])
    }
  }

  /// Q·point of FISTA.
  private var stackedQ: UnsafeMutablePointer<Double> { work + n }

  private func restart() {
    momentum = 1
    problem.form.apply(x, qx)
    point.update(from: x, count: n)
    stackedQ.update(from: qx, count: n)
  }

  // MARK: the run

  /// From x as it is.
  func run(_ watch: Watch, _ gram: Gram, isWarm: Bool) throws(UnmergeError) -> Ending {
    if problem.usesFISTA {
      rho = 1.02 * problem.form.norm(point)
      if !(rho > 0) { rho = 1 }
    } else {
      rho = problem.rho
      if !(rho > 0) {
        for j in 0..<n { rho += problem.form.diagonal(j) / Double(n) }
      }
      rho = min(max(rho, 1e-12), 1e12)
    }
    // A start's multipliers: what is left of the gradient, in equal shares.
    stack(x, v)
    if isWarm {
      problem.form.apply(x, qx)
      for j in 0..<n { slope[j] = problem.covers[j] > 0 ? (b[j] - qx[j]) / problem.covers[j] / rho : 0 }
      for (k, term) in terms.enumerated() where term.matrix == nil {
        for i in 0..<term.count { v[problem.offsets[k] + i] += slope[term.atoms?[i] ?? i] }
      }
    }
    try proximal(1 / rho)
    if !isWarm { for i in 0..<m { lambda[i] = 0 } }
    if problem.usesFISTA { restart() }
    measure()
    var end = Ending()
    var stop = watch.poll()
    var last: UInt64 = 0
    var failed: UInt64 = 0
    var (retryAt, forcedAt, balanceAt, proofAt) = (0, 20, 10, 100)
    let goal = watch.tol
    let start = rho
    while stop == nil, iterations < watch.maxIterations {
      if problem.usesFISTA { try stepFISTA() } else { try stepADMM() }
      iterations += 1
      stop = watch.poll()
      guard iterations % 5 == 0 || iterations == watch.maxIterations else { continue }
      measure(isKnown: problem.usesFISTA && problem.form.matrix == nil)
      if problem.form.matrix == nil, merit <= 1e-4, let gap = normGap(), relative(gap, gram) <= 1e-3 * goal { break }
      describe()
      let isSteady = face.signature == last && (face.signature != failed || iterations >= retryAt)
      last = face.signature
      if problem.polishes, isSteady || iterations >= forcedAt || merit <= goal {
        if iterations >= forcedAt { forcedAt = 2 * iterations }
        failed = face.signature
        let gain = merit
        try polish(watch)
        retryAt = 2 * iterations
        if merit < gain, problem.usesFISTA { restart() }
      }
      // Settling on z moves x by what is left of K x − z.
      if merit <= 0.1 * goal { break }
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: 0, total: gram.targets, objective: .nan, relativeGap: merit)
      if problem.usesFISTA { continue }
      if iterations >= proofAt {
        if iterations > 100, primal > 1e-7 { try proveInfeasible() }
        proofAt = iterations + max(50, iterations / 4)
        before.update(from: lambda, count: m)
      }
      if problem.rho == 0, iterations >= balanceAt, iterations < 2000 {
        balanceAt = iterations + max(10, iterations / 5)
        let ratio = dual > 0 ? min(max((primal / dual).squareRoot(), 0.1), 10) : 10
        if ratio > 2 || ratio < 0.5 {
          rho = min(max(rho * ratio, 1e-5 * start), 1e5 * start)
          isFactored = false
        }
      }
    }
    end.iterations = iterations
    settle()
    measure()
    end.certificate = certificate(gram)
    let isMet = merit <= goal || problem.form.matrix == nil && end.certificate.relativeGap <= goal
    if isMet, gram.sensitivity.isFinite { end.df = try degreesOfFreedom() }
    if !isMet {
      end.outcome = stop?.outcome ?? (iterations >= watch.maxIterations ? UNMERGE_ITERATION_LIMIT : UNMERGE_STALLED)
    }
    return end
  }

  /// The duality gap where every atom belongs to one term and all terms are norms: with g = b − Qx and s the largest number in
  /// [0, 1] for which s·g is in all dual balls, ½ (1 − s)² ‖r‖² + Σ [g_i(x) − s gᵀx], a sum of terms ≥ 0. In units of `energy`.
  private func normGap() -> (gap: Double, objective: Double)? {
    guard problem.linear == nil, yy > 0 else { return nil }
    for j in 0..<n where problem.covers[j] != 1 && problem.form.diagonal(j) > 0 { return nil }
    let g = work
    var fit = yy
    for j in 0..<n {
      g[j] = b[j] - qx[j]
      fit -= x[j] * (b[j] + g[j])
    }
    fit = max(fit, 0)
    var s = 1.0
    for round in 0..<2 {
      var (bracket, penalty) = (0.0, 0.0)
      for term in terms {
        guard let call = term.call, term.matrix == nil else { return nil }
        let strength = call.o.alpha / problem.scale / yy.squareRoot() / energy.squareRoot()
        let p = call.weights
        func limit(_ dual: Double, _ bound: Double) { if dual > bound * (1 + 8 * roundoff) { s = min(s, bound / dual) } }
        var (pull, dual, norm) = (0.0, 0.0, 0.0)
        for i in 0..<term.count {
          let j = term.atoms?[i] ?? i
          let a = strength * (p?[i] ?? 1)
          switch term.kind {
          case UNMERGE_PROX_L1, UNMERGE_PROX_NONNEGATIVE_L1:
            if round == 0 { limit(term.kind == UNMERGE_PROX_L1 ? abs(g[j]) : g[j], a) }
            bracket += max(0, a * abs(x[j]) - s * g[j] * x[j])
            penalty += a * abs(x[j])
          case UNMERGE_PROX_L2:
            (pull, dual, norm) = (pull + g[j] * x[j], dual + g[j] * g[j], norm + x[j] * x[j])
          case UNMERGE_PROX_LINF:
            (pull, dual, norm) = (pull + g[j] * x[j], dual + abs(g[j]), max(norm, abs(x[j])))
          default: return nil
          }
        }
        if term.kind == UNMERGE_PROX_L2 { (dual, norm) = (dual.squareRoot(), norm.squareRoot()) }
        if round == 0 { limit(dual, strength) }
        bracket += max(0, strength * norm - s * pull)
        penalty += strength * norm
      }
      if round == 1 { return (0.5 * (1 - s) * (1 - s) * fit + bracket, 0.5 * fit + penalty) }
    }
    return nil
  }

  private func relative(_ gap: (gap: Double, objective: Double), _ gram: Gram) -> Double {
    gap.gap / max(gap.objective, floor(gram) * yy)
  }

  /// x as it is returned: of the terms' own entries where there are some, and exactly what a face pins.
  private func settle() {
    describe()
    for (k, term) in terms.enumerated().reversed() where term.matrix == nil {
      for i in 0..<term.count { x[term.atoms?[i] ?? i] = z[problem.offsets[k] + i] }
    }
    eachPin { x[$0] = $1 / unit }
  }

  /// Atom and value, in the caller's units.
  func eachPin(_ body: (Int, Double) -> Void) {
    for (k, term) in terms.enumerated() where term.matrix == nil {
      let at = problem.offsets[k]
      for i in 0..<term.count where face.isPinned[at + i] { body(term.atoms?[i] ?? i, rawZ[at + i]) }
    }
  }

  /// Writes w. Where one term alone acts on an atom its own number is handed out, as a set left it.
  func deliver(_ w: (Int, Double) -> Void) {
    for j in 0..<n { w(j, unit * x[j]) }
    for (k, term) in terms.enumerated().reversed() where term.matrix == nil {
      for i in 0..<term.count { w(term.atoms?[i] ?? i, rawZ[problem.offsets[k] + i]) }
    }
    eachPin { w($0, $1) }
  }

  private func certificate(_ gram: Gram) -> Certificate {
    var r = Certificate()
    r.violation = merit
    var fit = yy
    var tilt = 0.0
    let share = yy.squareRoot()
    var gap = 0.0
    for j in 0..<n {
      let c = data[j] * share
      fit -= x[j] * (2 * c - qx[j])
      tilt += (c - b[j]) * x[j]
      r.l1 += abs(x[j])
      r.l2 += x[j] * x[j]
      let s = gram.norms[j] / problem.scale
      if slope[j] != 0 { gap += 5 * (slope[j] / s) * (slope[j] / s) * gram.sensitivity }
    }
    r.rss = max(fit, 0)
    r.objective = 0.5 * r.rss + tilt
    for (k, term) in terms.enumerated() {
      let at = problem.offsets[k]
      let s = unit / term.kappa
      var linear = 0.0
      for i in at..<(at + term.count) {
        linear += lambda[i] * (kx[i] - z[i])
        rawV[i] = s * kx[i]
      }
      let value = term.value(rawV + at) / energy
      r.objective += value
      gap += abs(term.isSet ? linear : value - term.value(rawZ + at) / energy - linear)
    }
    r.gap = gap.isFinite ? gap : .nan
    if !gram.sensitivity.isFinite, let known = normGap() { r.gap = known.gap }
    r.relativeGap = r.gap / max(abs(r.objective), floor(gram) * max(yy, 1e-300))
    return r
  }

  /// λ grows without bound along a direction that separates the sets. With δ_i normal to set i at p_i and Σ Kᵢᵀδ_i = 0, every w
  /// has Σ δ_iᵀ(K_i w) = 0, while a common point had Σ δ_iᵀ z_i ≤ Σ δ_iᵀ p_i: a negative sum is the proof.
  private func proveInfeasible() throws(UnmergeError) {
    var (size, length) = (0.0, 0.0)
    for i in 0..<m {
      size += (lambda[i] - before[i]) * (lambda[i] - before[i])
      length = max(length, max(abs(z[i]), abs(kx[i])))
    }
    guard size > 0 else { return }
    if length == 0 { length = 1 }
    let reach = 10 * length / size.squareRoot()
    var (support, norm) = (0.0, 0.0)
    for (k, term) in terms.enumerated() {
      let at = problem.offsets[k]
      guard term.isSet else {
        for i in at..<(at + term.count) { stacked[i] = 0 }
        continue
      }
      let s = unit / term.kappa
      for i in at..<(at + term.count) { stacked[i] = s * (z[i] + reach * (lambda[i] - before[i])) }
      try term.prox(stacked + at, 1, stacked + m + at)
      for i in at..<(at + term.count) {
        stacked[i] = (stacked[i] - stacked[m + i]) / s
        support += stacked[i] * (stacked[m + i] / s)
        norm += stacked[i] * stacked[i]
      }
    }
    norm = norm.squareRoot()
    guard norm > 0, support < -1e-6 * norm * length else { return }
    work.update(repeating: 0, count: n)
    unstack(1, stacked, work)
    guard Vector.dot(n, work, work).squareRoot() <= 1e-7 * norm else { return }
    let distance = -support / norm * unit
    throw UnmergeError(
      UNMERGE_E_INFEASIBLE,
      "the sets of the terms have no point in common: every w misses them by at least \(distance) in Euclidean norm, over "
        + "the terms stacked")
  }

  /// The trace of d(Aw)/dy where the face stays: on its tangent space {d : d = 0 at pins, C d = 0} d(w)/dy is (H restricted)⁻¹Aᵀ,
  /// H = Q + KᵀWK, so it is the dimension of that space where nothing bends, else tr[(H restricted)⁻¹ Q]. NaN for callbacks and
  /// where a matrix term bends. Q is regular.
  private func degreesOfFreedom() throws(UnmergeError) -> Double {
    guard let q = problem.form.matrix, problem.terms.allSatisfy({ $0.call != nil }) else { return .nan }
    for j in 0..<n { old[j] = problem.form.diagonal(j) > 0 ? 0 : 1 }
    var bends = false
    var extra = 0
    for (k, term) in terms.enumerated() {
      for i in 0..<term.count {
        let at = problem.offsets[k] + i
        if face.isPinned[at] {
          if term.matrix == nil { old[term.atoms?[i] ?? i] += 1 } else { extra += 1 }
        } else if face.bend[at] > 0 {
          if term.matrix != nil { return .nan }
          bends = true
        }
      }
    }
    var f = 0
    for j in 0..<n where old[j] == 0 {
      free[f] = j
      f += 1
    }
    guard f > 0 else { return 0 }
    // The rows of C, orthonormal over the free atoms; what depends on earlier ones adds nothing.
    let limit = min(face.rows + extra, f)
    let basis = try allocate(product(limit + 1, f, "the rows of the face"), of: Double.self)
    let whole = work
    var rank = 0
    func add() {
      guard rank < limit else { return }
      let row = basis.pointer + rank * f
      for a in 0..<f { row[a] = whole[free[a]] }
      let size = Vector.dot(f, row, row).squareRoot()
      guard size > 0 else { return }
      for a in 0..<f { row[a] /= size }
      for _ in 0..<2 {
        for s in 0..<rank { Vector.axpy(f, -Vector.dot(f, basis.pointer + s * f, row), basis.pointer + s * f, row) }
      }
      let left = Vector.dot(f, row, row).squareRoot()
      guard left > 1e-8 else { return }
      for a in 0..<f { row[a] /= left }
      rank += 1
    }
    var at = 0
    for s in 0..<face.rows {
      whole.update(repeating: 0, count: n)
      for e in face.start[s]..<face.start[s + 1] {
        // Entries of a row are of one term.
        while at + 1 < terms.count, face.index[e] >= problem.offsets[at + 1] { at += 1 }
        let (term, unitRow) = (terms[at], face.index[e] - problem.offsets[at])
        if let matrix = term.matrix {
          for j in 0..<n { whole[j] += face.weight[e] * matrix[j * term.count + unitRow] }
        } else {
          whole[term.atoms?[unitRow] ?? unitRow] += face.weight[e]
        }
      }
      add()
    }
    for (k, term) in terms.enumerated() {
      guard let matrix = term.matrix else { continue }
      for i in 0..<term.count where face.isPinned[problem.offsets[k] + i] {
        for j in 0..<n { whole[j] = matrix[j * term.count + i] }
        add()
      }
    }
    guard bends else { return Double(f - rank) }
    // H on the tangent space, its complement made stiff; then tr(H⁻¹ P Q P), P the projection.
    let cells = try product(f, f, "the face")
    let (h, inside) = (try allocate(cells, of: Double.self), try allocate(cells, of: Double.self))
    for a in 0..<f { for i in 0..<f { inside[a * f + i] = q[free[a] * n + free[i]] } }
    h.pointer.update(from: inside.pointer, count: cells)
    whole.update(repeating: 0, count: n)
    for (k, term) in terms.enumerated() where term.matrix == nil {
      for i in 0..<term.count { whole[term.atoms?[i] ?? i] += face.bend[problem.offsets[k] + i] }
    }
    for a in 0..<f { h[a * (f + 1)] += whole[free[a]] }
    for (k, term) in terms.enumerated() where term.matrix == nil && face.rankOne[k] > 0 {
      whole.update(repeating: 0, count: n)
      term.applyTransposed(n, 1, face.unit.pointer + problem.offsets[k], whole)
      for a in 0..<f { for i in 0..<f { h[a * f + i] -= face.rankOne[k] * whole[free[a]] * whole[free[i]] } }
    }
    project(inside.pointer, f, basis.pointer, rank)
    project(h.pointer, f, basis.pointer, rank)
    var stiff = 0.0
    for a in 0..<f { stiff = max(stiff, h[a * (f + 1)]) }
    if rank > 0 { Double.gemm(false, true, f, f, rank, stiff, basis.pointer, f, basis.pointer, f, 1, h.pointer, f) }
    guard Symmetric.factor(f, h.pointer) != nil else { return .nan }
    Symmetric.solve(f, factor: h.pointer, inside.pointer, columns: f)
    var trace = 0.0
    for a in 0..<f { trace += inside[a * (f + 1)] }
    return trace
  }

  /// m ← P m P, P = I − BBᵀ with the rows of B orthonormal.
  private func project(_ m: UnsafeMutablePointer<Double>, _ f: Int, _ basis: UnsafePointer<Double>, _ rank: Int) {
    for s in 0..<rank {
      let b = basis + s * f
      // Columns, then rows; m is symmetric.
      for a in 0..<f { Vector.axpy(f, -Vector.dot(f, b, m + a * f), b, m + a * f) }
      for i in 0..<f {
        var sum = 0.0
        for a in 0..<f { sum += b[a] * m[a * f + i] }
        for a in 0..<f { m[a * f + i] -= sum * b[a] }
      }
    }
  }

  // MARK: Newton on the face

  private func save() {
    kept.update(from: x, count: n)
    for (i, part) in [z, lambda, v, rawV, rawZ].enumerated() { (kept + n + i * m).update(from: part, count: m) }
  }

  private func restore() {
    x.update(from: kept, count: n)
    for (i, part) in [z, lambda, v, rawV, rawZ].enumerated() { part.update(from: kept + n + i * m, count: m) }
  }

  /// Residuals count by the sizes they are compared with at the start: a point far away, where everything is large, would
  /// look good by its own. What Newton does not nearly end is given back, for the engine converges from where it is.
  private func polish(_ watch: Watch) throws(UnmergeError) {
    save()
    let start = merit
    let sizes = (primalSize, dualSize)
    let enough = max(watch.tol, 1e-3 * start)
    var best = start
    var isKept = false
    var signature = face.signature
    for round in 0..<20 where iterations < watch.maxIterations {
      if watch.poll() != nil { break }
      guard try newton() else { break }
      iterations += 1
      for i in 0..<m { v[i] = kx[i] + lambda[i] / rho }
      try proximal(1 / rho)
      measure()
      let now = max(
        primal * max(1, sizes.0 > 0 ? primalSize / sizes.0 : 1), dual * max(1, sizes.1 > 0 ? dualSize / sizes.1 : 1))
      guard now.isFinite, now < 1e6 * max(start, 1e-3) else { break }
      if now < best {
        // Rounding: nothing more to gain.
        let isDone = now <= 1e-15 || (now > 0.5 * best && now <= 1e-2 * watch.tol)
        best = now
        if now <= enough {
          save()
          isKept = true
        }
        if isDone { break }
      } else if isKept, best <= 1e-2 * watch.tol {
        break
      }
      describe()
      if face.signature == signature, now >= 0.9 * best, round > 2 { break }
      signature = face.signature
    }
    restore()
    measure()
    describe()
  }

  /// One step from x, z, λ and the face of z; kx and λ are those of the new point. False where the system has no answer.
  private func newton() throws(UnmergeError) -> Bool {
    let offsets = problem.offsets
    let atomOf = { (k: Int, i: Int) -> Int in self.terms[k].atoms?[i] ?? i }
    // x jumps to what is pinned; the rest is free. `old` counts the pins of an atom.
    for j in 0..<n { old[j] = 0 }
    var extra = 0
    for (k, term) in terms.enumerated() {
      for i in 0..<term.count where face.isPinned[offsets[k] + i] {
        if term.matrix == nil {
          x[atomOf(k, i)] = z[offsets[k] + i]
          old[atomOf(k, i)] += 1
        } else {
          extra += 1
        }
      }
    }
    var f = 0
    for j in 0..<n where old[j] == 0 {
      free[f] = j
      f += 1
    }
    let rows = face.rows + extra
    guard rows <= 4 * max(n, 1) else { return false }
    guard let matrix = problem.form.matrix else { return rows == 0 && newtonConjugate() }
    // H = Q + KᵀWK, then its free part, behind it the factor.
    let cells = try product(2 * n, n, "the system")
    if system.count < cells { system = try allocate(cells) }
    let width = try product(n, 3 * rows + 4, "the rows of the face")
    if rowsOf.count < width + rows * rows + 4 * rows { rowsOf = try allocate(width + rows * rows + 4 * rows) }
    let h = system.pointer
    let reduced = h + n * n
    h.update(from: matrix, count: n * n)
    let c = rowsOf.pointer
    let compact = c + n * rows
    let solved = compact + n * rows
    let vectors = solved + n * rows
    let (r, trial, spare) = (vectors, vectors + n, vectors + 2 * n)
    let schur = c + width
    let (e, nu, dnu) = (schur + rows * rows, schur + rows * rows + rows, schur + rows * rows + 2 * rows)
    for (k, term) in terms.enumerated() {
      let at = offsets[k]
      if let matrix = term.matrix {
        var bends = false
        for i in 0..<term.count { bends = bends || face.bend[at + i] > 0 }
        if bends, term.count > 0, n > 0 {
          let scaled = try allocate(product(term.count, n, "K"), of: Double.self)
          for j in 0..<n {
            for i in 0..<term.count { scaled[j * term.count + i] = face.bend[at + i] * matrix[j * term.count + i] }
          }
          Double.gemm(
            true, false, n, n, term.count, 1, matrix.pointer, term.count, scaled.pointer, term.count, 1, h, n)
        }
      } else {
        for i in 0..<term.count { h[atomOf(k, i) * (n + 1)] += face.bend[at + i] }
      }
      if face.rankOne[k] > 0 {
        for j in 0..<n { r[j] = 0 }
        term.applyTransposed(n, 1, face.unit.pointer + at, r)
        Double.gemm(false, true, n, n, 1, -face.rankOne[k], r, n, r, n, 1, h, n)
      }
    }
    // The rows of C K, as columns of n.
    for i in 0..<(n * rows) { c[i] = 0 }
    var row = 0
    var term = 0
    for s in 0..<face.rows {
      var target = 0.0
      for q in face.start[s]..<face.start[s + 1] {
        let i = face.index[q]
        while term + 1 < terms.count, i >= offsets[term + 1] { term += 1 }
        let local = i - offsets[term]
        target += face.weight[q] * z[i]
        if let matrix = terms[term].matrix {
          let count = terms[term].count
          for j in 0..<n { c[row * n + j] += face.weight[q] * matrix[j * count + local] }
        } else {
          c[row * n + atomOf(term, local)] += face.weight[q]
        }
      }
      e[row] = target
      row += 1
    }
    for (k, term) in terms.enumerated() {
      guard let matrix = term.matrix else { continue }
      for i in 0..<term.count where face.isPinned[offsets[k] + i] {
        for j in 0..<n { c[row * n + j] = matrix[j * term.count + i] }
        e[row] = z[offsets[k] + i]
        row += 1
      }
    }
    // e is kept as the right-hand side; the Schur complement needs the free part of C only.
    let targets = dnu + rows
    targets.update(from: e, count: rows)
    var largest = 0.0
    for j in 0..<n { largest = max(largest, h[j * (n + 1)]) }
    guard largest > 0 || f == 0 else { return false }
    if f > 0 {
      for a in 0..<f { for i in 0...a { reduced[a * f + i] = h[free[a] * n + free[i]] } }
      for s in 0..<rows { for a in 0..<f { compact[s * f + a] = c[s * n + free[a]] } }
      solved.update(from: compact, count: f * rows)
      if rows > 0 {
        Double.gemm(false, true, f, f, rows, largest, solved, f, solved, f, 1, reduced, f)
      }
      for a in 0..<f { reduced[a * (f + 1)] += 1e-13 * largest }
      guard Symmetric.factor(f, reduced) != nil else { return false }
      if rows > 0 {
        Symmetric.solve(f, factor: reduced, solved, columns: rows)
        Double.gemm(true, false, rows, rows, f, 1, compact, f, solved, f, 0, schur, rows)
        var top = 0.0
        for s in 0..<rows { top = max(top, schur[s * (rows + 1)]) }
        // Rows that say the same twice, or act on pinned atoms only.
        for s in 0..<rows { schur[s * (rows + 1)] += 1e-13 * top + 1e-300 }
        guard Symmetric.factor(rows, schur) != nil else { return false }
      }
    }
    for s in 0..<rows { nu[s] = 0 }
    stack(x, kx)
    var ready = false
    for round in 0..<4 {
      // r = b − Qx − Kᵀ(λ + W(Kx − z) + Cᵀν)
      tension(nu)
      problem.form.apply(x, spare)
      for j in 0..<n { r[j] = b[j] - spare[j] }
      unstack(-1, stacked, r)
      for s in 0..<rows { e[s] = targets[s] - Vector.dot(n, c + s * n, x) }
      if f == 0 || ready && round == 3 {
        ready = true
        break
      }
      for a in 0..<f { trial[a] = r[free[a]] }
      for s in 0..<rows { Vector.axpy(f, largest * e[s], compact + s * f, trial) }
      Symmetric.solve(f, factor: reduced, trial, columns: 1)
      if rows > 0 {
        for s in 0..<rows { dnu[s] = Vector.dot(f, compact + s * f, trial) - e[s] }
        Symmetric.solve(rows, factor: schur, dnu, columns: 1)
        for s in 0..<rows {
          Vector.axpy(f, -dnu[s], solved + s * f, trial)
          nu[s] += dnu[s]
        }
      }
      for a in 0..<f {
        guard trial[a].isFinite else { return false }
        x[free[a]] += trial[a]
      }
      stack(x, kx)
      ready = true
    }
    // Multipliers of the new point; a pinned atom's belongs to who pins it, in equal shares.
    lambda.update(from: stacked, count: m)
    for (k, term) in terms.enumerated() where term.matrix == nil {
      for i in 0..<term.count where face.isPinned[offsets[k] + i] {
        let j = atomOf(k, i)
        lambda[offsets[k] + i] += r[j] / old[j]
      }
    }
    return ready
  }

  /// The same on a face without C, for Q that is no matrix; x is at its pins and `old` counts them.
  private func newtonConjugate() -> Bool {
    // Early faces are large and most of them wrong: they may take as much again as the engine has.
    guard spent <= 2 * iterations + 50 else { return false }
    let r = conjugate.pointer
    for round in 0..<3 {
      stack(x, kx)
      tension(work)
      problem.form.apply(x, qx)
      for j in 0..<n { r[j] = b[j] - qx[j] }
      unstack(-1, stacked, r)
      if round == 2 { break }
      solveConjugate(isNewton: true, tol: 1e-14)
    }
    lambda.update(from: stacked, count: m)
    for (k, term) in terms.enumerated() where term.matrix == nil {
      for i in 0..<term.count where face.isPinned[problem.offsets[k] + i] {
        let j = term.atoms?[i] ?? i
        lambda[problem.offsets[k] + i] += r[j] / old[j]
      }
    }
    for j in 0..<n where !x[j].isFinite { return false }
    return true
  }

  /// stacked ← λ + W(Kx − z) + Cᵀν
  private func tension(_ nu: UnsafePointer<Double>) {
    for (k, term) in terms.enumerated() {
      let at = problem.offsets[k]
      var along = 0.0
      if face.rankOne[k] > 0 { for i in at..<(at + term.count) { along += face.unit[i] * (kx[i] - z[i]) } }
      for i in at..<(at + term.count) {
        stacked[i] = lambda[i] + face.bend[i] * (kx[i] - z[i])
        if face.rankOne[k] > 0 { stacked[i] -= face.rankOne[k] * along * face.unit[i] }
      }
    }
    for s in 0..<face.rows {
      for q in face.start[s]..<face.start[s + 1] { stacked[face.index[q]] += face.weight[q] * nu[s] }
    }
    var row = face.rows
    for (k, term) in terms.enumerated() where term.matrix != nil {
      for i in problem.offsets[k]..<(problem.offsets[k] + term.count) where face.isPinned[i] {
        stacked[i] += nu[row]
        row += 1
      }
    }
  }
}
