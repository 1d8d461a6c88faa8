import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Groups as the caller gives them, checked: group g is members[offsets[g] ..< offsets[g + 1]].
struct Groups: @unchecked Sendable {
  let offsets: Buffer<Int>
  let members: Buffer<Int>
  /// Per group; nil = √size.
  var weights: Buffer<Double>?
  var ridgeWeights: Buffer<Double>?
  var count: Int { offsets.count - 1 }

  init(offsets: Buffer<Int>, members: Buffer<Int>, weights: Buffer<Double>?, ridgeWeights: Buffer<Double>?) {
    (self.offsets, self.members, self.weights, self.ridgeWeights) = (offsets, members, weights, ridgeWeights)
  }

  /// `columns` coefficients; without groups of the caller's those with the same remainder by `period` are one.
  init(
    _ offsets: UnsafePointer<Int64>?, _ members: UnsafePointer<Int64>?, count: Int64, columns: Int, period: Int
  ) throws(UnmergeError) {
    guard let offsets else {
      guard count == 0 else { throw .null("options->offsets") }
      let groups = columns > 0 ? period : 0
      let size = groups > 0 ? columns / groups : 0
      self.offsets = try allocate(groups + 1)
      self.members = try allocate(columns)
      for g in 0..<groups {
        self.offsets[g + 1] = (g + 1) * size
        for k in 0..<size { self.members[g * size + k] = k * period + g }
      }
      return
    }
    try check(count, "options->n_groups", 0...Int64(Int.max / 64), ">= 0")
    let groups = Int(count)
    self.offsets = try allocate(groups + 1)
    func load(_ p: UnsafePointer<Int64>, _ i: Int) -> Int64 { UnsafeRawPointer(p + i).loadUnaligned(as: Int64.self) }
    for g in 0...groups {
      let o = load(offsets, g)
      let least = g == 0 ? 0 : Int64(self.offsets[g - 1])
      guard o >= least, g > 0 || o == 0 else {
        throw .range("options->offsets[\(g)] is \(o); offsets must ascend from 0")
      }
      self.offsets[g] = Int(o)
    }
    let total = self.offsets[groups]
    guard total == 0 || members != nil else { throw .null("options->members") }
    self.members = try allocate(total)
    let seen = try allocate(columns, of: Int.self)
    for g in 0..<groups {
      for k in self.offsets[g]..<self.offsets[g + 1] {
        let j = members.map { load($0, k) } ?? 0
        guard j >= 0, j < Int64(columns) else {
          throw .range("options->members[\(k)] is \(j); it must be in [0, \(columns))")
        }
        guard seen[Int(j)] != g + 1 else {
          throw .range("options->members names \(j) twice in group \(g); the members of a group must be distinct")
        }
        seen[Int(j)] = g + 1
        self.members[k] = Int(j)
      }
    }
  }
}

/// The smallest s ≥ 0 with ‖(s·x − a)₊‖ ≥ b for x, a ≥ 0, not above `start`; ∞ where there is none. The norm is convex and
/// increasing in s, so Newton from the right descends to it; for a = 0 one step arrives.
func reach(
  _ count: Int, start: Double, _ b: Double, _ pair: (Int) -> (x: Double, a: Double)
) -> Double {
  var s = start
  for _ in 0..<100 {
    var square = 0.0
    var slope = 0.0
    for i in 0..<count {
      let (x, a) = pair(i)
      let excess = s * x - a
      if excess > 0 {
        square += excess * excess
        slope += excess * x
      }
    }
    let norm = square.squareRoot()
    guard norm > b, slope > 0 else { return s }
    let next = s - (norm - b) * (norm / slope)
    if !(next < s * (1 - 2 * roundoff)) { return s * (1 - 2 * roundoff) }
    s = max(next, 0)
  }
  return s
}

/// The coordinates groups are solved in, for one form and one set of groups.
///
/// One coordinate u_i per membership, ordered by group and within a group by part. A group has a common scale
/// D_g = max ‖a_j‖ over its atoms, so that its norm stays Euclidean and gradients stay correlations:
///
///     u_i = w_i D_g / ‖y‖     ρ_i = d_i / D_g ≤ 1     z_j = Σ ρ_i u_i over the coordinates i of column j
///     F(u) = ½ − ĉᵀz + ½ zᵀĜz + α/‖y‖ [ Σ l_i |u_i| + Σ_g k_g ‖u_g‖ ] + ½ Σ μ_i u_i²
///
/// The gradient of the fit lives on the columns of Ĝ: overlapping groups need no duplicated Gram. What has no norm worth the
/// name (one coefficient, group weight 0, l1_ratio 1) is cut into single coordinates, for which the norm is |u_i| or nothing.
/// Zero atoms have no coordinate.
final class GroupSpace<Form: GramForm>: @unchecked Sendable {
  let form: Form
  /// Coordinates, and groups of them.
  let n: Int
  let groups: Int
  let positive: Bool
  /// Coordinates of group g: start[g] ..< start[g + 1]
  let start: UnsafeMutablePointer<Int>
  /// Column of Ĝ, and index into the caller's members (−1: in no group).
  let column: UnsafeMutablePointer<Int>
  let member: UnsafeMutablePointer<Int>
  let ratio: UnsafeMutablePointer<Double>
  /// l_i, μ_i
  let l1: UnsafeMutablePointer<Double>
  let mu: UnsafeMutablePointer<Double>
  /// k_g, D_g
  let norm: UnsafeMutablePointer<Double>
  let scale: UnsafeMutablePointer<Double>
  /// All groups are single coordinates of different columns.
  let isSeparable: Bool
  let largestGroup: Int

