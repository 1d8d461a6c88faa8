import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Non-negative matrix factorisation
//
//     minimise over W (p×k) ≥ 0, H (k×T) ≥ 0:  D(X, WH) + penalties of W and H
//
// by turns: with one factor held the other's problem is convex, and both sides are the same one (`FactorStep`), since H is kept
// transposed. An iteration reads X twice, for X·Hᵀ and Xᵀ·W; what follows lives in the k×k Grams and those products.
//
// HALS sweeps the components until a sweep no longer pays beside the product (Gillis & Glineur 2012), from points extrapolated
// along the last move; an iteration that would not descend is thrown away and repeated without extrapolation, which descends by
// construction (after Ang & Gillis 2019, who accept such an iterate).
//
// Invariant: (w, h) is the best iterate and `objective` its value; both are what a caller sees. Everything an iteration needs
// beside X is in the fields that `write` saves.
//
// References: Lee & Seung 2001; Kim & Park 2008, 2011; Cichocki & Phan 2009; Gillis & Glineur 2012; Ang & Gillis 2019.

struct NMFOptions: Equatable, Sendable {
  enum Algorithm: Int32 {
    case hals = 0
    case anls, mu, projected
  }
  enum Loss: Int32 {
    case frobenius = 0
    case kl
  }

  var algorithm = Algorithm.hals
  var loss = Loss.frobenius
  var w = FactorPenalty()
  var h = FactorPenalty()
  var sparsityW = 0.0
  var sparsityH = 0.0
  var isSparsityOfEach = false
  var hasMissing = false
  var extrapolates = true

  var holdsSparsity: Bool { sparsityW > 0 || sparsityH > 0 }
  /// What to do about a negative entry.
  var remedy: String {
    "split x into max(x, 0) and max(-x, 0)" + (algorithm == .hals || algorithm == .anls ? ", or set nonnegative_w = 0" : "")
  }
}

