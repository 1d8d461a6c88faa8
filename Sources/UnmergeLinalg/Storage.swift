import CKernels

// The arithmetic of the types weights are stored in. Values are held in float32; every operation is done there and its
// result rounded to the type, to nearest with ties to even, as tensor libraries do. `.f64` rounds like `.f32`.

extension ElementType {
  package func round(_ x: UnsafeMutablePointer<Float>, _ count: Int) { ck_round(x, count, rawValue) }

  package func round(_ x: Float) -> Float {
    var y = x
    ck_round(&y, 1, rawValue)
    return y
  }

  /// The weight, density or factor a tool was given, as it holds it.
  package func round(_ x: Double) -> Float { round(Float(x)) }

  /// x ← x·scale
  package func scale(_ x: UnsafeMutablePointer<Float>, _ count: Int, by scale: Float) {
    ck_scale_round(x, count, scale, rawValue)
  }

  /// x ← x / divisor
  package func divide(_ x: UnsafeMutablePointer<Float>, _ count: Int, by divisor: Float) {
    ck_divide_round(x, count, divisor, rawValue)
  }

  /// x ← x + y
  package func add(_ x: UnsafeMutablePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int) {
    ck_add_round(x, y, count, rawValue)
  }

  /// x ← x − y
  package func subtract(_ x: UnsafeMutablePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int) {
    ck_subtract_round(x, y, count, rawValue)
  }

  /// The unit in the last place of every entry. Rounding to the type moves an entry by at most half of it, with variance
  /// spacing²/12 when what is rounded off is evenly spread.
  package func spacing(_ x: UnsafePointer<Float>, _ count: Int, into out: UnsafeMutablePointer<Float>) {
    ck_spacing(out, x, count, rawValue)
  }

  package func spacing(_ x: Float) -> Float {
    var (y, out) = (x, x)
    ck_spacing(&out, &y, 1, rawValue)
    return out
  }

  /// Σ spacing²/12: the energy rounding to this type adds to the entries x.
  package func roundingEnergy(_ x: UnsafePointer<Float>, _ count: Int) -> Double {
    ck_sum_spacing_squares(x, count, rawValue) / 12
  }

  /// Σ over i of (x_i/dx)·(y_i/dy), quotients and products rounded to the type, summed in double.
  package func dot(_ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, dx: Float = 1, dy: Float = 1)
    -> Double
  {
    ck_dot_rounded(x, y, count, dx, dy, rawValue)
  }
}

/// How many of a merging tool's operations, and in which order: each is one kernel on a tile.
package enum Merged {
  package enum Consensus: Int32, Sendable {
    case all = 0
    case sum = 1
    case count = 2
  }

  /// out = base + lambda·(Σ w_j x_j)/divisor; with a consensus the divisor is the sum of the weights that agree.
  package static func stack(
    _ out: UnsafeMutablePointer<Float>, _ x: [UnsafePointer<Float>?], _ w: [Float], _ count: Int, consensus: Consensus,
    normalize: Bool, divisor: Float, lambda: Float, base: UnsafePointer<Float>?, _ type: ElementType
  ) {
    ck_merge_stack(
      out, x, w, x.count, count, consensus.rawValue, normalize ? 1 : 0, divisor, lambda, base, type.rawValue)
  }

  /// out = Σ w_j x_j / divisor, fused in float32 and rounded once.
  package static func linear(
    _ out: UnsafeMutablePointer<Float>, _ x: [UnsafePointer<Float>?], _ w: [Float], _ count: Int, divisor: Float,
    _ type: ElementType
  ) {
    ck_merge_linear(out, x, w, x.count, count, divisor, type.rawValue)
  }

  /// out = t·mean(x) + (1 − t)·base
  package static func stock(
    _ out: UnsafeMutablePointer<Float>, _ x: [UnsafePointer<Float>?], _ count: Int, t: Float, base: UnsafePointer<Float>,
    _ type: ElementType
  ) {
    ck_merge_stock(out, x, x.count, count, t, base, type.rawValue)
  }

  /// out = base + (a·x + b·y)/divisor, the products rounded to `inner`.
  package static func arc(
    _ out: UnsafeMutablePointer<Float>, _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, a: Float,
    b: Float, divisor: Float, base: UnsafePointer<Float>?, inner: ElementType, _ type: ElementType
  ) {
    ck_merge_arc(out, x, y, count, a, b, divisor, base, inner.rawValue, type.rawValue)
  }
}

