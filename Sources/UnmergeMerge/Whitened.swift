import CUnmerge
import UnmergeCore
import UnmergeLinalg

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

// The whitened fit
//
//     minimise over w   f(w) = Σ_m k_m log det( R_m R_mᵀ / k_m + s_m I ),   R_m = D_m − Σ_j w_j Δ_jm   (d_m × k_m)
//
// The log-determinant is a smooth stand-in for the rank of what is left: the right weights leave the residual of lowest rank,
// unknown low-rank parts included, where least squares would spread those over the atoms that resemble them. It is also the
// profile likelihood of columns ~ N(0, C_m + s_m I) with C_m unknown. s_m, the noise, is fixed before the fit: at fixed s the
// objective is bounded below and smooth.
//
//     ∂f/∂w_j = −2 Σ_m ⟨C_m⁻¹ R_m, Δ_jm⟩        G_ij = Σ_m tr(Δ_iᵀ C_m⁻¹ Δ_j),  C_m = R_m R_mᵀ/k_m + s_m I
//
// log det is concave, so f lies below its linearisation in C: 2G is the Hessian of a quadratic above f that touches it in w.
// BFGS starts from (2G)⁻¹, its step then being that of majorise-minimise, and Armijo's rule keeps every step downhill.
//
// Two forms of the same numbers. With factors Δ_j = B_j A_j, whatever has k_m columns is summed up beforehand:
// RRᵀ = DDᵀ − Y B_wᵀ − B_w Yᵀ + B_w AAᵀ B_wᵀ with B_w = B·diag(w), Y = DAᵀ. Dense atoms, and factors of a total rank beyond
// 2k, form R.
//
// References: Fazel, Hindi & Boyd 2003 (log det for rank); Nocedal & Wright 2006, ch. 6; Liang & Zeger 1986 (the sandwich).

/// What is taken apart.
package enum WhitenedTarget: Sendable {
  case stored
  /// D_m = Σ_j c_j Δ_jm exactly, j over the atoms of the fit, with noise s_m = floor · (mean square of D_m).
  case combination([Double], floor: Double)
}

package struct WhitenedSolution: Sendable {
  /// By position among the atoms of the fit; 0 where not active and not given.
  package let weights: [Double]
  package let objective: Double
  /// The positions the following are about, in this order.
  package let active: [Int]
  /// ∂f_m/∂w by module of the sample.
  package let scores: [[Double]]
  /// 2 G_m by module, row-major, and their sum.
  package let moduleCurvatures: [[Double]]
  package let curvature: [Double]
  package let iterations: Int
  package let evaluations: Int
  /// A stopping rule was met, rather than the limit or a search that found nothing lower.
  package let converged: Bool
  /// G is singular on the unit diagonal: some combination of the active atoms is not determined; the step has least norm.
  package let isRankDeficient: Bool
  /// Active atoms that are zero in the whole sample; their weights are 0.
  package let zeroAtoms: [Int]
  /// √diag(H (Σ_m g_m g_mᵀ) H), H = (2G)⁺: the spread over modules, whatever the noise; NaN for zero atoms. Too small with few
  /// modules, and blind to what all modules share.
  package let standardErrors: [Double]
}

/// One module, ready to be evaluated at any w.
private final class WhitenedModule: @unchecked Sendable {
  let rows: Int
  let cols: Int
  /// By position: columns of B (rows of A), empty where absent.
  let ranges: [Range<Int>]
  let rank: Int
  let isFactored: Bool
  /// Factored: column-major rows×rank, rank×rank, rows×rank, rows×rows (upper).
  let b: Buffer<Double>
  let aa: Buffer<Double>
  let y: Buffer<Double>
  let dd: Buffer<Double>
  /// Dense: row-major.
  let target: Buffer<Float>
  let deltas: [Buffer<Float>?]
  /// s of the stored target.
  let floor: Double
  /// Largest mean square of an atom.
  let atomEnergy: Double

