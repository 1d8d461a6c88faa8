import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Best subset
//
//     minimise  ½‖Aw − y‖² + ridge/2 ‖w‖²  subject to  ‖w‖₀ ≤ k,  optionally w ≥ 0,  some atoms always in
//
// With Ĥ = Ĝ + μ, M = Ĥ_SS⁻¹, β = v_S, T = Ĝ_·S M, g = ĉ − Ĥv and the Schur diagonal h_j = 1 + μ_j − Σ_i T_ji Ĝ_ij, everything
// refitted:
//
//     j joins      F falls by  g_j² / (2 h_j)
//     i leaves     F rises by  β_i² / (2 M_ii)
//     j for i      F changes by  Δ_ij = β_i²/(2 M_ii) − (g_j + T_ji β_i/M_ii)² / (2 (h_j + T_ji²/M_ii))
//
// all s(n − s) exchanges in O(n s²). The smallest Δ is taken until none is below rounding: S is then optimal under exchanges of
// one atom, which is stronger than stationarity and than exchanges judged by the marginal β_i² and g_j². With w ≥ 0, Δ of least
// squares is a lower bound of that of NNLS, so exchanges are tried in its order, and none is overlooked.
//
// Sizes help each other: each size begins from that below plus its best atom and from forward selection (whose sets are those
// of OLS pursuit, so no size is worse than that), then each from that above less its least atom, and so on until nothing improves.
//
// References: Hocking & Leslie 1967; Miller 2002, ch. 3; Hazimeh & Mazumder 2020; Zhu, Wen, Zhu, Zhang & Wang 2020.

struct BestSubset: Sendable {
  let k: Int
  let ridge: Double
  let forced: [Int]
  let positive: Bool

  /// One answer per target, of size k or of the size that the rule wants.
  func answer(_ gram: Gram, _ rule: SizeRule?, _ watch: Watch) throws(UnmergeError) -> Answers {
    let answers = try Answers(gram.atoms, gram.targets)
    let stop = try requireAll(gram, watch)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      guard gram.targetNorms[t] > 0, stop == nil else {
        return answers.set(t, gram, target: t, nil, unanswered(stop), watch)
      }
      let search = try SubsetSearch(self, gram, target: t, watch)
      try search.run()
      try search.deliver(search.size(rule), answers, column: t)
    }
    return answers
  }

  /// Sizes 1 ... k for one target.
  func path(_ gram: Gram, target t: Int, _ watch: Watch) throws(UnmergeError) -> Answers {
    let answers = try Answers(gram.atoms, k)
    let stop = try requireAll(gram, watch)
    guard gram.targetNorms[t] > 0, stop == nil else {
      for s in 0..<k { answers.set(s, gram, target: t, nil, unanswered(stop), watch) }
      return answers
    }
    let search = try SubsetSearch(self, gram, target: t, watch)
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try search.run()
      for s in 1...k { try search.deliver(s, answers, column: s - 1) }
    }
    return answers
  }

  private func requireAll(_ gram: Gram, _ watch: Watch) throws(UnmergeError) -> Stop? {
    if gram.isComplete { return nil }
    let all: Buffer<Int> = try allocate(gram.atoms)
    for j in 0..<gram.atoms { all[j] = j }
    return try require(gram, UnsafeBufferPointer(start: all.pointer, count: gram.atoms), watch)
  }

  /// For y = 0, or when the columns could not be had.
  private func unanswered(_ stop: Stop?) -> Ending {
    guard let stop else { return emptyEnding() }
    var end = Ending(outcome: stop.outcome)
    end.certificate.rss = 1
    end.certificate.objective = 0.5
    return end
  }
}

/// The best sets found of every size, for one target.
private final class SubsetSearch {
  private struct Subset {
    var atoms: [Int]
    var objective: Double
    var rss: Double
    /// No exchange of one atom lowers the objective.
    var isOptimal = false
  }

  private let method: BestSubset
  private let gram: Gram
  private let watch: Watch
  private let n: Int
  private let fit: SupportFit
  private let isForced: Buffer<Bool>
  /// By size, from that of the forced atoms.
  private var found: [Subset] = []
  private var outcome = UNMERGE_CONVERGED
  private var exchanges = 0
  private let usable: Int
  /// Sizes looked at: two beyond k, from which the way back often leads to a better set.
  private let last: Int

