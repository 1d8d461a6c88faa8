import UnmergeLinalg

extension Prox {
  /// Indices by decreasing |x|; ties by index.
  static func descendingMagnitudes(_ n: Int, _ x: UnsafePointer<Double>) throws(UnmergeError) -> Buffer<Int> {
    let order = try allocate(n, of: Int.self)
    for i in 0..<n { order[i] = i }
    var cells = UnsafeMutableBufferPointer(start: order.pointer, count: n)
    cells.sort { abs(x[$0]) != abs(x[$1]) ? abs(x[$0]) > abs(x[$1]) : $0 < $1 }
    return order
  }

  /// The τ ≥ 0 with Σ (|x_j| − τ)₊ = t; 0 when Σ |x_j| ≤ t.
  static func excess(_ n: Int, _ x: UnsafePointer<Double>, _ t: Double) throws(UnmergeError) -> Double {
    let sorted = try allocate(n, of: Double.self)
    for i in 0..<n { sorted[i] = abs(x[i]) }
    return max(level(n, sorted.pointer, t), 0)
  }

  /// The τ with Σ (x_j − τ)₊ = t > 0 (the largest x for t = 0); sorts x. Sums are of distances to the largest entry, so they
  /// neither overflow nor cancel. Held, Wolfe & Crowder 1974.
  private static func level(_ n: Int, _ x: UnsafeMutablePointer<Double>, _ t: Double) -> Double {
    guard n > 0 else { return 0 }
    var cells = UnsafeMutableBufferPointer(start: x, count: n)
    cells.sort(by: >)
    let top = x[0]
    var sum = 0.0
    var tau = -t
    for i in 1..<max(n, 1) {
      let below = x[i] - top
      // Entry i is above the level of those before it.
      guard below > tau else { break }
      sum += below
      tau = (sum - t) / Double(i + 1)
    }
    return top + tau
  }

  /// Projection on {z ≥ 0, Σ z = total}, total ≥ 0.
  package static func simplex(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, total: Double
  ) throws(UnmergeError) {
    let sorted = try allocate(n, of: Double.self)
    sorted.pointer.update(from: x, count: n)
    let tau = level(n, sorted.pointer, total)
    for i in 0..<n { z[i] = max(x[i] - tau, 0) }
  }

  /// Projection on {Σ |z_j| ≤ radius}. Duchi, Shalev-Shwartz, Singer & Chandra 2008.
  package static func l1Ball(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, radius: Double
  ) throws(UnmergeError) {
    var sum = 0.0
    for i in 0..<n { sum += abs(x[i]) }
    let tau = sum > radius ? try excess(n, x, radius) : 0
    for i in 0..<n { z[i] = soft(x[i], tau) }
  }

  /// Projection on {0 ≤ z ≤ upper, Σ z = total}, 0 ≤ total ≤ n·upper: z_j = clip(x_j − τ). Σ z falls with τ along pieces
  /// that end where a coordinate leaves 0 (τ = x_j) or reaches `upper` (τ = x_j − upper); one sort finds the piece.
  package static func cappedSimplex(
    _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, total: Double, upper: Double
  ) throws(UnmergeError) {
    guard n > 0 else { return }
    let ends = try allocate(product(2, n, "the breakpoints"), of: Double.self)
    for i in 0..<n {
      ends[2 * i] = x[i]
      ends[2 * i + 1] = x[i] - upper
    }
    var cells = UnsafeMutableBufferPointer(start: ends.pointer, count: 2 * n)
    cells.sort(by: >)
    /// Σ clip(x − τ, 0, upper)
    func mass(_ tau: Double) -> Double {
      var sum = 0.0
      for i in 0..<n { sum += min(max(x[i] - tau, 0), upper) }
      return sum
    }
    // The last breakpoint, going down, whose mass is still ≤ total.
    var low = 0
    var high = 2 * n - 1
    while low < high {
      let middle = (low + high + 1) / 2
      if mass(ends[middle]) <= total { low = middle } else { high = middle - 1 }
    }
    let start = ends[low]
    // On the piece below it the slope of the mass is the number of coordinates strictly inside.
    var free = 0
    for i in 0..<n where x[i] >= start && x[i] - upper < start { free += 1 }
    let tau = free > 0 ? start - max(0, total - mass(start)) / Double(free) : start
    for i in 0..<n { z[i] = min(max(x[i] - tau, 0), upper) }
  }
}