  init(_ m: SampledModule, _ atoms: [Int], leastFloor: Double) throws(UnmergeError) {
    rows = m.rows
    cols = m.cols
    target = m.target
    var ranges: [Range<Int>] = []
    var (rank, hasDense) = (0, false)
    for j in atoms {
      let size: Int
      switch m.atoms[j] {
      case .factors(_, _, let r)?: size = r
      case .dense?: (size, hasDense) = (0, true)
      case nil: size = 0
      }
      ranges.append(rank..<rank + size)
      rank += size
    }
    isFactored = !hasDense && rank <= 2 * m.cols
    let (d, k) = (m.rows, m.cols)
    // DDᵀ first: the floor is half way up its spectrum, since what is of low rank does not reach there.
    let wide: Buffer<Double> = try allocate(d * k)
    Double.load(wide.pointer, m.target.pointer, .f32, stride: 4, count: d * k, scale: 1, add: false)
    dd = try allocate(try product(d, d, "the Gram of a module's rows"))
    Double.syrk(d, k, wide.pointer, k, rowMajor: false, dd.pointer, d)
    let spectrum: Buffer<Double> = try allocate(d * d)
    spectrum.pointer.update(from: dd.pointer, count: d * d)
    let median = try allocating { () throws(OutOfMemory) in try Symmetric.medianEigenvalue(d, spectrum.pointer) }
    var energy = 0.0
    for i in 0..<d { energy += dd[i * d + i] / Double(d * k) }
    var deltas: [Buffer<Float>?] = []
    if isFactored {
      self.rank = rank
      self.ranges = ranges
      b = try allocate(try product(d, rank, "the factors of a module"))
      aa = try allocate(try product(rank, rank, "the Gram of the factors"))
      y = try allocate(d * rank)
      let a: Buffer<Double> = try allocate(try product(rank, k, "the factors of a module"))
      for (position, j) in atoms.enumerated() {
        guard case .factors(let left, let right, let r)? = m.atoms[j] else { continue }
        let first = ranges[position].lowerBound
        for i in 0..<d { for q in 0..<r { b[(first + q) * d + i] = Double(left[i * r + q]) } }
        Double.load(a.pointer + first * k, right.pointer, .f32, stride: 4, count: r * k, scale: 1, add: false)
      }
      if rank > 0 {
        Double.gemm(true, false, rank, rank, k, 1, a.pointer, k, a.pointer, k, 0, aa.pointer, rank)
        Double.gemm(true, false, d, rank, k, 1, wide.pointer, k, a.pointer, k, 0, y.pointer, d)
      }
    } else {
      self.rank = 0
      self.ranges = atoms.map { _ in 0..<0 }
      b = try allocate(0)
      aa = try allocate(0)
      y = try allocate(0)
      for j in atoms {
        switch m.atoms[j] {
        case nil: deltas.append(nil)
        case .dense(let x)?: deltas.append(x)
        case .factors?:
          let x: Buffer<Float> = try allocate(d * k)
          m.form(m.atoms[j], x.pointer)
          deltas.append(x)
        }
      }
    }
    self.deltas = deltas
    var most = 0.0
    for (position, r) in self.ranges.enumerated() {
      var sum = 0.0
      if isFactored {
        for p in r { for q in r { sum += aa[p * rank + q] * Double.dot(b.pointer + p * d, b.pointer + q * d, d) } }
      } else if let x = deltas[position] {
        sum = Float.squares(x.pointer, d * k)
      }
      most = max(most, sum / Double(d * k))
    }
    atomEnergy = most
    // Without noise (factors as a target) the objective would fall without end; without a target only the atoms give a scale.
    let found = max(m.roundingVariance, median / Double(k), leastFloor * energy)
    floor = found > 0 ? found : most > 0 ? leastFloor * most : 1
  }
}

/// The atoms that count in one minimisation, packed: active ones first, then those the target is made of.
private struct WhitenedAtoms {
  let active: [Int]
  let others: [Int]
  var all: [Int] { active + others }
  /// By module, for factored ones.
  let packed: [PackedFactors?]
}

private final class PackedFactors: @unchecked Sendable {
  let b: Buffer<Double>
  let aa: Buffer<Double>
  let y: Buffer<Double>
  /// By place in active + others.
  let ranges: [Range<Int>]
  let rank: Int
  /// Columns of the active atoms.
  let activeRank: Int

