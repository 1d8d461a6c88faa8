import CUnmerge
import UnmergeCore
import UnmergeLinalg

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

// Group LASSO, sparse group LASSO and group elastic net
//
//     minimise  ½‖Aw − y‖² + α [ l1_ratio Σ π_j |w_j| + (1 − l1_ratio) Σ_g ω_g ‖w_g‖₂ ] + ridge/2 Σ_g r_g ‖w_g‖²,
//
// optionally w ≥ 0, for one w over the whole target or one per module; with ‖A_g w_g‖ in place of ‖w_g‖ if asked for, see
// `PredictionForm`. `GroupSpace` has the coordinates, `GroupSolver` the
// algorithm and the certificate. Where nothing but single coefficients is left (α = 0, l1_ratio = 1, groups of one) over one
// Gram, the problem is a `Quadratic` and `ActiveSet` solves it.
//
// References: Yuan & Lin 2006; Simon, Friedman, Hastie & Tibshirani 2013; Jacob, Obozinski & Vert 2009 (overlap).

struct GroupLasso: Sendable {
  var groups: Groups
  var alpha: Double
  var l1Ratio: Double
  var weights: Buffer<Double>?
  var ridge: Double
  var isRelative = false
  var positive = false
  /// ‖A_g w_g‖ in place of ‖w_g‖
  var isPrediction = false

  /// The same problem in the columns of `form`.
  func over(_ form: PredictionForm) -> GroupLasso {
    var lasso = self
    lasso.groups = form.groups
    return lasso
  }

  func space<Form: GramForm>(_ form: Form, norms: Bool) throws(UnmergeError) -> GroupSpace<Form> {
    try GroupSpace(
      form, groups, l1Ratio: l1Ratio, weights: weights, ridge: ridge, positive: positive, norms: norms)
  }

  func answer<Form: GramForm>(
    _ form: Form, members: Int, start: GroupStart?, _ watch: Watch
  ) throws(UnmergeError) -> GroupAnswers {
    let gram = form.gram
    let answers = try GroupAnswers(rows: form.rows, members: members, columns: gram.targets)
    let penalised = try space(form, norms: alpha > 0)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      guard gram.targetNorms[t] > 0 else { return answers.set(t, empty: gram, target: t, watch) }
      let scale = isRelative && alpha > 0 ? try groupAlphaMax(penalised, target: t, watch) : 1
      let solver = try GroupTarget(penalised, target: t)
      if let start { solver.begin(start) }
      let end = try solver.run(alpha * scale, watch)
      answers.set(t, solver, end, try solver.degreesOfFreedom(end), watch)
    }
    return answers
  }

  func path<Form: GramForm>(
    _ form: Form, target: Int, _ alphas: Buffer<Double>, _ watch: Watch
  ) throws(UnmergeError) -> GroupAnswers {
    let gram = form.gram
    let count = alphas.count
    let answers = try GroupAnswers(rows: form.rows, members: 0, columns: count)
    let order: Buffer<Int> = try allocate(count)
    for i in 0..<count { order[i] = i }
    var descending = UnsafeMutableBufferPointer(start: order.pointer, count: count)
    descending.sort { alphas[$0] != alphas[$1] ? alphas[$0] > alphas[$1] : $0 < $1 }
    let warm = try GroupTarget(try space(form, norms: true), target: target)
    var stop: Stop?
    var before: Double?
    for i in descending {
      stop = stop ?? watch.poll()
      if gram.targetNorms[target] == 0 {
        answers.set(i, empty: gram, target: target, watch)
      } else if let stop {
        // The rest of the grid was not reached: the last coefficients stand for it, and nothing is certified.
        var end = Ending(outcome: stop.outcome)
        end.certificate = .unknown
        answers.set(i, warm, end, .nan, watch)
      } else if alphas[i] == 0 {
        let last = try GroupTarget(try space(form, norms: false), target: target)
        let end = try last.run(0, watch)
        answers.set(i, last, end, try last.degreesOfFreedom(end), watch)
      } else {
        let end = try warm.run(alphas[i], watch, strong: before.map { $0 / alphas[i] })
        answers.set(i, warm, end, try warm.degreesOfFreedom(end), watch)
        before = alphas[i]
      }
    }
    return answers
  }
}

