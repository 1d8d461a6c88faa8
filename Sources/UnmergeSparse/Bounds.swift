import UnmergeCore
import UnmergeLinalg

/// lower_j ≤ w_j ≤ upper_j in the caller's units; none by default.
struct Bounds: Sendable {
  static let none = Bounds()
  static let positive = Bounds(floor: 0)

  private var lowerValues: Buffer<Double>?
  private var upperValues: Buffer<Double>?
  /// Below everything: 0 where w ≥ 0 is asked for.
  private var floor = -Double.infinity

  private init(floor: Double = -.infinity) { self.floor = floor }

  /// From the door: arrays of n numbers, infinite ones allowed, no box empty.
  init(
    _ lower: UnsafePointer<Double>?, _ upper: UnsafePointer<Double>?, positive: Bool, count n: Int,
    _ owner: String = "options"
  ) throws(UnmergeError) {
    floor = positive ? 0 : -.infinity
    lowerValues = try Self.copy(lower, n, "\(owner)->lower", forbidden: .infinity)
    upperValues = try Self.copy(upper, n, "\(owner)->upper", forbidden: -.infinity)
    for j in 0..<n where self.lower(j) > self.upper(j) {
      let below =
        positive && !((lowerValues?[j] ?? -1) >= 0) ? "\(owner)->positive is 1" : "\(owner)->lower[\(j)] is \(self.lower(j))"
      throw .range(
        "\(below) and \(owner)->upper[\(j)] is \(self.upper(j)); the bounds of atom \(j) leave nothing between them")
    }
  }

  private static func copy(
    _ pointer: UnsafePointer<Double>?, _ n: Int, _ name: String, forbidden: Double
  ) throws(UnmergeError) -> Buffer<Double>? {
    guard let pointer else { return nil }
    let copy: Buffer<Double> = try allocate(n)
    for j in 0..<n {
      let x = UnsafeRawPointer(pointer + j).loadUnaligned(as: Double.self)
      guard !x.isNaN, x != forbidden else { throw .range("\(name)[\(j)] is \(x); it must be a number or \(-forbidden)") }
      copy[j] = x
    }
    return copy
  }

  /// These bounds and those that keep every coefficient on the side of 0 it is on.
  func within(signs w: UnsafePointer<Double>, count n: Int) throws(UnmergeError) -> Bounds {
    let (low, high): (Buffer<Double>, Buffer<Double>) = (try allocate(n), try allocate(n))
    for j in 0..<n {
      low[j] = w[j] > 0 ? max(lower(j), 0) : lower(j)
      high[j] = w[j] < 0 ? min(upper(j), 0) : upper(j)
      guard low[j] <= high[j] else {
        throw .range(
          "coef has \(w[j]) for atom \(j), but bounds from \(lower(j)) to \(upper(j)): no coefficient keeps its sign")
      }
    }
    var result = self
    (result.lowerValues, result.upperValues) = (low, high)
    return result
  }

  @inline(__always) func lower(_ j: Int) -> Double { max(lowerValues?[j] ?? -.infinity, floor) }
  @inline(__always) func upper(_ j: Int) -> Double { upperValues?[j] ?? .infinity }

  /// Nothing is bounded.
  var isEmpty: Bool { lowerValues == nil && upperValues == nil && floor < 0 }

  /// w ≥ 0 and nothing else.
  var isPositive: Bool { lowerValues == nil && upperValues == nil && floor == 0 }

  /// 0 is within the bounds of every atom.
  func holdsZero(_ n: Int) -> Bool {
    if lowerValues == nil, upperValues == nil { return true }
    for j in 0..<n where lower(j) > 0 || upper(j) < 0 { return false }
    return true
  }

  /// The admissible number nearest to 0: what an atom without effect gets.
  func nearestToZero(_ j: Int) -> Double { min(max(0, lower(j)), upper(j)) }
}
