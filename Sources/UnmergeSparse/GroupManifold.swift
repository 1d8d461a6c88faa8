import UnmergeCore
import UnmergeLinalg

/// Coordinates of which F is a smooth function where a solution is: those that are in, and those in them that no threshold
/// holds at 0. There its Hessian is
///
///     K = G + μ + Σ_g ν_g/‖u_g‖ (I − û_g û_gᵀ),     G = ρĜρ on these coordinates.
///
/// G is block-diagonal over the parts of the form. A group inside one part joins that part's block; groups across parts stay
/// a low-rank term, K = M − UUᵀ with M block-diagonal, and
///
///     K⁻¹ = M⁻¹ + Y S⁻¹ Yᵀ,     Y = M⁻¹U,     S = I − UᵀY     (Woodbury).
///
/// So a group per atom over L modules costs L k³ for k atoms that are in, not (L k)³.
final class GroupManifold<Form: GramForm> {
  private let space: GroupSpace<Form>
  /// Coordinates, by part and within a part by group; the group of each that has a norm, else −1.
  private(set) var count = 0
  let coordinate: UnsafeMutablePointer<Int>
  private let groupOf: UnsafeMutablePointer<Int>
  /// Part k has coordinates parts[k] ..< parts[k + 1], its square begins at squares[k].
  private let parts: UnsafeMutablePointer<Int>
  private let squares: UnsafeMutablePointer<Int>
  /// Number of a group among those across parts, −1 for others.
  private let crossing: UnsafeMutablePointer<Int>
  private var crossings = 0
  /// Coordinates of a group that are here. With one its norm is |u|, which has no curvature.
  private let sizes: UnsafeMutablePointer<Int>

  private var g: Buffer<Double>
  private var factors: Buffer<Double>
  /// Runs of crossing groups in parts: coordinates first ..< first + count, column `at` of Y, whose leading dimension is the
  /// part's count.
  private struct Run {
    var part: Int
    var crossing: Int
    var first: Int
    var count: Int
    var at: Int
  }
  private var runs: [Run] = []
  private var y: Buffer<Double>
  private var s: Buffer<Double>
  private var projected: Buffer<Double>
  /// ‖u_g‖ by group, of the u last factored at.
  private let norms: Buffer<Double>
  /// What the squares of a factor's diagonal must exceed: the block is singular to the precision of the fit, or of the
  /// cancellation in the curvature of a small norm.
  private let diagonal: Buffer<Double>
  /// The last factor needed a shift: K is numerically singular.
  private(set) var isSingular = false

  private let integers: Buffer<Int>

  init(_ space: GroupSpace<Form>) throws(UnmergeError) {
    self.space = space
    let k = space.form.parts
    integers = try allocate(2 * space.n + 2 * (k + 1) + 2 * space.groups)
    coordinate = integers.pointer
    groupOf = coordinate + space.n
    parts = groupOf + space.n
    squares = parts + k + 1
    crossing = squares + k + 1
    sizes = crossing + space.groups
    norms = try allocate(space.groups)
    diagonal = try allocate(space.n)
    g = try allocate(0)
    factors = try allocate(0)
    y = try allocate(0)
    s = try allocate(0)
    projected = try allocate(0)
  }