  // What is known of `current`, in its order.
  private var current: [Int] = []
  private let numbers: Buffer<Double>
  private let columns: UnsafeMutablePointer<Double>
  private let t: UnsafeMutablePointer<Double>
  private let inverse: UnsafeMutablePointer<Double>
  private let h: UnsafeMutablePointer<Double>
  private let list: Buffer<Int>
  /// Schur complements of all atoms, n×n, and the correlations without a pair; where pairs are exchanged at all.
  private let schur: Buffer<Double>?
  private let pull: Buffer<Double>

  init(_ method: BestSubset, _ gram: Gram, target: Int, _ watch: Watch) throws(UnmergeError) {
    self.method = method
    self.gram = gram
    self.watch = watch
    n = gram.atoms
    var usable = 0
    for j in 0..<n where gram.norms[j] > 0 { usable += 1 }
    self.usable = usable
    last = max(min(min(method.k, n) + 2, usable), 0)
    let capacity = max(last, method.forced.count)
    fit = try SupportFit(gram, target: target, capacity: capacity, ridge: method.ridge, positive: method.positive)
    isForced = try allocate(n)
    for j in method.forced { isForced[j] = true }
    let cells = try product(n, 2 * capacity + 1, "the working memory")
    numbers = try allocate(cells + product(capacity, capacity, "the working memory"))
    columns = numbers.pointer
    t = columns + n * capacity
    h = t + n * capacity
    inverse = h + n
    list = try allocate(capacity)
    schur = Self.pairs(capacity, n) ? try allocate(product(n, n, "the working memory")) : nil
    pull = try allocate(n)
  }

  /// Exchanges of two look at s²(n − s)²/4 combinations: done where that is below a millisecond.
  private static func pairs(_ s: Int, _ n: Int) -> Bool {
    guard s > 1, n < 4096 else { return false }
    let (out, into) = (Double(s) * Double(s - 1) / 2, Double(n - s) * Double(n - s) / 2)
    return out * into <= 0x1p17
  }

  // MARK: sizes

  func run() throws(UnmergeError) {
    let forced = method.forced.filter { gram.norms[$0] > 0 }.sorted()
    var forward = try made(forced)
    found = [forward]
    // Up: from the size below, and along forward selection.
    while found[found.count - 1].atoms.count < last, !isStopped {
      let below = found[found.count - 1]
      guard var next = try enlarged(below) else { break }
      try improve(&next)
      if forward.atoms != below.atoms, let other = try enlarged(forward) {
        forward = other
        var improved = other
        try improve(&improved)
        if improved.objective < next.objective { next = improved }
      } else {
        forward = try enlarged(forward) ?? next
      }
      found.append(next)
    }
    // Down and up again.
    for _ in 0..<10 where !isStopped {
      var isChanged = false
      for s in stride(from: found.count - 2, through: 0, by: -1) where !isStopped {
        if let other = try reduced(found[s + 1]) { isChanged = try offer(other, s) || isChanged }
      }
      for s in 1..<max(found.count, 1) where !isStopped {
        if let other = try enlarged(found[s - 1]) { isChanged = try offer(other, s) || isChanged }
      }
      if !isChanged { break }
    }
  }

  private func offer(_ other: Subset, _ s: Int) throws(UnmergeError) -> Bool {
    if other.atoms == found[s].atoms { return false }
    var other = other
    try improve(&other)
    guard other.objective < found[s].objective - resolution(found[s].objective) else { return false }
    found[s] = other
    return true
  }

  private var isStopped: Bool { outcome != UNMERGE_CONVERGED }

  private func stops() -> Bool {
    if let stop = watch.poll() { outcome = stop.outcome }
    return isStopped
  }

  /// Objectives nearer than this are the same.
  private func resolution(_ objective: Double) -> Double { 1e-12 * objective + fit.noise }

  private func made(_ atoms: [Int]) throws(UnmergeError) -> Subset {
    try refit(atoms)
    return Subset(atoms: atoms, objective: fit.objective, rss: fit.rss)
  }

  private func refit(_ atoms: [Int], refine: Bool = false) throws(UnmergeError) {
    for (i, j) in atoms.enumerated() { list[i] = j }
    try fit.fit(list.pointer, atoms.count, refine: refine, watch)
  }

  /// With the atom that lowers the objective most; nil when none does.
  private func enlarged(_ subset: Subset) throws(UnmergeError) -> Subset? {
    if stops() { return nil }
    guard try analyse(subset.atoms) else { return nil }
    if subset.rss <= floor(gram) { return nil }
    let threshold = 2 * gram.precision.entryError
    var (best, gain) = (-1, 0.0)
    for j in 0..<n where gram.norms[j] > 0 && h[j] > 1e-12 {
      let pull = method.positive ? fit.g[j] : abs(fit.g[j])
      if pull > threshold, pull * pull / h[j] > gain * (1 + 1e-14) { (best, gain) = (j, pull * pull / h[j]) }
    }
    guard best >= 0 else { return nil }
    return try made((subset.atoms + [best]).sorted())
  }

