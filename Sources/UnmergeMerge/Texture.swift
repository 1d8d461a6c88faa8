import UnmergeCore
import UnmergeLinalg

// Texture: the differences of stored weights in units of their last place,
//
//     s_l = share of entries with round(|D|/u) = l,  of l > 0 half of it (one sign), l = 0 … 20, the last with all beyond
//
// A merge that adds task vectors has a density that is smooth at zero, where s_0 ≈ (4 s_1 − s_2)/3, the parabola through levels
// 1, 2 and their mirror images. Dropping entries (DARE, TIES, breadcrumbs) leaves more zeros; trimming small magnitudes leaves
// a hole above zero.
//
// Where storage is finer than 16 bits, level 0 are exact zeros and the others steps of an eighth of the module's root mean square.

package struct Texture: Sendable {
  package static let levels = 21

  package private(set) var shares: [Double]
  package let entries: Int
  /// Levels are units in the last place.
  package let isLattice: Bool

  /// s_0 − (4 s_1 − s_2)/3; without a lattice, where zeros are no accident, s_0.
  package var zeroExcess: Double { isLattice ? shares[0] - (4 * shares[1] - shares[2]) / 3 : shares[0] }

  /// 1 − mean(s_1, s_2) / mean(s_4 … s_8): near 1 where magnitudes just above zero are missing, negative where they are the most
  /// frequent; 0 when there is nothing at levels 4 to 8.
  package var hole: Double {
    let far = shares[4...8].reduce(0, +) / 5
    return far > 0 ? 1 - (shares[1] + shares[2]) / 2 / far : 0
  }

  init(_ counts: [Int], isLattice: Bool) {
    entries = counts.reduce(0, +)
    self.isLattice = isLattice
    let total = Double(max(entries, 1))
    shares = counts.enumerated().map { Double($1) / total * ($0 == 0 ? 1 : 0.5) }
  }

  static func counts(_ m: SampledModule) -> [Int] {
    var counts = [Int](repeating: 0, count: levels)
    let top = Float(levels - 1)
    let rms = (Float.squares(m.target.pointer, m.entries) / Double(max(m.entries, 1))).squareRoot()
    let step = Float(rms / 8)
    for i in 0..<m.entries {
      let x = abs(m.target[i])
      let level: Float
      if let unit = m.unit {
        level = (x / unit[i]).rounded(.toNearestOrEven)
      } else {
        level = x == 0 ? 0 : (x / step).rounded(.down) + 1
      }
      // Written so that a quotient that overflows goes to the last level.
      counts[level < top ? Int(level) : levels - 1] += 1
    }
    return counts
  }
}

package struct Textures: Sendable {
  /// By module of the sample.
  package let modules: [Texture]
  /// Of all modules stored in 16 bits; when there are none, of all modules.
  package let whole: Texture

  package init(_ sample: RowSample, _ watch: Watch) throws(UnmergeError) {
    let modules = sample.modules
    let results = Results<[Int]>(modules.count, [])
    try performPass(tasks: modules.count, slots: max(1, min(watch.threads, modules.count)), watch) { (m, _) in
      results.set(m, Texture.counts(modules[m]))
    } finish: { _, _ in
    }
    let counts = results.values
    self.modules = zip(modules, counts).map { Texture($1, isLattice: $0.unit != nil) }
    let hasLattice = modules.contains { $0.unit != nil }
    var sum = [Int](repeating: 0, count: Texture.levels)
    for (m, c) in zip(modules, counts) where (m.unit != nil) == hasLattice {
      for l in sum.indices { sum[l] += c[l] }
    }
    whole = Texture(sum, isLattice: hasLattice)
  }
}
