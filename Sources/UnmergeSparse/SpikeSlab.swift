import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Spike and slab by enumeration
//
//     P(S | y) ∝ π^|S| (1 − π)^(n−|S|) P(y | S),   κ = q/p, over s² where that is given
//
//     H_S = κG_SS + I/τ²,  h = κc_S:     −2 ln P(y | S) = ln|H_S| + |S| ln τ² + { q ln(2πs²) + κyy − hᵀH⁻¹h
//                                                                             { (2a + q) ln(b + ½(κyy − hᵀH⁻¹h)) + constants
//
// The sets form a tree in which a child has one more, later atom. Going down it borders the Cholesky factor by one column and
// the forward substitution of h by one number, |S|² multiplications; going up costs nothing, and no factor is ever downdated,
// so errors do not add up over 2ⁿ sets (which a Gray code's would). A second walk adds up the coefficients of the sets that
// have a share.
//
// Reference: George & McCulloch 1993; Mitchell & Beauchamp 1988.

private final class Enumeration {
  let problem: TemperedGram
  /// Atoms that are not zero; sets are bits over them.
  let usable: [Int]
  private let kappa: Double
  private let options: unmerge_spike_slab_options
  /// κĜ over the usable atoms with its diagonal + 1/(τd)², h, and ln (τd)², all in units of 1/d.
  private let matrix: Buffer<Double>
  private let h: Buffer<Double>
  private let logs: Buffer<Double>
  /// R by columns with 1/R_ii on the diagonal, z = R⁻ᵀh and the chosen positions, by depth.
  private let r: Buffer<Double>
  private let z: Buffer<Double>
  private let chosen: Buffer<Int>
  private let x: Buffer<Double>
  /// log P(y, S) by set.
  let joint: Buffer<Double>
  private let watch: Watch

  init(_ problem: TemperedGram, _ usable: [Int], _ o: unmerge_spike_slab_options, _ watch: Watch) throws(UnmergeError) {
    self.problem = problem
    self.usable = usable
    self.watch = watch
    options = o
    let n = usable.count
    kappa = problem.q / problem.p / (o.noise == UNMERGE_NOISE_GIVEN ? o.sigma2 : 1)
    matrix = try allocate(n * n)
    h = try allocate(n)
    logs = try allocate(n)
    r = try allocate(n * n)
    z = try allocate(n)
    x = try allocate(n)
    chosen = try allocate(n)
    joint = try allocate(1 << n)
    for (a, j) in usable.enumerated() {
      let d = problem.gram.norms[j]
      for (o, i) in usable.enumerated() { matrix[a * n + o] = kappa * problem.g[j * problem.n + i] }
      matrix[a * n + a] = kappa + 1 / o.slab / d / d
      h[a] = kappa * problem.c[j] * problem.yNorm
      logs[a] = Platform.log(o.slab) + 2 * Platform.log(d)
    }
  }

  /// Calls `body` with every set, its size, ln|H| + |S| ln τ² and hᵀH⁻¹h.
  private func walk(_ body: (_ set: Int, _ size: Int, _ determinant: Double, _ quadratic: Double) -> Void) {
    let n = usable.count
    let (r, z, h, chosen, matrix) = (r.pointer, z.pointer, h.pointer, chosen.pointer, matrix.pointer)
    func visit(_ first: Int, _ depth: Int, _ set: Int, _ determinant: Double, _ quadratic: Double) {
      body(set, depth, determinant, quadratic)
      let column = r + depth * n
      for a in first..<n {
        if depth < 4, watch.poll() != nil { return }
        let row = matrix + a * n
        var pivot = row[a]
        var entry = h[a]
        for i in 0..<depth {
          let other = r + i * n
          var sum = row[chosen[i]]
          for k in 0..<i { sum -= other[k] * column[k] }
          sum *= other[i]
          column[i] = sum
          pivot -= sum * sum
          entry -= sum * z[i]
        }
        // Never below what the slab adds.
        pivot = max(pivot, row[a] - kappa)
        column[depth] = 1 / pivot.squareRoot()
        z[depth] = entry * column[depth]
        chosen[depth] = a
        visit(
          a + 1, depth + 1, set | 1 << a, determinant + Platform.log(pivot) + logs[a], quadratic + z[depth] * z[depth])
      }
    }
    visit(0, 0, 0, 0, 0)
  }

  /// log P(y, S) of every set; the largest of them.
  func evaluate() -> Double {
    let o = options
    let n = Double(usable.count)
    let q = problem.q
    let yy = kappa * problem.yNorm * problem.yNorm
    let (inside, outside) = (Platform.log(o.prior), Platform.log(1 - o.prior))
    let isKnown = o.noise == UNMERGE_NOISE_GIVEN
    var constant = isKnown ? -0.5 * q * Platform.log(2 * .pi * o.sigma2) : -0.5 * q * Platform.log(2 * .pi)
    if !isKnown {
      constant += logGamma(o.shape + 0.5 * q)
      if o.shape > 0 { constant += o.shape * Platform.log(o.scale) - logGamma(o.shape) }
    }
    var largest = -Double.infinity
    walk { set, size, determinant, quadratic in
      let left = max(yy - quadratic, yy * problem.least)
      let data =
        isKnown
        ? -0.5 * left : -(o.shape + 0.5 * q) * Platform.log(max(o.scale + 0.5 * left, .leastNormalMagnitude))
      let value = Double(size) * inside + (n - Double(size)) * outside + constant - 0.5 * determinant + data
      joint[set] = value
      largest = max(largest, value)
    }
    return largest
  }