  init(_ f: WhitenedModule, _ s: [Int], active: Int) throws(UnmergeError) {
    var ranges: [Range<Int>] = []
    var columns: [Int] = []
    for j in s {
      ranges.append(columns.count..<columns.count + f.ranges[j].count)
      columns += f.ranges[j]
    }
    self.ranges = ranges
    rank = columns.count
    activeRank = active == 0 ? 0 : ranges[active - 1].upperBound
    if columns.count == f.rank, columns.elementsEqual(0..<f.rank) {
      (b, aa, y) = (f.b, f.aa, f.y)
      return
    }
    b = try allocate(f.rows * rank)
    y = try allocate(f.rows * rank)
    aa = try allocate(rank * rank)
    for (p, from) in columns.enumerated() {
      (b.pointer + p * f.rows).update(from: f.b.pointer + from * f.rows, count: f.rows)
      (y.pointer + p * f.rows).update(from: f.y.pointer + from * f.rows, count: f.rows)
      for (q, other) in columns.enumerated() { aa[p * rank + q] = f.aa[from * f.rank + other] }
    }
  }
}

/// f, its gradient and 2G of one module, or of all.
private struct WhitenedValue: Sendable {
  var f = 0.0
  var gradient: [Double]
  var curvature: [Double]
}

/// The buffers of one thread.
private final class WhitenedRoom: @unchecked Sendable {
  let c: Buffer<Double>
  let t: Buffer<Double>
  let bw: Buffer<Double>
  let x: Buffer<Double>
  let r: Buffer<Double>
  let z: Buffer<Double>
  let chunk: Buffer<Double>

  init(_ forms: [WhitenedModule]) throws(UnmergeError) {
    let factored = forms.filter(\.isFactored)
    let dense = forms.filter { !$0.isFactored }
    let panel = factored.reduce(0) { max($0, $1.rows * $1.rank) }
    let whole = dense.reduce(0) { max($0, $1.rows * $1.cols) }
    c = try allocate(forms.reduce(0) { max($0, $1.rows * $1.rows) })
    t = try allocate(panel)
    bw = try allocate(panel)
    x = try allocate(factored.reduce(0) { max($0, $1.rank * $1.rank) })
    r = try allocate(whole)
    z = try allocate(whole)
    chunk = try allocate(1024)
  }

  /// ⟨z, Δ⟩
  func dot(_ z: UnsafePointer<Double>, _ delta: Buffer<Float>) -> Double {
    var sum = 0.0
    var first = 0
    while first < delta.count {
      let n = min(chunk.count, delta.count - first)
      Double.load(chunk.pointer, delta.pointer + first, .f32, stride: 4, count: n, scale: 1, add: false)
      sum += Double.dot(z + first, chunk.pointer, n)
      first += n
    }
    return sum
  }

  /// C ← C/k + s on the diagonal, then its factor; log det.
  func factor(_ d: Int, _ k: Int, _ s: Double) -> Double? {
    let scale = 1 / Double(k)
    for j in 0..<d {
      for i in 0...j { c[j * d + i] *= scale }
      c[j * d + j] += s
    }
    return Symmetric.factor(d, c.pointer)
  }

