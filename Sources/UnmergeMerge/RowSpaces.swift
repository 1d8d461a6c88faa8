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

/// The pass. Modules without a target count as zero there.
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

  /// The sums of every module.
  func perModule() throws(UnmergeError) -> [RowSpaceSums] {
    let meter = PassMeter(watch, pass: 1, total: max(1, atoms.entries))
    let slots = max(1, min(watch.threads, atoms.modules.count))
    let parts = Results<RowSpaceSums>(slots, RowSpaceSums(atoms: 0, spaces: false))
    var all: [RowSpaceSums] = []
    let spaces = self
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: atoms.modules.count, slots: slots, watch) { (m, slot) throws(UnmergeError) in
        parts.set(slot, try spaces.sums(m, meter))
      } finish: { _, slot in
        all.append(parts.values[slot])
      }
    }
    return all
  }

  private func sums(_ index: Int, _ meter: PassMeter) throws(UnmergeError) -> RowSpaceSums {
    let n = atoms.count
    let module = atoms.modules[index]
    var sums = RowSpaceSums(atoms: n, spaces: hasSpaces)
    sums.entries = module.entries
    let (d, k) = (module.rows, module.cols)
    guard d > 0, k > 0 else { return sums }

    // Who is here, and where the coordinates of each lie among the r columns of Q_all.
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
    let count = present.count
    let dense = (0..<count).filter { module.piece(present[$0])?.isDense ?? false }
    // Q_all: r × k, row-major; S = A_all Q_allᵀ: r × r, row-major
    let a: Buffer<Float> = try allocate(try product(max(r, 1), k, "the factors of module '\(module.name)'"))
    let q: Buffer<Float> = try allocate(max(r, 1) * k)
    for (x, j) in present.enumerated() {
      guard case .lora(_, let view, _)? = module.piece(j) else { continue }
      for i in 0..<view.rows {
        Float.load(
          a.pointer + (first[x] + i) * k, view.address(i, 0), view.type, stride: view.columnStride, count: k, scale: 1,
          add: false)
      }
      try orthonormalise(a.pointer + first[x] * k, rows: rank[x], k, into: q.pointer + first[x] * k)
    }
    let s: Buffer<Float> = try allocate(try product(max(r, 1), max(r, 1), "the products of factors"))
    if r > 0 { Float.gemm(true, false, r, r, k, 1, q.pointer, k, a.pointer, k, 0, s.pointer, r) }

    let tile = max(1, min(d, max(8, (1 << 18) / k)))
    let values: Buffer<Float> = try allocate(tile * k)
    let raw: Buffer<Float> = try allocate(tile * k)
    // Column-major tile × r, one for every atom here and one for the target.
    let z: Buffer<Float> = try allocate(try product(tile * max(r, 1), count + 1, "the coordinates of the atoms"))
    let b: Buffer<Float> = try allocate(tile * max(1, rank.max() ?? 0))
    let whole: Buffer<Float> = try allocate(try product(tile * k, dense.count, "the dense atoms"))
    let side = count + 1
    let square: Buffer<Float> = try allocate(side * side)
    let targetPiece = index < target.modules.count ? target.modules[index].piece(0) : nil

    var row = 0
    while row < d {
      let t = min(tile, d - row)
      let stride = t * max(r, 1)
      // the target
      if let targetPiece {
        try load(targetPiece, row, t, k, values.pointer, raw.pointer)
        if case .dense(let stored, _, _) = targetPiece, stored.type != .f64 {
          // `raw` holds the stored values
          sums.rounding += stored.type.roundingEnergy(raw.pointer, t * k)
          sums.stored += Float.squares(raw.pointer, t * k)
        }
        sums.yy += Float.squares(values.pointer, t * k)
      } else {
        values.zero()
      }
      if r > 0 {
        // Y (t × r, column-major) = D Qᵀ
        Float.gemm(true, false, t, r, k, 1, values.pointer, k, q.pointer, k, 0, z.pointer + count * stride, t)
      }
      // the atoms
      for (x, j) in present.enumerated() {
        guard let piece = module.piece(j) else { continue }
        switch piece {
        case .lora(let bView, _, let scale):
          guard rank[x] > 0, r > 0 else { continue }
          for i in 0..<t {
            Float.load(
              b.pointer + i * rank[x], bView.address(row + i, 0), bView.type, stride: bView.columnStride, count: rank[x],
              scale: scale, add: false)
          }
          // Δ Q_allᵀ = B (A Q_allᵀ)
          Float.gemm(
            true, true, t, r, rank[x], 1, b.pointer, rank[x], s.pointer + first[x] * r, r, 0, z.pointer + x * stride, t)
        case .dense:
          let slot = dense.firstIndex(of: x) ?? 0
          let own = whole.pointer + slot * tile * k
          try load(piece, row, t, k, own, raw.pointer)
          if r > 0 { Float.gemm(true, false, t, r, k, 1, own, k, q.pointer, k, 0, z.pointer + x * stride, t) }
          sums.c[j] += Float.dot(own, values.pointer, t * k)
          for other in 0...slot {
            let i = present[dense[other]]
            let g = Float.dot(own, whole.pointer + other * tile * k, t * k)
            sums.gram[j * n + i] += g
            if i != j { sums.gram[i * n + j] += g }
          }
        }
      }
      // M_j, v_j, e_j of the atoms with factors
      for (y, j) in present.enumerated() where rank[y] > 0 {
        let block = z.pointer + first[y] * t
        let length = t * rank[y]
        if hasSpaces {
          Float.syrk(side, length, block, stride, rowMajor: false, square.pointer, side)
        } else {
          square.zero()
          for x in 0...count {
            square[max(x, y) * side + min(x, y)] = Float(Float.dot(block + x * stride, block + y * stride, length))
          }
        }
        // The upper triangle, column-major: (x, x') at x'·side + x.
        func entry(_ x: Int, _ x2: Int) -> Double { Double(square[max(x, x2) * side + min(x, x2)]) }
        for (x, i) in present.enumerated() {
          // ⟨Δ_j, Δ_i⟩, once for two atoms with factors
          if rank[x] == 0 || x >= y {
            sums.gram[j * n + i] += entry(y, x)
            if i != j { sums.gram[i * n + j] += entry(y, x) }
          }
          guard hasSpaces else { continue }
          sums.v[j * n + i] += entry(x, count)
          for (x2, i2) in present.enumerated() { sums.m[(j * n + i) * n + i2] += entry(x, x2) }
        }
        sums.c[j] += entry(y, count)
        if hasSpaces { sums.e[j] += entry(count, count) }
      }
      row += t
      if let stop = meter.advance(t * k) { throw stop }
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
    guard sums.yy.isFinite else { throw failure(target, 0, "target", module.name) }
    for j in 0..<n where !sums.gram[j * n + j].isFinite || !sums.c[j].isFinite {
      throw failure(atoms, j, "atom", module.name)
    }
    return sums
  }

  private func failure(_ c: Columns, _ j: Int, _ what: String, _ module: String) -> UnmergeError {
    nonfinite(c, j, what) ?? .range("\(what) \(j) ('\(c.names[j])') overflows in float32 in module '\(module)'")
  }

  /// Rows of a piece in float32; `raw`: the stored values as they are, where it is dense.
  private func load(
    _ piece: Piece, _ row: Int, _ t: Int, _ k: Int, _ out: UnsafeMutablePointer<Float>, _ raw: UnsafeMutablePointer<Float>
  ) throws(UnmergeError) {
    switch piece {
    case .dense(let values, let base, let scale):
      for i in 0..<t {
        Float.load(
          raw + i * k, values.address(row + i, 0), values.type, stride: values.columnStride, count: k, scale: 1, add: false)
        let o = out + i * k
        if scale == 1 {
          o.update(from: raw + i * k, count: k)
        } else {
          for c in 0..<k { o[c] = Float(scale) * raw[i * k + c] }
        }
        if let base {
          Float.load(o, base.address(row + i, 0), base.type, stride: base.columnStride, count: k, scale: -scale, add: true)
        }
      }
    case .lora(let b, let a, let scale):
      let r = a.rows
      guard r > 0 else { return out.update(repeating: 0, count: t * k) }
      let left: Buffer<Float> = try allocate(t * r)
      let right: Buffer<Float> = try allocate(r * k)
      for i in 0..<t {
        Float.load(
          left.pointer + i * r, b.address(row + i, 0), b.type, stride: b.columnStride, count: r, scale: scale, add: false)
      }
      for i in 0..<r {
        Float.load(right.pointer + i * k, a.address(i, 0), a.type, stride: a.columnStride, count: k, scale: 1, add: false)
      }
      Float.gemm(false, false, k, t, r, 1, right.pointer, k, left.pointer, r, 0, out, k)
    }
  }

  /// Gram–Schmidt, twice; rows that depend on those before them become zero.
  private func orthonormalise(
    _ a: UnsafePointer<Float>, rows: Int, _ k: Int, into q: UnsafeMutablePointer<Float>
  ) throws(UnmergeError) {
    let x: Buffer<Double> = try allocate(try product(max(rows, 1), k, "a factor"))
    for i in 0..<rows {
      let own = x.pointer + i * k
      for c in 0..<k { own[c] = Double(a[i * k + c]) }
      let before = Vector.dot(k, own, own)
      for _ in 0..<2 {
        for j in 0..<i { Vector.axpy(k, -Vector.dot(k, x.pointer + j * k, own), x.pointer + j * k, own) }
      }
      let left = Vector.dot(k, own, own)
      let scale = left > 1e-10 * before && left > 0 ? 1 / left.squareRoot() : 0
      for c in 0..<k {
        own[c] *= scale
        q[i * k + c] = Float(own[c])
      }
    }
  }
}
