import CUnmerge
import UnmergeCore
import UnmergeLinalg

// unmerge_group_sparse_projection, unmerge_hoyer_sparsity.

extension unmerge_group_sparse_options: Growable {
  package static var defaults: unmerge_group_sparse_options {
    var o = unmerge_group_sparse_options()
    o.struct_size = MemoryLayout<unmerge_group_sparse_options>.size
    o.sparsity = 0.5
    return o
  }
}

extension unmerge_group_sparse_report: Growable {
  package static var defaults: unmerge_group_sparse_report {
    var r = unmerge_group_sparse_report()
    r.struct_size = MemoryLayout<unmerge_group_sparse_report>.size
    return r
  }
}

extension unmerge_group_sparsity: Growable {
  package static var defaults: unmerge_group_sparsity {
    var g = unmerge_group_sparsity()
    g.struct_size = MemoryLayout<unmerge_group_sparsity>.size
    return g
  }
}

/// The caller's groups: the columns of a matrix, or the stretches of a vector.
private struct Layout {
  let view: View
  let count: Int
  /// nil: columns.
  let offsets: Buffer<Int>?

  init(
    _ x: UnsafePointer<unmerge_view>?, _ offsets: UnsafePointer<Int64>?, _ count: Int64
  ) throws(UnmergeError) {
    view = try UnmergeCore.view(x, "x")
    guard let offsets else {
      guard count == Int64(view.columns) else {
        throw .shape("n_groups is \(count); without offsets the groups are the \(view.columns) columns of x")
      }
      self.count = view.columns
      self.offsets = nil
      return
    }
    guard view.columns == 1 else {
      throw .shape("x is \(view.rows) x \(view.columns); with offsets it must have one column")
    }
    guard count >= 0, count < Int64.max, let n = Int(exactly: count) else {
      throw .shape("n_groups is \(count); it must not be negative")
    }
    let copy = try allocate(n + 1, of: Int.self)
    for i in 0...n {
      let o = UnsafeRawPointer(offsets + i).loadUnaligned(as: Int64.self)
      let least = i == 0 ? 0 : copy[i - 1]
      guard let value = Int(exactly: o), value >= least, value <= view.rows, i > 0 || value == 0 else {
        throw .range(
          i == 0
            ? "offsets[0] is \(o); it must be 0" : "offsets[\(i)] is \(o); it must be between \(least) and \(view.rows)")
      }
      copy[i] = value
    }
    guard copy[n] == view.rows else {
      throw .range("offsets[\(n)] is \(copy[n]); the last must be \(view.rows), the length of x")
    }
    self.count = n
    self.offsets = copy
  }

  func bound(_ i: Int) -> Int { offsets?[i] ?? i * view.rows }

  /// Row and column of entry o of group i.
  func place(_ i: Int, _ o: Int) -> (Int, Int) { offsets.map { ($0[i] + o, 0) } ?? (o, i) }

  static let chunk = 2048

  /// Every entry once, in stretches of at most `chunk`: a group at a time, or, where a row's entries are neighbours in memory,
  /// some rows at a time. Stretches of one group come in order.
  func chunks(_ body: (_ i: Int, _ o: Int, _ n: Int) -> Void) {
    let byRows = offsets == nil && count > 1 && abs(view.columnStride) < abs(view.rowStride)
    guard byRows else {
      for i in 0..<count {
        let n = bound(i + 1) - bound(i)
        for o in stride(from: 0, to: n, by: Layout.chunk) { body(i, o, min(Layout.chunk, n - o)) }
      }
      return
    }
    for o in stride(from: 0, to: view.rows, by: 64) {
      for i in 0..<count { body(i, o, min(64, view.rows - o)) }
    }
  }

  /// The entries as T, those of a group beside each other, and columns `lead` apart; nil where they lie otherwise.
  func direct<T: Real>(_: T.Type) -> (pointer: UnsafePointer<T>, lead: Int)? {
    let size = MemoryLayout<T>.size
    guard view.type == T.elementType, UInt(bitPattern: view.base) % UInt(size) == 0,
      view.rows <= 1 || view.rowStride == size,
      view.columnStride % size == 0
    else { return nil }
    return (view.base.assumingMemoryBound(to: T.self), view.columnStride / size)
  }

