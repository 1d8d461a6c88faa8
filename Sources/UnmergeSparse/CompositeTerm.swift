import CUnmerge
import UnmergeCore
import UnmergeLinalg

// A term g(K w) of a composite problem: its prox, its value, and its face, which is all that Newton needs to know.
//
// At ẑ = prox(v) with the subgradient λ̂ = ρ (v − ẑ), g is smooth on a manifold through ẑ: {z : C (z − ẑ) = 0} to first order,
// with Hessian W along it. That manifold is where the answer lies once the prox has found it (Lewis 2002): zeros and bounds are
// pins, clusters and active sums are rows of C, and only norms and balls bend (W ≠ 0).

/// A term, checked, in memory of its own.
final class CompositeTerm: @unchecked Sendable {
  let kind: Int32
  /// Entries of K w.
  let count: Int
  /// Nil for a callback.
  let call: ProxCall?
  /// The coefficients it acts on, nil = all in their order; without meaning where there is a matrix.
  let atoms: Buffer<Int>?
  /// κ K, count×n, column-major.
  let matrix: Buffer<Double>?
  /// 1 / root mean square of the norms of K's rows: one rho serves all terms.
  let kappa: Double
  let lower: Buffer<Double>?
  let upper: Buffer<Double>?
  let callback: unmerge_prox_fn?
  let user: UnsafeMutableRawPointer?

  init(_ term: unmerge_term, _ name: String, atoms n: Int) throws(UnmergeError) {
    guard term.reserved == 0 else {
      throw UnmergeError(UNMERGE_E_VERSION, "\(name).reserved is \(term.reserved); it must be 0")
    }
    kind = term.kind
    var kappa = 1.0
    if let k = term.matrix {
      guard term.atoms == nil else { throw .range("\(name) has atoms and a matrix; give one of them") }
      let v = try view(k, "\(name).matrix")
      guard v.columns == n else { throw .shape("\(name).matrix is \(v.rows) x \(v.columns), expected \(n) columns") }
      let m = try allocate(product(v.rows, n, "\(name).matrix"), of: Double.self)
      var largest = 0.0
      for j in 0..<n {
        for i in 0..<v.rows {
          let x = v.element(i, j)
          guard x.isFinite else {
            throw UnmergeError(UNMERGE_E_NONFINITE, "\(name).matrix[\(i), \(j)] is \(x); all values must be finite")
          }
          m[j * v.rows + i] = x
          largest = max(largest, abs(x))
        }
      }
      if largest > 0 {
        var sum = 0.0
        for i in 0..<(v.rows * n) { sum += (m[i] / largest) * (m[i] / largest) }
        let size = (sum / Double(v.rows)).squareRoot()
        for i in 0..<(v.rows * n) { m[i] = m[i] / largest / size }
        kappa = 1 / largest / size
        guard kappa.isFinite, kappa > 0 else { throw .range("\(name).matrix is too small to be scaled") }
      }
      count = v.rows
      matrix = m
      atoms = nil
    } else if let indices = term.atoms {
      try check(term.n_atoms, "\(name).n_atoms", 0...Int64(n), "in [0, \(n)]")
      count = Int(term.n_atoms)
      let list = try allocate(count, of: Int.self)
      let seen = try allocate(n, of: Bool.self)
      for i in 0..<count {
        let j = UnsafeRawPointer(indices + i).loadUnaligned(as: Int64.self)
        guard j >= 0, j < n else { throw .range("\(name).atoms[\(i)] is \(j); it must be in [0, \(n))") }
        guard !seen[Int(j)] else { throw .range("\(name).atoms[\(i)] is \(j) again; indices must differ") }
        seen[Int(j)] = true
        list[i] = Int(j)
      }
      atoms = list
      matrix = nil
    } else {
      guard term.n_atoms == 0 else { throw .range("\(name).n_atoms is \(term.n_atoms) and atoms is NULL") }
      count = n
      atoms = nil
      matrix = nil
    }
    self.kappa = kappa
    callback = term.prox
    user = term.prox_user
    if kind == UNMERGE_TERM_CALLBACK {
      guard callback != nil else { throw .null("\(name).prox") }
      call = nil
    } else {
      let isConvex =
        kind >= UNMERGE_PROX_L1 && kind <= UNMERGE_PROX_FUSED
        || kind >= UNMERGE_PROX_L1_BALL && kind <= UNMERGE_PROX_MONOTONE
      guard isConvex else {
        throw .range("\(name).kind is \(kind); it must be UNMERGE_TERM_CALLBACK or a convex UNMERGE_PROX_... of a vector")
      }
      var o = try read(term.options, "\(name).options")
      o.step = 1
      do {
        call = try ProxCall(kind, o, count, 1)
      } catch {
        throw UnmergeError(error.status, "\(name): \(error.message)")
      }
      if kind == UNMERGE_PROX_MONOTONE, o.weights != nil {
        throw .range("\(name).options->weights is given; UNMERGE_PROX_MONOTONE takes none in a composite problem")
      }
    }
    lower = try copyDoubles(term.lower, count)
    upper = try copyDoubles(term.upper, count)
    if lower != nil || upper != nil {
      guard kind == UNMERGE_PROX_BOX, let call else {
        throw .range("\(name).lower and upper belong to UNMERGE_PROX_BOX; its kind is \(kind)")
      }
      for i in 0..<count {
        let (a, b) = (lower?[i] ?? call.o.lower, upper?[i] ?? call.o.upper)
        guard a <= b, a < .infinity, b > -.infinity else {
          throw .range("\(name).lower[\(i)] is \(a) and upper \(b); they must bound an interval")
        }
      }
    }
  }

