import UnmergeCore
import UnmergeLinalg

/// Non-negative least squares for many targets from one Gram:
///
///     minimise  ½ tr XᵀGX − tr CᵀX   over X ≥ 0,   G k×k, C and X k×T
///
/// by block principal pivoting. A target's passive set F says which of its x are free; the rest are 0. With F fixed
///
///     x_F = G_FF⁻¹ c_F,   y = Gx − c,   y_F = 0
///
/// and (x, y) is optimal when x_F ≥ 0 and y ≥ 0. Who violates changes sides, all of them at once. That may cycle, so when
/// three rounds have not brought fewer violators than ever before only the one with the largest index changes sides
/// (Murty's rule, which is finite) until they are fewer. Targets with the same F share one factor.
///
/// Invariant: x and y are those of F up to rounding when they are judged. Rounding makes both signs of a number that should
/// be 0; only what exceeds the noise of y's own evaluation counts as y < 0, while every x < 0 leaves: nothing returns
/// because of rounding. What is left to cycle, and a passive set that is numerically dependent, goes to Lawson and Hanson's
/// method, one atom at a time, with moves along the null direction of a dependent one.
///
/// The certificate is `Outcome.violation`: the largest |min(d_j x_j, y_j/d_j)| over the largest |c_i|/d_i, d_j = √G_jj, 0 at
/// a solution and free of scales. For alternating minimisation, where sets change little: 10 µs per target at k = 49, a third of
/// `ActiveSet` even from a cold start; from a cold start on 256 atoms both take the same.
///
/// References: Kim & Park 2011 (block principal pivoting, grouping); Portugal, Júdice & Vicente 1994 (the backup rule);
/// Van Benthem & Keenan 2004 (grouping by passive set); Lawson & Hanson 1974, ch. 23.
package final class BlockPivoting: @unchecked Sendable {
  package struct Outcome: Sendable {
    /// Rounds of exchanges, summed over targets.
    package var exchanges = 0
    /// Targets that Lawson and Hanson's method finished.
    package var fallbacks = 0
    /// The KKT residual; NaN when C or X is not finite.
    package var violation = 0.0

    mutating func add(_ other: Outcome) {
      exchanges += other.exchanges
      fallbacks += other.fallbacks
      violation = violation.isNaN || other.violation.isNaN ? .nan : max(violation, other.violation)
    }
  }

  private let k: Int
  /// d_j = √G_jj, and G with its unit diagonal.
  private let norms: Buffer<Double>
  private let unit: Buffer<Double>
  private let workers: [Worker]

  /// Targets are solved in chunks of this many, which are what threads share: sets are compared within one.
  private static let chunk = 256

  /// For at most so many targets at a time memory is taken for as many: 5 k numbers each, beside 2 k² per thread.
  package init(size k: Int, threads: Int, targets: Int = .max) throws(UnmergeError) {
    self.k = k
    norms = try allocate(k)
    unit = try allocate(product(k, k, "the Gram"))
    var workers: [Worker] = []
    for _ in 0..<max(1, threads) { workers.append(try Worker(k, max(1, min(targets, Self.chunk)))) }
    self.workers = workers
  }

  /// Takes G over, both triangles column-major. Columns of a diagonal that is not positive are held at 0.
  package func prepare(_ g: UnsafePointer<Double>) {
    for j in 0..<k { norms[j] = g[j * k + j] > 0 ? g[j * k + j].squareRoot() : 0 }
    for j in 0..<k {
      for i in 0..<k { unit[j * k + i] = norms[i] > 0 && norms[j] > 0 ? g[j * k + i] / norms[i] / norms[j] : 0 }
      unit[j * k + j] = norms[j] > 0 ? 1 : 0
    }
  }

  /// X holds where to start, and then the solution for the G of the last `prepare`. Only the signs of the start are used. One
  /// call at a time; no memory is allocated, and the bits do not depend on the number of threads.
  package func solve(
    _ c: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>, targets: Int
  ) -> Outcome {
    let k = self.k
    let chunks = (targets + Self.chunk - 1) / Self.chunk
    let active = min(workers.count, chunks)
    let (workers, norms, unit) = (self.workers, UnsafePointer(self.norms.pointer), UnsafePointer(self.unit.pointer))
    nonisolated(unsafe) let (from, to, d, hessian) = (c, x, norms, unit)
    Threads.withSingleThreadedBLAS {
      Threads.perform(active) { w in
        workers[w].outcome = Outcome()
        for chunk in stride(from: w, to: chunks, by: active) {
          let first = chunk * Self.chunk
          workers[w].solve(hessian, d, from + first * k, to + first * k, min(Self.chunk, targets - first))
        }
      }
    }
    var sum = Outcome()
    for w in 0..<active { sum.add(workers[w].outcome) }
    return sum
  }
}