  func load<T: Real>(_ i: Int, _ o: Int, _ n: Int, _ destination: UnsafeMutablePointer<T>) {
    let (row, column) = place(i, o)
    T.load(destination, view.address(row, column), view.type, stride: view.rowStride, count: n, scale: 1, add: false)
  }

  /// The first value that is not finite, named.
  func nonFinite() -> UnmergeError {
    for i in 0..<view.rows {
      for j in 0..<view.columns where !view.element(i, j).isFinite {
        return UnmergeError(
          UNMERGE_E_NONFINITE, "x[\(i), \(j)] is \(view.element(i, j)); all values must be finite")
      }
    }
    return UnmergeError(UNMERGE_E_NONFINITE, "x has values that are not finite")
  }

  /// The weights of a state, checked.
  func takeWeights<T>(_ pointer: UnsafePointer<unmerge_view>?, _ name: String, _ state: GroupSparse<T>) throws(UnmergeError)
  {
    guard let w = state.w else { return }
    let weights = try UnmergeCore.view(pointer, name)
    guard weights.rows == view.rows, weights.columns == view.columns else {
      throw .shape("\(name) is \(weights.rows) x \(weights.columns), expected \(view.rows) x \(view.columns)")
    }
    for i in 0..<count {
      let start = bound(i)
      let n = bound(i + 1) - start
      var largest = 0.0
      for o in 0..<n {
        let (row, column) = place(i, o)
        let value = weights.element(row, column)
        guard value.isFinite, value >= 0 else {
          throw .range("\(name)[\(row), \(column)] is \(value); it must be finite and >= 0")
        }
        w[start + o] = value
        largest = max(largest, value)
      }
      guard n < 2 || largest > 0 else { throw .range("\(name) of group \(i) are all 0; at least one must be > 0") }
    }
    state.takeWeights()
  }
}

private struct GroupSparseCall {
  let layout: Layout
  let o: unmerge_group_sparse_options
  let watch: Watch
  let output: Output

  func run<T: Real>(
    _: T.Type, _ groups: UnsafeMutablePointer<unmerge_group_sparsity>?
  ) throws(UnmergeError) -> unmerge_group_sparse_report {
    let squared = o.objective == UNMERGE_OBJECTIVE_SQUARED
    let state = try GroupSparse<T>(layout.count, weighted: o.weights != nil, squared: squared) { layout.bound($0) }
    let source = try allocate(Layout.chunk, of: T.self)
    let result = try allocate(Layout.chunk, of: Double.self)
    let sums = try allocate(layout.count, of: Excess.self)
    try layout.takeWeights(o.weights, "options->weights", state)
    // Without weights, groups whose entries are neighbours in memory are read where they are.
    let direct = o.weights == nil ? layout.direct(T.self) : nil
    if let direct {
      state.source = direct.pointer
      for i in 0..<state.groups.count { state.groups[i].origin = layout.offsets?[i] ?? i * direct.lead }
    }
    func load() {
      guard direct == nil else { return }
      layout.chunks { i, o, n in layout.load(i, o, n, state.x.pointer + state.groups[i].start + o) }
    }
    load()
    guard state.measure() else { throw layout.nonFinite() }
    var total = 0.0
    for i in 0..<state.groups.count {
      let g = state.groups[i]
      // ‖c‖, of magnitudes; weighted sums hold it as well.
      let norm = g.whole.squares.squareRoot() / g.unit
      total = max(total, norm)
      guard norm > 0, o.normalise != UNMERGE_NORMALISE_NONE else { continue }
      state.groups[i].gain =
        g.unit / g.whole.squares.squareRoot()
        * (o.normalise == UNMERGE_NORMALISE_RMS ? Double(g.count).squareRoot() : 1)
    }
    let found = state.project(
      sparsity: o.sparsity, squared: squared, tol: watch.tol, maxSteps: watch.maxIterations, watch: watch, load: load)
    guard let found else { throw (watch.poll() ?? .cancelled).error }

    let isCopy = found.isUnchanged
    let z = output.view
    let writesInPlace =
      z.type == .f64 && (z.rows <= 1 || z.rowStride == 8) && UInt(bitPattern: z.base) % 8 == 0
      && z.columnStride % 8 == 0
    layout.chunks { i, o, n in
      let (row, column) = layout.place(i, o)
      let address = UnsafeMutableRawPointer(mutating: z.address(row, column))
      let target = writesInPlace ? address.assumingMemoryBound(to: Double.self) : result.pointer
      let entries: UnsafePointer<T>
      if let direct {
        entries = direct.pointer + state.groups[i].origin + o
      } else {
        layout.load(i, o, n, source.pointer)
        entries = UnsafePointer(source.pointer)
      }
      if isCopy {
        for k in 0..<n {
          target[k] = Double(entries[k])
          sums[i].count += target[k] != 0 ? 1 : 0
        }
      } else {
        state.write(i, o, n, entries, target, refit: self.o.refit != 0, &sums[i])
      }
      if !writesInPlace { store(address, z.type, stride: z.rowStride, target, n) }
    }
    return report(state, found, sums, groups, largest: total)
  }

