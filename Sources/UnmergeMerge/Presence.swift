import UnmergeCore
import UnmergeLinalg

// Is an atom inside, or does something unknown look like it?
//
// Fine-tunes of one base share directions, so an unknown one leaves a least-squares weight b_j on atoms that are not there. It
// also leaves a residual, and where an atom is innocent the two go together: what is explained by the shared part comes with
// what is not. An atom that is inside adds to the first only. Hence
//
//     T_j = |b_j| ‖Δ_j‖ / ‖R Q_jᵀ‖       R = D − Σ b_i Δ_i, in the rows atom j can reach
//
// How large T gets for an innocent atom depends on how related these fine-tunes are, and the dictionary knows: leave one, two
// or three atoms out, merge those, fit the rest, and every T is one of an absent atom. All of it follows from the sums of
// RowSpaces. p-values are ranks among these; beyond the upper twentieth a Pareto tail continues them. Its index is Hill's, but 4
// at most: a dictionary shows only some of the ways in which fine-tunes can be related.

/// Least squares in the Gram of the atoms; atoms that depend on those before them get 0.
struct DictionaryFit: @unchecked Sendable {
  let n: Int
  private let gram: [Double]
  private let scale: [Double]

  init(_ gram: [Double], atoms n: Int) {
    self.n = n
    self.gram = gram
    scale = (0..<n).map { gram[$0 * n + $0] > 0 ? gram[$0 * n + $0].squareRoot() : 0 }
  }

  func norm(_ j: Int) -> Double { scale[j] }
  func cosine(_ i: Int, _ j: Int) -> Double {
    scale[i] > 0 && scale[j] > 0 ? gram[i * n + j] / scale[i] / scale[j] : 0
  }

  /// argmin over the weights of `free` of ½ wᵀGw − wᵀc.
  func solve(_ c: [Double], _ free: [Int]) throws(UnmergeError) -> [Double] {
    var w = Array(repeating: 0.0, count: n)
    let factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: max(1, free.count), tolerance: 1e-9) }
    let column: Buffer<Double> = try allocate(max(1, free.count))
    var kept: [Int] = []
    for j in free where scale[j] > 0 {
      for (x, i) in kept.enumerated() { column[x] = cosine(i, j) }
      if factor.append(kept.count, column: column.pointer, diagonal: 1) { kept.append(j) }
    }
    let x: Buffer<Double> = try allocate(max(1, kept.count))
    for (i, j) in kept.enumerated() { x[i] = c[j] / scale[j] }
    factor.solve(x.pointer)
    for (i, j) in kept.enumerated() { w[j] = x[i] / scale[j] }
    return w
  }

  /// 1-norm condition estimate of the unit-diagonal Gram of some atoms.
  func condition(_ free: [Int]) throws(UnmergeError) -> Double {
    let k = free.count
    guard k > 0 else { return 1 }
    let matrix: Buffer<Double> = try allocate(k * k)
    for (x, i) in free.enumerated() { for (y, j) in free.enumerated() { matrix[y * k + x] = i == j ? 1 : cosine(i, j) } }
    let factor = try allocating { () throws(OutOfMemory) in try DenseCholesky(k, matrix.pointer, addingToDiagonal: nil) }
    return factor?.condition ?? .infinity
  }
}

/// T of every atom, and the T of atoms known to be absent.
struct Presence: Sendable {
  let weights: [Double]
  private(set) var evidence: [Double]
  private(set) var pValues: [Double]
  /// Atoms whose evidence is that of DensePresence.
  private(set) var dense: Set<Int> = []
  /// The null distribution is that of this dictionary, not a default.
  let isCalibrated: Bool
  let tail: NullTail