  /// Without the atom that is missed least; nil when all are forced.
  private func reduced(_ subset: Subset) throws(UnmergeError) -> Subset? {
    if stops() { return nil }
    guard try analyse(subset.atoms) else { return nil }
    var (worst, loss) = (-1, Double.infinity)
    for (i, j) in current.enumerated() where !isForced[j] {
      let x = fit.v[j] * fit.v[j] / inverse[i * current.count + i]
      if x < loss { (worst, loss) = (j, x) }
    }
    // A coefficient that NNLS has left at 0 is missed by nobody.
    for j in subset.atoms where !isForced[j] && fit.v[j] == 0 { worst = j }
    guard worst >= 0 else { return nil }
    return try made(subset.atoms.filter { $0 != worst })
  }

  // MARK: exchanges

  /// Fits the atoms and makes M, T and h of those that are in the fit; false when they are numerically dependent.
  private func analyse(_ atoms: [Int]) throws(UnmergeError) -> Bool {
    try refit(atoms)
    current = method.positive ? atoms.filter { fit.v[$0] > 0 } : atoms
    let s = current.count
    for (a, j) in current.enumerated() {
      (columns + a * n).update(from: gram.column(j), count: n)
      for (b, i) in current.enumerated() { inverse[a * s + b] = gram.column(j)[i] }
      inverse[a * s + a] = 1 + fit.problem.mu[j]
    }
    guard Symmetric.factor(s, inverse) != nil, Symmetric.invert(s, factor: inverse) else { return false }
    if s > 0 { Double.gemm(false, false, n, s, s, 1, columns, n, inverse, s, 0, t, n) }
    for j in 0..<n { h[j] = 1 + fit.problem.mu[j] }
    for a in 0..<s {
      let (x, y) = (columns + a * n, t + a * n)
      for j in 0..<n { h[j] -= x[j] * y[j] }
    }
    for j in atoms { h[j] = -.infinity }
    return true
  }

  /// Exchanges until none lowers the objective.
  private func improve(_ subset: inout Subset) throws(UnmergeError) {
    subset.isOptimal = false
    while !stops() {
      guard try analyse(subset.atoms) else { return }
      let resolution = resolution(subset.objective)
      if method.positive, let other = try filled(subset) {
        guard other.objective < subset.objective - resolution else { return }
        subset = other
        continue
      }
      if try !exchange(&subset, resolution) {
        guard subset.isOptimal, try exchangePairs(&subset, resolution) else { return }
        subset.isOptimal = false
      }
      exchanges += 1
      if exchanges >= watch.maxIterations {
        outcome = UNMERGE_ITERATION_LIMIT
        return
      }
    }
  }

  /// Where NNLS leaves atoms at 0, one that helps in the place of one of them.
  private func filled(_ subset: Subset) throws(UnmergeError) -> Subset? {
    guard let idle = subset.atoms.first(where: { fit.v[$0] == 0 && !isForced[$0] }) else { return nil }
    var (best, pull) = (-1, correlationFloor(gram, l2: 1))
    for j in 0..<n where gram.norms[j] > 0 && h[j] > 1e-12 && fit.g[j] > pull { (best, pull) = (j, fit.g[j]) }
    guard best >= 0 else { return nil }
    return try made((subset.atoms.filter { $0 != idle } + [best]).sorted())
  }

