import UnmergeCore
import UnmergeLinalg

extension NMF {
  /// W and H may exchange scale, component by component, without changing WH: the cheapest penalties, or, without any, vectors of
  /// one size. Never raises the objective.
  func balance() {
    guard options.w.group == 0, options.h.group == 0, !options.h.isUnit || !options.w.isUnit else { return }
    for l in 0..<components {
      let a = size(w.column(l), rows)
      let b = size(h.column(l), columns)
      guard a.squares > 0, b.squares > 0 else { continue }
      // In the bounds of a unit ball the cost, which falls and then rises, is lowest where it is nearest to its lowest point.
      let (most, least) = (
        options.w.isUnit ? 1 / a.squares.squareRoot() : .infinity, options.h.isUnit ? b.squares.squareRoot() : 0
      )
      let c: Double
      switch (options.w.isNone, options.h.isNone) {
      case (true, true): c = min(most, max(least, (b.squares / a.squares).squareRoot().squareRoot()))
      case (false, false):
        let cheapest = cheapestScale(
          options.w.l1 * a.sum, options.w.l2 * a.squares, options.h.l1 * b.sum, options.h.l2 * b.squares)
        c = min(most, max(least, cheapest))
      case (true, false): c = options.w.isUnit ? most : 1
      case (false, true): c = options.h.isUnit ? least : 1
      }
      guard c.isNormal, (1 / c).isNormal, abs(c - 1) > 1e-15 else { continue }
      for f in [w, wPlain] {
        let x = f.column(l)
        for i in 0..<rows { x[i] *= c }
      }
      for f in [h, hNext] {
        let x = f.column(l)
        for j in 0..<columns { x[j] /= c }
      }
    }
  }
}

private func size(_ x: UnsafePointer<Double>, _ n: Int) -> (sum: Double, squares: Double) {
  let s = Vector.summary(n, x)
  return (s.sum, s.squares)
}

/// argmin over c > 0 of p c + q c²/2 + r/c + s/(2c²): in t = log c, p eᵗ + q e²ᵗ − r e⁻ᵗ − s e⁻²ᵗ increases through its root.
private func cheapestScale(_ p: Double, _ q: Double, _ r: Double, _ s: Double) -> Double {
  guard p + q > 0, r + s > 0 else { return 1 }
  var t = 0.0
  for _ in 0..<60 {
    let c = Platform.exp(t)
    let f = p * c + q * c * c - r / c - s / (c * c)
    let slope = p * c + 2 * q * c * c + r / c + 2 * s / (c * c)
    let step = max(-1, min(1, f / slope))
    t -= step
    if abs(step) < 1e-14 { break }
  }
  return Platform.exp(t)
}
