import UnmergeCore
import UnmergeLinalg

// Random sparsification: every entry i of task vector j is kept with probability p_ij and multiplied with a factor s_j,
//
//     m = base + λ·Σ w_j s_j z_ij τ_ij / d,   z_ij ~ Bernoulli(p_ij)
//
//     dare_linear, dare_ties      p_ij = density
//     della_linear, della         p_ij = density + epsilon·(2 r_ij − 1), r_ij ∈ [0, 1] the rank of |τ_ij| in its row
//
// and for *_ties and della only the terms with the sign of the sum count. Which entries were kept is not in a recipe. What
// can be said without it: the mean over the masks, and for every stored entry whether one of the 2^k masks gives it.
//
// s_j = 1, 1/density, or what puts the l1 norm back: ‖τ_j‖₁/‖z_j∘τ_j‖₁, which hangs on the masks. `fit` starts with its
// mean and alternates: which masks are nearest to the stored entries, and which factors fit those masks best.
//
// References: Yu et al. 2024 (DARE); Deep, Bhardwaj & Poria 2024 (DELLA).

/// Patterns of so many atoms are tried one by one.
private let mostDraws = 12

private struct Drops: Rule {
  let sum: WeightedSum
  let densities: [Double]
  /// nil: every entry is kept with the same probability.
  let epsilon: Double?
  let rescale: Rescale
  /// Atoms that are drawn: 0 < density < 1.
  let drawn: [Int]
  /// s_j
  var factors: [Float]

  init(_ recipe: Recipe, _ stack: Stack, _ consensus: Merged.Consensus, epsilon: Double?) {
    sum = WeightedSum(recipe, stack, consensus: consensus)
    densities = stack.densities
    self.epsilon = epsilon
    rescale = recipe.rescale ?? recipe.method.row.rescale
    let densities = densities
    drawn = densities.indices.filter { densities[$0] > 0 && densities[$0] < 1 }
    factors = densities.map { _ in 1 }
  }

  // Tiles: the chance of a pattern, the nearest pattern and its distance, zeros; then the ranks of the drawn atoms.
  private var chance: Int { 0 }
  private var nearest: Int { 1 }
  private var distance: Int { 2 }
  private var zeros: Int { 3 }
  private func rank(_ d: Int) -> Int { 4 + d }
  private var scratch: Int { rank(drawn.count) }
  var extraTiles: Int { scratch + (epsilon == nil ? 0 : 4) }

  var isRandom: Bool { !drawn.isEmpty }
  fileprivate var isEnumerable: Bool { drawn.count <= mostDraws }

  /// Ranks of the drawn atoms on the tile; rows of a vector are one row.
  private func rankAll(_ stack: Stack, _ w: Workspace) {
    guard epsilon != nil else { return }
    let width = stack.cols == 1 ? w.entries : stack.cols
    for (d, j) in drawn.enumerated() {
      UnsafeMutableRawPointer(w.extra(scratch)).withMemoryRebound(to: UInt64.self, capacity: 2 * width) { keys in
        for at in stride(from: 0, to: w.entries, by: max(width, 1)) {
          Magnitude.ranks(w.x(j) + at, width, scratch: keys, into: w.extra(rank(d)) + at)
        }
      }
    }
  }

  var wantsWhole: Bool { isVector && epsilon != nil }
  var isVector = false

  /// Masks are drawn and norms taken in float32 where the compute type has no generator of its own.
  private func factorType(_ stack: Stack) -> ElementType { stack.dtype == .f16 ? .f32 : stack.dtype }

  /// Zeroes atoms of density 0 and puts the factors in.
  private func prepare(_ stack: Stack, _ w: Workspace) {
    rankAll(stack, w)
    w.extra(zeros).update(repeating: 0, count: w.entries)
    for j in densities.indices where densities[j] <= 0 { w.x(j).update(repeating: 0, count: w.entries) }
    for j in drawn where rescale != .none {
      if rescale == .density {
        stack.dtype.divide(w.x(j), w.entries, by: Float(densities[j]))
      } else {
        stack.dtype.scale(w.x(j), w.entries, by: factors[j])
      }
    }
  }