  private func exchange(_ subset: inout Subset, _ resolution: Double) throws(UnmergeError) -> Bool {
    let s = current.count
    var best = (delta: -resolution, out: -1, into: -1)
    var promising: [(delta: Double, out: Int, into: Int)] = []
    for a in 0..<s where !isForced[current[a]] {
      let m = inverse[a * s + a]
      let ratio = fit.v[current[a]] / m
      let loss = 0.5 * fit.v[current[a]] * ratio
      let column = t + a * n
      for j in 0..<n {
        let width = h[j] + column[j] * column[j] / m
        let pull = fit.g[j] + column[j] * ratio
        // Quotients only of what may win: Δ < best is pull² > 2 (loss − best) width.
        guard width > 1e-12, pull * pull > 2 * (loss + (method.positive ? resolution : -best.delta)) * width else {
          continue
        }
        guard gram.norms[j] > 0 else { continue }
        let delta = loss - 0.5 * pull * pull / width
        if method.positive { promising.append((delta, current[a], j)) }
        if delta < best.delta { best = (delta, current[a], j) }
      }
    }
    if !method.positive {
      guard best.out >= 0 else {
        subset.isOptimal = true
        return false
      }
      let other = try made((subset.atoms.filter { $0 != best.out } + [best.into]).sorted())
      // The formula promises more than the fit keeps only where the set is nearly dependent.
      guard other.objective < subset.objective - 0.5 * resolution else { return false }
      subset = other
      return true
    }
    promising.sort { $0.delta != $1.delta ? $0.delta < $1.delta : ($0.out, $0.into) < ($1.out, $1.into) }
    for one in promising {
      if stops() { return false }
      let other = try made((subset.atoms.filter { $0 != one.out } + [one.into]).sorted())
      if other.objective < subset.objective - resolution {
        subset = other
        return true
      }
    }
    // A forced atom at 0 might come back with an exchange: the bound does not see that.
    subset.isOptimal = subset.atoms.allSatisfy { !isForced[$0] || current.contains($0) }
    return false
  }

  /// Two atoms for two. With B = M over the pair that leaves and T_j the two elements of row j there,
  ///
  ///     without the pair  F rises by ½ βᵀB⁻¹β,  g'_j = g_j + T_jᵀB⁻¹β,  H'_jl = Ĥ_jl − T_j·Ĝ_·l + T_jᵀB⁻¹T_l
  ///     with j and l      F falls by ½ [ g'_j²/H'_jj + (g'_l − H'_jl g'_j/H'_jj)² / (H'_ll − H'_jl²/H'_jj) ]
  private func exchangePairs(_ subset: inout Subset, _ resolution: Double) throws(UnmergeError) -> Bool {
    let s = current.count
    guard let schur, s > 1 else { return false }
    let outside = (0..<n).filter { gram.norms[$0] > 0 && h[$0] > -.infinity }
    for j in outside {
      let column = schur.pointer + j * n
      column.update(from: gram.column(j), count: n)
      column[j] = 1 + fit.problem.mu[j]
      for a in 0..<s { Vector.axpy(n, -columns[a * n + j], t + a * n, column) }
    }
    typealias Pairs = (delta: Double, out: (Int, Int), into: (Int, Int))
    var best: Pairs = (-resolution, (-1, -1), (-1, -1))
    var promising: [Pairs] = []
    for a in 0..<s where !isForced[current[a]] {
      for b in 0..<a where !isForced[current[b]] {
        let (maa, mab, mbb) = (inverse[a * s + a], inverse[a * s + b], inverse[b * s + b])
        let determinant = maa * mbb - mab * mab
        guard determinant > 1e-12 * maa * mbb else { continue }
        let (va, vb) = (fit.v[current[a]], fit.v[current[b]])
        let (xa, xb) = ((mbb * va - mab * vb) / determinant, (maa * vb - mab * va) / determinant)
        let loss = 0.5 * (va * xa + vb * xb)
        let (ta, tb) = (t + a * n, t + b * n)
        for j in outside { pull[j] = fit.g[j] + ta[j] * xa + tb[j] * xb }
        for (place, j) in outside.enumerated() {
          let (ya, yb) = ((mbb * ta[j] - mab * tb[j]) / determinant, (maa * tb[j] - mab * ta[j]) / determinant)
          let column = schur.pointer + j * n
          let width = column[j] + ta[j] * ya + tb[j] * yb
          guard width > 1e-12 else { continue }
          let first = 0.5 * pull[j] * pull[j] / width
          for l in outside[..<place] {
            let shared = column[l] + ta[l] * ya + tb[l] * yb
            let widthL =
              schur[l * n + l] + (ta[l] * (mbb * ta[l] - 2 * mab * tb[l]) + tb[l] * maa * tb[l]) / determinant
              - shared * shared / width
            let rest = pull[l] - shared * pull[j] / width
            let needed = loss - first + (method.positive ? resolution : -best.delta)
            guard widthL > 1e-12, rest * rest > 2 * needed * widthL else { continue }
            let delta = loss - first - 0.5 * rest * rest / widthL
            let pairs: Pairs = (delta, (current[a], current[b]), (j, l))
            if method.positive { promising.append(pairs) }
            if delta < best.delta { best = pairs }
          }
        }
      }
      if stops() { return false }
    }
    if !method.positive, best.out.0 >= 0 { promising = [best] }
    promising.sort { $0.delta < $1.delta }
    for pairs in promising {
      if stops() { return false }
      let kept = subset.atoms.filter { $0 != pairs.out.0 && $0 != pairs.out.1 }
      let other = try made((kept + [pairs.into.0, pairs.into.1]).sorted())
      if other.objective < subset.objective - resolution {
        subset = other
        return true
      }
    }
    return false
  }