/// One target on its way: a `GroupSolver`, or an `ActiveSet` whose coordinates are copied to it.
final class GroupTarget<Form: GramForm> {
  let space: GroupSpace<Form>
  let target: Int
  private let solver: GroupSolver<Form>
  private var active: ActiveSet?
  private var start: GroupStart?

  init(_ space: GroupSpace<Form>, target: Int) throws(UnmergeError) {
    self.space = space
    self.target = target
    solver = try GroupSolver(space, target: target)
  }

  private var yNorm: Double { space.form.gram.targetNorms[target] }

  /// The group of a coordinate is needed for its scale only.
  private func forEach(_ body: (_ group: Int, _ coordinate: Int) -> Void) {
    for b in 0..<space.groups { for i in space.start[b]..<space.start[b + 1] { body(b, i) } }
  }

  func begin(_ start: GroupStart) {
    forEach { b, i in
      let w = start.value(column: space.column[i], member: space.member[i], target: target)
      let v = w * (space.scale[b] / yNorm)
      solver.u[i] = abs(v) < 1e100 ? v : 0
    }
    self.start = start
  }

  func run(_ alpha: Double, _ watch: Watch, strong: Double? = nil) throws(UnmergeError) -> Ending {
    solver.penalise(alpha)
    guard space.isSeparable, let form = space.form as? DenseForm else {
      return try solver.run(watch, tol: watch.tol, maxIterations: watch.maxIterations, strong: strong)
    }
    let problem = try Quadratic(
      form.gram, target: target, alpha: 0, l1Ratio: 1, weights: nil, bounds: space.positive ? .positive : .none)
    for i in 0..<space.n {
      problem.lambda[space.column[i]] = solver.lambda[i]
      problem.mu[space.column[i]] = space.mu[i]
    }
    let warm: ActiveSet
    if let active {
      warm = active
      warm.change(to: problem)
    } else {
      warm = try ActiveSet(problem)
      for i in 0..<space.n { warm.v[space.column[i]] = solver.u[i] }
      active = warm
    }
    let end = try warm.run(watch, tol: watch.tol, maxIterations: watch.maxIterations)
    for i in 0..<space.n { solver.u[i] = warm.v[space.column[i]] }
    return end
  }

  func degreesOfFreedom(_ end: Ending) throws(UnmergeError) -> Double {
    end.outcome == UNMERGE_CONVERGED || end.outcome == UNMERGE_STALLED ? try solver.degreesOfFreedom() : .nan
  }

  /// w of every coordinate. What has not moved is as it was given, to the last bit.
  func forEachCoefficient(_ body: (_ column: Int, _ member: Int, _ value: Double) -> Void) {
    forEach { b, i in
      let u = solver.u[i]
      guard u != 0 else { return }
      if let start {
        let w = start.value(column: space.column[i], member: space.member[i], target: target)
        if w * (space.scale[b] / yNorm) == u { return body(space.column[i], space.member[i], w) }
      }
      body(space.column[i], space.member[i], u * (yNorm / space.scale[b]))
    }
  }
}

/// The smallest α at which every penalised coordinate is 0: the largest 1/s with ‖(s|h| − l)₊‖ = k over the groups, h being the
/// gradients left when what is free has been fitted.
func groupAlphaMax<Form: GramForm>(
  _ space: GroupSpace<Form>, target: Int, _ watch: Watch
) throws(UnmergeError) -> Double {
  let yNorm = space.form.gram.targetNorms[target]
  guard yNorm > 0 else { return 0 }
  let solver = try GroupSolver(space, target: target)
  var hasFree = false
  for b in 0..<space.groups where space.size(b) == 1 && space.l1[space.start[b]] == 0 { hasFree = true }
  if hasFree {
    solver.penalise(0)
    solver.excludePenalised()
    _ = try solver.run(watch, tol: 1e-10, maxIterations: .max)
    if let stop = watch.poll() { throw stop.error }
  }
  var largest = 0.0
  func size(_ i: Int) -> Double {
    let h = space.ratio[i] * solver.g[space.column[i]]
    return space.positive ? max(h, 0) : abs(h)
  }
  for b in 0..<space.groups {
    let first = space.start[b]
    let count = space.size(b)
    if count == 1 {
      let l = space.l1[first]
      if l > 0, l < .infinity { largest = max(largest, size(first) / l) }
      continue
    }
    guard space.norm[b] < .infinity else { continue }
    var square = 0.0
    var penalty = 0.0
    for i in first..<(first + count) where space.l1[i] < .infinity {
      square += size(i) * size(i)
      penalty += space.l1[i] * space.l1[i]
    }
    guard square > 0 else { continue }
    let s = reach(
      count, start: (space.norm[b] + penalty.squareRoot()) / square.squareRoot() * (1 + 8 * roundoff), space.norm[b]
    ) { k in (size(first + k), space.l1[first + k]) }
    largest = max(largest, 1 / s)
  }
  // Above the rounding of the gradients it is compared with, so that it gives exactly 0.
  return min(largest * yNorm * (1 + (hasFree ? 1e-12 : 16 * roundoff)), .greatestFiniteMagnitude)
}