  /// mean += P(S | y) E[w | S, y], and `best` ← that of one set.
  func means(logEvidence: Double, best: Int, _ mean: Buffer<Double>, _ bestMean: Buffer<Double>) {
    let n = usable.count
    walk { set, size, _, _ in
      let share = Platform.exp(joint[set] - logEvidence)
      guard share > 1e-20 || set == best else { return }
      for i in (0..<size).reversed() {
        var sum = z[i]
        for k in (i + 1)..<max(size, i + 1) { sum -= r[k * n + i] * x[k] }
        x[i] = sum * r[i * n + i]
        let j = usable[chosen[i]]
        let w = x[i] / problem.gram.norms[j]
        mean[j] += share * w
        if set == best { bestMean[j] = w }
      }
    }
  }
}

// MARK: the door

extension unmerge_spike_slab_options: Growable {
  package static var defaults: unmerge_spike_slab_options {
    var o = unmerge_spike_slab_options()
    o.struct_size = MemoryLayout<unmerge_spike_slab_options>.size
    o.prior = 0.5
    o.slab = 1
    o.sigma2 = 1
    o.noise = UNMERGE_NOISE_INVERSE_GAMMA
    return o
  }
}

extension unmerge_spike_slab_result: Growable {
  package static var defaults: unmerge_spike_slab_result {
    var r = unmerge_spike_slab_result()
    r.struct_size = MemoryLayout<unmerge_spike_slab_result>.size
    return r
  }
}

@_cdecl("unmerge_spike_slab_options_init") @implementation
public func unmerge_spike_slab_options_init(
  _ options: UnsafeMutablePointer<unmerge_spike_slab_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_spike_slab_result_init") @implementation
public func unmerge_spike_slab_result_init(
  _ result: UnsafeMutablePointer<unmerge_spike_slab_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

private func checkSpikeSlab(_ o: unmerge_spike_slab_options, _ gram: Gram) throws(UnmergeError) {
  guard o.prior > 0, o.prior < 1 else { throw .range("options->prior is \(o.prior); it must be in (0, 1)") }
  guard o.slab > 0, o.slab.isFinite else { throw .range("options->slab is \(o.slab); it must be finite and > 0") }
  try check(Int64(o.noise), "options->noise", 0...1, "UNMERGE_NOISE_GIVEN or _INVERSE_GAMMA")
  if o.noise == UNMERGE_NOISE_GIVEN {
    guard o.sigma2 > 0, o.sigma2.isFinite else {
      throw .range("options->sigma2 is \(o.sigma2); it must be finite and > 0")
    }
  } else {
    let isImproper = o.shape == 0 && o.scale == 0
    guard isImproper || (o.shape > 0 && o.scale > 0 && o.shape.isFinite && o.scale.isFinite) else {
      throw .range(
        "options->shape is \(o.shape) and options->scale is \(o.scale); they must be finite and > 0, or both 0")
    }
  }
  try checkReserved(o.reserved, "options->reserved")
  try checkLikelihood(effective: o.effective, sigma2: 0, gram)
}

@_cdecl("unmerge_spike_slab") @implementation
public func unmerge_spike_slab(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_spike_slab_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafeMutablePointer<Double>?, _ inclusion: UnsafeMutablePointer<Double>?, _ best: UnsafeMutablePointer<Double>?,
  _ sizes: UnsafeMutablePointer<Double>?, _ result: UnsafeMutablePointer<unmerge_spike_slab_result>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkSpikeSlab(o, gram)
    let target = try checkTarget(o.target, gram)
    let watch = try Watch(run)
    try checkResult(result, "result")
    let n = gram.atoms
    let usable = (0..<n).filter { gram.norms[$0] > 0 }
    guard usable.count <= 20 else {
      throw .range(
        "gram has \(usable.count) atoms that are not zero; enumeration takes at most 20, choose with unmerge_gram_subset")
    }
    let problem = try TemperedGram(gram, target: target, effective: o.effective, sigma2: 0, watch)
    let enumeration = try Enumeration(problem, usable, o, watch)
    let largest = enumeration.evaluate()
    if let stop = watch.poll() { throw stop.error }
    let count = enumeration.joint.count
    var sum = 0.0
    var top = 0
    for set in 0..<count {
      sum += Platform.exp(enumeration.joint[set] - largest)
      if enumeration.joint[set] > enumeration.joint[top] { top = set }
    }
    let logEvidence = largest + Platform.log(sum)
    let probability = try allocate(n, of: Double.self)
    // What cannot be seen in the data stays as the prior has it.
    let size = try allocate(n + 1, of: Double.self)
    for set in 0..<count {
      let share = Platform.exp(enumeration.joint[set] - logEvidence)
      size[set.nonzeroBitCount] += share
      for (a, j) in usable.enumerated() where set >> a & 1 == 1 { probability[j] += share }
    }
    for j in 0..<n where gram.norms[j] == 0 {
      probability[j] = o.prior
      for k in (0...n).reversed() { size[k] = size[k] * (1 - o.prior) + (k > 0 ? size[k - 1] * o.prior : 0) }
    }
    let mean = try allocate(n, of: Double.self)
    let bestMean = try allocate(n, of: Double.self)
    enumeration.means(logEvidence: logEvidence, best: top, mean, bestMean)
    if let stop = watch.poll() { throw stop.error }
    var r = unmerge_spike_slab_result.defaults
    r.log_evidence = logEvidence
    r.best_log_joint = enumeration.joint[top]
    r.best_probability = Platform.exp(enumeration.joint[top] - logEvidence)
    for j in 0..<n { r.expected += probability[j] }
    r.sets = Int64(count)
    r.seconds = watch.seconds
    deliver(mean, coef)
    deliver(probability, inclusion)
    deliver(bestMean, best)
    deliver(size, sizes)
    store(r, result)
  }
}
