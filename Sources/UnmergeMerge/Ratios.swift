import UnmergeCore
import UnmergeLinalg

/// Votes for the place of a spike: stored numbers x and y tell that x = ρ·y to half a unit u in the last place of x, so that
/// an entry votes for every ρ with |x − ρy| ≤ u/2, and half against those half a unit to three halves away on either side. A
/// smooth distribution of x / y cancels; a share of entries that are exact multiples stands out by itself.
///
/// The grid is logarithmic for ratios of unknown size, or linear.
struct RatioVotes {
  private let low: Double
  private let high: Double
  private let isLogarithmic: Bool
  private let bins: Int
  private let step: Double
  private var centre: [Int32]
  private var flank: [Int32]
  private(set) var count = 0

  init(from low: Double, to high: Double, bins: Int, logarithmic: Bool) {
    isLogarithmic = logarithmic
    self.low = logarithmic ? Platform.log(low) : low
    self.high = logarithmic ? Platform.log(high) : high
    self.bins = bins
    step = (self.high - self.low) / Double(bins)
    centre = Array(repeating: 0, count: bins + 1)
    flank = Array(repeating: 0, count: bins + 1)
  }

  private func place(_ x: Double) -> Int {
    if isLogarithmic && x <= 0 { return 0 }
    let at = ((isLogarithmic ? Platform.log(x) : x) - low) / step
    return at <= 0 ? 0 : at >= Double(bins) ? bins : Int(at.rounded(.up))
  }

  mutating func add(_ x: Float, _ y: Float, unit: Float) {
    let ratio = Double(x) / Double(y)
    let half = 0.5 * Double(unit) / abs(Double(y))
    count += 1
    let (a, b, c, d) = (place(ratio - 3 * half), place(ratio - half), place(ratio + half), place(ratio + 3 * half))
    centre[b] += 1
    centre[c] -= 1
    flank[a] += 1
    flank[b] -= 1
    flank[c] += 1
    flank[d] -= 1
  }

  /// The votes of both, on the same grid.
  static func + (x: RatioVotes, y: RatioVotes) -> RatioVotes {
    var sum = x
    for i in sum.centre.indices { sum.centre[i] += y.centre[i] }
    for i in sum.flank.indices { sum.flank[i] += y.flank[i] }
    sum.count += y.count
    return sum
  }

  /// The spike: where it is (its centre of mass), how many entries it holds, and how many standard deviations that is.
  func peak() -> (ratio: Double, entries: Double, z: Double) {
    var excess: [Double] = []
    excess.reserveCapacity(bins)
    var best = (at: 0, z: 0.0)
    var (c, f) = (0, 0)
    for i in 0..<bins {
      c += Int(centre[i])
      f += Int(flank[i])
      let e = Double(c) - 0.5 * Double(f)
      excess.append(e)
      let z = e / (Double(c) + 0.25 * Double(f) + 1).squareRoot()
      if z > best.z { best = (i, z) }
    }
    // The middle of the stretch where it stands above half its height.
    var (first, last) = (best.at, best.at)
    while first > 0, excess[first - 1] > 0.5 * excess[best.at] { first -= 1 }
    while last + 1 < bins, excess[last + 1] > 0.5 * excess[best.at] { last += 1 }
    let at = low + (Double(first + last + 1) / 2) * step
    return (isLogarithmic ? Platform.exp(at) : at, max(0, excess[best.at]), best.z)
  }
}