  /// A set or a cone: g is 0 on it, infinite elsewhere.
  var isSet: Bool { kind >= UNMERGE_PROX_L1_BALL }

  /// z ← κ K x; K x itself for the identity and selections.
  func apply(_ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    if let matrix {
      guard count > 0, n > 0 else { return z.update(repeating: 0, count: count) }
      Double.gemm(false, false, count, 1, n, 1, matrix.pointer, count, x, n, 0, z, count)
    } else if let atoms {
      for i in 0..<count { z[i] = x[atoms[i]] }
    } else {
      z.update(from: x, count: n)
    }
  }

  /// x += s κ Kᵀ z
  func applyTransposed(_ n: Int, _ s: Double, _ z: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>) {
    if let matrix {
      guard count > 0, n > 0 else { return }
      Double.gemm(true, false, n, 1, count, s, matrix.pointer, count, z, count, 1, x, n)
    } else if let atoms {
      for i in 0..<count { x[atoms[i]] += s * z[i] }
    } else {
      Vector.axpy(n, s, z, x)
    }
  }

  /// z ← prox_{step g}(v) in the caller's units; z is not v.
  func prox(_ v: UnsafePointer<Double>, _ step: Double, _ z: UnsafeMutablePointer<Double>) throws(UnmergeError) {
    if let call {
      if lower != nil || upper != nil {
        let o = call.o
        for i in 0..<count { z[i] = min(max(v[i], lower?[i] ?? o.lower), upper?[i] ?? o.upper) }
      } else {
        try call.apply(v, z, step: step)
      }
    } else if let callback {
      let answer = callback(user, v, step, z, Int64(count))
      guard answer == 0 else {
        throw UnmergeError(UNMERGE_E_CANCELLED, "the callback of a term returned \(answer), which ends the call")
      }
      for i in 0..<count where !z[i].isFinite {
        throw UnmergeError(UNMERGE_E_NONFINITE, "the callback of a term stored \(z[i]) in z[\(i)]; it must be finite")
      }
    }
  }

  /// g(z) in the caller's units; 0 for sets, NaN for callbacks.
  func value(_ z: UnsafePointer<Double>) -> Double {
    guard let call else { return .nan }
    let o = call.o
    let p = call.weights
    var sum = 0.0
    switch kind {
    case UNMERGE_PROX_L1: for i in 0..<count { sum += (p?[i] ?? 1) * abs(z[i]) }
    case UNMERGE_PROX_NONNEGATIVE_L1: for i in 0..<count { sum += (p?[i] ?? 1) * z[i] }
    case UNMERGE_PROX_L2_SQUARED: for i in 0..<count { sum += 0.5 * (p?[i] ?? 1) * z[i] * z[i] }
    case UNMERGE_PROX_ELASTIC_NET:
      for i in 0..<count {
        sum += (p?[i] ?? 1) * (o.l1_ratio * abs(z[i]) + 0.5 * (1 - o.l1_ratio) * z[i] * z[i])
      }
    case UNMERGE_PROX_HUBER:
      for i in 0..<count {
        let a = abs(z[i])
        sum += (p?[i] ?? 1) * (a <= o.gamma ? 0.5 * a * a / o.gamma : a - 0.5 * o.gamma)
      }
    case UNMERGE_PROX_L2: sum = Prox.norm(count, z)
    case UNMERGE_PROX_SPARSE_GROUP:
      for i in 0..<count { sum += o.l1_ratio * (p?[i] ?? 1) * abs(z[i]) }
      sum += (1 - o.l1_ratio) * Prox.norm(count, z)
    case UNMERGE_PROX_LINF: for i in 0..<count { sum = max(sum, abs(z[i])) }
    case UNMERGE_PROX_SLOPE:
      var sorted = (0..<count).map { abs(z[$0]) }
      sorted.sort(by: >)
      for i in 0..<count { sum += (p?[i] ?? 1) * sorted[i] }
    case UNMERGE_PROX_TOTAL_VARIATION: for i in 1..<max(count, 1) { sum += abs(z[i] - z[i - 1]) }
    case UNMERGE_PROX_FUSED:
      for i in 0..<count {
        sum += o.l1_ratio * abs(z[i])
        if i > 0 { sum += (1 - o.l1_ratio) * abs(z[i] - z[i - 1]) }
      }
    default: return 0
    }
    return o.alpha * sum
  }
}