  private let integers: Buffer<Int>
  private let numbers: Buffer<Double>
  private let lock = Lock()
  private var bases: [Int: GroupBasis] = [:]

  /// Without `norms` (α = 0) nothing is penalised but by the ridge.
  init(
    _ form: Form, _ groups: Groups, l1Ratio: Double, weights: Buffer<Double>?, ridge: Double, positive: Bool,
    norms: Bool = true
  ) throws(UnmergeError) {
    self.form = form
    self.positive = positive
    let total = groups.members.count
    // Ungrouped columns become singles too.
    let most = try product(2, total + form.count, "the groups")
    integers = try allocate(product(3, most, "the groups"))
    numbers = try allocate(product(5, most, "the groups"))
    let (start, ratio) = (integers.pointer, numbers.pointer)
    let column = start + most
    let member = column + most / 2
    let l1 = ratio + most / 2
    let mu = l1 + most / 2
    let norm = mu + most / 2
    let scale = norm + most
    (self.start, self.column, self.member) = (start, column, member)
    (self.ratio, self.l1, self.mu, self.norm, self.scale) = (ratio, l1, mu, norm, scale)
    let used = try allocate(form.count, of: Bool.self)
    let free = try allocate(form.count, of: Bool.self)
    var n = 0
    var count = 0
    var largest = 0
    var isSeparable = true

    func single(_ j: Int, _ k: Int, l1 l: Double, ridge r: Double) {
      let d = form.norm(j)
      if used[j] { isSeparable = false }
      used[j] = true
      guard d > 0 else { return }
      let m = r / d / d
      if l == 0, m == 0, !positive {
        // A second copy of what is free already adds nothing.
        if free[j] { return }
        free[j] = true
      }
      column[n] = j
      member[n] = k
      ratio[n] = 1
      l1[n] = l / d
      mu[n] = m
      scale[count] = d
      n += 1
      count += 1
      start[count] = n
    }

    for g in 0..<groups.count {
      let range = groups.offsets[g]..<groups.offsets[g + 1]
      let size = Double(range.count)
      let r = ridge * (groups.ridgeWeights?[g] ?? 1)
      var k = norms && l1Ratio < 1 ? (1 - l1Ratio) * (groups.weights?[g] ?? size.squareRoot()) : 0
      var longest = 0.0
      var present = 0
      for i in range {
        let d = form.norm(groups.members[i])
        longest = max(longest, d)
        if d > 0 { present += 1 }
      }
      if present <= 1 || k == 0 {
        for i in range {
          let j = groups.members[i]
          single(j, i, l1: norms ? l1Ratio * (weights?[j] ?? 1) + k : 0, ridge: r)
        }
        continue
      }
      k /= longest
      let first = n
      for i in range {
        let j = groups.members[i]
        let d = form.norm(j)
        used[j] = true
        guard d > 0 else { continue }
        column[n] = j
        member[n] = i
        n += 1
      }
      isSeparable = false
      // By part: an insertion for every member would be quadratic, and most groups are sorted.
      var isSorted = true
      for i in (first + 1)..<n where column[i] < column[i - 1] { isSorted = false }
      if !isSorted {
        let order = try allocate(n - first, of: Int.self)
        let copy = try allocate(2 * (n - first), of: Int.self)
        for i in 0..<(n - first) {
          order[i] = i
          copy[i] = column[first + i]
          copy[n - first + i] = member[first + i]
        }
        var view = UnsafeMutableBufferPointer(start: order.pointer, count: n - first)
        view.sort { copy[$0] < copy[$1] }
        for (i, o) in view.enumerated() {
          column[first + i] = copy[o]
          member[first + i] = copy[n - first + o]
        }
      }
      for i in first..<n {
        let j = column[i]
        ratio[i] = form.norm(j) / longest
        l1[i] = l1Ratio * (weights?[j] ?? 1) / longest
        mu[i] = r / longest / longest
      }
      norm[count] = k
      scale[count] = longest
      largest = max(largest, n - first)
      count += 1
      start[count] = n
    }
    for j in 0..<form.count where !used[j] { single(j, -1, l1: norms ? l1Ratio * (weights?[j] ?? 1) : 0, ridge: 0) }
    // A ridge that overflows excludes, as an l1 penalty that does.
    for g in 0..<count {
      for i in start[g]..<start[g + 1] where !mu[i].isFinite {
        mu[i] = 0
        if start[g + 1] - start[g] > 1 { norm[g] = .infinity } else { l1[i] = .infinity }
      }
    }
    self.n = n
    self.groups = count
    self.isSeparable = isSeparable
    largestGroup = max(largest, 1)
  }

