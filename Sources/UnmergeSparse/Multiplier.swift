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
  private let watch: Watch
  private(set) var t = 0.0
  private(set) var ending = Ending()
  /// The norm is at most this factor above the smallest that fits as well; see `BasisPursuit`.
  var stretch = 1.0
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
    _ kind: Kind, _ gram: Gram, target: Int, rho: Buffer<Double>, bounds: Bounds, _ watch: Watch
  ) throws(UnmergeError) {
    (self.kind, self.gram, self.target, self.rho, self.bounds, self.watch) = (kind, gram, target, rho, bounds, watch)
    direction = try allocate(gram.atoms)
    scratch = try allocate(gram.atoms)
    below = try allocate(gram.atoms)
    above = try allocate(gram.atoms)
    solver = try ActiveSet(try Quadratic(gram, target: target, alpha: 0, l1Ratio: 1, weights: nil, bounds: bounds))
  }

  var problem: Quadratic { solver.problem }

  /// Goes to the solution at t; false when the run has been stopped.
  func solve(_ t: Double) throws(UnmergeError) -> Bool {
    self.t = t
    let next = try Quadratic(gram, target: target, alpha: 0, l1Ratio: 1, weights: nil, bounds: bounds)
    switch kind {
    case .penalty: for j in 0..<gram.atoms where next.lambda[j] < .infinity { next.lambda[j] = t * rho[j] }
    case .tilt:
      let tilt: Buffer<Double> = try allocate(gram.atoms)
      for j in 0..<gram.atoms { tilt[j] = t * rho[j] }
      next.tilt = tilt
    }
    solver.change(to: next)
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
  /// change of t. True when it was found to `precision`, or the bracket is no wider than `resolution`: there the solution is
  /// not unique, those of both sides are solutions, and so is the mixture that has no excess.
  func find(
    from start: Double, precision: Double, resolution: Double = 0, excess: () -> Double,
    step: () throws(UnmergeError) -> Double
  ) throws(UnmergeError) -> Bool {
    var next = start
    for round in 1...200 {
      guard try solve(next) else { return false }
      let value = excess()
      if abs(value) <= precision { return true }
      remember(value)
      let change = try step()
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

  /// Certifies v as it is, at t = 0.
  func rest(after more: Int) throws(UnmergeError) {
    t = 0
    iterations += more
    solver.change(to: try Quadratic(gram, target: target, alpha: 0, l1Ratio: 1, weights: nil, bounds: bounds))
    ending = try solver.run(watch, tol: watch.tol, maxIterations: 0)
    ending.iterations = iterations
  }
}
