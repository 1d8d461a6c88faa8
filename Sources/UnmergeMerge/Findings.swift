import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// What a merge does to the entries of its components, seen without knowing any of them.
enum MergeKind: Sendable {
  /// A weighted sum: of low rank up to rounding.
  case sum
  /// Entries dropped at random: noise in all directions.
  case drop
  /// Entries dropped by magnitude: no small ones are left.
  case trim

  /// Noise beyond this many times the rounding of the stored weights is not rounding; nor is more than this share of D.
  private static let noiseFactor = 4.0
  private static let noiseShare = 0.025
  /// The 5 % quantile of what is not zero over its median: 0.25 at most when small entries are among it.
  private static let gap = 0.29

  /// And how many times the rounding the noise is; 0 where the rounding is not known.
  static func of(
    _ sample: RowSample, floors: [Double], _ watch: Watch
  ) throws(UnmergeError) -> (kind: MergeKind, excess: Double) {
    let modules = sample.modules
    let results = Results<Signs>(modules.count, Signs())
    try performPass(tasks: modules.count, slots: max(1, min(watch.threads, modules.count)), watch) {
      (m, _) throws(UnmergeError) in
      results.set(m, try signs(modules[m], floor: floors[m]))
    } finish: { _, _ in
    }
    // A vector has one direction, which noise and signal share.
    let hasMatrices = modules.contains { $0.rows > 1 }
    let all = modules.indices.filter { modules[$0].rows > 1 || !hasMatrices }.map { results.values[$0] }
    let (factors, shares) = (all.compactMap(\.factor), all.compactMap(\.share))
    let isNoisy = factors.isEmpty ? median(shares) > noiseShare : median(factors) > noiseFactor
    return (!isNoisy ? .sum : median(all.compactMap(\.gap)) >= gap ? .trim : .drop, median(factors))
  }

  /// Of one module: noise over rounding and over D, and the gap; nil where it does not tell.
  private struct Signs: Sendable {
    var factor: Double?
    var share: Double?
    var gap: Double?
  }

  private static func signs(_ m: SampledModule, floor: Double) throws(UnmergeError) -> Signs {
    var signs = Signs()
    let energy = Float.squares(m.target.pointer, m.entries) / Double(max(m.entries, 1))
    guard energy > 0 else { return signs }
    signs.share = floor / energy
    // Finer storage than that of the base adds nothing to the rounding of the task models.
    var rounding = m.roundingVariance
    if let base = m.base, m.unit == nil, isBrain(base) {
      rounding = max(rounding, ElementType.bf16.roundingEnergy(base.pointer, m.entries) / Double(max(m.entries, 1)))
    }
    if m.unit != nil || rounding > m.roundingVariance, rounding > 0 { signs.factor = floor / rounding }
    let kept: Buffer<Float> = try allocate(m.entries)
    var count = 0
    let (target, unit) = (m.target.pointer, m.unit?.pointer)
    for i in 0..<m.entries where abs(target[i]) > 0.5 * (unit?[i] ?? 0) && target[i] != 0 {
      kept.pointer[count] = target[i]
      count += 1
    }
    guard count >= 64 else { return signs }
    func quantile(_ p: Double) throws(UnmergeError) -> Double {
      try allocating { () throws(OutOfMemory) in
        Double(try Magnitude.orderStatistic(kept.pointer, count, rank: Int(p * Double(count))).value)
      }
    }
    let half = try quantile(0.5)
    if half > 0 { signs.gap = try quantile(0.05) / half }
    return signs
  }

  /// Values that bfloat16 can hold.
  private static func isBrain(_ x: Buffer<Float>) -> Bool {
    (0..<min(x.count, 256)).allSatisfy { x[$0].bitPattern & 0xFFFF == 0 }
  }
}

func median(_ x: [Double]) -> Double {
  guard !x.isEmpty else { return 0 }
  let s = x.sorted()
  return s.count % 2 == 1 ? s[s.count / 2] : 0.5 * (s[s.count / 2 - 1] + s[s.count / 2])
}

/// A number as a person would have written it, where one is that close.
func tidy(_ x: Double, within tolerance: Double) -> Double {
  for denominator in [1.0, 2, 4, 10, 20, 3, 100, 6, 7, 9, 11, 200, 1000] {
    let near = (x * denominator).rounded() / denominator
    if abs(near - x) <= tolerance, near != 0 { return near }
  }
  return x
}

