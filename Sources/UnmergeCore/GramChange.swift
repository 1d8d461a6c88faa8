import CUnmerge
import UnmergeLinalg

// A Gram with changes. G, C and yy are sums over rows of products of pairs of columns, so whatever happens to a column touches
// only its own pairs:
//
//     atoms A M           G ← MᵀGM, C ← MᵀC
//     targets Y + A M     c ← c + Gm, yy ← yy + 2cᵀm + mᵀGm
//     block b counts s_b  (G_b, C_b, yy_b) ← s_b (G_b, C_b, yy_b)
//     further atoms B     the border BᵀA, BᵀB, BᵀY, in one pass
//
// block by block. What is added again never loses digits, so nothing is ever subtracted.

extension Block {
  /// The sum of blocks, under the name of the first.
  package static func sum(_ blocks: [Block]) throws(UnmergeError) -> Block? {
    guard let first = blocks.first, blocks.count > 1 else { return blocks.first }
    let (g, c, yy) = try allocating { () throws(OutOfMemory) in
      (try first.g.copy(), try first.c.copy(), try first.yy.copy())
    }
    var entries = first.entries
    for other in blocks.dropFirst() {
      Double.accumulate(g.pointer, other.g.pointer, g.count)
      Double.accumulate(c.pointer, other.c.pointer, c.count)
      Double.accumulate(yy.pointer, other.yy.pointer, yy.count)
      entries = saturatingSum(entries, other.entries)
    }
    return Block(module: first.module, fold: first.fold, entries: entries, g: g, c: c, yy: yy)
  }

  /// ‖y − s A w‖² = yy − 2s cᵀw + wᵀGw, for s = ±1, as if summed in twice the precision: what cancels costs no digits but those
  /// the block itself lacks.
  package func squaredError(atoms n: Int, target t: Int, _ w: UnsafePointer<Double>, sign: Double = 1) -> Double {
    var sum = Twice(yy[t])
    for j in 0..<n where w[j] != 0 {
      let column = g.pointer + j * n
      // Half of w_j's terms: the diagonal, twice the atoms before it.
      var part = Twice(-2 * sign * c[t * n + j])
      part.add(2, times: Twice(dot: j, column, w))
      part.add(column[j], times: w[j])
      sum.add(w[j], times: part)
    }
    // Terms beyond the largest double leave NaN.
    return sum.value.isNaN ? .infinity : max(0, sum.value)
  }

  /// x ← G w
  package func multiply(atoms n: Int, _ w: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>) {
    x.update(repeating: 0, count: n)
    for j in 0..<n {
      let column = g.pointer + j * n
      x[j] += Vector.dot(j + 1, column, w)
      Vector.axpy(j, w[j], column, x)
    }
  }

  fileprivate func replacing(g: Buffer<Double>, c: Buffer<Double>, yy: Buffer<Double>) -> Block {
    Block(module: module, fold: fold, entries: entries, g: g, c: c, yy: yy)
  }
}

extension Gram {
  private func replacing(atoms: Int? = nil, _ blocks: [Block]) throws(UnmergeError) -> Gram {
    try Gram(atoms: atoms ?? self.atoms, targets: targets, blocks: blocks, precision: precision, passes: passes)
  }

  /// The atoms A M, M n×m column-major.
  package func transformed(_ m: Buffer<Double>, columns k: Int) throws(UnmergeError) -> Gram {
    let n = atoms
    let full = try allocate(product(n, n, "the Gram"), of: Double.self)
    let half = try allocate(product(n, k, "m"), of: Double.self)
    let square = try allocate(product(k, k, "the Gram"), of: Double.self)
    var result: [Block] = []
    for block in blocks {
      for j in 0..<n {
        for i in 0...j {
          full[j * n + i] = block.g[j * n + i]
          full[i * n + j] = block.g[j * n + i]
        }
      }
      let g = try allocate(k * k, of: Double.self)
      let c = try allocate(product(k, targets, "C = A'Y"), of: Double.self)
      if n > 0, k > 0 {
        Threads.withSingleThreadedBLAS {
          Double.gemm(false, false, n, k, n, 1, full.pointer, n, m.pointer, n, 0, half.pointer, n)
          Double.gemm(true, false, k, k, n, 1, m.pointer, n, half.pointer, n, 0, square.pointer, k)
          Double.gemm(true, false, k, targets, n, 1, m.pointer, n, block.c.pointer, n, 0, c.pointer, k)
        }
      }
      for j in 0..<k { for i in 0...j { g[j * k + i] = square[j * k + i] } }
      for j in 0..<k { g[j * k + j] = max(0, g[j * k + j]) }
      result.append(block.replacing(g: g, c: c, yy: block.yy))
    }
    return try replacing(atoms: k, result)
  }