/// One thread's memory, and the method on a chunk of targets. Everything is in the unit-diagonal scale: x_j d_j, y_j / d_j.
private final class Worker: @unchecked Sendable {
  var outcome = BlockPivoting.Outcome()
  private let k: Int
  private let words: Int
  /// c, x and y of the chunk, k×chunk.
  private let c: UnsafeMutablePointer<Double>
  private let x: UnsafeMutablePointer<Double>
  private let y: UnsafeMutablePointer<Double>
  /// Of the group at hand: right-hand sides in, x_F out; y of all atoms; G_:F; the factor of G_FF.
  private let solution: UnsafeMutablePointer<Double>
  private let gradient: UnsafeMutablePointer<Double>
  private let columns: UnsafeMutablePointer<Double>
  private let factor: UnsafeMutablePointer<Double>
  /// Largest |c_i| of a target.
  private let scale: UnsafeMutablePointer<Double>
  /// Passive sets as bits, `words` per target.
  private let sets: UnsafeMutablePointer<UInt64>
  /// Per target: fewest violators yet, full exchanges left, rounds made; −1 rounds left when it is done.
  private let fewest: UnsafeMutablePointer<Int>
  private let patience: UnsafeMutablePointer<Int>
  private let rounds: UnsafeMutablePointer<Int>
  /// The targets with an equal set, chained: first and last of a slot's chains, next in a chain, next chain of the slot.
  private let slots: UnsafeMutablePointer<Int>
  private let tail: UnsafeMutablePointer<Int>
  private let next: UnsafeMutablePointer<Int>
  private let sibling: UnsafeMutablePointer<Int>
  /// First targets of the groups, in the order of the targets.
  private let groups: UnsafeMutablePointer<Int>
  /// Atoms of F.
  private let free: UnsafeMutablePointer<Int>
  private let pivots: Cholesky

  private let numbers: Buffer<Double>
  private let bits: Buffer<UInt64>
  private let integers: Buffer<Int>
  private let slotCount: Int

  init(_ k: Int, _ chunk: Int) throws(UnmergeError) {
    self.k = k
    words = (k + 63) / 64
    slotCount = 2 * chunk
    let cells = try product(k, 5 * chunk + 2 * k, "the working memory")
    numbers = try allocate(cells + chunk)
    c = numbers.pointer
    x = c + k * chunk
    y = x + k * chunk
    solution = y + k * chunk
    gradient = solution + k * chunk
    columns = gradient + k * chunk
    factor = columns + k * k
    scale = factor + k * k
    bits = try allocate(words * chunk)
    sets = bits.pointer
    integers = try allocate(7 * chunk + slotCount + k)
    fewest = integers.pointer
    patience = fewest + chunk
    rounds = patience + chunk
    tail = rounds + chunk
    next = tail + chunk
    sibling = next + chunk
    groups = sibling + chunk
    slots = groups + chunk
    free = slots + slotCount
    pivots = try allocating { () throws(OutOfMemory) in try Cholesky(capacity: k) }
  }

  func solve(
    _ g: UnsafePointer<Double>, _ d: UnsafePointer<Double>, _ cs: UnsafePointer<Double>,
    _ xs: UnsafeMutablePointer<Double>, _ targets: Int
  ) {
    var open = 0
    for t in 0..<targets {
      let set = sets + t * words
      set.update(repeating: 0, count: words)
      scale[t] = 0
      var isFinite = true
      for j in 0..<k {
        let value = d[j] > 0 ? cs[t * k + j] / d[j] : 0
        c[t * k + j] = value
        x[t * k + j] = 0
        y[t * k + j] = -value
        scale[t] = max(scale[t], abs(value))
        isFinite = isFinite && value.isFinite
        if xs[t * k + j] > 0, d[j] > 0 { set[j >> 6] |= 1 << UInt64(j & 63) }
      }
      (fewest[t], patience[t], rounds[t]) = (k + 1, 3, -1)
      if !isFinite { outcome.violation = .nan }
      if isFinite, scale[t] > 0 {
        rounds[t] = 0
        open += 1
      }
    }
    while open > 0 {
      let groupCount = group(targets)
      for i in 0..<groupCount { open -= solveGroup(g, groups[i]) }
    }
    for t in 0..<targets {
      var residual = 0.0  // a NaN that `violation` has stays
      for j in 0..<k {
        let value = x[t * k + j]
        residual = max(residual, abs(min(value, y[t * k + j])))
        xs[t * k + j] = value > 0 ? value / d[j] : 0
      }
      if scale[t] > 0 { outcome.violation = max(outcome.violation, residual / scale[t]) }
    }
  }

