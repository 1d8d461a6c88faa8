import UnmergeCore
import UnmergeLinalg

// Task arithmetic and its deterministic kin: from task vectors τ_j = θ_j − base
//
//     m = base + λ·Σ w_j s_j(τ_j) / d
//
//     task_arithmetic    s = identity                            all terms
//     ties               s keeps the largest magnitudes          terms with the sign of Σ w_j s_j(τ_j), entry by entry
//     breadcrumbs        s keeps the middle ones                 all terms
//     breadcrumbs_ties   the same                                terms with that sign
//
// d = 1, or with `normalize` the sum of the weights (of the terms that count). Every result is rounded to the compute type;
// sums over atoms run in float32. int(density·p) entries are kept; breadcrumbs leaves out int(gamma·p) of the largest first.
//
// Among equal magnitudes at a bound the lower index stays here; tools sort without a promise, so `tied` tries both.
//
// References: Ilharco et al. 2023; Yadav et al. 2023 (TIES); Davari & Belilovsky 2023 (breadcrumbs).

/// The weights, divisor and factor of a sum of task vectors, as the tool holds them.
struct WeightedSum: Sendable {
  let weights: [Float]
  let consensus: Merged.Consensus
  let normalize: Bool
  let divisor: Float
  let lambda: Float

  init(_ recipe: Recipe, _ stack: Stack, consensus: Merged.Consensus) {
    weights = stack.weights.map { stack.dtype.round($0) }
    self.consensus = consensus
    normalize = recipe.normalize ?? recipe.method.row.normalize
    let sum = stack.dtype.round(shortSum(weights))
    divisor = abs(sum) < 1e-8 ? 1 : sum
    lambda = Float(recipe.lambda)
  }

  func merge(
    _ out: UnsafeMutablePointer<Float>, _ x: [UnsafePointer<Float>?], _ count: Int, base: UnsafePointer<Float>?,
    _ type: ElementType
  ) {
    guard !x.isEmpty || base == nil else { return out.update(from: base!, count: count) }
    Merged.stack(
      out, x, weights, count, consensus: consensus, normalize: normalize, divisor: divisor, lambda: lambda, base: base, type)
  }
}

/// Which magnitudes of a module an atom keeps.
struct Selection: Sendable {
  enum Kind: Sendable {
    case all
    case none
    case between
  }
  var kind = Kind.all
  var low: Float = 0
  var lowEnd = Int.max
  var splitLow = false
  var high = Float.infinity
  var highEnd = Int.max
  var splitHigh = false

  init() {}

  /// The magnitudes of rank first…(first + kept − 1) in ascending order.
  init(_ x: UnsafePointer<Float>, _ count: Int, first: Int, kept: Int) throws(UnmergeError) {
    guard kept > 0, first < count else {
      kind = .none
      return
    }
    guard first > 0 || kept < count else { return }
    kind = .between
    func statistic(_ rank: Int) throws(UnmergeError) -> (value: Float, below: Int, equal: Int) {
      try allocating { () throws(OutOfMemory) in try Magnitude.orderStatistic(x, count, rank: rank) }
    }
    /// One past the index of the n-th entry of that magnitude.
    func end(_ value: Float, _ n: Int) -> Int {
      var left = n
      var i = 0
      while left > 0, i < count {
        if abs(x[i]) == value { left -= 1 }
        i += 1
      }
      return i
    }
    let last = min(first + kept, count) - 1
    let bottom = try statistic(first)
    let top = last == count - 1 ? nil : try statistic(last)
    let isOne = top.map { $0.value == bottom.value } ?? false
    let atBottom = isOne ? last - first + 1 : bottom.below + bottom.equal - first
    low = bottom.value
    splitLow = atBottom < bottom.equal
    lowEnd = splitLow ? end(low, atBottom) : Int.max
    if let top {
      high = top.value
      let atTop = isOne ? top.equal : last + 1 - top.below
      splitHigh = atTop < top.equal
      highEnd = splitHigh ? end(high, atTop) : Int.max
    }
  }

  func apply(_ x: UnsafeMutablePointer<Float>, _ w: Workspace, first: Int, atom j: Int) {
    switch kind {
    case .all: return
    case .none: x.update(repeating: 0, count: w.entries)
    case .between:
      Magnitude.select(
        x, w.entries, low: low, lowEnd: lowEnd == .max ? .max : lowEnd - first, high: high,
        highEnd: highEnd == .max ? .max : highEnd - first, ties: w.ties.pointer, bit: j < 64 ? 1 << UInt64(j) : 0,
        splitLow: splitLow, splitHigh: splitHigh)
    }
  }
}

private enum Kept: Sendable {
  case everything
  case largest
  /// but for this share of the largest
  case middle(gamma: Double)

  /// The first rank and the number of what is kept of n magnitudes in ascending order.
  func range(_ n: Int, density: Double) -> (first: Int, kept: Int) {
    let share = Int(density * Double(n))
    switch self {
    case .everything: return (0, n)
    case .largest:
      let kept = density > 0 ? max(1, share) : 0
      return (n - kept, kept)
    // The bottom gives way when there is not enough between it and the top.
    case .middle(let gamma): return (max(0, n - share - Int(gamma * Double(n))), share)
    }
  }
}

private struct Arithmetic: Rule {
  let sum: WeightedSum
  /// What is kept of a task vector.
  let kept: Kept
  let rescale: Rescale
  var selections: [Selection] = []
  /// What the kept entries are multiplied with, 1 for none.
  var factors: [Float] = []

