import UnmergeCore
import UnmergeLinalg

// How far a weight may be from its estimate
//
// Three things move it. The entries are rounded, and how much one module would say something else than another shows what that
// does to the estimate (the sandwich, by module). A tool that computes in 16 bits rounds the weights too: what was merged is
// then a number of that type, and the recipe's is anywhere in its rounding cell. And estimates from rounded entries are off
// where changes are a few units of the storage, unless the roundings are part of the model:
//
//     |D_i − Σ w_j τ_ji| ≤ u_i/2   for every entry      minimise ½ Σ max(0, |D_i − Σ w_j τ_ji| − u_i/2)²
//
// Every entry is a cell that the weights must meet; the objective is convex, and Newton's method reaches its minimum in few
// steps. Least squares takes the rounding for noise, which it is not: the staircase of a lattice is steeper than the line.
//
// References: Liang & Zeger 1986 (the sandwich); Delattre & Jacod 1997 (estimation from rounded observations).

/// An estimate and its standard error.
struct Estimate: Sendable {
  var value: Double
  var error: Double
}

/// Rows of a sample with the stored task vectors of some atoms, held for several looks.
struct Entries: Sendable {
  private struct Block: Sendable {
    let count: Int
    let taus: [Buffer<Float>]
    let target: Buffer<Float>
    /// Half a unit in the last place; nil where storage is finer than what tools compute.
    let half: Buffer<Float>?
  }

  private let blocks: [Block]
  private let k: Int
  /// Half a unit of the type the target is stored in, relative.
  private let relative: Float

  /// At most about `limit` entries, from the middle of every module.
  init(_ sample: RowSample, _ atoms: [Int], limit: Int = 1 << 21) throws(UnmergeError) {
    k = atoms.count
    relative = sample.modules.contains { $0.storage == .f16 } ? 0x1p-12 : 0x1p-9
    let total = sample.modules.reduce(0) { saturatingSum($0, $1.entries) }
    let share = min(1, Double(limit) / Double(max(total, 1)))
    var blocks: [Block] = []
    for m in sample.modules {
      let rows = min(m.rows, max(1, Int(share * Double(m.rows))))
      let first = (m.rows - rows) / 2 * m.cols
      let count = rows * m.cols
      var taus: [Buffer<Float>] = []
      for j in atoms {
        let tau: Buffer<Float> = try allocate(count)
        switch m.atoms[j] {
        case .dense(let x)?: tau.pointer.update(from: x.pointer + first, count: count)
        case .factors(let b, let a, let rank)? where rank > 0:
          Float.gemm(
            false, false, m.cols, rows, rank, 1, a.pointer, m.cols, b.pointer + first / max(m.cols, 1) * rank, rank, 0,
            tau.pointer, m.cols)
          if let base = m.base, let storage = m.storage, storage != .f64 {
            storage.add(tau.pointer, base.pointer + first, count)
            ElementType.f32.subtract(tau.pointer, base.pointer + first, count)
          }
        default: break
        }
        taus.append(tau)
      }
      let target: Buffer<Float> = try allocate(count)
      target.pointer.update(from: m.target.pointer + first, count: count)
      var half: Buffer<Float>?
      if let unit = m.unit {
        let h: Buffer<Float> = try allocate(count)
        for i in 0..<count { h[i] = 0.5 * unit[first + i] }
        half = h
      }
      blocks.append(Block(count: count, taus: taus, target: target, half: half))
    }
    self.blocks = blocks
  }

  /// The weights whose cells are met best, from a start that is near; nil where the storage has no cells. `exactly`: the terms
  /// of the sum were not rounded on their way, by the few entries that are outside.
  func meetingCells(from start: [Double]) throws(UnmergeError) -> (estimates: [Estimate], exactly: Bool)? {
    guard blocks.allSatisfy({ $0.half != nil }) else { return nil }
    let entries = Double(blocks.reduce(0) { $0 + $1.count })
    if let plain = try descend(from: start, widened: false), plain.outside < 0.005 * entries {
      return (plain.estimates, true)
    }
    guard let wide = try descend(from: start, widened: true), wide.outside < 0.05 * entries else { return nil }
    return (wide.estimates, false)
  }

