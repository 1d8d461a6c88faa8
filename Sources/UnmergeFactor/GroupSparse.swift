import UnmergeCore
import UnmergeLinalg

// Group sparse projection. Ohib, Gillis, Dalmasso, Shah, Potluru & Plis, TMLR 2022; the dual in one variable is theirs.
//
//     maximise  Σ f_i d_iᵀ|c_i|   subject to   Σ δ_i ≤ K := r(1 − s),   δ_i = b_i (w_iᵀd_i − min w_i) = 1 − sp(d_i)
//
// over unit vectors d_i ≥ 0, b_i = 1/(‖w_i‖ − min w_i). For a multiplier μ the groups separate: d_i ∝ u = (|c_i| − t_i w_i)₊ with
// t_i = μ b_i/f_i. With Q = Σ w², a = Σ w u, V = Σ u² − a²/Q over the survivors of a threshold t⁰, the weighted mass at t is
//
//     ℓ(t) = y / √(V + y²/Q),    y = a − Q (t − t⁰)
//
// as long as the support stays. Entries that fall below t count in it with −w and with their square: they only lower it. So the
// root of Σ δ_i = K in this formula, which costs r operations and reads no entry, is never beyond the right one.
// Invariant: μ is at most the right multiplier; each evaluation reads what survived the one before; where no support changed the root
// is exact. It ends after finitely many evaluations (a dozen), without a bracket around the data.
//
// ℓ jumps where the survivors of a group are tied at A_j = v w_j: at t = v it falls from √Q to the lightest tied weight. Such a
// group is a step of which everything is known, and takes no further part in the evaluations. At its jump every unit vector on
// the tied set has the same Lagrangian value 0, so one with the mass that is needed is as good as any: the gap stays 0. With
// weights a lone survivor j hands over to a lighter entry l at t = (A_j − A_l)/(w_j − w_l), where the value is negative and a
// mixture of the two is worth less than either: there the dual gap can be positive, and is reported.

/// One group: what is known of it at the multiplier reached.
struct SparseGroup: BitwiseCopyable {
  enum Kind: UInt8 {
    /// Fewer than two entries.
    case excluded
    case zero
    /// Its mass follows the formula from `t` on.
    case smooth
    /// A tied set: mass `level` up to the multiplier `jump`.
    case tied
    /// One entry is left: mass `level` up to the multiplier `jump`, where `next` takes over.
    case lone
  }

  var kind = Kind.smooth
  /// Its part of x is start ..< start + count; once copied, the first `live` there are the survivors.
  var start = 0
  var count = 0
  var live = 0
  /// Where its entries are in `source`, and whether the survivors have been copied out of there.
  var origin = 0
  var isCopied = false
  /// A power of two: magnitudes here are unit·|c|.
  var unit = 1.0
  /// ‖w‖, min w and b.
  var norm = 0.0
  var least = 1.0
  var b = 0.0
  /// f, of the magnitudes the caller has.
  var gain = 1.0
  /// t per unit of μ: b·unit/f.
  var price = 0.0
  /// The largest magnitude, and the sums at t = 0.
  var largest = 0.0
  var whole = Excess()

  /// The threshold last evaluated, its sums, and V.
  var t = 0.0
  var sums = Excess()
  var scatter = 0.0
  /// Added to t at the end, where t itself has no digits left: u = (A − t) − offset.
  var offset = 0.0

  /// For steps.
  var level = 0.0
  var jump = Double.infinity
  /// The mass after the jump, exactly.
  var after = 0.0
  /// v of a tied set.
  var ratio = 0.0
  /// Entries (weights only): the one left, and the one that takes over.
  var index = -1
  var next = -1
  /// The direction of a step: p·w on the tied set and q more on its lightest entry; p on `index` and q on `next`.
  var p = 1.0
  var q = 0.0