  // MARK: answers

  /// The size the rule wants, or k.
  func size(_ rule: SizeRule?) -> Int {
    guard let rule else { return method.k }
    var (best, value) = (method.k, Double.infinity)
    for subset in found where subset.atoms.count <= method.k {
      let x = rule.value(rss: subset.rss, size: subset.atoms.count)
      if x < value { (best, value) = (subset.atoms.count, x) }
    }
    return best
  }

  func deliver(_ size: Int, _ answers: Answers, column: Int) throws(UnmergeError) {
    let subset = found.last { $0.atoms.count <= size } ?? found[0]
    try refit(subset.atoms, refine: true)
    var end = Ending(outcome: outcome, iterations: exchanges)
    end.certificate = fit.certificate(list.pointer, subset.atoms.count)
    if outcome == UNMERGE_CONVERGED, end.certificate.violation > watch.tol { end.outcome = UNMERGE_STALLED }
    if subset.isOptimal { end.flags |= UNMERGE_FLAG_SWAP_OPTIMAL }
    if end.certificate.isExplained(gram) {
      end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED
    } else if outcome == UNMERGE_CONVERGED, subset.atoms.count < min(size, usable) {
      end.flags |= UNMERGE_FLAG_CLIPPED
    }
    if fit.isDeficient { end.flags |= UNMERGE_FLAG_RANK_DEFICIENT }
    if size > usable { end.flags |= UNMERGE_FLAG_CLIPPED }
    answers.set(column, gram, target: fit.problem.target, fit.v, end, watch)
  }
}

// MARK: the door

extension unmerge_best_subset_options: Growable {
  package static var defaults: unmerge_best_subset_options {
    var o = unmerge_best_subset_options()
    o.struct_size = MemoryLayout<unmerge_best_subset_options>.size
    o.k = 10
    o.gamma = 0.5
    return o
  }
}

@_cdecl("unmerge_best_subset_options_init") @implementation
public func unmerge_best_subset_options_init(
  _ options: UnsafeMutablePointer<unmerge_best_subset_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

private func bestSubset(_ o: unmerge_best_subset_options, _ gram: Gram) throws(UnmergeError) -> BestSubset {
  try check(o.k, "options->k", 1...Int64.max, ">= 1")
  try check(o.ridge, "options->ridge", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
  try check(o.n_forced, "options->n_forced", 0...o.k, "between 0 and k (\(o.k))")
  try checkFlag(o.positive, "options->positive")
  guard o.n_forced <= Int64(gram.atoms) else {
    throw .range("options->n_forced is \(o.n_forced), but there are \(gram.atoms) atoms; forced atoms must be different")
  }
  var forced: [Int] = []
  if o.n_forced > 0 {
    guard let pointer = o.forced else { throw .null("options->forced") }
    let seen: Buffer<Bool> = try allocate(gram.atoms)
    for i in 0..<Int(o.n_forced) {
      let j = UnsafeRawPointer(pointer + i).loadUnaligned(as: Int64.self)
      guard j >= 0, j < Int64(gram.atoms) else {
        throw .range("options->forced[\(i)] is \(j); it must be in [0, \(gram.atoms))")
      }
      guard !seen[Int(j)] else { throw .range("options->forced[\(i)] is \(j) again; forced atoms must be different") }
      seen[Int(j)] = true
      forced.append(Int(j))
    }
  }
  return BestSubset(k: Int(min(o.k, Int64(Int.max / 64))), ridge: o.ridge, forced: forced, positive: o.positive == 1)
}

@_cdecl("unmerge_best_subset") @implementation
public func unmerge_best_subset(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_best_subset_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    let method = try bestSubset(o, gram)
    guard o.target == 0 else { throw .range("options->target is \(o.target); it must be 0, all targets are answered") }
    let rule = try SizeRule(o.size, effective: o.effective, gamma: o.gamma, gram)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    try method.answer(gram, rule, watch).deliver(output, reports)
  }
}

@_cdecl("unmerge_best_subset_path") @implementation
public func unmerge_best_subset_path(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_best_subset_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    let method = try bestSubset(o, gram)
    let target = try checkTarget(o.target, gram)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: method.k)
    try checkResult(reports, "reports", count: method.k)
    try method.path(gram, target: target, watch).deliver(output, reports)
  }
}
