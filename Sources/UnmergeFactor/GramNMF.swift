import CUnmerge
import UnmergeCore
import UnmergeLinalg
import UnmergeSparse

/// Semi- and convex NMF of a collection X (p×T), from K = XᵀX alone:
///
///     minimise over M (T×k), H (k×T) ≥ 0:  ½‖X − XMH‖² + l1 Σ H + ½ l2 ‖H‖²        semi: any M; convex: M ≥ 0
///
/// W = XM is never formed: ⟨w_l, w_m⟩ = m_lᵀKm_m, ⟨w_l, x_t⟩ = (Km_l)_t. By turns
///
///     H      the k×T non-negative least-squares problem with Gram MᵀKM               (`BlockPivoting`)
///     M      semi:   Hᵀ(HHᵀ)⁺, whatever K is; with penalties a column at a time
///            convex: column l minimises ½ a mᵀKm − mᵀ(KHᵀ − KM HHᵀ + a Km)_l, a = ‖h_l‖²: NNLS with the Gram K
///
/// With a penalty the scale would run from H into W, so ‖w_l‖ ≤ 1 then; w_l is its minimum without that, scaled back: the
/// objective is a multiple of ‖w_l − z‖², and projecting on a cone and then on the ball is projecting on both. Without
/// penalties ‖w_l‖ = 1 is a convention, which moves nothing.
///
/// M answers to H moved on along its last step; an iteration that would not descend is thrown away and repeated from H itself,
/// which descends by construction (after Ang & Gillis 2019). Semi-NMF crawls without: its infimum need not be attained.
///
/// Invariant: after every iteration H is exact for its M, and the objective has not risen but for rounding. Everything is in
/// units of the largest ‖x_t‖, `scale`: X = scale X̃, H = scale H̃, M = M̃ / scale.
///
/// References: Ding, Li & Jordan 2010; Kim & Park 2011; Gillis & Vavasis 2014 (greedy columns).
package final class GramNMF: Model, @unchecked Sendable {
  package static let magic = "UNMGNMF1"
  package static let kind = UNMERGE_MODEL_GRAM_NMF

  package let rows: Int
  package let columns: Int
  package let components: Int
  package private(set) var iterations = 0

  let isConvex: Bool
  let extrapolates: Bool
  /// As given; `l1` is l1_h in units of scale.
  let l1h: Double
  let l2: Double
  let scale: Double
  private var l1: Double { min(l1h / scale, 1e300) }
  private var isPenalised: Bool { l1h > 0 || l2 > 0 }
  /// K, T×T, both triangles.
  private let kernel: Buffer<Double>
  /// Σ ‖x_t‖²
  private let squares: Double
  /// M, T×k, and H, k×T, by columns.
  let m: Buffer<Double>
  let h: Buffer<Double>
  /// What the next M answers to.
  private let hNext: Buffer<Double>
  /// Of (M, H), in units of scale²; infinite before the first iteration.
  private var value = Double.infinity
  private var momentum = 0.5
  private var largestMomentum = 1.0
  /// The last iteration was thrown away, or there was none.
  private var isPlain = true

  private init(
    rows: Int, columns t: Int, components k: Int, isConvex: Bool, extrapolates: Bool, l1h: Double, l2: Double, scale: Double,
    kernel: Buffer<Double>
  ) throws(UnmergeError) {
    (self.rows, columns, components) = (rows, t, k)
    self.extrapolates = extrapolates
    (self.isConvex, self.l1h, self.l2, self.scale, self.kernel) = (isConvex, l1h, l2, scale, kernel)
    m = try allocate(product(t, k, "M"))
    h = try allocate(product(k, t, "H"))
    hNext = try allocate(k * t)
    var sum = 0.0
    for i in 0..<t { sum += kernel[i * t + i] }
    squares = sum
  }

  /// The atoms of the Gram are the columns of X.
  convenience init(
    _ gram: Gram, components: Int, isConvex: Bool, extrapolates: Bool, l1h: Double, l2: Double, _ watch: Watch
  ) throws(UnmergeError) {
    let t = gram.atoms
    try gram.require(Array(0..<t), watch)
    var scale = 0.0
    for j in 0..<t { scale = max(scale, gram.norms[j]) }
    if scale == 0 { scale = 1 }
    let kernel: Buffer<Double> = try allocate(product(t, t, "the Gram"))
    for j in 0..<t {
      let column = gram.column(j)
      let d = gram.norms[j] / scale
      for i in 0..<t { kernel[j * t + i] = column[i] * (gram.norms[i] / scale * d) }
    }
    try self.init(
      rows: gram.entries, columns: t, components: components, isConvex: isConvex, extrapolates: extrapolates, l1h: l1h,
      l2: l2, scale: scale, kernel: kernel)
  }

  // MARK: the start

  /// H from the eigenvectors of K; for convex the greedy columns in M, and H that fits them.
  func startFromData(_ watch: Watch) throws(UnmergeError) {
    let (t, k) = (columns, components)
    if isConvex {
      try standOut()
      let work = try Work(self, watch.threads)
      multiply(m, isTransposed: false, work.km, watch.threads)
      solveCodes(work)
      return
    }
    let view = View(
      base: UnsafeRawPointer(kernel.pointer), type: .f64, rows: t, columns: t, rowStride: 8, columnStride: 8 * t)
    let (_, _, vectors) = try truncatedSVD(
      DataMatrix(view: view, threads: watch.threads, hasMissing: false), k, seed: 0, watch)
    for l in 0..<k {
      let v = vectors.column(l)
      var (plus, minus) = (0.0, 0.0)
      for i in 0..<t { if v[i] > 0 { plus += v[i] * v[i] } else { minus += v[i] * v[i] } }
      let sign = plus >= minus ? 1.0 : -1.0
      for i in 0..<t { h[i * k + l] = max(0, sign * v[i]) }
    }
  }

  /// Column by column the one farthest from the span of those before it: Cholesky with pivoting. What is left when K has no
  /// more rank is taken in order.
  private func standOut() throws(UnmergeError) {
    let (t, k) = (columns, components)
    let factor: Buffer<Double> = try allocate(t * k)
    let left: Buffer<Double> = try allocate(t)
    let taken: Buffer<Bool> = try allocate(t)
    for i in 0..<t { left[i] = kernel[i * t + i] }
    for l in 0..<k {
      var best = -1
      for i in 0..<t where !taken[i] && (best < 0 || left[i] > left[best]) { best = i }
      taken[best] = true
      let norm = kernel[best * t + best].squareRoot()
      if norm > 0 { m[l * t + best] = 1 / norm }
      guard left[best] > 1e-14 else { continue }
      let new = factor.pointer + l * t
      new.update(from: kernel.pointer + best * t, count: t)
      for j in 0..<l { Vector.axpy(t, -factor[j * t + best], factor.pointer + j * t, new) }
      let pivot = left[best].squareRoot()
      for i in 0..<t {
        new[i] /= pivot
        left[i] = max(0, left[i] - new[i] * new[i])
      }
      left[best] = 0
    }
  }

  func startAtRandom(_ seed: UInt64, _ watch: Watch) throws(UnmergeError) {
    for i in 0..<h.count { h[i] = CounterRandom.uniform(seed, 2, i) }
    try fitMixing(watch)
  }

  /// For the H of the start: the non-negative part of the least-squares M. From M = 0 the first column would take everything.
  private func fitMixing(_ watch: Watch) throws(UnmergeError) {
    guard isConvex else { return }
    let work = try Work(self, watch.threads)
    hNext.pointer.update(from: h.pointer, count: h.count)
    takeProducts(of: hNext, work, withKernel: false)
    try leastSquares(work)
    for i in 0..<m.count { m[i] = max(0, m[i]) }
  }

  func start(at given: View, _ watch: Watch) throws(UnmergeError) {
    let (t, k) = (columns, components)
    guard given.rows == k, given.columns == t else {
      throw .shape("options->h is \(given.rows) x \(given.columns), expected \(k) x \(t)")
    }
    for j in 0..<t {
      for l in 0..<k {
        let value = given.element(l, j)
        guard value.isFinite, value >= 0 else {
          throw .range("options->h[\(l), \(j)] is \(value); it must be finite and >= 0")
        }
        h[j * k + l] = min(value / scale, 1e150)
      }
    }
    try fitMixing(watch)
  }

  // MARK: steps

  /// Working memory of one call.
  private final class Work {
    let threads: Int
    let codes: BlockPivoting
    /// Of convex columns.
    let mixing: BlockPivoting?
    /// KHᵀ and KM, T×k; HHᵀ and MᵀKM, k×k; a k×T and a T×k.
    let p: Buffer<Double>
    let km: Buffer<Double>
    let a: Buffer<Double>
    let g: Buffer<Double>
    let wide: Buffer<Double>
    let tall: Buffer<Double>
    let column: Buffer<Double>
    /// M and H before the iteration.
    let oldM: Buffer<Double>
    let oldH: Buffer<Double>
    let small: Buffer<Double>

    init(_ model: GramNMF, _ threads: Int) throws(UnmergeError) {
      let (t, k) = (model.columns, model.components)
      self.threads = threads
      codes = try BlockPivoting(size: k, threads: min(threads, (t + 255) / 256))
      mixing = model.isConvex ? try BlockPivoting(size: t, threads: 1, targets: 1) : nil
      mixing?.prepare(model.kernel.pointer)
      p = try allocate(t * k)
      km = try allocate(t * k)
      a = try allocate(product(k, k, "HH'"))
      g = try allocate(k * k)
      small = try allocate(2 * k * k)
      wide = try allocate(k * t)
      tall = try allocate(t * k)
      column = try allocate(t)
      oldM = try allocate(t * k)
      oldH = try allocate(k * t)
    }
  }

  package func step(_ x: View?, _ watch: Watch) throws(UnmergeError) -> unmerge_report {
    guard x == nil else { throw .range("x is given; this model has its Gram and takes NULL") }
    let work = try Work(self, watch.threads)
    multiply(m, isTransposed: false, work.km, watch.threads)
    refresh(work)
    if iterations == 0 { hNext.pointer.update(from: h.pointer, count: h.count) }
    let first = iterations
    var violation = self.violation(work)
    var outcome = violation <= watch.tol ? UNMERGE_CONVERGED : UNMERGE_ITERATION_LIMIT
    while outcome == UNMERGE_ITERATION_LIMIT, iterations - first < watch.maxIterations {
      if let stop = watch.poll() {
        outcome = stop.outcome
        break
      }
      try iterate(work)
      iterations += 1
      violation = self.violation(work)
      watch.report(
        phase: UNMERGE_PHASE_SOLVE, pass: 0, done: iterations - first, total: watch.maxIterations,
        objective: objective(work).value * scale * scale, relativeGap: violation)
      if violation <= watch.tol { outcome = UNMERGE_CONVERGED }
    }
    var report = unmerge_report.defaults
    let (value, rss) = objective(work)
    report.outcome = outcome
    report.iterations = Int64(iterations - first)
    report.objective = value * scale * scale
    report.rss = rss * scale * scale
    report.yy = squares * scale * scale
    report.r2 = squares > 0 ? 1 - rss / squares : 0
    report.violation = violation
    var nonzeros = 0
    for i in 0..<h.count where h[i] != 0 { nonzeros += 1 }
    if isConvex { for i in 0..<m.count where m[i] != 0 { nonzeros += 1 } }
    report.nonzeros = Int64(nonzeros)
    report.seconds = watch.seconds
    return report
  }

  /// `work` holds KM and the products of M and H before and after.
  private func iterate(_ work: Work) throws(UnmergeError) {
    let t = columns
    work.oldM.pointer.update(from: m.pointer, count: m.count)
    work.oldH.pointer.update(from: h.pointer, count: h.count)
    takeProducts(of: hNext, work, withKernel: isConvex || isPenalised)
    let unused = deadComponents(work)
    if isConvex {
      for _ in 0..<Self.sweeps { convexSweep(work) }
    } else if isPenalised {
      for _ in 0..<Self.sweeps { semiSweep(work) }
    } else {
      try leastSquares(work)
    }
    normalise(work)
    for (l, j) in unused {
      for i in 0..<t { m[l * t + i] = 0 }
      m[l * t + j] = 1 / kernel[j * t + j].squareRoot()
    }
    multiply(m, isTransposed: false, work.km, work.threads)
    solveCodes(work)
    refresh(work)
    let new = objective(work).value
    if isPlain || new <= value {
      value = new
      if extrapolates, iterations > 0 {
        if !isPlain { largestMomentum = min(1, 1.05 * largestMomentum) }
        momentum = min(largestMomentum, isPlain ? momentum : 1.1 * momentum)
        isPlain = false
        for i in 0..<h.count { hNext[i] = h[i] + momentum * (h[i] - work.oldH[i]) }
      } else {
        hNext.pointer.update(from: h.pointer, count: h.count)
      }
    } else {
      m.pointer.update(from: work.oldM.pointer, count: m.count)
      h.pointer.update(from: work.oldH.pointer, count: h.count)
      hNext.pointer.update(from: h.pointer, count: h.count)
      largestMomentum = momentum
      momentum /= 1.5
      isPlain = true
      multiply(m, isTransposed: false, work.km, work.threads)
      refresh(work)
    }
  }

  /// Over the columns of M, where one turn does not end it.
  private static let sweeps = 2

  /// R ← KR for R of T×k, or given as its transpose; by blocks of rows, which threads share.
  private func multiply(_ r: Buffer<Double>, isTransposed: Bool, _ out: Buffer<Double>, _ threads: Int) {
    let (t, k) = (columns, components)
    let block = 256
    let blocks = (t + block - 1) / block
    let workers = min(threads, blocks)
    let kernel = self.kernel
    Threads.perform(workers) { worker in
      for b in stride(from: worker, to: blocks, by: workers) {
        let first = b * block
        Double.gemm(
          true, isTransposed, min(block, t - first), k, t, 1, kernel.pointer + first * t, t, r.pointer,
          isTransposed ? k : t, 0, out.pointer + first, t)
      }
    }
  }

  private func takeProducts(of h: Buffer<Double>, _ work: Work, withKernel: Bool) {
    let (t, k) = (columns, components)
    if withKernel { multiply(h, isTransposed: true, work.p, work.threads) }
    Double.gemm(false, true, k, k, t, 1, h.pointer, k, h.pointer, k, 0, work.a.pointer, k)
  }

  private func refresh(_ work: Work) {
    let (t, k) = (columns, components)
    takeProducts(of: h, work, withKernel: true)
    Double.gemm(true, false, k, k, t, 1, m.pointer, t, work.km.pointer, t, 0, work.g.pointer, k)
  }

  /// H for the M whose KM is in `work`.
  private func solveCodes(_ work: Work) {
    let (t, k) = (columns, components)
    let (g, c, km) = (work.small, work.wide, work.km)
    Double.gemm(true, false, k, k, t, 1, m.pointer, t, km.pointer, t, 0, g.pointer, k)
    for l in 0..<k {
      for i in 0..<l {
        let mean = (g[l * k + i] + g[i * k + l]) / 2
        (g[l * k + i], g[i * k + l]) = (mean, mean)
      }
      g[l * k + l] += l2
    }
    for l in 0..<k { for j in 0..<t { c[j * k + l] = km[l * t + j] - l1 } }
    work.codes.prepare(g.pointer)
    _ = work.codes.solve(c.pointer, h.pointer, targets: t)
  }

  /// M ← Hᵀ(HHᵀ)⁺, on the rows of H that are not 0.
  private func leastSquares(_ work: Work) throws(UnmergeError) {
    let (t, k) = (columns, components)
    let (a, inverse) = (work.a, work.small.pointer)
    let d = work.column.pointer
    // T ≥ k: the column has room for the norms.
    for l in 0..<k { d[l] = a[l * k + l] > 0 ? 1 / a[l * k + l].squareRoot() : 0 }
    for l in 0..<k {
      for i in 0..<k { inverse[l * k + i] = a[l * k + i] * d[i] * d[l] }
      if d[l] == 0 { inverse[l * k + l] = 1 }
    }
    let isRegular = Symmetric.factor(k, inverse) != nil && (0..<k).allSatisfy { inverse[$0 * k + $0] > 1e-5 }
    if isRegular {
      for j in 0..<t { for l in 0..<k { work.wide[j * k + l] = hNext[j * k + l] * d[l] } }
      Symmetric.solve(k, factor: inverse, work.wide.pointer, columns: t)
    } else {
      let eigen = try allocating { () throws(OutOfMemory) in
        for l in 0..<k { for i in 0..<k { inverse[l * k + i] = a[l * k + i] * d[i] * d[l] } }
        return try Symmetric.eigen(k, inverse)
      }
      // Where LAPACK gives up M stays: H alone goes on.
      guard let eigen else { return }
      let least = Double(k) * 0x1p-50 * eigen.values[k - 1]
      let second = work.small.pointer + k * k
      for l in 0..<k {
        let value = eigen.values[l]
        for i in 0..<k {
          second[l * k + i] = value > least ? eigen.vectors[l * k + i] / value : 0
        }
      }
      Double.gemm(false, true, k, k, k, 1, second, k, eigen.vectors.pointer, k, 0, inverse, k)
      let scaled = work.tall
      for j in 0..<t { for l in 0..<k { scaled[j * k + l] = hNext[j * k + l] * d[l] } }
      Double.gemm(false, false, k, t, k, 1, inverse, k, scaled.pointer, k, 0, work.wide.pointer, k)
    }
    for l in 0..<k { for j in 0..<t { m[l * t + j] = work.wide[j * k + l] * d[l] } }
    multiply(m, isTransposed: false, work.km, work.threads)
  }

  /// m_l ← (Hᵀ − M HHᵀ)_l / a + m_l, scaled into the ball; one column after the other.
  private func semiSweep(_ work: Work) {
    let (t, k) = (columns, components)
    for l in 0..<k where work.a[l * k + l] > 0 {
      let (ml, kml, a) = (m.pointer + l * t, work.km.pointer + l * t, work.a[l * k + l])
      for j in 0..<t { work.column[j] = hNext[j * k + l] }
      Double.gemm(false, false, t, 1, k, -1, m.pointer, t, work.a.pointer + l * k, k, 1, work.column.pointer, t)
      Vector.axpy(t, 1 / a, work.column.pointer, ml)
      work.column.pointer.update(from: work.p.pointer + l * t, count: t)
      Double.gemm(false, false, t, 1, k, -1, work.km.pointer, t, work.a.pointer + l * k, k, 1, work.column.pointer, t)
      Vector.axpy(t, 1 / a, work.column.pointer, kml)
      intoBall(ml, kml)
    }
  }

  private func convexSweep(_ work: Work) {
    guard let solver = work.mixing else { return }
    let (t, k) = (columns, components)
    for l in 0..<k where work.a[l * k + l] > 0 {
      let (ml, kml, a) = (m.pointer + l * t, work.km.pointer + l * t, work.a[l * k + l])
      let q = work.column.pointer
      q.update(from: work.p.pointer + l * t, count: t)
      Double.gemm(false, false, t, 1, k, -1, work.km.pointer, t, work.a.pointer + l * k, k, 1, q, t)
      for j in 0..<t { q[j] = q[j] / a + kml[j] }
      _ = solver.solve(q, ml, targets: 1)
      kml.update(repeating: 0, count: t)
      for j in 0..<t where ml[j] != 0 { Vector.axpy(t, ml[j], kernel.pointer + j * t, kml) }
      intoBall(ml, kml)
    }
  }

  private func intoBall(_ ml: UnsafeMutablePointer<Double>, _ kml: UnsafeMutablePointer<Double>) {
    guard isPenalised else { return }
    let norm = Vector.dot(columns, ml, kml)
    guard norm > 1 else { return }
    let s = 1 / norm.squareRoot()
    for j in 0..<columns {
      ml[j] *= s
      kml[j] *= s
    }
  }

  /// ‖w_l‖ = 1 where nothing depends on it. A column whose norm is rounding is 0.
  private func normalise(_ work: Work) {
    guard !isPenalised else { return }
    let t = columns
    for l in 0..<components {
      let ml = m.pointer + l * t
      let norm = Vector.dot(t, ml, work.km.pointer + l * t)
      var size = 0.0
      for j in 0..<t { size += abs(ml[j]) * kernel[j * t + j].squareRoot() }
      let s = norm > 1e-15 * size * size ? 1 / norm.squareRoot() : 0
      for j in 0..<t { ml[j] *= s }
    }
  }

  /// Components that no column uses, and for each the worst fitted x_t that is left.
  private func deadComponents(_ work: Work) -> [(component: Int, column: Int)] {
    let (t, k) = (columns, components)
    let dead = (0..<k).filter { work.a[$0 * k + $0] == 0 }
    if dead.isEmpty { return [] }
    let residual = work.column
    for j in 0..<t {
      let hj = h.pointer + j * k
      var sum = kernel[j * t + j]
      for l in 0..<k where hj[l] != 0 {
        sum += hj[l] * (Vector.dot(k, work.g.pointer + l * k, hj) - 2 * work.km[l * t + j])
      }
      residual[j] = sum > 1e-13 * kernel[j * t + j] ? sum : 0
    }
    var found: [(component: Int, column: Int)] = []
    for l in dead {
      var worst = 0
      for j in 0..<t where residual[j] > residual[worst] { worst = j }
      guard residual[worst] > 0 else { break }
      residual[worst] = 0
      found.append((l, worst))
    }
    return found
  }

  // MARK: the certificate

  private func objective(_ work: Work) -> (value: Double, rss: Double) {
    let (t, k) = (columns, components)
    var (cross, sum) = (0.0, 0.0)
    for j in 0..<t {
      for l in 0..<k {
        cross += work.km[l * t + j] * h[j * k + l]
        sum += h[j * k + l]
      }
    }
    let rss = max(0, squares - 2 * cross + Vector.dot(k * k, work.g.pointer, work.a.pointer))
    var trace = 0.0
    for l in 0..<k { trace += work.a[l * k + l] }
    return (rss / 2 + (l1 > 0 ? l1 * sum : 0) + l2 / 2 * trace, rss)
  }

  /// See the header. With e_l = (M HHᵀ − Hᵀ)_l the gradient of w_l is X e_l; a w_l on the sphere has a multiplier that takes
  /// what points outwards.
  private func violation(_ work: Work) -> Double {
    guard squares > 0 else { return 0 }
    let (t, k) = (columns, components)
    let (e, ke) = (work.tall, work.column)
    for l in 0..<k { for j in 0..<t { e[l * t + j] = h[j * k + l] } }
    Double.gemm(false, false, t, k, k, 1, m.pointer, t, work.a.pointer, k, -1, e.pointer, t)
    var sum = 0.0
    for l in 0..<k where work.a[l * k + l] > 0 {
      let a = work.a[l * k + l]
      let (el, ml, kml) = (e.pointer + l * t, m.pointer + l * t, work.km.pointer + l * t)
      ke.pointer.update(from: work.p.pointer + l * t, count: t)
      Double.gemm(false, false, t, 1, k, 1, work.km.pointer, t, work.a.pointer + l * k, k, -1, ke.pointer, t)
      let norm = Vector.dot(t, ml, kml)
      if isPenalised, norm > 1 - 1e-12 {
        let multiplier = max(0, -Vector.dot(t, ml, ke.pointer) / norm)
        Vector.axpy(t, multiplier, ml, el)
        Vector.axpy(t, multiplier, kml, ke.pointer)
      }
      if isConvex {
        for j in 0..<t {
          let d = kernel[j * t + j].squareRoot()
          guard d > 0 else { continue }
          let move = min(a * d * ml[j], ke[j] / d)
          sum += move * move / a
        }
      } else {
        sum += max(0, Vector.dot(t, el, ke.pointer)) / a
      }
    }
    let y = work.wide
    for j in 0..<t { for l in 0..<k { y[j * k + l] = l1 - work.km[l * t + j] + l2 * h[j * k + l] } }
    Double.gemm(false, false, k, t, k, 1, work.g.pointer, k, h.pointer, k, 1, y.pointer, k)
    for l in 0..<k {
      let curvature = work.g[l * k + l] + l2
      guard curvature > 0 else { continue }
      for j in 0..<t {
        let move = min(curvature * h[j * k + l], y[j * k + l])
        sum += move * move / curvature
      }
    }
    return (sum / squares).squareRoot()
  }

  // MARK: the answer

  package func transform(_ x: View, _ watch: Watch, _ codes: Output) throws(UnmergeError) -> unmerge_report {
    throw .range(
      "model has no components to code with: W = X M was not formed; transform the Gram by unmerge_gram_nmf_mixing")
  }

  package func readComponents(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    throw .range("model has no components: W = X M was not formed; ask unmerge_gram_nmf_mixing for M")
  }

  package func readCodes(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    let (t, k) = (columns, components)
    let out = try Output(output, "h", rows: k, columns: t)
    for j in 0..<t { for l in 0..<k { out.set(l, j, h[j * k + l] * scale) } }
  }

  fileprivate func readMixing(_ output: UnsafePointer<unmerge_view>?) throws(UnmergeError) {
    let (t, k) = (columns, components)
    let out = try Output(output, "m", rows: t, columns: k)
    for l in 0..<k { for j in 0..<t { out.set(j, l, m[l * t + j] / scale) } }
  }

  // MARK: saved form: "UNMGNMF1"  p T k convex extrapolates iterations plain  l1 l2 scale momentum, its limit
  // objective (as bits)  K (upper triangle)  M  H  the next H, by columns

  package func write(_ bytes: inout ByteWriter) {
    for n in [rows, columns, components, isConvex ? 1 : 0, extrapolates ? 1 : 0, iterations, isPlain ? 1 : 0] {
      bytes.put(n)
    }
    for x in [l1h, l2, scale, momentum, largestMomentum] { bytes.put(x) }
    bytes.put(Int(bitPattern: UInt(value.bitPattern)))  // may be infinite
    for j in 0..<columns { bytes.put(kernel.pointer + j * columns, j + 1) }
    bytes.put(m.pointer, m.count)
    bytes.put(h.pointer, h.count)
    bytes.put(hNext.pointer, hNext.count)
  }

  package convenience init(_ bytes: inout ByteReader) throws(UnmergeError) {
    let p = try bytes.integer("rows", 0...Int.max)
    let t = try bytes.integer("columns", 1...Int(Int32.max))
    let k = try bytes.integer("components", 1...t)
    let isConvex = try bytes.integer("a flag", 0...1) == 1
    let extrapolates = try bytes.integer("a flag", 0...1) == 1
    let iterations = try bytes.integer("iterations", 0...Int.max / 2)
    let isPlain = try bytes.integer("a flag", 0...1) == 1
    let l1h = try bytes.number("l1_h")
    let l2 = try bytes.number("l2_h")
    let scale = try bytes.number("the scale")
    let momentum = try bytes.number("momentum")
    let largest = try bytes.number("momentum")
    let value = Double(bitPattern: UInt64(bitPattern: Int64(try bytes.integer("objective", Int.min...Int.max))))
    guard l1h >= 0, l2 >= 0, scale > 0 else { throw bytes.bad("its penalties or its scale are negative") }
    guard bytes.wordsLeft >= t * (t + 1) / 2 else { throw bytes.bad("it ends inside K") }
    let kernel: Buffer<Double> = try allocate(product(t, t, "K"))
    for j in 0..<t {
      try bytes.numbers(into: kernel.pointer + j * t, j + 1, "K")
      for i in 0..<j { kernel[i * t + j] = kernel[j * t + i] }
    }
    try self.init(
      rows: p, columns: t, components: k, isConvex: isConvex, extrapolates: extrapolates, l1h: l1h, l2: l2, scale: scale,
      kernel: kernel)
    (self.iterations, self.isPlain, self.momentum, largestMomentum) = (iterations, isPlain, momentum, largest)
    self.value = value
    try bytes.numbers(into: m.pointer, m.count, "M")
    try bytes.numbers(into: h.pointer, h.count, "H")
    try bytes.numbers(into: hNext.pointer, hNext.count, "H")
  }
}

