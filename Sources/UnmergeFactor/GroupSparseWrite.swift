import UnmergeCore
import UnmergeLinalg

extension GroupSparse {
  /// z of entries o ..< o + n of group i, from their values as the caller has them; adds Σ w|z| and Σ z², in units of the
  /// group's magnitudes, and how many are not 0. Chunks of a group come in order.
  func write(
    _ i: Int, _ o: Int, _ n: Int, _ source: UnsafePointer<T>, _ z: UnsafeMutablePointer<Double>, refit: Bool,
    _ sums: inout Excess
  ) {
    var g = groups[i]
    let size = correlation(g) * g.unit
    /// |z| of one entry, from its magnitude.
    func each(_ f: (_ j: Int, _ magnitude: Double, _ weight: Double) -> Double) {
      for k in 0..<n {
        let s = Double(source[k])
        let weight = w?[g.start + o + k] ?? 1
        let v = g.unit * abs(s)
        let d = f(o + k, v, weight)
        let u = d > 0 ? refit ? v : d : 0
        z[k] = (s < 0 ? 0 - u : u) / g.unit
        sums.count += u > 0 ? 1 : 0
        sums.mass += weight * u
        sums.squares += u * u
      }
    }
    switch g.kind {
    case .excluded, .zero:
      for k in 0..<n {
        z[k] = Double(source[k])
        sums.count += z[k] != 0 ? 1 : 0
      }
    case .smooth:
      let scale = size / g.sums.squares.squareRoot()
      if w != nil {
        each { _, v, weight in
          let u = v - g.t * weight
          return u > 0 ? scale * (u - g.offset * weight) : 0
        }
      } else {
        sums += T.shrink(z, source, n, unit: g.unit, t: g.t, d: g.offset, scale: scale, keep: refit)
        if g.unit != 1 { for k in 0..<n { z[k] /= g.unit } }
      }
    case .tied:
      each { j, v, weight in
        guard isTied(g, v, weight) else { return 0 }
        if w == nil, g.index < 0 { g.index = j }
        let isLightest = w == nil ? j == g.index : g.start + j == g.next
        return size * (g.p * weight + (isLightest ? g.q : 0))
      }
    case .lone:
      each { j, v, _ in
        if w == nil {
          guard v == g.largest, g.index < 0 else { return 0 }
          g.index = j
          return size
        }
        return g.start + j == g.index ? size * g.p : g.start + j == g.next ? size * g.q : 0
      }
    }
    groups[i] = g
  }
}

/// Group sparse projection of a buffer of one's own, again and again, without an allocation per call.
package final class GroupSparseProjection {
  private let state: GroupSparse<Double>

  /// Group i is x[offsets[i] ..< offsets[i + 1]]; offsets[0] = 0, ascending.
  package init(offsets: [Int]) throws(UnmergeError) {
    state = try GroupSparse(offsets.count - 1, weighted: false, squared: false) { offsets[$0] }
  }

  /// The columns of a column-major matrix.
  package init(rows: Int, columns: Int) throws(UnmergeError) {
    _ = try product(rows, columns, "the matrix of groups")
    state = try GroupSparse(columns, weighted: false, squared: false) { $0 * rows }
  }

  /// x ← its projection: the average sparsity of its groups is at least `sparsity`. x must be finite. Signs stay; groups of
  /// fewer than two entries and groups of zeros are left alone; x that is sparse enough is not touched.
  @discardableResult
  package func project(_ x: UnsafeMutablePointer<Double>, sparsity: Double) -> GroupSparseSummary {
    state.source = UnsafePointer(x)
    for i in 0..<state.groups.count { state.groups[i].gain = 1 }
    guard state.measure(), var found = state.project(sparsity: sparsity, load: {}) else { return GroupSparseSummary() }
    if found.isUnchanged { return found }
    var sum = 0.0
    for i in 0..<state.groups.count where state.groups[i].count >= 2 {
      let g = state.groups[i]
      var sums = Excess()
      state.write(i, 0, g.count, x + g.start, x + g.start, refit: false, &sums)
      sum += Hoyer.sparsity(sums, norm: g.norm, least: g.least)
      if sums.count == 1 { found.oneSparse += 1 }
    }
    if state.counted > 0 { found.sparsity = sum / Double(state.counted) }
    return found
  }
}
