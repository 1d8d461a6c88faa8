import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Minimises F of a `GroupSpace` for one target:
///
///     repeat   active groups and the strongest violators:  block steps   (`sweep`)
///              coordinates that are in:                    Newton        (`minimiseOnManifold`)
///              everywhere:                                 g = ĉ − Ĝz, who violates? (`enter`)
///
/// A block step is exact: with Q = VΣVᵀ the curvature of group g and b what is left for it, u_g = 0 if ‖b‖ ≤ ν, else
/// Vᵀu = Vᵀb h / ((σ + μ) h + ν) where h = ‖u‖ solves Σ (Vᵀb)²/((σ + μ) h + ν)² = 1, by Newton on the concave 1/√Σ − 1, which
/// rises to its root from the left. Where single coordinates are thresholded too, a few steps of the proximal gradient stand
/// in for it; sweeps choose who is in, Newton takes F to rounding.
///
/// Invariant: g = ĉ − Ĝz up to rounding, on the columns of Ĝ; the gradient of coordinate i is h_i = ρ_i g − μ_i u_i. Every
/// step lowers F. Only columns of groups that are in or about to enter are read.
///
/// References: Yuan & Lin 2006; Simon, Friedman, Hastie & Tibshirani 2013 (sparse groups); Tibshirani et al. 2012 (strong
/// rules); Yang & Hastie 2024 (the block's secular equation).
final class GroupSolver<Form: GramForm> {
  let space: GroupSpace<Form>
  private let form: Form
  private let target: Int
  private let c: UnsafePointer<Double>
  let u: UnsafeMutablePointer<Double>
  /// ĉ − Ĝz
  let g: UnsafeMutablePointer<Double>
  /// λ_i and ν_g: l1 and group penalties in units of F; ∞ excludes.
  let lambda: UnsafeMutablePointer<Double>
  let nu: UnsafeMutablePointer<Double>

  /// Violations by group, and scratch to sort them.
  private let violation: UnsafeMutablePointer<Double>
  private let sorted: UnsafeMutablePointer<Double>
  /// Of one group.
  private let h: UnsafeMutablePointer<Double>
  private let x: UnsafeMutablePointer<Double>
  private let y: UnsafeMutablePointer<Double>
  private let working: UnsafeMutablePointer<Int>
  private var workingCount = 0
  private var bases: [GroupBasis?]
  private let thresholded: Buffer<Bool>
  private let manifold: GroupManifold<Form>
  /// On the manifold: u, gradient, descent, step, and what is tried.
  private let numbers: Buffer<Double>
  private let onManifold: Buffer<Double>
  private let groupScratch: Buffer<Double>
  private let indices: Buffer<Int>
  private var iterations = 0
  private var isSingular = false

  private static var sweepsPerRound: Int { 10 }

  init(_ space: GroupSpace<Form>, target: Int) throws(UnmergeError) {
    self.space = space
    self.target = target
    form = space.form
    c = form.correlation(target)
    let n = space.n
    numbers = try allocate(product(1, 2 * n + form.count + 3 * space.groups + 3 * space.largestGroup, "the working memory"))
    u = numbers.pointer
    lambda = u + n
    g = lambda + n
    nu = g + form.count
    violation = nu + space.groups
    sorted = violation + space.groups
    h = sorted + space.groups
    x = h + space.largestGroup
    y = x + space.largestGroup
    onManifold = try allocate(product(6, n, "the working memory"))
    indices = try allocate(space.groups)
    groupScratch = try allocate(product(2, space.groups, "the groups"))
    working = indices.pointer
    thresholded = try allocate(space.groups)
    for b in 0..<space.groups { thresholded[b] = space.size(b) > 1 && space.isThresholded(b) }
    bases = Array(repeating: nil, count: space.groups)
    manifold = try GroupManifold(space)
    g.update(from: c, count: form.count)
  }

