import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// A norm (or seminorm) whose minimisers lie on faces where it is linear: clusters of equal coefficients.
protocol StructuredNorm: AnyObject, Sendable {
  func value(_ x: UnsafePointer<Double>) -> Double
  /// z ← prox_{step Ω}(x); z may be x. Equal coefficients come out equal to the bit.
  func prox(_ x: UnsafePointer<Double>, _ step: Double, _ z: UnsafeMutablePointer<Double>)
  /// max gᵀx over Ω(x) ≤ 1; `noise` is what sums of g are uncertain by.
  func dualNorm(_ g: UnsafePointer<Double>, noise: Double) -> Double
  /// Ω(x) − s gᵀx ≥ 0 for s·g in the dual ball, as a sum of non-negative terms.
  func bracket(_ x: UnsafePointer<Double>, _ g: UnsafePointer<Double>, _ s: Double) -> Double
  /// The face x lies on.
  func describe(_ x: UnsafePointer<Double>, _ face: Face)
}

/// Where a `StructuredNorm` is linear: x_i = sign_i m_{label_i} (0 for label −1), Ω = Σ slope_c m_c as long as the order
/// relations o (m_a − m_b) ≥ 0 hold (b = −1: o m_a ≥ 0).
final class Face {
  var count = 0
  let labels: Buffer<Int>
  let signs: Buffer<Double>
  let values: Buffer<Double>
  let slopes: Buffer<Double>
  var relations = 0
  let first: Buffer<Int>
  let second: Buffer<Int>
  let orientation: Buffer<Double>

  init(_ n: Int) throws(UnmergeError) {
    labels = try allocate(n)
    signs = try allocate(n)
    values = try allocate(n)
    slopes = try allocate(n)
    first = try allocate(product(2, n, "the face"))
    second = try allocate(2 * n)
    orientation = try allocate(2 * n)
  }

  func clear() {
    count = 0
    relations = 0
  }

  func relate(_ a: Int, _ b: Int, _ o: Double) {
    first[relations] = a
    second[relations] = b
    orientation[relations] = o
    relations += 1
  }
}

/// Minimises F(x) = ½ − bᵀx + ½ xᵀQx + Ω(x).
///
///     repeat   some accelerated proximal gradient steps, restarted when they point uphill    (they find the face)
///              Newton on the face, up to the first relation that becomes an equality; merge  (it finds the minimum on it)
///              gap ≤ tol: done
///
/// The gap is free of cancellation: with s = min(1, 1/Ω°(g)), g = b − Qx, the dual point s·r gives
///
///     gap = ½ (1 − s)² ‖r‖² + [Ω(x) − s gᵀx],
///
/// and the norm splits the bracket into terms ≥ 0. Every step lowers F; F on a face is quadratic, one solve ends it.
///
/// References: Beck & Teboulle 2009; O'Donoghue & Candès 2015 (restart); Bareilles, Iutzeler & Malick 2023 (Newton on the
/// manifold the proximal step identifies).
final class ProximalGradient<Norm: StructuredNorm> {
  private let form: BlockForm
  private let norm: Norm
  private let b: UnsafePointer<Double>
  private let n: Int
  let x: UnsafeMutablePointer<Double>
  /// Qx
  private let qx: UnsafeMutablePointer<Double>
  private let g: UnsafeMutablePointer<Double>
  private let point: UnsafeMutablePointer<Double>
  private let old: UnsafeMutablePointer<Double>
  private let oldQ: UnsafeMutablePointer<Double>
  private let work: UnsafeMutablePointer<Double>
  private let numbers: Buffer<Double>
  private let face: Face
  private var reduced: Buffer<Double>
  private let direction: Buffer<Double>
  private var lipschitz = 0.0
  private var iterations = 0
  /// Gradient steps, and multiplications spent in factors.
  private var steps = 0
  private var factored = 0.0
  private var isSingular = false

  /// Beyond it a face is left to the gradient: its Cholesky factor would take seconds.
  private static var largestFace: Int { 3000 }

  init(_ form: BlockForm, _ norm: Norm, target: Int) throws(UnmergeError) {
    self.form = form
    self.norm = norm
    b = form.correlation(target)
    n = form.count
    numbers = try allocate(product(8, n, "the working memory"))
    x = numbers.pointer
    qx = x + n
    g = qx + n
    point = g + n
    old = point + n
    oldQ = old + n
    work = oldQ + n
    face = try Face(n)
    direction = try allocate(n)
    reduced = try allocate(0)
  }