  /// Chains the open targets by passive set; the number of chains.
  private func group(_ targets: Int) -> Int {
    slots.update(repeating: -1, count: slotCount)
    var count = 0
    for t in 0..<targets where rounds[t] >= 0 {
      let set = sets + t * words
      var hash: UInt64 = 0
      for i in 0..<words {
        hash = (hash ^ set[i]) &* 0x9E37_79B9_7F4A_7C15
        hash ^= hash >> 29
      }
      let slot = Int(truncatingIfNeeded: hash % UInt64(slotCount))
      next[t] = -1
      var head = slots[slot]
      while head >= 0, !isEqual(sets + head * words, set) { head = sibling[head] }
      if head >= 0 {
        next[tail[head]] = t
        tail[head] = t
      } else {
        (tail[t], sibling[t], slots[slot]) = (t, slots[slot], t)
        groups[count] = t
        count += 1
      }
    }
    return count
  }

  private func isEqual(_ a: UnsafePointer<UInt64>, _ b: UnsafePointer<UInt64>) -> Bool {
    for i in 0..<words where a[i] != b[i] { return false }
    return true
  }

  /// One round for the targets chained to `head`; how many of them are done.
  private func solveGroup(_ g: UnsafePointer<Double>, _ head: Int) -> Int {
    var size = 0
    for j in 0..<k where isPassive(head, j) {
      free[size] = j
      size += 1
    }
    for b in 0..<size {
      let column = g + free[b] * k
      (columns + b * k).update(from: column, count: k)
      for a in 0...b { factor[b * size + a] = column[free[a]] }
    }
    guard isIndependent(size) else { return finish(g, head) }
    var count = 0
    var t = head
    while t >= 0 {
      for a in 0..<size { solution[count * size + a] = c[t * k + free[a]] }
      (gradient + count * k).update(from: c + t * k, count: k)
      count += 1
      t = next[t]
    }
    if size > 0 {
      Symmetric.solve(size, factor: factor, solution, columns: count)
      Double.gemm(false, false, k, count, size, 1, columns, k, solution, size, -1, gradient, k)
    } else {
      for i in 0..<(count * k) { gradient[i] = -gradient[i] }
    }
    var done = 0
    var column = 0
    t = head
    while t >= 0 {
      let following = next[t]
      if exchange(t, size, solution + column * size, gradient + column * k) {
        rounds[t] = -1
        done += 1
      } else if rounds[t] > k + 32 {
        lawsonHanson(g, t)
        done += 1
      }
      column += 1
      t = following
    }
    return done
  }

  @inline(__always)
  private func isPassive(_ t: Int, _ j: Int) -> Bool { sets[t * words + j >> 6] >> UInt64(j & 63) & 1 == 1 }

  /// Factors G_FF; false when a pivot says that an atom depends on those before it.
  private func isIndependent(_ size: Int) -> Bool {
    guard size > 0 else { return true }
    guard Symmetric.factor(size, factor) != nil else { return false }
    for a in 0..<size where !(factor[a * size + a] * factor[a * size + a] > pivots.tolerance) { return false }
    return true
  }

  /// Judges (x_F, y) of target t and changes its set; true when nothing violates.
  private func exchange(
    _ t: Int, _ size: Int, _ new: UnsafePointer<Double>, _ slope: UnsafePointer<Double>
  ) -> Bool {
    let (x, y) = (self.x + t * k, self.y + t * k)
    x.update(repeating: 0, count: k)
    y.update(from: slope, count: k)
    var sum = scale[t]
    for a in 0..<size {
      x[free[a]] = new[a]
      sum += abs(new[a])
    }
    // What the evaluation of y can be wrong by, with room for the solve before it.
    let noise = 8 * Double(k) * roundoff * sum
    var violators = 0
    var last = 0
    for j in 0..<k where x[j] < 0 || (y[j] < -noise && !isPassive(t, j)) {
      violators += 1
      last = j
    }
    if violators == 0 { return true }
    rounds[t] += 1
    outcome.exchanges += 1
    var isFull = true
    if violators < fewest[t] {
      (fewest[t], patience[t]) = (violators, 3)
    } else if patience[t] > 0 {
      patience[t] -= 1
    } else {
      isFull = false
    }
    let set = sets + t * words
    for j in (isFull ? 0 : last)...last where x[j] < 0 || (y[j] < -noise && !isPassive(t, j)) {
      set[j >> 6] ^= 1 << UInt64(j & 63)
    }
    return false
  }

