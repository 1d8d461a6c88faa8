import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Replay: what would the tool have stored, and how much of it is stored?
//
//     θ_j = stored(base + Δ_j)          the task models, as the tool read them
//     m   = rule(base, θ_1 … θ_k)       in the tool's compute type, every result rounded
//     m̂   = out(m)                      as it would be stored
//
// against the stored target, entry by entry. A rounding to 8 bits is hard to hit by chance and easy by the right recipe: the
// share of equal entries is the evidence.

/// The comparison of one module, or of all.
package struct Replayed: Sendable {
  package var entries = 0
  /// Predicted exactly (0 = −0), equal magnitudes at a threshold chosen either way.
  package var equal = 0
  /// At most one unit in the last place apart.
  package var near = 0
  /// What the rule can give: `equal`, or for random rules what some draw gives; nil: too many draws to try.
  package var consistent: Int? = 0
  /// As `consistent`, had every stored value been three units in the last place further out: what coincidence gives.
  package var chance: Int? = 0
  /// Of `equal`, those that needed another choice between equal magnitudes.
  package var tied = 0
  package var squares = 0.0
  /// The largest difference in units in the last place.
  package var largest = 0.0

  mutating func add(_ o: Replayed) {
    entries += o.entries
    equal += o.equal
    near += o.near
    tied += o.tied
    squares += o.squares
    largest = max(largest, o.largest)
    consistent = consistent.flatMap { c in o.consistent.map { c + $0 } }
    chance = chance.flatMap { c in o.chance.map { c + $0 } }
  }
}

/// A recipe over atoms and a target with the same modules, ready to be asked module by module.
package struct Replay: Sendable {
  package let atoms: Columns
  package let target: Columns
  package let recipe: Recipe
  private let watch: Watch

  package init(_ atoms: Columns, _ target: Columns, _ recipe: Recipe, _ watch: Watch) throws(UnmergeError) {
    try checkSameModules(atoms, target)
    guard target.count == 1 else { throw .shape("target has \(target.count) columns; exactly one is expected") }
    self.atoms = atoms
    self.target = target
    self.recipe = recipe
    self.watch = watch
  }

  private func prepare(_ m: Int) throws(UnmergeError) -> (Stack, any Rule) {
    let stack = try Stack(atoms, target, recipe, module: m)
    let row = recipe.method.row
    guard row.atoms.contains(stack.count) else {
      let expected =
        row.atoms.upperBound == .max
        ? "\(row.atoms.lowerBound) at least"
        : row.atoms.count == 1 ? "exactly \(row.atoms.lowerBound)" : "\(row.atoms.lowerBound) or \(row.atoms.upperBound)"
      throw .range(
        "recipe->weights has \(stack.count) atoms with a weight in module '\(stack.name)'; \(row.name) takes \(expected)")
    }
    return (stack, try row.make(recipe, stack))
  }

  /// The merged weights of a module as they would be stored, row-major; for random methods their mean, in float32.
  package func predict(_ m: Int) throws(UnmergeError) -> Buffer<Float> {
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let (stack, prepared) = try prepare(m)
      var rule = prepared
      let crew = try Crew(stack, rule, watch)
      try rule.survey(stack, crew)
      let result: Buffer<Float> = try allocate(stack.entries)
      let ready = rule
      let meter = PassMeter(watch, pass: 1, total: max(1, stack.entries))
      try crew.eachTile(stack, rule.operands) { (w, _) throws(UnmergeError) in
        ready.merge(stack, w)
        if !ready.isRandom { stack.outType.round(w.out.pointer, w.entries) }
        (result.pointer + w.rows.lowerBound * stack.cols).update(from: w.out.pointer, count: w.entries)
        if let stop = meter.advance(w.entries) { throw stop }
      } finish: { _ in
      }
      return result
    }
  }

  /// An atom's task vector on a module as the tool had it, whatever the atom's weight: the stored task model less the base,
  /// in the compute type.
  package func taskVector(atom: Int, _ m: Int) throws(UnmergeError) -> Buffer<Float> {
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let stack = try Stack(atoms, target, recipe, module: m, only: atom)
      let tileRows = stack.tileRows
      let w = try Workspace(stack, tileRows: tileRows, atoms: 0, extraTiles: 0)
      let result: Buffer<Float> = try allocate(stack.entries)
      var first = 0
      while first < stack.rows, stack.cols > 0 {
        let rows = first..<min(first + tileRows, stack.rows)
        try stack.fillBase(w, rows)
        try stack.fill(w, rows, .vectors, atom: 0, result.pointer + first * stack.cols)
        first = rows.upperBound
        if let stop = watch.poll() { throw stop.error }
      }
      return result
    }
  }

  /// The magnitude a task vector's entries must reach to be kept at a density, as TIES keeps them; 0 keeps all, infinity
  /// none.
  package func threshold(_ taskVector: Buffer<Float>, density: Double) throws(UnmergeError) -> Float {
    let n = taskVector.count
    if density >= 1 || n == 0 { return 0 }
    if density <= 0 { return .infinity }
    let kept = max(1, Int(density * Double(n)))
    return try allocating { () throws(OutOfMemory) in
      try Magnitude.orderStatistic(taskVector.pointer, n, rank: n - kept).value
    }
  }

  /// One module, or some `entries` of it, against what is stored there; nothing where the target has no piece.
  package func compare(_ m: Int, entries: Int = .max, _ meter: PassMeter) throws(UnmergeError) -> Replayed {
    guard target.modules[m].piece(0) != nil else { return Replayed() }
    return try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let (stack, prepared) = try prepare(m)
      var rule = prepared
      guard stack.stored != nil else {
        throw .range("target has no base in module '\(stack.name)'; the merged weights and their base are needed")
      }
      let crew = try Crew(stack, rule, watch)
      try rule.survey(stack, crew)
      try rule.fit(stack, crew)
      let ready = rule
      let isRandom = rule.isRandom
      let parts = Results<Replayed>(crew.places, Replayed())
      var total = Replayed()
      try crew.eachTile(stack, rule.operands, entries: entries) { (w, place) throws(UnmergeError) in
        ready.merge(stack, w)
        stack.outType.round(w.out.pointer, w.entries)
        var r = Replayed()
        r.entries = w.entries
        Stored.compare(
          w.out.pointer, w.stored.pointer, w.entries, stack.outType, same: w.same.pointer, equal: &r.equal, near: &r.near,
          squares: &r.squares, largest: &r.largest)
        if r.equal < w.entries, !isRandom {
          r.tied = ready.tied(stack, w)
          r.equal += r.tied
        }
        if isRandom {
          let counts = ready.consistent(stack, w)
          (r.consistent, r.chance) = (counts?.found, counts?.chance)
        } else {
          r.consistent = r.equal
          stack.moveStored(w, into: w.spare.pointer)
          w.same.pointer.update(repeating: 0, count: w.entries)
          r.chance = Stored.mark(w.out.pointer, w.spare.pointer, w.entries, w.same.pointer)
        }
        parts.set(place, r)
        if let stop = meter.advance(w.entries) { throw stop }
      } finish: { place in
        total.add(parts.values[place])
      }
      return total
    }
  }

  /// Every module, and their sum at the end.
  package func compareAll() throws(UnmergeError) -> [Replayed] {
    let meter = PassMeter(watch, pass: 1, total: max(1, atoms.entries))
    var results: [Replayed] = []
    var total = Replayed()
    for m in atoms.modules.indices {
      if let stop = watch.poll() { throw stop.error }
      let r = try compare(m, meter)
      results.append(r)
      total.add(r)
    }
    return results + [total]
  }
}