  private func descend(
    from start: [Double], widened: Bool
  ) throws(UnmergeError) -> (estimates: [Estimate], outside: Double)? {
    let cells = try cells(at: start, widened: widened)
    var w = start
    var (g, scores, misfit, outside) = try hinge(w, cells)
    let entries = blocks.reduce(0) { $0 + $1.count }
    for round in 0..<20 where outside > 8 * k {
      // Where terms were rounded on their way, narrow cells are out of reach; three steps show it.
      if !widened, round == 3, outside > entries / 50 { return nil }
      let step = try DictionaryFit(sum(g), atoms: k).solve(sum(scores), Array(0..<k))
      let trial = zip(w, step).map { $0 + $1 }
      let next = try hinge(trial, cells)
      guard next.misfit < misfit else { break }
      w = trial
      (g, scores, misfit, outside) = next
      if zip(w, step).allSatisfy({ abs($1) <= 1e-6 * max(abs($0), 1e-3) }) { break }
    }
    let errors = try sandwich(g, scores)
    return (zip(w, errors).map { Estimate(value: $0, error: max($1, 5e-6 * abs($0))) }, Double(outside))
  }

  /// Half widths of the cells. A tool that computes in the type it stores rounds every product and every sum, by half a unit of
  /// theirs at most.
  private func cells(at w: [Double], widened: Bool) throws(UnmergeError) -> [Buffer<Float>] {
    var result: [Buffer<Float>] = []
    for b in blocks {
      guard let half = b.half else { continue }
      guard widened else {
        result.append(half)
        continue
      }
      let cell: Buffer<Float> = try allocate(b.count)
      let total: Buffer<Float> = try allocate(b.count)
      for x in 0..<k {
        let (c, t) = (Float(w[x]), b.taus[x].pointer)
        for i in 0..<b.count {
          let term = c * t[i]
          cell[i] += abs(term)
          total[i] += term
        }
      }
      for i in 0..<b.count { cell[i] = half[i] + relative * (cell[i] + abs(total[i])) }
      result.append(cell)
    }
    return result
  }

  /// By block Σ ττᵀ and Σ τr over the entries outside their cells, r by how much; ½ Σ r², and how many they are.
  private func hinge(
    _ w: [Double], _ cells: [Buffer<Float>]
  ) throws(UnmergeError) -> (g: [[Double]], scores: [[Double]], misfit: Double, outside: Int) {
    var (gs, scores): ([[Double]], [[Double]]) = ([], [])
    var (misfit, outside) = (0.0, 0)
    let left: Buffer<Float> = try allocate(blocks.reduce(0) { max($0, $1.count) })
    for (b, half) in zip(blocks, cells) {
      var g = Array(repeating: 0.0, count: k * k)
      var c = Array(repeating: 0.0, count: k)
      left.pointer.update(from: b.target.pointer, count: b.count)
      for x in 0..<k { Vector.axpy(b.count, Float(-w[x]), b.taus[x].pointer, left.pointer) }
      for i in 0..<b.count where abs(left[i]) > half[i] {
        let r = Double(left[i] > 0 ? left[i] - half[i] : left[i] + half[i])
        misfit += 0.5 * r * r
        outside += 1
        for x in 0..<k {
          let t = Double(b.taus[x][i])
          c[x] += t * r
          for y in 0...x { g[x * k + y] += t * Double(b.taus[y][i]) }
        }
      }
      for x in 0..<k { for y in 0..<x { g[y * k + x] = g[x * k + y] } }
      gs.append(g)
      scores.append(c)
    }
    return (gs, scores, misfit, outside)
  }

  private func sum(_ parts: [[Double]]) -> [Double] {
    guard var total = parts.first else { return [] }
    for p in parts.dropFirst() { for i in total.indices { total[i] += p[i] } }
    return total
  }

  /// √diag(H (Σ_m s_m s_mᵀ) H), H the inverse of Σ g, times √(M/(M − 1)).
  private func sandwich(_ g: [[Double]], _ scores: [[Double]]) throws(UnmergeError) -> [Double] {
    let fit = DictionaryFit(sum(g), atoms: k)
    var squares = Array(repeating: 0.0, count: k)
    for s in scores {
      for (x, e) in try fit.solve(s, Array(0..<k)).enumerated() { squares[x] += e * e }
    }
    let few = Double(scores.count) / Double(max(scores.count - 1, 1))
    return squares.map { ($0 * few).squareRoot() }
  }