  /// Sets the penalty; u stays.
  func penalise(_ alpha: Double) {
    let a = alpha / form.gram.targetNorms[target]
    for i in 0..<space.n { lambda[i] = space.l1[i] == 0 ? 0 : a * space.l1[i] }
    for b in 0..<space.groups { nu[b] = space.norm[b] == 0 ? 0 : a * space.norm[b] }
    for i in 0..<space.n where lambda[i].isNaN { lambda[i] = .infinity }
    for b in 0..<space.groups where nu[b].isNaN { nu[b] = .infinity }
  }

  /// Leaves only what has no penalty but a ridge.
  func excludePenalised() {
    for b in 0..<space.groups {
      if space.norm[b] > 0 { nu[b] = .infinity }
      for i in space.start[b]..<space.start[b + 1] where space.l1[i] > 0 { lambda[i] = .infinity }
    }
  }

  private func isExcluded(_ b: Int) -> Bool {
    nu[b] == .infinity || (space.size(b) == 1 && lambda[space.start[b]] == .infinity)
  }

  @inline(__always)
  private func gradient(_ i: Int) -> Double { space.ratio[i] * g[space.column[i]] - space.mu[i] * u[i] }

  /// What is left of a gradient beyond the l1 penalty.
  @inline(__always)
  private func shrink(_ h: Double, _ l: Double) -> Double {
    if h > l { return h - l }
    return h < -l && !space.positive ? h + l : 0
  }

  private func isIn(_ b: Int) -> Bool {
    for i in space.start[b]..<space.start[b + 1] where u[i] != 0 { return true }
    return false
  }

  /// u_i ← value, g following.
  @inline(__always)
  private func move(_ i: Int, to value: Double) {
    let delta = u[i] - value
    if delta == 0 { return }
    u[i] = value
    form.add(space.column[i], delta * space.ratio[i], g)
  }

  // MARK: the loop

