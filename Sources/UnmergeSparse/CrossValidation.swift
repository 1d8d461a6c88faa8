import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Cross-validation from the blocks of a Gram
//
//     w_k(α) = argmin over all blocks but those of fold k, at α p_−k / p
//     e_k(α) = (yy_k − 2c_kᵀw_k + w_kᵀG_k w_k) / p_k
//
// Nothing but the Gram is read: a fold costs one path of n×n solves. The training Gram is the sum of the other blocks, added
// anew: G − G_k would lose digits where a fold holds most of an atom. Folds are independent and run in parallel; the path on all
// blocks is one more task beside them.
//
// References: Stone 1974; Breiman, Friedman, Olshen & Stone 1984, §3.4.3 (the one-standard-error rule).

/// Blocks in groups: `fold[b]` of block b, −1 for none.
struct FoldList: Sendable {
  private(set) var fold: [Int] = []
  private(set) var count = 0

  /// The Gram's folds where it has more than one, else its modules.
  init(of gram: Gram) {
    let folds = Set(gram.blocks.map(\.fold))
    if folds.count > 1 {
      let rank = Dictionary(uniqueKeysWithValues: folds.sorted().enumerated().map { ($1, $0) })
      fold = gram.blocks.map { rank[$0.fold] ?? 0 }
      count = folds.count
      return
    }
    var rank: [String: Int] = [:]
    for block in gram.blocks {
      let next = rank.count
      fold.append(rank[block.module.string, default: next])
      rank[block.module.string] = fold.last
    }
    count = rank.count
  }

  /// The caller's, one number per block.
  init(_ pointer: UnsafePointer<Int64>, _ gram: Gram) throws(UnmergeError) {
    let blocks = gram.blocks.count
    for b in 0..<blocks {
      let k = UnsafeRawPointer(pointer + b).loadUnaligned(as: Int64.self)
      guard k >= -1, k < Int64(blocks) else {
        throw .range("options->folds[\(b)] is \(k); it must be -1 or a fold below the number of blocks, \(blocks)")
      }
      fold.append(Int(k))
      count = max(count, Int(k) + 1)
    }
    let present = Set(fold)
    for k in 0..<count where !present.contains(k) {
      throw .range("options->folds has fold \(count - 1) but no block of fold \(k); folds are 0, 1, ... without gaps")
    }
  }
}

private struct Validation: Sendable {
  let gram: Gram
  let target: Int
  let net: ElasticNet
  let folds: FoldList
  let grid: Buffer<Double>
  /// Of fold k at alpha i: k·count + i.
  let errors: Buffer<Double>

  /// The path without fold k, its errors on fold k.
  func leaveOut(_ k: Int, _ sums: [Block], _ watch: Watch) throws(UnmergeError) -> Answers {
    var training = sums
    let held = training.remove(at: k)
    let train = try Gram(
      atoms: gram.atoms, targets: gram.targets, blocks: training, precision: gram.precision, passes: gram.passes)
    let count = grid.count
    let share = Double(train.entries) / Double(gram.entries)
    let alphas = try allocate(count, of: Double.self)
    for i in 0..<count { alphas[i] = grid[i] * share }
    let answers = try path(net, train, target: target, alphas, watch, findsDF: false)
    if let stop = watch.poll() { throw stop.error }
    for i in 0..<count {
      errors[k * count + i] =
        held.squaredError(atoms: gram.atoms, target: target, answers.coefficients(i)) / Double(held.entries)
    }
    return answers
  }
}

/// Answers of tasks that run at the same time, each in a place of its own.
private final class Collected: @unchecked Sendable {
  private var answers: [Answers?]
  private let lock = Lock()
  init(_ count: Int) { answers = Array(repeating: nil, count: count) }
  subscript(k: Int) -> Answers? {
    get { lock.locked { answers[k] } }
    set { lock.locked { answers[k] = newValue } }
  }
}

// MARK: the door

@_cdecl("unmerge_gram_folds") @implementation
public func unmerge_gram_folds(
  _ gram: OpaquePointer?, _ folds: UnsafeMutablePointer<Int64>?, _ count: UnsafeMutablePointer<Int64>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let list = FoldList(of: try object(gram, "gram", Gram.self))
    if let folds { for (b, k) in list.fold.enumerated() { folds[b] = Int64(k) } }
    count?.pointee = Int64(list.count)
  }
}

extension unmerge_cv_options: Growable {
  package static var defaults: unmerge_cv_options {
    var o = unmerge_cv_options()
    o.struct_size = MemoryLayout<unmerge_cv_options>.size
    o.l1_ratio = 1
    o.n_alphas = 100
    return o
  }
}

extension unmerge_cv_result: Growable {
  package static var defaults: unmerge_cv_result {
    var r = unmerge_cv_result()
    r.struct_size = MemoryLayout<unmerge_cv_result>.size
    return r
  }
}

