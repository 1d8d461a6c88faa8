import UnmergeCore
import UnmergeLinalg

// What single entries tell about the atoms that are present
//
// The task vector τ_j = round(base + Δ_j) − base is known to the last bit, and D is a whole number of units. Where a merge has
// dropped or trimmed all components but one, D = ρ_j τ_j; where it has kept two, a known combination. Places of such spikes
// are the parameters of the merge:
//
//     DARE     ρ_j = λ w_j / q        only j kept : all dropped = q : 1 − q
//     TIES     ρ_j = λ (normalised)   nothing below the (1 − q) quantile of |τ_j| survives
//              two survivors of one sign: D/λ = x τ_i + (1 − x) τ_j,  x = w_i / (w_i + w_j)

/// The present atoms' task vectors, module by module.
struct Traces: Sendable {
  /// Where an atom alone stands (ρ), how many entries show it, and how many standard deviations that is.
  typealias Multiple = (ratio: Double, entries: Double, z: Double)

  private let sample: RowSample
  private let present: [Int]
  private let watch: Watch

  init(_ sample: RowSample, _ present: [Int], _ watch: Watch) {
    self.sample = sample
    self.present = present
    self.watch = watch
  }

  /// The same sample with some of the present atoms, by position.
  init(_ other: Traces, _ positions: [Int]) {
    sample = other.sample
    present = positions.map { other.present[$0] }
    watch = other.watch
  }

  /// τ of one atom on a sampled module: as the task model was stored, or as it is where nothing says how.
  static func taskVector(_ m: SampledModule, _ j: Int, _ out: UnsafeMutablePointer<Float>) {
    m.form(m.atoms[j], out)
    guard case .factors? = m.atoms[j], let base = m.base, let storage = m.storage, storage != .f64 else { return }
    storage.add(out, base.pointer, m.entries)
    ElementType.f32.subtract(out, base.pointer, m.entries)
  }

  /// Half the width of what is one place in D: the rounding of the stored weight.
  private static func unit(_ m: SampledModule, _ i: Int) -> Float {
    if let unit = m.unit { return unit.pointer[i] }
    guard let base = m.base else { return 1e-7 }
    // float32: the sums of the tool leave some units.
    return max(abs(base.pointer[i]), abs(m.target.pointer[i])) * 0x1p-21
  }

  /// Task vectors of a thread, one after the other, at once: what one thread needs for all atoms may be much.
  private static let most = 1 << 26

