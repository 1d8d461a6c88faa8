import UnmergeCore
import UnmergeLinalg

// By which method: recipes of the kind the entries show, replayed. What predicts most beyond coincidence on the smallest
// modules stands and is replayed on all.

extension Findings {
  /// Methods that leave the same file up to rounding as a sum does.
  var sumMethods: Int64 {
    [MergeMethod.linear, .taskArithmetic, .slerp, .adapterCat].reduce(0) { $0 | 1 << Int64($1.rawValue) }
  }

  private func recipe(_ method: MergeMethod, _ w: [Double], density q: Double = 1) throws(UnmergeError) -> Recipe {
    var r = Recipe(method, weights: try PerAtom(w, stride: w.count > n ? n : 0))
    r.densities = PerAtom(constant: q)
    return r
  }

  /// Weights as people write them, and as they were found where that is something else.
  private func weightSets(_ kind: MergeKind, _ found: [Int]) -> [[Double]] {
    if scale == .perModule {
      // As estimated, and as a tool may have rounded it.
      return [0.001, 0.002].map { within in
        moduleWeights.flatMap { own in (0..<n).map { own.isEmpty ? 0 : tidy(own[$0], within: within) } }
      }
    }
    var sets: [[Double]] = []
    // What the interval holds comes before what is rounder.
    var near = Array(repeating: 0.0, count: n)
    for j in found { near[j] = tidy(weights[j], within: 1.15 * margins[j] + 1e-5) }
    sets.append(near)
    for relative in kind == .drop ? [0.012, 0.004] : [0.004, 0.04] {
      var w = Array(repeating: 0.0, count: n)
      for j in found { w[j] = tidy(weights[j], within: max(0.002, relative * abs(weights[j]), min(0.006, margins[j]))) }
      if !sets.contains(w) { sets.append(w) }
    }
    return sets
  }

  private func candidates(_ kind: MergeKind, _ found: [Int]) throws(UnmergeError) -> [(recipe: Recipe, weights: [Double])] {
    let q = density.isNaN ? 0.5 : density
    var list: [(recipe: Recipe, weights: [Double])] = []
    for w in weightSets(kind, found) {
      let own = found.map { w[$0] }
      let total = own.reduce(0, +)
      switch kind {
      case .sum:
        if scale != .perModule, abs(total - 1) < 0.004 { list.append((try recipe(.linear, w), w)) }
        list.append((try recipe(.taskArithmetic, w), w))
        if scale != .perModule { list.append((try recipe(.adapterCat, w), w)) }
        if found.count > 1, let most = own.max(), let least = own.min(), least > 0.8 * most {
          let ones = (0..<n).map { found.contains($0) ? 1.0 : 0 }
          list.append((try recipe(.modelStock, ones), ones))
        }
        if scale != .perModule, found.count == 2, abs(total - 1) < 0.01 {
          var r = try recipe(.slerp, w)
          r.t = w[found[1]]
          list.append((r, w))
        }
      case .drop:
        var methods: [MergeMethod] = []
        if (epsilon ?? 0) == 0 { methods += scale == .ratio ? [.dareTies] : [.dareLinear, .dareTies] }
        if (epsilon ?? 1) > 0 { methods += scale == .ratio ? [.della] : [.dellaLinear, .della] }
        if scale != .ratio { methods += [.breadcrumbs, .breadcrumbsTies] }
        for method in methods {
          var r = try recipe(method, w, density: q)
          r.epsilon = min(epsilon ?? 0.1, 0.9 * q, 0.9 * (1 - q))
          r.normalize = scale == .ratio
          list.append((r, w))
        }
      case .trim:
        var r = try recipe(.ties, w, density: q)
        (r.normalize, r.lambda) = (scale == .ratio, lambda)
        list.append((r, w))
        for method in [MergeMethod.breadcrumbs, .breadcrumbsTies] where scale != .ratio {
          list.append((try recipe(method, w, density: q), w))
        }
      }
    }
    return list
  }

  /// So many entries of a module tell recipes apart; where all modules are large, the rest would only take time.
  private static let tried = 1 << 21