  /// `usable`: the atoms that can answer (not zero, not a multiple of another).
  /// `dense`: those that answer by DensePresence, and whose T says nothing about that of an adapter.
  init(
    _ sums: RowSpaceSums, _ usable: [Int], dense: [Int], _ fit: DictionaryFit, seed: UInt64, _ watch: Watch
  ) throws(UnmergeError) {
    let n = sums.n
    let weights = try fit.solve(sums.c, usable)
    // Rounding alone is no residual: what is stored cannot be closer.
    func t(_ w: [Double], _ j: Int, _ floor: Double) -> Double {
      let left = max(sums.residual(w, inRowsOf: j), floor)
      return left > 0 ? abs(w[j]) * fit.norm(j) / left.squareRoot() : (w[j] == 0 ? 0 : .infinity)
    }
    var evidence = Array(repeating: 0.0, count: n)
    for j in usable { evidence[j] = t(weights, j, 1e-12 * sums.yy) }

    var null: [Double] = []
    if usable.count >= 4 {
      var random = SplitMix(seed &+ 0x5EED)
      let rounds = max(120, min(400, 4000 / usable.count))
      for round in 0..<rounds {
        let out = round < usable.count ? 1 : 1 + random.below(min(3, usable.count - 3))
        var order = usable
        var left = Array(repeating: 0.0, count: n)
        for x in 0..<out {
          let y = round < usable.count ? round : x + random.below(order.count - x)
          order.swapAt(x, y)
          // Weights as people write them: equal, or one half of another.
          left[order[x]] = random.below(3) == 0 ? 0.5 : 1
        }
        let rest = order[out...].sorted()
        // c of the merge of what was left out
        var c = Array(repeating: 0.0, count: n)
        for j in rest { for x in 0..<out { c[j] += left[order[x]] * sums.gram[j * n + order[x]] } }
        let b = try fit.solve(c, rest)
        // R = Σ left Δ − Σ b Δ: a combination of the atoms, whose residual is a quadratic form.
        var r = left
        for j in rest { r[j] -= b[j] }
        for j in rest where !dense.contains(j) {
          var energy = 0.0
          for i in 0..<n where r[i] != 0 {
            for k in 0..<n where r[k] != 0 {
              energy += r[i] * r[k] * (sums.m.isEmpty ? sums.gram[i * n + k] : sums.m[(j * n + i) * n + k])
            }
          }
          null.append(energy > 0 ? abs(b[j]) * fit.norm(j) / energy.squareRoot() : 0)
        }
        if let stop = watch.poll() { throw stop.error }
      }
    }
    null.sort()
    let tail = NullTail(null)
    self.weights = weights
    self.evidence = evidence
    self.tail = tail
    isCalibrated = tail.isEmpirical
    pValues = (0..<n).map { usable.contains($0) ? tail.pValue(evidence[$0]) : 1 }
  }

  mutating func replace(_ other: DensePresence, _ atoms: [Int]) {
    dense = Set(atoms)
    for j in atoms { (evidence[j], pValues[j]) = (other.evidence[j], other.pValues[j]) }
  }
}

/// A sample of a statistic under the null, continued beyond its upper twentieth by a Pareto tail.
struct NullTail: Sendable {
  private let sorted: [Double]
  private let start: Double
  private let index: Double
  private let mass: Double
  let isEmpirical: Bool

  /// No sample: the upper twentieth begins there.
  init(start: Double) {
    self.init([], start, index: 4, mass: 0.05, false)
  }

  /// `sorted` ascending. Fewer than 40 say too little: then related fine-tunes are assumed, with the upper twentieth at 0.8.
  init(_ sorted: [Double]) {
    guard sorted.count >= 40 else {
      self.init(start: 0.8)
      return
    }
    let count = sorted.count
    let first = Int(0.95 * Double(count))
    let start = max(sorted[first], 1e-12)
    let logs = sorted[first...].reduce(0) { $0 + Platform.log(max($1, 1e-12) / max(sorted[first], 1e-12)) }
    let hill = Double(count - first) / max(logs, 1e-9)
    self.init(sorted, start, index: min(max(hill, 2), 4), mass: Double(count - first + 1) / Double(count + 1), true)
  }

  private init(_ sorted: [Double], _ start: Double, index: Double, mass: Double, _ isEmpirical: Bool) {
    self.sorted = sorted
    self.start = start
    self.index = index
    self.mass = mass
    self.isEmpirical = isEmpirical
  }

  func pValue(_ t: Double) -> Double {
    if t.isInfinite { return 0 }
    if t > start { return mass * Platform.pow(start / t, index) }
    guard !sorted.isEmpty else { return min(1, 1 - 0.95 * t / start) }
    // The first that is not below t.
    var low = 0
    var high = sorted.count
    while low < high {
      let middle = (low + high) / 2
      if sorted[middle] < t { low = middle + 1 } else { high = middle }
    }
    return Double(sorted.count - low + 1) / Double(sorted.count + 1)
  }
}

/// Benjamini and Hochberg (1995): the smallest false discovery rate at which each would be called.
func falseDiscoveryRates(_ p: [Double], _ tested: [Int]) -> [Double] {
  var q = Array(repeating: 1.0, count: p.count)
  let order = tested.sorted { p[$0] != p[$1] ? p[$0] > p[$1] : $0 > $1 }
  var smallest = 1.0
  for (x, j) in order.enumerated() {
    let rank = order.count - x
    smallest = min(smallest, p[j] * Double(order.count) / Double(rank))
    q[j] = smallest
  }
  return q
}

/// Steele, Lea, Flood 2014: a stream of 64-bit numbers from a seed.
struct SplitMix: Sendable {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }

  /// 0 ..< n, n small against 2⁶⁴.
  mutating func below(_ n: Int) -> Int { Int(truncatingIfNeeded: next() % UInt64(max(n, 1))) }
}
