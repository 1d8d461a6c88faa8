import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Standard errors of least squares on a support S
//
//     w = G_SS⁻¹ c_S
//     classical   cov = s² G_SS⁻¹,  s² = rss / (p − rank)
//     cluster     cov = f Σ_b x_b x_bᵀ,  x_b = G_SS⁻¹ s_b,  s_b = (c_b − G_b w)_S,  f = L/(L−1) · (p−1)/(p−rank)
//
// The scores s_b of a cluster come from its blocks: nothing is read again. Solved in unit-diagonal coordinates, where the
// diagonal of Ĝ_SS⁻¹ holds the variance inflation factors. An atom that depends on those before it in S gets 0 and no standard
// error.
//
// References: Liang & Zeger 1986; Cameron & Miller 2015 (few clusters: intervals are still too short below some forty);
// Belsley, Kuh & Welsch 1980 (VIF).

private struct Inference {
  let gram: Gram
  let target: Int
  let total: Block
  /// The independent atoms of the support, in its order.
  let kept: [Int]
  /// Where in the support they stand.
  let place: [Int]
  /// Ĝ_SS⁻¹, kept × kept.
  let inverse: Buffer<Double>
  /// w, of all atoms.
  let w: Buffer<Double>
  let rss: Double

  init(_ gram: Gram, target: Int, support: [Int]) throws(UnmergeError) {
    self.gram = gram
    self.target = target
    guard let total = try Block.sum(gram.blocks) else {
      throw .range("gram has no blocks; standard errors need entries")
    }
    self.total = total
    var kept: [Int] = []
    var place: [Int] = []
    // As in least squares: where Ĝ is nearly singular a pivot has to exceed what the errors of the Gram do to it.
    let entryError = gram.condition > 1e11 ? gram.precision.entryError : 0
    let factor = try allocating { () throws(OutOfMemory) in
      try Cholesky(capacity: support.count, entryError: entryError)
    }
    for (i, j) in support.enumerated()
    where gram.norms[j] > 0 && factor.append(j, column: gram.column(j), diagonal: 1) {
      kept.append(j)
      place.append(i)
    }
    let k = kept.count
    inverse = try allocate(product(k, k, "the support"))
    let matrix = try allocate(k * k, of: Double.self)
    for q in 0..<k { for p in 0..<k { matrix[q * k + p] = gram.column(kept[q])[kept[p]] } }
    inverse.pointer.update(from: matrix.pointer, count: k * k)
    guard Symmetric.factor(k, inverse.pointer) != nil, Symmetric.invert(k, factor: inverse.pointer) else {
      throw UnmergeError(UNMERGE_E_INTERNAL, "independent atoms have a singular Gram")
    }
    w = try allocate(gram.atoms)
    // Two steps: the second takes the residual of the first to the rounding of its own evaluation.
    let v = try allocate(k, of: Double.self)
    let r = try allocate(k, of: Double.self)
    let c = gram.correlation(target)
    for _ in 0..<2 {
      for p in 0..<k { r[p] = c[kept[p]] - Vector.dot(k, matrix.pointer + p * k, v.pointer) }
      for p in 0..<k { v[p] += Vector.dot(k, inverse.pointer + p * k, r.pointer) }
    }
    for p in 0..<k { w[kept[p]] = v[p] * (gram.targetNorms[target] / gram.norms[kept[p]]) }
    self.kept = kept
    self.place = place
    rss = total.squaredError(atoms: gram.atoms, target: target, w.pointer)
  }

  /// s² Ĝ_SS⁻¹ in the caller's units.
  func classical(_ sigma2: Double) throws(UnmergeError) -> Buffer<Double> {
    let k = kept.count
    let cov = try allocate(k * k, of: Double.self)
    for q in 0..<k {
      for p in 0..<k { cov[q * k + p] = sigma2 * inverse[q * k + p] / gram.norms[kept[p]] / gram.norms[kept[q]] }
    }
    return cov
  }