  /// R = D − Σ w Δ, or Σ w Δ when the target is a combination, w then being c less the weights. Nil when C is not definite.
  func evaluate(
    _ f: WhitenedModule, _ p: PackedFactors, _ w: [Double], n: Int, isStored: Bool, floor: Double, curvature: Bool
  ) -> WhitenedValue? {
    let d = f.rows
    let rank = p.rank
    if isStored {
      c.pointer.update(from: f.dd.pointer, count: d * d)
      t.pointer.update(from: p.y.pointer, count: d * rank)
    }
    for (place, range) in p.ranges.enumerated() {
      for q in range { for i in 0..<d { bw[q * d + i] = w[place] * p.b[q * d + i] } }
    }
    if rank > 0 {
      // RRᵀ = DDᵀ − P B_wᵀ − B_w Pᵀ with P = Y − ½ B_w AAᵀ; of a combination ½ (T B_wᵀ + B_w Tᵀ) with T = B_w AAᵀ.
      if isStored {
        Double.gemm(false, false, d, rank, rank, -0.5, bw.pointer, d, p.aa.pointer, rank, 1, t.pointer, d)
        Symmetric.rank2k(d, rank, -1, t.pointer, bw.pointer, 1, c.pointer)
        Double.gemm(false, false, d, rank, rank, -0.5, bw.pointer, d, p.aa.pointer, rank, 1, t.pointer, d)
      } else {
        Double.gemm(false, false, d, rank, rank, 1, bw.pointer, d, p.aa.pointer, rank, 0, t.pointer, d)
        Symmetric.rank2k(d, rank, 0.5, t.pointer, bw.pointer, 0, c.pointer)
      }
    } else if !isStored {
      c.pointer.update(repeating: 0, count: d * d)
    }
    guard let logDet = factor(d, f.cols, floor) else { return nil }
    // T is now R Aᵀ; C⁻¹B takes the place of B_w.
    let a = p.activeRank
    bw.pointer.update(from: p.b.pointer, count: d * a)
    Symmetric.solve(d, factor: c.pointer, bw.pointer, columns: a)
    var value = WhitenedValue(f: Double(f.cols) * logDet, gradient: [], curvature: [])
    for range in p.ranges.prefix(n) {
      let first = range.lowerBound * d
      value.gradient.append(-2 * Double.dot(bw.pointer + first, t.pointer + first, range.count * d))
    }
    if curvature {
      value.curvature = Array(repeating: 0, count: n * n)
      if a > 0 { Double.gemm(true, false, a, a, d, 1, bw.pointer, d, p.b.pointer, d, 0, x.pointer, a) }
      for i in 0..<n {
        for j in i..<n {
          var sum = 0.0
          for v in p.ranges[j] { for u in p.ranges[i] { sum += x[v * a + u] * p.aa[v * rank + u] } }
          value.curvature[i * n + j] = 2 * sum
          value.curvature[j * n + i] = 2 * sum
        }
      }
    }
    return value
  }

  func evaluate(
    _ f: WhitenedModule, _ atoms: [Int], _ w: [Double], n: Int, isStored: Bool, floor: Double, curvature: Bool
  ) -> WhitenedValue? {
    let (d, k) = (f.rows, f.cols)
    func residual(_ x: Buffer<Float>, _ scale: Double) {
      Double.load(r.pointer, x.pointer, .f32, stride: 4, count: d * k, scale: scale, add: true)
    }
    r.pointer.update(repeating: 0, count: d * k)
    if isStored { residual(f.target, 1) }
    for (place, j) in atoms.enumerated() where w[place] != 0 {
      if let x = f.deltas[j] { residual(x, isStored ? -w[place] : w[place]) }
    }
    Double.syrk(d, k, r.pointer, k, rowMajor: false, c.pointer, d)
    guard let logDet = factor(d, k, floor), Symmetric.invert(d, factor: c.pointer) else { return nil }
    // Z = C⁻¹R; in memory both are k×d, column-major.
    Double.gemm(false, false, k, d, d, 1, r.pointer, k, c.pointer, d, 0, z.pointer, k)
    var value = WhitenedValue(f: Double(k) * logDet, gradient: [], curvature: [])
    for j in atoms.prefix(n) { value.gradient.append(f.deltas[j].map { -2 * dot(z.pointer, $0) } ?? 0) }
    if curvature {
      value.curvature = Array(repeating: 0, count: n * n)
      for j in 0..<n {
        guard let x = f.deltas[atoms[j]] else { continue }
        r.pointer.update(repeating: 0, count: d * k)
        residual(x, 1)
        Double.gemm(false, false, k, d, d, 1, r.pointer, k, c.pointer, d, 0, z.pointer, k)
        for i in 0...j {
          guard let other = f.deltas[atoms[i]] else { continue }
          let sum = dot(z.pointer, other)
          value.curvature[i * n + j] = 2 * sum
          value.curvature[j * n + i] = 2 * sum
        }
      }
    }
    return value
  }
}

