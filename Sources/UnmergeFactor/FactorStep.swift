import UnmergeCore
import UnmergeLinalg
import UnmergeSparse

/// What one factor F (n×k) pays and where it may be: l1 Σ F + l2/2 ‖F‖² + group/2 Σᵢ (Σₗ F_il)², F ≥ 0 unless signed, columns of
/// norm at most 1 where `isUnit`.
struct FactorPenalty: Equatable, Sendable {
  var l1 = 0.0
  var l2 = 0.0
  var group = 0.0
  var isUnit = false
  var isSigned = false

  var isNone: Bool { l1 == 0 && l2 == 0 && group == 0 }

  func value(_ f: Factor) -> Double {
    guard !isNone else { return 0 }
    var sum = 0.0
    var squares = 0.0
    var rows = 0.0
    for l in 0..<f.columns {
      let c = f.column(l)
      for i in 0..<f.rows {
        sum += c[i]
        squares += c[i] * c[i]
      }
    }
    if group > 0 {
      for i in 0..<f.rows {
        var s = 0.0
        for l in 0..<f.columns { s += f.values[l * f.rows + i] }
        rows += s * s
      }
    }
    return l1 * sum + l2 / 2 * squares + group / 2 * rows
  }

  /// G + l2·I + group·11ᵀ
  func add(to g: Buffer<Double>, _ k: Int) {
    guard l2 > 0 || group > 0 else { return }
    for i in 0..<(k * k) { g[i] += group }
    for l in 0..<k { g[l * k + l] += l2 }
  }

  /// m += l2·F + group·F 11ᵀ
  func addQuadraticGradient(_ f: Factor, to m: Factor) {
    guard l2 > 0 || group > 0 else { return }
    for i in 0..<f.rows {
      var s = 0.0
      if group > 0 { for l in 0..<f.columns { s += f.values[l * f.rows + i] } }
      for l in 0..<f.columns { m.values[l * f.rows + i] += l2 * f.values[l * f.rows + i] + group * s }
    }
  }

  /// The nearest point of the set.
  func project(_ f: Factor) {
    let x = f.pointer
    if !isSigned { for i in 0..<f.values.count { x[i] = max(x[i], 0) } }
    if isUnit { for l in 0..<f.columns { shrinkToUnit(f.column(l), f.rows) } }
  }
}

private func shrinkToUnit(_ x: UnsafeMutablePointer<Double>, _ n: Int) {
  let norm = Double.squares(x, n).squareRoot()
  if norm > 1 { for i in 0..<n { x[i] /= norm } }
}

/// One factor's problem with the other held,
///
///     minimise over F in the set:  ½⟨F, F G⟩ − ⟨B − l1, F⟩,
///
/// G (k×k) the other's Gram with the quadratic penalties, B (n×k) the data times the other. Rows are independent problems unless
/// columns are bounded. Holds the working memory of one side.
final class FactorStep: Sendable {
  let k: Int
  private let block: Buffer<Double>
  private let line: Factor
  private let slots: Int
  private let threads: Int

  /// Sweeps end when one moves less than this share of the first.
  private static let least = 1e-2

  init(rows: Int, components: Int, threads: Int) throws(UnmergeError) {
    k = components
    self.threads = threads
    slots = max(1, min(threads, (rows + rowsPerBlock - 1) / rowsPerBlock))
    block = try allocate(try product(2 * rowsPerBlock * slots, k, "working memory"))
    line = try Factor(rows, 1)
  }

  /// Exact coordinate descent, at most `sweeps` sweeps. Returns Σ_l G_ll ‖f_l − P(f_l − ∇_l/G_ll)‖² as the first sweep met it.
  func sweep(
    _ f: Factor, _ b: Factor, _ g: Buffer<Double>, _ penalty: FactorPenalty, sweeps: Int, least: Double = FactorStep.least
  ) throws(UnmergeError) -> Double {
    if penalty.isSigned { return try solve(f, b, g) }
    if penalty.isUnit { return sweepColumns(f, b, g, penalty, sweeps: sweeps, least: least) }
    let blocks = (f.rows + rowsPerBlock - 1) / rowsPerBlock
    let moved: Buffer<Double> = try allocate(blocks)
    let work = f.values.count.multipliedReportingOverflow(by: k * sweeps).partialValue
    perform(tasks: blocks, threads: work < 1 << 20 ? 1 : min(slots, blocks)) { [self] task, thread in
      let i = task * rowsPerBlock
      let count = min(rowsPerBlock, f.rows - i)
      let x = block.pointer + 2 * rowsPerBlock * k * thread
      let y = x + rowsPerBlock * k
      for l in 0..<k {
        let (xl, yl) = (x + l * rowsPerBlock, y + l * rowsPerBlock)
        xl.update(from: f.column(l) + i, count: count)
        let bl = b.column(l) + i
        for r in 0..<count { yl[r] = bl[r] - penalty.l1 }
        for r in count..<rowsPerBlock {
          xl[r] = 0
          yl[r] = 0
        }
      }
      moved[task] = CoordinateSweeps.nonnegative(x, y, g.pointer, k, sweeps: sweeps, least: least)
      for l in 0..<k { (f.column(l) + i).update(from: x + l * rowsPerBlock, count: count) }
    }
    var sum = 0.0
    for task in 0..<blocks { sum += moved[task] }
    return sum
  }