  // MARK: one atom at a time

  private func finish(_ g: UnsafePointer<Double>, _ head: Int) -> Int {
    var count = 0
    var t = head
    while t >= 0 {
      let following = next[t]
      lawsonHanson(g, t)
      count += 1
      t = following
    }
    return count
  }

  /// From the positive part of where target t is. An atom that depends on the passive ones has y = 0 but for a linear term
  /// outside the range of G, down which x then moves until an atom leaves.
  private func lawsonHanson(_ g: UnsafePointer<Double>, _ t: Int) {
    rounds[t] = -1
    outcome.fallbacks += 1
    let (c, x, y) = (self.c + t * k, self.x + t * k, self.y + t * k)
    let trial = solution
    /// Refused until the next change.
    let refused = gradient
    refused.update(repeating: 0, count: k)
    pivots.removeAll()
    for j in 0..<k {
      if !(x[j] > 0 && pivots.append(j, column: g + j * k, diagonal: 1)) { x[j] = 0 }
    }
    descend(c, x, trial)
    for _ in 0..<(30 * k) {
      for j in 0..<k { y[j] = -c[j] }
      var sum = scale[t]
      for j in pivots.order {
        Vector.axpy(k, x[j], g + j * k, y)
        sum += abs(x[j])
      }
      let noise = 8 * Double(k) * roundoff * sum
      var entering = -1
      for j in 0..<k where x[j] == 0 && g[j * k + j] > 0 && refused[j] == 0 && y[j] < -noise {
        if entering < 0 || y[j] < y[entering] { entering = j }
      }
      if entering < 0 { return }
      let j = entering
      refused[j] = 1
      if !pivots.append(j, column: g + j * k, diagonal: 1) {
        guard moveAlongNull(g, j, x, y, trial, noise), pivots.append(j, column: g + j * k, diagonal: 1) else { continue }
        refused.update(repeating: 0, count: k)
      } else {
        for (i, a) in pivots.order.enumerated() { trial[i] = c[a] }
        pivots.solve(trial)
        // Only rounding made it violate.
        if !(trial[pivots.count - 1] > 0) {
          pivots.remove(at: pivots.count - 1)
          continue
        }
        refused.update(repeating: 0, count: k)
      }
      descend(c, x, trial)
    }
  }

  /// x to the minimum on the passive set, which loses on the way who reaches 0.
  private func descend(_ c: UnsafePointer<Double>, _ x: UnsafeMutablePointer<Double>, _ trial: UnsafeMutablePointer<Double>)
  {
    while pivots.count > 0 {
      let order = pivots.order
      for (i, a) in order.enumerated() { trial[i] = c[a] }
      pivots.solve(trial)
      var step = 1.0
      var blocking = -1
      for (i, a) in order.enumerated() where trial[i] <= 0 {
        let reach = x[a] > 0 ? x[a] / (x[a] - trial[i]) : 0
        if blocking < 0 || reach < step { (step, blocking) = (min(1, reach), i) }
      }
      for (i, a) in order.enumerated() { x[a] += step * (trial[i] - x[a]) }
      if blocking < 0 { return }
      for i in stride(from: order.count - 1, through: 0, by: -1) where i == blocking || x[order[i]] <= 0 {
        x[order[i]] = 0
        pivots.remove(at: i)
      }
    }
  }

  /// Along (−z, 1), z = G_PP⁻¹ G_Pj, until a passive atom is at 0 and leaves; false when that is not downhill or endless.
  private func moveAlongNull(
    _ g: UnsafePointer<Double>, _ j: Int, _ x: UnsafeMutablePointer<Double>, _ y: UnsafePointer<Double>,
    _ z: UnsafeMutablePointer<Double>, _ noise: Double
  ) -> Bool {
    let order = pivots.order
    for (i, a) in order.enumerated() { z[i] = g[j * k + a] }
    pivots.solve(z)
    var slope = y[j]
    var size = 1.0
    var step = Double.infinity
    for (i, a) in order.enumerated() {
      slope -= z[i] * y[a]
      size += abs(z[i])
      if z[i] > 0 { step = min(step, x[a] / z[i]) }
    }
    guard slope < -noise * size, step < .infinity else { return false }
    x[j] += step
    for i in stride(from: order.count - 1, through: 0, by: -1) {
      let a = order[i]
      let new = x[a] - step * z[i]
      x[a] = z[i] > 0 && x[a] / z[i] <= step ? 0 : max(new, 0)
      if x[a] == 0 { pivots.remove(at: i) }
    }
    return true
  }
}