/// What the evidence says, step by step; see Attribution.swift.
struct Findings: Sendable {
  var pValues: [Double]
  var qValues: [Double]
  var shares: [Double]
  var present: Set<Int> = []
  var weights: [Double]
  /// Half widths of the intervals.
  var margins: [Double]
  var scale = WeightScale.absolute
  /// What kind of merge it was, even where no recipe can be told.
  var method: MergeMethod?
  var recipe: Recipe?
  var recipeWeights: [Double] = []
  var recipeStride = 0
  var density = Double.nan
  var equivalent: Int64 = 0
  var missing = 0.0
  var noise = 0.0
  var isComplete = false
  var isProved = false
  var equal = 0
  var compared = 0
  var chance = 0.0
  /// How much more often DELLA keeps the largest entries than those in the middle; 0: every entry as often; nil: not known.
  var epsilon: Double?
  /// Some of those found are full fine-tunes.
  var hasDense = false
  /// What the recipe predicts above chance on the modules it was chosen on.
  var score = 0.0

  let a: Columns
  let y: Columns
  let watch: Watch
  let n: Int
  /// λ of a merge that trims.
  var lambda = 1.0
  /// Σ (predicted − stored)² over everything, of the recipe.
  var replayResidual = Double.nan
  /// Weights of every module, where one does not hold everywhere.
  var moduleWeights: [[Double]] = []
  var leftPerModule = Double.nan
  /// Factors were summed apart.
  var isCrossed = false

  init(
    _ a: Columns, _ y: Columns, _ sample: RowSample, _ modules: [RowSpaceSums], _ sums: RowSpaceSums, _ usable: [Int],
    _ fit: DictionaryFit, _ presence: Presence, residual: RowSample?, _ settings: AttributionSettings, _ watch: Watch
  ) throws(UnmergeError) {
    (self.a, self.y, self.watch) = (a, y, watch)
    n = a.count
    pValues = presence.pValues
    shares = Array(repeating: .nan, count: n)
    weights = presence.weights
    margins = Array(repeating: 0, count: n)
    qValues = []

    // Dense atoms are in all directions themselves: noise is what is there beside them.
    let (character, excess) = try MergeKind.of(
      sample, floors: try WhitenedFit(residual ?? sample, atoms: [], watch).floors, watch)
    var kind = character
    if kind != .sum {
      let spikes = try multiplesOfOne(sample, usable, presence.dense)
      for j in usable {
        guard let spike = spikes[j] else { continue }
        shares[j] = spike.share
        // A dense atom is small beside a unit nearly everywhere, and has spikes of its own where weights are small.
        pValues[j] = joined(pValues[j], spike.pValue, share: presence.dense.contains(j) ? 0.8 : 0.2)
      }
    }
    qValues = falseDiscoveryRates(pValues, usable)
    let q = qValues
    var found = usable.filter { q[$0] <= settings.falseDiscovery }
    present = Set(found)
    method = kind == .sum ? .taskArithmetic : kind == .drop ? .dareLinear : .ties
    if kind == .sum, !found.isEmpty {
      found = try confirm(found, sample, sums, usable, fit, presence, settings)
      present = Set(found)
    }

    let z = normalQuantile(0.5 + 0.5 * settings.confidence)
    // Least squares over the atoms found, and how far the whole dictionary's is from it, for those that were not.
    let least = try fit.solve(sums.c, found)
    for j in found { weights[j] = least[j] }
    let storedShare = sums.rounding / sums.yy
    guard !found.isEmpty else {
      noise = min(storedShare, 1)
      missing = 1 - noise
      if kind == .sum { equivalent = sumMethods }
      return
    }

    // What is left at rounding is a sum, however full its rank.
    if kind != .sum, sums.residual(least) < 3 * sums.rounding { kind = .sum }
    var places = kind == .sum ? [] : try Traces(sample, found, watch).multiples()
    if kind == .drop, try isTrimmed(found, places, Traces(sample, found, watch)) { kind = .trim }
    hasDense = found.contains { presence.dense.contains($0) }
    // Two-sided trims leave less noise than other drops do.
    if hasDense || kind == .sum, excess > 1.6, sums.residual(least) >= 3 * sums.rounding {
      if places.isEmpty { places = try Traces(sample, found, watch).multiples() }
      // So are dense atoms that are missing: each kind is tried, and what predicts most stands.
      var quick = settings
      quick.replays = false
      var best = -Double.infinity
      for trial in [MergeKind.sum, .drop, .trim] {
        var other = self
        var (own, ownPlaces) = (found, places)
        try other.weigh(trial, &own, &ownPlaces, sample, modules, sums, usable, fit, presence, z)
        guard !own.isEmpty else { continue }
        try other.identify(trial, own, quick)
        if other.score > best { (best, kind) = (other.score, trial) }
      }
    }
    try weigh(kind, &found, &places, sample, modules, sums, usable, fit, presence, z)
    guard !found.isEmpty else {
      noise = min(storedShare, 1)
      missing = 1 - noise
      return
    }
    if kind == .sum, sums.residual(try fit.solve(sums.c, found)) < 3 * sums.rounding {
      try weighRounding(modules, usable, fit, presence.weights)
    }
    try identify(kind, found, settings)
    judge(kind, found, sums, fit)
  }