  /// δ and its derivative in μ. `after`: the limit from the right, with no more known than that the mass is at least `least`.
  func excess(_ mu: Double, after: Bool) -> (value: Double, slope: Double) {
    switch kind {
    case .excluded, .zero: return (0, 0)
    case .tied, .lone: return (after ? mu < jump : mu <= jump) ? (b * (level - least), 0) : (0, 0)
    case .smooth:
      let y = sums.mass - sums.count * (mu * price - t)
      guard y > 0 else { return (0, 0) }
      let square = scatter + y * y / sums.count
      let norm = square.squareRoot()
      let mass = y / norm
      guard mass > least else { return (0, 0) }
      return (b * (mass - least), -b * price * sums.count * scatter / (square * norm))
    }
  }
}

/// How a call ended, as numbers of the whole.
package struct GroupSparseSummary: Sendable {
  package var multiplier = 0.0
  /// The average over the groups that count; 1 when there are none.
  package var sparsity = 1.0
  package var objective = 0.0
  package var gap = 0.0
  package var evaluations = 0
  /// Groups with one entry left; counted by whoever writes them.
  package var oneSparse = 0
  package var steps = 0
  package var reachedLimit = false
  package var isTied = false
  package var isUnchanged = false
  /// Entries read by the evaluations.
  package var read = 0
  package var relativeGap: Double { objective > 0 ? gap / objective : 0 }
}

final class GroupSparse<T: Real> {
  let groups: Buffer<SparseGroup>
  /// What survived, or a copy of everything, the groups one after the other.
  let x: Buffer<T>
  /// The entries as given: x itself, or memory of the caller's that is read in place.
  var source: UnsafePointer<T>
  /// Weights beside them; nil = ones.
  let w: Buffer<Double>?
  /// Groups at the best step of the squared objective.
  private let best: Buffer<SparseGroup>?
  private let jumps: Buffer<Double>
  private let gains: Buffer<Double>
  /// The groups that count.
  private(set) var counted = 0
  /// The last problem solved: evaluations and μ.
  private var mu = 0.0
  private var summary = GroupSparseSummary()

  /// `bounds` is the first entry of group i, and of the one after the last. `weights`, filled by the caller.
  init(_ r: Int, weighted: Bool, squared: Bool, bounds: (Int) -> Int) throws(UnmergeError) {
    let entries = bounds(r)
    groups = try allocate(r, of: SparseGroup.self)
    jumps = try allocate(r, of: Double.self)
    gains = try allocate(squared ? r : 0, of: Double.self)
    x = try allocate(entries, of: T.self, zeroed: false)
    source = UnsafePointer(x.pointer)
    w = weighted ? try allocate(entries, of: Double.self) : nil
    best = squared ? try allocate(r, of: SparseGroup.self) : nil
    for i in 0..<r {
      var g = SparseGroup()
      g.start = bounds(i)
      g.count = bounds(i + 1) - g.start
      g.origin = g.start
      g.norm = Double(g.count).squareRoot()
      g.b = 1 / (g.norm - 1)
      groups[i] = g
    }
  }

  /// ‖w‖, min w and b from the weights in place.
  func takeWeights() {
    guard let w else { return }
    for i in 0..<groups.count {
      var g = groups[i]
      var least = Double.infinity
      var largest = 0.0
      for j in g.start..<g.start + g.count {
        least = min(least, w[j])
        largest = max(largest, w[j])
      }
      guard g.count >= 2 else { continue }
      // The measure is the same for all multiples of w.
      for j in g.start..<g.start + g.count { w[j] /= largest }
      var squares = 0.0
      for j in g.start..<g.start + g.count { squares += w[j] * w[j] }
      g.least = least / largest
      g.norm = squares.squareRoot()
      g.b = 1 / (g.norm - g.least)
      groups[i] = g
    }
  }

  func entries(_ g: SparseGroup) -> UnsafePointer<T> {
    g.isCopied ? UnsafePointer(x.pointer + g.start) : source + g.origin
  }

