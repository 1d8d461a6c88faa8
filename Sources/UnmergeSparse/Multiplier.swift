import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Solutions of a family of `Quadratic`s along one multiplier, and the member at which a monotone function of the solution
/// takes a given value.
///
/// As long as the face does not change, v moves along a line (λ_j = t ρ_j, or a tilt τ_j = t ρ_j):
///
///     v(t + δ) = v(t) − δ p,   p_F = Ĥ_FF⁻¹ q_F,   q_j = ρ_j sign(v_j) or ρ_j,
///
/// so on each face the function is a polynomial whose root is known. Newton's method from face to face, held in a bracket:
/// once the face is the right one the next step is exact, and there are finitely many faces.
final class Multiplier {
  enum Kind {
    /// λ = t ρ
    case penalty
    /// τ = t ρ
    case tilt
  }

  let kind: Kind
  let gram: Gram
  let target: Int
  let rho: Buffer<Double>
  let solver: ActiveSet
  private let bounds: Bounds
  /// A fixed ridge term, in the caller's units.
  private let ridge: Double
  private let watch: Watch
  private(set) var t = 0.0
  private(set) var ending = Ending()
  /// No solution that fits as well has a smaller norm; see `BasisPursuit`.
  var least = 0.0
  private var iterations = 0
  /// p on the face, n numbers, 0 elsewhere.
  private let direction: Buffer<Double>
  private let scratch: Buffer<Double>
  /// Either side of the root: t, how far the function is from its goal, v.
  private var (low, high) = (0.0, 0.0)
  private var (lowExcess, highExcess) = (0.0, 0.0)
  private let below: Buffer<Double>
  private let above: Buffer<Double>

  init(
    _ kind: Kind, _ gram: Gram, target: Int, rho: Buffer<Double>, bounds: Bounds, ridge: Double = 0, _ watch: Watch
  ) throws(UnmergeError) {
    (self.kind, self.gram, self.target, self.rho, self.bounds) = (kind, gram, target, rho, bounds)
    (self.ridge, self.watch) = (ridge, watch)
    direction = try allocate(gram.atoms)
    scratch = try allocate(gram.atoms)
    below = try allocate(gram.atoms)
    above = try allocate(gram.atoms)
    solver = try ActiveSet(try Self.member(gram, target, bounds, ridge))
  }

  /// The problem at t = 0.
  private static func member(
    _ gram: Gram, _ target: Int, _ bounds: Bounds, _ ridge: Double
  ) throws(UnmergeError) -> Quadratic {
    try Quadratic(gram, target: target, alpha: ridge, l1Ratio: 0, weights: nil, bounds: bounds)
  }

  private func family() throws(UnmergeError) -> Quadratic { try Self.member(gram, target, bounds, ridge) }

  var problem: Quadratic { solver.problem }

  /// The problem at t, with v as it is.
  private func change(to t: Double) throws(UnmergeError) {
    self.t = t
    let next = try family()
    switch kind {
    case .penalty: for j in 0..<gram.atoms where next.lambda[j] < .infinity { next.lambda[j] = t * rho[j] }
    case .tilt:
      let tilt: Buffer<Double> = try allocate(gram.atoms)
      for j in 0..<gram.atoms { tilt[j] = t * rho[j] }
      next.tilt = tilt
    }
    solver.change(to: next)
  }

  /// Goes to the solution at t; false when the run has been stopped.
  func solve(_ t: Double) throws(UnmergeError) -> Bool {
    try change(to: t)
    // Far past what is asked for: where the face is right, one Cholesky solve is exact.
    ending = try solver.run(watch, tol: min(watch.tol, 1e-14), maxIterations: watch.maxIterations)
    iterations += ending.iterations
    ending.iterations = iterations
    return watch.poll() == nil && ending.outcome != UNMERGE_ITERATION_LIMIT
  }

  /// p of the face.
  func slope() throws(UnmergeError) -> Buffer<Double> {
    let face = try solver.face()
    for (i, j) in face.enumerated() { scratch[i] = kind == .tilt || solver.v[j] > 0 ? rho[j] : -rho[j] }
    solver.solveOnFace(scratch.pointer)
    direction.pointer.update(repeating: 0, count: gram.atoms)
    for (i, j) in face.enumerated() { direction[j] = scratch[i] }
    return direction
  }

  /// From t to `next` = t − τ along p, the line of the face, to where `leaving` reaches 0; the rounding of both is solved away on the
  /// face.
  func advance(by tau: Double, to next: Double, along p: Buffer<Double>, leaving: Int?) throws(UnmergeError) {
    let (v, g) = (solver.v, solver.g)
    let face = try solver.face()
    for j in face { v[j] += tau * p[j] }
    if let leaving { v[leaving] = 0 }
    try change(to: next)
    solver.problem.gradient(v, g)
    // The atom at 0 takes part in the solve as it has on the way, with the sign it had.
    for (i, j) in face.enumerated() {
      let sign = j == leaving ? (p[j] > 0 ? -1.0 : 1.0) : v[j] < 0 ? -1.0 : 1.0
      scratch[i] = g[j] - next * rho[j] * sign
    }
    solver.solveOnFace(scratch.pointer)
    for (i, j) in face.enumerated() { v[j] += scratch[i] }
    // What it is off 0 now is how far the knot was off.
    if let leaving {
      let rest = -v[leaving] / p[leaving]
      for j in face { v[j] += rest * p[j] }
      v[leaving] = 0
      try change(to: max(0, next - rest))
    }
    ending = try solver.run(watch, tol: watch.tol, maxIterations: 0)
    ending.iterations = iterations
  }

