import CUnmerge
import UnmergeCore
import UnmergeLinalg

// SLOPE, with OSCAR and Benjamini–Hochberg weights as cases
//
//     minimise  ½‖Aw − y‖² + α Σ λ_i |w|_(i),   λ_1 ≥ λ_2 ≥ … ≥ 0
//
// `ProximalGradient` solves it. The dual norm is max_i Σ_{k≤i} |g|_(k) / Σ_{k≤i} λ_k. With |x| sorted by σ,
//
//     Ω(x) − s gᵀx = Σ_i (|x|_(i) − |x|_(i+1)) [Σ_{k≤i} λ_k − s Σ_{k≤i} sign(x_σk) g_σk],
//
// every factor ≥ 0. A face is a partition into clusters of equal |x|; df is their number.
//
// References: Bogdan, van den Berg, Sabatti, Su & Candès 2015; Bondell & Reich 2008 (OSCAR); Schneider & Tardivel 2022
// (clusters).

final class SlopeNorm: StructuredNorm, @unchecked Sendable {
  private let n: Int
  /// α̂ λ_i, and their running sums.
  private let weights: Buffer<Double>
  private let sums: Buffer<Double>
  private let order: Buffer<Int>
  private let sorted: Buffer<Double>
  private let operation: Prox.SLOPE

  init(_ n: Int, _ lambda: Buffer<Double>?, alpha: Double) throws(UnmergeError) {
    self.n = n
    weights = try allocate(n)
    sums = try allocate(n)
    order = try allocate(n)
    sorted = try allocate(n)
    operation = try Prox.SLOPE(n)
    var sum = 0.0
    for i in 0..<n {
      weights[i] = alpha * (lambda?[i] ?? 1)
      sum += weights[i]
      sums[i] = sum
      order[i] = i
    }
  }

  private func sort(_ x: UnsafePointer<Double>) {
    var cells = UnsafeMutableBufferPointer(start: order.pointer, count: n)
    cells.sort { abs(x[$0]) != abs(x[$1]) ? abs(x[$0]) > abs(x[$1]) : $0 < $1 }
  }

  func value(_ x: UnsafePointer<Double>) -> Double {
    sort(x)
    var sum = 0.0
    for i in 0..<n { sum += weights[i] * abs(x[order[i]]) }
    return sum
  }

  func prox(_ x: UnsafePointer<Double>, _ step: Double, _ z: UnsafeMutablePointer<Double>) {
    operation.apply(x, z, t: Prox.Strength(step, UnsafePointer(weights.pointer)))
  }

  func dualNorm(_ g: UnsafePointer<Double>, noise: Double) -> Double {
    for i in 0..<n { sorted[i] = abs(g[i]) }
    var cells = UnsafeMutableBufferPointer(start: sorted.pointer, count: n)
    cells.sort(by: >)
    var sum = 0.0
    var largest = 0.0
    for i in 0..<n {
      sum += sorted[i]
      largest = max(largest, sums[i] > 0 ? sum / sums[i] : sum > noise * Double(i + 1) ? .infinity : 0)
    }
    return largest
  }

  func bracket(_ x: UnsafePointer<Double>, _ g: UnsafePointer<Double>, _ s: Double) -> Double {
    sort(x)
    var used = 0.0
    var sum = 0.0
    for i in 0..<n {
      let j = order[i]
      if x[j] == 0 { break }
      used += x[j] > 0 ? g[j] : -g[j]
      let next = i + 1 < n ? abs(x[order[i + 1]]) : 0
      sum += (abs(x[j]) - next) * abs(sums[i] - s * used)
    }
    return sum
  }

  func describe(_ x: UnsafePointer<Double>, _ face: Face) {
    face.clear()
    sort(x)
    for i in 0..<n {
      let j = order[i]
      guard x[j] != 0 else {
        face.labels[j] = -1
        continue
      }
      let size = abs(x[j])
      if face.count == 0 || size != face.values[face.count - 1] {
        face.values[face.count] = size
        face.slopes[face.count] = 0
        face.count += 1
      }
      face.labels[j] = face.count - 1
      face.signs[j] = x[j] > 0 ? 1 : -1
      face.slopes[face.count - 1] += weights[i]
    }
    // From the smallest up, so that equalities pass on.
    for c in (0..<face.count).reversed() { face.relate(c, c + 1 < face.count ? c + 1 : -1, 1) }
  }
}

extension unmerge_slope_options: Growable {
  package static var defaults: unmerge_slope_options {
    var o = unmerge_slope_options()
    o.struct_size = MemoryLayout<unmerge_slope_options>.size
    o.alpha = 1
    return o
  }
}

@_cdecl("unmerge_slope_options_init") @implementation
public func unmerge_slope_options_init(
  _ options: UnsafeMutablePointer<unmerge_slope_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_slope") @implementation
public func unmerge_slope(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_slope_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try checkFlag(o.relative, "options->relative")
    try checkFlag(o.warm_start, "options->warm_start")
    let n = gram.atoms
    let weights = try copyWeights(o.weights, n)
    if let weights {
      try checkNonIncreasing(weights, "options->weights")
      guard n == 0 || weights[0] > 0 else { throw .range("options->weights[0] is 0; the first must be > 0") }
    }
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: n, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let start = o.warm_start == 1 ? try readWarmStart(output, gram) : nil
    let (alpha, isRelative) = (o.alpha, o.relative == 1)
    try structured(gram, start, watch) { form, t throws(UnmergeError) in
      var strength = alpha / form.scale / gram.targetNorms[t]
      if isRelative {
        strength = alpha * (try SlopeNorm(n, weights, alpha: 1)).dualNorm(form.correlation(t), noise: 0)
      }
      return try SlopeNorm(n, weights, alpha: min(strength, 1e100))
    }.deliver(output, reports)
  }
}

/// Answers every target with a norm of its own strength.
func structured<Norm: StructuredNorm>(
  _ gram: Gram, _ start: Buffer<Double>?, _ watch: Watch,
  _ norm: @escaping @Sendable (BlockForm, Int) throws(UnmergeError) -> Norm
) throws(UnmergeError) -> Answers {
  let n = gram.atoms
  let answers = try Answers(n, gram.targets)
  let form = try BlockForm(gram, watch)
  try eachTarget(gram, watch) { t throws(UnmergeError) in
    guard gram.targetNorms[t] > 0, form.scale > 0 else {
      return answers.set(t, gram, target: t, nil, emptyEnding(), watch)
    }
    let solver = try ProximalGradient(form, norm(form, t), target: t)
    let unit = gram.targetNorms[t] / form.scale
    if let start { for j in 0..<n { solver.x[j] = bounded(start[t * n + j] / unit) } }
    let end = try solver.run(watch, gram: gram)
    var nonzeros = 0
    for j in 0..<n where solver.x[j] != 0 { nonzeros += 1 }
    answers.set(t, report: report(end, gram, target: t, nonzeros: nonzeros, watch))
    for j in 0..<n { answers.set(t, j, solver.x[j] * unit) }
  }
  return answers
}

/// A start too large to square is no start.
func bounded(_ x: Double) -> Double { abs(x) < 1e100 ? x : 0 }