/// The faces of all terms at one point, over their stacked entries.
final class CompositeFace {
  /// z_i is fixed at ẑ_i.
  let isPinned: Buffer<Bool>
  /// The diagonal of W.
  let bend: Buffer<Double>
  /// W of term k also has −rankOne[k] û ûᵀ, û in `unit`.
  let rankOne: Buffer<Double>
  let unit: Buffer<Double>
  /// Rows of C: entries start[r] ..< start[r+1] of `index` (stacked) and `weight`.
  var rows = 0
  let start: Buffer<Int>
  let index: Buffer<Int>
  let weight: Buffer<Double>
  /// What tells faces apart.
  var signature: UInt64 = 0

  init(_ terms: Int, _ entries: Int) throws(UnmergeError) {
    isPinned = try allocate(entries)
    bend = try allocate(entries)
    rankOne = try allocate(terms)
    unit = try allocate(entries)
    start = try allocate(entries + terms + 1)
    index = try allocate(product(3, entries, "the face"))
    weight = try allocate(3 * entries)
  }

  func clear(_ terms: Int, _ entries: Int) {
    rows = 0
    start[0] = 0
    signature = 0xcbf2_9ce4_8422_2325
    for i in 0..<entries {
      isPinned[i] = false
      bend[i] = 0
    }
    for k in 0..<terms { rankOne[k] = 0 }
  }

  func mark(_ x: Int) { signature = (signature ^ UInt64(bitPattern: Int64(x))) &* 0x0000_0100_0000_01b3 }

  private func pin(_ i: Int) {
    isPinned[i] = true
    mark(i)
  }

  private func begin() { start[rows + 1] = start[rows] }
  private func put(_ i: Int, _ w: Double) {
    index[start[rows + 1]] = i
    weight[start[rows + 1]] = w
    start[rows + 1] += 1
    mark(w < 0 ? ~i : i)
  }
  private func end() { rows += 1 }

  /// a z_i = b z_j
  private func tie(_ i: Int, _ a: Double, _ j: Int, _ b: Double) {
    begin()
    put(i, a)
    put(j, -b)
    end()
  }