  /// Column by column, each the exact minimum over the non-negative part of the unit ball.
  private func sweepColumns(
    _ f: Factor, _ b: Factor, _ g: Buffer<Double>, _ penalty: FactorPenalty, sweeps: Int, least: Double
  ) -> Double {
    let n = f.rows
    var first = 0.0
    for s in 0..<sweeps {
      var moved = 0.0
      for l in 0..<k {
        let d = g[l * k + l]
        guard d > 0 else {
          // Nothing holds it but its price.
          if penalty.l1 > 0 { f.column(l).update(repeating: 0, count: n) }
          continue
        }
        let now = line.pointer
        now.update(from: b.column(l), count: n)
        Double.gemm(false, false, n, 1, k, -1, f.pointer, n, g.pointer + l * k, k, 1, now, n)
        let old = f.column(l)
        for i in 0..<n { now[i] = max(0, old[i] + (now[i] - penalty.l1) / d) }
        shrinkToUnit(now, n)
        var change = 0.0
        for i in 0..<n { change += (now[i] - old[i]) * (now[i] - old[i]) }
        moved += d * change
        old.update(from: now, count: n)
      }
      if s == 0 { first = moved }
      if moved <= least * first { break }
    }
    return first
  }

  /// The exact minimum, by block pivoting from where F is. Returns Σ_l G_ll ‖change of f_l‖².
  func minimise(
    _ f: Factor, _ b: Factor, _ g: Buffer<Double>, _ penalty: FactorPenalty
  ) throws(UnmergeError) -> Double {
    if penalty.isSigned { return try solve(f, b, g) }
    let n = f.rows
    let pivoting = try BlockPivoting(size: k, threads: max(1, min(threads, (n + 255) / 256)), targets: n)
    let right: Buffer<Double> = try allocate(n * k)
    let found: Buffer<Double> = try allocate(n * k)
    for l in 0..<k {
      let (x, c) = (f.column(l), b.column(l))
      for i in 0..<n {
        right.pointer[i * k + l] = c[i] - penalty.l1
        found.pointer[i * k + l] = x[i]
      }
    }
    pivoting.prepare(g.pointer)
    _ = pivoting.solve(right.pointer, found.pointer, targets: n)
    var moved = 0.0
    for l in 0..<k {
      let x = f.column(l)
      var change = 0.0
      for i in 0..<n {
        let now = found.pointer[i * k + l]
        change += (now - x[i]) * (now - x[i])
        x[i] = now
      }
      moved += g[l * k + l] * change
    }
    return moved
  }

  /// The signed minimum nearest to F: B G⁺, with F's own part in directions where G is nothing beside its largest eigenvalue.
  private func solve(_ f: Factor, _ b: Factor, _ g: Buffer<Double>) throws(UnmergeError) -> Double {
    let n = f.rows
    let before = try Factor(n, k)
    before.assign(f)
    let turned = try Factor(n, k)
    let copy = try allocating { () throws(OutOfMemory) in try g.copy() }
    let (values, vectors) = try eigenvectors(copy, k)
    let floor = max(values[k - 1], 0) * 1e-14
    for l in 0..<k {
      let isKept = values[l] > floor
      let scale = isKept ? 1 / values[l] : 1
      Double.gemm(
        false, false, n, 1, k, scale, isKept ? b.pointer : f.pointer, n, vectors.pointer + l * k, k, 0, turned.column(l), n)
    }
    Double.gemm(false, true, n, k, k, 1, turned.pointer, n, vectors.pointer, k, 0, f.pointer, n)
    var moved = 0.0
    for l in 0..<k {
      let (x, old) = (f.column(l), before.column(l))
      var change = 0.0
      for i in 0..<n { change += (x[i] - old[i]) * (x[i] - old[i]) }
      moved += g[l * k + l] * change
    }
    return moved
  }

  /// Σ_l G_ll ‖f_l − P(f_l − ∇_l/G_ll)‖² at F itself; `scratch` is n×k.
  func violation(_ f: Factor, _ b: Factor, _ g: Buffer<Double>, _ penalty: FactorPenalty, _ scratch: Factor) -> Double {
    let n = f.rows
    guard n > 0 else { return 0 }
    scratch.assign(b)
    Double.gemm(false, false, n, k, k, -1, f.pointer, n, g.pointer, k, 1, scratch.pointer, n)
    var sum = 0.0
    for l in 0..<k where g[l * k + l] > 0 {
      let d = g[l * k + l]
      let (x, now) = (f.column(l), scratch.column(l))
      for i in 0..<n {
        let next = x[i] + (now[i] - penalty.l1) / d
        now[i] = penalty.isSigned ? next : max(0, next)
      }
      if penalty.isUnit { shrinkToUnit(now, n) }
      var change = 0.0
      for i in 0..<n { change += (now[i] - x[i]) * (now[i] - x[i]) }
      sum += d * change
    }
    return sum
  }
}

private let rowsPerBlock = CoordinateSweeps.rowsPerBlock
