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

  init(_ sample: RowSample, floors: [Double]) throws(UnmergeError) {
    var factors: [Double] = []
    var shares: [Double] = []
    var gaps: [Double] = []
    for (m, floor) in zip(sample.modules, floors) {
      let energy = Float.squares(m.target.pointer, m.entries) / Double(max(m.entries, 1))
      guard energy > 0 else { continue }
      shares.append(floor / energy)
      if m.unit != nil, m.roundingVariance > 0 { factors.append(floor / m.roundingVariance) }
      let kept: Buffer<Float> = try allocate(m.entries)
      var count = 0
      for i in 0..<m.entries where abs(m.target[i]) > 0.5 * (m.unit?[i] ?? 0) && m.target[i] != 0 {
        kept[count] = m.target[i]
        count += 1
      }
      guard count >= 64 else { continue }
      func quantile(_ p: Double) throws(UnmergeError) -> Double {
        try allocating { () throws(OutOfMemory) in
          Double(try Magnitude.orderStatistic(kept.pointer, count, rank: Int(p * Double(count))).value)
        }
      }
      let half = try quantile(0.5)
      if half > 0 { gaps.append(try quantile(0.05) / half) }
    }
    let isNoisy = factors.isEmpty ? median(shares) > Self.noiseShare : median(factors) > Self.noiseFactor
    self = !isNoisy ? .sum : median(gaps) >= Self.gap ? .trim : .drop
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
  private(set) var pValues: [Double]
  private(set) var qValues: [Double]
  private(set) var shares: [Double]
  private(set) var present: Set<Int> = []
  private(set) var weights: [Double]
  /// Half widths of the intervals.
  private(set) var margins: [Double]
  private(set) var scale = WeightScale.absolute
  /// What kind of merge it was, even where no recipe can be told.
  private(set) var method: MergeMethod?
  private(set) var recipe: Recipe?
  private(set) var recipeWeights: [Double] = []
  private(set) var recipeStride = 0
  private(set) var density = Double.nan
  private(set) var equivalent: Int64 = 0
  private(set) var missing = 0.0
  private(set) var noise = 0.0
  private(set) var isComplete = false
  private(set) var isProved = false
  private(set) var equal = 0
  private(set) var compared = 0
  private(set) var chance = 0.0

  private let a: Columns
  private let y: Columns
  private let watch: Watch
  private let n: Int

  init(
    _ a: Columns, _ y: Columns, _ sample: RowSample, _ modules: [RowSpaceSums], _ sums: RowSpaceSums, _ usable: [Int],
    _ fit: DictionaryFit, _ presence: Presence, _ settings: AttributionSettings, _ watch: Watch
  ) throws(UnmergeError) {
    (self.a, self.y, self.watch) = (a, y, watch)
    n = a.count
    pValues = presence.pValues
    shares = Array(repeating: .nan, count: n)
    weights = presence.weights
    margins = Array(repeating: 0, count: n)
    qValues = []

    let kind = try MergeKind(sample, floors: try WhitenedFit(sample, atoms: [], watch).floors)
    if kind != .sum {
      let spikes = try multiplesOfOne(sample, usable)
      for j in usable {
        guard let spike = spikes[j] else { continue }
        shares[j] = spike.share
        // Bonferroni, nine parts to the first and one to the second.
        pValues[j] = min(1, min(pValues[j] / 0.9, spike.pValue / 0.1))
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

    let traces = Traces(sample, found)
    switch kind {
    case .sum: try weighSum(found, least, sample, sums, usable, fit, presence, traces, z)
    case .drop: try weighDrop(found, least, sums, fit, traces, z)
    case .trim: try weighTrim(found, least, sums, traces, z)
    }
    try identify(kind, found, sums, fit, settings)
    judge(kind, found, sums, fit)
  }

  private var sumMethods: Int64 {
    [MergeMethod.linear, .taskArithmetic, .slerp, .adapterCat].reduce(0) { $0 | 1 << Int64($1.rawValue) }
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
    for (x, j) in found.enumerated() where presence.weights[j] != 0 {
      let kept = min(1, abs(solution.weights[x] / presence.weights[j]))
      pValues[j] = max(pValues[j], presence.tail.pValue(presence.evidence[j] * kept))
    }
    qValues = falseDiscoveryRates(pValues, usable)
    return found.filter { qValues[$0] <= settings.falseDiscovery }
  }

  // MARK: weights

  /// Sums: the log-determinant fit over the atoms found and their relatives; without anything unknown, least squares on the
  /// stored task vectors, which is exact.
  private mutating func weighSum(
    _ found: [Int], _ least: [Double], _ sample: RowSample, _ sums: RowSpaceSums, _ usable: [Int], _ fit: DictionaryFit,
    _ presence: Presence, _ traces: Traces, _ z: Double
  ) throws(UnmergeError) {
    let exact = try traces.leastSquares()
    let rounding = sample.modules.reduce(0) { $0 + $1.roundingVariance * Double($1.entries) }
    if exact.residual < 3 * rounding || exact.residual < 1e-4 * sums.yy {
      for (x, j) in found.enumerated() {
        weights[j] = exact.weights[x]
        // Half a unit of a rounded weight is in every module alike: bfloat16 weights and products.
        margins[j] = z * max(exact.errors[x], 2e-4 * abs(exact.weights[x]))
      }
      return
    }
    // Relatives that are absent show how much of the unknown looks like them.
    let relatives = usable.filter { j in !present.contains(j) && found.contains { abs(fit.cosine($0, j)) > 0.2 } }
    let chosen = found + relatives
    let whitened = try WhitenedFit(sample, atoms: chosen, watch)
    let solution = try whitened.minimise(from: chosen.map { presence.weights[$0] })
    let absent = relatives.indices.map { x in abs(solution.weights[found.count + x]) }
    for (x, j) in found.enumerated() {
      var (leak, total) = (0.0, 0.0)
      for (y, i) in relatives.enumerated() {
        let cosine = fit.cosine(i, j)
        if abs(cosine) > 0.2 {
          leak += cosine * solution.weights[found.count + y]
          total += abs(cosine)
        }
      }
      let shift = total > 0 ? leak / total : 0
      weights[j] = solution.weights[x] - shift
      let error = solution.standardErrors[x].isFinite ? solution.standardErrors[x] : 0
      // What the modules agree on is not in their spread: innocent relatives say how large it gets.
      margins[j] = z * (error * error * 9 + shift * shift / 4 + 4e-8).squareRoot()
      _ = absent
    }
  }

  /// Dropped entries: the places of the multiples are w / q.
  private mutating func weighDrop(
    _ found: [Int], _ least: [Double], _ sums: RowSpaceSums, _ fit: DictionaryFit, _ traces: Traces, _ z: Double
  ) throws(UnmergeError) {
    let places = try traces.multiples()
    let clear = found.indices.filter { places[$0].z > 10 && places[$0].entries > 100 }
    for j in found { margins[j] = z * max(0.02 * abs(least[j]), 0.005) }
    guard !clear.isEmpty else { return }
    var shares: [Double] = []
    if let kept = try Traces(traces, clear).keptShare(clear.map { places[$0].ratio }) { shares.append(kept) }
    // Least squares is right on average: w / ρ is the share kept, but for what related fine-tunes add.
    let slopes = clear.map { least[found[$0]] / places[$0].ratio }.filter { $0 > 0 && $0 <= 1.2 }
    let slope = slopes.isEmpty ? nil : slopes.min()
    let kept = shares.first ?? slope ?? .nan
    guard kept > 0.01, kept <= 1.05 else { return }
    density = min(1, tidyDensity(kept, slope))
    for x in clear {
      let j = found[x]
      weights[j] = density * places[x].ratio
      margins[j] = z * max(0.003 * abs(weights[j]), 0.0008)
    }
  }

  /// Shares are written in twentieths; beyond 0.035 from one, the estimate stands.
  private func tidyDensity(_ x: Double, _ other: Double?) -> Double {
    let near = (x * 20).rounded() / 20
    if abs(near - x) <= 0.026 { return max(near, 0.01) }
    return x
  }

  /// Trimmed entries: λ from single survivors, q from where they begin, ratios from pairs.
  private mutating func weighTrim(
    _ found: [Int], _ least: [Double], _ sums: RowSpaceSums, _ traces: Traces, _ z: Double
  ) throws(UnmergeError) {
    let places = try traces.multiples()
    let ratios = places.map(\.ratio)
    let clear = found.indices.filter { places[$0].z > 10 && places[$0].entries > 100 }
    let sum = found.reduce(0) { $0 + abs(least[$1]) }
    for j in found { margins[j] = z * max(0.02 * abs(least[j]), 0.005) }
    guard clear.count == found.count else {
      scale = .ratio
      if sum > 0 { for j in found { weights[j] = least[j] / sum } }
      return
    }
    if let kept = try traces.trimmedShare(ratios) { density = tidyDensity(kept, nil) }
    let lambda = median(ratios)
    let isNormalised = ratios.allSatisfy { abs($0 - lambda) < 0.03 * abs(lambda) } && (found.count > 1 || abs(lambda - 1) < 0.03)
    if isNormalised, lambda > 0 {
      scale = .ratio
      trimLambda = tidy(lambda, within: 0.01)
      let pairs = try traces.ratios(lambda: trimLambda, density: density.isNaN ? 0.5 : density)
      for (x, j) in found.enumerated() {
        weights[j] = pairs?[x] ?? (sum > 0 ? least[j] / sum : 0)
        margins[j] = z * (pairs == nil ? 0.05 : max(0.002, 0.004 * weights[j]))
      }
    } else {
      for (x, j) in found.enumerated() {
        weights[j] = ratios[x]
        margins[j] = z * max(0.003 * abs(ratios[x]), 0.001)
      }
    }
  }

  private var trimLambda = 1.0

  // MARK: the method

  /// Replays what may have been on the smallest modules and keeps what predicts most.
  private mutating func identify(
    _ kind: MergeKind, _ found: [Int], _ sums: RowSpaceSums, _ fit: DictionaryFit, _ settings: AttributionSettings
  ) throws(UnmergeError) {
    var w = Array(repeating: 0.0, count: n)
    for j in found { w[j] = tidy(weights[j], within: max(0.002, 0.004 * abs(weights[j]), min(0.006, margins[j]))) }
    let total = found.reduce(0) { $0 + w[$1] }
    let q = density.isNaN ? 0.5 : density
    func candidate(_ method: MergeMethod, _ change: (inout Recipe) -> Void = { _ in }) throws(UnmergeError) -> Recipe {
      var r = Recipe(method, weights: try PerAtom(w))
      r.densities = PerAtom(constant: 1)
      change(&r)
      return r
    }
    var candidates: [Recipe] = []
    switch kind {
    case .sum:
      if abs(total - 1) < 0.004 { candidates.append(try candidate(.linear)) }
      candidates.append(try candidate(.taskArithmetic))
      if found.count > 1, let most = found.map({ w[$0] }).max(), let least = found.map({ w[$0] }).min(), least > 0.8 * most {
        var r = Recipe(.modelStock, weights: try PerAtom((0..<n).map { found.contains($0) ? 1 : 0 }))
        r.densities = PerAtom(constant: 1)
        candidates.append(r)
      }
      if found.count == 2, abs(total - 1) < 0.01 {
        candidates.append(try candidate(.slerp) { $0.t = w[found[1]] })
      }
    case .drop:
      for method in [MergeMethod.dareLinear, .dareTies, .dellaLinear, .della, .breadcrumbs, .breadcrumbsTies] {
        candidates.append(
          try candidate(method) {
            $0.densities = PerAtom(constant: q)
            $0.epsilon = min(0.1, 0.9 * q, 0.9 * (1 - q))
          })
      }
    case .trim:
      candidates.append(
        try candidate(.ties) {
          $0.densities = PerAtom(constant: q)
          $0.normalize = scale == .ratio
          $0.lambda = trimLambda
        })
      candidates.append(
        try candidate(.breadcrumbsTies) {
          $0.densities = PerAtom(constant: q)
        })
    }
    guard y.modules.contains(where: { if case .dense(_, _?, _)? = $0.piece(0) { true } else { false } }) else {
      // An adapter: nothing was rounded against a base, and nothing can be replayed.
      recipe = candidates.first
      method = recipe?.method
      finish(found, w, kind, total)
      return
    }
    // The smallest modules that somebody is in.
    let order = a.modules.indices.filter { m in
      y.modules[m].piece(0) != nil && a.modules[m].entries > 0 && found.contains { a.modules[m].piece($0) != nil }
    }.sorted { (a.modules[$0].entries, $0) < (a.modules[$1].entries, $1) }
    let tried = Array(order.prefix(2))
    let meter = PassMeter(watch, pass: 2, total: max(1, tried.reduce(0) { $0 + a.modules[$1].entries } * candidates.count * 4))
    var best: (score: Double, recipe: Recipe)?
    for plain in candidates {
      for (dtype, out) in storageChoices() {
        for rounding in [TaskRounding.stored, .product] {
          var r = plain
          (r.dtype, r.outType, r.taskRounding) = (dtype, out, rounding)
          var sum = Replayed()
          var isPossible = true
          for m in tried {
            do throws(UnmergeError) {
              sum.add(try Replay(a, y, r, watch).compare(m, meter))
            } catch {
              if let stop = watch.poll() { throw stop.error }
              isPossible = false
            }
          }
          guard isPossible, sum.entries > 0 else { continue }
          let score = Double((sum.consistent ?? sum.equal) - (sum.chance ?? 0)) / Double(sum.entries)
          if best == nil || score > best!.score + 1e-9 { best = (score, r) }
        }
      }
    }
    guard let best else { return }
    recipe = best.recipe
    method = best.recipe.method
    finish(found, w, kind, total)
    guard settings.replays, let recipe else { return }
    let all = try Replay(a, y, recipe, watch).compareAll()
    if let last = all.last, last.entries > 0 {
      equal = last.consistent ?? last.equal
      compared = last.entries
      chance = Double(last.chance ?? 0) / Double(last.entries)
      let share = Double(equal) / Double(compared)
      isProved = share > 0.97 && share > chance + 0.2
      replayResidual = last.squares
      if isProved, kind == .sum || kind == .trim {
        for j in found where abs(w[j] - weights[j]) <= max(margins[j], 0.003, 0.004 * abs(w[j])) { weights[j] = w[j] }
      }
    }
  }

  private var replayResidual = Double.nan

  private func storageChoices() -> [(ElementType?, ElementType?)] {
    for m in y.modules {
      if case .dense(let values, _, _)? = m.piece(0), values.type == .bf16 || values.type == .f16 {
        return [(values.type, nil), (.f32, values.type)]
      }
    }
    return [(.f32, nil)]
  }

  private mutating func finish(_ found: [Int], _ w: [Double], _ kind: MergeKind, _ total: Double) {
    guard let recipe else { return }
    recipeWeights = w
    if recipe.method == .modelStock { for j in found { recipeWeights[j] = 1 } }
    if recipe.method == .modelStock || recipe.method == .linear { scale = recipe.method == .modelStock ? .perModule : scale }
    equivalent = 1 << Int64(recipe.method.rawValue)
    if kind == .sum, recipe.method != .modelStock {
      equivalent |= 1 << Int64(MergeMethod.taskArithmetic.rawValue) | 1 << Int64(MergeMethod.adapterCat.rawValue)
      if abs(total - 1) < 0.004 {
        equivalent |= 1 << Int64(MergeMethod.linear.rawValue)
        if found.count <= 2 { equivalent |= 1 << Int64(MergeMethod.slerp.rawValue) }
      }
      density = .nan
    }
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
    if kind == .trim || recipe?.method == .modelStock || isProved, !replayResidual.isNaN {
      residual = min(replayResidual, sums.yy)
    }
    let expected = min(rounding + drops, sums.yy)
    noise = expected / sums.yy
    missing = isProved ? 0 : (residual - expected) / sums.yy
    isComplete = isProved || missing < 0.05
  }

  // MARK: multiples of one atom

  /// How far the share of multiples of one atom is above what decoys reach by chance: exponential beyond their largest.
  private func multiplesOfOne(
    _ sample: RowSample, _ usable: [Int]
  ) throws(UnmergeError) -> [Int: (share: Double, pValue: Double)] {
    let votes = try Spikes(sample, atoms: usable, watch).votes
    let chance = votes.reduce(0.002) { max($0, $1.null.share) }
    var result: [Int: (share: Double, pValue: Double)] = [:]
    for (x, j) in usable.enumerated() {
      let share = votes[x].atom.share
      result[j] = (share, share > chance ? Platform.exp(-6 * (share / chance - 1)) : 1)
    }
    return result
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