  /// Replays what may have been and keeps what predicts most.
  mutating func identify(_ kind: MergeKind, _ found: [Int], _ settings: AttributionSettings) throws(UnmergeError) {
    if isCrossed {
      (method, recipe, equivalent) = (nil, nil, 0)
      return
    }
    let list = try candidates(kind, found)
    guard y.modules.contains(where: { if case .dense(_, _?, _)? = $0.piece(0) { true } else { false } }) else {
      // An adapter: nothing was rounded against a base, and nothing can be replayed.
      if let first = list.first(where: { $0.recipe.method != .linear }) ?? list.first { settle(first, kind, found) }
      return
    }
    // The smallest modules that somebody is in, and that are no vectors.
    let order = a.modules.indices.filter { m in
      y.modules[m].piece(0) != nil && a.modules[m].entries > 0 && found.contains { a.modules[m].piece($0) != nil }
    }.sorted {
      let (x, y) = (a.modules[$0], a.modules[$1])
      return (x.entries < 4096 ? 1 : 0, x.entries, $0) < (y.entries < 4096 ? 1 : 0, y.entries, $1)
    }
    let tried = Array(order.prefix(2))
    let choices = storageChoices()
    let meter = PassMeter(
      watch, pass: 2,
      total: max(1, tried.reduce(0) { $0 + min(a.modules[$1].entries, Self.tried) } * list.count * choices.count * 2))
    var best: (score: Double, index: Int, recipe: Recipe)?
    for (index, plain) in list.enumerated() {
      for (dtype, out) in choices {
        for rounding in plain.recipe.method == .adapterCat ? [TaskRounding.none] : [.stored, .product] {
          var r = plain.recipe
          (r.dtype, r.outType, r.taskRounding) = (dtype, out, rounding)
          guard let sum = try replay(r, tried, meter), sum.entries > 0 else { continue }
          let score = Double((sum.consistent ?? sum.equal) - (sum.chance ?? 0)) / Double(sum.entries)
          // Where nothing predicts much, the plainest stands.
          let margin = best?.index == index || kind != .sum ? 1e-9 : min(0.01, (1 - (best?.score ?? 0)) / 2)
          if best == nil || score > best!.score + margin { best = (score, index, r) }
        }
      }
    }
    if kind == .trim, hasDense, let chosen = best, chosen.score < 0.9, !density.isNaN {
      // Where updates are a few units large, ranks are blurred; what is predicted is not.
      for step in 1...19 where abs(Double(step) / 20 - density) > 0.01 {
        var r = chosen.recipe
        r.densities = PerAtom(constant: Double(step) / 20)
        guard let sum = try replay(r, tried, meter), sum.entries > 0 else { continue }
        let value = Double((sum.consistent ?? sum.equal) - (sum.chance ?? 0)) / Double(sum.entries)
        if value > best!.score + 0.005 {
          best = (value, chosen.index, r)
          density = Double(step) / 20
        }
      }
    }
    guard let best else { return }
    score = best.score
    settle((best.recipe, list[best.index].weights), kind, found)
    guard settings.replays, let recipe else { return }
    let all = try Replay(a, y, recipe, watch).compareAll()
    guard let last = all.last, last.entries > 0 else { return }
    equal = last.consistent ?? last.equal
    compared = last.entries
    chance = Double(last.chance ?? 0) / Double(last.entries)
    let share = Double(equal) / Double(compared)
    isProved = share > 0.97 && share > chance + 0.2
    replayResidual = last.squares
    guard isProved, recipe.method != .modelStock else { return }
    // What reproduces the file is not an estimate any more.
    let w = list[best.index].weights
    guard scale != .perModule else {
      for j in found {
        let values = moduleWeights.indices.filter { !moduleWeights[$0].isEmpty && a.modules[$0].piece(j) != nil }
        guard !values.isEmpty else { continue }
        let mean = values.reduce(0) { $0 + w[$1 * n + j] } / Double(values.count)
        if abs(mean - weights[j]) <= max(2 * margins[j], 0.002) { weights[j] = mean }
      }
      return
    }
    for j in found where abs(w[j] - weights[j]) <= max(margins[j], 0.003, 0.045 * abs(w[j])) {
      // Shares of a sum are seldom round; thousandths say something where they can be told apart.
      let isPlain = [2.0, 3, 4, 5, 6, 7, 8, 9, 10, 20].contains { abs((w[j] * $0).rounded() / $0 - w[j]) < 1e-9 }
      if scale != .ratio || isPlain || margins[j] < 2e-4 { weights[j] = w[j] }
    }
  }

  /// Nil where the method cannot be formed.
  private func replay(_ r: Recipe, _ modules: [Int], _ meter: PassMeter) throws(UnmergeError) -> Replayed? {
    var sum = Replayed()
    for m in modules {
      do throws(UnmergeError) {
        sum.add(try Replay(a, y, r, watch).compare(m, entries: Self.tried, meter))
      } catch {
        if let stop = watch.poll() { throw stop.error }
        return nil
      }
    }
    return sum
  }

  /// What the tool may have computed in and stored as.
  private func storageChoices() -> [(ElementType?, ElementType?)] {
    for m in y.modules {
      if case .dense(let values, _, _)? = m.piece(0), values.type == .bf16 || values.type == .f16 {
        return [(values.type, nil), (.f32, values.type)]
      }
    }
    return [(.f32, nil)]
  }

  private mutating func settle(_ chosen: (recipe: Recipe, weights: [Double]), _ kind: MergeKind, _ found: [Int]) {
    recipe = chosen.recipe
    method = chosen.recipe.method
    recipeWeights = chosen.weights
    recipeStride = chosen.weights.count > n ? n : 0
    equivalent = 1 << Int64(chosen.recipe.method.rawValue)
    if chosen.recipe.method == .modelStock { scale = .perModule }
    guard kind == .sum, chosen.recipe.method != .modelStock else { return }
    density = .nan
    guard scale != .perModule else { return }
    equivalent |= 1 << Int64(MergeMethod.taskArithmetic.rawValue) | 1 << Int64(MergeMethod.adapterCat.rawValue)
    if abs(found.reduce(0) { $0 + chosen.weights[$1] } - 1) < 0.004 {
      equivalent |= 1 << Int64(MergeMethod.linear.rawValue)
      if found.count <= 2 { equivalent |= 1 << Int64(MergeMethod.slerp.rawValue) }
    }
  }
}