  var selects: Bool { if case .everything = kept { false } else { true } }

  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    guard selects else { return }
    let results = Results<(Selection, Float)>(stack.count, (Selection(), 1))
    let (kept, rescale) = (kept, rescale)
    try crew.eachAtom(stack) { (j, x) throws(UnmergeError) in
      let n = stack.entries
      let density = stack.densities[j]
      guard density < 1 else { return }
      let range = kept.range(n, density: density)
      let selection = try Selection(x, n, first: range.first, kept: range.kept)
      var factor: Float = 1
      if rescale == .l1 {
        factor = l1Factor(before: Magnitude.sum(x, n), after: keptSum(x, n, selection), stack.dtype)
      } else if rescale == .density, density > 0 {
        factor = Float(1 / density)
      }
      results.set(j, (selection, factor))
    }
    selections = results.values.map(\.0)
    factors = results.values.map(\.1)
  }

  func merge(_ stack: Stack, _ w: Workspace) {
    if selects {
      w.ties.zero()
      for j in 0..<stack.count {
        selections[j].apply(w.x(j), w, first: w.rows.lowerBound * stack.cols, atom: j)
        if factors[j] != 1 { stack.dtype.scale(w.x(j), w.entries, by: factors[j]) }
      }
    }
    sum.merge(w.out.pointer, w.all(stack.count), w.entries, base: w.base.pointer, stack.dtype)
  }

  mutating func fit(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    let scaled = factors.indices.filter { factors[$0] != 1 }
    guard rescale == .l1, !scaled.isEmpty else { return }
    let sample = Sample(stack, crew, .vectors, limit: 1 << 14)
    var rule = self
    let best = try refine(scaled.map { factors[$0] }, stack.dtype, steps: [1, 2, 3]) { (trial) throws(UnmergeError) in
      for (i, j) in scaled.enumerated() { rule.factors[j] = trial[i] }
      try sample.load()
      rule.merge(stack, sample.w)
      return sample.matches()
    }
    for (i, j) in scaled.enumerated() { factors[j] = best[i] }
  }

  func tied(_ stack: Stack, _ w: Workspace) -> Int {
    guard selections.contains(where: { $0.splitLow || $0.splitHigh }) else { return 0 }
    var count = 0
    for i in 0..<w.entries where w.same[i] == 0 && w.ties[i] != 0 && isTied(stack, w, i) { count += 1 }
    return count
  }

  private func isTied(_ stack: Stack, _ w: Workspace, _ i: Int) -> Bool {
    let bits = w.ties[i]
    let tied = (0..<min(stack.count, 64)).filter { bits >> UInt64($0) & 1 == 1 }
    guard tied.count <= 8 else { return false }
    var x = (0..<stack.count).map { w.x($0)[i] }
    // What each of them could have been as well: nothing, or, for a zero that kept its sign, the magnitude of a bound.
    let choices = tied.map { j in
      if x[j] != 0 { return [x[j], 0] }
      let s = selections[j]
      let bounds = (s.splitLow ? [s.low] : []) + (s.splitHigh ? [s.high] : [])
      return [0] + bounds.map { Float(signOf: x[j], magnitudeOf: stack.dtype.round($0 * factors[j])) }
    }
    var digits = tied.map { _ in 0 }
    var out: Float = 0
    while true {
      for (d, j) in tied.enumerated() { x[j] = choices[d][digits[d]] }
      x.withUnsafeBufferPointer { p in
        sum.merge(&out, (0..<stack.count).map { p.baseAddress! + $0 }, 1, base: w.base.pointer + i, stack.dtype)
      }
      if stack.outType.round(out) == w.stored[i] { return true }
      guard let d = digits.indices.first(where: { digits[$0] + 1 < choices[$0].count }) else { return false }
      for e in 0..<d { digits[e] = 0 }
      digits[d] += 1
    }
  }
}

/// Put the norm back: a quotient of norms, each rounded to the compute type.
func l1Factor(before: Double, after: Double, _ type: ElementType) -> Float {
  let (b, a) = (type.round(before), type.round(after))
  return b < 1e-7 || a < 1e-7 ? 1 : type.round(b / a)
}

private func keptSum(_ x: UnsafePointer<Float>, _ n: Int, _ s: Selection) -> Double {
  switch s.kind {
  case .all: return Magnitude.sum(x, n)
  case .none: return 0
  case .between:
    var sum = 0.0
    for i in 0..<n {
      let a = abs(x[i])
      let isAbove = a > s.low || (a == s.low && i < s.lowEnd)
      let isBelow = a < s.high || (a == s.high && i < s.highEnd)
      if isAbove && isBelow { sum += Double(a) }
    }
    return sum
  }
}

/// Results that tasks store, each in its own place.
final class Results<Value: Sendable>: @unchecked Sendable {
  private(set) var values: [Value]
  private let lock = Lock()
  init(_ count: Int, _ value: Value) { values = Array(repeating: value, count: count) }
  func set(_ i: Int, _ value: Value) { lock.locked { values[i] = value } }
}

private func arithmetic(_ recipe: Recipe, _ stack: Stack, _ consensus: Merged.Consensus, _ kept: Kept) -> any Rule {
  Arithmetic(
    sum: WeightedSum(recipe, stack, consensus: consensus), kept: kept, rescale: recipe.rescale ?? recipe.method.row.rescale)
}

func taskArithmeticRule(_ recipe: Recipe, _ stack: Stack) -> any Rule { arithmetic(recipe, stack, .all, .everything) }
func tiesRule(_ recipe: Recipe, _ stack: Stack) -> any Rule { arithmetic(recipe, stack, recipe.consensus, .largest) }
func breadcrumbsRule(_ recipe: Recipe, _ stack: Stack) -> any Rule {
  arithmetic(recipe, stack, .all, .middle(gamma: recipe.gamma))
}
func breadcrumbsTiesRule(_ recipe: Recipe, _ stack: Stack) -> any Rule {
  arithmetic(recipe, stack, recipe.consensus, .middle(gamma: recipe.gamma))
}