/// The pseudo-inverse of a symmetric positive semidefinite matrix on the scale of its unit diagonal; zero rows stay zero.
private func pseudoInverse(_ g: [Double], _ n: Int) throws(UnmergeError) -> (inverse: [Double], isDeficient: Bool) {
  let scale = (0..<n).map { g[$0 * n + $0] > 0 ? 1 / g[$0 * n + $0].squareRoot() : 0 }
  let present = (0..<n).filter { scale[$0] > 0 && scale[$0].isFinite }
  let k = present.count
  var inverse = [Double](repeating: 0, count: n * n)
  let a: Buffer<Double> = try allocate(k * k)
  for (q, j) in present.enumerated() {
    for (p, i) in present.enumerated() { a[q * k + p] = g[j * n + i] * scale[i] * scale[j] }
  }
  guard let (values, vectors) = try allocating({ () throws(OutOfMemory) in try Symmetric.eigen(k, a.pointer) }) else {
    // Not reached with finite numbers; the diagonal is a step that can only be too careful.
    for j in present { inverse[j * n + j] = scale[j] * scale[j] / Double(k) }
    return (inverse, true)
  }
  var isDeficient = false
  for e in 0..<k {
    guard values[e] > 1e-10 else {
      isDeficient = true
      continue
    }
    for (q, j) in present.enumerated() {
      let left = vectors[e * k + q] * scale[j] / values[e]
      for (p, i) in present.enumerated() { inverse[j * n + i] += left * vectors[e * k + p] * scale[i] }
    }
  }
  return (inverse, isDeficient)
}

