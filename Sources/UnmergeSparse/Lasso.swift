import CUnmerge
import UnmergeCore
import UnmergeLinalg

// LASSO and elastic net
//
//     minimise  ½‖Aw − y‖² + α l1_ratio Σ π_j |w_j| + α (1 − l1_ratio)/2 Σ π_j w_j²,   ℓ ≤ w ≤ u
//
// `ActiveSet` solves it, `Quadratic.certify` proves it. Without an l1 term and without bounds it is ridge or least squares
// and goes to `LeastSquares`.
//
// References: Tibshirani 1996; Zou & Hastie 2005; Friedman, Hastie & Tibshirani 2010.

struct ElasticNet: Sendable {
  var alpha: Double
  var l1Ratio: Double
  var weights: Buffer<Double>?
  /// α is a fraction of α_max.
  var isRelative = false
  var bounds = Bounds.none
  var warmStart = false

  func answer(_ gram: Gram, _ watch: Watch, _ output: Output) throws(UnmergeError) -> Answers {
    let n = gram.atoms
    let start = warmStart ? try readWarmStart(output, gram) : nil
    if isSmooth, bounds.isEmpty, watch.maxIterations > 0 {
      return try leastSquares(gram, alpha: alpha, weights: weights, watch)
    }
    let answers = try Answers(n, gram.targets)
    // Without an l1 term H is the same for every target.
    let curvature = isSmooth ? SharedCurvature() : nil
    let holdsZero = bounds.holdsZero(n)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      guard gram.targetNorms[t] > 0 || !holdsZero else {
        return answers.set(t, gram, target: t, nil, emptyEnding(df: 0), watch)
      }
      var scale = 1.0
      if isRelative {
        scale = try alphaMax(gram, target: t, l1Ratio: l1Ratio, weights: weights, bounds: bounds, watch)
      }
      let problem = try Quadratic(
        gram, target: t, alpha: alpha * scale, l1Ratio: l1Ratio, weights: weights, bounds: bounds)
      let solver = try ActiveSet(problem)
      if let start { scaleWarmStart(start.pointer + t * n, problem, solver.v) }
      var end = try solver.run(watch, tol: watch.tol, maxIterations: watch.maxIterations, curvature: curvature)
      end.df = try solver.degreesOfFreedom()
      answers.set(t, problem, solver.v, end, watch)
      // What has not moved comes back as it was given, to the last bit.
      if let start { answers.keep(t, problem, solver.v, start.pointer + t * n) }
    }
    return answers
  }

  /// No l1 term.
  private var isSmooth: Bool { alpha == 0 || l1Ratio == 0 }
}

// MARK: the door

func checkReserved(_ value: Int32, _ name: String) throws(UnmergeError) {
  guard value == 0 else { throw UnmergeError(UNMERGE_E_VERSION, "\(name) is \(value); it must be 0") }
}

extension unmerge_lasso_options: Growable {
  package static var defaults: unmerge_lasso_options {
    var o = unmerge_lasso_options()
    o.struct_size = MemoryLayout<unmerge_lasso_options>.size
    o.alpha = 1
    return o
  }
}

@_cdecl("unmerge_lasso_options_init") @implementation
public func unmerge_lasso_options_init(
  _ options: UnsafeMutablePointer<unmerge_lasso_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_lasso") @implementation
public func unmerge_lasso(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_lasso_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkReserved(o.reserved, "options->reserved")
    try checkFlag(o.positive, "options->positive")
    let bounds = try Bounds(o.lower, o.upper, positive: o.positive == 1, count: gram.atoms)
    try answer(gram, o.alpha, 1, o.weights, o.relative, bounds, o.warm_start, run, coef, reports)
  }
}

extension unmerge_elastic_net_options: Growable {
  package static var defaults: unmerge_elastic_net_options {
    var o = unmerge_elastic_net_options()
    o.struct_size = MemoryLayout<unmerge_elastic_net_options>.size
    o.alpha = 1
    o.l1_ratio = 0.5
    return o
  }
}

@_cdecl("unmerge_elastic_net_options_init") @implementation
public func unmerge_elastic_net_options_init(
  _ options: UnsafeMutablePointer<unmerge_elastic_net_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_elastic_net") @implementation
public func unmerge_elastic_net(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_elastic_net_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.l1_ratio, "options->l1_ratio", 0...1, "in [0, 1]")
    try checkReserved(o.reserved, "options->reserved")
    if o.relative == 1, o.l1_ratio == 0 {
      throw .range("options->relative is 1 with l1_ratio 0; alpha_max exists for l1_ratio > 0 only")
    }
    try checkFlag(o.positive, "options->positive")
    let bounds = try Bounds(o.lower, o.upper, positive: o.positive == 1, count: gram.atoms)
    try answer(gram, o.alpha, o.l1_ratio, o.weights, o.relative, bounds, o.warm_start, run, coef, reports)
  }
}

private func answer(
  _ gram: Gram, _ alpha: Double, _ l1Ratio: Double, _ weights: UnsafePointer<Double>?, _ relative: Int32, _ bounds: Bounds,
  _ warmStart: Int32, _ run: UnsafePointer<unmerge_run>?, _ coef: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?
) throws(UnmergeError) {
  try check(alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
  try checkFlag(relative, "options->relative")
  if relative == 1, !bounds.holdsZero(gram.atoms) {
    throw .range("options->relative is 1, but the bounds exclude 0 for some atom: no alpha makes all coefficients 0")
  }
  try checkFlag(warmStart, "options->warm_start")
  let weights = try copyWeights(weights, gram.atoms)
  let watch = try Watch(run)
  let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
  try checkResult(reports, "reports", count: gram.targets)
  let net = ElasticNet(
    alpha: alpha, l1Ratio: l1Ratio, weights: weights, isRelative: relative == 1, bounds: bounds,
    warmStart: warmStart == 1)
  try net.answer(gram, watch, output).deliver(output, reports)
}

@_cdecl("unmerge_alpha_max") @implementation
public func unmerge_alpha_max(
  _ gram: OpaquePointer?, _ l1_ratio: Double, _ weights: UnsafePointer<Double>?, _ positive: Int32,
  _ alpha_max: UnsafeMutablePointer<Double>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    guard l1_ratio > 0, l1_ratio <= 1 else { throw .range("l1_ratio is \(l1_ratio); it must be in (0, 1]") }
    let weights = try copyWeights(weights, gram.atoms, "weights")
    try checkFlag(positive, "positive")
    guard let alpha_max else { throw .null("alpha_max") }
    let watch = try Watch(nil)
    let result = try allocate(gram.targets, of: Double.self)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      result[t] = try alphaMax(
        gram, target: t, l1Ratio: l1_ratio, weights: weights,
        bounds: positive == 1 ? .positive : .none, watch)
    }
    alpha_max.update(from: result.pointer, count: gram.targets)
  }
}
