import CUnmerge
import UnmergeLinalg

/// How a Gram is to be made.
struct GramPlan: Sendable {
  var precision: Precision?  // nil: automatic
  var onDemand = false
  var oneBlock = false
  var folds = Folds(count: 1, seed: 0)
  var accuracy = 1e-5
  var mask: Mask?
}

/// An exact pass of at most this many multiplications is not worth avoiding (tens of milliseconds).
private let cheap = 1 << 30

/// Whether float32 panels may be trusted with the products of atoms. Numbers of few digits (bfloat16, half, differences of
/// stored numbers) have products on a grid; float32 then rounds the same way again and again, nothing averages out and the
/// error reaches 1e-6. Targets do no harm: their products with atoms of full digits have full digits.
private func suitsFast(_ a: Columns) -> Bool {
  a.modules.allSatisfy { m in
    (m.matrix.map { $0.type == .f32 } ?? true)
      && m.pieces.allSatisfy {
        if case .dense(let values, let base, _)? = $0 { values.type == .f32 && base == nil } else { true }
      }
  }
}

/// Whether float32 panels hold the data exactly, so that only the sums need double.
private func fitsFloat(_ a: Columns) -> Bool {
  a.modules.allSatisfy { m in
    m.matrix?.type != .f64
      && m.pieces.allSatisfy {
        if case .lora? = $0 { return false }
        guard case .dense(let values, let base, let scale)? = $0 else { return true }
        return values.type != .f64 && base == nil && scale == 1
      }
  }
}

/// One pass in a precision. Where the data fits float32, exact sums of few columns, or of first quantities, are had from
/// float32 panels.
func sumsOf(
  _ a: Columns, _ y: Columns, _ plan: GramPlan, _ precision: Precision, _ request: Request, _ watch: Watch, pass: Int
) throws(UnmergeError) -> [BlockSums] {
  var isWide = false
  if precision == .exact, fitsFloat(a), fitsFloat(y) {
    switch request {
    case .complete: isWide = a.count <= fewColumns && a.modules.allSatisfy { $0.isFull(a.count) }
    case .first: isWide = true
    case .columns: break
    }
  }
  return precision == .fast || isWide
    ? try GramPass<Float>(a, y, mask: plan.mask, folds: plan.folds, oneBlock: plan.oneBlock, isWide: isWide).run(
      request, watch, pass: pass)
    : try GramPass<Double>(a, y, mask: plan.mask, folds: plan.folds, oneBlock: plan.oneBlock).run(request, watch, pass: pass)
}

/// Rounding of float32 panels averages out as 1/√p: about 1e-8 at a million rows, but 1e-7 at ten thousand, where the fast
/// pass would break its bound and the exact one costs little.
private let fewRows = 1 << 19

/// Makes the Gram of a and y: the one pass, a second exact one when the fast one cannot answer with the accuracy asked for.
func makeGram(_ a: Columns, _ y: Columns, _ plan: GramPlan, _ watch: Watch) throws(UnmergeError) -> Gram {
  try checkSameModules(a, y)
  try plan.mask?.check(a)
  let n = a.count
  let dense = a.modules.allSatisfy(\.isDense) && y.modules.allSatisfy(\.isDense)
  let double = a.modules.contains(where: \.isDouble) || y.modules.contains(where: \.isDouble)
  let p = plan.mask?.total ?? a.entries
  let cost = p.multipliedReportingOverflow(by: max(n, 1)).partialValue.multipliedReportingOverflow(by: n + 1)
  let wanted = plan.precision ?? (double || (!cost.overflow && cost.partialValue <= cheap) ? .exact : .fast)
  let precision = p < fewRows || !suitsFast(a) || n <= fewColumns ? .exact : wanted
  let onDemand = plan.onDemand && dense && plan.folds.count == 1 && n > 0

  var diagonalError = 0.0
  func attempt(_ precision: Precision, pass: Int) throws(UnmergeError) -> Gram {
    onDemand
      ? try lazyGram(a, y, plan, precision, watch, pass: pass)
      : try completeGram(a, y, plan, precision, watch, pass: pass, &diagonalError)
  }
  let gram = try attempt(precision, pass: 1)
  if precision == .fast {
    // float32 squares overflow above 1e19 and vanish below 1e-19; a zero atom cannot be told from a tiny one.
    let d = (0..<n).map { gram.norms[$0] } + (0..<y.count).map { gram.targetNorms[$0] }
    let root = Double(max(p, 1)).squareRoot()
    let outside = d.contains { !($0 > 1e-15 * root && $0 < 1e15 * root) }
    let inaccurate = plan.precision == nil && gram.sensitivity * precision.entryError > plan.accuracy
    if outside || inaccurate || diagonalError > precision.entryError {
      let exact = try attempt(.exact, pass: 2)
      try checkFinite(a, y, exact)
      return exact
    }
  }
  try checkFinite(a, y, gram)
  return gram
}

private func completeGram(
  _ a: Columns, _ y: Columns, _ plan: GramPlan, _ precision: Precision, _ watch: Watch, pass: Int,
  _ diagonalError: inout Double
) throws(UnmergeError) -> Gram {
  let sums = try sumsOf(a, y, plan, precision, .complete, watch, pass: pass)
  if precision == .fast { diagonalError = sums.reduce(0) { max($0, $1.sums.settleDiagonal()) } }
  return try Gram(
    atoms: a.count, targets: y.count, blocks: try blocks(sums, a, plan), precision: precision, passes: pass)
}