  /// p of the d-th drawn atom is a + b·rank.
  private func probability(_ d: Int) -> (a: Float, b: Float) {
    let density = Float(densities[drawn[d]])
    guard let epsilon else { return (density, 0) }
    return (density - Float(epsilon), 2 * Float(epsilon))
  }

  /// The operands of a pattern, and with `weighted` the chance of it for every entry.
  private func pattern(_ bits: Int, _ stack: Stack, _ w: Workspace, weighted: Bool) -> [UnsafePointer<Float>?] {
    var x = w.all(stack.count)
    if weighted { w.extra(chance).update(repeating: 1, count: w.entries) }
    for (d, j) in drawn.enumerated() {
      let isKept = bits >> d & 1 == 1
      if !isKept { x[j] = UnsafePointer(w.extra(zeros)) }
      guard weighted else { continue }
      let p = probability(d)
      let ranks = epsilon == nil ? w.extra(zeros) : w.extra(rank(d))
      Vector.multiply(w.entries, w.extra(chance), ranks, a: isKept ? p.a : 1 - p.a, b: isKept ? p.b : -p.b)
    }
    return x
  }

  /// The factor to start with: the mean's.
  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    guard rescale == .l1, !drawn.isEmpty else { return }
    for j in drawn { factors[j] = factorType(stack).round(1 / densities[j]) }
    guard epsilon != nil else { return }
    var before = [Double](repeating: 0, count: stack.count)
    var after = before
    let parts = Results<[(Double, Double)]>(crew.places, [])
    let rule = self
    try crew.eachTile(stack, .vectors) { w, place in
      rule.rankAll(stack, w)
      var mine: [(Double, Double)] = []
      for (d, j) in rule.drawn.enumerated() {
        let p = rule.probability(d)
        for i in 0..<w.entries { w.spare[i] = w.x(j)[i] * (p.a + p.b * w.extra(rule.rank(d))[i]) }
        mine.append((Magnitude.sum(w.x(j), w.entries), Magnitude.sum(w.spare.pointer, w.entries)))
      }
      parts.set(place, mine)
    } finish: { place in
      for (d, j) in drawn.enumerated() {
        before[j] += parts.values[place][d].0
        after[j] += parts.values[place][d].1
      }
    }
    for j in drawn { factors[j] = l1Factor(before: before[j], after: after[j], factorType(stack)) }
  }

  /// From the mean, or where steps are small from `regress`, to where most of a sample is what some draw gives.
  mutating func fit(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    guard rescale == .l1, !drawn.isEmpty, isEnumerable else { return }
    func some(_ entries: Int) -> Sample {
      Sample(stack, crew, .vectors, limit: wantsWhole ? stack.rows : max(1 << 11, entries >> drawn.count))
    }
    let sample = some(1 << 16)
    let type = factorType(stack)
    var rule = self
    func count(_ trial: [Float]) throws(UnmergeError) -> Int {
      for (d, j) in drawn.enumerated() { rule.factors[j] = trial[d] }
      try sample.load()
      rule.prepare(stack, sample.w)
      return rule.consistent(stack, sample.w)?.found ?? 0
    }
    // A norm after the draw strays by about √((1 − q)/(q·p)) of itself; bfloat16 takes that in few steps.
    let stray = drawn.map { (1 / densities[$0] - 1) / Double(max(stack.entries, 1)) }.max() ?? 0
    let near = Array(1...min(16, 2 + Int(3 * 128 * stray.squareRoot())))
    let far = (0...7).map { 1 << (14 - 2 * $0) }
    var best = drawn.map { factors[$0] }
    if type != .bf16, let start = try regress(stack, some(1 << 18)), try count(start) > count(best) { best = start }
    best = try refine(best, type, steps: type == .bf16 ? near : far, count)
    for (d, j) in drawn.enumerated() { factors[j] = best[d] }
  }

  /// Alternates: the pattern whose merge is nearest to the stored entry, then the factors that fit the patterns best. A
  /// rounding error is small beside what a dropped entry leaves out, so most patterns are right from the start.
  private func regress(_ stack: Stack, _ sample: Sample) throws(UnmergeError) -> [Float]? {
    let w = sample.w
    var rule = self
    for _ in 0..<8 {
      try sample.load()
      rule.prepare(stack, w)
      let n = w.entries
      w.extra(distance).update(repeating: .infinity, count: n)
      w.extra(nearest).update(repeating: 0, count: n)
      for bits in 0..<(1 << drawn.count) {
        sum.merge(w.out.pointer, rule.pattern(bits, stack, w, weighted: false), n, base: w.base.pointer, stack.dtype)
        Stored.nearer(w.out.pointer, w.stored.pointer, n, distance: w.extra(distance), label: w.extra(nearest), Float(bits))
      }
      // Entries are trusted up to their rounding and what half of all fall short by, which shrinks with every round.
      let misfit = try allocating { () throws(OutOfMemory) in
        try Magnitude.orderStatistic(w.extra(distance), n, rank: n / 2).value
      }
      guard let next = rule.estimate(stack, w, misfit: Double(misfit)) else { return nil }
      let old = rule.factors
      for (d, j) in drawn.enumerated() { rule.factors[j] = factorType(stack).round(next[d]) }
      if rule.factors == old { break }
    }
    return drawn.map { rule.factors[$0] }
  }

  /// Least squares for the factors given a pattern per entry (`extra(nearest)`): the terms that count are linear in them.
  /// Entries are weighted with the inverse of their variance.
  private func estimate(_ stack: Stack, _ w: Workspace, misfit: Double) -> [Double]? {
    let m = drawn.count
    var g = [Double](repeating: 0, count: m * m)
    var c = [Double](repeating: 0, count: m)
    var row = c
    var place = [Int](repeating: -1, count: stack.count)
    for (d, j) in drawn.enumerated() { place[j] = d }
    for i in 0..<w.entries {
      let bits = Int(w.extra(nearest)[i])
      func term(_ j: Int) -> Double {
        place[j] >= 0 && bits >> place[j] & 1 == 0 ? 0 : Double(sum.weights[j]) * Double(w.x(j)[i])
      }
      var total = 0.0
      for j in 0..<stack.count {
        let x = term(j)
        total += sum.consensus == .count ? (x > 0 ? 1 : x < 0 ? -1 : 0) : x
      }
      var y = Double(w.stored[i]) - Double(w.base[i])
      var divisor = 0.0
      for d in 0..<m { row[d] = 0 }
      for j in 0..<stack.count {
        let x = term(j)
        guard sum.consensus == .all || (total >= 0 ? x > 0 : x < 0) else { continue }
        divisor += Double(sum.weights[j])
        if place[j] >= 0 { row[place[j]] = x / Double(factors[j]) }
      }
      let scale =
        Double(sum.lambda) / (!sum.normalize ? 1 : sum.consensus == .all ? Double(sum.divisor) : divisor == 0 ? 1 : divisor)
      for j in 0..<stack.count where place[j] < 0 {
        let x = term(j)
        if sum.consensus == .all || (total >= 0 ? x > 0 : x < 0) { y -= scale * x }
      }
      let noise = misfit + Double(stack.outType.spacing(w.stored[i])) + Double(stack.dtype.spacing(w.stored[i]))
      guard noise > 0 else { continue }
      for d in 0..<m where row[d] != 0 {
        let a = row[d] * scale / noise
        c[d] += a * y / noise
        for e in 0..<m { g[d * m + e] += a * row[e] * scale / noise }
      }
    }
    guard let s = solve(g, c), zip(s, drawn).allSatisfy({ $0 > 0.5 / densities[$1] && $0 < 2 / densities[$1] }) else {
      return nil
    }
    return s
  }

  func merge(_ stack: Stack, _ w: Workspace) {
    prepare(stack, w)
    let out = w.out.pointer
    let n = w.entries
    guard isRandom else { return sum.merge(out, w.all(stack.count), n, base: w.base.pointer, stack.dtype) }
    out.update(from: w.base.pointer, count: n)
    if sum.consensus == .all {
      let scale = sum.normalize ? sum.lambda / sum.divisor : sum.lambda
      for j in 0..<stack.count {
        let p = drawn.firstIndex(of: j).map { ($0, probability($0)) }
        Vector.axpy(n, scale * sum.weights[j] * (p?.1.a ?? 1), w.x(j), out)
        if let (d, p) = p, epsilon != nil {
          Vector.addProduct(n, scale * sum.weights[j] * p.b, w.x(j), w.extra(rank(d)), out)
        }
      }
    } else {
      for bits in 0..<(1 << drawn.count) {
        let x = pattern(bits, stack, w, weighted: true)
        sum.merge(w.spare.pointer, x, n, base: nil, stack.dtype)
        Vector.addProduct(n, 1, w.spare.pointer, w.extra(chance), out)
      }
    }
  }

  func consistent(_ stack: Stack, _ w: Workspace) -> (found: Int, chance: Int)? {
    guard isEnumerable else { return nil }
    // `merge` has prepared the operands.
    let n = w.entries
    let moved = w.spare.pointer
    stack.moveStored(w, into: moved)
    UnsafeMutableRawPointer(w.extra(chance)).withMemoryRebound(to: UInt8.self, capacity: n) { hits in
      for i in 0..<n { (w.same[i], hits[i]) = (0, 0) }
    }
    var (found, others) = (0, 0)
    for bits in 0..<(1 << drawn.count) {
      sum.merge(w.out.pointer, pattern(bits, stack, w, weighted: false), n, base: w.base.pointer, stack.dtype)
      stack.outType.round(w.out.pointer, n)
      found += Stored.mark(w.out.pointer, w.stored.pointer, n, w.same.pointer)
      others += UnsafeMutableRawPointer(w.extra(chance)).withMemoryRebound(to: UInt8.self, capacity: n) {
        Stored.mark(w.out.pointer, moved, n, $0)
      }
    }
    return (found, others)
  }
}