@_cdecl("unmerge_cv_options_init") @implementation
public func unmerge_cv_options_init(_ options: UnsafeMutablePointer<unmerge_cv_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_cv_result_init") @implementation
public func unmerge_cv_result_init(_ result: UnsafeMutablePointer<unmerge_cv_result>?, _ size: Int) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_cross_validate") @implementation
public func unmerge_cross_validate(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_cv_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ curve: UnsafePointer<unmerge_view>?, _ errors: UnsafePointer<unmerge_view>?,
  _ fold_coef: UnsafePointer<unmerge_view>?, _ coef: UnsafePointer<unmerge_view>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ result: UnsafeMutablePointer<unmerge_cv_result>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.l1_ratio, "options->l1_ratio", 0...1, "in [0, 1]")
    guard o.alpha_min_ratio >= 0, o.alpha_min_ratio < 1 else {
      throw .range("options->alpha_min_ratio is \(o.alpha_min_ratio); it must be in [0, 1)")
    }
    try check(o.n_alphas, "options->n_alphas", 1...Int64.max, ">= 1")
    let target = try checkTarget(o.target, gram)
    try checkFlag(o.positive, "options->positive")
    try checkReserved(o.reserved, "options->reserved")
    try gram.needBlocks("cross-validate on")
    let weights = try copyWeights(o.weights, gram.atoms)
    let folds: FoldList = if let given = o.folds { try FoldList(given, gram) } else { FoldList(of: gram) }
    guard folds.count >= 2 else {
      throw .range(
        "gram has \(gram.blocks.count) blocks in \(folds.count) groups; cross-validation needs two: make the gram with folds > 1, or "
          + "one block per module")
    }
    let watch = try Watch(run)
    let (n, count, k) = (gram.atoms, Int(o.n_alphas), folds.count)
    let curveOut = try optionalOutput(curve, "curve", rows: count, columns: 3)
    let errorsOut = try optionalOutput(errors, "errors", rows: count, columns: k)
    let foldOut = try optionalOutput(fold_coef, "fold_coef", rows: n, columns: product(count, k, "fold_coef"))
    let coefOut = try optionalOutput(coef, "coef", rows: n, columns: count)
    try checkResult(reports, "reports")
    try checkResult(result, "result")
    let ratio = o.alpha_min_ratio > 0 ? o.alpha_min_ratio : o.l1_ratio > 0 ? 1e-3 : 1e-9
    let bounds = try Bounds(o.lower, o.upper, positive: o.positive == 1, count: gram.atoms)
    if o.l1_ratio > 0 { try checkGrid(o.alphas, bounds, gram) }
    let alphaGrid = try AlphaGrid(o.alphas, count: count, ratio: ratio)
    let net = ElasticNet(alpha: 0, l1Ratio: o.l1_ratio, weights: weights, bounds: bounds)

    // One sum per fold, and one more of the blocks that always train.
    var sums: [Block] = []
    for f in 0...k {
      let members = gram.blocks.indices.filter { folds.fold[$0] == (f < k ? f : -1) }.map { gram.blocks[$0] }
      if let sum = try Block.sum(members) { sums.append(sum) }
      if f < k, sums[f].entries == 0 {
        throw .range(
          "fold \(f) has no entries (folds of a one-column module take 64 rows together); make the gram with fewer folds, or give "
            + "a list of folds that joins blocks")
      }
    }
    let all = sums
    let collected = Collected(k + 1)
    let validation = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let grid = try alphaGrid.values(net, gram, target: target, watch)
      let v = Validation(
        gram: gram, target: target, net: net, folds: folds, grid: grid,
        errors: try allocate(product(count, k, "errors"), of: Double.self))
      let keepsFolds = foldOut != nil
      let wantsPath = coefOut != nil || reports != nil
      let unconverged = try allocate(k, of: Int64.self)
      try eachTask(k + 1, watch.threads) { task throws(UnmergeError) in
        if task == k {
          if wantsPath { collected[k] = try path(net, gram, target: target, grid, watch) }
        } else {
          let answers = try v.leaveOut(task, all, watch)
          for i in 0..<count where answers.reported(i).outcome != UNMERGE_CONVERGED { unconverged[task] += 1 }
          if keepsFolds { collected[task] = answers }
        }
      }
      if let stop = watch.poll() { throw stop.error }
      var r = choose(v.errors, grid, folds: k, curveOut)
      for f in 0..<k { r.unconverged += unconverged[f] }
      r.seconds = watch.seconds
      store(r, result)
      return v
    }
    for f in 0..<k {
      for i in 0..<count {
        errorsOut?.set(i, f, validation.errors[f * count + i])
        if let foldOut, let answers = collected[f] {
          let w = answers.coefficients(i)
          for j in 0..<n { foldOut.set(j, f * count + i, w[j]) }
        }
      }
    }
    guard let full = collected[k] else { return }
    for i in 0..<count {
      if let coefOut { for j in 0..<n { coefOut.set(j, i, full.coefficients(i)[j]) } }
      store(full.reported(i), reports, index: i)
    }
  }
}

/// Means and standard errors over the folds, and what they choose.
private func choose(
  _ errors: Buffer<Double>, _ grid: Buffer<Double>, folds k: Int, _ curve: Output?
) -> unmerge_cv_result {
  let count = grid.count
  var r = unmerge_cv_result.defaults
  r.folds = Int64(k)
  func moments(_ i: Int) -> (mean: Double, error: Double) {
    var mean = 0.0
    for f in 0..<k { mean += errors[f * count + i] }
    mean /= Double(k)
    var squares = 0.0
    for f in 0..<k {
      let d = errors[f * count + i] - mean
      squares += d * d
    }
    return (mean, (squares / Double(k - 1) / Double(k)).squareRoot())
  }
  var best = 0
  var least = moments(0)
  for i in 0..<count {
    let m = moments(i)
    curve?.set(i, 0, grid[i])
    curve?.set(i, 1, m.mean)
    curve?.set(i, 2, m.error)
    if m.mean < least.mean || (m.mean == least.mean && grid[i] > grid[best]) {
      best = i
      least = m
    }
  }
  var simplest = best
  for i in 0..<count where grid[i] > grid[simplest] && moments(i).mean <= least.mean + least.error { simplest = i }
  r.best = Int64(best)
  r.one_se = Int64(simplest)
  return r
}
