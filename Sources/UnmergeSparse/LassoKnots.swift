import CUnmerge
import UnmergeCore
import UnmergeLinalg

// The whole path of the LASSO (elastic net with a fixed ridge term), knot by knot
//
//     w(α) = argmin ½‖Aw − y‖² + α Σ π_j |w_j| + μ/2 Σ w_j²,    α_max ≥ α ≥ alpha_min
//
// On a face v moves along a line, v(t − τ) = v(t) + τ p and g(t − τ) = g(t) − τ (Ĝ + μ) p. The next knot is the first τ at which
//
//     |g_j| = (t − τ) ρ_j  outside      or      v_j = 0  inside.
//
// Who crosses it, and with whom, is not decided by rules for ties: the problem is solved a hair below the knot, from where the
// next line begins. One Cholesky solve on the face takes the rounding out of v at the knot.
//
// References: Osborne, Presnell & Turlach 2000; Efron, Hastie, Johnstone & Tibshirani 2004; Tibshirani & Taylor 2011.

private struct Knots {
  var alphas: [Double] = []
  /// n numbers per knot.
  var coef: [Double] = []
  var end = Ending()
}

private func knots(
  _ family: Multiplier, from top: Double, to bottom: Double, limit: Int, _ watch: Watch
) throws(UnmergeError) -> Knots {
  let n = family.gram.atoms
  var found = Knots()
  var isFull = false
  var violation = 0.0

  func note(_ t: Double) {
    isFull = isFull || found.alphas.count == limit
    if isFull { return }
    found.alphas.append(t)
    for j in 0..<n { found.coef.append(family.solver.v[j]) }
    violation = max(violation, family.ending.certificate.violation)
    found.end = family.ending
  }

  var isRunning = try family.solve(top)
  if isRunning { note(top) }
  var t = top
  var face: [Int] = []
  let shift: Buffer<Double> = try allocate(n)
  while isRunning, !isFull, t > bottom {
    // Past the knot, far enough that the face is the new one.
    var hair = 1e-9 * t
    while true {
      isRunning = try family.solve(max(t - hair, 0.5 * (t + bottom)))
      guard isRunning else { break }
      let next = try family.solver.face().sorted()
      if next != face || hair > 1e-6 * t {
        face = next
        break
      }
      hair *= 10
    }
    guard isRunning else { break }
    let p = try family.slope()
    shift.pointer.update(repeating: 0, count: n)
    let (v, g, rho, problem) = (family.solver.v, family.solver.g, family.rho, family.problem)
    for j in face {
      Vector.axpy(n, p[j], family.gram.column(j), shift.pointer)
      shift[j] += problem.mu[j] * p[j]
    }
    var step = family.t - bottom
    // What decays below rounding has no further knots that could be told.
    let noise = 64 * gradientNoise(l1: family.ending.certificate.l1)
    let largest = (0..<n).reduce(0) { problem.lambda[$1] < .infinity ? max($0, problem.lambda[$1]) : $0 }
    let end = max(bottom, family.t * min(1, noise / max(largest, noise)))
    var leaving: Int?
    for j in 0..<n where problem.lambda[j] < .infinity {
      if v[j] != 0 {
        guard rho[j] > 0 || problem.lower[j] == 0, p[j] * v[j] < 0, -v[j] / p[j] < step else { continue }
        (step, leaving) = (-v[j] / p[j], j)
      } else {
        for side in [1.0, -1.0] where side > 0 || problem.lower[j] < 0 {
          // The room (t − τ) ρ − |g| closes.
          let closing = rho[j] - side * shift[j]
          let room = max(0, family.t * rho[j] - side * g[j])
          if closing > 1e-9 * (rho[j] + abs(shift[j])), room < step * closing { (step, leaving) = (room / closing, nil) }
        }
      }
    }
    if family.t - step <= end {
      step = family.t - bottom
      leaving = nil
    }
    t = step == family.t - bottom ? bottom : family.t - step
    try family.advance(by: step, to: t, along: p, leaving: leaving)
    if leaving != nil { t = max(family.t, bottom) }
    note(t)
    if watch.poll() != nil { isRunning = false }
  }
  found.end.iterations = family.ending.iterations
  found.end.certificate.violation = violation
  found.end.outcome =
    isFull
    ? UNMERGE_ITERATION_LIMIT
    : t <= bottom && isRunning
      ? (found.end.certificate.relativeGap <= watch.tol || found.end.certificate.violation <= watch.tol
        ? UNMERGE_CONVERGED : UNMERGE_STALLED)
      : watch.poll()?.outcome
        ?? (family.ending.outcome == UNMERGE_CONVERGED ? UNMERGE_STALLED : family.ending.outcome)
  return found
}

