import CUnmerge
import UnmergeCore
import UnmergeLinalg

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

// MCP, SCAD, CEL0 and l_q
//
//     minimise  F(v) = ½ − ĉᵀv + ½ vᵀĜv + Σ φ_j(v_j),   v_j = w_j d_j / ‖y‖,
//
// with φ increasing and concave in |v| (`Concave`). In these coordinates every atom has length 1, so MCP's and SCAD's γ is a
// pure number and CEL0 is the MCP with γ = 1.
//
// Coordinate descent: a step takes v_j to the global minimum of F along its axis, which is one prox. That finds a point no
// single coefficient can improve; which one depends on the start. Two are made: the solutions for thresholds falling from
// the largest correlation to the one asked for, each from the one before; and the LASSO with the same thresholds. The lower
// F is taken further down the path and back, which lets in atoms that others had stood in for. The lowest F wins. On the
// support, away from the knots of φ, F is smooth: Newton ends what coordinate descent began.
//
// The certificate. Violation: distance of g = ĉ − Ĝv from ∂φ. Where H = Ĝ_AA + φ″ is positive definite and zeros have
// |g_j| < φ′(0+), v is a strict local minimum. With κ the concavity of φ, F − ½‖·‖²_{Ĝ − κ} is convex: Ĝ_AA − κ positive
// definite leaves one stationary point on the support, Ĝ − κ positive definite one altogether, and then
//
//     F(v) − F* ≤ ½ pᵀ(Ĝ − κ)⁻¹p,   p the smallest subgradient.
//
// References: Fan & Li 2001; Zhang 2010; Breheny & Huang 2011 (coordinate descent, local convexity); Mazumder, Friedman &
// Hastie 2011 (from the LASSO to best subset); Soubies, Blanc-Féraud & Aubert 2015 (CEL0); Xu, Chang, Xu & Zhang 2012 (l_½).

/// One of the four, for atoms of length 1.
private protocol ConcaveFamily: Sendable {
  associatedtype Penalty: Concave
  /// λ in the caller's units → λ̂ of atom j.
  func scaled(_ strength: Double, norm d: Double, yNorm y: Double) -> Double
  /// The largest |z| that strength λ̂ takes to 0, and its inverse.
  func threshold(_ strength: Double) -> Double
  func strength(_ threshold: Double) -> Double
  func penalty(_ strength: Prox.Strength) -> Penalty
}

private struct MCPFamily: ConcaveFamily {
  let gamma: Double
  func scaled(_ strength: Double, norm d: Double, yNorm y: Double) -> Double { strength / d / y }
  func threshold(_ strength: Double) -> Double { strength }
  func strength(_ threshold: Double) -> Double { threshold }
  func penalty(_ strength: Prox.Strength) -> Prox.MCP { Prox.MCP(strength, gamma: gamma) }
}

private struct SCADFamily: ConcaveFamily {
  let gamma: Double
  func scaled(_ strength: Double, norm d: Double, yNorm y: Double) -> Double { strength / d / y }
  func threshold(_ strength: Double) -> Double { strength }
  func strength(_ threshold: Double) -> Double { threshold }
  func penalty(_ strength: Prox.Strength) -> Prox.SCAD { Prox.SCAD(strength, gamma: gamma) }
}

private struct CEL0Family: ConcaveFamily {
  func scaled(_ strength: Double, norm d: Double, yNorm y: Double) -> Double { strength / y / y }
  func threshold(_ strength: Double) -> Double { (2 * strength).squareRoot() }
  func strength(_ threshold: Double) -> Double { 0.5 * threshold * threshold }
  func penalty(_ strength: Prox.Strength) -> Prox.CEL0 { Prox.CEL0(strength, norm: 1) }
}