  /// Runs from the current u to `tol`, at most `maxIterations` sweeps and Newton steps; 0 certifies u as it is. With
  /// `strong`, the factor by which the penalty has shrunk since g was optimal, groups that may enter by the strong rule do so
  /// at once.
  func run(
    _ watch: Watch, tol: Double, maxIterations: Int, strong: Double? = nil
  ) throws(UnmergeError) -> Ending {
    iterations = 0
    isSingular = false
    workingCount = 0
    var isWarm = false
    for b in 0..<space.groups {
      if isExcluded(b) { for i in space.start[b]..<space.start[b + 1] { u[i] = 0 } }
      for i in space.start[b]..<space.start[b + 1] where lambda[i] == .infinity || (space.positive && u[i] < 0) { u[i] = 0 }
      if isIn(b) {
        working[workingCount] = b
        workingCount += 1
        isWarm = true
      }
    }
    if let strong, isWarm { addStrong(strong) }
    let isStrong = strong != nil
    var stop = try requireWorking(watch)
    if stop != nil, !form.gram.isComplete {
      for i in 0..<space.n where !form.gram.has(space.column[i]) { u[i] = 0 }
    }
    var certificate = refresh()
    var objective = Double.infinity
    var idle = 0
    var atLimit = false
    while stop == nil, idle < 4, maxIterations > 0 {
      if !isWarm || !isStrong {
        guard enter(certificate, tol: tol) else { break }
      }
      atLimit = iterations >= maxIterations
      if atLimit { break }
      if !isWarm || isStrong {
        stop = try requireWorking(watch)
        if stop == nil { stop = try sweep(watch, maxIterations) }
      }
      isWarm = false
      if stop == nil, iterations < maxIterations { stop = try minimiseOnManifold(watch, maxIterations) }
      certificate = refresh()
      idle = certificate.objective < objective * (1 - 1e-15) ? 0 : idle + 1
      objective = min(objective, certificate.objective)
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: form.gram.passes, done: target, total: form.gram.targets,
        objective: certificate.objective, relativeGap: certificate.relativeGap)
      stop = stop ?? watch.poll()
    }
    if !(certificate.relativeGap <= tol), stop == nil { try tighten(&certificate) }
    var end = Ending(iterations: iterations, certificate: certificate)
    let reached =
      certificate.relativeGap.isNaN ? certificate.violation <= tol : certificate.relativeGap <= tol
    if !reached {
      end.outcome = stop?.outcome ?? (atLimit || maxIterations == 0 ? UNMERGE_ITERATION_LIMIT : UNMERGE_STALLED)
    }
    if certificate.isExplained(form.gram) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    if isSingular { end.flags |= UNMERGE_FLAG_RANK_DEFICIENT }
    return end
  }

  private func requireWorking(_ watch: Watch) throws(UnmergeError) -> Stop? {
    if form.gram.isComplete { return nil }
    var count = 0
    for k in 0..<workingCount { count += space.size(working[k]) }
    let columns: Buffer<Int> = try allocate(count)
    count = 0
    for k in 0..<workingCount {
      for i in space.start[working[k]]..<space.start[working[k] + 1] {
        columns[count] = space.column[i]
        count += 1
      }
    }
    return try require(form.gram, UnsafeBufferPointer(start: columns.pointer, count: count), watch)
  }

  /// g from scratch, and what can be said of u.
  private func refresh() -> Certificate {
    follow()
    return certify()
  }

  private func follow() {
    g.update(from: c, count: form.count)
    for i in 0..<space.n where u[i] != 0 { form.add(space.column[i], -u[i] * space.ratio[i], g) }
  }

  // MARK: the certificate

  /// ‖distance of the gradient from the subdifferential‖ of group b, by coordinate in `x`.
  private func distance(_ b: Int) -> Double {
    let first = space.start[b]
    let size = space.size(b)
    if size == 1 {
      let value = gradient(first)
      x[0] = u[first] == 0 ? shrink(value, lambda[first]) : value - (u[first] > 0 ? lambda[first] : -lambda[first])
      return abs(x[0])
    }
    var norm = 0.0
    for i in first..<(first + size) { norm += u[i] * u[i] }
    norm = norm.squareRoot()
    var square = 0.0
    for k in 0..<size {
      let i = first + k
      let value = gradient(i)
      if u[i] == 0 {
        x[k] = shrink(value, lambda[i])
      } else {
        x[k] = value - (u[i] > 0 ? lambda[i] : -lambda[i]) - nu[b] * (u[i] / norm)
      }
      square += x[k] * x[k]
    }
    let length = square.squareRoot()
    if norm > 0 { return length }
    let excess = max(0, length - nu[b])
    for k in 0..<size { x[k] = length > 0 ? x[k] * (excess / length) : 0 }
    return excess
  }

  /// The duality gap without cancellation, as `Quadratic.certify`, with the dual norm of each group: the largest s in [0, 1]
  /// such that ‖(s|h| − λ)₊‖ ≤ ν for all, and
  ///
  ///     gap = ½ (1 − s)² (‖r‖² + Σ μ u²) + Σ_g [ ν ‖u_g‖ + Σ λ |u| − s hᵀu ]_g,
  ///
  /// every bracket non-negative (Ndiaye, Fercoq, Gramfort & Salmon 2016 for the dual norm).
  ///
  /// `rss` is the residual where it is known better than from the Gram, in units of ‖y‖².
  func certify(rss: Double? = nil) -> Certificate {
    var r = Certificate()
    var fit = 1.0
    var ridge = 0.0
    var penalty = 0.0
    for i in 0..<space.n where u[i] != 0 {
      let z = space.ratio[i] * u[i]
      r.l1 += abs(z)
      r.l2 += z * z
      fit -= z * (c[space.column[i]] + g[space.column[i]])
      ridge += space.mu[i] * u[i] * u[i]
      penalty += lambda[i] * abs(u[i])
    }
    let noise = gradientNoise(l1: r.l1)
    var s = 1.0
    var hasNorm = false
    var isEmpty = true
    for b in 0..<space.groups where !isExcluded(b) {
      isEmpty = false
      let first = space.start[b]
      let size = space.size(b)
      let d = distance(b)
      violation[b] = d
      r.violation = max(r.violation, d)
      r.subgradient += d * d
      if size == 1 {
        let l = lambda[first]
        if l > 0 { hasNorm = true }
        let value = gradient(first)
        let length = space.positive ? value : abs(value)
        if length > l * (1 + 8 * roundoff) { s = l > 0 ? min(s, l / length) : length > noise ? 0 : s }
        continue
      }
      hasNorm = true
      var norm = 0.0
      var square = 0.0
      for i in first..<(first + size) {
        let value = shrink(gradient(i), lambda[i])
        square += value * value
        norm += u[i] * u[i]
      }
      if norm > 0 { penalty += nu[b] * norm.squareRoot() }
      if square.squareRoot() > nu[b] * (1 + 8 * roundoff) {
        let reached = reach(size, start: 1, nu[b]) { k in
          let value = gradient(first + k)
          return (space.positive ? max(value, 0) : abs(value), lambda[first + k])
        }
        s = min(s, reached)
      }
    }
    r.rss = rss ?? max(fit, 0)
    r.objective = 0.5 * r.rss + 0.5 * ridge + penalty
    guard hasNorm else {
      if isEmpty { set(gap: 0, &r) }
      return r
    }
    var gap = 0.5 * (1 - s) * (1 - s) * (r.rss + ridge)
    for b in 0..<space.groups {
      let first = space.start[b]
      var norm = 0.0
      var term = 0.0
      var isFree = true
      for i in first..<space.start[b + 1] where u[i] != 0 {
        norm += u[i] * u[i]
        term += lambda[i] * abs(u[i]) - s * u[i] * gradient(i)
        if lambda[i] > 0 { isFree = false }
      }
      if norm == 0 { continue }
      term += nu[b] * norm.squareRoot()
      gap += isFree && nu[b] == 0 ? abs(term) : max(0, term)
    }
    set(gap: gap, &r)
    return r
  }

  private func set(gap: Double, _ r: inout Certificate) {
    r.gap = gap
    r.relativeGap = gap / max(r.objective, floor(form.gram))
  }

  /// F is ½‖·‖² in H = G + μ plus something convex: with p the smallest subgradient, F(u) − F* ≤ ½ pᵀH⁻¹p. Taken where it is
  /// smaller than the gap, or there is none (nothing is penalised).
  private func tighten(_ r: inout Certificate) throws(UnmergeError) {
    guard form.gram.isComplete, space.n > 0 else { return }
    let cells = form.parts.multipliedReportingOverflow(by: form.height * form.height)
    guard !cells.overflow, cells.partialValue <= 1 << 26, space.n <= 2 * form.count else { return }
    try manifold.select { b, _ in !isExcluded(b) }
    let (p, q) = (onManifold.pointer, onManifold.pointer + space.n)
    guard try manifold.factor(p, nu: nil) else { return }
    for b in 0..<space.groups where !isExcluded(b) {
      _ = distance(b)
      for k in 0..<space.size(b) { q[space.start[b] + k] = x[k] }
    }
    for k in 0..<manifold.count { p[k] = q[manifold.coordinate[k]] }
    q.update(from: p, count: manifold.count)
    manifold.solve(q)
    let bound = max(0, 0.5 * Vector.dot(manifold.count, p, q))
    if !(r.gap <= bound) { set(gap: bound, &r) }
  }

  /// tr (G + μ + curvature of the norms)⁻¹ G on the coordinates that are in.
  func degreesOfFreedom() throws(UnmergeError) -> Double {
    try manifold.select { b, i in isFree(b, i) }
    guard manifold.count > 0 else { return 0 }
    let v = onManifold.pointer
    for k in 0..<manifold.count { v[k] = u[manifold.coordinate[k]] }
    guard try manifold.factor(v, nu: nu) else { return .nan }
    return try manifold.degreesOfFreedom()
  }

  // MARK: who takes part

  /// Sets `working` to the groups that are in and the strongest violators; false when nobody violates. As for single atoms
  /// (`ActiveSet.enter`), to four digits past `tol` or down to the rounding of g.
  private func enter(_ certificate: Certificate, tol: Double) -> Bool {
    let noise = gradientNoise(l1: certificate.l1) / (certificate.relativeGap > tol ? 16 : 1)
    var active = 0
    var violators = 0
    var isOptimal = true
    for b in 0..<space.groups {
      let size = space.size(b)
      let l = size == 1 ? lambda[space.start[b]] : nu[b]
      if isExcluded(b) {
        violation[b] = 0
        continue
      }
      let threshold = max(noise * Double(size).squareRoot(), 1e-4 * tol * (l > 0 ? l : 1))
      if violation[b] > threshold { isOptimal = false } else { violation[b] = 0 }
      if isIn(b) {
        active += 1
        violation[b] = -1
      } else if violation[b] > 0 {
        sorted[violators] = violation[b]
        violators += 1
      }
    }
    if isOptimal { return false }
    var batch = max(16, active)
    var cutoff = 0.0
    if violators > 0, !form.gram.isComplete {
      // A column costs a share of a pass, a pass as much as some fifty columns: few at a time, and none that a stronger one
      // may make superfluous. When a crowd still violates though who was asked in has stayed, the answer is dense: then all.
      let isDense = active > 0 && violators > space.groups / 4 * 3 && 4 * active > 3 * workingCount
      batch = isDense ? violators : max(1, 48 * space.groups / max(space.n, 1), active)
      for k in 0..<violators { cutoff = max(cutoff, sorted[k]) }
      cutoff *= isDense ? 0 : 0.25
    }
    if violators > batch {
      var view = UnsafeMutableBufferPointer(start: sorted, count: violators)
      view.sort()
      cutoff = max(cutoff, sorted[violators - batch])
    }
    workingCount = 0
    var newcomers = 0
    for b in 0..<space.groups {
      if violation[b] < 0 {
        working[workingCount] = b
        workingCount += 1
      } else if violation[b] > 0, violation[b] >= cutoff, newcomers < batch {
        newcomers += 1
        working[workingCount] = b
        workingCount += 1
      }
    }
    return true
  }

  /// The strong rule: gradients move no faster than the penalty, so who is below 2α − α_before will not enter at α, nearly
  /// always. `factor` is α_before / α.
  private func addStrong(_ factor: Double) {
    let level = max(0, 2 - factor)
    for b in 0..<space.groups where !isIn(b) && !isExcluded(b) {
      var square = 0.0
      let size = space.size(b)
      for i in space.start[b]..<space.start[b + 1] {
        let value = shrink(gradient(i), size == 1 ? 0 : lambda[i])
        square += value * value
      }
      guard square.squareRoot() >= level * (size == 1 ? lambda[space.start[b]] : nu[b]) else { continue }
      working[workingCount] = b
      workingCount += 1
    }
  }

  // MARK: sweeps

  /// Block steps over `working` until the groups that are in have been the same for two sweeps.
  private func sweep(_ watch: Watch, _ maxIterations: Int) throws(UnmergeError) -> Stop? {
    var quiet = 0
    for _ in 0..<Self.sweepsPerRound where iterations < maxIterations && quiet < 2 {
      iterations += 1
      var moved = false
      var turned = false
      for k in 0..<workingCount {
        let b = working[k]
        if space.size(b) == 1 {
          let i = space.start[b]
          let before = u[i]
          let curvature = 1 + space.mu[i]
          let new = shrink(gradient(i) + curvature * before, lambda[i]) / curvature
          if new == before { continue }
          moved = true
          turned = turned || (new == 0) != (before == 0)
          move(i, to: new)
        } else {
          let wasIn = isIn(b)
          let change = try thresholded[b] ? proximalStep(b) : blockStep(b)
          moved = moved || change
          turned = turned || wasIn != isIn(b)
        }
        if k & 63 == 63, let stop = watch.poll() { return stop }
      }
      quiet = turned ? 0 : quiet + 1
      if let stop = watch.poll() { return stop }
      if !moved { break }
    }
    return nil
  }

  private func basis(_ b: Int) throws(UnmergeError) -> GroupBasis {
    if let known = bases[b] { return known }
    let made = try space.basis(b)
    bases[b] = made
    return made
  }

  /// To the exact minimum over the group; false when it is there.
  private func blockStep(_ b: Int) throws(UnmergeError) -> Bool {
    let first = space.start[b]
    let size = space.size(b)
    let (n, mu) = (nu[b], space.mu[first])
    var square = 0.0
    var before = 0.0
    for k in 0..<size {
      h[k] = gradient(first + k)
      square += h[k] * h[k]
      before += u[first + k] * u[first + k]
    }
    if before == 0, square.squareRoot() <= n { return false }
    let basis = try basis(b)
    let values = basis.values.pointer
    basis.rotate(h, x, back: false)
    if before > 0 {
      basis.rotate(u + first, y, back: false)
      for k in 0..<size { x[k] += (values[k] + mu) * y[k] }
    }
    square = 0
    for k in 0..<size { square += x[k] * x[k] }
    if square.squareRoot() <= n {
      for k in 0..<size { move(first + k, to: 0) }
      return before > 0
    }
    // ‖b‖ ≤ (σ + μ) h + ν for the largest σ: the root is not below this, where nothing overflows however small ν is.
    let least = (square.squareRoot() - n) / (basis.largest + mu)
    var t = max(least, before.squareRoot())
    for _ in 0..<100 {
      var sum = 0.0
      var slope = 0.0
      for k in 0..<size {
        let e = values[k] + mu
        let d = e * t + n
        let q = x[k] / d
        sum += q * q
        slope += q * q * (e / d)
      }
      // f = 1/√sum − 1, f′ = slope / sum^{3/2}
      let step = sum * (sum.squareRoot() - 1) / slope
      let next = max(least, t + step)
      let arrived = abs(next - t) <= 4 * roundoff * next
      t = next
      if arrived || !t.isFinite { break }
    }
    guard t.isFinite else { return false }
    for k in 0..<size { y[k] = x[k] * (t / ((values[k] + mu) * t + n)) }
    basis.rotate(y, x, back: true)
    for k in 0..<size { move(first + k, to: x[k]) }
    return true
  }

  /// Some steps of the proximal gradient over the group, whose proximal map thresholds coordinates and then shrinks the whole;
  /// straight to 0 where that is the minimum.
  private func proximalStep(_ b: Int) throws(UnmergeError) -> Bool {
    let first = space.start[b]
    let size = space.size(b)
    let mu = space.mu[first]
    var wasIn = false
    var square = 0.0
    for k in 0..<size {
      h[k] = gradient(first + k)
      let value = shrink(h[k], lambda[first + k])
      square += value * value
      wasIn = wasIn || u[first + k] != 0
    }
    if !wasIn, square.squareRoot() <= nu[b] { return false }
    let basis = try basis(b)
    if wasIn {
      basis.multiply(u + first, y)
      square = 0
      for k in 0..<size {
        let value = shrink(h[k] + y[k] + mu * u[first + k], lambda[first + k])
        square += value * value
      }
      if square.squareRoot() <= nu[b] {
        for k in 0..<size { move(first + k, to: 0) }
        return true
      }
    }
    let curvature = basis.largest + mu
    // x is where the steps have led, u where they began.
    for k in 0..<size { x[k] = u[first + k] }
    for _ in 0..<Self.sweepsPerRound {
      square = 0
      for k in 0..<size {
        let value = shrink(curvature * x[k] + h[k], lambda[first + k]) / curvature
        y[k] = value
        square += value * value
      }
      let norm = square.squareRoot()
      let factor = norm > 0 ? max(0, 1 - nu[b] / (curvature * norm)) : 0
      var change = 0.0
      for k in 0..<size {
        y[k] = factor * y[k] - x[k]
        x[k] += y[k]
        change += y[k] * y[k]
      }
      // h follows, through scratch that is not needed now.
      basis.multiply(y, onManifold.pointer)
      for k in 0..<size { h[k] -= onManifold[k] + mu * y[k] }
      if change <= 1e-6 * square { break }
    }
    var moved = false
    for k in 0..<size where u[first + k] != x[k] {
      moved = true
      move(first + k, to: x[k])
    }
    return moved
  }

  // MARK: Newton

  /// A change of sign of u_i is a kink of F, or its end.
  @inline(__always)
  private func hasKink(_ i: Int) -> Bool { space.positive || lambda[i] > 0 }

  private func isFree(_ b: Int, _ i: Int) -> Bool {
    if u[i] != 0 { return true }
    if hasKink(i) || isExcluded(b) { return false }
    // Without a kink of its own a coordinate at 0 is one of a group that is in, or it is free altogether.
    return space.size(b) == 1 ? form.gram.has(space.column[i]) : isIn(b)
  }

  /// To the minimum of F on the manifold u is on, deleting what becomes 0 on the way.
  private func minimiseOnManifold(_ watch: Watch, _ maxIterations: Int) throws(UnmergeError) -> Stop? {
    let n = space.n
    let v = onManifold.pointer
    let (gradient, descent, step, trial, product) = (v + n, v + 2 * n, v + 3 * n, v + 4 * n, v + 5 * n)
    var isSelected = false
    var wasSingular = false
    var before = Double.infinity
    for _ in 0..<(30 + manifold.count) where iterations < maxIterations {
      if !isSelected {
        try manifold.select { b, i in isFree(b, i) }
        for k in 0..<manifold.count {
          let i = manifold.coordinate[k]
          v[k] = u[i]
          gradient[k] = self.gradient(i)
        }
        isSelected = true
      }
      let k = manifold.count
      if k == 0 { break }
      iterations += 1
      let largest = descend(v, gradient, descent)
      // Newton squares what is small; what it does not is rounding.
      if largest <= roundoff || (largest < 1e-11 && largest > 0.1 * before) { break }
      before = largest
      guard try manifold.factor(v, nu: nu) else { break }
      wasSingular = manifold.isSingular
      step.update(from: descent, count: k)
      manifold.solve(step)
      // A few lengths with those who would change sign stopping at 0; where that does not pay, to the first sign change, on
      // which way F decreases for certain; shorter still where a norm bends too much.
      let predicted = 0.5 * Vector.dot(k, descent, step)
      var first = Double.infinity
      // A group whose norm would pass through 0 stops there as a whole: vᵀ(v + t step) ≤ 0.
      let along = groupScratch.pointer + space.groups
      for b in 0..<space.groups { along[b] = 0 }
      for a in 0..<k where manifold.group(a) >= 0 { along[manifold.group(a)] += v[a] * step[a] }
      for b in 0..<space.groups where along[b] < 0 { first = min(first, -sorted[b] * sorted[b] / along[b]) }
      for a in 0..<k where v[a] != 0 && hasKink(manifold.coordinate[a]) && v[a] * step[a] < 0 {
        first = min(first, -v[a] / step[a])
      }
      var deletes = false
      func attempt(_ t: Double) -> Double {
        deletes = false
        for a in 0..<k {
          var d = t * step[a]
          let b = manifold.group(a)
          let stops = v[a] > 0 ? v[a] + d <= tiny(v[a]) : v[a] + d >= tiny(v[a])
          if v[a] != 0,
            hasKink(manifold.coordinate[a]) && stops
              || b >= 0 && along[b] < 0 && sorted[b] * sorted[b] * (1 - 4 * roundoff) + t * along[b] <= 0
          {
            d = -v[a]
            deletes = true
          }
          trial[a] = d
        }
        manifold.multiply(trial, product)
        return change(v, descent, trial, product)
      }
      var accepted = false
      var t = 1.0
      while !accepted, t >= 0.125 {
        accepted = attempt(t) < (t <= first ? 0 : -0.1 * t * predicted)
        t /= 2
      }
      if !accepted, first < 1 {
        t = min(t, first)
        accepted = attempt(t) < 0
      }
      while !accepted, t > 1e-10 {
        t /= 4
        accepted = attempt(t) < 0
      }
      guard accepted else { break }
      for a in 0..<k {
        let i = manifold.coordinate[a]
        v[a] += trial[a]
        gradient[a] -= product[a] + space.mu[i] * trial[a]
        u[i] = v[a]
      }
      if deletes {
        follow()
        isSelected = false
        before = .infinity
      }
      if let stop = watch.poll() { return stop }
    }
    isSingular = wasSingular
    return nil
  }

  /// What is left of x when a step that was to take it to 0 rounds.
  @inline(__always)
  private func tiny(_ x: Double) -> Double { 4 * roundoff * x }

  /// descent ← the negative gradient of F on the manifold; its largest element.
  private func descend(
    _ v: UnsafePointer<Double>, _ gradient: UnsafePointer<Double>, _ descent: UnsafeMutablePointer<Double>
  ) -> Double {
    var largest = 0.0
    normsOnManifold(v)
    for a in 0..<manifold.count {
      let i = manifold.coordinate[a]
      var d = gradient[a]
      if v[a] != 0 { d -= v[a] > 0 ? lambda[i] : -lambda[i] }
      let b = manifold.group(a)
      if b >= 0 { d -= nu[b] * (v[a] / sorted[b]) }
      descent[a] = d
      largest = max(largest, abs(d))
    }
    return largest
  }

  /// ‖v_g‖ by group, in `sorted`.
  private func normsOnManifold(_ v: UnsafePointer<Double>) {
    for b in 0..<space.groups { sorted[b] = 0 }
    for a in 0..<manifold.count where manifold.group(a) >= 0 { sorted[manifold.group(a)] += v[a] * v[a] }
    for b in 0..<space.groups { sorted[b] = sorted[b].squareRoot() }
  }

  /// F(v + p) − F(v) to second order without cancellation: the linear terms of fit and norms meet in the descent direction,
  /// and what a norm adds to its linear term is ν (‖p‖² n₀ − vᵀp (n₁ − n₀)) / (n₀ (n₁ + n₀)). Gp is given.
  private func change(
    _ v: UnsafePointer<Double>, _ descent: UnsafePointer<Double>, _ p: UnsafePointer<Double>, _ gp: UnsafePointer<Double>
  ) -> Double {
    let k = manifold.count
    let groups = space.groups
    var sum = -Vector.dot(k, descent, p) + 0.5 * Vector.dot(k, p, gp)
    // `sorted` has n₀; vᵀp and ‖p‖² by group.
    let cross = violation
    let square = groupScratch.pointer
    for b in 0..<groups {
      cross[b] = 0
      square[b] = 0
    }
    for a in 0..<k {
      sum += 0.5 * space.mu[manifold.coordinate[a]] * p[a] * p[a]
      let b = manifold.group(a)
      if b >= 0 {
        cross[b] += v[a] * p[a]
        square[b] += p[a] * p[a]
      }
    }
    for b in 0..<groups where square[b] > 0 {
      let before = sorted[b]
      let after = max(0, before * before + 2 * cross[b] + square[b]).squareRoot()
      let difference = (2 * cross[b] + square[b]) / (after + before)
      sum += nu[b] * (square[b] * before - cross[b] * difference) / (before * (after + before))
    }
    return sum
  }
}
