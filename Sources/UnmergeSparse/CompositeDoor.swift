import CUnmerge
import UnmergeCore
import UnmergeLinalg

// unmerge_composite and unmerge_consensus_step: what comes in, checked.

extension unmerge_term: Growable {
  package static var defaults: unmerge_term {
    var t = unmerge_term()
    t.struct_size = MemoryLayout<unmerge_term>.size
    t.kind = UNMERGE_PROX_L1
    return t
  }
}

@_cdecl("unmerge_term_init") @implementation
public func unmerge_term_init(_ term: UnsafeMutablePointer<unmerge_term>?, _ size: Int) -> unmerge_status {
  initialize(term, size)
}

extension unmerge_composite_options: Growable {
  package static var defaults: unmerge_composite_options {
    var o = unmerge_composite_options()
    o.struct_size = MemoryLayout<unmerge_composite_options>.size
    o.relaxation = 1.6
    o.polish = 1
    return o
  }
}

@_cdecl("unmerge_composite_options_init") @implementation
public func unmerge_composite_options_init(
  _ options: UnsafeMutablePointer<unmerge_composite_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

private func readTerms(
  _ pointer: UnsafePointer<unmerge_term>?, _ count: Int64, atoms n: Int
) throws(UnmergeError) -> [CompositeTerm] {
  try check(count, "n_terms", 0...65536, "in [0, 65536]")
  guard count > 0 else { return [] }
  guard let pointer else { throw .null("terms") }
  let raw = UnsafeRawPointer(pointer)
  let distance = raw.loadUnaligned(as: Int.self)
  var terms: [CompositeTerm] = []
  for k in 0..<Int(count) {
    // Of the first `read` says what is wrong with its size; the others have to agree with it.
    let here = k == 0 ? raw : raw + k * distance
    let term = try read(here.assumingMemoryBound(to: unmerge_term.self), "terms[\(k)]")
    guard here.loadUnaligned(as: Int.self) == distance else {
      throw UnmergeError(
        UNMERGE_E_VERSION, "terms[\(k)].struct_size is \(term.struct_size), that of the first \(distance); they must agree")
    }
    terms.append(try CompositeTerm(term, "terms[\(k)]", atoms: n))
  }
  return terms
}

@_cdecl("unmerge_composite") @implementation
public func unmerge_composite(
  _ gram: OpaquePointer?, _ terms: UnsafePointer<unmerge_term>?, _ n_terms: Int64,
  _ options: UnsafePointer<unmerge_composite_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ residuals: UnsafeMutablePointer<Double>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let composite = try Composite(terms, n_terms, options, atoms: gram.atoms)
    let watch = try Watch(run)
    try composite.answer(gram, BlockForm(gram, watch), watch, coef, residuals, reports)
  }
}

@_cdecl("unmerge_composite_operator") @implementation
public func unmerge_composite_operator(
  _ a: OpaquePointer?, _ y: OpaquePointer?, _ terms: UnsafePointer<unmerge_term>?, _ n_terms: Int64,
  _ options: UnsafePointer<unmerge_composite_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ residuals: UnsafeMutablePointer<Double>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let atoms = try object(a, "a", Operator.self).snapshot
    let targets = try object(y, "y", Operator.self).snapshot
    let composite = try Composite(terms, n_terms, options, atoms: atoms.count)
    let watch = try Watch(run)
    _ = try Output(coef, "coef", rows: atoms.count, columns: targets.count)
    try checkResult(reports, "reports", count: targets.count)
    // Of w = 0: norms, correlations and ‖y‖.
    let zero = try allocate(product(atoms.count, targets.count, "coef"), of: Double.self)
    let first = try residualPass(atoms, targets, mask: nil, zero.pointer, watch)
    let gram = try summary(first, atoms, targets, entries: atoms.entries, correlations: first.correlation)
    try composite.answer(gram, OperatorForm(atoms, gram, watch), watch, coef, residuals, reports)
  }
}

/// Terms and options, checked.
private struct Composite {
  let n: Int
  let o: unmerge_composite_options
  let list: [CompositeTerm]
  let linear: Buffer<Double>?
  /// The first atom that two terms act on, or a term with a matrix: what FISTA does not take.
  private let obstacle: String?