private struct LQFamily: ConcaveFamily {
  let q: Double
  func scaled(_ strength: Double, norm d: Double, yNorm y: Double) -> Double { strength / y / y * pow(y / d, q) }
  func threshold(_ strength: Double) -> Double {
    let h = pow(2 * strength * (1 - q), 1 / (2 - q))
    return strength == 0 ? 0 : h + strength * q * pow(h, q - 1)
  }
  /// The threshold is a multiple of strength^{1/(2−q)}.
  func strength(_ threshold: Double) -> Double { pow(threshold / self.threshold(1), 2 - q) }
  func penalty(_ strength: Prox.Strength) -> Prox.LQ { Prox.LQ(strength, q: q) }
}

/// Coordinate descent and Newton for one target and one family.
private final class NonConvex<Family: ConcaveFamily> {
  private let family: Family
  private let gram: Gram
  private let target: Int
  private let n: Int
  private let c: UnsafePointer<Double>
  let v: UnsafeMutablePointer<Double>
  /// ĉ − Ĝv
  private let g: UnsafeMutablePointer<Double>
  private let best: UnsafeMutablePointer<Double>
  private let step: UnsafeMutablePointer<Double>
  /// λ̂_j
  private let strengths: UnsafeMutablePointer<Double>
  private let isUsable: Buffer<Bool>
  private let working: Buffer<Int>
  private var workingCount = 0
  private let numbers: Buffer<Double>
  /// H on the support, grown as needed.
  private var hessian: Buffer<Double>
  private(set) var iterations = 0

  /// From one threshold of the path to the next.
  private static var descent: Double { 0.9 }
  /// Thresholds below the one asked for, on the way there and back.
  private static var stepsBeyond: Int { 10 }
  private static var sweepsPerRound: Int { 10 }

  init(_ family: Family, _ gram: Gram, target: Int) throws(UnmergeError) {
    self.family = family
    self.gram = gram
    self.target = target
    n = gram.atoms
    c = gram.correlation(target)
    numbers = try allocate(product(5, n, "the working memory"))
    v = numbers.pointer
    g = v + n
    best = g + n
    step = best + n
    strengths = step + n
    isUsable = try allocate(n)
    working = try allocate(n)
    hessian = try allocate(0)
  }

  /// Sets λ̂; the α is a fraction of the largest that leaves an atom in where `isRelative`.
  func set(alpha: Double, weights: Buffer<Double>?, isRelative: Bool, alphaMax: Double?) {
    let y = gram.targetNorms[target]
    func assign(_ alpha: Double) {
      for j in 0..<n {
        let d = gram.norms[j]
        isUsable[j] = d > 0 && y > 0
        let pi = weights?[j] ?? 1
        strengths[j] = isUsable[j] && pi > 0 && alpha > 0 ? family.scaled(alpha, norm: d, yNorm: y) * pi : 0
        if strengths[j].isNaN { strengths[j] = .infinity }
        if strengths[j] == .infinity { isUsable[j] = false }
      }
    }
    if isRelative {
      var largest = alphaMax ?? 0
      if alphaMax == nil {
        assign(1)
        // The threshold of this α reaches the largest correlation, rounding included.
        largest = entry() * (1 + 16 * roundoff)
      }
      assign(min(alpha * largest, .greatestFiniteMagnitude))
    } else {
      assign(alpha)
    }
  }

  /// The factor on λ̂ at which the first penalised atom comes in.
  private func entry() -> Double {
    var largest = 0.0
    for j in 0..<n where isUsable[j] && strengths[j] > 0 {
      largest = max(largest, family.strength(abs(c[j])) / strengths[j])
    }
    return largest
  }

  /// From v as it is.
  func runWarm(_ watch: Watch) throws(UnmergeError) -> Ending {
    for j in 0..<n where !isUsable[j] { v[j] = 0 }
    workingCount = 0
    for j in 0..<n where v[j] != 0 { work(on: j) }
    var stop = try requireWorking(watch)
    if stop != nil, !gram.isComplete { for j in 0..<n where !gram.has(j) { v[j] = 0 } }
    refresh()
    if stop == nil, watch.maxIterations > 0 { stop = try descend(family.penalty(full), watch, isLast: true) }
    return try ending(stop, watch)
  }