  func size(_ g: Int) -> Int { start[g + 1] - start[g] }

  /// Basis of group g, computed when first asked for; its columns are known.
  func basis(_ g: Int) throws(UnmergeError) -> GroupBasis {
    try lock.locked { () throws(UnmergeError) in
      if let known = bases[g] { return known }
      let made = try GroupBasis(self, g)
      bases[g] = made
      return made
    }
  }

  /// Whether coordinates of group g can be 0 by themselves while the group is in.
  func isThresholded(_ g: Int) -> Bool {
    if positive { return true }
    for i in start[g]..<start[g + 1] where l1[i] > 0 { return true }
    return false
  }
}

/// The curvature Q = ρ Ĝ_gg ρ of a group with a norm, a part at a time: rotated into its eigenvectors where the block step is
/// exact there, as it is where coordinates are thresholded.
final class GroupBasis: @unchecked Sendable {
  /// Coordinates of the group in one part, from `first` of the group, and where their square of numbers is.
  struct Segment {
    var first: Int
    var count: Int
    var at: Int
  }
  let segments: [Segment]
  /// Eigenvalues of Q, by segment; eigenvectors in columns, or Q itself.
  let values: Buffer<Double>
  let squares: Buffer<Double>
  let largest: Double
  let isRotated: Bool

  init<Form: GramForm>(_ space: GroupSpace<Form>, _ g: Int) throws(UnmergeError) {
    let first = space.start[g]
    let size = space.size(g)
    let form = space.form
    var segments: [Segment] = []
    var cells = 0
    var i = 0
    while i < size {
      var end = i + 1
      while end < size, form.part(space.column[first + end]) == form.part(space.column[first + i]) { end += 1 }
      segments.append(Segment(first: i, count: end - i, at: cells))
      cells += (end - i) * (end - i)
      i = end
    }
    let values: Buffer<Double> = try allocate(size)
    let squares: Buffer<Double> = try allocate(cells)
    let isRotated = !space.isThresholded(g)
    var largest = 0.0
    for s in segments {
      let q = squares.pointer + s.at
      for a in 0..<s.count {
        let ia = first + s.first + a
        let column = form.column(space.column[ia])
        let base = form.part(space.column[ia]) * form.height
        for b in 0..<s.count {
          let ib = first + s.first + b
          q[a * s.count + b] = column[space.column[ib] - base] * space.ratio[ia] * space.ratio[ib]
        }
      }
      if s.count == 1 {
        values[s.first] = q[0]
        if isRotated { q[0] = 1 }
      } else {
        let copy: Buffer<Double> = try allocate(s.count * s.count)
        copy.pointer.update(from: q, count: s.count * s.count)
        let eigen = try allocating { () throws(OutOfMemory) in try Symmetric.eigen(s.count, copy.pointer) }
        guard let eigen else {
          throw UnmergeError(UNMERGE_E_INTERNAL, "the eigenvalues of a group's Gram could not be computed")
        }
        for a in 0..<s.count { values[s.first + a] = max(0, eigen.values[a]) }
        if isRotated { q.update(from: eigen.vectors.pointer, count: s.count * s.count) }
      }
      for a in 0..<s.count { largest = max(largest, values[s.first + a]) }
    }
    self.segments = segments
    self.values = values
    self.squares = squares
    self.largest = largest
    self.isRotated = isRotated
  }

  /// y ← Vᵀx (or Vx back).
  func rotate(_ x: UnsafePointer<Double>, _ y: UnsafeMutablePointer<Double>, back: Bool) {
    for s in segments {
      let v = squares.pointer + s.at
      let (from, to) = (x + s.first, y + s.first)
      if s.count == 1 {
        to[0] = from[0]
      } else if back {
        for a in 0..<s.count { to[a] = 0 }
        for b in 0..<s.count {
          let f = from[b]
          let column = v + b * s.count
          for a in 0..<s.count { to[a] += f * column[a] }
        }
      } else {
        for b in 0..<s.count {
          let column = v + b * s.count
          var sum = 0.0
          for a in 0..<s.count { sum += column[a] * from[a] }
          to[b] = sum
        }
      }
    }
  }

  /// y ← Qx, not rotated.
  func multiply(_ x: UnsafePointer<Double>, _ y: UnsafeMutablePointer<Double>) {
    rotate(x, y, back: true)
  }
}