// MARK: the door

extension unmerge_knots_options: Growable {
  package static var defaults: unmerge_knots_options {
    var o = unmerge_knots_options()
    o.struct_size = MemoryLayout<unmerge_knots_options>.size
    o.max_knots = 1000
    return o
  }
}

@_cdecl("unmerge_knots_options_init") @implementation
public func unmerge_knots_options_init(
  _ options: UnsafeMutablePointer<unmerge_knots_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_lasso_knots") @implementation
public func unmerge_lasso_knots(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_knots_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ alphas: UnsafeMutablePointer<Double>?, _ coef: UnsafePointer<unmerge_view>?, _ knots: UnsafeMutablePointer<Int64>?,
  _ report: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    let finite = 0...Double.greatestFiniteMagnitude
    try check(o.alpha_min, "options->alpha_min", finite, "finite and >= 0")
    try check(o.ridge, "options->ridge", finite, "finite and >= 0")
    try check(o.max_knots, "options->max_knots", 1...Int64.max, ">= 1")
    try checkFlag(o.relative, "options->relative")
    try checkFlag(o.positive, "options->positive")
    guard o.target >= 0, o.target < gram.targets else {
      throw .range("options->target is \(o.target); it must be in [0, \(gram.targets))")
    }
    guard let alphas else { throw .null("alphas") }
    guard let knots else { throw .null("knots") }
    let n = gram.atoms
    let target = Int(o.target)
    let weights = try copyWeights(o.weights, n)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: n, columns: Int(o.max_knots))
    try checkResult(report, "report")
    let bounds: Bounds = o.positive == 1 ? .positive : .none
    let found = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let top = try alphaMax(gram, target: target, l1Ratio: 1, weights: weights, bounds: bounds, watch)
      let bottom = o.relative == 1 ? o.alpha_min * top : o.alpha_min
      let rho: Buffer<Double> = try allocate(n)
      for j in 0..<n where gram.norms[j] > 0 { rho[j] = (weights?[j] ?? 1) / gram.norms[j] }
      let family = try Multiplier(
        .penalty, gram, target: target, rho: rho, bounds: bounds, ridge: o.ridge, watch)
      // The solver's α is relative to its unit.
      let unit = family.problem.unit
      var found = try UnmergeSparse.knots(
        family, from: max(top, bottom) / unit, to: bottom / unit, limit: Int(o.max_knots), watch)
      for i in found.alphas.indices { found.alphas[i] *= unit }
      if let last = found.alphas.indices.last, found.end.outcome == UNMERGE_CONVERGED {
        found.alphas[last] = min(bottom, .greatestFiniteMagnitude)
      }
      for i in found.coef.indices where found.coef[i] != 0 { found.coef[i] *= unit / gram.norms[i % n] }
      return found
    }
    let count = found.alphas.count
    for i in 0..<count {
      alphas[i] = found.alphas[i]
      for j in 0..<n { output.set(j, i, found.coef[i * n + j]) }
    }
    knots.pointee = Int64(count)
    let nonzeros = count == 0 ? 0 : (0..<n).reduce(0) { $0 + (found.coef[(count - 1) * n + $1] != 0 ? 1 : 0) }
    store(UnmergeSparse.report(found.end, gram, target: target, nonzeros: nonzeros, watch), report)
  }
}
