import UnmergeCore
import UnmergeLinalg

// Is a full fine-tune inside?
//
// An adapter can hide only in the rows it reads from, and there it is compared with what is left over (Presence.swift). A full
// fine-tune reads from everywhere: T would compare it with all that is left, which one unknown adapter outweighs by far. But
// what is unknown has its energy in few directions, and a full fine-tune is in all of them, most of it where nobody else is.
// So every module is whitened by what least squares leaves there,
//
//     W_m = (R_m R_mᵀ/k_m + s_m I)⁻¹       T_j = |w_j| √G_jj / √N       G_ij = Σ_m tr(Δ_iᵀ W_m Δ_j)
//
// with w the whitened fit (Whitened.swift) and N the entries: what is left has then one unit per entry. s_m is the level of the
// residual in half of all directions. For absent atoms: leave one, two or three out, merge those, fit the rest, all in the same
// metric, in closed form from G. There what was left out is not whitened, so that the null errs upwards.
//
// Dense atoms are compared with dense ones: they are nearly orthogonal, and adapters are not.

struct DensePresence: Sendable {
  /// By atom; zero where it is not dense.
  let evidence: [Double]
  /// NaN where it is not dense.
  let pValues: [Double]

  /// Rows of a module that are whitened: more than the ranks of some unknown adapters together.
  private static let rows = 192
  /// What rounding to one lattice makes of fine-tunes that have nothing in common; absent atoms of real merges stay below 0.01.
  private static let coincidence = 0.02

  /// Atoms of which no module is a product of factors.
  static func dense(_ a: Columns, among usable: [Int]) -> [Int] {
    usable.filter { j in
      a.modules.contains { $0.piece(j) != nil } && a.modules.allSatisfy { $0.piece(j)?.isDense ?? true }
    }
  }

  /// `residual`: the sample with what `start` leaves of the target in its place.
  init(
    residual sample: RowSample, start: [Double], _ usable: [Int], dense: [Int], seed: UInt64, _ watch: Watch
  ) throws(UnmergeError) {
    let n = start.count
    let small = try sample.thinned(rows: Self.rows)
    var limits = WhitenedFit.Limits()
    limits.iterations = 20
    let fit = try WhitenedFit(small, atoms: usable, watch)
    let solution = try fit.minimise(from: usable.map { _ in 0 }, limits: limits)
    let k = usable.count
    let g = solution.curvature.map { $0 / 2 }
    let entries = Double(small.modules.reduce(0) { $0 + $1.entries })
    let isDense = Set(dense)
    let metric = DictionaryFit(g, atoms: k)

    var weights = start
    var evidence = Array(repeating: 0.0, count: n)
    for (x, j) in usable.enumerated() {
      weights[j] += solution.weights[x]
      if isDense.contains(j) { evidence[j] = abs(weights[j]) * metric.norm(x) / max(entries, 1).squareRoot() }
    }
    var null: [Double] = []
    if k >= 4 {
      var random = SplitMix(seed &+ 0xDE45E)
      let rounds = max(120, min(400, 4000 / k))
      for round in 0..<rounds {
        let out = round < k ? 1 : 1 + random.below(min(3, k - 3))
        var order = Array(0..<k)
        var left = Array(repeating: 0.0, count: k)
        for x in 0..<out {
          let y = round < k ? round : x + random.below(order.count - x)
          order.swapAt(x, y)
          left[order[x]] = random.below(3) == 0 ? 0.5 : 1
        }
        let rest = order[out...].sorted()
        var c = Array(repeating: 0.0, count: k)
        for j in rest { for x in 0..<out { c[j] += left[order[x]] * g[j * k + order[x]] } }
        let b = try metric.solve(c, rest)
        var r = left
        for j in rest { r[j] -= b[j] }
        var energy = 0.0
        for i in 0..<k { for j in 0..<k { energy += r[i] * r[j] * g[i * k + j] } }
        for j in rest where isDense.contains(usable[j]) {
          null.append(max(energy > 0 ? abs(b[j]) * metric.norm(j) / energy.squareRoot() : 0, Self.coincidence))
        }
        if let stop = watch.poll() { throw stop.error }
      }
    }
    null.sort()
    // One or two dense atoms do not show how alike such fine-tunes can be.
    let tail = dense.count > 2 ? NullTail(null) : NullTail(start: 0.2)
    var p = Array(repeating: Double.nan, count: n)
    for j in dense { p[j] = tail.pValue(evidence[j]) }
    (self.evidence, pValues) = (evidence, p)
  }
}

extension RowSample {
  /// The same with another target.
  init(_ other: RowSample, targets: [Buffer<Float>]) {
    atoms = other.atoms
    modules = zip(other.modules, targets).map { SampledModule($0, target: $1) }
  }

  /// What weights leave of the target.
  func residual(_ w: [Double]) throws(UnmergeError) -> RowSample {
    var targets: [Buffer<Float>] = []
    for m in modules {
      let out: Buffer<Float> = try allocate(m.entries)
      let delta: Buffer<Float> = try allocate(m.entries)
      out.pointer.update(from: m.target.pointer, count: m.entries)
      for (j, atom) in m.atoms.enumerated() where atom != nil && w[j] != 0 {
        m.form(atom, delta.pointer)
        Vector.axpy(m.entries, Float(-w[j]), delta.pointer, out.pointer)
      }
      targets.append(out)
    }
    return RowSample(self, targets: targets)
  }

  /// At most so many rows of every module.
  func thinned(rows: Int) throws(UnmergeError) -> RowSample {
    var small: [SampledModule] = []
    for m in modules { small.append(m.rows > rows ? try m.taking(spread(rows, of: m.rows)) : m) }
    return RowSample(self, modules: small)
  }

  private init(_ other: RowSample, modules: [SampledModule]) {
    atoms = other.atoms
    self.modules = modules
  }
}

extension SampledModule {
  init(_ m: SampledModule, target: Buffer<Float>) {
    self.init(
      index: m.index, name: m.name, rows: m.rows, cols: m.cols, picked: m.picked, storage: m.storage, target: target,
      base: m.base, unit: m.unit, roundingVariance: m.roundingVariance, atoms: m.atoms)
  }

  /// Some of its rows.
  func taking(_ chosen: [Int]) throws(UnmergeError) -> SampledModule {
    func take(_ x: Buffer<Float>, _ width: Int) throws(UnmergeError) -> Buffer<Float> {
      let out: Buffer<Float> = try allocate(chosen.count * width)
      for (i, row) in chosen.enumerated() { (out.pointer + i * width).update(from: x.pointer + row * width, count: width) }
      return out
    }
    var some: [SampledAtom?] = []
    for atom in atoms {
      switch atom {
      case nil: some.append(nil)
      case .dense(let x)?: some.append(.dense(try take(x, cols)))
      case .factors(let b, let a, let rank)?: some.append(.factors(b: try take(b, rank), a: a, rank: rank))
      }
    }
    return SampledModule(
      index: index, name: name, rows: chosen.count, cols: cols, picked: chosen.map { picked[$0] }, storage: storage,
      target: try take(target, cols), base: try base.map { (x) throws(UnmergeError) in try take(x, cols) },
      unit: try unit.map { (x) throws(UnmergeError) in try take(x, cols) }, roundingVariance: roundingVariance, atoms: some)
  }
}