  /// The sums at t = 0 of the entries in `source`; false when they are not all finite. With weights x becomes |x|.
  func measure() -> Bool {
    counted = 0
    for i in 0..<groups.count {
      var g = groups[i]
      g.live = g.count
      g.unit = 1
      g.isCopied = false
      let p = source + g.origin
      guard g.count >= 2 else {
        g.kind = .excluded
        for j in 0..<g.count where !p[j].isFinite { return false }
        groups[i] = g
        continue
      }
      (g.largest, g.whole) = T.magnitudes(p, g.count)
      counted += 1
      if !g.whole.squares.isFinite || !g.whole.mass.isFinite || Hoyer.scale(for: g.largest) != 1 {
        for j in 0..<g.count where !p[j].isFinite { return false }
        if T.self == Double.self {
          g.unit = Hoyer.scale(for: g.largest)
          for j in 0..<g.count { x[g.start + j] = p[j] * T(g.unit) }
          g.isCopied = true
          (g.largest, g.whole) = T.magnitudes(x.pointer + g.start, g.count)
        }
      }
      g.kind = g.largest > 0 ? .smooth : .zero
      if w != nil {
        for j in g.start..<g.start + g.count { x[j] = abs(x[j]) }
        g.whole = excess(g, 0).sums
      }
      groups[i] = g
    }
    return true
  }

  // MARK: evaluation

  private func excess(_ g: SparseGroup, _ t: Double) -> (sums: Excess, live: Int) {
    let p = entries(g)
    guard let w else {
      let sums = T.excess(p, g.live, above: t)
      return (sums, Int(sums.count))
    }
    var sums = Excess()
    var live = 0
    for j in 0..<g.count {
      let weight = w[g.start + j]
      let u = Double(p[j]) - t * weight
      guard u > 0 else { continue }
      sums.count += weight * weight
      sums.mass += weight * u
      sums.squares += u * u
      live += 1
    }
    return (sums, live)
  }

  /// The sums at μ; with all survivors tied, or one left, the group becomes a step.
  private func evaluate(_ g: inout SparseGroup, _ mu: Double) {
    let t = mu * g.price
    let (sums, live) = mu == 0 ? (g.whole, g.live) : excess(g, t)
    if mu > 0 { summary.read += w == nil ? g.live : g.count }
    let old = (t: g.t, sums: g.sums)
    g.t = t
    g.sums = sums
    if w == nil, live > 0 {
      // Moving an entry costs as much as reading it half a dozen times.
      if live < g.live / 3 {
        g.live = T.survivors(x.pointer + g.start, entries(g), g.live, above: t)
        g.isCopied = true
      }
    }
    if live <= 1 {
      makeLone(&g, live == 0 ? heaviest(g, from: old.t) : -1, from: mu)
      return
    }
    g.scatter = max(0, sums.count > 0 ? sums.squares - sums.mass * sums.mass / sums.count : 0)
    if g.scatter <= 1e-6 * sums.squares { lookCloser(&g, mu) }
  }

  /// The survivors are nearly tied: V about their mean, or the step that they are.
  private func lookCloser(_ g: inout SparseGroup, _ mu: Double) {
    guard g.sums.count > 0 else { return }
    let slope = g.sums.mass / g.sums.count
    var (low, high) = (Double.infinity, 0.0)
    var scatter = 0.0
    let p = entries(g)
    for j in 0..<(w == nil ? g.live : g.count) {
      let weight = w?[g.start + j] ?? 1
      let a = Double(abs(p[j]))
      let u = a - g.t * weight
      guard u > 0 else { continue }
      let ratio = a / weight
      low = min(low, ratio)
      high = max(high, ratio)
      scatter += (u - slope * weight) * (u - slope * weight)
    }
    g.scatter = scatter
    guard high - low <= Hoyer.tie * high else { return }
    g.kind = .tied
    g.ratio = high
    g.level = g.sums.count.squareRoot()
    g.jump = max(mu, high / g.price)
    g.after = 1
    if let w {
      var lightest = Double.infinity
      for j in g.start..<g.start + g.count where isTied(g, Double(x[j]), w[j]) && w[j] < lightest {
        lightest = w[j]
        g.next = j
      }
      g.after = lightest
    }
  }

  func isTied(_ g: SparseGroup, _ magnitude: Double, _ weight: Double) -> Bool {
    magnitude > 0 && magnitude >= g.ratio * weight * (1 - Hoyer.tie)
  }

  /// The entry with the largest A_j − t w_j, among equals the lightest, then the first.
  private func heaviest(_ g: SparseGroup, from t: Double) -> Int {
    guard let w else { return -1 }
    var found = g.start
    for j in g.start..<g.start + g.count {
      let (u, v) = (Double(x[j]) - t * w[j], Double(x[found]) - t * w[found])
      if u > v || u == v && w[j] < w[found] { found = j }
    }
    return found
  }