  /// Weights and margins of the atoms found.
  private mutating func weigh(
    _ kind: MergeKind, _ found: inout [Int], _ places: inout [Traces.Multiple], _ sample: RowSample,
    _ modules: [RowSpaceSums],
    _ sums: RowSpaceSums, _ usable: [Int], _ fit: DictionaryFit, _ presence: Presence, _ z: Double
  ) throws(UnmergeError) {
    // An atom whose interval holds 0 is not said to be inside; without it the others are weighed again.
    for _ in 0..<2 {
      let traces = Traces(sample, found, watch)
      switch kind {
      case .sum: try weighSum(found, sample, modules, sums, usable, fit, presence, traces, z)
      case .drop: try weighDrop(found, sample, try fit.solve(sums.c, found), places, traces, z)
      case .trim: try weighTrim(found, sample, try fit.solve(sums.c, found), places, traces, z)
      }
      let kept = found.filter { abs(weights[$0]) > margins[$0] }
      if kept.count == found.count { break }
      for j in found where !kept.contains(j) {
        pValues[j] = 1
        margins[j] = 0
      }
      qValues = falseDiscoveryRates(pValues, usable)
      if !places.isEmpty { places = zip(found, places).filter { kept.contains($0.0) }.map(\.1) }
      found = kept
      present = Set(kept)
      if kept.isEmpty { break }
    }
  }

  /// Least squares gives an innocent atom what the unknown shares with it; a fit that can see the unknown as one thing of low
  /// rank does not. Only evidence that survives that counts.
  private mutating func confirm(
    _ found: [Int], _ sample: RowSample, _ sums: RowSpaceSums, _ usable: [Int], _ fit: DictionaryFit, _ presence: Presence,
    _ settings: AttributionSettings
  ) throws(UnmergeError) -> [Int] {
    let least = try fit.solve(sums.c, found)
    guard sums.residual(least) > 4 * sums.rounding, sums.residual(least) > 1e-4 * sums.yy else { return found }
    let relatives = usable.filter { j in !found.contains(j) && found.contains { abs(fit.cosine($0, j)) > 0.2 } }
    let chosen = found + relatives
    let solution = try WhitenedFit(sample, atoms: chosen, watch).minimise(from: chosen.map { presence.weights[$0] })
    // Evidence for dense atoms is that of a whitened fit already.
    for (x, j) in found.enumerated() where presence.weights[j] != 0 && !presence.dense.contains(j) {
      let kept = min(1, abs(solution.weights[x] / presence.weights[j]))
      pValues[j] = max(pValues[j], presence.tail.pValue(presence.evidence[j] * kept))
    }
    qValues = falseDiscoveryRates(pValues, usable)
    return found.filter { qValues[$0] <= settings.falseDiscovery }
  }

  // MARK: what is left

