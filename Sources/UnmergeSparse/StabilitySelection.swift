import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Stability selection with complementary pairs
//
//     for b = 1 … B: cut the blocks into two random halves; on each the path of LASSOs selects the first atoms to enter, at
//     most q of them.   Π_j = share of the 2B halves that select atom j;   selected: Π_j ≥ τ
//
// With θ = q/n and q the mean size of a half's selection, the atoms that a half selects with probability ≤ θ are expected
// among the selected at most q θ / (2τ − 1) times (theorem 1 of Shah & Samworth; the same number as Meinshausen & Bühlmann's
// for exchangeable atoms), and C(τ, B) q θ times where Π of such an atom is unimodal (theorem 2).
//
// References: Meinshausen & Bühlmann 2010; Shah & Samworth 2013.

/// Fewer blocks have too few halves.
private let fewestBlocks = 20

private struct Stability: Sendable {
  let gram: Gram
  let target: Int
  let net: ElasticNet
  let grid: Buffer<Double>
  let q: Int
  let seed: UInt64
  let wantsPath: Bool

  /// Which blocks are in the first and in the second half of pair b; with an odd number one stays out.
  func halves(_ pair: Int) -> [[Int]] {
    let count = gram.blocks.count
    let keys = (0..<count).map { CounterRandom.bits(seed, UInt64(pair), UInt64($0)) }
    let order = (0..<count).sorted { keys[$0] != keys[$1] ? keys[$0] < keys[$1] : $0 < $1 }
    return [order[0..<(count / 2)].sorted(), order[(count / 2)..<(count / 2 * 2)].sorted()]
  }

  /// The path on some blocks. `entered[j]`: selected; `nonzero[i·n + j]`: not 0 at alpha i.
  func run(
    _ blocks: [Int], _ entered: Buffer<Bool>, _ nonzero: Buffer<Bool>, _ watch: Watch
  ) throws(UnmergeError) {
    let n = gram.atoms
    let part = try Gram(
      atoms: n, targets: gram.targets, blocks: blocks.map { gram.blocks[$0] }, precision: gram.precision,
      passes: gram.passes)
    let share = gram.entries > 0 ? Double(part.entries) / Double(gram.entries) : 0.5
    let alphas = try allocate(grid.count, of: Double.self)
    for i in 0..<grid.count { alphas[i] = grid[i] * share }
    let union = try allocate(n, of: Bool.self)
    var size = 0
    entered.zero()
    nonzero.zero()
    _ = try path(net, part, target: target, alphas, watch, findsDF: false) { i, w in
      for j in 0..<n where w[j] != 0 {
        if wantsPath { nonzero[i * n + j] = true }
        if !union[j] {
          union[j] = true
          size += 1
        }
      }
      if size <= q { entered.pointer.update(from: union.pointer, count: n) }
      return wantsPath || size <= q
    }
    if let stop = watch.poll() { throw stop.error }
  }
}

/// How often; sums of integers, so the order of the halves does not matter.
private final class Counts: @unchecked Sendable {
  let entered: Buffer<Int32>
  let nonzero: Buffer<Int32>
  private let lock = Lock()

  init(_ n: Int, _ cells: Int) throws(UnmergeError) {
    entered = try allocate(n)
    nonzero = try allocate(cells)
  }

  func add(_ e: Buffer<Bool>, _ z: Buffer<Bool>) {
    lock.locked {
      for j in 0..<entered.count where e[j] { entered[j] += 1 }
      for i in 0..<nonzero.count where z[i] { nonzero[i] += 1 }
    }
  }
}

/// C(τ, B) of theorem 2, NaN where it does not hold.
private func unimodalConstant(_ tau: Double, pairs: Int, theta: Double) -> Double {
  let b = Double(pairs)
  let least = 0.5 + min(theta * theta, 1 / (2 * b) + 0.75 * theta * theta)
  guard theta <= 1 / 3.0.squareRoot(), tau > least else { return .nan }
  let denominator = 2 * (2 * tau - 1 - 1 / (2 * b))
  guard tau <= 0.75 else { return 4 * (1 - tau + 1 / (2 * b)) / (1 + 1 / b) }
  return denominator > 0 ? 1 / denominator : .nan
}

extension unmerge_stability_options: Growable {
  package static var defaults: unmerge_stability_options {
    var o = unmerge_stability_options()
    o.struct_size = MemoryLayout<unmerge_stability_options>.size
    o.l1_ratio = 1
    o.alpha_min_ratio = 1e-3
    o.threshold = 0.75
    o.pairs = 50
    o.n_alphas = 100
    return o
  }
}

extension unmerge_stability_result: Growable {
  package static var defaults: unmerge_stability_result {
    var r = unmerge_stability_result()
    r.struct_size = MemoryLayout<unmerge_stability_result>.size
    return r
  }
}