  /// One entry is left from μ on: `index`, or without weights whichever is largest.
  private func makeLone(_ g: inout SparseGroup, _ index: Int, from mu: Double) {
    g.kind = .lone
    g.level = g.least
    g.after = g.least
    g.jump = .infinity
    (g.p, g.q) = (1, 0)
    guard let w else { return }
    let j = index >= 0 ? index : heaviest(g, from: g.t)
    g.index = j
    g.next = -1
    g.level = w[j]
    var first = Double.infinity
    for l in g.start..<g.start + g.count where w[l] < w[j] {
      let t = (Double(x[j]) - Double(x[l])) / (w[j] - w[l])
      if t < first || t == first && w[l] < w[g.next] { (first, g.next) = (t, l) }
    }
    guard g.next >= 0 else { return }
    g.jump = max(mu, first / g.price)
    g.after = w[g.next]
  }

  private func total(_ mu: Double, after: Bool) -> (value: Double, slope: Double) {
    var sum = (value: 0.0, slope: 0.0)
    for i in 0..<groups.count {
      let e = groups.pointer[i].excess(mu, after: after)
      sum.value += e.value
      sum.slope += e.slope
    }
    return sum
  }

  /// The root of the formula from `mu` on: a multiplier not beyond the right one; the step it lies on, if it does.
  private func root(from mu: Double, _ budget: Double) -> (mu: Double, onJump: Bool) {
    if total(mu, after: true).value <= budget { return (mu, total(mu, after: false).value > budget) }
    var low = mu
    var high = mu
    var steps = 0
    for i in 0..<groups.count {
      let g = groups[i]
      switch g.kind {
      case .smooth where g.sums.count > 0: high = max(high, (g.t + g.sums.mass / g.sums.count) / g.price)
      case .tied, .lone:
        if g.jump >= mu, g.jump < .infinity, g.level > g.least {
          jumps[steps] = g.jump
          steps += 1
        }
      default: break
      }
    }
    if steps > 0 {
      var cells = UnsafeMutableBufferPointer(start: jumps.pointer, count: steps)
      cells.sort()
      // The first jump behind which the sum is at most K.
      var (a, b) = (0, steps)
      while a < b {
        let middle = (a + b) / 2
        if total(jumps[middle], after: true).value <= budget { b = middle } else { a = middle + 1 }
      }
      if a < steps {
        if total(jumps[a], after: false).value > budget { return (jumps[a], true) }
        high = jumps[a]
      }
      if a > 0 { low = max(low, jumps[a - 1]) }
    }
    // Newton, which starts on the left and is brought back into the bracket. Until supports settle a point on the left within 1e-5
    // of the way is as good as the root.
    var m = low
    for _ in 0..<200 {
      let e = total(m, after: true)
      if e.value > budget { low = m } else { high = m }
      var next = m - (e.value - budget) / e.slope
      if !(next > low && next < high) { next = low + 0.5 * (high - low) }
      let width = abs(next - m)
      if e.value > budget, width <= 1e-5 * (m - mu) || next <= low { return (width <= 4 * m.ulp ? next : m, false) }
      if width <= 4 * m.ulp || high - low <= 4 * high.ulp { return (e.value > budget ? m : next, false) }
      m = next
    }
    return (low, false)
  }

  /// Σ δ_i ≤ K = budget, from the magnitudes in place and the gains. False when the run was stopped.
  private func solve(_ budget: Double, _ watch: Watch?) -> Bool {
    mu = 0
    for i in 0..<groups.count where groups[i].kind.rawValue > SparseGroup.Kind.zero.rawValue {
      var g = groups[i]
      g.kind = .smooth
      g.price = g.b * g.unit / g.gain
      g.offset = 0
      evaluate(&g, 0)
      groups[i] = g
    }
    while true {
      if let watch, watch.poll() != nil { return false }
      let found = root(from: mu, budget)
      if found.onJump ? found.mu <= mu : found.mu - mu <= 8 * mu.ulp {
        guard found.onJump, passes(budget) else { return true }
        continue
      }
      mu = found.mu
      summary.evaluations += 1
      for i in 0..<groups.count {
        var g = groups[i]
        if g.kind == .smooth {
          evaluate(&g, mu)
        } else {
          while g.jump < mu { makeLone(&g, g.next, from: g.jump) }
        }
        groups[i] = g
      }
    }
  }