  /// Residual against what storage and method are known to leave.
  private mutating func judge(_ kind: MergeKind, _ found: [Int], _ sums: RowSpaceSums, _ fit: DictionaryFit) {
    var w = Array(repeating: 0.0, count: n)
    var drops = 0.0
    var squares = 0.0
    for j in found {
      w[j] = weights[j]
      squares += weights[j] * weights[j]
      if kind == .drop, !density.isNaN, density > 0 {
        drops += weights[j] * weights[j] * (1 - density) / density * fit.norm(j) * fit.norm(j)
      }
    }
    let rounding = sums.rounding * (1 + min(squares, 4))
    var residual = sums.residual(w)
    if !leftPerModule.isNaN { residual = leftPerModule }
    if kind == .trim || method == .modelStock || isProved, !replayResidual.isNaN { residual = min(replayResidual, sums.yy) }
    let expected = min(rounding + drops, sums.yy)
    noise = expected / sums.yy
    missing = isProved ? 0 : (residual - expected) / sums.yy
    // Dropped entries leave more than their mean says; a sum leaves nothing, and its recipe then predicts most values.
    let isPredicted = kind != .sum || compared == 0 || Double(equal) > 0.8 * Double(compared)
    isComplete = isProved || (missing < (kind == .sum ? 0.02 : 0.05) && isPredicted)
  }

  // MARK: multiples of one atom

  /// Šidák's inequality with weights, exact for independent p-values: the chance that the smaller of p/s and p'/(1 − s) is so
  /// small. Most goes to the spike, which what is merely related does not have.
  private func joined(_ presence: Double, _ spike: Double, share: Double) -> Double {
    let least = min(presence / share, spike / (1 - share))
    return 1 - (1 - min(1, share * least)) * (1 - min(1, (1 - share) * least))
  }

  /// The share of multiples of one atom, and how likely that is by chance. Beyond the largest share of a decoy exponential; below
  /// it normal, with the mean of the decoys' shares and one and a half times their deviation, for fine-tunes that are related to
  /// what is inside scatter more than rows that are not. What is not beyond all decoys is no reason to name an atom: its p-value
  /// stays above any level at which one would.
  private func multiplesOfOne(
    _ sample: RowSample, _ usable: [Int], _ dense: Set<Int>
  ) throws(UnmergeError) -> [Int: (share: Double, pValue: Double)] {
    let votes = try Spikes(sample, atoms: usable, watch).votes
    let null = votes.map(\.null.share)
    let largest = null.reduce(0.002) { max($0, $1) }
    let count = Double(max(null.count, 1))
    let mean = null.reduce(0, +) / count
    let square = null.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    let spread = null.count > 3 ? 1.5 * (square * (1 + 1 / count) / (count - 1)).squareRoot() : 0.0005
    let least = max(0.05, 0.5 / (count + 1))
    var result: [Int: (share: Double, pValue: Double)] = [:]
    for (x, j) in usable.enumerated() {
      let share = votes[x].atom.share
      let chance = dense.contains(j) ? max(largest, 0.02) : largest
      let body = 1 - Platform.normal((share - mean) / max(spread, 1e-9))
      let tail = share > chance ? Platform.exp(-6 * (share / chance - 1)) : 1
      result[j] = (share, min(tail, max(least, body)))
    }
    return result
  }

  /// A sum that leaves nothing but rounding: the chance that rounding gives an atom that is not inside such a weight, by the
  /// spread over modules. That is no reason to name it: see above.
  private mutating func weighRounding(
    _ modules: [RowSpaceSums], _ usable: [Int], _ fit: DictionaryFit, _ least: [Double]
  ) throws(UnmergeError) {
    let parts = modules.filter { $0.yy > 0 }
    guard parts.count > 3 else { return }
    var squares = Array(repeating: 0.0, count: n)
    for m in parts {
      var score = m.c
      for i in 0..<n { for j in usable { score[i] -= m.gram[i * n + j] * least[j] } }
      for (j, e) in try fit.solve(score, usable).enumerated() { squares[j] += e * e }
    }
    let few = Double(parts.count) / Double(parts.count - 1)
    for j in usable where !present.contains(j) && squares[j] > 0 {
      let z = abs(least[j]) / (few * squares[j]).squareRoot()
      let p = 2 * (1 - Platform.normal(z))
      if pValues[j] > 0.06 { pValues[j] = max(0.06, p) }
    }
    qValues = falseDiscoveryRates(pValues, usable)
  }
}

/// The quantile of the normal distribution, by bisection of its distribution function.
func normalQuantile(_ p: Double) -> Double {
  var (low, high) = (-10.0, 10.0)
  for _ in 0..<80 {
    let middle = 0.5 * (low + high)
    if Platform.normal(middle) < p { low = middle } else { high = middle }
  }
  return 0.5 * (low + high)
}