package final class NMF: Model, @unchecked Sendable {
  package static let magic = "UNMNMF_1"
  package static let kind = UNMERGE_MODEL_NMF

  let options: NMFOptions
  let w: Factor
  /// Hᵀ
  let h: Factor
  /// Beside the factors, what the next iteration depends on.
  struct State {
    var iterations = 0
    /// Of (w, h); infinite before the first iteration.
    var objective = Double.infinity
    var momentum = 0.5
    var largestMomentum = 1.0
    /// The next iteration does not extrapolate: the last one was thrown away, or there is nothing left to gain.
    var isPlain = true
    /// The last iteration moved nothing but last digits.
    var isStalled = false
    /// The violation at which the model converged last.
    var convergedAt = Double.infinity
    /// Fingerprint of the data all this is about.
    var data: UInt64 = 0
  }
  var state = State()
  /// The point the next W is computed from, and what the last W was before it was extrapolated.
  let hNext: Factor
  let wPlain: Factor
  /// The iterate, where it is not the best one (NMFProjected).
  var iterateW: Factor { wPlain }
  var iterateH: Factor { hNext }
  var factors: [Factor] { [w, h, hNext, wPlain] }

  package var iterations: Int { state.iterations }
  package var rows: Int { w.rows }
  package var columns: Int { h.rows }
  package var components: Int { w.columns }

  init(_ options: NMFOptions, rows: Int, columns: Int, components: Int) throws(UnmergeError) {
    self.options = options
    w = try Factor(rows, components)
    h = try Factor(columns, components)
    hNext = try Factor(columns, components)
    wPlain = try Factor(rows, components)
  }

  /// The start is in w and h.
  func begin() throws(UnmergeError) {
    options.w.project(w)
    options.h.project(h)
    try sparsify(w, options.sparsityW)
    try sparsify(h, options.sparsityH)
    hNext.assign(h)
    wPlain.assign(w)
  }

  // MARK: steps

  package func step(_ x: View?, _ watch: Watch) throws(UnmergeError) -> unmerge_report {
    guard let x else { throw .null("x") }
    guard x.rows == rows, x.columns == columns else {
      throw .shape("x is \(x.rows) x \(x.columns), the model was created for \(rows) x \(columns)")
    }
    let data = DataMatrix(view: x, threads: watch.threads, hasMissing: options.hasMissing)
    let summary = try data.summary()
    if !options.w.isSigned { try data.checkNonnegative(summary.least, options.remedy) }
    let work = try Work(self, data, watch.threads, squares: summary.squares, sum: summary.sum)
    if summary.fingerprint != state.data {
      state.objective = .infinity
      state.isPlain = true
      state.convergedAt = .infinity
      state.isStalled = false
      state.data = summary.fingerprint
    }
    let first = iterations
    var outcome = state.isStalled ? UNMERGE_STALLED : UNMERGE_ITERATION_LIMIT
    if state.convergedAt <= watch.tol { outcome = UNMERGE_CONVERGED }
    var passes = 1
    while outcome == UNMERGE_ITERATION_LIMIT, iterations - first < watch.maxIterations {
      if let stop = watch.poll() {
        outcome = stop.outcome
        break
      }
      let moved = try iterate(work)
      state.iterations += 1
      passes += 2
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: 0, done: iterations - first, total: watch.maxIterations,
        objective: state.objective.isFinite ? state.objective : .nan,
        relativeGap: moved)
      state.convergedAt = .infinity
      // The step of an extrapolated iterate overstates; a look at the best one costs two products.
      if moved <= watch.tol || (iterations % 10 == 0 && moved <= 30 * watch.tol) {
        passes += 2
        let violation = options.holdsSparsity ? moved : try violation(work)
        if violation <= watch.tol {
          state.convergedAt = violation
          outcome = UNMERGE_CONVERGED
        }
      }
      // A plain iteration that moves nothing but last digits.
      if outcome == UNMERGE_ITERATION_LIMIT, state.isPlain, moved <= 1e-14 {
        state.isStalled = true
        outcome = UNMERGE_STALLED
      }
    }
    var report = try certificate(work)
    report.outcome = outcome
    report.iterations = Int64(iterations - first)
    report.passes = Int64(passes + 3)
    report.seconds = watch.seconds
    return report
  }

  /// Working memory of one call, and X.
  final class Work {
    let data: DataMatrix
    let squares: Double
    let sum: Double
    let stepW: FactorStep
    let stepH: FactorStep
    let productW: Factor
    let productH: Factor
    let gram: Buffer<Double>
    let newW: Factor
    let newH: Factor
    /// W before it is extrapolated.
    let found: Factor

    init(_ model: NMF, _ data: DataMatrix, _ threads: Int, squares: Double, sum: Double) throws(UnmergeError) {
      self.data = data
      self.squares = squares
      self.sum = sum
      let k = model.components
      stepW = try FactorStep(rows: model.rows, components: k, threads: threads)
      stepH = try FactorStep(rows: model.columns, components: k, threads: threads)
      productW = try Factor(model.rows, k)
      productH = try Factor(model.columns, k)
      gram = try allocate(try product(k, k, "a Gram of components"))
      newW = try Factor(model.rows, k)
      newH = try Factor(model.columns, k)
      found = try Factor(model.rows, k)
    }

    /// X in a product: completed by the model where entries are missing.
    func entry(_ w: Factor, _ h: Factor) -> DataMatrix.Entry { data.hasMissing ? .completed(w, h) : .data }
  }

  private func iterate(_ work: Work) throws(UnmergeError) -> Double {
    switch (options.loss, options.algorithm) {
    case (.kl, _): try iterateDivergence(work)
    case (_, .projected): try iterateProjected(work)
    case (_, .mu): try iterateMultiplicative(work)
    case (_, .hals), (_, .anls): try iterateAlternating(work)
    }
  }

  /// Sweeps that cost about what the product before them did.
  private func sweeps(_ n: Int, _ other: Int) -> Int {
    let k = components
    let ratio = Double(other) * Double(n + k) / (Double(max(n, 1)) * Double(k))
    return 1 + Int(min(0.25 * ratio, 40))
  }

  private func iterateAlternating(_ work: Work) throws(UnmergeError) -> Double {
    let k = components
    let (newW, newH, g) = (work.newW, work.newH, work.gram)
    balance()
    let beta = options.extrapolates && !state.isPlain ? state.momentum : 0
    if state.isPlain { hNext.assign(h) }

    hNext.gram(into: g)
    try work.data.multiply(hNext, into: work.productW, work.entry(w, hNext))
    options.w.add(to: g, k)
    newW.assign(w)
    var moved = try solve(
      newW, work.productW, g, options.w, work.stepW, sweeps: sweeps(rows, columns))
    // W as it was found is kept for the next extrapolation; the extrapolated one is what H answers to.
    work.found.assign(newW)
    if beta > 0 {
      let (to, found, before) = (newW.pointer, work.found.pointer, wPlain.pointer)
      for i in 0..<newW.values.count { to[i] += beta * (found[i] - before[i]) }
      options.w.project(newW)
    }

    newW.gram(into: g)
    try work.data.transposed.multiply(newW, into: work.productH, work.data.hasMissing ? .completed(hNext, newW) : .data)
    let gramW = try allocating { () throws(OutOfMemory) in try g.copy() }
    options.h.add(to: g, k)
    newH.assign(hNext)
    moved += try solve(
      newH, work.productH, g, options.h, work.stepH, sweeps: sweeps(columns, rows))

    let (value, noise) = try value(work, newW, newH, gramW)
    // Near the rounding of the value there is nothing to compare, and plain steps go on.
    let isAtFloor = value > state.objective - noise
    if value <= state.objective + (beta > 0 ? 0 : 4 * noise) {
      // The next W is computed from an H moved on along its last step.
      let (to, found, before) = (hNext.pointer, newH.pointer, h.pointer)
      for i in 0..<h.values.count { to[i] = found[i] + beta * (found[i] - before[i]) }
      options.h.project(hNext)
      w.assign(newW)
      h.assign(newH)
      wPlain.assign(work.found)
      state.objective = min(value, state.objective)
      if options.extrapolates {
        if beta > 0 {
          state.largestMomentum = min(1, 1.005 * state.largestMomentum)
          state.momentum = min(state.largestMomentum, 1.01 * state.momentum)
        }
        state.isPlain = isAtFloor
      }
      if try reviveDeadComponents(work) { return .infinity }
    } else {
      hNext.assign(h)
      wPlain.assign(w)
      // A plain step that ascends is the rounding of nearly dependent components: no step is left.
      if beta == 0 { return 0 }
      state.largestMomentum = state.momentum
      state.momentum /= 1.5
      state.isPlain = true
    }
    return relative(moved, work)
  }

  /// The side's minimum, or a part of the way to it.
  private func solve(
    _ f: Factor, _ b: Factor, _ g: Buffer<Double>, _ penalty: FactorPenalty, _ step: FactorStep, sweeps: Int
  ) throws(UnmergeError) -> Double {
    if options.algorithm == .anls { return try step.minimise(f, b, g, penalty) }
    return try step.sweep(f, b, g, penalty, sweeps: sweeps)
  }

  /// ½‖X − WH‖² + penalties, from the products of the H-step, and what rounding does to it: it costs no pass, and loses digits
  /// where the fit is near exact or large terms of WH cancel.
  func value(
    _ work: Work, _ w: Factor, _ h: Factor, _ gramW: Buffer<Double>
  ) throws(UnmergeError) -> (value: Double, noise: Double) {
    let k = components
    let penalties = options.w.value(w) + options.h.value(h)
    if work.data.hasMissing {
      let value = try squaredResidual(work, w, h) / 2 + penalties
      return (value, 4e-15 * (work.squares + penalties))
    }
    let gramH: Buffer<Double> = try allocate(k * k)
    h.gram(into: gramH)
    let inner = Double.dot(work.productH.pointer, h.pointer, h.values.count)
    let model = Double.dot(gramW.pointer, gramH.pointer, k * k)
    let sizes = Double.squares(gramW.pointer, k * k).squareRoot() * Double.squares(gramH.pointer, k * k).squareRoot()
    return ((work.squares - 2 * inner + model) / 2 + penalties, 4e-15 * (work.squares + sizes + penalties))
  }

  func squaredResidual(_ work: Work, _ w: Factor, _ h: Factor) throws(UnmergeError) -> Double {
    try work.data.squaredResidual(w, h)
  }

  // MARK: the answer

  /// How far one projected step would move, of W only where it was free to.
  func violation(_ work: Work, codesOnly: Bool = false) throws(UnmergeError) -> Double {
    if options.loss == .kl {
      var moved = 0.0
      if !codesOnly {
        work.newW.assign(w)
        moved += try divergenceStep(work.newW, h, work.data, work.productW, options.w)
      }
      work.newH.assign(h)
      moved += try divergenceStep(work.newH, w, work.data.transposed, work.productH, options.h)
      return work.sum > 0 ? moved / work.sum : 0
    }
    let (g, k) = (work.gram, components)
    var sum = 0.0
    if !codesOnly {
      h.gram(into: g)
      options.w.add(to: g, k)
      try work.data.multiply(h, into: work.productW, work.entry(w, h))
      sum += work.stepW.violation(w, work.productW, g, options.w, work.newW)
    }
    w.gram(into: g)
    options.h.add(to: g, k)
    try work.data.transposed.multiply(w, into: work.productH, work.entry(h, w))
    sum += work.stepH.violation(h, work.productH, g, options.h, work.newH)
    return relative(sum, work)
  }

  /// A squared length in units of X; where X is 0 any step is infinitely long.
  func relative(_ squares: Double, _ work: Work) -> Double {
    squares == 0 ? 0 : (squares / work.squares).squareRoot()
  }

  func certificate(_ work: Work, codesOnly: Bool = false) throws(UnmergeError) -> unmerge_report {
    var r = unmerge_report.defaults
    if options.loss == .kl {
      r.objective = try divergence(work)
    } else {
      r.rss = try squaredResidual(work, w, h)
      r.yy = work.squares
      r.r2 = r.yy > 0 ? 1 - r.rss / r.yy : 0
      r.objective = r.rss / 2 + options.w.value(w) + options.h.value(h)
    }
    r.violation = options.holdsSparsity ? .nan : try violation(work, codesOnly: codesOnly)
    r.streamed = 1
    var nonzeros = 0
    for f in [w, h] {
      let x = f.pointer
      for i in 0..<f.values.count where x[i] != 0 { nonzeros += 1 }
    }
    r.nonzeros = Int64(nonzeros)
    return r
  }

  package func readComponents(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    try w.read(into: Output(output, "w", rows: rows, columns: components))
  }

  package func readCodes(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    let out = try Output(output, "h", rows: components, columns: columns)
    for t in 0..<columns { for l in 0..<components { out.set(l, t, h.values[l * columns + t]) } }
  }
}