  /// The sandwich over clusters of blocks.
  func clustered(_ cluster: [Int], count: Int) throws(UnmergeError) -> Buffer<Double> {
    let (n, k) = (gram.atoms, kept.count)
    let scores = try allocate(product(n, count, "the scores"), of: Double.self)
    let product = try allocate(n, of: Double.self)
    for (b, block) in gram.blocks.enumerated() {
      block.multiply(atoms: n, w.pointer, product.pointer)
      let s = scores.pointer + cluster[b] * n
      for j in kept { s[j] += block.c[target * n + j] - product[j] }
    }
    let p = Double(gram.entries)
    let factor = Double(count) / Double(count - 1) * ((p - 1) / (p - Double(k)))
    let cov = try allocate(k * k, of: Double.self)
    let s = try allocate(k, of: Double.self)
    let x = try allocate(k, of: Double.self)
    for b in 0..<count {
      for i in 0..<k { s[i] = scores[b * n + kept[i]] / gram.norms[kept[i]] }
      for i in 0..<k { x[i] = Vector.dot(k, inverse.pointer + i * k, s.pointer) / gram.norms[kept[i]] }
      for q in 0..<k { Vector.axpy(k, factor * x[q], x.pointer, cov.pointer + q * k) }
    }
    return cov
  }
}

/// One cluster per module, or per fold where there is one module.
private func defaultClusters(_ gram: Gram) -> (of: [Int], count: Int) {
  let byModule = Set(gram.blocks.map(\.module.string)).count > 1
  var rank: [String: Int] = [:]
  var of: [Int] = []
  for block in gram.blocks {
    let name = byModule ? block.module.string : String(block.fold)
    let next = rank.count
    of.append(rank[name, default: next])
    rank[name] = of.last
  }
  return (of, rank.count)
}

private func givenClusters(_ pointer: UnsafePointer<Int64>, _ gram: Gram) throws(UnmergeError) -> (of: [Int], count: Int) {
  var rank: [Int64: Int] = [:]
  var of: [Int] = []
  for b in 0..<gram.blocks.count {
    let k = UnsafeRawPointer(pointer + b).loadUnaligned(as: Int64.self)
    guard k >= 0 else { throw .range("options->clusters[\(b)] is \(k); it must be >= 0") }
    let next = rank.count
    of.append(rank[k, default: next])
    rank[k] = of.last
  }
  return (of, rank.count)
}

extension unmerge_inference_options: Growable {
  package static var defaults: unmerge_inference_options {
    var o = unmerge_inference_options()
    o.struct_size = MemoryLayout<unmerge_inference_options>.size
    o.confidence = 0.95
    return o
  }
}

extension unmerge_inferred: Growable {
  package static var defaults: unmerge_inferred {
    var i = unmerge_inferred()
    i.struct_size = MemoryLayout<unmerge_inferred>.size
    (i.estimate, i.standard_error, i.t, i.p_value, i.low, i.high, i.vif) = (.nan, .nan, .nan, .nan, .nan, .nan, .nan)
    return i
  }
}

extension unmerge_inference_result: Growable {
  package static var defaults: unmerge_inference_result {
    var r = unmerge_inference_result()
    r.struct_size = MemoryLayout<unmerge_inference_result>.size
    (r.degrees, r.sigma2, r.rss, r.r2) = (.nan, .nan, .nan, .nan)
    return r
  }
}