  /// From all starts.
  func runCold(_ watch: Watch) throws(UnmergeError) -> Ending {
    v.update(repeating: 0, count: n)
    refresh()
    guard watch.maxIterations > 0 else { return try ending(nil, watch) }
    var stop: Stop?
    // Thresholds fall by a tenth at a time, and not through more than sixty.
    let first = entry()
    let ratio = family.threshold(first) / family.threshold(1)
    let steps = ratio > 1 && ratio.isFinite ? min(60, Int((-log(ratio) / log(Self.descent)).rounded(.up))) : 0
    for i in 0..<steps where stop == nil && iterations < watch.maxIterations {
      let factor = family.strength(family.threshold(1) * pow(ratio, 1 - Double(i + 1) / Double(steps)))
      let isLast = i == steps - 1
      stop = try descend(
        family.penalty(isLast ? full : Prox.Strength(factor, UnsafePointer(strengths))), watch, isLast: isLast)
    }
    if steps == 0 { stop = try descend(family.penalty(full), watch, isLast: true) }
    if (0..<n).contains(where: { v[$0] != 0 && strengths[$0] > 0 }) {
      var lowest = keep()
      for start in [Start.lasso, .beyond] where stop == nil && iterations < watch.maxIterations {
        switch start {
        case .lasso: stop = try startFromLasso(watch)
        case .beyond:
          for i in 1...Self.stepsBeyond where stop == nil {
            let factor = family.strength(family.threshold(1) * pow(Self.descent, Double(i)))
            stop = try descend(family.penalty(Prox.Strength(factor, UnsafePointer(strengths))), watch, isLast: false)
          }
        }
        if stop == nil { stop = try descend(family.penalty(full), watch, isLast: true) }
        // A tie goes to the earlier start.
        if objective() < lowest - 1e-14 * max(lowest, floor(gram)) {
          lowest = keep()
        } else {
          v.update(from: best, count: n)
          refresh()
        }
      }
    }
    return try ending(stop, watch)
  }

  private enum Start { case lasso, beyond }

  /// Remembers v; F there.
  private func keep() -> Double {
    best.update(from: v, count: n)
    return objective()
  }

  private var full: Prox.Strength { Prox.Strength(1, UnsafePointer(strengths)) }

  private func startFromLasso(_ watch: Watch) throws(UnmergeError) -> Stop? {
    let problem = try Quadratic(gram, target: target, alpha: 0, l1Ratio: 1, weights: nil)
    for j in 0..<n where problem.lambda[j] < .infinity {
      problem.lambda[j] = isUsable[j] ? family.threshold(strengths[j]) : .infinity
    }
    let solver = try ActiveSet(problem)
    _ = try solver.run(watch, tol: 1e-6, maxIterations: watch.maxIterations - iterations)
    v.update(from: solver.v, count: n)
    refresh()
    return watch.poll()
  }

  // MARK: descent

  private func work(on j: Int) {
    working[workingCount] = j
    workingCount += 1
  }

  private func requireWorking(_ watch: Watch) throws(UnmergeError) -> Stop? {
    try require(gram, UnsafeBufferPointer(start: working.pointer, count: workingCount), watch)
  }

  private func refresh() {
    g.update(from: c, count: n)
    for j in 0..<n where v[j] != 0 { Vector.axpy(n, -v[j], gram.column(j), g) }
  }

  private func objective() -> Double {
    let penalty = family.penalty(full)
    var fit = 1.0
    var sum = 0.0
    for j in 0..<n where v[j] != 0 {
      fit -= v[j] * (c[j] + g[j])
      sum += penalty.value(v[j], j)
    }
    return 0.5 * max(fit, 0) + sum
  }