// MARK: the door

extension unmerge_gram_nmf_options: Growable {
  package static var defaults: unmerge_gram_nmf_options {
    var o = unmerge_gram_nmf_options()
    o.struct_size = MemoryLayout<unmerge_gram_nmf_options>.size
    o.components = 1
    o.extrapolation = 1
    return o
  }
}

@_cdecl("unmerge_gram_nmf_options_init") @implementation
public func unmerge_gram_nmf_options_init(
  _ options: UnsafeMutablePointer<unmerge_gram_nmf_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_gram_nmf_create") @implementation
public func unmerge_gram_nmf_create(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_gram_nmf_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    let watch = try Watch(run)
    guard let out else { throw .null("out") }
    guard gram.atoms > 0 else { throw .shape("gram has no atoms; there is nothing to factorise") }
    try check(
      o.components, "options->components", 1...Int64(gram.atoms), "between 1 and the \(gram.atoms) atoms of the Gram")
    guard o.kind == UNMERGE_GRAM_NMF_SEMI || o.kind == UNMERGE_GRAM_NMF_CONVEX else {
      throw .range("options->kind is \(o.kind); it must be UNMERGE_GRAM_NMF_SEMI or UNMERGE_GRAM_NMF_CONVEX")
    }
    try check(o.l1_h, "options->l1_h", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try checkFlag(o.extrapolation, "options->extrapolation")
    guard o.reserved == 0 else {
      throw UnmergeError(UNMERGE_E_VERSION, "options->reserved is \(o.reserved); it must be 0")
    }
    try check(o.l2_h, "options->l2_h", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    let model = try GramNMF(
      gram, components: Int(o.components), isConvex: o.kind == UNMERGE_GRAM_NMF_CONVEX,
      extrapolates: o.extrapolation == 1, l1h: o.l1_h, l2: o.l2_h, watch)
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      switch o.`init` {
      case UNMERGE_INIT_AUTO: try model.startFromData(watch)
      case UNMERGE_INIT_RANDOM: try model.startAtRandom(watch.seed, watch)
      case UNMERGE_INIT_GIVEN: try model.start(at: view(o.h, "options->h"), watch)
      default:
        throw .range(
          "options->init is \(o.`init`); it must be UNMERGE_INIT_AUTO, UNMERGE_INIT_RANDOM or UNMERGE_INIT_GIVEN")
      }
    }
    try publish(ModelHandle(model), out)
  }
}

@_cdecl("unmerge_gram_nmf_mixing") @implementation
public func unmerge_gram_nmf_mixing(
  _ model: OpaquePointer?, _ m: UnsafePointer<unmerge_view>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let handle = try object(model, "model", ModelHandle.self)
    try handle.use { model throws(UnmergeError) in
      guard let model = model as? GramNMF else { throw .range("model was not made by unmerge_gram_nmf_create") }
      try model.readMixing(m)
    }
  }
}