  /// Block b counts weights[b] times.
  package func weighted(_ weights: Buffer<Double>) throws(UnmergeError) -> Gram {
    var result: [Block] = []
    for (b, block) in blocks.enumerated() {
      let (g, c, yy) = try allocating { () throws(OutOfMemory) in
        (try block.g.copy(), try block.c.copy(), try block.yy.copy())
      }
      for part in [g, c, yy] { for i in 0..<part.count { part[i] *= weights[b] } }
      result.append(block.replacing(g: g, c: c, yy: yy))
    }
    return try replacing(result)
  }

  /// The targets Y + A M, M n×T column-major.
  package func shiftingTargets(_ m: Buffer<Double>) throws(UnmergeError) -> Gram {
    let n = atoms
    let product = try allocate(n, of: Double.self)
    var result: [Block] = []
    for block in blocks {
      let (c, yy) = try allocating { () throws(OutOfMemory) in (try block.c.copy(), try block.yy.copy()) }
      for t in 0..<targets {
        let w = UnsafePointer(m.pointer + t * n)
        yy[t] = block.squaredError(atoms: n, target: t, w, sign: -1)
        block.multiply(atoms: n, w, product.pointer)
        for j in 0..<n { c[t * n + j] += product[j] }
      }
      result.append(block.replacing(g: block.g, c: c, yy: yy))
    }
    return try replacing(result)
  }

  /// Every number of a changed Gram is finite; a change can only overflow.
  package func checkFinite(_ what: String) throws(UnmergeError) {
    for j in 0..<atoms where !norms[j].isFinite {
      throw UnmergeError(UNMERGE_E_NONFINITE, "\(what) makes the squared norm of atom \(j) overflow in double")
    }
    for t in 0..<targets where !targetNorms[t].isFinite {
      throw UnmergeError(UNMERGE_E_NONFINITE, "\(what) makes the squared norm of target \(t) overflow in double")
    }
  }
}

// MARK: further atoms

/// The columns of two operators over the same modules, those of `b` after those of `a`.
private func joined(_ a: Columns, _ b: Columns) -> Columns {
  var result = Columns()
  result.names = a.names + b.names
  for (m, n) in zip(a.modules, b.modules) {
    var module = Module(name: m.name, rows: m.rows, cols: m.cols)
    module.pieces = (0..<a.count).map { m.piece($0) } + (0..<b.count).map { n.piece($0) }
    result.modules.append(module)
  }
  return result
}

/// `gram` with the columns of `new` after its own: a Gram of the new atoms whose targets are the old atoms and y has the border
/// as its C.
func addAtoms(
  _ gram: Gram, _ old: Columns, _ new: Columns, _ y: Columns, _ plan: GramPlan, _ watch: Watch
) throws(UnmergeError) -> Gram {
  try gram.needBlocks("add atoms to")
  try checkSameModules(old, new)
  try checkSameModules(old, y)
  guard old.count == gram.atoms, y.count == gram.targets else {
    throw .shape(
      "gram is over \(gram.atoms) atoms and \(gram.targets) targets, but a_old and y have \(old.count) and \(y.count)")
  }
  try plan.mask?.check(new)
  let (n, m, t) = (gram.atoms, new.count, gram.targets)
  let total = n + m
  guard total <= 1 << 20 else {
    throw .shape("a_old and a_new have \(total) columns together; at most \(1 << 20) are supported")
  }
  let sums = try sumsOf(new, joined(old, y), plan, .exact, .complete, watch, pass: gram.passes + 1)
  guard sums.count == gram.blocks.count else {
    throw .shape("the data has \(sums.count) blocks, gram \(gram.blocks.count); options are not those gram was made with")
  }
  var result: [Block] = []
  for (s, block) in zip(sums, gram.blocks) {
    let name = plan.oneBlock ? "" : new.modules[s.module].name
    guard name == block.module.string, s.fold == block.fold, s.entries == block.entries else {
      throw .shape(
        "block '\(block.module.string)' (fold \(block.fold)) of gram has \(block.entries) entries where the data has "
          + "'\(name)' (fold \(s.fold)) with \(s.entries); options and seed must be those gram was made with")
    }
    // The old atoms' norms are a by-product: they tell other data from the data.
    for j in 0..<n {
      let (now, then) = (s.sums.yy[j], block.g[j * n + j])
      guard !now.isFinite || abs(now - then) <= 1e-6 * max(now, then) else {
        throw .range(
          "a_old is not what gram was made from: atom \(j) ('\(old.names[j])') has squared norm \(now) in block "
            + "'\(name)', gram says \(then)")
      }
    }
    let g: Buffer<Double> = try allocate(try product(total, total, "the Gram"))
    let c: Buffer<Double> = try allocate(try product(total, t, "C = A'Y"))
    for j in 0..<n { for i in 0...j { g[j * total + i] = block.g[j * n + i] } }
    for q in 0..<m {
      let column = g.pointer + (n + q) * total
      for i in 0..<n { column[i] = s.sums.c[i * m + q] }
      for r in 0...q { column[n + r] = s.sums.g[q * m + r] }
    }
    for k in 0..<t {
      for j in 0..<n { c[k * total + j] = block.c[k * n + j] }
      for q in 0..<m { c[k * total + n + q] = s.sums.c[(n + k) * m + q] }
    }
    result.append(Block(module: block.module, fold: block.fold, entries: block.entries, g: g, c: c, yy: block.yy))
  }
  let grown = try Gram(
    atoms: total, targets: t, blocks: result, precision: gram.precision, passes: gram.passes + 1)
  for q in 0..<m where !grown.norms[n + q].isFinite {
    throw nonfinite(new, q, "atom")
      ?? UnmergeError(UNMERGE_E_NONFINITE, "the squared norm of new atom \(q) overflows in double")
  }
  return grown
}

