import UnmergeCore
import UnmergeLinalg

// Weights of the atoms that are present, by what the merge does to entries.

extension Findings {
  // MARK: weights

  /// Sums: the log-determinant fit over the atoms found and their relatives; without anything unknown, least squares on the
  /// stored task vectors, which is exact.
  mutating func weighSum(
    _ found: [Int], _ sample: RowSample, _ modules: [RowSpaceSums], _ sums: RowSpaceSums, _ usable: [Int],
    _ fit: DictionaryFit, _ presence: Presence, _ traces: Traces, _ z: Double
  ) throws(UnmergeError) {
    if try weighModules(found, modules, sums, RoundedWeights(sample), z) { return }
    let exact = try traces.leastSquares()
    let rounding = sample.modules.reduce(0) { $0 + $1.roundingVariance * Double($1.entries) }
    if exact.residual < 3 * rounding || exact.residual < 1e-4 * exact.energy {
      let cells = try Entries(sample, found, limit: 1 << 20).meetingCells(from: exact.weights)
      let estimates = cells?.estimates ?? zip(exact.weights, exact.errors).map { Estimate(value: $0, error: $1) }
      // Weights that sum to one are those of a mean, whose tools do not round them.
      let isMean = cells?.exactly == true && abs(estimates.reduce(-1) { $0 + $1.value }) < 1e-3
      set(
        found,
        RoundedWeights(sample).intervals(
          estimates, share: 2 * Platform.normal(z) - 1, modules: sample.modules.count, exactly: isMean))
      if cells?.exactly != true { try readDense(found, found, sample, z) }
      return
    }
    if try weighCrossed(found, sample, sums, z) { return }
    // Relatives that are absent show how much of the unknown looks like them.
    let relatives = usable.filter { j in !present.contains(j) && found.contains { abs(fit.cosine($0, j)) > 0.2 } }
    let chosen = found + relatives
    let whitened = try WhitenedFit(sample, atoms: chosen, watch)
    let solution = try whitened.minimise(from: chosen.map { presence.weights[$0] })
    // Noise beyond rounding is entries that were trimmed, and their share of a weight is not in the fit; or that were dropped
    // and made up for.
    let floor = zip(sample.modules, whitened.floors).reduce(0) { $0 + $1.1 * Double($1.0.entries) }
    let dropped = min(1.5 * max(0, floor - rounding) / exact.energy, 0.05)
    var estimates: [Estimate] = []
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
      let w = solution.weights[x]
      let error = solution.standardErrors[x].isFinite ? solution.standardErrors[x] : 0
      // What all modules share is not in their spread; what innocent relatives got is a measure of it.
      estimates.append(
        Estimate(
          value: solution.weights[x] - shift,
          error: (2.25 * error * error + shift * shift / 4 + 9e-10 + dropped * dropped * w * w).squareRoot()))
    }
    set(
      found, RoundedWeights(sample).intervals(estimates, share: 2 * Platform.normal(z) - 1, modules: sample.modules.count))
    try readDense(found, found.filter { presence.dense.contains($0) }, sample, z)
  }

  /// Weights and half widths of atoms that were found.
  mutating func set(_ found: [Int], _ intervals: [(value: Double, margin: Double)]) {
    for (j, i) in zip(found, intervals) { (weights[j], margins[j]) = (i.value, i.margin) }
  }

  /// With dense atoms among those found, the weights of some of them from the entries that rounding leaves readable.
  private mutating func readDense(
    _ found: [Int], _ some: [Int], _ sample: RowSample, _ z: Double
  ) throws(UnmergeError) {
    guard hasDense,
      let entries = try ReadableEntries(sample, found, from: found.map { weights[$0] }, watch)
    else { return }
    for (x, j) in found.enumerated() where some.contains(j) {
      weights[j] = entries.weights[x]
      margins[j] = z * max(2 * entries.errors[x], 0x1p-9 * abs(entries.weights[x]))
    }
  }

  /// A weight of its own in every module, where that explains what one weight does not.
  private mutating func weighModules(
    _ found: [Int], _ modules: [RowSpaceSums], _ sums: RowSpaceSums, _ rounded: RoundedWeights, _ z: Double
  ) throws(UnmergeError) -> Bool {
    var (left, rounding) = (0.0, 0.0)
    var own: [[Double]] = []
    for m in modules {
      guard m.yy > 0 else {
        own.append([])
        continue
      }
      let local = DictionaryFit(m.gram, atoms: n)
      let w = try local.solve(m.c, found.filter { local.norm($0) > 0 })
      left += m.residual(w)
      rounding += m.rounding
      own.append(w)
    }
    let pooled = sums.residual(try DictionaryFit(sums.gram, atoms: n).solve(sums.c, found))
    guard left < 3 * rounding || left < 1e-4 * sums.yy, pooled > 1.5 * left else { return false }
    scale = .perModule
    moduleWeights = own
    leftPerModule = left
    for j in found {
      let here = own.indices.filter { !own[$0].isEmpty && modules[$0].gram[j * n + j] > 0 }
      let values = here.map { own[$0][j] }
      guard !values.isEmpty else { continue }
      weights[j] = values.reduce(0, +) / Double(values.count)
      // Rounding moves every module's estimate by itself, and a weight of the tool in all modules that have it.
      var unit = Array(repeating: 0.0, count: n)
      unit[j] = 1
      var variance = 0.0
      for m in here {
        let local = DictionaryFit(modules[m].gram, atoms: n)
        let inverse = try local.solve(unit, found.filter { local.norm($0) > 0 })[j]
        variance += modules[m].residual(own[m]) / Double(max(modules[m].entries, 1)) * inverse
      }
      let recipe = Set(values.map { rounded.type?.round(Float($0)) ?? Float($0) }).sorted()
      let deviation = recipe.reduce(0) { max($0, rounded.deviation(Double($1))) }
      let count = Double(values.count)
      margins[j] = z * (variance / count / count + deviation * deviation / Double(max(recipe.count, 1))).squareRoot()
    }
    return true
  }

  /// Adapters whose factors were summed apart (PEFT's `linear`): Σ √w_i B_i · Σ √w_j A_j has every B_i A_j in it.
  private mutating func weighCrossed(
    _ found: [Int], _ sample: RowSample, _ sums: RowSpaceSums, _ z: Double
  ) throws(UnmergeError) -> Bool {
    let k = found.count
    guard k > 1, k <= 4 else { return false }
    let terms = k * k
    var g = Array(repeating: 0.0, count: terms * terms)
    var c = Array(repeating: 0.0, count: terms)
    var (yy, rounding) = (0.0, 0.0)
    for m in sample.modules {
      var factors: [(b: Buffer<Float>, a: Buffer<Float>, rank: Int)] = []
      for j in found { if case .factors(let b, let a, let rank)? = m.atoms[j] { factors.append((b, a, rank)) } }
      guard factors.count == k, factors.allSatisfy({ $0.rank == factors[0].rank && $0.rank > 0 }) else { return false }
      let rank = factors[0].rank
      var products: [Buffer<Float>] = []
      for i in 0..<k {
        for j in 0..<k {
          let x: Buffer<Float> = try allocate(m.entries)
          Float.gemm(
            false, false, m.cols, m.rows, rank, 1, factors[j].a.pointer, m.cols, factors[i].b.pointer, rank, 0, x.pointer,
            m.cols)
          products.append(x)
        }
      }
      for p in 0..<terms {
        for q in 0...p {
          let dot = Float.dot(products[p].pointer, products[q].pointer, m.entries)
          g[p * terms + q] += dot
          if p != q { g[q * terms + p] += dot }
        }
        c[p] += Float.dot(products[p].pointer, m.target.pointer, m.entries)
      }
      yy += Float.squares(m.target.pointer, m.entries)
      rounding += m.roundingVariance * Double(m.entries)
      if let stop = watch.poll() { throw stop.error }
    }
    let x = try DictionaryFit(g, atoms: terms).solve(c, Array(0..<terms))
    var residual = yy
    for p in 0..<terms {
      residual -= 2 * x[p] * c[p]
      for q in 0..<terms { residual += x[p] * x[q] * g[p * terms + q] }
    }
    guard residual < 4 * rounding || residual < 1e-4 * yy else { return false }
    let entries = sample.modules.reduce(0) { $0 + $1.entries }
    let fit = DictionaryFit(g, atoms: terms)
    var estimates: [Estimate] = []
    for term in stride(from: 0, to: terms, by: k + 1) {
      let unit = (0..<terms).map { $0 == term ? 1.0 : 0 }
      let inverse = try fit.solve(unit, Array(0..<terms))[term]
      estimates.append(
        Estimate(value: x[term], error: (max(residual, 0) / Double(max(entries, 1)) * inverse).squareRoot()))
    }
    set(
      found,
      RoundedWeights(sample).intervals(
        estimates, share: 2 * Platform.normal(z) - 1, modules: sample.modules.count, exactly: true))
    isCrossed = true
    leftPerModule = residual * sums.yy / max(yy, .leastNormalMagnitude)
    return true
  }

  /// Small entries of an unknown component may hide that those of the atoms are gone; multiples of the atoms show it.
  func isTrimmed(
    _ found: [Int], _ places: [Traces.Multiple], _ traces: Traces
  ) throws(UnmergeError) -> Bool {
    let clear = found.indices.filter { places[$0].z > 10 && places[$0].entries > 100 }
    guard !clear.isEmpty, let kept = try Traces(traces, clear).trimmedShare(clear.map { places[$0].ratio }) else {
      return false
    }
    return kept.before < 0.1 && kept.share < 0.92 && kept.share > 0.03
  }

  /// Dropped entries: the places of the multiples are w / q.
  mutating func weighDrop(
    _ found: [Int], _ sample: RowSample, _ least: [Double], _ places: [Traces.Multiple], _ traces: Traces, _ z: Double
  ) throws(UnmergeError) {
    let clear = found.indices.filter { places[$0].z > 10 && places[$0].entries > 100 }
    for j in found { margins[j] = z * max(0.02 * abs(least[j]), 0.005) }
    guard !clear.isEmpty else { return }
    let direct = try KeptShare(sample, clear.map { found[$0] }, ratios: clear.map { places[$0].ratio }, watch)
    // Least squares is right on average: w / ρ is the share kept, but for what related fine-tunes add.
    let slopes = clear.map { least[found[$0]] / places[$0].ratio }.filter { $0 > 0 && $0 <= 1.2 }
    let kept = direct?.share ?? slopes.min() ?? .nan
    guard kept > 0.01, kept <= 1.05 else { return }
    density = min(1, tidyDensity(kept))
    epsilon = direct.map { $0.slope > 0 ? tidy($0.slope, within: 0.026) : 0 }
    let ratios = clear.map { places[$0].ratio }
    // Of an entry's magnitude, what the mask keeps on average.
    let mean = clear.indices.map { x in direct.map { $0.kept[x] - $0.share + density } ?? density }
    let middle = median(ratios)
    // Divided by the sum of the weights that agree, every component alone stands at λ/q, whatever its weight.
    let isNormalised =
      clear.count == found.count && found.count > 1 && middle > 0 && ratios.allSatisfy { abs($0 - middle) < 0.05 * middle }
      && middle * median(mean) > 0.7
    if isNormalised {
      scale = .ratio
      let pairs = try traces.ratios(lambda: middle, density: 1, slack: 0.008)
      let sum = found.reduce(0) { $0 + abs(least[$1]) }
      for (x, j) in found.enumerated() {
        weights[j] = pairs?[x] ?? least[j] / sum
        margins[j] = z * (pairs == nil ? 0.05 : max(0.01 * weights[j], 0.004))
      }
      return
    }
    let singles = try Entries(sample, clear.map { found[$0] }).refined(ratios)
    // What is kept was multiplied with a factor that the tool rounded too.
    let rounded = RoundedWeights(sample)
    let estimates = zip(singles, mean).map { single, kept in
      let (w, s) = (kept * single.value, kept * single.error)
      let factor = abs(w) * density * rounded.deviation(1 / density)
      return Estimate(value: w, error: (s * s + factor * factor).squareRoot())
    }
    set(
      clear.map { found[$0] },
      rounded.intervals(estimates, share: 2 * Platform.normal(z) - 1, modules: sample.modules.count))
  }

  /// Shares are written in twentieths; beyond 0.026 from one, the estimate stands.
  func tidyDensity(_ x: Double) -> Double {
    let near = (x * 20).rounded() / 20
    if abs(near - x) <= 0.026 { return max(near, 0.01) }
    return x
  }

  /// Trimmed entries: λ from single survivors, q from where they begin, ratios from pairs.
  mutating func weighTrim(
    _ found: [Int], _ sample: RowSample, _ least: [Double], _ places: [Traces.Multiple], _ traces: Traces, _ z: Double
  ) throws(UnmergeError) {
    let ratios = places.map(\.ratio)
    let clear = found.indices.filter { places[$0].z > 10 && places[$0].entries > 100 }
    let sum = found.reduce(0) { $0 + abs(least[$1]) }
    for j in found { margins[j] = z * max(0.02 * abs(least[j]), 0.005) }
    guard clear.count == found.count else {
      scale = .ratio
      if sum > 0 { for j in found { weights[j] = least[j] / sum } }
      return
    }
    if let kept = try traces.trimmedShare(ratios) { density = tidyDensity(kept.share) }
    let place = median(ratios)
    let isNormalised =
      ratios.allSatisfy { abs($0 - place) < 0.03 * abs(place) } && (found.count > 1 || abs(place - 1) < 0.03)
    if isNormalised, place > 0 {
      scale = .ratio
      lambda = tidy(place, within: 0.01)
      let pairs = try traces.ratios(lambda: lambda, density: density.isNaN ? 0.5 : density)
      for (x, j) in found.enumerated() {
        weights[j] = pairs?[x] ?? (sum > 0 ? least[j] / sum : 0)
        margins[j] = z * (pairs == nil ? 0.05 : max(0.002, 0.004 * weights[j]))
      }
      let entries = try Entries(sample, found)
      if let pairs, let shares = try entries.shares(near: pairs, lambda: lambda, density: density.isNaN ? 0.5 : density) {
        set(
          found, RoundedWeights(sample).intervals(shares, share: 2 * Platform.normal(z) - 1, modules: sample.modules.count))
      }
    } else {
      let singles = try Entries(sample, found).refined(ratios)
      set(found, RoundedWeights(sample).intervals(singles, share: 2 * Platform.normal(z) - 1, modules: sample.modules.count))
    }
  }
}