  /// Coordinate descent and Newton in turn, until no coefficient can improve F by itself and the gradient on the support is
  /// rounding. A point on the way down the path needs neither to the last digit.
  private func descend(_ penalty: Family.Penalty, _ watch: Watch, isLast: Bool) throws(UnmergeError) -> Stop? {
    let target = isLast ? 1e-2 * watch.tol : 1e-4
    for _ in 0..<(isLast ? 1000 : 5) {
      workingCount = 0
      var size = 0.0
      for j in 0..<n where isUsable[j] {
        size += abs(v[j])
        if v[j] != 0 || penalty.prox(g[j], 1, j) != 0 { work(on: j) }
      }
      if let stop = try requireWorking(watch) { return stop }
      var quiet = 0
      var moved = 0.0
      for _ in 0..<Self.sweepsPerRound where quiet < 2 && iterations < watch.maxIterations {
        iterations += 1
        moved = 0
        var turned = false
        for k in 0..<workingCount {
          let j = working[k]
          let x = v[j]
          let new = penalty.prox(g[j] + x, 1, j)
          if new == x { continue }
          moved = max(moved, abs(new - x))
          turned = turned || (new == 0) != (x == 0)
          v[j] = new
          Vector.axpy(n, x - new, gram.column(j), g)
          if n > 2000, k & 63 == 0, let stop = watch.poll() { return stop }
        }
        quiet = turned ? 0 : quiet + 1
        if let stop = watch.poll() { return stop }
        if moved == 0 { break }
      }
      if iterations >= watch.maxIterations { break }
      if moved > gradientNoise(l1: size) { try newton(penalty, watch) }
      refresh()
      var worst = 0.0
      var isStable = true
      for j in 0..<n where isUsable[j] {
        worst = max(worst, abs(residual(penalty, j)))
        // Along its axis the point is a minimum, up to rounding: hard thresholds are steps.
        let next = penalty.prox(g[j] + v[j], 1, j)
        if abs(next - v[j]) > target + 1e-9 * abs(v[j]), gains(penalty, j, next) { isStable = false }
      }
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: self.target, total: gram.targets, objective: .nan,
        relativeGap: .nan)
      if isStable, worst <= max(target, gradientNoise(l1: size)) || moved <= 4 * roundoff { break }
    }
    return watch.poll()
  }

  /// Whether going to `next` lowers F by more than rounding.
  private func gains(_ penalty: Family.Penalty, _ j: Int, _ next: Double) -> Bool {
    let d = next - v[j]
    let before = v[j] == 0 ? 0 : penalty.value(v[j], j)
    let after = next == 0 ? 0 : penalty.value(next, j)
    return d * (0.5 * d - g[j]) + after - before < -1e-14 * (abs(d * g[j]) + before + after)
  }

  /// Element j of the smallest subgradient of −F.
  private func residual(_ penalty: Family.Penalty, _ j: Int) -> Double {
    let x = v[j]
    if x == 0 { return Prox.soft(g[j], penalty.slope(0, j)) }
    let slope = penalty.slope(abs(x), j)
    return x > 0 ? g[j] - slope : g[j] + slope
  }

  /// Ĝ_AA + φ″ for the atoms in `working`, or Ĝ_AA − κ where κ is given.
  private func fillHessian(_ k: Int, _ penalty: Family.Penalty, less kappa: Double? = nil) throws(UnmergeError) {
    if hessian.count < k * k { hessian = try allocate(product(k, k, "the Hessian")) }
    for b in 0..<k {
      let j = working[b]
      let column = gram.column(j)
      for a in 0...b { hessian[b * k + a] = column[working[a]] }
      hessian[b * k + b] += kappa.map { -$0 } ?? (strengths[j] > 0 ? penalty.curvature(abs(v[j]), j) : 0)
    }
  }

  private func supportToWorking() -> Int {
    workingCount = 0
    for j in 0..<n where v[j] != 0 { work(on: j) }
    return workingCount
  }

  /// Newton on the support. Where H is not positive definite its tangent stands for φ: that lies above φ, so F falls all the
  /// way to the minimum of the quadratic or to the first sign change, where a coefficient becomes 0 (Zou & Li 2008).
  private func newton(_ penalty: Family.Penalty, _ watch: Watch) throws(UnmergeError) {
    for _ in 0..<50 where iterations < watch.maxIterations {
      let k = supportToWorking()
      guard k > 0 else { break }
      refresh()
      iterations += 1
      try fillHessian(k, penalty)
      var isTangent = false
      if Symmetric.factor(k, hessian.pointer) == nil {
        isTangent = true
        try fillHessian(k, penalty, less: 0)
        guard Symmetric.factor(k, hessian.pointer) != nil else { break }
      }
      var size = 0.0
      for a in 0..<k {
        step[a] = residual(penalty, working[a])
        size = max(size, abs(v[working[a]]))
      }
      Symmetric.solve(k, factor: hessian.pointer, step, columns: 1)
      var length = 0.0
      for a in 0..<k { length = max(length, abs(step[a])) }
      guard length.isFinite else { break }
      var t = 1.0
      if isTangent {
        for a in 0..<k where isKinked(working[a]) && v[working[a]] * (v[working[a]] + step[a]) <= 0 {
          t = min(t, -v[working[a]] / step[a])
        }
      } else {
        while t > 0.01, !isGain(penalty, k, t, isSmall: length <= 1e-6 * size) { t *= 0.5 }
        if t <= 0.01 { break }
      }
      for a in 0..<k {
        let x = v[working[a]]
        let new = x + t * step[a]
        // What the step was to take to 0, up to rounding.
        v[working[a]] = isTangent && abs(new) <= 4 * roundoff * abs(x) ? 0 : new
      }
      if length <= 1e-15 * size { break }
    }
    refresh()
  }

  /// φ_j is not 0: F has a kink where v_j changes sign.
  private func isKinked(_ j: Int) -> Bool { strengths[j] > 0 }

  /// F(v + t·step) ≤ F(v) with the signs that v has where F has a kink. A step in the last digits is beyond what F resolves: there the model is trusted.
  private func isGain(_ penalty: Family.Penalty, _ k: Int, _ t: Double, isSmall: Bool) -> Bool {
    var change = 0.0
    for a in 0..<k {
      let j = working[a]
      let x = v[j]
      let d = t * step[a]
      if isKinked(j), !(x > 0 ? x + d > 0 : x + d < 0) { return false }
      if isSmall { continue }
      let column = gram.column(j)
      var curved = 0.0
      for b in 0..<k { curved += column[working[b]] * step[b] }
      change += d * (0.5 * t * curved - g[j]) + penalty.value(x + d, j) - penalty.value(x, j)
    }
    return isSmall || change <= 0
  }

  // MARK: certificate

  private func ending(_ stop: Stop?, _ watch: Watch) throws(UnmergeError) -> Ending {
    let penalty = family.penalty(full)
    var end = Ending(iterations: iterations)
    var r = Certificate()
    var fit = 1.0
    var sum = 0.0
    var isStrict = true
    for j in 0..<n where isUsable[j] {
      let x = v[j]
      r.l1 += abs(x)
      r.l2 += x * x
      fit -= x * (c[j] + g[j])
      if x != 0 { sum += penalty.value(x, j) }
      let p = abs(residual(penalty, j))
      step[j] = residual(penalty, j)
      r.violation = max(r.violation, p)
      r.subgradient += p * p
    }
    let noise = gradientNoise(l1: r.l1)
    for j in 0..<n where isUsable[j] && v[j] == 0 && penalty.slope(0, j) - abs(g[j]) <= noise { isStrict = false }
    r.rss = max(fit, 0)
    r.objective = 0.5 * r.rss + sum
    if let bound = try globalBound(penalty.concavity) {
      let relative = bound / max(r.objective, floor(gram))
      r.gap = bound
      r.relativeGap = relative
    }
    end.certificate = r
    let isSatisfied = r.relativeGap.isNaN ? r.violation <= watch.tol : r.relativeGap <= watch.tol
    if !isSatisfied {
      end.outcome = stop?.outcome ?? (iterations >= watch.maxIterations ? UNMERGE_ITERATION_LIMIT : UNMERGE_STALLED)
    }
    if r.isExplained(gram) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    try curvature(penalty, &end, isLocal: isStrict && r.violation <= max(watch.tol, noise))
    return end
  }

  /// Flags and degrees of freedom, tr(Ĝ_AA H⁻¹), from the Hessian on the support. At a knot φ″ is that of the side below,
  /// where it is more negative.
  private func curvature(_ penalty: Family.Penalty, _ end: inout Ending, isLocal: Bool) throws(UnmergeError) {
    let k = supportToWorking()
    if penalty.concavity < .infinity {
      try fillHessian(k, penalty, less: penalty.concavity)
      if try isDefinite(k) { end.flags |= UNMERGE_FLAG_CONVEX }
    }
    try fillHessian(k, penalty)
    guard try isDefinite(k) else { return }
    if isLocal { end.flags |= UNMERGE_FLAG_LOCAL_MINIMUM }
    let x = try allocate(product(k, k, "the Hessian"), of: Double.self)
    for b in 0..<k { for a in 0..<k { x[b * k + a] = gram.column(working[b])[working[a]] } }
    guard Symmetric.factor(k, hessian.pointer) != nil else { return }
    Symmetric.solve(k, factor: hessian.pointer, x.pointer, columns: k)
    var trace = 0.0
    for a in 0..<k { trace += x[a * k + a] }
    if end.certificate.violation <= 1e-6 { end.df = trace }
  }

  /// Positive definite beyond rounding.
  private func isDefinite(_ k: Int) throws(UnmergeError) -> Bool {
    let factor = try allocating { () throws(OutOfMemory) in try DenseCholesky(k, hessian.pointer, addingToDiagonal: nil) }
    return factor.map { $0.condition < 1e12 } ?? false
  }

  /// ½ pᵀ(Ĝ − κ)⁻¹p, p in `step`; nil where Ĝ − κ is not positive definite. ‖Ĝ⁻¹‖₁ ≤ √n ‖Ĝ⁻¹‖₂ says so without a factor.
  private func globalBound(_ kappa: Double) throws(UnmergeError) -> Double? {
    guard gram.isComplete, kappa < 1, n > 0, !(kappa * gram.sensitivity > 10 * Double(n).squareRoot()) else { return nil }
    let shift = try allocate(n, of: Double.self)
    for j in 0..<n {
      shift[j] = isUsable[j] ? -kappa : 1
      if !isUsable[j] { step[j] = 0 }
    }
    let factor = try allocating { () throws(OutOfMemory) in
      try DenseCholesky(n, gram.column(0), addingToDiagonal: shift.pointer)
    }
    guard let factor, factor.condition < 1e12 else { return nil }
    let x = try allocate(n, of: Double.self)
    x.pointer.update(from: step, count: n)
    factor.solve(x.pointer)
    return max(0, 0.5 * Vector.dot(n, step, x.pointer))
  }
}