@_cdecl("unmerge_stability_options_init") @implementation
public func unmerge_stability_options_init(
  _ options: UnsafeMutablePointer<unmerge_stability_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_stability_result_init") @implementation
public func unmerge_stability_result_init(
  _ result: UnsafeMutablePointer<unmerge_stability_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_stability_selection") @implementation
public func unmerge_stability_selection(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_stability_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ alphas: UnsafeMutablePointer<Double>?, _ frequency: UnsafeMutablePointer<Double>?,
  _ path: UnsafePointer<unmerge_view>?, _ result: UnsafeMutablePointer<unmerge_stability_result>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    guard o.l1_ratio > 0, o.l1_ratio <= 1 else {
      throw .range("options->l1_ratio is \(o.l1_ratio); it must be in (0, 1]")
    }
    guard o.alpha_min_ratio > 0, o.alpha_min_ratio < 1 else {
      throw .range("options->alpha_min_ratio is \(o.alpha_min_ratio); it must be in (0, 1)")
    }
    guard o.threshold > 0.5, o.threshold <= 1 else {
      throw .range("options->threshold is \(o.threshold); it must be in (0.5, 1]")
    }
    try check(o.q, "options->q", 0...Int64.max, ">= 0")
    try check(o.pairs, "options->pairs", 1...1_000_000, "between 1 and 1000000")
    try check(o.n_alphas, "options->n_alphas", 1...Int64.max, ">= 1")
    let target = try checkTarget(o.target, gram)
    try checkFlag(o.positive, "options->positive")
    try checkReserved(o.reserved, "options->reserved")
    try gram.needBlocks("halve")
    let weights = try copyWeights(o.weights, gram.atoms)
    let watch = try Watch(run)
    let (n, count, pairs) = (gram.atoms, Int(o.n_alphas), Int(o.pairs))
    let pathOut = try optionalOutput(path, "path", rows: n, columns: count)
    try checkResult(result, "result")
    guard gram.blocks.count >= fewestBlocks else {
      throw .range(
        "gram has \(gram.blocks.count) blocks; stability selection halves at least \(fewestBlocks): make the gram with folds = "
          + "\(fewestBlocks) or more, or a block per module")
    }
    let bounds = try Bounds(o.lower, o.upper, positive: o.positive == 1, count: gram.atoms)
    try checkGrid(o.alphas, bounds, gram)
    let alphaGrid = try AlphaGrid(o.alphas, count: count, ratio: o.alpha_min_ratio)
    let net = ElasticNet(alpha: 0, l1Ratio: o.l1_ratio, weights: weights, bounds: bounds)
    let q = o.q > 0 ? Int(min(o.q, Int64(max(n, 1)))) : max(1, Int((0.8 * Double(n)).squareRoot()))
    let cells = pathOut == nil ? 0 : try product(n, count, "path")
    let counts = try Counts(n, cells)
    let grid = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let grid = try alphaGrid.values(net, gram, target: target, watch)
      let stability = Stability(
        gram: gram, target: target, net: net, grid: grid, q: q, seed: watch.seed, wantsPath: pathOut != nil)
      try eachTask(pairs, watch.threads) { pair throws(UnmergeError) in
        let entered = try allocate(n, of: Bool.self)
        let nonzero = try allocate(cells, of: Bool.self)
        for half in stability.halves(pair) {
          try stability.run(half, entered, nonzero, watch)
          counts.add(entered, nonzero)
        }
        watch.report(phase: UNMERGE_PHASE_SOLVE, pass: gram.passes, done: pair + 1, total: pairs)
      }
      return grid
    }
    var r = unmerge_stability_result.defaults
    let halves = 2 * Double(pairs)
    r.halves = Int64(2 * pairs)
    r.q = Int64(q)
    for j in 0..<n {
      let share = Double(counts.entered[j]) / halves
      frequency?[j] = share
      r.mean_selected += share
      // Shares are multiples of 1/2B: a threshold that is one of them is reached in spite of rounding.
      if Double(counts.entered[j]) >= o.threshold * halves * (1 - 1e-12) { r.selected += 1 }
    }
    let theta = n > 0 ? r.mean_selected / Double(n) : 0
    r.bound = r.mean_selected * theta / (2 * o.threshold - 1)
    r.bound_unimodal = unimodalConstant(o.threshold, pairs: pairs, theta: theta) * r.mean_selected * theta
    r.seconds = watch.seconds
    if let pathOut {
      for i in 0..<count { for j in 0..<n { pathOut.set(j, i, Double(counts.nonzero[i * n + j]) / halves) } }
    }
    alphas?.update(from: grid.pointer, count: count)
    store(r, result)
  }
}
