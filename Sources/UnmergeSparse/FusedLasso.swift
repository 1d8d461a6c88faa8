import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Fused LASSO along chains
//
//     minimise  ½‖Aw − y‖² + λ₁ Σ |w_i| + λ₂ Σ |w_{i+1} − w_i|,   λ₁ = α l1_ratio, λ₂ = α (1 − l1_ratio)
//
// one chain of all atoms in their order, or one chain of modules per atom. `ProximalGradient` solves it; the prox is that of
// the total variation, then of the l1 norm (Friedman, Hastie, Höfling & Tibshirani 2007).
//
// The dual ball: |Σ_I g| ≤ λ₁ |I| + λ₂ · (ends of I inside the chain), for every interval I. That is exactly when Z with
// |Z| ≤ λ₂ on the edges and U with |U| ≤ λ₁ exist such that g_i = U_i + Z_{i−1} − Z_i: difference constraints along a path
// and to one ground are feasible when no cycle is negative, and the cycles are the intervals. Given such U and Z,
//
//     Ω(x) − gᵀx = Σ (λ₁|x_i| − U_i x_i) + Σ (λ₂ |x_{i+1} − x_i| − Z_i (x_{i+1} − x_i)),   every term ≥ 0.
//
// A face is a partition into runs of one value; df is the number of runs that are not 0.
//
// References: Tibshirani, Saunders, Rosset, Zhu & Knight 2005; Tibshirani & Taylor 2011 (df).

final class FusedNorm: StructuredNorm, @unchecked Sendable {
  /// Entry i of chain q is x[q·apart + i·stride].
  private let chains: Int
  private let length: Int
  private let apart: Int
  private let stride: Int
  private let l1: Double
  private let fusion: Double
  private let operation: Prox.TotalVariation
  /// Intervals of feasible Z, scratch.
  private let low: Buffer<Double>
  private let high: Buffer<Double>

  init(chains: Int, length: Int, apart: Int, stride: Int, l1: Double, fusion: Double) throws(UnmergeError) {
    self.chains = chains
    self.length = length
    self.apart = apart
    self.stride = stride
    self.l1 = l1
    self.fusion = fusion
    operation = try Prox.TotalVariation(length)
    low = try allocate(length)
    high = try allocate(length)
  }

  func value(_ x: UnsafePointer<Double>) -> Double {
    var size = 0.0
    var variation = 0.0
    for q in 0..<chains {
      let c = x + q * apart
      for i in 0..<length {
        size += abs(c[i * stride])
        if i > 0 { variation += abs(c[i * stride] - c[(i - 1) * stride]) }
      }
    }
    return l1 * size + fusion * variation
  }

  func prox(_ x: UnsafePointer<Double>, _ step: Double, _ z: UnsafeMutablePointer<Double>) {
    for q in 0..<chains {
      operation.apply(length, x + q * apart, z + q * apart, stride: stride, t: step * fusion)
      if l1 > 0 { for i in 0..<length { z[q * apart + i * stride] = Prox.soft(z[q * apart + i * stride], step * l1) } }
    }
  }

  /// Dinkelbach: ρ rises to the largest ratio of a sum to its bound; each round finds the interval that exceeds ρ times its
  /// bound by most, in one sweep.
  func dualNorm(_ g: UnsafePointer<Double>, noise: Double) -> Double {
    var rho = 0.0
    for q in 0..<chains {
      let c = g + q * apart
      if l1 == 0 {
        // A constant costs nothing: its sum has to be 0, up to rounding.
        var sum = 0.0
        for i in 0..<length { sum += c[i * stride] }
        if abs(sum) > noise * Double(length) { return .infinity }
      }
      for sign in [1.0, -1.0] {
        while true {
          var (excess, sum, bound) = (0.0, 0.0, 0.0)
          var (most, bestSum, bestBound) = (0.0, 0.0, 0.0)
          for i in 0..<length {
            let fresh = i == 0 ? 0 : -rho * fusion
            if i == 0 || excess < fresh {
              excess = fresh
              sum = 0
              bound = i == 0 ? 0 : fusion
            }
            sum += sign * c[i * stride]
            bound += l1
            excess += sign * c[i * stride] - rho * l1
            let end = i == length - 1 ? 0 : fusion
            if excess - rho * end > most, bound + end > 0 {
              most = excess - rho * end
              bestSum = sum
              bestBound = bound + end
            }
          }
          guard bestBound > 0, bestSum / bestBound > rho * (1 + 1e-15) else { break }
          rho = bestSum / bestBound
        }
      }
    }
    return rho
  }

  func bracket(_ x: UnsafePointer<Double>, _ g: UnsafePointer<Double>, _ s: Double) -> Double {
    var total = 0.0
    for q in 0..<chains {
      let c = g + q * apart
      let w = x + q * apart
      // Forwards: where can Z_i lie, given what comes before?
      var a = 0.0
      var b = 0.0
      for i in 0..<length {
        a -= s * c[i * stride] + l1
        b -= s * c[i * stride] - l1
        if i < length - 1 {
          a = min(max(a, -fusion), fusion)
          b = min(max(b, -fusion), fusion)
        }
        low[i] = a
        high[i] = b
      }
      // Backwards from Z = 0 behind the last: the Z before it that needs the least U. Rounding may leave an interval empty;
      // what that makes negative counts by its size.
      var after = 0.0
      for i in (0..<length).reversed() {
        let wanted = after + s * c[i * stride]
        let before = i == 0 ? 0 : min(max(wanted, low[i - 1]), high[i - 1])
        let u = wanted - before
        total += abs(l1 * abs(w[i * stride]) - u * w[i * stride])
        if i > 0 {
          let jump = w[i * stride] - w[(i - 1) * stride]
          total += abs(fusion * abs(jump) - before * jump)
        }
        after = before
      }
    }
    return total
  }

