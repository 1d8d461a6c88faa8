import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// Among all least-squares solutions the one of smallest norm:
///
///     minimise Σ ρ_j |v_j|  subject to  Ĝv = ĉ   (with v ≥ 0: Ĝv = Ĝv* for a non-negative least-squares solution v*)
///
/// by the simplex method. Invariant: B indexes a basis of the atoms' span, its factor is kept, v_B solves the equations and
/// everything else is 0. With u = Ĝ_BB⁻¹ (ρ s)_B and z = Ĝ_{·B} u atom j lowers the norm if |z_j| > ρ_j; it enters, the atom
/// that reaches 0 first leaves. Without such an atom u is dual feasible and proves optimality; with κ = max(1, |z_j| / ρ_j)
/// no solution has a norm below (ρ s)ᵀv / κ. Ties go by Bland's rule once steps stop helping, so the method is finite.
///
/// Which atoms depend on others is only told reliably in the order of decreasing pivots: the first basis is pivoted, from the
/// support of v outwards. Later ones are exchanged with pivots that rounding cannot have made (Harris's ratio test).
///
/// Independent atoms have one least-squares solution, and there is nothing to do.
///
/// References: Chen, Donoho & Saunders 1998; Harris 1973; Bland 1977.
final class BasisPursuit {
  private let gram: Gram
  private let rho: Buffer<Double>
  private let isPositive: Bool
  private let n: Int
  private let factor: Cholesky
  /// Of the atoms in the basis, also where v is 0; 0 for the others.
  private var signs: [Double]
  private(set) var iterations = 0
  /// A lower bound of the smallest norm.
  private(set) var least = 0.0
  /// What the rounding of u leaves of z.
  private var noise = 0.0
  private let x: Buffer<Double>
  private let z: Buffer<Double>