  /// The sum behind the jumps at μ is still above K: the groups that jump there have jumped.
  private func passes(_ budget: Double) -> Bool {
    var sum = total(mu, after: true).value
    for i in 0..<groups.count where groups[i].jump == mu && groups[i].kind.rawValue > SparseGroup.Kind.smooth.rawValue {
      sum += groups[i].b * (groups[i].after - groups[i].least)
    }
    guard sum > budget else { return false }
    for i in 0..<groups.count where groups[i].jump == mu && groups[i].kind.rawValue > SparseGroup.Kind.smooth.rawValue {
      var g = groups[i]
      makeLone(&g, g.next, from: mu)
      groups[i] = g
    }
    return true
  }

  /// Meets K: what is left over goes to the groups at their jump, in the order of their indices, or into the threshold of the
  /// group that changes fastest, where it is less than the rounding of μ.
  private func complete(_ budget: Double) {
    // The last survivors but one fall within the rounding of the largest.
    if budget == 0, w == nil {
      for i in 0..<groups.count where groups[i].kind == .smooth { makeLone(&groups.pointer[i], -1, from: mu) }
    }
    var left = total(mu, after: false).value - budget
    for i in 0..<groups.count {
      var g = groups[i]
      switch g.kind {
      case .tied:
        if g.jump <= mu, left > 0 {
          let drop = min(left, g.b * (g.level - g.after))
          left -= drop
          summary.isTied = summary.isTied || drop > 0
          g.level = max(g.after, g.level - drop / g.b)
        }
        (g.p, g.q) = Hoyer.arc(g.level, g.sums.count, lightest: g.after)
      case .lone:
        guard w != nil, g.jump <= mu, left > 0, g.next >= 0 else { continue }
        let drop = min(left, g.b * (g.level - g.after))
        left -= drop
        summary.isTied = summary.isTied || drop > 0
        // On the arc from e_j to e_l, beyond (w_j, w_l): the mass first rises.
        let (a, l, mass) = (g.level, g.after, max(g.after, g.level - drop / g.b))
        let square = a * a + l * l
        let side = max(0, square - mass * mass).squareRoot()
        let (p, q) = (max(0, mass * a - l * side) / square, (mass * l + a * side) / square)
        let (j, k) = (Double(x[g.index]), Double(x[g.next]))
        if p * j + q * k > k {
          (g.p, g.q, g.level) = (p, q, mass)
        } else {
          (g.index, g.level) = (g.next, g.after)
        }
        g.jump = .infinity
      default: continue
      }
      groups[i] = g
    }
    guard left != 0 else { return }
    var steepest = -1
    var most = 0.0
    for i in 0..<groups.count where groups[i].kind == .smooth {
      let e = groups[i].excess(mu, after: false)
      if -e.slope > most, abs(left) < 0.5 * e.value { (most, steepest) = (-e.slope, i) }
    }
    guard steepest >= 0 else { return }
    var g = groups[steepest]
    let mass = g.least + (g.excess(mu, after: false).value - left) / g.b
    guard g.sums.count > mass * mass else { return }
    let y = mass * (g.sums.count * g.scatter / (g.sums.count - mass * mass)).squareRoot()
    g.offset = (g.sums.mass - y) / g.sums.count
    g.sums.mass = y
    g.sums.squares = g.scatter + y * y / g.sums.count
    groups[steepest] = g
  }

  /// d_iᵀ|c_i| in the caller's units.
  func correlation(_ g: SparseGroup) -> Double {
    switch g.kind {
    case .excluded, .zero: return 0
    case .smooth:
      let norm = g.sums.squares.squareRoot()
      return (norm + (g.t + g.offset) * g.sums.mass / norm) / g.unit
    case .tied: return g.ratio * g.level / g.unit
    case .lone:
      guard w != nil else { return g.largest / g.unit }
      return (g.p * Double(x[g.index]) + (g.q > 0 ? g.q * Double(x[g.next]) : 0)) / g.unit
    }
  }

