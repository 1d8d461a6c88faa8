import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Factors held at a Hoyer sparsity
//
//     minimise ½‖X − WH‖²  over W, H ≥ 0  with the columns of W, the rows of H, at least so sparse, on average or each.
//
// The set is a cone without convexity: each side takes accelerated projected gradient steps (Guan, Tao, Luo & Yuan 2012), with
// the projection inside, or coordinate descent where it is not held. Both sides are scaled alike first, as the grouped
// projection weighs vectors by their size. The objective may rise; the best iterate is what a caller sees.
//
// In an iteration `wPlain` and `hNext` are the iterate, `w` and `h` the best one.
//
// References: Hoyer 2004; Ohib, Gillis, Dalmasso, Shah, Potluru & Plis 2022.

extension NMF {
  /// Steps of one side end when one moves less than this share of the first.
  private static let shareOfFirst = 0.1
  private static let innerSteps = 10

  func iterateProjected(_ work: Work) throws(UnmergeError) -> Double {
    let k = components
    let (w, h) = (iterateW, iterateH)
    equalise(w, h)
    work.newW.assign(w)
    work.newH.assign(h)

    w.gram(into: work.gram)
    try work.data.transposed.multiply(w, into: work.productH)
    try side(h, work.productH, work.gram, options.sparsityH, work.stepH)
    h.gram(into: work.gram)
    try work.data.multiply(h, into: work.productW)
    try side(w, work.productW, work.gram, options.sparsityW, work.stepW)

    // work.gram is HHᵀ and productW X·Hᵀ.
    let gramW: Buffer<Double> = try allocate(k * k)
    w.gram(into: gramW)
    let inner = Double.dot(work.productW.pointer, w.pointer, w.values.count)
    let value = (work.squares - 2 * inner + Double.dot(gramW.pointer, work.gram.pointer, k * k)) / 2
    // Of iterates whose values rounding does not tell apart the last is the best.
    if value <= state.objective + 4e-15 * work.squares {
      state.objective = min(value, state.objective)
      self.w.assign(w)
      self.h.assign(h)
    }
    let moved = squaredDistance(w, work.newW) + squaredDistance(h, work.newH)
    let size = Double.squares(w.pointer, w.values.count) + Double.squares(h.pointer, h.values.count)
    return size > 0 ? (moved / size).squareRoot() : 0
  }

  /// One side with the other held, F → argmin ½⟨F, F G⟩ − ⟨B, F⟩ or a part of the way to it.
  private func side(
    _ f: Factor, _ b: Factor, _ g: Buffer<Double>, _ sparsity: Double, _ step: FactorStep
  ) throws(UnmergeError) {
    guard sparsity > 0 else {
      _ = try step.sweep(f, b, g, FactorPenalty(), sweeps: NMF.innerSteps, least: NMF.shareOfFirst * NMF.shareOfFirst)
      return
    }
    let (n, k) = (f.rows, f.columns)
    let copy = try allocating { () throws(OutOfMemory) in try g.copy() }
    let largest = try eigenvectors(copy, k).values[k - 1]
    guard largest > 0 else { return }
    let point = try Factor(n, k)
    let last = try Factor(n, k)
    point.assign(f)
    var a = 0.1
    var first = 0.0
    for s in 0..<NMF.innerSteps {
      last.assign(f)
      // F⁺ = P(Y − (Y G − B)/L)
      f.assign(point)
      Double.gemm(false, false, n, k, k, -1 / largest, point.pointer, n, g.pointer, k, 1, f.pointer, n)
      let (x, c) = (f.pointer, b.pointer)
      for i in 0..<(n * k) { x[i] = max(0, x[i] + c[i] / largest) }
      try sparsify(f, sparsity)
      let moved = squaredDistance(f, last).squareRoot()
      if s == 0 { first = moved }
      if moved <= NMF.shareOfFirst * first { break }
      let next = ((a * a * a * a + 4 * a * a).squareRoot() - a * a) / 2
      let push = a * (1 - a) / (a * a + next)
      a = next
      let (y, old) = (point.pointer, last.pointer)
      for i in 0..<(n * k) { y[i] = x[i] + push * (x[i] - old[i]) }
    }
  }

  /// The columns as sparse as asked.
  func sparsify(_ f: Factor, _ sparsity: Double) throws(UnmergeError) {
    guard sparsity > 0 else { return }
    if options.isSparsityOfEach {
      for l in 0..<f.columns { try Prox.hoyer(f.rows, f.column(l), f.column(l), sparsity: sparsity, nonNegative: true) }
    } else {
      try GroupSparseProjection(rows: f.rows, columns: f.columns).project(f.pointer, sparsity: sparsity)
    }
  }
}

/// Every component's two vectors of one norm.
private func equalise(_ w: Factor, _ h: Factor) {
  for l in 0..<w.columns {
    let (a, b) = (Double.squares(w.column(l), w.rows).squareRoot(), Double.squares(h.column(l), h.rows).squareRoot())
    guard a > 0, b > 0 else { continue }
    let scale = (b / a).squareRoot()
    guard scale.isFinite, scale > 0 else { continue }
    let (x, y) = (w.column(l), h.column(l))
    for i in 0..<w.rows { x[i] *= scale }
    for j in 0..<h.rows { y[j] /= scale }
  }
}

private func squaredDistance(_ a: Factor, _ b: Factor) -> Double {
  let (x, y) = (a.pointer, b.pointer)
  var s = 0.0
  for i in 0..<a.values.count { s += (x[i] - y[i]) * (x[i] - y[i]) }
  return s
}