  /// Takes the coordinates for which `isFree` holds and gathers G.
  func select(_ isFree: (_ group: Int, _ coordinate: Int) -> Bool) throws(UnmergeError) {
    let form = space.form
    let k = form.parts
    for p in 0...k { parts[p] = 0 }
    crossings = 0
    for b in 0..<space.groups {
      var last = -1
      crossing[b] = -1
      sizes[b] = 0
      for i in space.start[b]..<space.start[b + 1] where isFree(b, i) {
        let p = form.part(space.column[i])
        parts[p + 1] += 1
        sizes[b] += 1
        if space.norm[b] > 0, last >= 0, last != p, crossing[b] < 0 {
          crossing[b] = crossings
          crossings += 1
        }
        last = p
      }
    }
    squares[0] = 0
    for p in 0..<k {
      squares[p + 1] = squares[p] + (try product(parts[p + 1], parts[p + 1], "the coordinates in use"))
      parts[p + 1] += parts[p]
    }
    count = parts[k]
    for b in 0..<space.groups {
      for i in space.start[b]..<space.start[b + 1] where isFree(b, i) {
        let p = form.part(space.column[i])
        coordinate[parts[p]] = i
        groupOf[parts[p]] = space.norm[b] > 0 ? b : -1
        parts[p] += 1
      }
    }
    for p in stride(from: k, to: 0, by: -1) { parts[p] = parts[p - 1] }
    parts[0] = 0
    if g.count < squares[k] {
      g = try allocate(squares[k])
      factors = try allocate(squares[k])
    }
    for p in 0..<k {
      let size = parts[p + 1] - parts[p]
      let square = g.pointer + squares[p]
      let base = p * form.height
      for b in 0..<size {
        let i = coordinate[parts[p] + b]
        let column = form.column(space.column[i])
        let ratio = space.ratio[i]
        for a in 0...b {
          let j = coordinate[parts[p] + a]
          let value = column[space.column[j] - base] * (space.ratio[j] * ratio)
          square[b * size + a] = value
          square[a * size + b] = value
        }
      }
    }
    runs.removeAll(keepingCapacity: true)
    guard crossings > 0 else { return }
    var at = 0
    for p in 0..<k {
      let size = parts[p + 1] - parts[p]
      var i = parts[p]
      while i < parts[p + 1] {
        var end = i + 1
        while end < parts[p + 1], groupOf[end] == groupOf[i], groupOf[i] >= 0 { end += 1 }
        if groupOf[i] >= 0, crossing[groupOf[i]] >= 0 {
          runs.append(Run(part: p, crossing: crossing[groupOf[i]], first: i, count: end - i, at: at))
          at += size
        }
        i = end
      }
    }
    if y.count < at { y = try allocate(at) }
    let square = try product(crossings, crossings, "the groups in use")
    if s.count < square { s = try allocate(square) }
    if projected.count < crossings { projected = try allocate(crossings) }
  }

  /// The group with a norm that the k-th coordinate belongs to, or −1.
  @inline(__always)
  func group(_ k: Int) -> Int { groupOf[k] }

  /// x ← Gx
  func multiply(_ x: UnsafePointer<Double>, _ out: UnsafeMutablePointer<Double>) {
    for p in 0..<space.form.parts where parts[p + 1] > parts[p] {
      let size = parts[p + 1] - parts[p]
      Double.gemm(
        false, false, size, 1, size, 1, g.pointer + squares[p], size, x + parts[p], size, 0, out + parts[p], size)
    }
  }

  /// Factors K at u, in the order of `coordinate`; without `nu` only G + μ, and false when that is singular. A singular K is
  /// shifted: the directions concerned are level, what is made of them is up to the line search.
  func factor(_ u: UnsafePointer<Double>, nu: UnsafePointer<Double>?) throws(UnmergeError) -> Bool {
    isSingular = false
    if nu != nil {
      norms.zero()
      for b in 0..<count where groupOf[b] >= 0 { norms[groupOf[b]] += u[b] * u[b] }
      for b in 0..<space.groups { norms[b] = norms[b].squareRoot() }
    }
    var shift = 0.0
    while true {
      if factorParts(u, nu, shift), nu == nil || factorCrossings(u, nu, shift) { return true }
      if nu == nil { return false }
      isSingular = true
      shift = shift == 0 ? 1e-12 : shift * 100
      if shift > 1 { return false }
    }
  }

  private func factorParts(_ u: UnsafePointer<Double>, _ nu: UnsafePointer<Double>?, _ shift: Double) -> Bool {
    for p in 0..<space.form.parts where parts[p + 1] > parts[p] {
      let size = parts[p + 1] - parts[p]
      let first = parts[p]
      let h = factors.pointer + squares[p]
      h.update(from: g.pointer + squares[p], count: size * size)
      for b in 0..<size {
        let i = coordinate[first + b]
        let fit = h[b * size + b] + space.mu[i]
        let group = groupOf[first + b]
        var curvature = 0.0
        if let nu, group >= 0, sizes[group] > 1 {
          let norm = norms[group]
          curvature = nu[group] / norm
          if crossing[group] < 0 {
            let f = curvature / norm * u[first + b] / norm
            var a = b
            while a >= 0, groupOf[first + a] == group {
              h[b * size + a] -= f * u[first + a]
              a -= 1
            }
          }
        }
        h[b * size + b] += space.mu[i] + curvature
        diagonal[b] = max(1e-13 * fit, 4 * roundoff * (fit + curvature))
      }
      if shift > 0 { for b in 0..<size { h[b * size + b] *= 1 + shift } }
      guard Symmetric.factor(size, h) != nil else { return false }
      for b in 0..<size where !(h[b * size + b] * h[b * size + b] > diagonal[b]) { return false }
    }
    return true
  }

