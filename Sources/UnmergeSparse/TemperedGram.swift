import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// One target's likelihood with q effective entries of p, in the coordinates v_j = w_j d_j / ‖y‖:
///
///     −2 log L(v) = q ln(2π s²) + b (1 − 2ĉᵀv + vᵀĜv),     b = (q/p) ‖y‖² / s²
///
/// b, the precision of the data, replaces s²: the scale of y appears in constants only. Below `least` of ‖y‖² a residual is
/// rounding, so no b that is found exceeds q / least.
struct TemperedGram: @unchecked Sendable {
  let gram: Gram
  let target: Int
  let n: Int
  let q: Double
  let p: Double
  /// Ĝ n×n, both triangles, and ĉ.
  let g: UnsafePointer<Double>
  let c: UnsafePointer<Double>
  let yNorm: Double
  let least: Double
  /// b where s² is given, else nil.
  let known: Double?
  private let given: Double
  /// Keeps `g` alive where columns were on demand, and for n = 0.
  private let gathered: Buffer<Double>

  init(_ gram: Gram, target: Int, effective: Double, sigma2: Double, _ watch: Watch) throws(UnmergeError) {
    self.gram = gram
    self.target = target
    n = gram.atoms
    p = Double(gram.entries)
    q = effective > 0 ? effective : p
    c = gram.correlation(target)
    yNorm = gram.targetNorms[target]
    least = floor(gram)
    given = sigma2
    known = sigma2 > 0 ? q / p * yNorm * yNorm / sigma2 : nil
    if gram.isComplete, n > 0 {
      gathered = try allocate(0)
      g = gram.column(0)
    } else {
      gathered = try allocate(product(n, n, "the Gram"), of: Double.self)
      try gram.require(Array(0..<n), watch)
      for j in 0..<n { (gathered.pointer + j * n).update(from: gram.column(j), count: n) }
      g = UnsafePointer(gathered.pointer)
    }
  }

  /// s² of b; for y = 0 as given, or 0.
  func sigma2(_ b: Double) -> Double { yNorm > 0 ? q / p * yNorm / b * yNorm : given }

  /// q ln(2π s²), finite also for y = 0.
  func constant(_ b: Double) -> Double { q * Platform.log(2 * .pi * max(sigma2(b), .leastNormalMagnitude)) }

  func isZero(_ j: Int) -> Bool { gram.norms[j] == 0 }

  /// w_j of v_j
  func unscaled(_ j: Int, _ v: Double) -> Double { isZero(j) ? 0 : v * (yNorm / gram.norms[j]) }

  /// x ← Ĝv
  func multiply(_ v: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>) {
    x.update(repeating: 0, count: n)
    for j in 0..<n where v[j] != 0 { Vector.axpy(n, v[j], g + j * n, x) }
  }

  /// The report of v, whose objective is not that of least squares.
  func reported(
    _ v: UnsafePointer<Double>, objective: Double, violation: Double, iterations: Int, outcome: Int32, flags: Int32 = 0,
    df: Double = .nan, _ watch: Watch
  ) throws(UnmergeError) -> unmerge_report {
    var end = Ending(outcome: outcome, flags: flags, iterations: iterations, df: df)
    let x = try allocate(n, of: Double.self)
    multiply(v, x.pointer)
    var rss = yNorm > 0 ? 1.0 : 0
    var nonzeros = 0
    for j in 0..<n where v[j] != 0 {
      rss += v[j] * (x[j] - 2 * c[j])
      end.certificate.l2 += v[j] * v[j]
      if !isZero(j) { nonzeros += 1 }
    }
    end.certificate.rss = max(rss, 0)
    end.certificate.violation = violation
    if yNorm > 0, end.certificate.isExplained(gram) { end.flags |= UNMERGE_FLAG_FULLY_EXPLAINED }
    var r = report(end, gram, target: target, nonzeros: nonzeros, watch)
    r.objective = objective
    return r
  }
}

/// q and s² as every method of this family is given them.
func checkLikelihood(effective: Double, sigma2: Double, _ gram: Gram) throws(UnmergeError) {
  try check(effective, "options->effective", 0...Double.greatestFiniteMagnitude, "finite and > 0, or 0 for all entries")
  try check(sigma2, "options->sigma2", 0...Double.greatestFiniteMagnitude, "finite and > 0, or 0 to find it")
  guard gram.entries > 0 else { throw .range("gram has no entries; likelihoods are per entry") }
}

/// Doubles of a C array that may be NULL.
func deliver(_ from: Buffer<Double>, _ to: UnsafeMutablePointer<Double>?) {
  guard let to else { return }
  UnsafeMutableRawPointer(to).copyMemory(from: from.pointer, byteCount: from.count * MemoryLayout<Double>.size)
}
