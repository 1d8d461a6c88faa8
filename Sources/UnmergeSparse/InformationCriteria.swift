import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Information criteria of fits, from rss, degrees of freedom and the variance s² of an entry's error. With q effective entries
// of p, −2 log L is
//
//     D = q ln(2π s²) + (q/p) rss / s²,     at its minimum over s² = rss/p:  q ln(2π rss/p) + q
//
//     AIC = D + 2 df     BIC = D + ln(q) df     EBIC = BIC + 2γ ln C(n, df)
//     Cp = (q/p) rss/s² − q + 2 df              GCV = (rss/p) / (1 − df/q)²
//
// References: Akaike 1974; Schwarz 1978; Chen & Chen 2008; Mallows 1973; Golub, Heath & Wahba 1979.

private struct Fit {
  let rss: Double
  let df: Double
}

private struct Likelihood {
  /// p, q and n
  let entries: Double
  let effective: Double
  let atoms: Double
  let gamma: Double
  /// Nil: each fit has its own.
  let sigma2: Double?

  /// In the order of UNMERGE_CRITERION_...
  func criteria(_ fit: Fit) -> [Double] {
    let (rss, df) = (fit.rss, fit.df)
    let variance = sigma2 ?? rss / entries
    let fitted = sigma2.map { effective / entries * rss / $0 } ?? effective
    let deviance = effective * Platform.log(2 * .pi * variance) + fitted
    let bic = deviance + Platform.log(effective) * df
    let size = min(max(df, 0), atoms)
    let slack = 1 - df / effective
    return [
      deviance + 2 * df,
      bic,
      bic + 2 * gamma * logBinomial(atoms, size),
      sigma2 == nil ? .nan : fitted - effective + 2 * df,
      slack > 0 ? rss / entries / (slack * slack) : .infinity,
    ]
  }
}

extension unmerge_criteria_options: Growable {
  package static var defaults: unmerge_criteria_options {
    var o = unmerge_criteria_options()
    o.struct_size = MemoryLayout<unmerge_criteria_options>.size
    o.gamma = 0.5
    o.sigma2 = 1
    return o
  }
}

@_cdecl("unmerge_criteria_options_init") @implementation
public func unmerge_criteria_options_init(
  _ options: UnsafeMutablePointer<unmerge_criteria_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_information_criteria") @implementation
public func unmerge_information_criteria(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_criteria_options>?, _ coef: UnsafePointer<unmerge_view>?,
  _ df: UnsafePointer<Double>?, _ criteria: UnsafePointer<unmerge_view>?, _ sigma2: UnsafeMutablePointer<Double>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.gamma, "options->gamma", 0...1, "in [0, 1]")
    try check(o.effective, "options->effective", 0...Double.greatestFiniteMagnitude, "finite and > 0, or 0 for all entries")
    try check(Int64(o.sigma), "options->sigma", 0...2, "UNMERGE_SIGMA_FULL, _GIVEN or _UNKNOWN")
    if o.sigma == UNMERGE_SIGMA_GIVEN {
      guard o.sigma2 > 0, o.sigma2.isFinite else {
        throw .range("options->sigma2 is \(o.sigma2); it must be finite and > 0")
      }
    }
    let target = try checkTarget(o.target, gram)
    try checkReserved(o.reserved, "options->reserved")
    try gram.needBlocks("compute criteria from")
    let input = try view(coef, "coef")
    let n = gram.atoms
    guard input.rows == n else { throw .shape("coef is \(input.rows) x \(input.columns), expected \(n) rows, one per atom") }
    let output = try Output(criteria, "criteria", rows: input.columns, columns: Int(UNMERGE_CRITERIA))
    guard gram.entries > 0, let total = try Block.sum(gram.blocks) else {
      throw .range("gram has no entries; criteria are per entry")
    }
    let p = Double(gram.entries)
    let q = o.effective > 0 ? o.effective : p

    var variance: Double?
    if o.sigma == UNMERGE_SIGMA_GIVEN { variance = o.sigma2 }
    if o.sigma == UNMERGE_SIGMA_FULL {
      let watch = try Watch(nil)
      let full = try Answers(n, gram.targets)
      let solver = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
        let solver = try LeastSquares(gram, alpha: 0, weights: nil, watch)
        try solver.answer(target, full, watch)
        return solver
      }
      let left = q - solver.df
      guard left > 0 else {
        throw .range(
          "\(q) effective entries leave nothing to estimate sigma^2 from beside \(solver.df) atoms; give it (UNMERGE_SIGMA_GIVEN)"
        )
      }
      variance = total.squaredError(atoms: n, target: target, full.coefficients(target)) / left * (q / p)
    }
    let likelihood = Likelihood(
      entries: p, effective: q, atoms: Double(n), gamma: o.gamma, sigma2: variance)

    let w = try allocate(n, of: Double.self)
    let found = try allocate(product(input.columns, Int(UNMERGE_CRITERIA), "criteria"), of: Double.self)
    for i in 0..<input.columns {
      var nonzeros = 0.0
      for j in 0..<n {
        w[j] = input.element(j, i)
        guard w[j].isFinite else {
          throw UnmergeError(UNMERGE_E_NONFINITE, "coef holds \(w[j]) at (\(j), \(i)); all values must be finite")
        }
        if w[j] != 0 { nonzeros += 1 }
      }
      let freedom = df.map { UnsafeRawPointer($0 + i).loadUnaligned(as: Double.self) } ?? nonzeros
      // NaN is what a report says where nobody knows: its criteria are NaN too.
      guard freedom.isNaN || (freedom >= 0 && freedom.isFinite) else {
        throw .range("df[\(i)] is \(freedom); it must be finite and >= 0, or NaN")
      }
      let rss = total.squaredError(atoms: n, target: target, w.pointer)
      for (k, value) in likelihood.criteria(Fit(rss: rss, df: freedom)).enumerated() {
        found[i * Int(UNMERGE_CRITERIA) + k] = freedom.isNaN ? .nan : value
      }
    }
    for i in 0..<input.columns {
      for k in 0..<Int(UNMERGE_CRITERIA) { output.set(i, k, found[i * Int(UNMERGE_CRITERIA) + k]) }
    }
    sigma2?.pointee = variance ?? .nan
  }
}