  /// `body` on every module with the task vectors of the atoms, into the part of its thread; all parts at the end. What goes
  /// into a part must not depend on the order of modules: whole numbers do not.
  private func each<Part: Sendable>(
    _ empty: Part,
    _ body: @escaping @Sendable (Int, SampledModule, [UnsafePointer<Float>], inout Part) throws(UnmergeError) -> Void
  ) throws(UnmergeError) -> [Part] {
    let (modules, present) = (sample.modules, present)
    let longest = modules.reduce(0) { max($0, $1.entries) }
    let size = try product(longest, max(present.count, 1), "the task vectors of a module")
    let slots = max(1, min(watch.threads, modules.count, Self.most / max(size, 1)))
    var rooms: [Room<Part>] = []
    for _ in 0..<slots { rooms.append(Room(try allocate(size), empty)) }
    let workers = rooms
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: modules.count, slots: slots, watch) { (index, slot) throws(UnmergeError) in
        let (m, room) = (modules[index], workers[slot])
        var taus: [UnsafePointer<Float>] = []
        for (x, j) in present.enumerated() {
          let tau = room.taus.pointer + x * longest
          Self.taskVector(m, j, tau)
          taus.append(UnsafePointer(tau))
        }
        try body(index, m, taus, &room.part)
      } finish: { _, _ in
      }
    }
    return workers.map(\.part)
  }

  /// ρ of every present atom, and the entries that show it.
  func multiples() throws(UnmergeError) -> [Multiple] {
    let k = present.count
    // Positive ones, then negative ones
    let empty = Array(repeating: RatioVotes(from: 0.02, to: 8, bins: 1200, logarithmic: true), count: 2 * k)
    let votes = try each(empty) { (_, m, taus, votes) in
      let target = m.target.pointer
      for i in 0..<m.entries {
        let (d, u) = (target[i], Self.unit(m, i))
        guard abs(d) > 1.5 * u else { continue }
        for x in 0..<k {
          let t = taus[x][i]
          guard abs(t) > 8 * u else { continue }
          if (d < 0) == (t < 0) { votes[x].add(d, t, unit: u) } else { votes[k + x].add(-d, t, unit: u) }
        }
      }
    }.reduce(empty) { zip($0, $1).map { $0 + $1 } }
    return present.indices.map { x in
      let (p, n) = (votes[x].peak(), votes[k + x].peak())
      return p.z >= n.z ? p : (-n.ratio, n.entries, n.z)
    }
  }

  /// The share of the largest entries of a task vector that were kept: where, along the order of |τ|, multiples begin; and how
  /// much rarer they are before, as a share.
  func trimmedShare(_ ratios: [Double]) throws(UnmergeError) -> (share: Double, before: Double)? {
    let bins = 100
    let k = present.count
    let empty = (hits: Array(repeating: 0, count: bins), counts: Array(repeating: 0, count: bins))
    let parts = try each(empty) { (_, m, taus, part) throws(UnmergeError) in
      let ranks: Buffer<Int32> = try allocate(1 << 16)
      let target = m.target.pointer
      for x in 0..<k {
        // Rank by the upper half of the bits: entries of a task vector have no more.
        ranks.zero()
        let tau = taus[x]
        for i in 0..<m.entries { ranks[Int((tau[i].magnitude.bitPattern) >> 16)] += 1 }
        var before: Int32 = 0
        for b in 0..<ranks.count {
          let own = ranks[b]
          ranks[b] = before + own / 2
          before += own
        }
        for i in 0..<m.entries {
          let (u, t) = (Self.unit(m, i), tau[i])
          guard abs(t) > 2 * u else { continue }
          let bin = min(bins - 1, Int(ranks[Int(t.magnitude.bitPattern >> 16)]) * bins / max(m.entries, 1))
          part.counts[bin] += 1
          if abs(target[i] - Float(ratios[x]) * t) <= 0.5 * u { part.hits[bin] += 1 }
        }
      }
    }
    let hits = (0..<bins).map { b in Double(parts.reduce(0) { $0 + $1.hits[b] }) }
    let counts = (0..<bins).map { b in Double(parts.reduce(0) { $0 + $1.counts[b] }) }
    guard let at = step(hits, counts) else { return nil }
    func rate(_ r: Range<Int>) -> Double { hits[r].reduce(0, +) / max(counts[r].reduce(0, +), 1) }
    // The jump may fall into a bin.
    let (low, high) = (rate(0..<max(0, at - 2)), rate(min(bins, at + 1)..<bins))
    return (1 - Double(at) / Double(bins), high > 0 ? low / high : 1)
  }

  /// Where a rate jumps: the split of greatest binomial likelihood.
  private func step(_ hits: [Double], _ counts: [Double]) -> Int? {
    func likelihood(_ h: Double, _ c: Double) -> Double {
      guard c > 0, h > 0, h < c else { return 0 }
      return h * Platform.log(h / c) + (c - h) * Platform.log(1 - h / c)
    }
    let (h, c) = (hits.reduce(0, +), counts.reduce(0, +))
    guard h > 100 else { return nil }
    var (best, at) = (likelihood(h, c), 0)
    var (left, total) = (0.0, 0.0)
    for s in 1..<hits.count {
      left += hits[s - 1]
      total += counts[s - 1]
      let value = likelihood(left, total) + likelihood(h - left, c - total)
      if value > best, (h - left) / max(c - total, 1) > left / max(total, 1) { (best, at) = (value, s) }
    }
    return at
  }

  /// Weights up to a common factor from pairs of survivors, summing to 1. `slack`: how far a tool's factors per matrix move D, as
  /// a share.
  func ratios(lambda: Double, density: Double, slack: Float = 0) throws(UnmergeError) -> [Double]? {
    let k = present.count
    guard k > 1 else { return [1] }
    let empty = Array(repeating: RatioVotes(from: 0.005, to: 0.995, bins: 2000, logarithmic: false), count: k * k)
    let votes = try each(empty) { (_, m, taus, votes) throws(UnmergeError) in
      let target = m.target.pointer
      var least: [Float] = []
      for tau in taus {
        let rank = m.entries - max(1, Int(density * Double(m.entries)))
        least.append(
          try allocating { () throws(OutOfMemory) in try Magnitude.orderStatistic(tau, m.entries, rank: rank).value }
        )
      }
      for i in 0..<m.entries {
        let u = Self.unit(m, i)
        for x in 0..<k where abs(taus[x][i]) >= least[x] {
          for y in 0..<x where abs(taus[y][i]) >= least[y] {
            let (p, q) = (taus[x][i], taus[y][i])
            guard (p < 0) == (q < 0), abs(p - q) > 4 * u else { continue }
            let d = target[i] / Float(lambda)
            // One of the two may have been dropped.
            if slack > 0, abs(d - p) <= 2 * (u + slack * abs(p)) || abs(d - q) <= 2 * (u + slack * abs(q)) { continue }
            votes[x * k + y].add(d - q, p - q, unit: u + slack * abs(d))
          }
        }
      }
    }.reduce(empty) { zip($0, $1).map { $0 + $1 } }
    // log w_x − log w_y = logit, by weighted least squares with Σ log w = 0
    var g = Array(repeating: 1.0, count: k * k)
    var c = Array(repeating: 0.0, count: k)
    var linked = Array(repeating: false, count: k)
    for x in 0..<k {
      for y in 0..<x {
        let peak = votes[x * k + y].peak()
        guard peak.z > 8, peak.ratio > 0.03, peak.ratio < 0.97 else { continue }
        let (weight, logit) = (peak.entries, Platform.log(peak.ratio / (1 - peak.ratio)))
        g[x * k + x] += weight
        g[y * k + y] += weight
        g[x * k + y] -= weight
        g[y * k + x] -= weight
        c[x] += weight * logit
        c[y] -= weight * logit
        (linked[x], linked[y]) = (true, true)
      }
    }
    guard linked.allSatisfy({ $0 }) else { return nil }
    let logs = try DictionaryFit(g, atoms: k).solve(c, Array(0..<k))
    let w = logs.map { Platform.exp($0) }
    let sum = w.reduce(0, +)
    return w.map { $0 / sum }
  }

  /// Least squares of D on the stored task vectors, with standard errors that modules agree on.
  func leastSquares() throws(UnmergeError) -> (weights: [Double], errors: [Double], residual: Double, energy: Double) {
    let k = present.count
    let own = Results<(g: [Double], c: [Double], yy: Double)>(sample.modules.count, ([], [], 0))
    _ = try each(()) { (index, m, taus, _) in
      var g = Array(repeating: 0.0, count: k * k)
      var c = Array(repeating: 0.0, count: k)
      for x in 0..<k {
        for y in 0...x {
          g[x * k + y] = Float.dot(taus[x], taus[y], m.entries)
          g[y * k + x] = g[x * k + y]
        }
        c[x] = Float.dot(taus[x], m.target.pointer, m.entries)
      }
      own.set(index, (g, c, Float.squares(m.target.pointer, m.entries)))
    }
    let (grams, cs) = (own.values.map(\.g), own.values.map(\.c))
    let yy = own.values.reduce(0) { $0 + $1.yy }
    var g = Array(repeating: 0.0, count: k * k)
    var c = Array(repeating: 0.0, count: k)
    for m in grams.indices {
      for i in g.indices { g[i] += grams[m][i] }
      for i in c.indices { c[i] += cs[m][i] }
    }
    let fit = DictionaryFit(g, atoms: k)
    let all = Array(0..<k)
    let w = try fit.solve(c, all)
    var errors = Array(repeating: 0.0, count: k)
    for m in grams.indices {
      var score = cs[m]
      for i in 0..<k { for j in 0..<k { score[i] -= grams[m][i * k + j] * w[j] } }
      let e = try fit.solve(score, all)
      for i in 0..<k { errors[i] += e[i] * e[i] }
    }
    let few = Double(grams.count) / Double(max(grams.count - 1, 1))
    var residual = yy
    for i in 0..<k {
      residual -= 2 * w[i] * c[i]
      for j in 0..<k { residual += w[i] * w[j] * g[i * k + j] }
    }
    return (w, errors.map { ($0 * few).squareRoot() }, max(residual, 0), yy)
  }
}

/// What one thread has.
private final class Room<Part>: @unchecked Sendable {
  let taus: Buffer<Float>
  var part: Part
  init(_ taus: Buffer<Float>, _ part: Part) {
    self.taus = taus
    self.part = part
  }
}