  /// Objective and dual value, after `complete`; `values` are those of max_d f d'A − μ b wᵀd, taken before.
  private func certify(_ budget: Double, _ values: Double) {
    var (objective, constant) = (0.0, budget)
    for i in 0..<groups.count where groups[i].kind.rawValue > SparseGroup.Kind.zero.rawValue {
      objective += groups[i].gain * correlation(groups[i])
      constant += groups[i].b * groups[i].least
    }
    summary.objective = objective
    summary.gap = max(0, values + mu * constant - objective)
    summary.multiplier = mu
  }

  private func lagrangian() -> Double {
    var sum = 0.0
    for i in 0..<groups.count {
      let g = groups[i]
      let t = mu * g.price
      let value: Double
      switch g.kind {
      case .excluded, .zero: value = 0
      case .smooth: value = g.sums.squares.squareRoot()
      case .tied: value = g.sums.count.squareRoot() * max(0, g.ratio - t)
      case .lone:
        if let w, g.index >= 0 { value = Double(x[g.index]) - t * w[g.index] } else { value = g.largest - t }
      }
      sum += g.gain * value / g.unit
    }
    return sum
  }

  /// The problem with the gains in place; false when the run was stopped. Zero groups have δ = 0.
  private func run(_ budget: Double, _ watch: Watch?) -> Bool {
    guard solve(budget, watch) else { return false }
    let values = lagrangian()
    complete(budget)
    certify(budget, values)
    return true
  }

  /// Directions for an average of `sparsity`, from magnitudes that `measure` has seen. `load` fills x again. Nil: stopped.
  func project(
    sparsity: Double, squared: Bool = false, tol: Double = 0, maxSteps: Int = 0, watch: Watch? = nil, load: () -> Void
  ) -> GroupSparseSummary? {
    summary = GroupSparseSummary()
    let budget = Double(counted) * (1 - sparsity)
    var start = 0.0
    for i in 0..<groups.count where groups[i].kind == .smooth {
      let g = groups[i]
      start += 1 - Hoyer.sparsity(g.whole, norm: g.norm, least: g.least)
    }
    summary.sparsity = counted > 0 ? 1 - start / Double(counted) : 1
    summary.read = x.count
    // The sums at 0 are good to a few roundings of the mass.
    if start <= budget + 1e-15 * Double(counted) {
      summary.isUnchanged = true
      for i in 0..<groups.count where groups[i].kind == .smooth {
        summary.objective += groups[i].gain * groups[i].whole.squares.squareRoot() / groups[i].unit
      }
      return summary
    }
    summary.evaluations = 1
    guard run(budget, watch) else { return nil }
    guard let best, squared else { return summary }

    // Σ (f d'A)² is convex in d, so its tangent lies below it: with the gains f² dᵀA it cannot fall.
    var unit = 0.0
    for i in 0..<groups.count {
      gains[i] = groups[i].gain
      unit = max(unit, gains[i] * correlation(groups[i]))
    }
    func squares() -> Double {
      var sum = 0.0
      for i in 0..<groups.count {
        let v = gains[i] * correlation(groups[i]) / unit
        sum += v * v
      }
      return sum
    }
    var value = squares()
    var kept = summary
    while unit > 0 {
      if summary.steps == maxSteps {
        kept.reachedLimit = true
        break
      }
      best.pointer.update(from: groups.pointer, count: groups.count)
      for i in 0..<groups.count {
        let f = gains[i] * (gains[i] * correlation(groups[i]) / unit)
        groups[i].gain = f > 0 ? f : gains[i]
      }
      load()
      _ = measure()
      summary.read += x.count
      summary.evaluations += 1
      summary.steps += 1
      summary.isTied = false
      guard run(budget, watch) else { return nil }
      let new = squares()
      guard new > value else {
        groups.pointer.update(from: best.pointer, count: groups.count)
        break
      }
      kept = summary
      if new - value <= tol * new { break }
      value = new
    }
    kept.evaluations = summary.evaluations
    kept.read = summary.read
    return kept
  }
}