package struct WhitenedFit: Sendable {
  package struct Limits: Sendable {
    package var iterations = 60
    /// Stops: the largest change of a weight; the fall of f in a step; the fall BFGS expects.
    package var step = 1e-7
    package var fall = 1e-2
    package var expectedFall = 1e-3

    package init() {}
  }

  /// Columns of the sample's atoms; everything else counts by position in here.
  package let atoms: [Int]
  private let forms: [WhitenedModule]
  private let watch: Watch

  /// s_m = max(rounding variance, median eigenvalue of D Dᵀ/k, leastFloor · mean square of D).
  package init(_ sample: RowSample, atoms: [Int]? = nil, leastFloor: Double = 1e-6, _ watch: Watch) throws(UnmergeError) {
    let atoms = atoms ?? Array(0..<sample.atoms)
    let results = Results<WhitenedModule?>(sample.modules.count, nil)
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: sample.modules.count, slots: max(1, min(sample.modules.count, watch.threads)), watch) {
        (m, _) throws(UnmergeError) in
        results.set(m, try WhitenedModule(sample.modules[m], atoms, leastFloor: leastFloor))
      } finish: { _, _ in
      }
    }
    self.atoms = atoms
    self.watch = watch
    forms = results.values.compactMap { $0 }
  }

  /// s_m of the stored target.
  package var floors: [Double] { forms.map(\.floor) }

  /// One evaluation after the other shares its buffers.
  private struct WhitenedCourse {
    let selection: WhitenedAtoms
    /// Of the combination, in the order of the selection; nil: the stored target.
    let target: [Double]?
    let floors: [Double]
    let rooms: [WhitenedRoom]
  }

  private func prepare(_ active: [Int], _ given: [Double], _ target: WhitenedTarget) throws(UnmergeError) -> WhitenedCourse {
    let isActive = Set(active)
    let coefficients: [Double]? = if case .combination(let c, _) = target { c } else { nil }
    let others = atoms.indices.filter { !isActive.contains($0) && (given[$0] != 0 || (coefficients?[$0] ?? 0) != 0) }
    let selected = active + others
    var packed: [PackedFactors?] = []
    for f in forms { packed.append(f.isFactored ? try PackedFactors(f, selected, active: active.count) : nil) }
    var rooms: [WhitenedRoom] = []
    for _ in 0..<max(1, min(watch.threads, forms.count)) { rooms.append(try WhitenedRoom(forms)) }
    var floors = forms.map(\.floor)
    if case .combination(let c, let share) = target {
      for (m, f) in forms.enumerated() {
        let energy = combinationEnergy(f, c, rooms[0])
        floors[m] = energy > 0 ? share * energy : f.atomEnergy > 0 ? share * f.atomEnergy : 1
      }
    }
    return WhitenedCourse(
      selection: WhitenedAtoms(active: active, others: others, packed: packed),
      target: coefficients.map { c in selected.map { c[$0] } },
      floors: floors, rooms: rooms)
  }

  /// The mean square of Σ c_j Δ_j in a module.
  private func combinationEnergy(_ f: WhitenedModule, _ c: [Double], _ room: WhitenedRoom) -> Double {
    let size = Double(f.rows * f.cols)
    if f.isFactored {
      guard f.rank > 0 else { return 0 }
      for (j, range) in f.ranges.enumerated() {
        for q in range { for i in 0..<f.rows { room.bw[q * f.rows + i] = c[j] * f.b[q * f.rows + i] } }
      }
      Double.gemm(
        false, false, f.rows, f.rank, f.rank, 1, room.bw.pointer, f.rows, f.aa.pointer, f.rank, 0, room.t.pointer, f.rows)
      return max(0, Double.dot(room.bw.pointer, room.t.pointer, f.rows * f.rank)) / size
    }
    room.r.pointer.update(repeating: 0, count: f.rows * f.cols)
    for (j, x) in f.deltas.enumerated() where c[j] != 0 {
      if let x { Double.load(room.r.pointer, x.pointer, .f32, stride: 4, count: x.count, scale: c[j], add: true) }
    }
    return Double.squares(room.r.pointer, f.rows * f.cols) / size
  }

  /// Module by module, in their order; nil when some C is not definite.
  private func evaluate(_ course: WhitenedCourse, _ w: [Double], curvature: Bool) throws(UnmergeError) -> [WhitenedValue]? {
    let (forms, selection) = (forms, course.selection)
    let all = selection.all
    let residual = all.enumerated().map { (place, j) in course.target.map { $0[place] - w[j] } ?? w[j] }
    let results = Results<WhitenedValue?>(forms.count, nil)
    try performPass(tasks: forms.count, slots: course.rooms.count, watch) { (m, slot) throws(UnmergeError) in
      let room = course.rooms[slot]
      let n = selection.active.count
      let isStored = course.target == nil
      if let p = selection.packed[m] {
        results.set(
          m,
          room.evaluate(forms[m], p, residual, n: n, isStored: isStored, floor: course.floors[m], curvature: curvature))
      } else {
        results.set(
          m,
          room.evaluate(forms[m], all, residual, n: n, isStored: isStored, floor: course.floors[m], curvature: curvature))
      }
    } finish: { _, _ in
    }
    let values = results.values.compactMap { $0 }
    return values.count == forms.count ? values : nil
  }

  private func sum(_ values: [WhitenedValue], _ n: Int) -> WhitenedValue {
    var total = WhitenedValue(gradient: Array(repeating: 0, count: n), curvature: Array(repeating: 0, count: n * n))
    for v in values {
      total.f += v.f
      for i in 0..<n { total.gradient[i] += v.gradient[i] }
      for (i, x) in v.curvature.enumerated() { total.curvature[i] += x }
    }
    return total
  }

  /// f and its gradient by position; infinite where C is not definite.
  package func objective(
    at w: [Double], target: WhitenedTarget = .stored
  ) throws(UnmergeError) -> (value: Double, gradient: [Double]) {
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      let course = try prepare(Array(atoms.indices), w, target)
      guard let values = try evaluate(course, w, curvature: false) else {
        return (.infinity, Array(repeating: .nan, count: w.count))
      }
      let total = sum(values, w.count)
      return (total.f, total.gradient)
    }
  }

  /// From w over the active positions (nil: all); the others keep what they are given.
  package func minimise(
    from start: [Double], active: [Int]? = nil, target: WhitenedTarget = .stored, limits: Limits = Limits()
  ) throws(UnmergeError) -> WhitenedSolution {
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try descend(start, active ?? Array(atoms.indices), target, limits)
    }
  }

  private func descend(
    _ start: [Double], _ active: [Int], _ target: WhitenedTarget, _ limits: Limits
  ) throws(UnmergeError) -> WhitenedSolution {
    let n = active.count
    let course = try prepare(active, start, target)
    var w = start
    var evaluations = 1
    guard let first = try evaluate(course, w, curvature: true) else {
      throw .range("the whitened fit cannot start: the weights it is given are too large")
    }
    var current = sum(first, n)
    let zero = (0..<n).filter { !(current.curvature[$0 * n + $0] > 0) }
    for i in zero { w[active[i]] = 0 }
    var (h, isDeficient) = try pseudoInverse(current.curvature, n)
    var (iterations, converged) = (0, n == 0)
    while iterations < limits.iterations, !converged {
      let g = current.gradient
      let p = (0..<n).map { i in -(0..<n).reduce(0.0) { $0 + h[i * n + $1] * g[$1] } }
      let slope = (0..<n).reduce(0.0) { $0 + g[$1] * p[$1] }
      guard slope < -limits.expectedFall else {
        converged = true
        break
      }
      iterations += 1
      var t = 1.0
      var trial = w
      var next: WhitenedValue?
      while t >= 1e-3 {
        for (i, j) in active.enumerated() { trial[j] = w[j] + t * p[i] }
        evaluations += 1
        if let values = try evaluate(course, trial, curvature: false) {
          let value = sum(values, n)
          if value.f <= current.f + 1e-4 * t * slope {
            next = value
            break
          }
        }
        t *= 0.5
      }
      guard let next else { break }
      let s = p.map { t * $0 }
      let y = (0..<n).map { next.gradient[$0] - g[$0] }
      let sy = (0..<n).reduce(0.0) { $0 + s[$1] * y[$1] }
      let (ss, yy) = (s.reduce(0) { $0 + $1 * $1 }, y.reduce(0) { $0 + $1 * $1 })
      if sy > 1e-12 * (ss * yy).squareRoot() {
        var hy = (0..<n).map { i in (0..<n).reduce(0.0) { $0 + h[i * n + $1] * y[$1] } }
        var yhy = (0..<n).reduce(0.0) { $0 + y[$1] * hy[$1] }
        if iterations == 1, yhy > 0 {
          // 2G is above the Hessian: its inverse is stretched to what the first step has seen.
          let stretch = min(max(sy / yhy, 0.1), 10)
          for i in h.indices { h[i] *= stretch }
          for i in 0..<n { hy[i] *= stretch }
          yhy *= stretch
        }
        // H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ, ρ = 1/sᵀy
        for i in 0..<n {
          for j in 0..<n {
            h[i * n + j] += (s[i] * s[j] * (1 + yhy / sy) - s[i] * hy[j] - hy[i] * s[j]) / sy
          }
        }
      }
      let fall = current.f - next.f
      let step = s.reduce(0) { max($0, abs($1)) }
      w = trial
      current = next
      watch.report(phase: UNMERGE_PHASE_SOLVE, pass: 1, done: iterations, total: limits.iterations, objective: current.f)
      converged = step < limits.step || fall < limits.fall
    }
    let last = try evaluate(course, w, curvature: true) ?? first
    evaluations += 1
    let total = sum(last, n)
    let (inverse, _) = try pseudoInverse(total.curvature, n)
    var errors = [Double](repeating: 0, count: n)
    for v in last {
      for i in 0..<n {
        let e = (0..<n).reduce(0.0) { $0 + inverse[i * n + $1] * v.gradient[$1] }
        errors[i] += e * e
      }
    }
    return WhitenedSolution(
      weights: w, objective: total.f, active: active, scores: last.map(\.gradient), moduleCurvatures: last.map(\.curvature),
      curvature: total.curvature, iterations: iterations, evaluations: evaluations, converged: converged,
      isRankDeficient: isDeficient, zeroAtoms: zero.map { active[$0] },
      standardErrors: errors.enumerated().map { zero.contains($0) ? .nan : $1.squareRoot() })
  }
}