  /// Σ ρ_j |v_j|, or Σ ρ_j v_j of a tilt.
  var size: Double {
    var sum = 0.0
    for j in 0..<gram.atoms where solver.v[j] != 0 { sum += rho[j] * (kind == .tilt ? solver.v[j] : abs(solver.v[j])) }
    return sum
  }

  /// How fast `size` falls as t grows.
  func decline(_ p: Buffer<Double>) -> Double {
    var sum = 0.0
    for j in 0..<gram.atoms where p[j] != 0 { sum += rho[j] * p[j] * (kind == .tilt || solver.v[j] > 0 ? 1 : -1) }
    return max(sum, 0)
  }

  /// From v(t) to v(t + δ) along the line of the face, which `slope` has found, when that is a small step and stays on it: exact
  /// where a solve at t + δ would leave its own rounding. False when v was left alone.
  func follow(_ delta: Double) throws(UnmergeError) -> Bool {
    let (v, problem) = (solver.v, solver.problem)
    var (size, moved) = (0.0, 0.0)
    guard delta.isFinite, kind == .tilt || t + delta >= 0 else { return false }
    for j in 0..<gram.atoms where v[j] != 0 {
      let x = v[j] - delta * direction[j]
      guard direction[j] == 0 || problem.isFree(j, x) && (problem.lambda[j] == 0 || x * v[j] > 0) else { return false }
      size = max(size, abs(v[j]))
      moved = max(moved, abs(delta * direction[j]))
    }
    guard moved <= 1e-4 * size else { return false }
    for j in 0..<gram.atoms where direction[j] != 0 { v[j] -= delta * direction[j] }
    try change(to: t + delta)
    ending = try solver.run(watch, tol: min(watch.tol, 1e-14), maxIterations: 0)
    ending.iterations = iterations
    return true
  }

  /// Σ ρ_j |v_j|, which the rounding of `size` goes with.
  var gross: Double {
    var sum = 0.0
    for j in 0..<gram.atoms { sum += rho[j] * abs(solver.v[j]) }
    return sum
  }

  /// Takes note of the solution at t on its side of the root: true of the side where `excess` is positive.
  func remember(_ excess: Double) {
    if excess > 0 {
      (low, lowExcess) = (t, excess)
      below.pointer.update(from: solver.v, count: gram.atoms)
    } else {
      (high, highExcess) = (t, excess)
      above.pointer.update(from: solver.v, count: gram.atoms)
    }
  }

  /// Finds t between the two sides remembered with `excess`(solution) = 0. `step` gives the root of the current face as a
  /// change of t. True when it was found to `precision`(solution), or the bracket is no wider than `resolution`: there the solution is
  /// not unique, those of both sides are solutions, and so is the mixture that has no excess.
  ///
  /// True as well where t falls below `least`: the root is one of rounding, as where a budget is the norm of least squares to the
  /// last digits, and the certificate at hand says what the answer is worth.
  func find(
    from start: Double, precision: () -> Double, resolution: Double = 0, least: Double = -.infinity, excess: () -> Double,
    step: () throws(UnmergeError) -> Double
  ) throws(UnmergeError) -> Bool {
    var next = start
    for round in 1...200 {
      guard try solve(next) else { return false }
      let value = excess()
      if abs(value) <= precision() { return true }
      remember(value)
      let change = try step()
      if try follow(change), abs(excess()) <= 8 * precision() { return true }
      if next < least { return true }
      // The root of this face is where we are, but for rounding.
      if abs(change) <= 4 * roundoff * abs(next), resolution == 0 { return true }
      let newton = next + change
      let middle = low > 0 && high > 4 * low ? (low * high).squareRoot() : 0.5 * (low + high)
      next = newton > low && newton < high && round % 8 != 0 ? newton : middle
      if high - low <= resolution || !(next > low && next < high) {
        if resolution > 0 { try mix(lowExcess / (lowExcess - highExcess)) }
        return true
      }
    }
    return false
  }

  /// v ← (1 − share) below + share above.
  private func mix(_ share: Double) throws(UnmergeError) {
    for j in 0..<gram.atoms { solver.v[j] = below[j] == above[j] ? above[j] : below[j] + share * (above[j] - below[j]) }
    ending = try solver.run(watch, tol: watch.tol, maxIterations: 0)
    ending.iterations = iterations
  }

  /// v ← s v, certified.
  func scale(by s: Double) throws(UnmergeError) {
    for j in 0..<gram.atoms { solver.v[j] *= s }
    ending = try solver.run(watch, tol: watch.tol, maxIterations: 0)
    ending.iterations = iterations
  }

  /// Certifies v as it is, at t = 0.
  func rest(after more: Int) throws(UnmergeError) {
    t = 0
    iterations += more
    solver.change(to: try family())
    ending = try solver.run(watch, tol: watch.tol, maxIterations: 0)
    ending.iterations = iterations
  }
}
