import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Unit roundoff of double.
let roundoff = 0x1p-53

/// What can be said of a point v of a `Quadratic`, in units of ‖y‖².
struct Certificate {
  /// Nothing was computed.
  static var unknown: Certificate {
    var c = Certificate()
    c.objective = .nan
    c.rss = .nan
    c.violation = .nan
    return c
  }

  var objective = 0.0
  var rss = 0.0
  /// ‖y‖² − ‖r‖² without their cancellation.
  var explained = 0.0
  /// Bound on F(v) − F*; NaN where none is known.
  var gap = Double.nan
  /// gap / max(F, rounding floor)
  var relativeGap = Double.nan
  /// Largest distance of the gradient from the subdifferential, a correlation.
  var violation = 0.0
  /// ‖p‖², p the smallest subgradient.
  var subgradient = 0.0
  /// ‖v‖₁ and ‖v‖², which rounding errors grow with.
  var l1 = 0.0
  var l2 = 0.0

  /// The residual cannot be told from rounding: 1 − 2ĉᵀv + vᵀĜv is a difference of numbers with the Gram's entry error.
  func isExplained(_ gram: Gram) -> Bool { rss <= floor(gram) * (1 + l2) }
}

/// Below this fraction of ‖y‖² an objective computed from the Gram means nothing.
func floor(_ gram: Gram) -> Double { max(8 * Double(max(gram.atoms, 1)) * roundoff, gram.precision.entryError) }

/// What the rounding of its own evaluation does to a gradient.
func gradientNoise(l1: Double) -> Double { 16 * roundoff * (1 + l1) }

/// A correlation with the residual at or below this is noise of the Gram, not a reason to take an atom in.
func correlationFloor(_ gram: Gram, l2: Double) -> Double {
  max(1e-10, 2 * gram.precision.entryError * max(1, l2.squareRoot()))
}

extension Quadratic {
  /// Element j of the smallest subgradient of −F at v, g being ĉ − Ĝv − μv − τ: 0 where v_j is optimal given the others.
  @inline(__always)
  func descent(_ j: Int, _ v: Double, _ g: Double) -> Double {
    let l = lambda[j]
    // Upwards, then downwards; a bound forbids one of them.
    let up = v >= 0 ? g - l : g + l
    if up > 0 { return v < upper[j] ? up : 0 }
    let down = v <= 0 ? g + l : g - l
    return down < 0 && v > lower[j] ? down : 0
  }

  /// The duality gap without cancellation. With h_j(x) = λ_j |x| within the bounds, h_j* its conjugate and N = ‖r‖² + Σ μ v²,
  /// the dual point s·r has
  ///
  ///     gap = ½ (1 − s)² N + Σ_j [ h_j(v_j) + h_j*(s g_j) − s g_j v_j ],
  ///
  /// a sum of non-negative terms by Fenchel and Young (for the LASSO: Kim, Koh, Lustig, Boyd & Gorinevsky 2007, rearranged).
  /// Where v_j may grow without bound, h_j* is finite for s g_j ≤ λ_j only: s is the largest in [0, 1] that allows it. An
  /// unpenalised, unbounded atom needs g_j = 0 for any s > 0: it is granted the rounding of g, beyond that s = 0 and the gap
  /// is honest and useless. A gradient that exceeds λ_j by rounding alone, as at α = α_max, does not limit s.
  ///
  /// `rss` is the residual where it is known better than from the Gram, in units of ‖y‖².
  ///
  /// Without a norm (least squares, ridge, NNLS) the gap stays NaN; see `Curvature`.
  func certify(_ v: UnsafePointer<Double>, _ g: UnsafePointer<Double>, rss: Double? = nil) -> Certificate {
    var r = Certificate()
    var ridge = 0.0
    var norm = 0.0
    var (hasNorm, isEmpty) = screen(v, g)
    let candidates = UnsafeBufferPointer(start: self.candidates, count: candidateCount)
    for j in candidates where v[j] != 0 {
      let x = v[j]
      r.l1 += abs(x)
      r.l2 += x * x
      // ‖y‖² − ‖r‖² = ĉᵀv + vᵀ(ĉ − Ĝv)
      let t = tilt?[j] ?? 0
      r.explained += x * (c[j] + g[j] + mu[j] * x + t)
      norm += t * x
      ridge += mu[j] * x * x
      if lambda[j] < .infinity { norm += lambda[j] * abs(x) }
    }
    let noise = gradientNoise(l1: r.l1)
    var s = 1.0
    for j in candidates {
      let l = lambda[j]
      guard l < .infinity else { continue }
      isEmpty = false
      let (isOpenAbove, isOpenBelow) = (upper[j] == .infinity, lower[j] == -.infinity)
      if l > 0 || !(isOpenAbove || isOpenBelow) { hasNorm = true }
      let p = abs(descent(j, v[j], g[j]))
      r.violation = max(r.violation, p)
      r.subgradient += p * p
      let size = max(isOpenAbove ? g[j] : 0, isOpenBelow ? -g[j] : 0)
      if size > l * (1 + 8 * roundoff) { s = l > 0 ? min(s, l / size) : size > noise ? 0 : s }
    }
    r.rss = rss ?? max((gram.targetNorms[target] > 0 ? 1 : 0) - r.explained, 0)
    r.objective = 0.5 * r.rss + 0.5 * ridge + norm
    guard hasNorm else {
      if isEmpty { set(gap: 0, &r) }
      return r
    }
    var gap = 0.5 * (1 - s) * (1 - s) * (r.rss + ridge)
    for j in candidates where lambda[j] < .infinity && (v[j] != 0 || abs(s * g[j]) > lambda[j]) {
      gap += slack(j, v[j], s * g[j])
    }
    set(gap: gap, &r)
    return r
  }