/// The coefficients a warm start begins from, in the caller's units: per membership where the caller gives those, else per
/// column, all of it with the first membership.
struct GroupStart: @unchecked Sendable {
  let numbers: Buffer<Double>
  private let latent: Buffer<Double>?
  private let first: Buffer<Int>
  private let rows: Int
  private let members: Int

  init(_ coef: Output, _ latent: Output?, _ groups: Groups, rows: Int, targets: Int) throws(UnmergeError) {
    self.rows = rows
    members = groups.members.count
    numbers = try allocate(product(rows, targets, "coef"))
    let columns = rows > 0 ? coef.view.rows : 0
    for k in 0..<(rows * targets) {
      // A column of coef is a module of a target.
      let (i, j) = (k % max(columns, 1), k / max(columns, 1))
      numbers[k] = coef.get(i, j)
      guard numbers[k].isFinite else {
        throw UnmergeError(UNMERGE_E_NONFINITE, "coef[\(i), \(j)] is \(numbers[k]); a warm start must be finite")
      }
    }
    first = try allocate(rows)
    for j in 0..<rows { first[j] = -1 }
    for k in 0..<members where first[groups.members[k]] < 0 { first[groups.members[k]] = k }
    guard let latent else {
      self.latent = nil
      return
    }
    let copy: Buffer<Double> = try allocate(product(members, targets, "latent"))
    for t in 0..<targets {
      for k in 0..<members {
        copy[t * members + k] = latent.get(k, t)
        guard copy[t * members + k].isFinite else {
          throw UnmergeError(
            UNMERGE_E_NONFINITE, "latent[\(k), \(t)] is \(copy[t * members + k]); a warm start must be finite")
        }
      }
    }
    self.latent = copy
  }

  /// One number per column, none of them shared.
  init(_ numbers: Buffer<Double>, rows: Int) throws(UnmergeError) {
    (self.numbers, self.rows, members) = (numbers, rows, 0)
    latent = nil
    first = try allocate(rows)
    for j in 0..<rows { first[j] = j }
  }

  func value(column: Int, member: Int, target: Int) -> Double {
    if member >= 0 {
      if let latent { return latent[target * members + member] }
      if first[column] != member { return 0 }
    }
    return numbers[target * rows + column]
  }
}

/// Coefficients, latent coefficients and reports. Nothing reaches the caller's arrays before every target is answered.
final class GroupAnswers: @unchecked Sendable {
  private let rows: Int
  private let members: Int
  private let columns: Int
  private let coef: Buffer<Double>
  private let latent: Buffer<Double>
  private let reports: Buffer<unmerge_report>

  init(rows: Int, members: Int, columns: Int) throws(UnmergeError) {
    self.rows = rows
    self.members = members
    self.columns = columns
    coef = try allocate(product(rows, columns, "coef"))
    latent = try allocate(product(members, columns, "latent"))
    reports = try allocate(columns)
  }

  func set(_ column: Int, empty gram: Gram, target t: Int, _ watch: Watch) {
    reports[column] = report(emptyEnding(), gram, target: t, nonzeros: 0, watch)
  }

  func set<Form: GramForm>(
    _ column: Int, _ solver: GroupTarget<Form>, _ end: Ending, _ df: Double, _ watch: Watch
  ) {
    let w = coef.pointer + column * rows
    // Before the first sum every coefficient is 0; adding to it is exact.
    solver.forEachCoefficient { i, member, u in
      solver.space.form.forEachRow(i, member, u) { j, k, value in
        w[j] += value
        if k >= 0, members > 0 { latent[column * members + k] += value }
      }
    }
    var nonzeros = 0
    for j in 0..<rows where w[j] != 0 { nonzeros += 1 }
    reports[column] = report(end, solver.space.form.gram, target: solver.target, nonzeros: nonzeros, watch)
    reports[column].df = df
  }