  /// Y and S.
  private func factorCrossings(_ u: UnsafePointer<Double>, _ nu: UnsafePointer<Double>?, _ shift: Double) -> Bool {
    guard crossings > 0, let nu else { return true }
    let m = crossings
    for i in 0..<(m * m) { s[i] = 0 }
    for c in 0..<m { s[c * m + c] = 1 + shift }
    var r = 0
    while r < runs.count {
      let p = runs[r].part
      var end = r
      let size = parts[p + 1] - parts[p]
      while end < runs.count, runs[end].part == p {
        let run = runs[end]
        let column = y.pointer + run.at
        for b in 0..<size { column[b] = 0 }
        for b in run.first..<(run.first + run.count) { column[b - parts[p]] = weight(b, u, nu) }
        end += 1
      }
      Symmetric.solve(size, factor: factors.pointer + squares[p], y.pointer + runs[r].at, columns: end - r)
      for a in r..<end {
        for b in r..<end where runs[a].crossing <= runs[b].crossing {
          var sum = 0.0
          let column = y.pointer + runs[b].at - parts[p]
          for i in runs[a].first..<(runs[a].first + runs[a].count) { sum += weight(i, u, nu) * column[i] }
          s[runs[b].crossing * m + runs[a].crossing] -= sum
        }
      }
      r = end
    }
    guard Symmetric.factor(m, s.pointer) != nil else { return false }
    for c in 0..<m where !(s[c * m + c] > 1e-8) { return false }
    return true
  }

  /// Element b of U.
  @inline(__always)
  private func weight(_ b: Int, _ u: UnsafePointer<Double>, _ nu: UnsafePointer<Double>) -> Double {
    let group = groupOf[b]
    let norm = norms[group]
    return (nu[group] / norm).squareRoot() * (u[b] / norm)
  }

  /// x ← K⁻¹x
  func solve(_ x: UnsafeMutablePointer<Double>) {
    for c in 0..<crossings { projected[c] = 0 }
    for run in runs {
      let base = parts[run.part]
      projected[run.crossing] += Vector.dot(parts[run.part + 1] - base, y.pointer + run.at, x + base)
    }
    for p in 0..<space.form.parts where parts[p + 1] > parts[p] {
      Symmetric.solve(parts[p + 1] - parts[p], factor: factors.pointer + squares[p], x + parts[p], columns: 1)
    }
    guard crossings > 0 else { return }
    Symmetric.solve(crossings, factor: s.pointer, projected.pointer, columns: 1)
    for run in runs {
      let base = parts[run.part]
      Vector.axpy(parts[run.part + 1] - base, projected[run.crossing], y.pointer + run.at, x + base)
    }
  }

  /// tr K⁻¹G, from the last factor, which is used up.
  func degreesOfFreedom() throws(UnmergeError) -> Double {
    var trace = 0.0
    if crossings > 0 {
      let m = crossings
      let w: Buffer<Double> = try allocate(m * m)
      var r = 0
      while r < runs.count {
        let p = runs[r].part
        var end = r
        while end < runs.count, runs[end].part == p { end += 1 }
        let size = parts[p + 1] - parts[p]
        let gy: Buffer<Double> = try allocate(size * (end - r))
        Double.gemm(
          false, false, size, end - r, size, 1, g.pointer + squares[p], size, y.pointer + runs[r].at, size, 0, gy.pointer,
          size)
        for a in r..<end {
          for b in r..<end {
            w[runs[b].crossing * m + runs[a].crossing] += Vector.dot(
              size, y.pointer + runs[a].at, gy.pointer + (b - r) * size)
          }
        }
        r = end
      }
      Symmetric.solve(m, factor: s.pointer, w.pointer, columns: m)
      for c in 0..<m { trace += w[c * m + c] }
    }
    for p in 0..<space.form.parts where parts[p + 1] > parts[p] {
      let size = parts[p + 1] - parts[p]
      guard Symmetric.invert(size, factor: factors.pointer + squares[p]) else { return .nan }
      for b in 0..<size {
        trace += Vector.dot(size, factors.pointer + squares[p] + b * size, g.pointer + squares[p] + b * size)
      }
    }
    return trace
  }
}