// MARK: the door

extension unmerge_replay_report: Growable {
  package static var defaults: unmerge_replay_report {
    var r = unmerge_replay_report()
    r.struct_size = MemoryLayout<unmerge_replay_report>.size
    return r
  }

  init(_ r: Replayed) {
    self = .defaults
    entries = Int64(r.entries)
    equal = Int64(r.equal)
    near = Int64(r.near)
    consistent = Int64(r.consistent ?? -1)
    chance = Int64(r.chance ?? -1)
    tied = Int64(r.tied)
    squared_difference = r.squares
    largest = r.largest
  }
}

@_cdecl("unmerge_replay_report_init") @implementation
public func unmerge_replay_report_init(
  _ report: UnsafeMutablePointer<unmerge_replay_report>?, _ size: Int
) -> unmerge_status {
  initialize(report, size)
}

@_cdecl("unmerge_merge") @implementation
public func unmerge_merge(
  _ atoms: OpaquePointer?, _ base: OpaquePointer?, _ recipe: UnsafePointer<unmerge_recipe>?,
  _ run: UnsafePointer<unmerge_run>?, _ module: Int64, _ out: UnsafePointer<unmerge_view>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(atoms, "atoms", Operator.self).snapshot
    let y = try object(base, "base", Operator.self).snapshot
    let recipe = try Recipe(recipe, atoms: a.count, modules: a.modules.count)
    let replay = try Replay(a, y, recipe, try Watch(run))
    guard module >= 0, module < Int64(a.modules.count) else {
      throw .range("module is \(module); it must be an index of the operator's \(a.modules.count) modules")
    }
    let m = a.modules[Int(module)]
    let output = try Output(out, "out", rows: m.rows, columns: m.cols)
    let merged = try replay.predict(Int(module))
    for i in 0..<m.rows { for k in 0..<m.cols { output.set(i, k, Double(merged[i * m.cols + k])) } }
  }
}

@_cdecl("unmerge_replay") @implementation
public func unmerge_replay(
  _ atoms: OpaquePointer?, _ target: OpaquePointer?, _ recipe: UnsafePointer<unmerge_recipe>?,
  _ run: UnsafePointer<unmerge_run>?, _ reports: UnsafeMutablePointer<unmerge_replay_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(atoms, "atoms", Operator.self).snapshot
    let y = try object(target, "target", Operator.self).snapshot
    let recipe = try Recipe(recipe, atoms: a.count, modules: a.modules.count)
    let replay = try Replay(a, y, recipe, try Watch(run))
    guard reports != nil else { throw .null("reports") }
    try checkResult(reports, "reports")
    for (m, r) in try replay.compareAll().enumerated() { store(unmerge_replay_report(r), reports, index: m) }
  }
}
