import CKernels

/// Sums over what of a vector lies above a threshold t: u_j = (|x_j| − t w_j)₊.
package struct Excess: BitwiseCopyable, Sendable {
  /// Σ w_j² over the survivors; how many there are without weights.
  package var count = 0.0
  /// Σ w_j u_j
  package var mass = 0.0
  /// Σ u_j²
  package var squares = 0.0

  @inlinable package init(count: Double = 0, mass: Double = 0, squares: Double = 0) {
    self.count = count
    self.mass = mass
    self.squares = squares
  }

  /// The weighted ℓ1 mass of u/‖u‖₂; 0 where nothing survives.
  @inlinable package var level: Double { squares > 0 ? mass / squares.squareRoot() : 0 }
}

extension Excess {
  init(_ sums: ck_sums) { self.init(count: sums.count, mass: sums.mass, squares: sums.squares) }

  package static func += (a: inout Excess, b: Excess) {
    a.count += b.count
    a.mass += b.mass
    a.squares += b.squares
  }
}

/// The kernels of excess.c.
extension Real {
  /// The largest |x|, and the sums at t = 0.
  package static func magnitudes(_ x: UnsafePointer<Self>, _ n: Int) -> (largest: Double, sums: Excess) {
    let found = ck_magnitudes(x, elementType.rawValue, n)
    return (found.count, Excess(count: Double(n), mass: found.mass, squares: found.squares))
  }

  package static func excess(_ x: UnsafePointer<Self>, _ n: Int, above t: Double) -> Excess {
    Excess(ck_excess(x, elementType.rawValue, n, t))
  }

  /// The |x| above t, in order, to z, which has room for n or is x; how many there are.
  package static func survivors(
    _ z: UnsafeMutablePointer<Self>, _ x: UnsafePointer<Self>, _ n: Int, above t: Double
  ) -> Int {
    ck_survivors(z, x, elementType.rawValue, n, t)
  }

  /// z ← sign(x)·scale·((unit·|x| − t) − d)₊ where unit·|x| > t, or unit·x there with `keep`; the sums of what z is.
  package static func shrink(
    _ z: UnsafeMutablePointer<Double>, _ x: UnsafePointer<Self>, _ n: Int, unit: Double, t: Double, d: Double,
    scale: Double, keep: Bool
  ) -> Excess {
    Excess(ck_shrink(z, x, elementType.rawValue, n, unit, t, d, scale, keep ? 1 : 0))
  }
}

/// Elements `stride` bytes apart, f64 or f32, from doubles.
package func store(
  _ destination: UnsafeMutableRawPointer, _ type: ElementType, stride: Int, _ x: UnsafePointer<Double>, _ count: Int
) {
  ck_store(destination, type.rawValue, stride, x, count)
}
