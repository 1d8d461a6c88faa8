import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Greedy pursuit of min ‖Aw − y‖² with at most k atoms, or groups of atoms. With the recursion of `Span` (see OMP.swift) a step
// costs one row per atom whatever the score:
//
//     OMP     |u_j|           the atom nearest to the residual
//     OLS     |u_j| / √h_j    the atom whose addition lowers ‖r‖² most, by u_j²/h_j
//     group   ‖R⁻ᵀu_g‖        RᵀR = Ĝ_gg for OMP, Ĝ_gg − W_gᵀW_g for OLS: the same two of the span of a group
//     MP      |u_j|, v_j += u_j, u −= u_j Ĝ_j: no refit
//
// With w ≥ 0: the positive part of u, and NNLS on the selection.
//
// References: Mallat & Zhang 1993; Pati, Rezaiifar & Krishnaprasad 1993; Chen, Billings & Luo 1989; Bruckstein, Elad &
// Zibulevsky 2008; Eldar, Kuppinger & Bölcskei 2010; Wang, Kwon & Shim 2012.

/// The span of the selected atoms: u = ĉ − Ĝv at least squares on them, h = 1 − Σ W_i², one row of W per atom.
final class Span {
  let gram: Gram
  let n: Int
  let u: UnsafeMutablePointer<Double>
  /// 0 once selected.
  let h: UnsafeMutablePointer<Double>
  private(set) var atoms: [Int] = []
  private(set) var rows: [Buffer<Double>] = []
  private(set) var rss = 1.0
  private let numbers: Buffer<Double>

  /// At or below this part outside the span an atom is dependent.
  static let tolerance = 1e-12

  init(_ gram: Gram, target: Int) throws(UnmergeError) {
    self.gram = gram
    n = gram.atoms
    numbers = try allocate(product(2, n, "the working memory"))
    u = numbers.pointer
    h = u + n
    u.update(from: gram.correlation(target), count: n)
    for j in 0..<n where gram.norms[j] > 0 { h[j] = 1 }
  }

  @inline(__always) func isFree(_ j: Int) -> Bool { h[j] > Self.tolerance }

  /// Column j of Ĝ is known and h_j above the tolerance.
  func add(_ j: Int) throws(UnmergeError) {
    let row = try allocate(n, of: Double.self)
    let w = row.pointer
    w.update(from: gram.column(j), count: n)
    for earlier in rows { Vector.axpy(n, -earlier[j], earlier.pointer, w) }
    let root = h[j].squareRoot()
    let size = u[j] / root
    let (h, u) = (h, u)
    for i in 0..<n {
      w[i] /= root
      h[i] -= w[i] * w[i]
      u[i] -= size * w[i]
    }
    w[j] = root
    h[j] = 0
    rss = max(0, rss - size * size)
    rows.append(row)
    atoms.append(j)
  }

  /// v ← least squares on the first `count` atoms, refined once, and g ← ĉ − Ĝv.
  func solve(_ count: Int, _ problem: Quadratic, _ v: UnsafeMutablePointer<Double>, _ g: UnsafeMutablePointer<Double>)
    throws(UnmergeError)
  {
    let x = try allocate(count, of: Double.self)
    for _ in 0..<2 {
      problem.gradient(v, g)
      for i in 0..<count {
        let j = atoms[i]
        var sum = g[j]
        for l in 0..<i { sum -= rows[l][j] * x[l] }
        x[i] = sum / rows[i][j]
      }
      for i in stride(from: count - 1, through: 0, by: -1) {
        var sum = x[i]
        for l in (i + 1)..<count { sum -= rows[i][atoms[l]] * x[l] }
        x[i] = sum / rows[i][atoms[i]]
        v[atoms[i]] += x[i]
      }
    }
    problem.gradient(v, g)
  }
}

struct Pursuit: Sendable {
  enum Kind { case omp, ols, mp }

  let units: Units
  let k: Int
  var kind = Kind.omp
  var perStep = 1
  var residualTol = 0.0
  var correlationTol = 0.0
  var positive = false
  var size: SizeRule?

