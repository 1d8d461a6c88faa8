import UnmergeCore
import UnmergeLinalg

// What the target has in the row space of each atom
//
// Every atom is Δ_i = B_i A_i on a module, with Q_j an orthonormal basis of the rows of A_j (an atom stored dense has Q = I).
// One pass over the data leaves, summed over modules,
//
//     M_j = [⟨Δ_i Q_jᵀ, Δ_i' Q_jᵀ⟩]      v_j = [⟨Δ_i Q_jᵀ, D Q_jᵀ⟩]      e_j = ‖D Q_jᵀ‖²
//
// from which the residual R = D − Σ w_i Δ_i in the row space of atom j follows for any weights:
//
//     ‖R Q_jᵀ‖² = e_j − 2 wᵀv_j + wᵀ M_j w
//
// and least squares too, for Δ_i lies in its own row space: ⟨Δ_i, Δ_i'⟩ = M_i[i, i'], ⟨Δ_i, D⟩ = v_i[i]. Factors are never
// multiplied out.

/// The sums of one module, or of all.
struct RowSpaceSums: Sendable {
  let n: Int
  /// ⟨Δ_i, Δ_i'⟩, ⟨Δ_i, D⟩, ‖D‖²
  var gram: [Double]
  var c: [Double]
  var yy = 0.0
  /// Energy of the rounding of the stored target: Σ ulp²/12
  var rounding = 0.0
  /// ‖stored values‖² of a target that is stored as values
  var stored = 0.0
  var entries = 0
  /// M_j, one after the other, v_j and e_j; empty where they were not asked for.
  var m: [Double]
  var v: [Double]
  var e: [Double]

  init(atoms n: Int, spaces: Bool) {
    self.n = n
    gram = Array(repeating: 0, count: n * n)
    c = Array(repeating: 0, count: n)
    m = Array(repeating: 0, count: spaces ? n * n * n : 0)
    v = Array(repeating: 0, count: spaces ? n * n : 0)
    e = Array(repeating: 0, count: spaces ? n : 0)
  }

  mutating func add(_ o: RowSpaceSums) {
    for i in gram.indices { gram[i] += o.gram[i] }
    for i in c.indices { c[i] += o.c[i] }
    for i in m.indices { m[i] += o.m[i] }
    for i in v.indices { v[i] += o.v[i] }
    for i in e.indices { e[i] += o.e[i] }
    yy += o.yy
    rounding += o.rounding
    stored += o.stored
    entries += o.entries
  }

  mutating func addToGram(_ i: Int, _ j: Int, _ x: Double) {
    gram[i * n + j] += x
    if i != j { gram[j * n + i] += x }
  }

  /// ⟨Z_x, Z_x'⟩ of dense atoms and the target, which comes after them, in the coordinates of j.
  mutating func addWide(_ j: Int, _ dense: [Int], _ present: [Int], _ slot: Int, _ other: Int, _ x: Double) {
    guard slot == dense.count else {
      let (i, i2) = (present[dense[slot]], present[dense[other]])
      m[(j * n + i) * n + i2] += x
      if i != i2 { m[(j * n + i2) * n + i] += x }
      return
    }
    if other == slot { e[j] += x } else { v[j * n + present[dense[other]]] += x }
  }

  mutating func forgetSpaces() { (m, v, e) = ([], [], []) }

  /// ‖R‖² for given weights.
  func residual(_ w: [Double]) -> Double {
    var s = yy
    for i in 0..<n where w[i] != 0 {
      s -= 2 * w[i] * c[i]
      for k in 0..<n { s += w[i] * w[k] * gram[i * n + k] }
    }
    return max(s, 0)
  }

  /// ‖R Q_jᵀ‖² for given weights.
  func residual(_ w: [Double], inRowsOf j: Int) -> Double {
    guard !m.isEmpty else { return residual(w) }
    var s = e[j]
    for i in 0..<n where w[i] != 0 {
      s -= 2 * w[i] * v[j * n + i]
      for k in 0..<n { s += w[i] * w[k] * m[(j * n + i) * n + k] }
    }
    return max(s, 0)
  }
}

/// The pass. A module without a target is a module of zeros by itself, and left out of the sum of all.
struct RowSpaces: Sendable {
  /// Above so many atoms M would outgrow the data; residuals are then taken over all rows.
  static let limit = 160

