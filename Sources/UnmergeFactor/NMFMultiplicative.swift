import UnmergeCore
import UnmergeLinalg

// Multiplicative updates: F is multiplied by the ratio of the two parts of its gradient, the minimum of a majoriser that touches
// the objective at F. Monotone without any step length; zeros stay zeros. Lee & Seung 2001.

extension NMF {
  /// F ∘ B / (F G + l1): the minimum of a majoriser (Lee & Seung 2001).
  func iterateMultiplicative(_ work: Work) throws(UnmergeError) -> Double {
    let g = work.gram
    h.gram(into: g)
    var moved = try multiplicativeStep(w, h, work.data, work.productW, g, options.w, work.newW)
    w.gram(into: g)
    let gramW = try allocating { () throws(OutOfMemory) in try g.copy() }
    moved += try multiplicativeStep(h, w, work.data.transposed, work.productH, g, options.h, work.newH)
    state.objective = try value(work, w, h, gramW).value
    return relative(moved, work)
  }

  /// Over the entries that are there. Returns Σ_l G_ll ‖f_l − P(f_l − ∇_l/G_ll)‖² as it was before.
  private func multiplicativeStep(
    _ f: Factor, _ other: Factor, _ data: DataMatrix, _ b: Factor, _ g: Buffer<Double>, _ penalty: FactorPenalty,
    _ model: Factor
  ) throws(UnmergeError) -> Double {
    let (n, k) = (f.rows, f.columns)
    try data.multiply(other, into: b, data.hasMissing ? .present : .data)
    if data.hasMissing {
      try data.multiply(other, into: model, .modelled(f, other))
      penalty.addQuadraticGradient(f, to: model)
      penalty.add(to: g, k)
    } else {
      penalty.add(to: g, k)
      Double.gemm(false, false, n, k, k, 1, f.pointer, n, g.pointer, k, 0, model.pointer, n)
    }
    var moved = 0.0
    for l in 0..<k {
      let d = g[l * k + l]
      let (x, m, c) = (f.column(l), model.column(l), b.column(l))
      for i in 0..<n {
        let old = x[i]
        let step = d > 0 ? max(0, old - (m[i] + penalty.l1 - c[i]) / d) - old : 0
        moved += d * step * step
        // l1 in the denominator: c − l1 could be negative, where this still descends.
        let denominator = m[i] + penalty.l1
        let now = denominator > 0 ? old * c[i] / denominator : old
        x[i] = now.isFinite ? now : old
      }
    }
    return moved
  }

  /// Multiplicative updates: each is the minimum of a majoriser that touches the objective (Lee & Seung 2001), the root of
  /// l2 f² + (d + l1) f − n f₀ = 0.
  func iterateDivergence(_ work: Work) throws(UnmergeError) -> Double {
    var moved = try divergenceStep(w, h, work.data, work.productW, options.w)
    moved += try divergenceStep(h, w, work.data.transposed, work.productH, options.h)
    return work.sum > 0 ? moved / work.sum : 0
  }

  /// Returns Σ f |∇| as it was before.
  func divergenceStep(
    _ f: Factor, _ other: Factor, _ data: DataMatrix, _ numerator: Factor, _ penalty: FactorPenalty
  ) throws(UnmergeError) -> Double {
    let (n, k) = (f.rows, f.columns)
    try data.multiply(other, into: numerator, .ratio(f, other))
    let denominator = try Factor(options.hasMissing ? n : 1, k)
    if options.hasMissing {
      try data.multiply(other, into: denominator, .presence)
    } else {
      for l in 0..<k {
        var s = 0.0
        for j in 0..<other.rows { s += other.column(l)[j] }
        denominator.values[l] = s
      }
    }
    var moved = 0.0
    let (isFull, rates) = (!options.hasMissing, denominator.pointer)
    for l in 0..<k {
      let (x, b) = (f.column(l), numerator.column(l))
      for i in 0..<n {
        let old = x[i]
        let d = (isFull ? rates[l] : rates[l * n + i]) + penalty.l1
        let pull = b[i]
        moved += old * abs(d + penalty.l2 * old - pull)
        let target = pull * old
        let now: Double
        if penalty.l2 > 0 {
          now = 2 * target / (d + (d * d + 4 * penalty.l2 * target).squareRoot())
        } else {
          now = d > 0 ? target / d : old
        }
        x[i] = now.isFinite ? now : old
      }
    }
    return moved
  }

  func divergence(_ work: Work) throws(UnmergeError) -> Double {
    let d = try work.data.sum(w, h) { x, m in x > 0 ? x * Platform.log(x / max(m, 1e-300)) - x + m : m }
    return d + options.w.value(w) + options.h.value(h)
  }
}