  /// Lists the candidates: all atoms but those that the norm holds at 0, which violate nothing, limit nothing and add nothing.
  /// In a sparse answer those are most, so this loop has no branch. Whether some of them has a norm, and whether none can move.
  private func screen(_ v: UnsafePointer<Double>, _ g: UnsafePointer<Double>) -> (hasNorm: Bool, isEmpty: Bool) {
    let (lambda, candidates) = (self.lambda, self.candidates)
    var count = 0
    var held = 0
    for j in 0..<n {
      let (l, x, size) = (lambda[j], v[j], abs(g[j]))
      let isHeld = (l > 0 ? 1 : 0) & (x == 0 ? 1 : 0) & (size <= l ? 1 : 0)
      candidates[count] = j
      count &+= 1 &- isHeld
      held &+= isHeld & (l < .infinity ? 1 : 0)
    }
    candidateCount = count
    return (held > 0, held == 0)
  }

  /// h_j(x) + h_j*(z) − z x ≥ 0. The conjugate is reached at y: at a bound where z pulls harder than λ, else nearest to 0.
  private func slack(_ j: Int, _ x: Double, _ z: Double) -> Double {
    let l = lambda[j]
    var y = clamp(j, 0)
    if z > l, upper[j] < .infinity { y = upper[j] }
    if z < -l, lower[j] > -.infinity { y = lower[j] }
    if x * y < 0 { return max(0, abs(x) * l - z * x) + max(0, z * y - abs(y) * l) }
    let value = (x - y) * ((x + y < 0 ? -l : l) - z)
    return l > 0 ? max(0, value) : abs(value)
  }

  func set(gap: Double, _ r: inout Certificate) {
    r.gap = gap
    r.relativeGap = gap / max(r.objective, floor(gram))
  }

  /// Takes the bound of `Curvature` where it is smaller than the gap we have, or we have none.
  ///
  /// At a solution p is rounding and ½ ‖p‖² ‖Ĝ⁻¹‖ suffices, with ‖Ĝ⁻¹‖₂ ≤ ‖Ĝ⁻¹‖₁; the estimate of it errs downwards, hardly
  /// ever by more than 3 (Higham 2002, §15.3), and 10 is granted. Where that is not far below `tol` the matrix is factored,
  /// once for all targets if they share `curvature`.
  func tighten(
    _ r: inout Certificate, _ v: UnsafePointer<Double>, _ g: UnsafePointer<Double>, tol: Double,
    _ curvature: SharedCurvature?
  ) throws(UnmergeError) {
    guard gram.isComplete else { return }
    var bound = 5 * r.subgradient * gram.sensitivity
    if !(bound <= 1e-3 * tol * max(r.objective, floor(gram))) {
      let h = if let curvature { try curvature.of(self) } else { try Curvature(self) }
      guard let h else { return }
      bound = try h.bound(self, v, g)
    }
    if !(r.gap <= bound) { set(gap: bound, &r) }
  }
}