  private let atoms: Columns
  private let target: Columns
  private let watch: Watch
  let hasSpaces: Bool

  init(_ atoms: Columns, _ target: Columns, _ watch: Watch) {
    self.atoms = atoms
    self.target = target
    self.watch = watch
    hasSpaces = atoms.count <= Self.limit
  }

  /// The sums over all modules, and those of every module without its M, v and e: n³ numbers times the modules would outgrow
  /// the data.
  func sums() throws(UnmergeError) -> (all: RowSpaceSums, modules: [RowSpaceSums]) {
    let meter = PassMeter(watch, pass: 1, total: max(1, atoms.entries))
    let slots = max(1, min(watch.threads, atoms.modules.count))
    let parts = Results<RowSpaceSums>(slots, RowSpaceSums(atoms: 0, spaces: false))
    // Modules of one size at the same time: a thread with a small one would wait.
    let order = atoms.modules.indices.sorted {
      (atoms.modules[$1].entries, $0) < (atoms.modules[$0].entries, $1)
    }
    var all = RowSpaceSums(atoms: atoms.count, spaces: hasSpaces)
    var modules = Array(repeating: RowSpaceSums(atoms: 0, spaces: false), count: order.count)
    let rooms = (0..<slots).map { _ in RowSpaceRoom() }
    let spaces = self
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: order.count, slots: slots, watch) { (task, slot) throws(UnmergeError) in
        parts.set(slot, try spaces.sums(order[task], rooms[slot], meter))
      } finish: { task, slot in
        var own = parts.values[slot]
        // Where the target is not set there is nothing to explain, and nothing an atom has there counts.
        if spaces.target.modules[order[task]].piece(0) != nil { all.add(own) }
        own.forgetSpaces()
        modules[order[task]] = own
      }
    }
    return (all, modules)
  }

  /// With B and Q of all atoms side by side, R columns and rows, all that has d rows or k columns is in
  ///
  ///     S = A Qᵀ,   G = BᵀB,   C = Bᵀ D Qᵀ          (R × R)
  ///
  /// and with indices for the blocks of the atoms M_j[i, i'] = ⟨S_ij, G_ii' S_i'j⟩, v_j[i] = ⟨S_ij, C_ij⟩.
  private func sums(_ index: Int, _ room: RowSpaceRoom, _ meter: PassMeter) throws(UnmergeError) -> RowSpaceSums {
    let n = atoms.count
    let module = atoms.modules[index]
    var sums = RowSpaceSums(atoms: n, spaces: hasSpaces)
    sums.entries = module.entries
    let (d, k) = (module.rows, module.cols)
    guard d > 0, k > 0 else { return sums }

    // Who is here, and where the coordinates of each lie among the r columns of Q.
    var present: [Int] = []
    var first: [Int] = []
    var rank: [Int] = []
    var r = 0
    for j in 0..<n {
      guard let piece = module.piece(j) else { continue }
      present.append(j)
      first.append(r)
      if case .lora(_, let a, _) = piece { rank.append(a.rows) } else { rank.append(0) }
      r += rank[present.count - 1]
    }
    let low = present.indices.filter { rank[$0] > 0 }
    let dense = present.indices.filter { module.piece(present[$0])?.isDense ?? false }
    let most = rank.max() ?? 0
    // A and Q: r × k, row-major; S: r × r, row-major
    let size = try product(r, k, "the factors of module '\(module.name)'")
    let square = try product(r, r, "the products of factors")
    let a = try room.a.hold(size)
    let q = try room.q.hold(size)
    for x in low {
      guard case .lora(_, let view, _)? = module.piece(present[x]) else { continue }
      let own = a + first[x] * k
      for i in 0..<rank[x] {
        Float.load(
          own + i * k, view.address(i, 0), view.type, stride: view.columnStride, count: k, scale: 1, add: false)
      }
      try orthonormalise(own, rows: rank[x], k, into: q + first[x] * k, room)
    }
    // Neighbours whose columns of a symmetric matrix are formed together, wide enough for a product of matrices.
    var groups: [Range<Int>] = []
    for x in low {
      let end = first[x] + rank[x]
      if let last = groups.last, last.count < 128 {
        groups[groups.count - 1] = last.lowerBound..<end
      } else {
        groups.append(first[x]..<end)
      }
    }
    let s = try room.s.hold(square)
    let g = try room.g.hold(square)
    let w = try room.w.hold(max(most * r, most * most))
    // A = L Q, hence S = L (Q Qᵀ): a symmetric matrix, and small ones.
    for group in groups {
      Float.gemm(
        true, false, group.upperBound, group.count, k, 1, q, k, q + group.lowerBound * k, k, 0, g + group.lowerBound * r, r)
    }
    for j in 0..<r { for i in 0..<j { g[i * r + j] = g[j * r + i] } }
    for x in low {
      let (at, m) = (first[x], rank[x])
      Float.gemm(true, false, m, m, k, 1, q + at * k, k, a + at * k, k, 0, w, m)
      Float.gemm(false, false, r, m, m, 1, g + at * r, r, w, m, 0, s + at * r, r)
    }
    g.update(repeating: 0, count: square)

    // What has d rows by itself: dense atoms, then the target. Z = D Qᵀ of each and C = BᵀZ.
    let wide = dense.count + 1
    let tile = max(1, min(d, max(8, min(512, (1 << 21) / k / wide))))
    let values = try room.values.hold(try product(tile * k, wide, "the dense atoms"))
    let z = try room.z.hold(try product(tile * r, wide, "the coordinates of the atoms"))
    let b = try room.b.hold(tile * r)
    let c = try room.c.hold(try product(square, hasSpaces ? wide : 0, "the products of factors"))
    c.update(repeating: 0, count: hasSpaces ? square * wide : 0)
    let target = values + dense.count * tile * k
    let targetPiece = self.target.modules[index].piece(0)
    let left = low.compactMap { x -> (Int, View, Double)? in
      if case .lora(let view, _, let scale)? = module.piece(present[x]) { (x, view, scale) } else { nil }
    }

    var row = 0
    while row < d {
      let t = min(tile, d - row)
      if let targetPiece {
        try load(targetPiece, row, t, k, target, room) { stored, type, count in
          sums.rounding += type.roundingEnergy(stored, count)
          sums.stored += Float.squares(stored, count)
        }
        sums.yy += Float.squares(target, t * k)
      } else {
        target.update(repeating: 0, count: t * k)
      }
      for (slot, x) in dense.enumerated() {
        guard let piece = module.piece(present[x]) else { continue }
        let own = values + slot * tile * k
        try load(piece, row, t, k, own, room)
        sums.c[present[x]] += Float.dot(own, target, t * k)
        for other in 0...slot {
          let energy = Float.dot(own, values + other * tile * k, t * k)
          sums.addToGram(present[x], present[dense[other]], energy)
        }
      }
      if r > 0 {
        // Row by row: the rows of one atom lie a power of two apart, where caches and their maps of pages are weakest.
        for i in 0..<t {
          for (x, view, scale) in left {
            Float.load(
              b + i * r + first[x], view.address(row + i, 0), view.type, stride: view.columnStride, count: rank[x],
              scale: scale, add: false)
          }
        }
        // G += BᵀB: the columns of a group down to its last row
        for group in groups {
          Float.gemm(
            false, true, group.upperBound, group.count, t, 1, b, r, b + group.lowerBound, r, 1, g + group.lowerBound * r, r)
        }
        for slot in 0..<wide {
          // Z (t × r, column-major)
          let own = z + slot * tile * r
          Float.gemm(true, false, t, r, k, 1, values + slot * tile * k, k, q, k, 0, own, t)
          if hasSpaces {
            Float.gemm(false, false, r, r, t, 1, b, r, own, t, 1, c + slot * square, r)
            for other in 0...slot {
              for y in low {
                let energy = Float.dot(own + first[y] * t, z + other * tile * r + first[y] * t, t * rank[y])
                sums.addWide(present[y], dense, present, slot, other, energy)
              }
            }
          } else {
            // Only ⟨Δ_j, ·⟩ = ⟨S_jj, B_jᵀZ_j⟩
            for y in low {
              let m = rank[y]
              Float.gemm(false, false, m, m, t, 1, b + first[y], r, own + first[y] * t, t, 0, w, m)
              var energy = 0.0
              for p in 0..<m { for u in 0..<m { energy += Double(s[(first[y] + p) * r + first[y] + u] * w[u * m + p]) } }
              if slot < dense.count {
                sums.addToGram(present[dense[slot]], present[y], energy)
              } else {
                sums.c[present[y]] += energy
              }
            }
          }
        }
      }
      row += t
      if let stop = meter.advance(t * k) { throw stop }
    }

    for (x2, i2) in present.enumerated() where rank[x2] > 0 {
      for x in 0...x2 where rank[x] > 0 {
        let i = present[x]
        // G_ii' S_i'·, row-major rank × r; without spaces the blocks of i alone
        let (from, width) = hasSpaces ? (0, r) : (first[x], rank[x])
        Float.gemm(
          false, true, width, rank[x], rank[x2], 1, s + first[x2] * r + from, r, g + first[x2] * r + first[x], r, 0, w, width
        )
        for y in hasSpaces ? low : [x] {
          let j = present[y]
          var energy = 0.0
          for p in 0..<rank[x] {
            energy += Float.dot(s + (first[x] + p) * r + first[y], w + p * width + first[y] - from, rank[y])
          }
          if hasSpaces {
            sums.m[(j * n + i) * n + i2] += energy
            if i != i2 { sums.m[(j * n + i2) * n + i] += energy }
          }
          if y == x { sums.addToGram(i, i2, energy) }
        }
      }
    }
    if hasSpaces, r > 0 {
      for slot in 0..<wide {
        let own = c + slot * square
        for x in low {
          for y in low {
            // ⟨S_ij, C_ij⟩; C is column-major
            var energy = 0.0
            for u in first[y]..<first[y] + rank[y] {
              for p in first[x]..<first[x] + rank[x] { energy += Double(s[p * r + u]) * Double(own[u * r + p]) }
            }
            let (i, j) = (present[x], present[y])
            if slot == dense.count {
              sums.v[j * n + i] += energy
              if x == y { sums.c[j] += energy }
            } else {
              let i2 = present[dense[slot]]
              sums.m[(j * n + i) * n + i2] += energy
              sums.m[(j * n + i2) * n + i] += energy
              if x == y { sums.addToGram(i, i2, energy) }
            }
          }
        }
      }
    }
    if hasSpaces {
      // The row space of a dense atom is everything.
      for x in dense {
        let j = present[x]
        for i in 0..<n {
          sums.v[j * n + i] = sums.c[i]
          for i2 in 0..<n { sums.m[(j * n + i) * n + i2] = sums.gram[i * n + i2] }
        }
        sums.e[j] = sums.yy
      }
    }
    guard sums.yy.isFinite else { throw failure(self.target, 0, "target", module.name) }
    for j in 0..<n where !sums.gram[j * n + j].isFinite || !sums.c[j].isFinite {
      throw failure(atoms, j, "atom", module.name)
    }
    return sums
  }

  private func failure(_ c: Columns, _ j: Int, _ what: String, _ module: String) -> UnmergeError {
    nonfinite(c, j, what) ?? .range("\(what) \(j) ('\(c.names[j])') overflows in float32 in module '\(module)'")
  }

  /// Rows of a piece in float32. `stored` sees the values of a dense one as they are, some rows at a time while they are in
  /// cache.
  private func load(
    _ piece: Piece, _ row: Int, _ t: Int, _ k: Int, _ out: UnsafeMutablePointer<Float>, _ room: RowSpaceRoom,
    stored: (UnsafePointer<Float>, ElementType, Int) -> Void = { _, _, _ in }
  ) throws(UnmergeError) {
    switch piece {
    case .dense(let values, let base, let scale):
      let chunk = max(1, (1 << 14) / k)
      var first = 0
      while first < t {
        let rows = first..<min(first + chunk, t)
        for i in rows {
          Float.load(
            out + i * k, values.address(row + i, 0), values.type, stride: values.columnStride, count: k, scale: 1, add: false
          )
        }
        let (own, count) = (out + first * k, rows.count * k)
        if values.type != .f64 { stored(own, values.type, count) }
        if scale != 1 { for i in 0..<count { own[i] = Float(scale) * own[i] } }
        if let base {
          for i in rows {
            Float.load(
              out + i * k, base.address(row + i, 0), base.type, stride: base.columnStride, count: k, scale: -scale, add: true
            )
          }
        }
        first = rows.upperBound
      }
    case .lora(let b, let a, let scale):
      let r = a.rows
      guard r > 0 else { return out.update(repeating: 0, count: t * k) }
      let left = try room.left.hold(t * r)
      let right = try room.right.hold(r * k)
      for i in 0..<t {
        Float.load(left + i * r, b.address(row + i, 0), b.type, stride: b.columnStride, count: r, scale: scale, add: false)
      }
      for i in 0..<r {
        Float.load(right + i * k, a.address(i, 0), a.type, stride: a.columnStride, count: k, scale: 1, add: false)
      }
      Float.gemm(false, false, k, t, r, 1, right, k, left, r, 0, out, k)
    }
  }

  /// Rows that depend on those before them become zero. The triangle of Cholesky's factor of A Aᵀ takes A to Q; it loses as
  /// many digits as A's condition has twice, so that rows that are not clearly independent take a second turn.
  private func orthonormalise(
    _ a: UnsafePointer<Float>, rows: Int, _ k: Int, into q: UnsafeMutablePointer<Float>, _ room: RowSpaceRoom
  ) throws(UnmergeError) {
    let count = try product(rows, k, "a factor")
    var x = try room.x.hold(count)
    var other = try room.other.hold(count)
    let g = try room.factor.hold(rows * rows)
    let inverse = try room.inverse.hold(rows * rows)
    Double.load(x, a, .f32, stride: MemoryLayout<Float>.size, count: count, scale: 1, add: false)
    for turn in 0..<2 {
      Double.syrk(rows, k, x, k, rowMajor: false, g, rows)
      let least = Self.triangle(rows, g, inverse, tolerance: turn == 0 ? 1e-10 : 0)
      Double.gemm(false, false, k, rows, rows, 1, x, k, inverse, rows, 0, other, k)
      swap(&x, &other)
      if least > 1e-5 { break }
    }
    Float.load(q, x, .f64, stride: MemoryLayout<Double>.size, count: count, scale: 1, add: false)
  }

  /// L⁻ᵀ of G = L Lᵀ (upper triangle given, column-major; destroyed) and the smallest pivot beside its diagonal. Rows with
  /// pivots up to `tolerance` times theirs are zero.
  private static func triangle(
    _ n: Int, _ g: UnsafeMutablePointer<Double>, _ inverse: UnsafeMutablePointer<Double>, tolerance: Double
  ) -> Double {
    var least = 1.0
    inverse.update(repeating: 0, count: n * n)
    for i in 0..<n {
      // Column i of the factor, Lᵀ, over that of G.
      let own = g + i * n
      let diagonal = own[i]
      for j in 0..<i {
        let before = g + j * n
        own[j] = before[j] > 0 ? (own[j] - Vector.dot(j, before, own)) / before[j] : 0
      }
      let pivot = diagonal - Vector.dot(i, own, own)
      guard pivot > tolerance * diagonal, pivot > 0 else {
        own[i] = 0
        continue
      }
      least = min(least, pivot / diagonal)
      own[i] = pivot.squareRoot()
      // q_i = (a_i − Σ l_ij q_j) / l_ii
      let result = inverse + i * n
      for j in 0..<i where own[j] != 0 { Vector.axpy(j + 1, -own[j], inverse + j * n, result) }
      for j in 0..<i { result[j] /= own[i] }
      result[i] = 1 / own[i]
    }
    return least
  }
}

/// Memory of one thread, kept from module to module: fresh pages cost as much as what is computed in them.
private final class RowSpaceRoom: @unchecked Sendable {
  let a = Held<Float>()
  let q = Held<Float>()
  let s = Held<Float>()
  let g = Held<Float>()
  let c = Held<Float>()
  let w = Held<Float>()
  let b = Held<Float>()
  let z = Held<Float>()
  let values = Held<Float>()
  let left = Held<Float>()
  let right = Held<Float>()
  let x = Held<Double>()
  let other = Held<Double>()
  let factor = Held<Double>()
  let inverse = Held<Double>()
}

private final class Held<Element: BitwiseCopyable> {
  private var buffer: Buffer<Element>?

  /// Room for so many; what is in it is undefined.
  func hold(_ count: Int) throws(UnmergeError) -> UnsafeMutablePointer<Element> {
    if let buffer, buffer.count >= count { return buffer.pointer }
    buffer = nil
    let new: Buffer<Element> = try allocate(count)
    buffer = new
    return new.pointer
  }
}