  /// `order` has min(k, units) rows.
  func answer(_ gram: Gram, _ answers: Answers, _ order: Buffer<Int64>, _ watch: Watch) throws(UnmergeError) {
    let width = gram.targets
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      var selection = Selection()
      if gram.targetNorms[t] == 0 {
        answers.set(t, gram, target: t, nil, emptyEnding(), watch)
      } else if kind == .mp {
        try selectAlone(gram, t, &selection, answers, watch)
      } else if positive {
        try selectPositive(gram, t, &selection, answers, watch)
      } else {
        try select(gram, t, &selection, answers, watch)
      }
      for i in 0..<min(k, units.count) {
        order[i * width + t] = i < selection.units.count ? Int64(selection.units[i]) : -1
      }
    }
  }

  private struct Selection {
    var units: [Int] = []
    /// Atoms in order, and how many there are after each unit.
    var atoms: [Int] = []
    var ends: [Int] = []
    var steps = 0
    var outcome = UNMERGE_CONVERGED
    /// No atom is left that would improve the fit.
    var isExhausted = false
    /// Number of units with the smallest criterion so far.
    var bestCount = 0
    var bestValue = Double.infinity

    mutating func take(_ unit: Int, _ atoms: ArraySlice<Int>) {
      units.append(unit)
      self.atoms += atoms
      ends.append(self.atoms.count)
      steps += 1
    }

    mutating func judge(_ rule: SizeRule?, rss: Double, size: Int) {
      guard let rule else { return }
      let value = rule.value(rss: rss, size: size)
      if value < bestValue { (bestValue, bestCount) = (value, units.count) }
    }

    /// Back to the units the criterion wants; whether any go.
    mutating func truncate(_ rule: SizeRule?) -> Bool {
      guard rule != nil, bestCount < units.count else { return false }
      units.removeLast(units.count - bestCount)
      ends.removeLast(ends.count - bestCount)
      atoms.removeLast(atoms.count - (ends.last ?? 0))
      return true
    }
  }

  private func isFitted(_ rss: Double, _ gram: Gram) -> Bool {
    rss.squareRoot() <= residualTol || (gram.precision == .exact && rss <= floor(gram))
  }

  /// Correlations at or below this are noise of the Gram, or what the caller does not want to follow.
  private func threshold(_ rss: Double, _ gram: Gram) -> Double {
    max(2 * gram.precision.entryError, correlationTol * rss.squareRoot())
  }

  private func exhausts(_ rss: Double, _ gram: Gram) -> Bool {
    correlationTol * rss.squareRoot() <= 2 * gram.precision.entryError
  }

  /// The index in 0 ..< count with the largest score above `floor`; a later one must beat an earlier by more than rounding.
  @inline(__always)
  private func best(_ count: Int, above floor: Double, _ score: (Int) -> Double, where isFree: (Int) -> Bool) -> Int? {
    var best: Int?
    var largest = floor
    for i in 0..<count {
      let s = score(i)
      if s > largest, best == nil || s > largest * (1 + 1e-14), isFree(i) {
        best = i
        largest = s
      }
    }
    return best
  }

  /// Makes column j of Ĝ known; on demand the most promising others come along.
  private func fetch(
    _ gram: Gram, _ j: Int, _ u: UnsafePointer<Double>, selected: Int, _ watch: Watch, where isFree: (Int) -> Bool
  ) throws(UnmergeError) -> Stop? {
    if let stop = watch.poll() { return stop }
    if gram.has(j) { return nil }
    let batch = try allocate(gram.atoms, of: Int.self)
    var count = 0
    for i in 0..<gram.atoms where isFree(i) && (positive ? u[i] : abs(u[i])) > 0 {
      batch[count] = i
      count += 1
    }
    var list = UnsafeMutableBufferPointer(start: batch.pointer, count: count)
    list.sort { abs(u[$0]) != abs(u[$1]) ? abs(u[$0]) > abs(u[$1]) : $0 < $1 }
    return try require(gram, UnsafeBufferPointer(start: batch.pointer, count: min(count, max(16, 2 * selected))), watch)
  }

  /// The scores of groups ask for the columns of all their atoms.
  private func fetchGroups(_ gram: Gram, _ watch: Watch) throws(UnmergeError) -> Stop? {
    guard !units.areAtoms, !gram.isComplete else { return nil }
    let all = try allocate(gram.atoms, of: Int.self)
    for j in 0..<gram.atoms { all[j] = j }
    return try require(gram, UnsafeBufferPointer(start: all.pointer, count: gram.atoms), watch)
  }

  // MARK: least squares on the selection

  private func select(
    _ gram: Gram, _ t: Int, _ selection: inout Selection, _ answers: Answers, _ watch: Watch
  ) throws(UnmergeError) {
    let n = gram.atoms
    let span = try Span(gram, target: t)
    let isTaken: Buffer<Bool> = try allocate(units.count)
    let scores = try GroupScores(units.areAtoms ? 0 : units.largest)
    selection.judge(size, rss: 1, size: 0)
    if let stop = try fetchGroups(gram, watch) { selection.outcome = stop.outcome }
    var picks: [Int] = []
    steps: while selection.outcome == UNMERGE_CONVERGED, selection.units.count < k {
      if isFitted(span.rss, gram) { break }
      if try !pick(span, scores, isTaken, &picks) {
        selection.isExhausted = exhausts(span.rss, gram)
        break
      }
      if selection.steps >= watch.maxIterations {
        selection.outcome = UNMERGE_ITERATION_LIMIT
        break
      }
      for i in picks where selection.units.count < k {
        isTaken[i] = true
        let before = span.atoms.count
        for m in 0..<units.size(i) {
          let j = units.atom(i, m)
          guard span.isFree(j) else { continue }
          if let stop = try fetch(gram, j, span.u, selected: before, watch, where: { span.isFree($0) }) {
            selection.outcome = stop.outcome
            break steps
          }
          try span.add(j)
        }
        guard span.atoms.count > before else { continue }
        selection.take(i, span.atoms[before...])
        selection.judge(size, rss: span.rss, size: span.atoms.count)
      }
      report(gram, t, span.rss, watch)
    }
    _ = selection.truncate(size)
    let problem = try selectable(gram, t)
    for j in selection.atoms { problem.lambda[j] = 0 }
    let v = try allocate(n, of: Double.self)
    try span.solve(selection.atoms.count, problem, v.pointer, span.u)
    finish(selection, problem, v.pointer, span.u, answers, watch)
  }

  /// The units that join in this step; false when none would improve the fit.
  private func pick(
    _ span: Span, _ scores: GroupScores, _ isTaken: Buffer<Bool>, _ picks: inout [Int]
  ) throws(UnmergeError) -> Bool {
    picks.removeAll(keepingCapacity: true)
    let (u, h) = (span.u, span.h)
    let floor = threshold(span.rss, span.gram)
    // With several per step the later of them are those that the first leaves.
    var waiting = Set<Int>()
    if !units.areAtoms { scores.compute(units, span, exact: kind == .ols, above: floor, isTaken) }
    while picks.count < min(perStep, k) {
      var next: Int?
      if !units.areAtoms {
        next = best(units.count, above: 0, { scores.values[$0] }, where: { !isTaken[$0] && !waiting.contains($0) })
      } else if kind == .omp {
        next = best(span.n, above: floor, { abs(u[$0]) }, where: { h[$0] > Span.tolerance && !waiting.contains($0) })
      } else {
        next = best(
          span.n, above: 0,
          { j in
            let size = abs(u[j])
            return size > floor && h[j] > Span.tolerance ? size / h[j].squareRoot() : 0
          }, where: { !waiting.contains($0) })
      }
      guard let next else { break }
      picks.append(next)
      if perStep > 1 { waiting.insert(next) }
    }
    return !picks.isEmpty
  }

  // MARK: non-negative least squares on the selection

  private func selectPositive(
    _ gram: Gram, _ t: Int, _ selection: inout Selection, _ answers: Answers, _ watch: Watch
  ) throws(UnmergeError) {
    let problem = try selectable(gram, t)
    let solver = try ActiveSet(problem)
    let isFree: Buffer<Bool> = try allocate(units.count)
    let score: Buffer<Double> = try allocate(units.count)
    for i in 0..<units.count {
      for m in 0..<units.size(i) where gram.norms[units.atom(i, m)] > 0 { isFree[i] = true }
    }
    var passedOver: [Int] = []
    var certificate = problem.certify(solver.v, solver.g)
    selection.judge(size, rss: certificate.rss, size: 0)
    if let stop = try fetchGroups(gram, watch) { selection.outcome = stop.outcome }
    steps: while selection.outcome == UNMERGE_CONVERGED, selection.units.count < k {
      let rss = certificate.rss
      if isFitted(rss, gram) { break }
      units.score(solver.g, positive: true, score.pointer)
      var picks: [Int] = []
      while picks.count < min(perStep, k - selection.units.count) {
        guard let i = best(units.count, above: threshold(rss, gram), { score[$0] }, where: { isFree[$0] }) else { break }
        isFree[i] = false
        picks.append(i)
      }
      if picks.isEmpty {
        selection.isExhausted = exhausts(rss, gram)
        break
      }
      if selection.steps >= watch.maxIterations {
        selection.outcome = UNMERGE_ITERATION_LIMIT
        break
      }
      var isNew = false
      for i in picks {
        var fresh: [Int] = []
        for m in 0..<units.size(i) {
          let j = units.atom(i, m)
          guard gram.norms[j] > 0, problem.lambda[j] == .infinity else { continue }
          let stop = try fetch(
            gram, j, solver.g, selected: selection.atoms.count, watch,
            where: { gram.norms[$0] > 0 && problem.lambda[$0] == .infinity })
          if let stop {
            selection.outcome = stop.outcome
            break steps
          }
          if try solver.isDependent(j) { continue }
          fresh.append(j)
        }
        if fresh.isEmpty {
          passedOver.append(i)
          continue
        }
        isNew = true
        selection.take(i, fresh[...])
        for j in fresh {
          problem.lambda[j] = 0
          if units.areAtoms, perStep == 1 { solver.v[j] = solver.g[j] }
        }
      }
      if !isNew { continue }
      for i in passedOver { isFree[i] = true }
      passedOver = []
      certificate = try solver.run(watch, tol: min(watch.tol, 1e-10), maxIterations: .max).certificate
      if let stop = watch.poll() {
        selection.outcome = stop.outcome
        break
      }
      var nonzeros = 0
      for j in selection.atoms where solver.v[j] != 0 { nonzeros += 1 }
      selection.judge(size, rss: certificate.rss, size: nonzeros)
      report(gram, t, certificate.rss, watch)
    }
    let all = selection.atoms
    if selection.truncate(size) {
      for j in all { problem.lambda[j] = .infinity }
      for j in selection.atoms { problem.lambda[j] = 0 }
      _ = try solver.run(watch, tol: min(watch.tol, 1e-10), maxIterations: .max)
    }
    finish(selection, problem, solver.v, solver.g, answers, watch)
  }

  // MARK: one coefficient at a time

  private func selectAlone(
    _ gram: Gram, _ t: Int, _ selection: inout Selection, _ answers: Answers, _ watch: Watch
  ) throws(UnmergeError) {
    let n = gram.atoms
    let problem = try selectable(gram, t)
    let v = try allocate(n, of: Double.self)
    let u = try allocate(n, of: Double.self)
    u.pointer.update(from: gram.correlation(t), count: n)
    var rss = 1.0
    while true {
      if isFitted(rss, gram) { break }
      // With w ≥ 0 a coefficient that is too large may fall, to 0 at most.
      let next = best(
        n, above: threshold(rss, gram), { j in positive ? (u[j] > 0 ? u[j] : min(-u[j], v[j])) : abs(u[j]) },
        where: { gram.norms[$0] > 0 })
      guard let j = next else {
        selection.isExhausted = selection.units.count < k && exhausts(rss, gram)
        break
      }
      let isNew = problem.lambda[j] == .infinity
      if isNew, selection.units.count == k { break }
      if selection.steps >= watch.maxIterations {
        selection.outcome = UNMERGE_ITERATION_LIMIT
        break
      }
      if let stop = try fetch(gram, j, u.pointer, selected: selection.units.count, watch, where: { gram.norms[$0] > 0 }) {
        selection.outcome = stop.outcome
        break
      }
      if isNew {
        selection.units.append(j)
        problem.lambda[j] = 0
      }
      selection.steps += 1
      let step = positive ? max(u[j], -v[j]) : u[j]
      rss = max(0, rss - step * (2 * u[j] - step))
      v[j] += step
      Vector.axpy(n, -step, gram.column(j), u.pointer)
      report(gram, t, rss, watch)
    }
    problem.gradient(v.pointer, u.pointer)
    finish(selection, problem, v.pointer, u.pointer, answers, watch, refitted: false)
  }

  /// Least squares, or NNLS, over no atom yet: λ = ∞ excludes all until they are selected.
  private func selectable(_ gram: Gram, _ t: Int) throws(UnmergeError) -> Quadratic {
    let problem = try Quadratic(gram, target: t, alpha: 0, l1Ratio: 1, weights: nil, bounds: positive ? .positive : .none)
    problem.lambda.update(repeating: .infinity, count: gram.atoms)
    return problem
  }

  private func report(_ gram: Gram, _ t: Int, _ rss: Double, _ watch: Watch) {
    watch.report(
      phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: t, total: gram.targets, objective: 0.5 * rss)
  }

  private func finish(
    _ selection: Selection, _ problem: Quadratic, _ v: UnsafePointer<Double>, _ u: UnsafePointer<Double>,
    _ answers: Answers, _ watch: Watch, refitted: Bool = true
  ) {
    let gram = problem.gram
    var end = Ending(outcome: selection.outcome, iterations: selection.steps)
    end.certificate = problem.certify(v, u)
    end.certificate.gap = .nan
    end.certificate.relativeGap = .nan
    if refitted, end.outcome == UNMERGE_CONVERGED, end.certificate.violation > watch.tol { end.outcome = UNMERGE_STALLED }
    if end.certificate.isExplained(gram) {
      end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED
    } else if selection.isExhausted {
      end.flags |= UNMERGE_FLAG_CLIPPED
    }
    if k > units.usable { end.flags |= UNMERGE_FLAG_CLIPPED }
    answers.set(problem.target, gram, target: problem.target, v, end, watch)
  }
}

