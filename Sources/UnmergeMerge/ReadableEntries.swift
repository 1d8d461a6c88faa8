import UnmergeCore
import UnmergeLinalg

// Weights of updates that are about as small as a unit in the last place
//
// A full fine-tune moves most weights by a few units u of their storage, and a merge stores round(Σ w_j τ_j / u): with τ = u
// and w = 0.4 nothing is left, with w = 0.6 all of it. Least squares over all entries is off by as much as a tenth. Where some
// |τ_j| is several units the rounding error is spread evenly over ± u/2, whatever the weights; and an entry that also holds
// something unknown is, in units, far from what is predicted. So in units, x_j = τ_j/u and y = D/u,
//
//     minimise Σ (y − Σ w_j x_j)²   over the entries with max |x_j| ≥ 4 and |y − Σ w_j x_j| ≤ 3/2
//
// repeated from where it ended: the mode of the weights, not their mean. A tool's own roundings grow with x; entries with
// |x| > 32 count as if they had that much.

struct ReadableEntries: Sendable {
  private static let least: Float = 4
  private static let most: Float = 32
  private static let reach: Float = 1.5

  /// In the order of `found`.
  let weights: [Double]
  /// From the spread over modules.
  let errors: [Double]
  let count: Int

  init?(_ sample: RowSample, _ found: [Int], from start: [Double], _ watch: Watch) throws(UnmergeError) {
    let k = found.count
    guard k > 0, sample.modules.contains(where: { $0.unit != nil }) else { return nil }
    // The entries that can take part, row-major: x_1 … x_k, y.
    var parts: [[Float]] = []
    for m in sample.modules {
      guard let unit = m.unit else { continue }
      var taus: [Buffer<Float>] = []
      for j in found {
        let tau: Buffer<Float> = try allocate(m.entries)
        Traces.taskVector(m, j, tau.pointer)
        taus.append(tau)
      }
      var rows: [Float] = []
      // A power of two, so that the most readable are not taken from one place.
      let limit = max(1 << 12, (1 << 20) / max(sample.modules.count, 1))
      var step = 1
      while m.entries / step > 16 * limit { step *= 2 }
      var i = 0
      while i < m.entries, rows.count < limit * (k + 1) {
        let u = unit[i]
        if u > 0 {
          var largest: Float = 0
          for tau in taus { largest = max(largest, abs(tau[i])) }
          if largest >= Self.least * u {
            let scale = min(1, Self.most * u / largest) / u
            for tau in taus { rows.append(scale * tau[i]) }
            rows.append(scale * m.target[i])
          }
        }
        i += step
      }
      parts.append(rows)
      if let stop = watch.poll() { throw stop.error }
    }
    var w = start
    var errors = Array(repeating: 0.0, count: k)
    var count = 0
    for turn in 0..<12 {
      var grams: [[Double]] = []
      var cs: [[Double]] = []
      count = 0
      // Far from the answer the right entries are further away.
      let reach = turn < 3 ? 2 * Self.reach : Self.reach
      for rows in parts {
        var g = Array(repeating: 0.0, count: k * k)
        var c = Array(repeating: 0.0, count: k)
        rows.withUnsafeBufferPointer { rows in
          for at in stride(from: 0, to: rows.count, by: k + 1) {
            var left = rows[at + k]
            for x in 0..<k { left -= Float(w[x]) * rows[at + x] }
            guard abs(left) <= reach else { continue }
            count += 1
            for x in 0..<k where rows[at + x] != 0 {
              let value = Double(rows[at + x])
              c[x] += value * Double(left)
              for y in 0...x { g[x * k + y] += value * Double(rows[at + y]) }
            }
          }
        }
        for x in 0..<k { for y in 0..<x { g[y * k + x] = g[x * k + y] } }
        grams.append(g)
        cs.append(c)
      }
      guard count > 100 * k else { return nil }
      var g = Array(repeating: 0.0, count: k * k)
      var c = Array(repeating: 0.0, count: k)
      for m in grams.indices {
        for i in g.indices { g[i] += grams[m][i] }
        for i in c.indices { c[i] += cs[m][i] }
      }
      let fit = DictionaryFit(g, atoms: k)
      let all = Array(0..<k)
      let step = try fit.solve(c, all)
      for x in 0..<k { w[x] += step[x] }
      errors = Array(repeating: 0.0, count: k)
      for m in grams.indices {
        var score = cs[m]
        for i in 0..<k { for j in 0..<k { score[i] -= grams[m][i * k + j] * step[j] } }
        let e = try fit.solve(score, all)
        for i in 0..<k { errors[i] += e[i] * e[i] }
      }
      if turn >= 3, step.allSatisfy({ abs($0) < 1e-5 }) { break }
    }
    weights = w
    self.errors = errors.map { $0.squareRoot() }
    self.count = count
  }
}