/// What the four doors have in common.
private struct NonConvexCall {
  let gram: OpaquePointer?
  let alpha: Double
  let weights: UnsafePointer<Double>?
  let relative: Int32
  let warmStart: Int32
  let run: UnsafePointer<unmerge_run>?
  let coef: UnsafePointer<unmerge_view>?
  let reports: UnsafeMutablePointer<unmerge_report>?

  /// `isLasso`: a relative α is a fraction of the LASSO's α_max.
  func answer(_ family: some ConcaveFamily, isLasso: Bool) throws(UnmergeError) {
    let gram = try object(self.gram, "gram", Gram.self)
    try check(alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try checkFlag(relative, "options->relative")
    try checkFlag(warmStart, "options->warm_start")
    let weights = try copyWeights(self.weights, gram.atoms)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let start = warmStart == 1 ? try readWarmStart(output, gram) : nil
    let answers = try Answers(gram.atoms, gram.targets)
    let (alpha, relative) = (self.alpha, self.relative)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      guard gram.targetNorms[t] > 0 else { return answers.set(t, gram, target: t, nil, emptyEnding(), watch) }
      var largest: Double?
      if relative == 1, isLasso {
        largest = try alphaMax(gram, target: t, l1Ratio: 1, weights: weights, bounds: .none, watch)
      }
      let solver = try NonConvex(family, gram, target: t)
      solver.set(alpha: alpha, weights: weights, isRelative: relative == 1, alphaMax: largest)
      if let start {
        let n = gram.atoms
        for j in 0..<n { solver.v[j] = bounded(start[t * n + j] * (gram.norms[j] / gram.targetNorms[t])) }
      }
      let end = start == nil ? try solver.runCold(watch) : try solver.runWarm(watch)
      answers.set(t, gram, target: t, solver.v, end, watch)
    }
    answers.deliver(output, reports)
  }
}