  init(
    _ terms: UnsafePointer<unmerge_term>?, _ count: Int64, _ options: UnsafePointer<unmerge_composite_options>?, atoms n: Int
  ) throws(UnmergeError) {
    self.n = n
    o = try read(options, "options")
    try check(o.rho, "options->rho", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try check(o.relaxation, "options->relaxation", 1...1.8, "in [1, 1.8]")
    try checkFlag(o.polish, "options->polish")
    try checkFlag(o.warm_start, "options->warm_start")
    guard o.reserved == 0 else {
      throw UnmergeError(UNMERGE_E_VERSION, "options->reserved is \(o.reserved); it must be 0")
    }
    guard o.engine >= UNMERGE_ENGINE_AUTO, o.engine <= UNMERGE_ENGINE_FISTA else {
      throw .range("options->engine is \(o.engine); it must be one of UNMERGE_ENGINE_... (0 to \(UNMERGE_ENGINE_FISTA))")
    }
    linear = try copyDoubles(o.linear, n)
    if let linear {
      for j in 0..<n where !(abs(linear[j]) < .infinity) {
        throw .range("options->linear[\(j)] is \(linear[j]); it must be finite")
      }
    }
    list = try readTerms(terms, count, atoms: n)
    var obstacle: String?
    let seen = try allocate(n, of: Bool.self)
    for (k, term) in list.enumerated() where obstacle == nil {
      if term.matrix != nil {
        obstacle = "terms[\(k)] has a matrix; UNMERGE_ENGINE_FISTA takes terms without, on disjoint atoms"
        continue
      }
      for i in 0..<term.count {
        let j = term.atoms?[i] ?? i
        if seen[j] {
          obstacle = "atom \(j) is in terms[\(k)] and one before; UNMERGE_ENGINE_FISTA takes terms on disjoint atoms"
          break
        }
        seen[j] = true
      }
    }
    self.obstacle = obstacle
    if o.engine == UNMERGE_ENGINE_FISTA, let obstacle { throw .range(obstacle) }
  }

  func answer(
    _ gram: Gram, _ form: any QuadraticForm, _ watch: Watch, _ coef: UnsafePointer<unmerge_view>?,
    _ residuals: UnsafeMutablePointer<Double>?, _ reports: UnsafeMutablePointer<unmerge_report>?
  ) throws(UnmergeError) {
    let output = try Output(coef, "coef", rows: n, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let start = o.warm_start == 1 ? try readWarmStart(output, gram) : nil
    let answers = try Answers(n, gram.targets)
    let reached = try allocate(product(2, gram.targets, "residuals"), of: Double.self)
    let stream = form as? OperatorForm
    var options = o
    if stream != nil, o.engine == UNMERGE_ENGINE_AUTO, obstacle == nil { options.engine = UNMERGE_ENGINE_FISTA }
    let problem = try CompositeProblem(form, list, options, linear: linear)
    // LAPACK counts in 32 bits.
    guard problem.entries <= Int(Int32.max) else { throw .shape("the terms have more than \(Int32.max) entries") }
    // Callbacks are called on the calling thread; passes over the data have all threads to themselves.
    let isSerial = stream != nil || list.contains { $0.call == nil }
    let n = n
    try eachTask(gram.targets, isSerial ? 1 : watch.threads) { t throws(UnmergeError) in
      let solver = try CompositeSolver(problem, gram, target: t)
      if let start { for j in 0..<n { solver.x[j] = bounded(start[t * n + j] / solver.unit) } }
      let end = try solver.run(watch, gram, isWarm: start != nil)
      solver.deliver { answers.set(t, $0, $1) }
      var nonzeros = 0
      for j in 0..<n where answers.coefficients(t)[j] != 0 { nonzeros += 1 }
      (reached[2 * t], reached[2 * t + 1]) = (solver.primal, solver.dual)
      var r = report(end, gram, target: t, unit: solver.energy.squareRoot(), nonzeros: nonzeros, watch)
      if let stream { r.passes = Int64(stream.passes) }
      answers.set(t, report: r)
    }
    answers.deliver(output, reports)
    residuals?.update(from: reached.pointer, count: 2 * gram.targets)
  }
}

@_cdecl("unmerge_consensus_step") @implementation
public func unmerge_consensus_step(
  _ gram: OpaquePointer?, _ rho: Double, _ z: UnsafePointer<unmerge_view>?, _ u: UnsafePointer<unmerge_view>?,
  _ x: UnsafePointer<unmerge_view>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    guard rho > 0, rho < .infinity else { throw .range("rho is \(rho); it must be finite and > 0") }
    let (n, targets) = (gram.atoms, gram.targets)
    let output = try Output(x, "x", rows: n, columns: targets)
    let sides = try allocate(product(n, targets, "x"), of: Double.self)
    let watch = try Watch(nil)
    let form = try BlockForm(gram, watch)
    let scale = form.scale > 0 ? form.scale : 1
    let shift = rho / scale / scale
    guard shift > 1e-100, shift < 1e100 else {
      throw .range("rho is \(rho); it must be within 1e100 of ||a||^2 = \(scale * scale)")
    }
    for (name, given, sign) in [("z", z, 1.0), ("u", u, -1.0)] {
      let v = try view(given, name)
      guard v.rows == n, v.columns == targets else {
        throw .shape("\(name) is \(v.rows) x \(v.columns), expected \(n) x \(targets)")
      }
      for t in 0..<targets {
        for j in 0..<n {
          let value = v.element(j, t)
          guard value.isFinite else {
            throw UnmergeError(UNMERGE_E_NONFINITE, "\(name)[\(j), \(t)] is \(value); all values must be finite")
          }
          sides[t * n + j] += sign * shift * value
        }
      }
    }
    for t in 0..<targets {
      for j in 0..<n { sides[t * n + j] += form.correlation(t)[j] * (gram.targetNorms[t] / scale) }
    }
    guard n > 0 else { return }
    let h = form.block(0)
    for j in 0..<n { h[j * (n + 1)] += shift }
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      guard Symmetric.factor(n, h) != nil else {
        throw .range("rho is \(rho); G + rho I is not numerically positive definite")
      }
      Symmetric.solve(n, factor: h, sides.pointer, columns: targets)
    }
    for t in 0..<targets { for j in 0..<n { output.set(j, t, sides[t * n + j]) } }
  }
}