/// How much of the residual the span of each group explains: ‖R⁻ᵀu_g‖, R the factor of the group's own Gram, or `exact`ly of
/// what of that is outside the selection.
private final class GroupScores {
  private(set) var values: [Double] = []
  private let factor: Buffer<Double>
  private let size: Int

  /// size² numbers: the factor of the largest group.
  init(_ size: Int) throws(UnmergeError) {
    self.size = size
    factor = try allocate(product(size, size, "the groups"))
  }

  /// 0 for groups without an atom whose correlation is above `floor`.
  func compute(_ units: Units, _ span: Span, exact: Bool, above floor: Double, _ isTaken: Buffer<Bool>) {
    if values.count != units.count { values = Array(repeating: 0, count: units.count) }
    for g in 0..<units.count {
      var largest = 0.0
      if !isTaken[g] {
        for m in 0..<units.size(g) where span.isFree(units.atom(g, m)) {
          largest = max(largest, abs(span.u[units.atom(g, m)]))
        }
      }
      values[g] = largest > floor ? score(units, g, span, exact) : 0
    }
  }

  private func score(_ units: Units, _ g: Int, _ span: Span, _ exact: Bool) -> Double {
    // Accepted members and their elements of R⁻ᵀu.
    var accepted: [Int] = []
    var z: [Double] = []
    var sum = 0.0
    for m in 0..<units.size(g) {
      let j = units.atom(g, m)
      guard span.gram.norms[j] > 0, !exact || span.isFree(j) else { continue }
      let new = factor.pointer + accepted.count * size
      var pivot = exact ? span.h[j] : 1
      var value = span.u[j]
      for (r, i) in accepted.enumerated() {
        var x = span.gram.column(i)[j]
        if exact { for row in span.rows { x -= row[i] * row[j] } }
        let other = factor.pointer + r * size
        for q in 0..<r { x -= other[q] * new[q] }
        x /= other[r]
        new[r] = x
        pivot -= x * x
        value -= x * z[r]
      }
      guard pivot > Span.tolerance else { continue }
      new[accepted.count] = pivot.squareRoot()
      z.append(value / pivot.squareRoot())
      accepted.append(j)
      sum += value / pivot * value
    }
    return sum.squareRoot()
  }
}

