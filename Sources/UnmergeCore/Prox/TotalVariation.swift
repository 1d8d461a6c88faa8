import UnmergeLinalg

extension Prox {
  /// t Σ |z_{i+1} − z_i| along a chain, exactly and in linear time.
  ///
  /// Dynamic programming over the derivative of the optimal cost of the first i entries as a function of the last: piecewise
  /// linear, cut at ±t from one entry to the next; its knots live in a deque, each enters and leaves once. Backwards,
  /// z_i = clip(z_{i+1}) between the two points of the cut. Equal neighbours come out equal to the bit; a run is then set to
  /// its mean plus what its two ends pull, so nothing that was summed on the way is left in it. Johnson 2013.
  package struct TotalVariation: @unchecked Sendable {
    private let capacity: Int
    private let numbers: Buffer<Double>

    /// For chains of at most n entries.
    package init(_ n: Int) throws(UnmergeError) {
      capacity = n
      numbers = try allocate(product(9, n, "the working memory"))
    }

    /// Entries lie `stride` apart; z may be x.
    package func apply(
      _ n: Int, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, stride: Int = 1, t: Double
    ) {
      let y = numbers.pointer
      for i in 0..<n { y[i] = x[i * stride] }
      guard n > 1, t > 0 else {
        for i in 0..<n { z[i * stride] = y[i] }
        return
      }
      let low = y + capacity
      let high = low + capacity
      // Knots: place, and by how much slope and intercept change there.
      let knot = high + capacity
      let slope = knot + 2 * capacity
      let intercept = slope + 2 * capacity
      var left = n
      var right = n - 1
      // Slope and intercept of the outermost pieces; the first derivative is b − y_0, without knots.
      var first = (1.0, -y[0])
      var last = (1.0, -y[0])
      for i in 0..<(n - 1) {
        var a = first.0
        var b = first.1
        var l = left
        while l <= right, a * knot[l] + b <= -t {
          a += slope[l]
          b += intercept[l]
          l += 1
        }
        var c = last.0
        var d = last.1
        var r = right
        while r >= l, c * knot[r] + d >= t {
          c -= slope[r]
          d -= intercept[r]
          r -= 1
        }
        low[i] = (-t - b) / a
        high[i] = (t - d) / c
        left = l - 1
        right = r + 1
        knot[left] = low[i]
        slope[left] = a
        intercept[left] = b + t
        knot[right] = high[i]
        slope[right] = -c
        intercept[right] = t - d
        first = (1, -t - y[i + 1])
        last = (1, t - y[i + 1])
      }
      var a = first.0
      var b = first.1
      var l = left
      while l <= right, a * knot[l] + b <= 0 {
        a += slope[l]
        b += intercept[l]
        l += 1
      }
      // low now takes the answer: its cell i is read before it is written.
      low[n - 1] = -b / a
      for i in (0..<(n - 1)).reversed() { low[i] = min(max(low[i + 1], low[i]), high[i]) }
      var start = 0
      var before = 0.0
      while start < n {
        var end = start + 1
        while end < n, low[end] == low[start] { end += 1 }
        let after = end == n ? 0.0 : low[end] > low[start] ? 1.0 : -1.0
        // Distances to the first entry: a long run of large numbers does not lose digits.
        var sum = 0.0
        for i in start..<end { sum += y[i] - y[start] }
        let value = y[start] + (sum + t * (after - before)) / Double(end - start)
        for i in start..<end { z[i * stride] = value }
        before = after
        start = end
      }
    }
  }
}