  private func report<T>(
    _ state: GroupSparse<T>, _ found: GroupSparseSummary, _ sums: Buffer<Excess>,
    _ groups: UnsafeMutablePointer<unmerge_group_sparsity>?, largest: Double
  ) -> unmerge_group_sparse_report {
    var r = unmerge_group_sparse_report.defaults
    r.outcome = found.reachedLimit ? UNMERGE_ITERATION_LIMIT : UNMERGE_CONVERGED
    r.flags = found.isTied ? UNMERGE_FLAG_DISCONTINUITY : 0
    r.iterations = found.isUnchanged ? 0 : Int64(found.evaluations)
    r.steps = Int64(found.steps)
    r.groups = Int64(state.counted)
    r.passes = state.x.count > 0 ? Double(found.read) / Double(state.x.count) : 0
    r.multiplier = found.multiplier
    r.objective = found.objective
    r.duality_gap = found.gap
    r.relative_gap = found.relativeGap
    var average = 0.0
    // In units of the largest norm: squares of what the caller has may overflow.
    var (before, lost) = (0.0, 0.0)
    for i in 0..<state.groups.count {
      let g = state.groups[i]
      var one = unmerge_group_sparsity.defaults
      let unchanged = found.isUnchanged || g.kind.rawValue <= SparseGroup.Kind.zero.rawValue
      let z = unchanged ? g.whole : sums[i]
      one.nonzeros = Int64(sums[i].count)
      r.nonzeros += one.nonzeros
      if largest > 0, g.kind != .excluded {
        let ratio = g.unit * largest
        before += g.whole.squares / (ratio * ratio)
        lost += max(0, g.whole.squares - z.squares) / (ratio * ratio)
      }
      switch g.kind {
      case .excluded:
        r.excluded += 1
        one.sparsity = .nan
        one.state = UNMERGE_GROUP_EXCLUDED
      case .zero:
        r.zero_groups += 1
        one.sparsity = 1
        average += 1
        one.state = UNMERGE_GROUP_ZERO
      default:
        one.sparsity = Hoyer.sparsity(z, norm: g.norm, least: g.least)
        average += one.sparsity
        one.scale = z.squares.squareRoot() / g.unit
        if !found.isUnchanged {
          one.scale = state.correlation(g)
          one.threshold = (g.kind == .smooth ? g.t + g.offset : found.multiplier * g.price) / g.unit
          if g.kind == .tied { one.state |= UNMERGE_GROUP_TIED }
        }
        if one.nonzeros == 1 {
          one.state |= UNMERGE_GROUP_ONE_SPARSE
          r.one_sparse += 1
        }
      }
      store(one, groups, index: i)
    }
    r.sparsity = state.counted > 0 ? average / Double(state.counted) : 1
    r.squared_error = lost * largest * largest
    r.relative_error = before > 0 ? (lost / before).squareRoot() : 0
    r.seconds = watch.seconds
    return r
  }
}

