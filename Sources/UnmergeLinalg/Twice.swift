import CKernels

/// A number in twice the precision of double, for sums that cancel: an unevaluated high + low.
///
/// Reference: Ogita, Rump & Oishi 2005, "Accurate sum and dot product".
package struct Twice: Sendable {
  private var high: Double
  private var low: Double

  package init(_ value: Double) {
    high = value
    low = 0
  }

  /// Σ x·y
  package init(dot n: Int, _ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>) {
    high = 0
    low = 0
    ck_dot_twice(x, y, n, &high, &low)
  }

  package var value: Double { high + low }

  package mutating func add(_ x: Double) {
    let t = high + x
    let z = t - high
    low += (high - (t - z)) + (x - z)
    high = t
  }

  /// self += a·b
  package mutating func add(_ a: Double, times b: Double) {
    let p = a * b
    add(p)
    low += (-p).addingProduct(a, b)
  }

  /// self += a·x
  package mutating func add(_ a: Double, times x: Twice) {
    add(a, times: x.high)
    low += a * x.low
  }
}