// MARK: the door

extension unmerge_mcp_options: Growable {
  package static var defaults: unmerge_mcp_options {
    var o = unmerge_mcp_options()
    o.struct_size = MemoryLayout<unmerge_mcp_options>.size
    o.alpha = 1
    o.gamma = 3
    return o
  }
}

@_cdecl("unmerge_mcp_options_init") @implementation
public func unmerge_mcp_options_init(_ options: UnsafeMutablePointer<unmerge_mcp_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_mcp") @implementation
public func unmerge_mcp(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_mcp_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try read(options, "options")
    guard o.gamma > 1, o.gamma.isFinite else { throw .range("options->gamma is \(o.gamma); it must be finite and > 1") }
    try NonConvexCall(
      gram: gram, alpha: o.alpha, weights: o.weights, relative: o.relative, warmStart: o.warm_start, run: run, coef: coef,
      reports: reports
    ).answer(MCPFamily(gamma: o.gamma), isLasso: true)
  }
}

extension unmerge_scad_options: Growable {
  package static var defaults: unmerge_scad_options {
    var o = unmerge_scad_options()
    o.struct_size = MemoryLayout<unmerge_scad_options>.size
    o.alpha = 1
    o.gamma = 3.7
    return o
  }
}

@_cdecl("unmerge_scad_options_init") @implementation
public func unmerge_scad_options_init(_ options: UnsafeMutablePointer<unmerge_scad_options>?, _ size: Int) -> unmerge_status
{
  initialize(options, size)
}

