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
/// the norm is at most a factor κ above the smallest. Finite: ties go by Bland's rule once steps stop helping.
///
/// Independent atoms have one least-squares solution, and there is nothing to do.
///
/// References: Chen, Donoho & Saunders 1998; Bland 1977.
final class BasisPursuit {
  private let gram: Gram
  private let rho: Buffer<Double>
  private let isPositive: Bool
  private let n: Int
  private let factor: Cholesky
  /// Of the atoms in the basis, also where v is 0; 0 for the others.
  private var signs: [Double]
  private(set) var iterations = 0
  /// max(1, |z_j| / ρ_j) over the atoms outside.
  private(set) var stretch = 1.0

  init(_ gram: Gram, rho: Buffer<Double>, isPositive: Bool) throws(UnmergeError) {
    (self.gram, self.rho, self.isPositive) = (gram, rho, isPositive)
    n = gram.atoms
    factor = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: gram.atoms) }
    signs = Array(repeating: 0, count: gram.atoms)
  }

  /// Goes from the least-squares solution v (residual correlations g) to the smallest; false when stopped on the way.
  func run(
    _ v: UnsafeMutablePointer<Double>, _ g: UnsafePointer<Double>, target: Int, _ watch: Watch
  ) throws(UnmergeError) -> Bool {
    let c = gram.correlation(target)
    let level = correlationFloor(gram, l2: 1)
    // Large coefficients first: the basis begins near the smallest norm.
    let candidates = (0..<n).filter { gram.norms[$0] > 0 && (!isPositive || v[$0] > 0 || abs(g[$0]) <= level) }
      .sorted { abs(v[$0]) != abs(v[$1]) ? abs(v[$0]) > abs(v[$1]) : $0 < $1 }
    for j in candidates where factor.append(j, column: gram.column(j), diagonal: 1) { signs[j] = v[j] < 0 ? -1 : 1 }
    let isAdmissible = mark(candidates)
    let x: Buffer<Double> = try allocate(n)
    let z: Buffer<Double> = try allocate(n)
    if !isPositive {
      v.update(repeating: 0, count: n)
      try solveBasis(v, c, x, z)
      for j in factor.order { signs[j] = v[j] < 0 ? -1 : 1 }
    }
    if factor.count == candidates.count { return true }
    var idle = 0
    while iterations < watch.maxIterations {
      if iterations & 15 == 0, watch.poll() != nil { return false }
      let order = factor.order
      for (i, j) in order.enumerated() { x[i] = rho[j] * signs[j] }
      factor.solve(x.pointer)
      z.pointer.update(repeating: 0, count: n)
      for (i, j) in order.enumerated() { Vector.axpy(n, x[i], gram.column(j), z.pointer) }
      guard let entering = price(z, isAdmissible, byIndex: idle > 2 * n) else {
        try solveBasis(v, c, x, z)
        return true
      }
      iterations += 1
      let direction = z[entering] > 0 ? 1.0 : -1.0
      let column = gram.column(entering)
      for (i, j) in order.enumerated() { x[i] = column[j] }
      factor.solve(x.pointer)
      var leaving = -1
      var step = Double.infinity
      for (i, j) in order.enumerated() where rho[j] > 0 || isPositive {
        let d = -direction * x[i] * signs[j]
        guard d < -1e-9 else { continue }
        let reach = max(0, v[j] * signs[j]) / -d
        let isTie = leaving >= 0 && abs(reach - step) <= 1e-12 * step
        // Among ties the largest pivot, or by Bland's rule the lowest index.
        let isBetter = isTie && (idle > 2 * n ? j < order[leaving] : abs(x[i]) > abs(x[leaving]))
        if reach < step && !isTie || isBetter { (leaving, step) = (i, min(reach, step)) }
      }
      guard leaving >= 0 else { return true }
      idle = step > 1e-14 ? 0 : idle + 1
      for (i, j) in order.enumerated() { v[j] -= step * direction * x[i] }
      v[order[leaving]] = 0
      v[entering] = step * direction
      signs[order[leaving]] = 0
      factor.remove(at: leaving)
      guard factor.append(entering, column: column, diagonal: 1) else { return true }
      signs[entering] = direction
    }
    return true
  }

  /// v_B ← Ĝ_BB⁻¹ ĉ_B from the v_B at hand, twice: the second time refines. With v ≥ 0 v_B is as it came, and stays.
  private func solveBasis(
    _ v: UnsafeMutablePointer<Double>, _ c: UnsafePointer<Double>, _ x: Buffer<Double>, _ r: Buffer<Double>
  ) throws(UnmergeError) {
    if isPositive { return }
    for _ in 0..<2 {
      for j in 0..<n { r[j] = c[j] }
      for j in factor.order where v[j] != 0 { Vector.axpy(n, -v[j], gram.column(j), r.pointer) }
      for (i, j) in factor.order.enumerated() { x[i] = r[j] }
      factor.solve(x.pointer)
      for (i, j) in factor.order.enumerated() { v[j] += x[i] }
    }
  }

  private func mark(_ candidates: [Int]) -> [Bool] {
    var result = Array(repeating: false, count: n)
    for j in candidates { result[j] = true }
    return result
  }

  /// The atom outside the basis that lowers the norm fastest, or the first that does; sets `stretch`.
  private func price(_ z: Buffer<Double>, _ isAdmissible: [Bool], byIndex: Bool) -> Int? {
    var best: Int?
    var excess = 0.0
    stretch = 1
    for j in 0..<n where isAdmissible[j] && signs[j] == 0 {
      let pull = isPositive ? z[j] : abs(z[j])
      if rho[j] > 0 { stretch = max(stretch, pull / rho[j]) }
      let over = pull - rho[j] * (1 + 1e-11)
      if over > 0, over > excess, best == nil || !byIndex {
        best = j
        excess = over
      }
    }
    return best
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