  init(_ gram: Gram, rho: Buffer<Double>, isPositive: Bool) throws(UnmergeError) {
    (self.gram, self.rho, self.isPositive) = (gram, rho, isPositive)
    n = gram.atoms
    factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: gram.atoms, tolerance: 1e-14) }
    signs = Array(repeating: 0, count: gram.atoms)
    x = try allocate(n)
    z = try allocate(n)
  }

  /// Goes from the least-squares solution v (residual correlations g) to the smallest; false when stopped on the way.
  func run(
    _ v: UnsafeMutablePointer<Double>, _ g: UnsafePointer<Double>, target: Int, _ watch: Watch
  ) throws(UnmergeError) -> Bool {
    let c = gram.correlation(target)
    let level = correlationFloor(gram, l2: 1)
    let candidates = (0..<n).filter { gram.norms[$0] > 0 && (!isPositive || v[$0] > 0 || abs(g[$0]) <= level) }
    let stop = try candidates.withUnsafeBufferPointer { columns throws(UnmergeError) in try require(gram, columns, watch) }
    if stop != nil { return false }
    guard try chooseBasis(candidates, v, watch) else { return false }
    if !isPositive {
      v.update(repeating: 0, count: n)
      solveBasis(v, c)
    }
    for j in factor.order { signs[j] = v[j] < 0 ? -1 : 1 }
    var isBarred = Array(repeating: true, count: n)
    for j in candidates { isBarred[j] = false }
    var passedOver: [Int] = []
    var idle = 0
    while iterations < watch.maxIterations {
      if iterations & 15 == 0, watch.poll() != nil { return false }
      let isStuck = idle > 2 * n
      price(v, candidates)
      guard factor.count < candidates.count, let entering = improving(isBarred, first: isStuck) else {
        solveBasis(v, c)
        price(v, candidates)
        return true
      }
      iterations += 1
      let direction = z[entering] > 0 ? 1.0 : -1.0
      let order = factor.order
      let column = gram.column(entering)
      for (i, j) in order.enumerated() { x[i] = column[j] }
      factor.solve(x.pointer)
      if let leaving = blocking(order, v, direction, first: isStuck) {
        let out = order[leaving]
        let step = max(0, v[out] * signs[out]) / abs(x[leaving])
        factor.remove(at: leaving)
        if factor.append(entering, column: column, diagonal: 1) {
          for (i, j) in order.enumerated() { v[j] -= step * direction * x[i] }
          v[out] = 0
          v[entering] = step * direction
          signs[out] = 0
          signs[entering] = direction
          idle = step > 1e-14 ? 0 : idle + 1
          for j in passedOver { isBarred[j] = false }
          passedOver.removeAll(keepingCapacity: true)
          continue
        }
        _ = factor.append(out, column: gram.column(out), diagonal: 1)
      }
      isBarred[entering] = true
      passedOver.append(entering)
    }
    return false
  }

  /// A basis of the candidates' span by Cholesky with the largest pivot first: from the support of v while its atoms are well
  /// apart, then from all.
  private func chooseBasis(
    _ candidates: [Int], _ v: UnsafePointer<Double>, _ watch: Watch
  ) throws(UnmergeError) -> Bool {
    let m = candidates.count
    let rows: Buffer<Double> = try allocate(product(m, m, "the basis"))
    var pivots = Array(repeating: 1.0, count: m)
    for support in [true, false] {
      while factor.count < m {
        var best = -1
        for i in 0..<m where pivots[i] > (best < 0 ? 0 : pivots[best]) && (!support || v[candidates[i]] != 0) { best = i }
        guard best >= 0, pivots[best] > (support ? 1e-6 : 1e-11) else { break }
        if factor.count & 15 == 0, watch.poll() != nil { return false }
        let k = factor.count
        let column = gram.column(candidates[best])
        guard factor.append(candidates[best], column: column, diagonal: 1) else {
          pivots[best] = 0
          continue
        }
        let (row, root) = (rows.pointer + best * m, pivots[best].squareRoot())
        pivots[best] = 0
        for i in 0..<m where pivots[i] > 0 {
          let other = rows.pointer + i * m
          other[k] = (column[candidates[i]] - Vector.dot(k, row, other)) / root
          pivots[i] -= other[k] * other[k]
        }
      }
    }
    return true
  }

  /// v_B ← Ĝ_BB⁻¹ ĉ_B from the v_B at hand, twice: the second time refines. With v ≥ 0 v_B is as it came, and stays.
  private func solveBasis(_ v: UnsafeMutablePointer<Double>, _ c: UnsafePointer<Double>) {
    if isPositive { return }
    for _ in 0..<2 {
      for j in 0..<n { z[j] = c[j] }
      for j in factor.order where v[j] != 0 { Vector.axpy(n, -v[j], gram.column(j), z.pointer) }
      for (i, j) in factor.order.enumerated() { x[i] = z[j] }
      factor.solve(x.pointer)
      for (i, j) in factor.order.enumerated() { v[j] += x[i] }
    }
  }

  /// z, and the bound it gives.
  private func price(_ v: UnsafePointer<Double>, _ candidates: [Int]) {
    let order = factor.order
    for (i, j) in order.enumerated() { x[i] = rho[j] * signs[j] }
    factor.solve(x.pointer)
    z.pointer.update(repeating: 0, count: n)
    var value = 0.0
    noise = 0
    for (i, j) in order.enumerated() {
      Vector.axpy(n, x[i], gram.column(j), z.pointer)
      noise += 64 * roundoff * abs(x[i])
      value += rho[j] * signs[j] * v[j]
    }
    var stretch = 1.0
    for j in candidates where signs[j] == 0 {
      let pull = isPositive ? z[j] : abs(z[j])
      if pull > rho[j] + noise { stretch = max(stretch, pull / rho[j]) }
    }
    least = max(0, value / stretch)
  }

  /// The atom outside the basis that lowers the norm fastest, or the first that does.
  private func improving(_ isBarred: [Bool], first: Bool) -> Int? {
    var best: Int?
    var excess = 0.0
    for j in 0..<n where !isBarred[j] && signs[j] == 0 {
      let over = (isPositive ? z[j] : abs(z[j])) - rho[j] * (1 + 1e-12) - noise
      if over > excess {
        best = j
        excess = over
        if first { break }
      }
    }
    return best
  }

  /// The position in the basis of the atom that reaches 0 first when the entering one moves in `direction`; of those that rounding
  /// cannot tell apart, the one with the largest pivot, or by Bland's rule the lowest index.
  private func blocking(
    _ order: [Int], _ v: UnsafePointer<Double>, _ direction: Double, first: Bool
  ) -> Int? {
    var (size, pivot) = (0.0, 0.0)
    for (i, j) in order.enumerated() {
      size = max(size, abs(v[j]))
      pivot = max(pivot, abs(x[i]))
    }
    var step = Double.infinity
    func fall(_ i: Int) -> Double { direction * x[i] * signs[order[i]] }
    for (i, j) in order.enumerated() where (rho[j] > 0 || isPositive) && fall(i) > 1e-9 * pivot {
      step = min(step, (max(0, v[j] * signs[j]) + (first ? 0 : 1e-12 * size)) / fall(i))
    }
    var best: Int?
    for (i, j) in order.enumerated() where (rho[j] > 0 || isPositive) && fall(i) > 1e-9 * pivot {
      guard max(0, v[j] * signs[j]) <= step * fall(i) else { continue }
      if best.map({ first ? j < order[$0] : abs(x[i]) > abs(x[$0]) }) ?? true { best = i }
    }
    return best.flatMap { abs(x[$0]) > 1e-7 * pivot ? $0 : nil }
  }
}

// MARK: the door

extension unmerge_basis_pursuit_options: Growable {
  package static var defaults: unmerge_basis_pursuit_options {
    var o = unmerge_basis_pursuit_options()
    o.struct_size = MemoryLayout<unmerge_basis_pursuit_options>.size
    return o
  }
}

@_cdecl("unmerge_basis_pursuit_options_init") @implementation
public func unmerge_basis_pursuit_options_init(
  _ options: UnsafeMutablePointer<unmerge_basis_pursuit_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_basis_pursuit") @implementation
public func unmerge_basis_pursuit(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_basis_pursuit_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkReserved(o.reserved, "options->reserved")
    try answer(gram, .leastSquares, o.weights, o.positive, run, coef, nil, reports)
  }
}