@_cdecl("unmerge_group_sparse_options_init") @implementation
public func unmerge_group_sparse_options_init(
  _ options: UnsafeMutablePointer<unmerge_group_sparse_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_group_sparse_report_init") @implementation
public func unmerge_group_sparse_report_init(
  _ report: UnsafeMutablePointer<unmerge_group_sparse_report>?, _ size: Int
) -> unmerge_status {
  initialize(report, size)
}

@_cdecl("unmerge_group_sparsity_init") @implementation
public func unmerge_group_sparsity_init(
  _ group: UnsafeMutablePointer<unmerge_group_sparsity>?, _ size: Int
) -> unmerge_status {
  initialize(group, size)
}

@_cdecl("unmerge_group_sparse_projection") @implementation
public func unmerge_group_sparse_projection(
  _ x: UnsafePointer<unmerge_view>?, _ offsets: UnsafePointer<Int64>?, _ n_groups: Int64,
  _ options: UnsafePointer<unmerge_group_sparse_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ z: UnsafePointer<unmerge_view>?, _ groups: UnsafeMutablePointer<unmerge_group_sparsity>?,
  _ report: UnsafeMutablePointer<unmerge_group_sparse_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try read(options, "options")
    try check(o.sparsity, "options->sparsity", 0...1, "in [0, 1]")
    guard o.objective == UNMERGE_OBJECTIVE_SURROGATE || o.objective == UNMERGE_OBJECTIVE_SQUARED else {
      throw .range("options->objective is \(o.objective); it must be UNMERGE_OBJECTIVE_SURROGATE or _SQUARED")
    }
    guard o.normalise >= UNMERGE_NORMALISE_NONE, o.normalise <= UNMERGE_NORMALISE_RMS else {
      throw .range("options->normalise is \(o.normalise); it must be UNMERGE_NORMALISE_NONE, _L2 or _RMS")
    }
    try checkFlag(o.refit, "options->refit")
    guard o.reserved == 0 else { throw UnmergeError(UNMERGE_E_VERSION, "options->reserved is \(o.reserved); it must be 0") }
    let watch = try Watch(run)
    let layout = try Layout(x, offsets, n_groups)
    let output = try Output(z, "z", rows: layout.view.rows, columns: layout.view.columns)
    try checkResult(groups, "groups", count: layout.count)
    try checkResult(report, "report")
    let call = GroupSparseCall(layout: layout, o: o, watch: watch, output: output)
    // With weights everything is in double.
    let isDouble = layout.view.type == .f64 || o.weights != nil
    let answer = isDouble ? try call.run(Double.self, groups) : try call.run(Float.self, groups)
    store(answer, report)
  }
}

@_cdecl("unmerge_hoyer_sparsity") @implementation
public func unmerge_hoyer_sparsity(
  _ x: UnsafePointer<unmerge_view>?, _ offsets: UnsafePointer<Int64>?, _ n_groups: Int64,
  _ weights: UnsafePointer<unmerge_view>?, _ sparsity: UnsafeMutablePointer<Double>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let layout = try Layout(x, offsets, n_groups)
    guard let sparsity else { throw .null("sparsity") }
    let state = try GroupSparse<Double>(layout.count, weighted: weights != nil, squared: false) { layout.bound($0) }
    try layout.takeWeights(weights, "weights", state)
    layout.chunks { i, o, n in layout.load(i, o, n, state.x.pointer + state.groups[i].start + o) }
    guard state.measure() else { throw layout.nonFinite() }
    for i in 0..<state.groups.count {
      let g = state.groups[i]
      sparsity[i] = g.kind == .excluded ? .nan : Hoyer.sparsity(g.whole, norm: g.norm, least: g.least)
    }
  }
}