@_cdecl("unmerge_scad") @implementation
public func unmerge_scad(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_scad_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try read(options, "options")
    guard o.gamma > 2, o.gamma.isFinite else { throw .range("options->gamma is \(o.gamma); it must be finite and > 2") }
    try NonConvexCall(
      gram: gram, alpha: o.alpha, weights: o.weights, relative: o.relative, warmStart: o.warm_start, run: run, coef: coef,
      reports: reports
    ).answer(SCADFamily(gamma: o.gamma), isLasso: true)
  }
}

extension unmerge_cel0_options: Growable {
  package static var defaults: unmerge_cel0_options {
    var o = unmerge_cel0_options()
    o.struct_size = MemoryLayout<unmerge_cel0_options>.size
    o.alpha = 1
    return o
  }
}

@_cdecl("unmerge_cel0_options_init") @implementation
public func unmerge_cel0_options_init(_ options: UnsafeMutablePointer<unmerge_cel0_options>?, _ size: Int) -> unmerge_status
{
  initialize(options, size)
}

@_cdecl("unmerge_cel0") @implementation
public func unmerge_cel0(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_cel0_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try read(options, "options")
    try NonConvexCall(
      gram: gram, alpha: o.alpha, weights: o.weights, relative: o.relative, warmStart: o.warm_start, run: run, coef: coef,
      reports: reports
    ).answer(CEL0Family(), isLasso: false)
  }
}

extension unmerge_lq_options: Growable {
  package static var defaults: unmerge_lq_options {
    var o = unmerge_lq_options()
    o.struct_size = MemoryLayout<unmerge_lq_options>.size
    o.alpha = 1
    o.q = 0.5
    return o
  }
}

@_cdecl("unmerge_lq_options_init") @implementation
public func unmerge_lq_options_init(_ options: UnsafeMutablePointer<unmerge_lq_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_lq") @implementation
public func unmerge_lq(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_lq_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try read(options, "options")
    try check(o.q, "options->q", 0.1...0.95, "in [0.1, 0.95]")
    try NonConvexCall(
      gram: gram, alpha: o.alpha, weights: o.weights, relative: o.relative, warmStart: o.warm_start, run: run, coef: coef,
      reports: reports
    ).answer(LQFamily(q: o.q), isLasso: false)
  }
}