  /// ρ of every atom from the entries near ρτ.
  func refined(_ ratios: [Double]) -> [Estimate] {
    ratios.enumerated().map { (x, start) in
      refined(start) { (b, i) in (b.target[i], b.taus[x][i]) }
    }
  }

  /// Where d = ρt is a spike: the ρ at which the entries near it have no slope. Near is |d − ρt| ≤ c, c half a unit and what a
  /// tool rounds on its way. Entries that are there by chance have a density that may rise or fall across the spike; those
  /// between c and 2c show it, and have seven times the moment of those below c when it is linear. Errors by module, which has
  /// its own factor where a tool rescales every matrix.
  private func refined(_ start: Double, _ entry: (Block, Int) -> (d: Float, t: Float)?) -> Estimate {
    var rho = start
    var parts: [(g: Double, s: Double)] = []
    for _ in 0..<8 {
      parts = blocks.map { b in
        var (g, s) = (0.0, 0.0)
        for i in 0..<b.count {
          guard let (d, t) = entry(b, i) else { continue }
          let half = b.half?[i] ?? max(abs(d), abs(b.target[i])) * 0x1p-18
          guard abs(t) > 24 * half else { continue }
          let c = half + 2 * relative * abs(Float(rho) * t)
          let r = d - Float(rho) * t
          guard abs(r) <= 2 * c else { continue }
          let weight = Double(t) / Double(c * c)
          if abs(r) <= c {
            g += weight * Double(t)
            s += weight * Double(r)
          } else {
            g -= weight * Double(t)
            s -= weight * Double(r) / 7
          }
        }
        return (g, s)
      }
      let g = parts.reduce(0) { $0 + $1.g }
      guard g > 0 else { return Estimate(value: start, error: 0.005 * abs(start)) }
      let step = parts.reduce(0) { $0 + $1.s } / g
      rho += min(max(step, -0.01 * abs(start)), 0.01 * abs(start))
      guard abs(rho - start) < 0.03 * abs(start) else { return Estimate(value: start, error: 0.01 * abs(start)) }
      if abs(step) < 1e-6 * abs(rho) { break }
    }
    let g = parts.reduce(0) { $0 + $1.g }
    let mean = parts.reduce(0) { $0 + $1.s } / Double(max(parts.count, 1))
    let squares = parts.reduce(0) { $0 + ($1.s - mean) * ($1.s - mean) }
    let few = Double(blocks.count) / Double(max(blocks.count - 1, 1))
    // Neighbouring modules share what is there by chance: their spread is about half of the error (by merges of known truth).
    return Estimate(value: rho, error: max(2 * (few * squares).squareRoot() / g, 5e-6 * abs(rho)))
  }