// MARK: the door

/// A matrix of the caller's as doubles, column-major, finite.
private func matrix(
  _ pointer: UnsafePointer<unmerge_view>?, _ name: String, rows: Int, columns: Int?
) throws(UnmergeError) -> (values: Buffer<Double>, columns: Int) {
  let v = try view(pointer, name)
  let count = columns ?? v.columns
  guard v.rows == rows, v.columns == count, count <= 1 << 20 else {
    throw .shape(
      "\(name) is \(v.rows) x \(v.columns), expected \(rows)\(columns.map { " x \($0)" } ?? " rows, one per atom")")
  }
  let m = try allocate(product(rows, count, name), of: Double.self)
  for j in 0..<count {
    for i in 0..<rows {
      m[j * rows + i] = v.element(i, j)
      guard m[j * rows + i].isFinite else {
        throw UnmergeError(
          UNMERGE_E_NONFINITE, "\(name) holds \(m[j * rows + i]) at (\(i), \(j)); all values must be finite")
      }
    }
  }
  return (m, count)
}

@_cdecl("unmerge_gram_add_atoms") @implementation
public func unmerge_gram_add_atoms(
  _ gram: OpaquePointer?, _ a_old: OpaquePointer?, _ a_new: OpaquePointer?, _ y: OpaquePointer?,
  _ options: UnsafePointer<unmerge_gram_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    let old = try object(a_old, "a_old", Operator.self).snapshot
    let new = try object(a_new, "a_new", Operator.self).snapshot
    let targets = try object(y, "y", Operator.self).snapshot
    guard let out else { throw .null("out") }
    let watch = try Watch(run)
    let plan = try gramPlan(options, seed: watch.seed)
    try publish(try addAtoms(g, old, new, targets, plan, watch), out)
  }
}

@_cdecl("unmerge_gram_transform") @implementation
public func unmerge_gram_transform(
  _ gram: OpaquePointer?, _ m: UnsafePointer<unmerge_view>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    let (values, columns) = try matrix(m, "m", rows: g.atoms, columns: nil)
    guard let out else { throw .null("out") }
    try g.needBlocks("transform")
    let result = try g.transformed(values, columns: columns)
    try result.checkFinite("m")
    try publish(result, out)
  }
}

@_cdecl("unmerge_gram_weighted") @implementation
public func unmerge_gram_weighted(
  _ gram: OpaquePointer?, _ weights: UnsafePointer<Double>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    guard let given = try UnmergeCore.weights(weights, g.blocks.count, "weights") else { throw .null("weights") }
    guard let out else { throw .null("out") }
    try g.needBlocks("weight the blocks of")
    let copy = try allocate(g.blocks.count, of: Double.self)
    for b in 0..<copy.count { copy[b] = UnsafeRawPointer(given + b).loadUnaligned(as: Double.self) }
    let result = try g.weighted(copy)
    try result.checkFinite("weights")
    try publish(result, out)
  }
}

@_cdecl("unmerge_gram_shift_target") @implementation
public func unmerge_gram_shift_target(
  _ gram: OpaquePointer?, _ m: UnsafePointer<unmerge_view>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let g = try object(gram, "gram", Gram.self)
    let (values, _) = try matrix(m, "m", rows: g.atoms, columns: g.targets)
    guard let out else { throw .null("out") }
    try g.needBlocks("shift the target of")
    let result = try g.shiftingTargets(values)
    try result.checkFinite("m")
    try publish(result, out)
  }
}