  func describe(_ x: UnsafePointer<Double>, _ face: Face) {
    face.clear()
    for q in 0..<chains {
      let w = x + q * apart
      var start = 0
      var previous = -1
      while start < length {
        let value = w[start * stride]
        var end = start + 1
        while end < length, w[end * stride] == value { end += 1 }
        let isZero = value == 0 && l1 > 0
        let label = isZero ? -1 : face.count
        for i in start..<end {
          face.labels[q * apart + i * stride] = label
          face.signs[q * apart + i * stride] = 1
        }
        if !isZero {
          let before = start == 0 ? 0 : value > w[(start - 1) * stride] ? 1.0 : -1.0
          let after = end == length ? 0 : w[end * stride] > value ? 1.0 : -1.0
          let sign = value > 0 ? 1.0 : value < 0 ? -1.0 : 0
          face.values[label] = value
          face.slopes[label] = l1 * sign * Double(end - start) + fusion * (before - after)
          face.count += 1
          if l1 > 0 { face.relate(label, -1, sign) }
          if previous >= 0 { face.relate(label, previous, value > face.values[previous] ? 1 : -1) }
        }
        previous = label
        start = end
      }
    }
  }
}

extension unmerge_fused_lasso_options: Growable {
  package static var defaults: unmerge_fused_lasso_options {
    var o = unmerge_fused_lasso_options()
    o.struct_size = MemoryLayout<unmerge_fused_lasso_options>.size
    o.alpha = 1
    o.l1_ratio = 0.5
    return o
  }
}

private func checkOptions(_ o: unmerge_fused_lasso_options) throws(UnmergeError) {
  try check(o.alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
  try check(o.l1_ratio, "options->l1_ratio", 0...1, "in [0, 1]")
  try checkFlag(o.relative, "options->relative")
  try checkFlag(o.warm_start, "options->warm_start")
  if o.relative == 1, o.l1_ratio == 0 {
    throw .range("options->relative is 1 with l1_ratio 0; no alpha makes the answer 0 then")
  }
}

/// The norm at the strength of the options, for chains laid out as given.
private func norm(
  _ o: unmerge_fused_lasso_options, chains: Int, length: Int, apart: Int, stride: Int, _ form: BlockForm,
  _ b: UnsafePointer<Double>, _ yNorm: Double
) throws(UnmergeError) -> FusedNorm {
  func make(_ alpha: Double) throws(UnmergeError) -> FusedNorm {
    try FusedNorm(
      chains: chains, length: length, apart: apart, stride: stride, l1: alpha * o.l1_ratio,
      fusion: alpha * (1 - o.l1_ratio))
  }
  let strength = o.relative == 1 ? o.alpha * (try make(1)).dualNorm(b, noise: 0) : o.alpha / form.scale / yNorm
  return try make(min(strength, 1e100))
}

@_cdecl("unmerge_fused_lasso_options_init") @implementation
public func unmerge_fused_lasso_options_init(
  _ options: UnsafeMutablePointer<unmerge_fused_lasso_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_fused_lasso") @implementation
public func unmerge_fused_lasso(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_fused_lasso_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkOptions(o)
    guard o.target == 0 else { throw .range("options->target is \(o.target); every target is answered, it must be 0") }
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let start = o.warm_start == 1 ? try readWarmStart(output, gram) : nil
    let n = gram.atoms
    let (alpha, l1Ratio, relative) = (o.alpha, o.l1_ratio, o.relative)
    try structured(gram, start, watch) { form, t throws(UnmergeError) in
      var o = unmerge_fused_lasso_options.defaults
      o.alpha = alpha
      o.l1_ratio = l1Ratio
      o.relative = relative
      return try norm(
        o, chains: 1, length: n, apart: 0, stride: 1, form, form.correlation(t), gram.targetNorms[t])
    }.deliver(output, reports)
  }
}

@_cdecl("unmerge_fused_lasso_modules") @implementation
public func unmerge_fused_lasso_modules(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_fused_lasso_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ results: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkOptions(o)
    guard o.target >= 0, o.target < gram.targets else {
      throw .range("options->target is \(o.target); it must be in [0, \(gram.targets))")
    }
    let t = Int(o.target)
    let watch = try Watch(run)
    let form = try BlockForm(modulesOf: gram, target: t)
    let (n, modules) = (form.n, form.blocks)
    let output = try Output(coef, "coef", rows: n, columns: modules)
    try checkResult(results, "report")
    let yNorm = gram.targetNorms[t]
    guard yNorm > 0, form.scale > 0 else {
      for l in 0..<modules { for j in 0..<n { output.set(j, l, 0) } }
      return store(report(emptyEnding(), gram, target: t, nonzeros: 0, watch), results)
    }
    let fused = try norm(o, chains: n, length: modules, apart: 1, stride: n, form, form.correlation(0), yNorm)
    let solver = try ProximalGradient(form, fused, target: 0)
    let unit = yNorm / form.scale
    if o.warm_start == 1 {
      for l in 0..<modules {
        for j in 0..<n {
          let w = output.get(j, l)
          guard w.isFinite else {
            throw UnmergeError(UNMERGE_E_NONFINITE, "coef[\(j), \(l)] is \(w); a warm start must be finite")
          }
          solver.x[l * n + j] = bounded(w / unit)
        }
      }
    }
    let end = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in try solver.run(watch, gram: gram) }
    var nonzeros = 0
    for l in 0..<modules {
      for j in 0..<n {
        let x = solver.x[l * n + j]
        if x != 0 { nonzeros += 1 }
        output.set(j, l, x * unit)
      }
    }
    store(report(end, gram, target: t, nonzeros: nonzeros, watch), results)
  }
}
