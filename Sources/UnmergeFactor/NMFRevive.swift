import UnmergeCore
import UnmergeLinalg

extension NMF {
  /// A component that has become 0 explains nothing and, both its gradients being 0, never would again. It is given the positive
  /// part of the column of X that is explained worst, which lowers the objective. Penalised factors may want it to be 0. Whether there was one.
  func reviveDeadComponents(_ work: Work) throws(UnmergeError) -> Bool {
    guard options.w.isNone, options.h.isNone, !options.w.isSigned else { return false }
    var any = false
    for l in 0..<components {
      let isDead = !(0..<rows).contains { w.column(l)[$0] > 0 } || !(0..<columns).contains { h.column(l)[$0] > 0 }
      guard isDead else { continue }
      let residual: Buffer<Double> = try allocate(rows)
      let best: Buffer<Double> = try allocate(rows)
      var (largest, worst) = (0.0, 0)
      for j in 0..<columns {
        positiveResidual(work.data.view, j, residual.pointer)
        let size = Double.squares(residual.pointer, rows)
        if size > largest {
          (largest, worst) = (size, j)
          best.pointer.update(from: residual.pointer, count: rows)
        }
      }
      guard largest > 1e-24 * work.squares else { return any }
      for factor in [h, iterateH] {
        for j in 0..<columns { factor.column(l)[j] = j == worst ? largest.squareRoot().squareRoot() : 0 }
      }
      for factor in [w, iterateW] {
        for i in 0..<rows { factor.column(l)[i] = best[i] / largest.squareRoot().squareRoot() }
      }
      state.isPlain = true
      any = true
    }
    return any
  }

  /// max(x_j − W h_j, 0); 0 where x is missing.
  private func positiveResidual(_ x: View, _ j: Int, _ r: UnsafeMutablePointer<Double>) {
    Double.load(r, x.address(0, j), x.type, stride: x.rowStride, count: rows, scale: 1, add: false)
    for l in 0..<components {
      let a = h.column(l)[j]
      if a != 0 { Vector.axpy(rows, -a, w.column(l), r) }
    }
    for i in 0..<rows { r[i] = r[i] > 0 ? r[i] : 0 }
  }
}
