import UnmergeCore
import UnmergeLinalg

// How many entries a random mask has kept
//
// Where only atom x is left, D = ρ_x τ_x; where nothing is, D = 0. With independent masks, what the others left being the same
// in both, q = alone / (alone + none). Sign election breaks that: x is alone as well where a kept atom of the other sign lost.
// Among entries where ρ_y τ_y has the sign of ρ_x τ_x for all y it has nothing to elect: where all entries give more than those,
// there was an election, and those are right.
//
// DELLA keeps larger entries more often, p = q + ε (2r − 1) with r ∈ [0, 1] the rank of |τ| in its row: the rate is a line in r,
// level for DARE. What puts the l1 norm back is 1/p̄ with p̄ = Σ p|τ| / Σ|τ|, so that w = ρ p̄.
struct KeptShare: Sendable {
  /// q: of all entries, or at the middle rank.
  let share: Double
  /// ε; 0: level.
  let slope: Double
  /// p̄ of every atom.
  let kept: [Double]

  private static let rows = 256
  private static let bins = 20

  private struct Counts {
    var alone = Array(repeating: 0.0, count: bins)
    var none = Array(repeating: 0.0, count: bins)
    var around = 0.0
    /// A width short of where x stands alone, and of nothing.
    var shortOfAlone = Array(repeating: 0.0, count: bins)
    var shortOfNone = Array(repeating: 0.0, count: bins)
    var total: Double { alone.reduce(0, +) + none.reduce(0, +) }
    var share: Double { alone.reduce(0, +) / max(total, 1) }

    /// Others of the same sign come to e by chance, twice as often within a width on both sides as short of e. What somebody
    /// unknown has left there of the other sign is short of nothing as well.
    mutating func removeCoincidences() {
      let nothing = none.reduce(0, +)
      guard nothing > 0 else { return }
      // Differences of counts may be negative in a bin; cut off there, their sum would be too large.
      let ratio = alone.reduce(0, +) / nothing
      for b in alone.indices { alone[b] -= 2 * (shortOfAlone[b] - ratio * shortOfNone[b]) }
    }
    /// Nothing left is a spike of its own.
    var isClear: Bool { total > 200 && none.reduce(0, +) > 1.15 * around }
  }

  /// ρ in the order of `present`; nil where too little is to be seen.
  init?(_ sample: RowSample, _ present: [Int], ratios: [Double], _ watch: Watch) throws(UnmergeError) {
    let k = present.count
    let small = try sample.thinned(rows: Self.rows)
    var (agreeing, all) = (Counts(), Counts())
    var spread = Array(repeating: 0.0, count: k)
    var norms = spread
    for m in small.modules {
      var taus: [Buffer<Float>] = []
      for j in present {
        let tau: Buffer<Float> = try allocate(m.entries)
        Traces.taskVector(m, j, tau.pointer)
        taus.append(tau)
      }
      let keys: Buffer<UInt64> = try allocate(2 * m.cols)
      let ranks: Buffer<Float> = try allocate(m.cols)
      for x in 0..<k {
        for row in 0..<m.rows {
          let first = row * m.cols
          Magnitude.ranks(taus[x].pointer + first, m.cols, scratch: keys.pointer, into: ranks.pointer)
          for c in 0..<m.cols {
            let i = first + c
            let t = taus[x][i]
            spread[x] += Double(abs(t) * (2 * ranks[c] - 1))
            norms[x] += Double(abs(t))
            let unit = m.unit?[i] ?? max(abs(m.base?[i] ?? 0), abs(m.target[i])) * 0x1p-21
            let (d, e) = (m.target[i], Float(ratios[x]) * t)
            guard abs(e) > 16 * unit else { continue }
            // As wide as the tool's own roundings and factors per matrix may move it.
            let width = unit + 0.012 * abs(e)
            let (isAlone, isNone) = (abs(d - e) <= width, abs(d) <= width)
            let isAround = !isNone && abs(d) <= 2 * width
            // In the direction of e.
            let along = e < 0 ? -d : d
            let isShort = along >= abs(e) - 2 * width && along < abs(e) - width
            let isOpposite = along >= -2 * width && along < -width
            guard isAlone || isNone || isAround || isShort else { continue }
            let bin = min(Self.bins - 1, max(0, Int(ranks[c] * Float(Self.bins))))
            var agrees = true
            for y in 0..<k where y != x {
              let other = Float(ratios[y]) * taus[y][i]
              if other != 0, (other < 0) != (e < 0) { agrees = false }
            }
            func add(_ counts: inout Counts) {
              if isAlone { counts.alone[bin] += 1 }
              if isShort { counts.shortOfAlone[bin] += 1 }
              if isOpposite { counts.shortOfNone[bin] += 1 }
              if isNone { counts.none[bin] += 1 }
              if isAround { counts.around += 1 }
            }
            add(&all)
            if agrees { add(&agreeing) }
          }
        }
      }
      if let stop = watch.poll() { throw stop.error }
    }
    // Without an election all entries tell the same, more of them and with less left by chance.
    var counts = all
    if agreeing.isClear, agreeing.total > 2000, all.share > agreeing.share + 0.03 {
      agreeing.removeCoincidences()
      if agreeing.isClear { counts = agreeing }
    }
    guard counts.isClear else { return nil }
    // A line through the rates at r − ½, weighted with the inverse of their variance.
    var (s0, s1, s2, t0, t1) = (0.0, 0.0, 0.0, 0.0, 0.0)
    for b in 0..<Self.bins {
      let n = counts.alone[b] + counts.none[b]
      guard n > 50 else { continue }
      let (x, p) = ((Double(b) + 0.5) / Double(Self.bins) - 0.5, min(max(counts.alone[b] / n, 0), 1))
      let weight = n / max(p * (1 - p), 0.01)
      s0 += weight
      s1 += weight * x
      s2 += weight * x * x
      t0 += weight * p
      t1 += weight * p * x
    }
    let determinant = s0 * s2 - s1 * s1
    let gradient = determinant > 0 ? (s0 * t1 - s1 * t0) / determinant : 0
    let error = determinant > 0 ? (s0 / determinant).squareRoot() : .infinity
    // Tools take an ε of a few hundredths at least.
    let isSloped = gradient > 0.05 && gradient > 6 * error
    slope = isSloped ? gradient / 2 : 0
    share = isSloped ? (t0 - gradient * s1) / s0 : counts.share
    let (q, epsilon) = (share, slope)
    kept = (0..<k).map { q + epsilon * (norms[$0] > 0 ? spread[$0] / norms[$0] : 0) }
  }
}