private func blocks(_ sums: [BlockSums], _ a: Columns, _ plan: GramPlan) throws(UnmergeError) -> [Block] {
  var result: [Block] = []
  for s in sums {
    let name = try ModuleName(plan.oneBlock ? "" : a.modules[s.module].name)
    result.append(Block(module: name, fold: s.fold, entries: s.entries, g: s.sums.g, c: s.sums.c, yy: s.sums.yy))
  }
  return result
}

/// C, yy and norms now; columns when asked.
private func lazyGram(
  _ a: Columns, _ y: Columns, _ plan: GramPlan, _ precision: Precision, _ watch: Watch, pass: Int
) throws(UnmergeError) -> Gram {
  let sums = try sumsOf(a, y, plan, precision, .first, watch, pass: pass)
  let total = try Sums(a.count, y.count, .first)
  for s in sums { total.add(s.sums) }
  let source = DataColumns(
    a: a, plan: plan, precision: precision,
    squares: try allocating { () throws(OutOfMemory) in
      try total.squares.copy()
    })
  for j in 0..<a.count { total.squares[j] = total.squares[j].squareRoot() }
  return try Gram(
    atoms: a.count, targets: y.count, entries: sums.reduce(0) { saturatingSum($0, $1.entries) },
    blocks: try blocks(sums, a, plan),
    norms: total.squares, c: total.c, yy: total.yy, precision: precision, passes: pass, complete: nil, source: source)
}

/// Columns of G from the data, where it still lies.
private struct DataColumns: ColumnSource {
  let a: Columns
  let plan: GramPlan
  let precision: Precision
  /// ‖a_j‖² from the first pass: what the diagonal of a float32 column has to agree with.
  let squares: Buffer<Double>

  func columns(_ columns: [Int], _ watch: Watch) throws(UnmergeError) -> Buffer<Double> {
    var none = Columns()
    none.modules = a.modules.map { Module(name: $0.name, rows: $0.rows, cols: $0.cols) }
    // A third of the columns by a general product costs as much as all of them by a symmetric one.
    let request = columns.count > a.count / 3 ? Request.complete : .columns(columns)
    let result = try read(columns, request, precision, none, watch)
    guard precision == .fast else { return result }
    let worst = columns.enumerated().reduce(0.0) { worst, item in
      max(worst, abs(result[item.offset * a.count + item.element] / squares[item.element] - 1))
    }
    return worst <= 2 * precision.entryError ? result : try read(columns, request, .exact, none, watch)
  }

  private func read(
    _ columns: [Int], _ request: Request, _ precision: Precision, _ none: Columns, _ watch: Watch
  ) throws(UnmergeError) -> Buffer<Double> {
    var oneBlock = plan
    oneBlock.oneBlock = true
    let sums = try sumsOf(a, none, oneBlock, precision, request, watch, pass: 2)
    guard let g = sums.first?.sums.g else { return try allocate(a.count * columns.count) }
    guard case .complete = request else { return g }
    let picked: Buffer<Double> = try allocate(a.count * columns.count)
    for (k, j) in columns.enumerated() {
      for i in 0..<a.count { picked[k * a.count + i] = g[max(i, j) * a.count + min(i, j)] }
    }
    return picked
  }
}

// MARK: NaN and infinity

/// A finite float cannot overflow a sum of squares in double, so a column holds NaN or infinity exactly when its norm is
/// not finite; then one look at that column finds the first place.
private func checkFinite(_ a: Columns, _ y: Columns, _ gram: Gram) throws(UnmergeError) {
  for (columns, norms, what) in [(a, gram.norms, "atom"), (y, gram.targetNorms, "target")] {
    for j in 0..<columns.count where !norms[j].isFinite {
      throw nonfinite(columns, j, what)
        ?? UnmergeError(
          UNMERGE_E_NONFINITE, "\(what) \(j) ('\(columns.names[j])') is too large: its squared norm overflows in double")
    }
  }
}

/// The first NaN or infinity of a column, or nil.
package func nonfinite(_ columns: Columns, _ j: Int, _ what: String) -> UnmergeError? {
  func first(_ v: View) -> (Int, Int, Double)? {
    for i in 0..<v.rows {
      for k in 0..<v.columns {
        let x = v.element(i, k)
        if !x.isFinite { return (i, k, x) }
      }
    }
    return nil
  }
  for m in columns.modules {
    let views: [(View, String)] =
      switch m.piece(j) {
      case .dense(let values, let base, _)?: [(values, "")] + (base.map { [($0, " of base")] } ?? [])
      case .lora(let b, let a, _)?: [(b, " of b"), (a, " of a")]
      case nil: []
      }
    for (v, part) in views {
      if let (i, k, x) = first(v) {
        let at = m.name.isEmpty ? "row \(i)" : "row \(i), column \(k)\(part) in module '\(m.name)'"
        return UnmergeError(
          UNMERGE_E_NONFINITE, "\(what) \(j) ('\(columns.names[j])') holds \(x) at \(at); all values must be finite")
      }
    }
  }
  return nil
}