/// Choosing entries by magnitude.
package enum Magnitude {
  /// Σ|x|
  package static func sum(_ x: UnsafePointer<Float>, _ count: Int) -> Double { ck_sum_abs(x, count) }

  /// The value of rank `rank` among the magnitudes in ascending order, with how many are smaller and how many are equal. Two
  /// histograms of the bits, the upper ones first: exact, and linear in the number of entries.
  package static func orderStatistic(
    _ x: UnsafePointer<Float>, _ count: Int, rank: Int
  ) throws(OutOfMemory) -> (value: Float, below: Int, equal: Int) {
    let bins = try Buffer<UInt64>(1 << 16)
    ck_count_high(x, count, bins.pointer)
    func locate(_ bins: Buffer<UInt64>, _ below: inout Int) -> Int {
      var b = 0
      while b < bins.count - 1, below + Int(bins[b]) <= rank {
        below += Int(bins[b])
        b += 1
      }
      return b
    }
    var below = 0
    let high = locate(bins, &below)
    let fine = try Buffer<UInt64>(1 << 15)
    ck_count_low(x, count, UInt32(high), fine.pointer)
    let low = locate(fine, &below)
    return (Float(bitPattern: UInt32(high << 15 | low)), below, Int(fine[low]))
  }

  /// Zeroes what lies outside low…high in magnitude; equals of a bound stay up to its `end`, an index into x. Where a bound
  /// is split its equals get `bit` in `ties`.
  package static func select(
    _ x: UnsafeMutablePointer<Float>, _ count: Int, low: Float, lowEnd: Int, high: Float, highEnd: Int,
    ties: UnsafeMutablePointer<UInt64>, bit: UInt64, splitLow: Bool, splitHigh: Bool
  ) {
    func clamp(_ end: Int) -> Int32 { Int32(truncatingIfNeeded: max(0, min(end, count))) }
    ck_select(x, count, low, clamp(lowEnd), high, clamp(highEnd), ties, bit, splitLow ? 1 : 0, splitHigh ? 1 : 0)
  }

  /// Ranks of the magnitudes, 0 the smallest and 1 the largest; `scratch` has room for 2·count keys.
  package static func ranks(
    _ x: UnsafePointer<Float>, _ count: Int, scratch: UnsafeMutablePointer<UInt64>, into rank: UnsafeMutablePointer<Float>
  ) {
    ck_rank_magnitudes(x, count, scratch, scratch + count, rank)
  }
}

/// Comparing a prediction with what is stored.
package enum Stored {
  package static func areFinite(_ x: UnsafePointer<Float>, _ count: Int) -> Bool { ck_all_finite(x, count) != 0 }

  /// Adds to the counts; same[i] = 1 where equal.
  package static func compare(
    _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, _ type: ElementType,
    same: UnsafeMutablePointer<UInt8>, equal: inout Int, near: inout Int, squares: inout Double, largest: inout Double
  ) {
    var (e, n) = (Int64(0), Int64(0))
    ck_compare(x, y, count, type.rawValue, same, &e, &n, &squares, &largest)
    equal += Int(e)
    near += Int(n)
  }

  /// Marks what is equal; returns how many were not marked before.
  package static func mark(
    _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, _ same: UnsafeMutablePointer<UInt8>
  ) -> Int {
    ck_mark_equal(x, y, count, same)
  }

  /// Labels the entries where x is nearer to y than any before.
  package static func nearer(
    _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ count: Int, distance: UnsafeMutablePointer<Float>,
    label: UnsafeMutablePointer<Float>, _ value: Float
  ) {
    ck_nearer(x, y, count, distance, label, value)
  }
}

extension Vector {
  /// y += alpha·x
  package static func axpy(_ n: Int, _ alpha: Float, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>) {
    ck_accumulate(y, x, n, alpha)
  }

  /// z += alpha·x∘y
  package static func addProduct(
    _ n: Int, _ alpha: Float, _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ z: UnsafeMutablePointer<Float>
  ) {
    ck_accumulate_product(z, x, y, n, alpha)
  }

  /// x ← x∘(a + b·y)
  package static func multiply(
    _ n: Int, _ x: UnsafeMutablePointer<Float>, _ y: UnsafePointer<Float>, a: Float, b: Float
  ) {
    ck_multiply_affine(x, y, n, a, b)
  }
}
