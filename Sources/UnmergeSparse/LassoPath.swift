import CUnmerge
import UnmergeCore
import UnmergeLinalg

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

// A path of elastic nets over a decreasing grid
//
//     α_i = α_max · alpha_min_ratio^(i / (n_alphas − 1))
//
// Each problem starts from the solution of the one before: its support is solved for at the new α first (one Cholesky solve
// on a factor that is still there), then whoever violates enters. Most steps change a few atoms. Every point is certified
// by itself and equals a single solve.
//
// References: Friedman, Hastie & Tibshirani 2010; Efron, Hastie, Johnstone & Tibshirani 2004 (the path is piecewise linear).

/// `visit` is shown the points in descending order of α, with their coefficients, and may end the path there.
func path(
  _ net: ElasticNet, _ gram: Gram, target: Int, _ alphas: Buffer<Double>, _ watch: Watch,
  findsDF: Bool = true, visit: (_ i: Int, _ coef: UnsafePointer<Double>) -> Bool = { _, _ in true }
) throws(UnmergeError) -> Answers {
  let count = alphas.count
  let answers = try Answers(gram.atoms, count)
  let order = try allocate(count, of: Int.self)
  for i in 0..<count { order[i] = i }
  var descending = UnsafeMutableBufferPointer(start: order.pointer, count: count)
  descending.sort { alphas[$0] != alphas[$1] ? alphas[$0] > alphas[$1] : $0 < $1 }
  var solver: ActiveSet?
  var stop: Stop?
  for i in descending {
    stop = stop ?? watch.poll()
    if let stop, let solver {
      // The rest of the grid was not reached: the last coefficients stand for it, and nothing is certified.
      var end = Ending(outcome: stop.outcome)
      end.certificate = .unknown
      answers.set(i, gram, target: target, solver.v, end, watch)
    } else if gram.targetNorms[target] == 0, net.bounds.holdsZero(gram.atoms) {
      answers.set(i, gram, target: target, nil, emptyEnding(df: 0), watch)
    } else if alphas[i] == 0 || net.l1Ratio == 0, net.bounds.isEmpty, watch.maxIterations > 0 {
      try LeastSquares(gram, alpha: alphas[i], weights: net.weights, watch, findsDF: findsDF)
        .answer(target, answers, column: i, watch)
    } else {
      // Without a ridge term α has no part in g.
      let continues = solver != nil && net.l1Ratio == 1
      let warm: ActiveSet
      if let solver {
        warm = solver
        warm.change(alpha: alphas[i], l1Ratio: net.l1Ratio, weights: net.weights)
      } else {
        let first = try Quadratic(
          gram, target: target, alpha: alphas[i], l1Ratio: net.l1Ratio, weights: net.weights, bounds: net.bounds)
        warm = try ActiveSet(first)
        solver = warm
      }
      var end = try warm.run(watch, tol: watch.tol, maxIterations: watch.maxIterations, continuing: continues)
      if findsDF { end.df = try warm.degreesOfFreedom() }
      answers.set(i, warm.problem, warm.v, end, watch)
    }
    if !visit(i, answers.coefficients(i)) { break }
  }
  return answers
}

/// α_max · ratio^(i / (count − 1)), or the caller's α in any order. Ridge has no α_max: its grid begins at the trace of G.
struct AlphaGrid: Sendable {
  private let given: Buffer<Double>?
  private let count: Int
  private let ratio: Double

  init(_ pointer: UnsafePointer<Double>?, count: Int, ratio: Double) throws(UnmergeError) {
    self.count = count
    self.ratio = ratio
    guard let pointer else {
      given = nil
      return
    }
    let copy = try allocate(count, of: Double.self)
    for i in 0..<copy.count {
      copy[i] = UnsafeRawPointer(pointer + i).loadUnaligned(as: Double.self)
      try check(copy[i], "options->alphas[\(i)]", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    }
    given = copy
  }

  func values(_ net: ElasticNet, _ gram: Gram, target: Int, _ watch: Watch) throws(UnmergeError) -> Buffer<Double> {
    if let given { return given }
    let grid = try allocate(count, of: Double.self)
    var largest = 0.0
    if net.l1Ratio > 0 {
      largest = try alphaMax(
        gram, target: target, l1Ratio: net.l1Ratio, weights: net.weights, bounds: net.bounds, watch)
    } else {
      for j in 0..<gram.atoms { largest = min(largest + gram.norms[j] * gram.norms[j], .greatestFiniteMagnitude) }
    }
    let step = log(ratio) / Double(max(1, count - 1))
    for i in 0..<count { grid[i] = largest * exp(step * Double(i)) }
    return grid
  }
}

/// A grid of our own begins at α_max.
func checkGrid(_ alphas: UnsafePointer<Double>?, _ bounds: Bounds, _ gram: Gram) throws(UnmergeError) {
  guard alphas != nil || bounds.holdsZero(gram.atoms) else {
    throw .range(
      "options->alphas is NULL, but the bounds exclude 0 for some atom: no alpha_max to begin from; give alphas")
  }
}

func checkTarget(_ target: Int64, _ gram: Gram) throws(UnmergeError) -> Int {
  guard target >= 0, target < gram.targets else {
    throw .range("options->target is \(target); it must be in [0, \(gram.targets))")
  }
  return Int(target)
}

extension unmerge_path_options: Growable {
  package static var defaults: unmerge_path_options {
    var o = unmerge_path_options()
    o.struct_size = MemoryLayout<unmerge_path_options>.size
    o.l1_ratio = 1
    o.alpha_min_ratio = 1e-3
    o.n_alphas = 100
    return o
  }
}

@_cdecl("unmerge_path_options_init") @implementation
public func unmerge_path_options_init(
  _ options: UnsafeMutablePointer<unmerge_path_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_lasso_path") @implementation
public func unmerge_lasso_path(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_path_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ alphas: UnsafeMutablePointer<Double>?, _ coef: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    guard o.l1_ratio > 0, o.l1_ratio <= 1 else {
      throw .range("options->l1_ratio is \(o.l1_ratio); it must be in (0, 1]")
    }
    guard o.alpha_min_ratio > 0, o.alpha_min_ratio < 1 else {
      throw .range("options->alpha_min_ratio is \(o.alpha_min_ratio); it must be in (0, 1)")
    }
    try check(o.n_alphas, "options->n_alphas", 1...Int64.max, ">= 1")
    let target = try checkTarget(o.target, gram)
    try checkFlag(o.positive, "options->positive")
    try checkReserved(o.reserved, "options->reserved")
    let weights = try copyWeights(o.weights, gram.atoms)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: Int(o.n_alphas))
    try checkResult(reports, "reports")
    let bounds = try Bounds(o.lower, o.upper, positive: o.positive == 1, count: gram.atoms)
    let alphaGrid = try AlphaGrid(o.alphas, count: Int(o.n_alphas), ratio: o.alpha_min_ratio)
    try checkGrid(o.alphas, bounds, gram)
    let net = ElasticNet(alpha: 0, l1Ratio: o.l1_ratio, weights: weights, bounds: bounds)
    let (grid, answers) = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let grid = try alphaGrid.values(net, gram, target: target, watch)
      return (grid, try path(net, gram, target: target, grid, watch))
    }
    answers.deliver(output, reports)
    alphas?.update(from: grid.pointer, count: grid.count)
  }
}