  /// Appends term k, whose entries begin at `at`. v and z = prox(v) are in the caller's units; λ̂ and `scaled` (z) in the
  /// solver's; `curvature` turns a second derivative of g into the solver's units.
  func append(
    _ k: Int, _ term: CompositeTerm, at: Int, v: UnsafePointer<Double>, z: UnsafePointer<Double>,
    multiplier: UnsafePointer<Double>, scaled: UnsafePointer<Double>, curvature: Double
  ) {
    guard let call = term.call else { return }
    let n = term.count
    let o = call.o
    let p = call.weights
    mark(-k - 1)
    /// a (I − û ûᵀ) on the entries that are not 0, û along z.
    func sphere(_ a: Double, from first: Int = 0) {
      var size = 0.0
      for i in first..<n { size += scaled[i] * scaled[i] }
      size = size.squareRoot()
      guard size > 0, a > 0 else { return }
      for i in 0..<n {
        unit[at + i] = i < first ? 0 : scaled[i] / size
        if i >= first, !isPinned[at + i] { bend[at + i] = a }
      }
      rankOne[k] = a
    }
    switch term.kind {
    case UNMERGE_PROX_L1, UNMERGE_PROX_NONNEGATIVE_L1:
      for i in 0..<n { if z[i] == 0 { pin(at + i) } else if z[i] < 0 { mark(~i) } }
    case UNMERGE_PROX_L2_SQUARED: for i in 0..<n { bend[at + i] = curvature * o.alpha * (p?[i] ?? 1) }
    case UNMERGE_PROX_ELASTIC_NET:
      for i in 0..<n {
        bend[at + i] = curvature * o.alpha * (1 - o.l1_ratio) * (p?[i] ?? 1)
        if z[i] == 0, o.l1_ratio > 0 { pin(at + i) } else if z[i] < 0 { mark(~i) }
      }
    case UNMERGE_PROX_HUBER:
      for i in 0..<n where abs(z[i]) <= o.gamma {
        bend[at + i] = curvature * o.alpha * (p?[i] ?? 1) / o.gamma
        mark(i)
      }
    case UNMERGE_PROX_L2, UNMERGE_PROX_SPARSE_GROUP:
      let isSparse = term.kind == UNMERGE_PROX_SPARSE_GROUP
      let size = Prox.norm(n, z)
      for i in 0..<n where size == 0 || isSparse && z[i] == 0 { pin(at + i) }
      if size > 0 { sphere(curvature * o.alpha * (isSparse ? 1 - o.l1_ratio : 1) / size) }
    case UNMERGE_PROX_LINF:
      var level = 0.0
      for i in 0..<n { level = max(level, abs(z[i])) }
      var first = -1
      for i in 0..<n {
        if level == 0 {
          pin(at + i)
        } else if abs(z[i]) == level, v[i] != z[i] {
          if first >= 0 { tie(at + i, z[i] < 0 ? -1 : 1, at + first, z[first] < 0 ? -1 : 1) }
          if first < 0 { first = i }
        }
      }
    case UNMERGE_PROX_SLOPE:
      let order = (0..<n).sorted { abs(z[$0]) != abs(z[$1]) ? abs(z[$0]) > abs(z[$1]) : $0 < $1 }
      for (position, i) in order.enumerated() {
        if z[i] == 0 {
          pin(at + i)
        } else if position > 0, abs(z[order[position - 1]]) == abs(z[i]) {
          let j = order[position - 1]
          tie(at + i, z[i] < 0 ? -1 : 1, at + j, z[j] < 0 ? -1 : 1)
        } else {
          mark(z[i] < 0 ? ~i : i)
        }
      }
    case UNMERGE_PROX_TOTAL_VARIATION, UNMERGE_PROX_FUSED, UNMERGE_PROX_MONOTONE:
      let hasZeros = term.kind == UNMERGE_PROX_FUSED && o.l1_ratio > 0
      for i in 0..<n {
        if hasZeros, z[i] == 0 {
          pin(at + i)
        } else if i > 0, z[i] == z[i - 1] {
          tie(at + i, 1, at + i - 1, 1)
        }
      }
    case UNMERGE_PROX_BOX:
      for i in 0..<n where z[i] == term.lower?[i] ?? o.lower || z[i] == term.upper?[i] ?? o.upper {
        if z[i] != v[i] || term.lower?[i] ?? o.lower == term.upper?[i] ?? o.upper { pin(at + i) }
      }
    case UNMERGE_PROX_NONNEGATIVE: for i in 0..<n where z[i] == 0 && v[i] < 0 { pin(at + i) }
    case UNMERGE_PROX_SIMPLEX, UNMERGE_PROX_CAPPED_SIMPLEX, UNMERGE_PROX_L1_BALL:
      let isBall = term.kind == UNMERGE_PROX_L1_BALL
      if isBall {
        var inside = true
        for i in 0..<n { inside = inside && z[i] == v[i] }
        if inside { return }
      }
      for i in 0..<n where z[i] == 0 || term.kind == UNMERGE_PROX_CAPPED_SIMPLEX && z[i] == o.upper { pin(at + i) }
      begin()
      for i in 0..<n where !isPinned[at + i] { put(at + i, isBall && z[i] < 0 ? -1 : 1) }
      if start[rows + 1] > start[rows] { end() }
    case UNMERGE_PROX_L2_BALL:
      let size = Prox.norm(n, scaled)
      let force = Prox.norm(n, multiplier)
      guard force > 0 else { return }
      if size == 0 {
        for i in 0..<n { pin(at + i) }
      } else {
        begin()
        for i in 0..<n { put(at + i, scaled[i] / size) }
        end()
        for i in 0..<n { bend[at + i] = force / size }
      }
    case UNMERGE_PROX_PLANE, UNMERGE_PROX_HALFSPACE:
      var isActive = term.kind == UNMERGE_PROX_PLANE
      for i in 0..<n { isActive = isActive || z[i] != v[i] }
      guard isActive else { return }
      begin()
      let size = call.normal.map { Prox.norm(n, $0.pointer) } ?? 1
      guard size > 0 else { return }
      for i in 0..<n { put(at + i, (call.normal?[i] ?? 1) / size) }
      end()
    case UNMERGE_PROX_CONE:
      var isInside = true
      for i in 0..<n { isInside = isInside && z[i] == v[i] }
      if n == 0 || isInside { return }
      if z[0] == 0 {
        for i in 0..<n { pin(at + i) }
      } else {
        let size = Prox.norm(n - 1, scaled + 1)
        begin()
        put(at, -1)
        for i in 1..<n { put(at + i, scaled[i] / size) }
        end()
        sphere(max(0, -multiplier[0]) / size, from: 1)
      }
    default: return
    }
  }
}