  /// From x as it is.
  func run(_ watch: Watch, gram: Gram) throws(UnmergeError) -> Ending {
    let lowest = floor(gram)
    form.apply(x, qx)
    var best = certificate(lowest)
    var end = Ending()
    var stop = watch.poll()
    var burst = 10
    var idle = 0
    var smallest = best.gap
    // F is flat at its minimum: coefficients gain from two more digits.
    while stop == nil, watch.maxIterations > 0, !(best.relativeGap <= 1e-3 * watch.tol), idle < 4,
      iterations < watch.maxIterations
    {
      if lipschitz == 0 { lipschitz = 1.02 * form.norm(point) }
      if lipschitz == 0 { break }
      stop = accelerate(min(burst, watch.maxIterations - iterations), watch)
      if stop == nil { stop = try minimiseOnFace(watch, isStuck: idle > 0) }
      let now = certificate(lowest)
      // The gap may rise while F falls; both standing still is the end.
      let progress = best.objective - now.objective > 1e-15 * max(best.objective, lowest) || now.gap < 0.5 * smallest
      smallest = min(smallest, now.gap)
      idle = progress ? 0 : idle + 1
      burst = progress ? 10 : min(200, 3 * burst)
      best = now
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: 0, total: gram.targets, objective: best.objective,
        relativeGap: best.relativeGap)
      stop = stop ?? watch.poll()
    }
    norm.describe(x, face)
    if stop == nil, best.relativeGap <= 1e-6 {
      if face.count == 0 { end.df = 0 } else if try solveFace(), !isSingular { end.df = Double(face.count) }
    }
    if isSingular { end.flags |= UNMERGE_FLAG_RANK_DEFICIENT }
    end.iterations = iterations
    end.certificate = best
    if !(best.relativeGap <= watch.tol) {
      end.outcome = stop?.outcome ?? (iterations >= watch.maxIterations ? UNMERGE_ITERATION_LIMIT : UNMERGE_STALLED)
    }
    if best.isExplained(gram) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    return end
  }

  /// Violation: max |x − prox_Ω(x + g)|, 0 exactly at the minimum.
  private func certificate(_ lowest: Double) -> Certificate {
    var r = Certificate()
    var fit = 1.0
    for i in 0..<n {
      g[i] = b[i] - qx[i]
      fit -= x[i] * (b[i] + g[i])
      r.l1 += abs(x[i])
      r.l2 += x[i] * x[i]
      point[i] = x[i] + g[i]
    }
    norm.prox(point, 1, work)
    for i in 0..<n { r.violation = max(r.violation, abs(x[i] - work[i])) }
    r.rss = max(fit, 0)
    let dual = norm.dualNorm(g, noise: gradientNoise(l1: r.l1))
    let s = dual > 1 ? 1 / dual : 1
    r.objective = 0.5 * r.rss + norm.value(x)
    r.gap = 0.5 * (1 - s) * (1 - s) * r.rss + norm.bracket(x, g, s)
    r.relativeGap = r.gap / max(r.objective, lowest)
    return r
  }

  /// FISTA from x with gradient restart; qx follows. Q of the extrapolated point is that of the two before it.
  private func accelerate(_ count: Int, _ watch: Watch) -> Stop? {
    var t = 1.0
    point.update(from: x, count: n)
    work.update(from: qx, count: n)
    for _ in 0..<count {
      iterations += 1
      steps += 1
      old.update(from: x, count: n)
      oldQ.update(from: qx, count: n)
      while true {
        for i in 0..<n { x[i] = point[i] + (b[i] - work[i]) / lipschitz }
        norm.prox(x, 1 / lipschitz, x)
        form.apply(x, qx)
        // The step is right as long as the quadratic bends no more than L along it.
        var curvature = 0.0
        var length = 0.0
        for i in 0..<n {
          let d = x[i] - point[i]
          curvature += d * (qx[i] - work[i])
          length += d * d
        }
        if curvature <= lipschitz * length * (1 + 1e-12) || length == 0 { break }
        lipschitz = max(1.05 * lipschitz, 1.02 * curvature / length)
      }
      var uphill = 0.0
      for i in 0..<n { uphill += (point[i] - x[i]) * (x[i] - old[i]) }
      if uphill > 0 { t = 1 }
      let next = 0.5 * (1 + (1 + 4 * t * t).squareRoot())
      let beta = uphill > 0 ? 0 : (t - 1) / next
      t = next
      for i in 0..<n {
        point[i] = x[i] + beta * (x[i] - old[i])
        work[i] = qx[i] + beta * (qx[i] - oldQ[i])
      }
      if let stop = watch.poll() { return stop }
    }
    return nil
  }

  /// Newton on the face of x; what meets on the way merges and the solve is repeated. Early faces have many clusters, and most
  /// of them are wrong: factors may take a few times what the gradient steps have taken, unless those no longer help.
  private func minimiseOnFace(_ watch: Watch, isStuck: Bool) throws(UnmergeError) -> Stop? {
    for _ in 0..<max(20, n) where iterations < watch.maxIterations {
      norm.describe(x, face)
      let k = face.count
      factored += Double(k) * Double(k) * Double(k) / 3
      if !isStuck, factored > 32 * Double(steps) * Double(n) * Double(form.n) {
        factored -= Double(k) * Double(k) * Double(k) / 3
        return nil
      }
      guard try solveFace() else { return nil }
      iterations += 1
      var t = 1.0
      for r in 0..<face.relations {
        let (a, c, o) = (face.first[r], face.second[r], face.orientation[r])
        let distance = o * (face.values[a] - (c < 0 ? 0 : face.values[c]))
        let speed = o * (direction[a] - (c < 0 ? 0 : direction[c]))
        if distance + speed <= 0, speed < 0 { t = min(t, -distance / speed) }
      }
      // Along the direction F is ½ curvature t² − descent t.
      for i in 0..<n { point[i] = face.labels[i] < 0 ? 0 : face.signs[i] * direction[face.labels[i]] }
      form.apply(point, work)
      let curvature = Vector.dot(n, point, work)
      var descent = 0.0
      for i in 0..<n { descent += point[i] * (b[i] - qx[i]) }
      for c in 0..<k { descent -= face.slopes[c] * direction[c] }
      guard descent > 0, curvature.isFinite else { return nil }
      if curvature > 0 { t = min(t, descent / curvature * (1 + 1e-9)) }
      var isBlocked = false
      // Relations that hold with equality after the step, to rounding: made exact, so that the next face knows.
      for c in 0..<k { old[c] = face.values[c] + t * direction[c] }
      for r in 0..<face.relations {
        let (a, c, o) = (face.first[r], face.second[r], face.orientation[r])
        let other = c < 0 ? 0 : old[c]
        let size = abs(face.values[a]) + (c < 0 ? 0 : abs(face.values[c]))
        if o * (old[a] - other) <= 8 * roundoff * size, o * (direction[a] - (c < 0 ? 0 : direction[c])) < 0 {
          old[a] = other
          isBlocked = true
        }
      }
      for i in 0..<n { x[i] = face.labels[i] < 0 ? 0 : face.signs[i] * old[face.labels[i]] }
      form.apply(x, qx)
      if let stop = watch.poll() { return stop }
      if !isBlocked { break }
    }
    return nil
  }

  /// direction ← R⁻¹ (Bᵀg − slopes), R = BᵀQB, B the indicator of the clusters with its signs. False where there is no
  /// cluster, or are too many.
  private func solveFace() throws(UnmergeError) -> Bool {
    let k = face.count
    guard k > 0, k <= Self.largestFace else { return false }
    if reduced.count < k * k { reduced = try allocate(product(k, k, "the face")) }
    isSingular = false
    for attempt in 0..<2 {
      for i in 0..<(k * k) { reduced[i] = 0 }
      let m = form.n
      for l in 0..<form.blocks {
        let q = form.block(l)
        let labels = face.labels.pointer + l * m
        let signs = face.signs.pointer + l * m
        for j in 0..<m where labels[j] >= 0 {
          let row = reduced.pointer + labels[j] * k
          for i in 0..<m where labels[i] >= 0 && labels[i] <= labels[j] {
            row[labels[i]] += signs[i] * signs[j] * q[j * m + i]
          }
        }
      }
      var largest = 0.0
      for c in 0..<k { largest = max(largest, reduced[c * k + c]) }
      guard largest > 0 else { return false }
      // Clusters the data cannot tell apart: a little curvature takes the step that does least.
      if attempt == 1 { for c in 0..<k { reduced[c * k + c] += 1e-12 * largest } }
      for c in 0..<k { direction[c] = -face.slopes[c] }
      for i in 0..<n where face.labels[i] >= 0 { direction[face.labels[i]] += face.signs[i] * (b[i] - qx[i]) }
      let diagonal = reduced[0]
      if Symmetric.factor(k, reduced.pointer) != nil, diagonal >= 0, isWellPosed(k, largest) {
        Symmetric.solve(k, factor: reduced.pointer, direction.pointer, columns: 1)
        return (0..<k).allSatisfy { direction[$0].isFinite }
      }
      isSingular = true
    }
    return false
  }

  /// Pivots of the factor stay above rounding.
  private func isWellPosed(_ k: Int, _ largest: Double) -> Bool {
    if isSingular { return true }
    for c in 0..<k where reduced[c * k + c] * reduced[c * k + c] <= 1e-13 * largest { return false }
    return true
  }
}