private func drops(
  _ recipe: Recipe, _ stack: Stack, _ consensus: Merged.Consensus, epsilon: Double?
) throws(UnmergeError) -> any Rule {
  var rule = Drops(recipe, stack, consensus, epsilon: epsilon)
  rule.isVector = stack.cols == 1
  guard consensus == .all || rule.isEnumerable else {
    throw .range(
      "recipe draws masks for \(rule.drawn.count) atoms in module '\(stack.name)'; "
        + "\(recipe.method.row.name) can be replayed for \(mostDraws) at most"
    )
  }
  if let epsilon {
    for j in rule.drawn {
      let density = rule.densities[j]
      guard density + epsilon < 1, density - epsilon > 0 else {
        throw .range(
          "recipe->epsilon is \(epsilon); density - epsilon and density + epsilon must be in (0, 1), "
            + "and atom \(stack.atoms[j]) has density \(density)"
        )
      }
    }
  }
  return rule
}

func dareLinearRule(_ recipe: Recipe, _ stack: Stack) throws(UnmergeError) -> any Rule {
  try drops(recipe, stack, .all, epsilon: nil)
}
func dareTiesRule(_ recipe: Recipe, _ stack: Stack) throws(UnmergeError) -> any Rule {
  try drops(recipe, stack, recipe.consensus, epsilon: nil)
}
func dellaLinearRule(_ recipe: Recipe, _ stack: Stack) throws(UnmergeError) -> any Rule {
  try drops(recipe, stack, .all, epsilon: recipe.epsilon)
}
func dellaRule(_ recipe: Recipe, _ stack: Stack) throws(UnmergeError) -> any Rule {
  try drops(recipe, stack, recipe.consensus, epsilon: recipe.epsilon)
}