  /// coef has `height` rows: one column per target, or per target and module.
  func deliver(_ output: Output, _ latentOutput: Output?, _ results: UnsafeMutablePointer<unmerge_report>?) {
    let height = output.view.rows
    if height > 0 { for k in 0..<(rows * columns) { output.set(k % height, k / height, coef[k]) } }
    for t in 0..<columns {
      if let latentOutput { for k in 0..<members { latentOutput.set(k, t, latent[t * members + k]) } }
      store(reports[t], results, index: t)
    }
  }
}

// MARK: the door

extension unmerge_group_options: Growable {
  package static var defaults: unmerge_group_options {
    var o = unmerge_group_options()
    o.struct_size = MemoryLayout<unmerge_group_options>.size
    o.alpha = 1
    return o
  }
}

@_cdecl("unmerge_group_options_init") @implementation
public func unmerge_group_options_init(
  _ options: UnsafeMutablePointer<unmerge_group_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

extension unmerge_group_path_options: Growable {
  package static var defaults: unmerge_group_path_options {
    var o = unmerge_group_path_options()
    o.struct_size = MemoryLayout<unmerge_group_path_options>.size
    o.alpha_min_ratio = 1e-3
    o.n_alphas = 100
    return o
  }
}

@_cdecl("unmerge_group_path_options_init") @implementation
public func unmerge_group_path_options_init(
  _ options: UnsafeMutablePointer<unmerge_group_path_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

/// The options, checked, over `columns` coefficients.
func groupLasso(
  _ o: unmerge_group_options, columns: Int, period: Int
) throws(UnmergeError) -> GroupLasso {
  try check(o.alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
  try check(o.l1_ratio, "options->l1_ratio", 0...1, "in [0, 1]")
  try check(o.ridge, "options->ridge", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
  try checkFlag(o.relative, "options->relative")
  try checkFlag(o.positive, "options->positive")
  try checkFlag(o.warm_start, "options->warm_start")
  try checkReserved(o.reserved, "options->reserved")
  try checkReserved(o.reserved2, "options->reserved2")
  guard UNMERGE_GROUP_NORM_COEFFICIENTS...UNMERGE_GROUP_NORM_PREDICTION ~= o.group_norm else {
    throw .range("options->group_norm is \(o.group_norm); it must be UNMERGE_GROUP_NORM_COEFFICIENTS or _PREDICTION")
  }
  let isPrediction = o.group_norm == UNMERGE_GROUP_NORM_PREDICTION
  if isPrediction, o.l1_ratio > 0 {
    throw .range("options->l1_ratio is \(o.l1_ratio); with UNMERGE_GROUP_NORM_PREDICTION it must be 0")
  }
  if isPrediction, o.positive == 1 {
    throw .range("options->positive is 1; with UNMERGE_GROUP_NORM_PREDICTION it must be 0")
  }
  var groups = try Groups(o.offsets, o.members, count: o.n_groups, columns: columns, period: period)
  groups.weights = try copyWeights(o.group_weights, groups.count, "options->group_weights")
  groups.ridgeWeights = try copyWeights(o.ridge_weights, groups.count, "options->ridge_weights")
  return GroupLasso(
    groups: groups, alpha: o.alpha, l1Ratio: o.l1_ratio, weights: try copyWeights(o.weights, columns), ridge: o.ridge,
    isRelative: o.relative == 1, positive: o.positive == 1, isPrediction: isPrediction)
}

private func answer<Form: GramForm>(
  _ form: Form, _ options: UnsafePointer<unmerge_group_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ latent: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?
) throws(UnmergeError) {
  let gram = form.gram
  let o = try read(options, "options")
  let lasso = try groupLasso(o, columns: form.count, period: gram.atoms)
  let watch = try Watch(run)
  // A module per column; DenseForm has one part.
  let output = try Output(coef, "coef", rows: gram.atoms, columns: product(form.parts, gram.targets, "coef"))
  let latentOutput = try optionalOutput(latent, "latent", rows: lasso.groups.members.count, columns: gram.targets)
  try checkResult(reports, "reports", count: gram.targets)
  let start =
    o.warm_start == 1
    ? try GroupStart(output, latentOutput, lasso.groups, rows: form.count, targets: gram.targets) : nil
  let members = lasso.groups.members.count
  if lasso.isPrediction {
    guard form is DenseForm else {
      throw .range("options->group_norm is UNMERGE_GROUP_NORM_PREDICTION, which unmerge_group_lasso_modules does not have")
    }
    let standard = try PredictionForm(gram, lasso.groups)
    let begin = try start.map { (s: GroupStart) throws(UnmergeError) in try standard.start(s) }
    return try lasso.over(standard).answer(standard, members: members, start: begin, watch)
      .deliver(output, latentOutput, reports)
  }
  try lasso.answer(form, members: members, start: start, watch).deliver(output, latentOutput, reports)
}

@_cdecl("unmerge_group_lasso") @implementation
public func unmerge_group_lasso(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_group_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ latent: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    try answer(DenseForm(gram: try object(gram, "gram", Gram.self)), options, run, coef, latent, reports)
  }
}

@_cdecl("unmerge_group_lasso_modules") @implementation
public func unmerge_group_lasso_modules(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_group_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ latent: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    try answer(ModuleForm(try object(gram, "gram", Gram.self)), options, run, coef, latent, reports)
  }
}

@_cdecl("unmerge_group_alpha_max") @implementation
public func unmerge_group_alpha_max(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_group_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ alpha_max: UnsafeMutablePointer<Double>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let lasso = try groupLasso(try read(options, "options"), columns: gram.atoms, period: gram.atoms)
    guard let alpha_max else { throw .null("alpha_max") }
    let watch = try Watch(run)
    let result: Buffer<Double> = try allocate(gram.targets)
    func find<Form: GramForm>(_ form: Form, _ lasso: GroupLasso) throws(UnmergeError) {
      let space = try lasso.space(form, norms: true)
      try eachTarget(gram, watch) { t throws(UnmergeError) in result[t] = try groupAlphaMax(space, target: t, watch) }
    }
    if lasso.isPrediction {
      let form = try PredictionForm(gram, lasso.groups)
      try find(form, lasso.over(form))
    } else {
      try find(DenseForm(gram: gram), lasso)
    }
    alpha_max.update(from: result.pointer, count: gram.targets)
  }
}

@_cdecl("unmerge_group_lasso_path") @implementation
public func unmerge_group_lasso_path(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_group_options>?,
  _ path: UnsafePointer<unmerge_group_path_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ alphas: UnsafeMutablePointer<Double>?, _ coef: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let lasso = try groupLasso(try read(options, "options"), columns: gram.atoms, period: gram.atoms)
    let p = try read(path, "path")
    guard p.alpha_min_ratio > 0, p.alpha_min_ratio < 1 else {
      throw .range("path->alpha_min_ratio is \(p.alpha_min_ratio); it must be in (0, 1)")
    }
    try check(p.n_alphas, "path->n_alphas", 1...Int64.max, ">= 1")
    guard p.target >= 0, p.target < gram.targets else {
      throw .range("path->target is \(p.target); it must be in [0, \(gram.targets))")
    }
    let watch = try Watch(run)
    let count = Int(p.n_alphas)
    let target = Int(p.target)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: count)
    try checkResult(reports, "reports")
    let grid: Buffer<Double> = try allocate(count)
    if let given = p.alphas {
      for i in 0..<count {
        grid[i] = UnsafeRawPointer(given + i).loadUnaligned(as: Double.self)
        try check(grid[i], "path->alphas[\(i)]", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
      }
    }
    func solve<Form: GramForm>(_ form: Form, _ lasso: GroupLasso) throws(UnmergeError) -> GroupAnswers {
      if p.alphas == nil {
        let largest = try groupAlphaMax(try lasso.space(form, norms: true), target: target, watch)
        let step = log(p.alpha_min_ratio) / Double(max(1, count - 1))
        for i in 0..<count { grid[i] = largest * exp(step * Double(i)) }
      }
      return try lasso.path(form, target: target, grid, watch)
    }
    let answers = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      guard lasso.isPrediction else { return try solve(DenseForm(gram: gram), lasso) }
      let form = try PredictionForm(gram, lasso.groups)
      return try solve(form, lasso.over(form))
    }
    answers.deliver(output, nil, reports)
    alphas?.update(from: grid.pointer, count: count)
  }
}
