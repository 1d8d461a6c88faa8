#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Student's t distribution with any real number of degrees of freedom > 0.
///
/// P(|T| > t) = I_x(ν/2, ½) with x = ν / (ν + t²): the continued fraction of the incomplete beta function (DiDonato & Morris
/// 1992, by Lentz's method), in some √ν steps. From 10⁵ degrees on Hill's normalising expansion (1970) has as many digits and no
/// loop.
package enum Student {
  /// P(|T| > |t|)
  package static func tails(_ t: Double, _ degrees: Double) -> Double {
    let size = abs(t)
    guard size.isFinite, degrees > 0 else { return t.isNaN || !(degrees > 0) ? .nan : 0 }
    if degrees > 1e5 {
      let a = degrees - 0.5
      let b = 48 * a * a
      let w2 = a * log1p(size / degrees * size)
      let series = ((((-0.4 * w2 - 3.3) * w2 - 24) * w2 - 85.5) / (0.8 * w2 * w2 + 100 + b) + w2 + 3) / b + 1
      return erfc(w2.squareRoot() * series / 2.0.squareRoot())
    }
    // I_x(a, ½) = xᵃ (1 − x)^½ / (a B(a, ½)) · fraction, or what is left of 1 on the other side of the mean.
    let a = degrees / 2
    let square = size * size
    let x = degrees / (degrees + square)
    let y = square / (degrees + square)
    if y == 0 { return 1 }
    if x == 0 { return 0 }
    let front = exp(logRatio(a) - 0.5 * log(.pi) - a * log1p(square / degrees)) * y.squareRoot()
    return x < (a + 1) / (a + 2.5) ? front * fraction(a, 0.5, x) / a : 1 - 2 * front * fraction(0.5, a, y)
  }

  /// ln Γ(a + ½) − ln Γ(a), whose terms cancel for large a.
  private static func logRatio(_ a: Double) -> Double {
    guard a > 50 else { return lgamma(a + 0.5) - lgamma(a) }
    let r = 1 / a
    return 0.5 * log(a) - r / 8 + r * r * r * (1.0 / 192 - r * r / 640)
  }

  /// The t with P(|T| > t) = probability, in (0, 1).
  package static func quantile(tails probability: Double, _ degrees: Double) -> Double {
    var high = 1.0
    while tails(high, degrees) > probability, high < 1e300 { high *= 2 }
    var low = 0.0
    // Down to neighbouring doubles: it is asked for once a call.
    while true {
      let middle = low + (high - low) / 2
      if middle <= low || middle >= high { return high }
      if tails(middle, degrees) > probability { low = middle } else { high = middle }
    }
  }

  private static func fraction(_ a: Double, _ b: Double, _ x: Double) -> Double {
    let tiny = 1e-300
    var c = 1.0
    var d = 1 - (a + b) * x / (a + 1)
    d = 1 / (abs(d) < tiny ? tiny : d)
    var h = d
    for m in 1...10_000 {
      let k = Double(m)
      for numerator in [
        k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)), -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)),
      ] {
        d = 1 + numerator * d
        d = 1 / (abs(d) < tiny ? tiny : d)
        c = 1 + numerator / c
        if abs(c) < tiny { c = tiny }
        h *= d * c
      }
      if abs(d * c - 1) < 1e-16 { break }
    }
    return h
  }
}

/// ln C(n, k) for real 0 ≤ k ≤ n.
package func logBinomial(_ n: Double, _ k: Double) -> Double {
  lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
}

package func logGamma(_ x: Double) -> Double { lgamma(x) }