// MARK: the door

extension unmerge_pursuit_options: Growable {
  package static var defaults: unmerge_pursuit_options {
    var o = unmerge_pursuit_options()
    o.struct_size = MemoryLayout<unmerge_pursuit_options>.size
    o.k = 10
    o.per_step = 1
    o.gamma = 0.5
    return o
  }
}

@_cdecl("unmerge_pursuit_options_init") @implementation
public func unmerge_pursuit_options_init(
  _ options: UnsafeMutablePointer<unmerge_pursuit_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_pursuit") @implementation
public func unmerge_pursuit(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_pursuit_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ order: UnsafeMutablePointer<Int64>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.k, "options->k", 1...Int64.max, ">= 1")
    try check(o.per_step, "options->per_step", 1...Int64.max, ">= 1")
    try check(o.residual_tol, "options->residual_tol", 0...1, "in [0, 1]")
    try check(o.correlation_tol, "options->correlation_tol", 0...1, "in [0, 1]")
    try check(Int64(o.kind), "options->kind", 0...2, "UNMERGE_PURSUIT_OMP, _OLS or _MP")
    try checkFlag(o.positive, "options->positive")
    try checkReserved(o.reserved, "options->reserved")
    let size = try SizeRule(o.size, effective: o.effective, gamma: o.gamma, gram)
    if o.kind == UNMERGE_PURSUIT_OLS, o.positive == 1 {
      throw .range("options->positive is 1, which UNMERGE_PURSUIT_OLS does not offer; it must be 0, or kind OMP or MP")
    }
    if o.kind == UNMERGE_PURSUIT_MP {
      guard o.per_step == 1 else { throw .range("options->per_step is \(o.per_step); it must be 1 for UNMERGE_PURSUIT_MP") }
      guard size == nil else { throw .range("options->size is \(o.size); it must be UNMERGE_SIZE_K for UNMERGE_PURSUIT_MP") }
      guard o.offsets == nil, o.n_groups == 0 else {
        throw .range("options->offsets gives groups, which UNMERGE_PURSUIT_MP does not take; it must be NULL")
      }
    }
    let units = try Units.read(gram, o.offsets, o.members, o.n_groups, disjoint: false)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    // `order` has k rows, however many units there are; what is beyond them is -1.
    let rows = min(Int(o.k), units.count)
    let cells = order == nil ? 0 : try product(Int(o.k), gram.targets, "order")
    let selected = try allocate(product(rows, gram.targets, "order"), of: Int64.self)
    let answers = try Answers(gram.atoms, gram.targets)
    let kind: Pursuit.Kind = o.kind == UNMERGE_PURSUIT_OLS ? .ols : o.kind == UNMERGE_PURSUIT_MP ? .mp : .omp
    let pursuit = Pursuit(
      units: units, k: Int(o.k), kind: kind, perStep: Int(o.per_step), residualTol: o.residual_tol,
      correlationTol: o.correlation_tol, positive: o.positive == 1, size: size)
    try pursuit.answer(gram, answers, selected, watch)
    answers.deliver(output, reports)
    guard let order else { return }
    let known = rows * gram.targets
    order.update(from: selected.pointer, count: known)
    if cells > known { (order + known).update(repeating: -1, count: cells - known) }
  }
}