/// H = Ĝ + μ, factored, for the bound that needs no norm: F is ½‖·‖²_H plus something convex, so with p the smallest
/// subgradient at v, F(v) − F* ≤ ½ pᵀH⁻¹p.
struct Curvature: Sendable {
  private let factor: DenseCholesky

  /// Nil where H is on demand or numerically singular.
  init?(_ problem: Quadratic) throws(UnmergeError) {
    guard problem.gram.isComplete, problem.n > 0 else { return nil }
    let n = problem.n
    let shift = try allocate(n, of: Double.self)
    for j in 0..<n { shift[j] = problem.gram.norms[j] > 0 ? problem.mu[j] : 1 }
    let factor = try allocating { () throws(OutOfMemory) in
      try DenseCholesky(n, problem.gram.column(0), addingToDiagonal: shift.pointer)
    }
    guard let factor, factor.condition < 1e14 else { return nil }
    self.factor = factor
  }

  func bound(_ problem: Quadratic, _ v: UnsafePointer<Double>, _ g: UnsafePointer<Double>) throws(UnmergeError) -> Double {
    let n = problem.n
    let p = try allocate(n, of: Double.self)
    var any = false
    for j in 0..<n {
      p[j] = problem.descent(j, v[j], g[j])
      any = any || p[j] != 0
    }
    guard any else { return 0 }
    let x = try allocating { () throws(OutOfMemory) in try p.copy() }
    factor.solve(x.pointer)
    return max(0, 0.5 * Vector.dot(n, p.pointer, x.pointer))
  }
}

/// The `Curvature` of problems that differ in their target only, factored when the first of them asks.
final class SharedCurvature: @unchecked Sendable {
  private let lock = Lock()
  private var isMade = false
  private var made: Curvature?

  func of(_ problem: Quadratic) throws(UnmergeError) -> Curvature? {
    try lock.locked { () throws(UnmergeError) in
      if !isMade { made = try Curvature(problem) }
      isMade = true
      return made
    }
  }
}

/// How a method ended for one target.
struct Ending {
  var outcome = UNMERGE_CONVERGED
  var flags: Int32 = 0
  var iterations = 0
  var certificate = Certificate()
  /// Effective degrees of freedom; NaN where there is no formula.
  var df = Double.nan
}

/// The report of one target. `sensitivity` is that of what was solved, where it is better than the Gram's (ridge).
func report(
  _ end: Ending, _ gram: Gram, target t: Int, unit: Double? = nil, nonzeros: Int, sensitivity: Double? = nil, _ watch: Watch
) -> unmerge_report {
  var r = unmerge_report.defaults
  let yNorm = gram.targetNorms[t]
  // A Gram may hold ‖y‖² beyond the largest double's root only by being damaged; products below then say so with infinity.
  let yy = yNorm * yNorm
  let squared = unit.map { $0 * $0 } ?? yy
  let c = end.certificate
  r.outcome = end.outcome
  r.flags = end.flags
  if gram.hasZeroAtom { r.flags |= UNMERGE_FLAG_ZERO_ATOM }
  if Double.minimum(sensitivity ?? gram.sensitivity, gram.sensitivity) * gram.precision.entryError > 1e-6 {
    r.flags |= UNMERGE_FLAG_REDUCED_ACCURACY
  }
  r.iterations = Int64(end.iterations)
  r.nonzeros = Int64(nonzeros)
  r.passes = Int64(gram.passes)
  r.objective = squared * c.objective
  r.duality_gap = squared * c.gap
  r.relative_gap = c.relativeGap
  r.violation = c.violation
  r.rss = squared * c.rss
  r.yy = yy
  r.r2 = yy > 0 ? 1 - c.rss : 0
  r.condition = gram.condition
  r.seconds = watch.seconds
  r.df = end.df
  return r
}
