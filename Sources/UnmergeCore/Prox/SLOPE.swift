import UnmergeLinalg

extension Prox {
  /// t Σ π_i |z|_(i), |z|_(1) ≥ |z|_(2) ≥ …, π non-increasing and ≥ 0: the sorted l1 norm.
  ///
  /// |x| sorted, less t π, made non-increasing by pooling, cut at 0, put back. Bogdan, van den Berg, Sabatti, Su & Candès
  /// 2015, algorithm 3. The memory is its own: a loop allocates nothing.
  package struct SLOPE: @unchecked Sendable {
    private let n: Int
    private let order: Buffer<Int>
    private let counts: Buffer<Int>
    private let numbers: Buffer<Double>

    package init(_ n: Int) throws(UnmergeError) {
      self.n = n
      order = try allocate(n)
      counts = try allocate(n)
      numbers = try allocate(product(3, n, "the working memory"))
      for i in 0..<n { order[i] = i }
    }

    /// z may be x.
    package func apply(_ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, t: Strength) {
      let sorted = numbers.pointer
      let order = order.pointer
      var cells = UnsafeMutableBufferPointer(start: order, count: n)
      cells.sort { abs(x[$0]) != abs(x[$1]) ? abs(x[$0]) > abs(x[$1]) : $0 < $1 }
      for i in 0..<n { sorted[i] = abs(x[order[i]]) - t[i] }
      pool(n, sorted, sorted, nil, true, sorted + n, sorted + 2 * n, counts.pointer)
      for i in 0..<n {
        let size = max(sorted[i], 0)
        z[order[i]] = x[order[i]] < 0 ? -size : size
      }
    }
  }
}