  /// Shares of the atoms in a sum that is divided by the weights that agree, from pairs of survivors, D/λ = x τ_i + (1 − x) τ_j
  /// with x = w_i/(w_i + w_j): log w by least squares over the pairs, near the shares given.
  func shares(near w: [Double], lambda: Double, density: Double) throws(UnmergeError) -> [Estimate]? {
    guard k > 1, w.allSatisfy({ $0 > 0 }) else { return nil }
    var least: [[Float]] = []
    for b in blocks {
      var own: [Float] = []
      for tau in b.taus {
        let rank = b.count - max(1, Int(density * Double(b.count)))
        own.append(
          try allocating { () throws(OutOfMemory) in try Magnitude.orderStatistic(tau.pointer, b.count, rank: rank).value })
      }
      least.append(own)
    }
    let thresholds = Dictionary(uniqueKeysWithValues: zip(blocks.map { ObjectIdentifier($0.target) }, least))
    var g = Array(repeating: 1.0, count: k * k)
    var c = Array(repeating: 0.0, count: k)
    for x in 0..<k {
      for y in 0..<x {
        let e = refined(w[x] / (w[x] + w[y])) { (b, i) in
          let (p, q) = (b.taus[x][i], b.taus[y][i])
          guard (p < 0) == (q < 0), let t = thresholds[ObjectIdentifier(b.target)], abs(p) >= t[x], abs(q) >= t[y] else {
            return nil
          }
          return (b.target[i] / Float(lambda) - q, p - q)
        }
        let slope = 1 / (e.value * (1 - e.value))
        let weight = 1 / max(e.error * e.error * slope * slope, 1e-12)
        let logit = Platform.log(e.value / (1 - e.value))
        g[x * k + x] += weight
        g[y * k + y] += weight
        g[x * k + y] -= weight
        g[y * k + x] -= weight
        c[x] += weight * logit
        c[y] -= weight * logit
      }
    }
    let fit = DictionaryFit(g, atoms: k)
    let all = Array(0..<k)
    let powers = try fit.solve(c, all).map { Platform.exp($0) }
    let sum = powers.reduce(0, +)
    guard sum > 0, sum.isFinite else { return nil }
    let shares = powers.map { $0 / sum }
    var result: [Estimate] = []
    for i in 0..<k {
      // ∂w_i/∂log w_j = w_i (1[i = j] − w_j)
      let gradient = (0..<k).map { shares[i] * (($0 == i ? 1 : 0) - shares[$0]) }
      let column = try fit.solve(gradient, all)
      let variance = zip(gradient, column).reduce(0) { $0 + $1.0 * $1.1 }
      // Pairs that have an atom in common share its entries, which the sum over pairs takes for independent.
      result.append(Estimate(value: shares[i], error: 1.8 * max(variance, 0).squareRoot()))
    }
    return result
  }
}

// MARK: intervals

/// The half width that holds a share of N(0, error²) + U(−half, half).
func halfWidth(_ share: Double, error s: Double, half h: Double) -> Double {
  guard s > 1e-3 * h else { return share * h }
  let z = normalQuantile(0.5 + 0.5 * share)
  guard h > 1e-3 * s else { return z * s }
  func area(_ t: Double) -> Double {
    t * Platform.normal(t) + Platform.exp(-0.5 * t * t) / (2 * Double.pi).squareRoot()
  }
  var (low, high) = (0.0, z * s + h)
  for _ in 0..<50 {
    let m = 0.5 * (low + high)
    if s / h * (area((m + h) / s) - area((m - h) / s)) - 1 < share { low = m } else { high = m }
  }
  return 0.5 * (low + high)
}

/// Intervals of weights that a tool may have rounded to the type it stores.
struct RoundedWeights: Sendable {
  /// The type of 16 bits that the target is stored in, nil when storage is finer.
  let type: ElementType?

  /// Half a unit in the last place of a weight.
  func half(_ w: Double) -> Double { type.map { 0.5 * Double($0.spacing(Float(w))) } ?? 0 }

  /// The standard deviation of a weight that was rounded, by itself or with a factor.
  func deviation(_ w: Double) -> Double { half(w) / 3.0.squareRoot() }

  /// A number a person writes, or an equal share.
  private func isPlain(_ e: Estimate) -> Bool {
    let within = 3 * e.error + 1e-5 * abs(e.value)
    return [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 20].contains { d in
      abs((e.value * d).rounded() / d - e.value) <= within && abs(e.value) > within
    }
  }

  /// Centres and half widths. A weight that no person writes was rounded by the tool, unless `exactly` says otherwise: the
  /// recipe's is anywhere in the cell of the number it became.
  func intervals(
    _ estimates: [Estimate], share: Double, modules: Int, exactly: Bool = false
  ) -> [(value: Double, margin: Double)] {
    let z = normalQuantile(0.5 + 0.5 * share)
    // Student's quantile to first order, for spreads over few modules.
    let few = 1 + (z * z + 1) / (4 * Double(max(modules - 1, 1)))
    return estimates.map { e in
      let s = few * e.error
      guard let type, !exactly, !isPlain(e) else { return (e.value, z * s) }
      let h = half(e.value)
      // Where the cells can be told apart the weight is the number in the middle of one.
      let near = Double(type.round(Float(e.value)))
      if 3 * s < h, abs(e.value - near) < 0.5 * h { return (near, share * h) }
      return (e.value, halfWidth(share, error: s, half: h))
    }
  }
}

extension RoundedWeights {
  init(_ sample: RowSample) {
    type = sample.modules.lazy.compactMap(\.storage).first { $0.size == 2 }
  }
}