@_cdecl("unmerge_inference_options_init") @implementation
public func unmerge_inference_options_init(
  _ options: UnsafeMutablePointer<unmerge_inference_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_inferred_init") @implementation
public func unmerge_inferred_init(_ inferred: UnsafeMutablePointer<unmerge_inferred>?, _ size: Int) -> unmerge_status {
  initialize(inferred, size)
}

@_cdecl("unmerge_inference_result_init") @implementation
public func unmerge_inference_result_init(
  _ result: UnsafeMutablePointer<unmerge_inference_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_least_squares_inference") @implementation
public func unmerge_least_squares_inference(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_inference_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ inferred: UnsafeMutablePointer<unmerge_inferred>?, _ covariance: UnsafePointer<unmerge_view>?,
  _ result: UnsafeMutablePointer<unmerge_inference_result>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    let support = try indices(o.support, o.n_support, below: gram.atoms, "options->support", count: "options->n_support")
    let size = support.count
    try check(o.n_contrasts, "options->n_contrasts", 0...Int64(1 << 30), "between 0 and 2^30")
    guard o.confidence > 0, o.confidence < 1 else {
      throw .range("options->confidence is \(o.confidence); it must be in (0, 1)")
    }
    try check(Int64(o.covariance), "options->covariance", 0...1, "UNMERGE_COVARIANCE_CLASSICAL or _CLUSTER")
    let target = try checkTarget(o.target, gram)
    try checkReserved(o.reserved, "options->reserved")
    try gram.needBlocks("infer from")
    let watch = try Watch(run)
    let lines = o.contrasts == nil ? 0 : Int(o.n_contrasts)
    let contrasts = try allocate(product(lines, size, "options->contrasts"), of: Double.self)
    if let given = o.contrasts {
      for i in 0..<contrasts.count {
        contrasts[i] = UnsafeRawPointer(given + i).loadUnaligned(as: Double.self)
        guard contrasts[i].isFinite else {
          throw .range("options->contrasts(\(i / size), \(i % size)) is \(contrasts[i]); it must be finite")
        }
      }
    }
    try checkResult(inferred, "inferred", count: size + lines)
    let output = try optionalOutput(covariance, "covariance", rows: size, columns: size)
    try checkResult(result, "result")
    var clusters: (of: [Int], count: Int) = ([], 0)
    if o.covariance == UNMERGE_COVARIANCE_CLUSTER {
      clusters = if let given = o.clusters { try givenClusters(given, gram) } else { defaultClusters(gram) }
      guard clusters.count >= 2 else {
        throw .range(
          "gram has \(gram.blocks.count) blocks in \(clusters.count) clusters; CLUSTER needs two: make the gram with one block per "
            + "module, or with folds > 1")
      }
    }
    let (fit, cov) = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) -> (Inference, Buffer<Double>) in
      let fit = try Inference(gram, target: target, support: support)
      let left = gram.entries - fit.kept.count
      guard left > 0 else {
        throw .range("gram has \(gram.entries) entries for \(fit.kept.count) independent atoms; standard errors need more")
      }
      if let stop = watch.poll() { throw stop.error }
      return (
        fit,
        clusters.count > 0
          ? try fit.clustered(clusters.of, count: clusters.count) : try fit.classical(fit.rss / Double(left))
      )
    }

    let k = fit.kept.count
    let left = Double(gram.entries - k)
    let degrees = clusters.count > 0 ? Double(clusters.count - 1) : left
    let quantile = Student.quantile(tails: 1 - o.confidence, degrees)
    func infer(_ estimate: Double, _ variance: Double, vif: Double) -> unmerge_inferred {
      var i = unmerge_inferred.defaults
      let error = max(0, variance).squareRoot()
      i.estimate = estimate
      i.standard_error = error
      i.t = error > 0 ? estimate / error : estimate == 0 ? 0 : estimate < 0 ? -.infinity : .infinity
      i.p_value = Student.tails(i.t, degrees)
      i.low = estimate - quantile * error
      i.high = estimate + quantile * error
      i.vif = vif
      return i
    }
    var dependent = unmerge_inferred.defaults
    dependent.estimate = 0
    dependent.vif = .infinity
    for i in 0..<size { store(dependent, inferred, index: i) }
    for (q, i) in fit.place.enumerated() {
      let vif = max(1, fit.inverse[q * k + q])
      store(infer(fit.w[fit.kept[q]], cov[q * k + q], vif: vif), inferred, index: i)
    }
    let product = try allocate(k, of: Double.self)
    for line in 0..<lines {
      let l = contrasts.pointer + line * size
      let isKnown = support.indices.allSatisfy { l[$0] == 0 || fit.place.contains($0) }
      var estimate = 0.0
      var variance = 0.0
      for q in 0..<k {
        product[q] = 0
        for p in 0..<k { product[q] += cov[q * k + p] * l[fit.place[p]] }
        estimate += l[fit.place[q]] * fit.w[fit.kept[q]]
        variance += l[fit.place[q]] * product[q]
      }
      store(isKnown ? infer(estimate, variance, vif: .nan) : .defaults, inferred, index: size + line)
    }
    if let output {
      for i in 0..<size { for j in 0..<size { output.set(i, j, .nan) } }
      for q in 0..<k { for p in 0..<k { output.set(fit.place[p], fit.place[q], cov[q * k + p]) } }
    }
    var r = unmerge_inference_result.defaults
    r.rank = Int64(k)
    r.clusters = Int64(clusters.count)
    r.degrees = degrees
    r.sigma2 = fit.rss / left
    r.rss = fit.rss
    let yy = fit.total.yy[target]
    r.r2 = yy > 0 ? 1 - fit.rss / yy : 0
    store(r, result)
  }
}
