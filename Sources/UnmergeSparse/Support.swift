import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Least squares, or NNLS, on one support after another: what methods do that guess supports.
///
/// `v` and g = ĉ − (Ĝ + μ)v are those of the last fit. Atoms that depend on earlier ones of a support get 0.
final class SupportFit {
  let problem: Quadratic
  let gram: Gram
  let n: Int
  let v: UnsafeMutablePointer<Double>
  let g: UnsafeMutablePointer<Double>
  /// An atom of the last support depends on others of it.
  private(set) var isDeficient = false
  private let positive: Bool
  private let numbers: Buffer<Double>
  private let rhs: UnsafeMutablePointer<Double>
  private let factor: Cholesky
  private var solver: ActiveSet?

  /// `capacity` ≥ atoms in any support.
  init(
    _ gram: Gram, target: Int, capacity: Int, ridge: Double = 0, positive: Bool
  ) throws(UnmergeError) {
    self.gram = gram
    self.positive = positive
    n = gram.atoms
    problem = try Quadratic(
      gram, target: target, alpha: ridge, l1Ratio: 0, weights: nil, bounds: positive ? .positive : .none)
    // A ridge beyond the largest double leaves nothing of an atom, but it must not vanish.
    for j in 0..<n where gram.norms[j] > 0 && problem.lambda[j] == .infinity { problem.mu[j] = 1e300 }
    problem.lambda.update(repeating: .infinity, count: n)
    numbers = try allocate(product(3, n, "the working memory"))
    v = numbers.pointer
    g = v + n
    rhs = g + n
    factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: min(capacity, gram.atoms)) }
    g.update(from: problem.c, count: n)
  }

  /// ‖r‖² / ‖y‖²
  var rss: Double {
    var sum = 1.0
    for j in 0..<n where v[j] != 0 { sum -= v[j] * (problem.c[j] + g[j] + problem.mu[j] * v[j]) }
    return max(sum, 0)
  }

  /// ½‖r‖² + ½ Σ μ v²
  var objective: Double {
    var sum = 1.0
    for j in 0..<n where v[j] != 0 { sum -= v[j] * (problem.c[j] + g[j]) }
    return max(0.5 * sum, 0)
  }

  /// What rounding does to the two above.
  var noise: Double {
    var l1 = 0.0
    for j in 0..<n { l1 += abs(v[j]) }
    return gradientNoise(l1: l1)
  }

  /// The columns of the support are known.
  func fit(_ support: UnsafePointer<Int>, _ count: Int, refine: Bool = false, _ watch: Watch) throws(UnmergeError) {
    if positive { return try fitPositive(support, count, watch) }
    factor.removeAll()
    for i in 0..<count {
      let j = support[i]
      if gram.norms[j] > 0 { _ = factor.append(j, column: gram.column(j), diagonal: 1 + problem.mu[j]) }
    }
    v.update(repeating: 0, count: n)
    isDeficient = factor.count < count
    g.update(from: problem.c, count: n)
    for round in 0..<(refine ? 2 : 1) {
      for (i, j) in factor.order.enumerated() { rhs[i] = g[j] }
      factor.solve(rhs)
      for (i, j) in factor.order.enumerated() { v[j] += rhs[i] }
      if round == 0, refine { problem.gradient(v, g) }
    }
    problem.gradient(v, g)
  }

  private func fitPositive(_ support: UnsafePointer<Int>, _ count: Int, _ watch: Watch) throws(UnmergeError) {
    let solver: ActiveSet
    if let existing = self.solver {
      solver = existing
    } else {
      solver = try ActiveSet(problem)
      self.solver = solver
    }
    problem.lambda.update(repeating: .infinity, count: n)
    for j in 0..<n { solver.v[j] = 0 }
    for i in 0..<count where gram.norms[support[i]] > 0 {
      problem.lambda[support[i]] = 0
      solver.v[support[i]] = max(v[support[i]], 0)
    }
    let end = try solver.run(watch, tol: min(watch.tol, 1e-12), maxIterations: .max)
    isDeficient = end.flags & UNMERGE_FLAG_RANK_DEFICIENT != 0
    v.update(from: solver.v, count: n)
    g.update(from: solver.g, count: n)
  }

  /// The certificate of the last fit as that of its support.
  func certificate(_ support: UnsafePointer<Int>, _ count: Int) -> Certificate {
    problem.lambda.update(repeating: .infinity, count: n)
    for i in 0..<count where gram.norms[support[i]] > 0 && (positive || v[support[i]] != 0) {
      problem.lambda[support[i]] = 0
    }
    var r = problem.certify(v, g)
    (r.gap, r.relativeGap) = (.nan, .nan)
    return r
  }
}
