import UnmergeCore
import UnmergeLinalg

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

// Spikes: where a merging tool leaves an atom alone in an entry, or scales it by 1/q, the merged difference is a fixed multiple of
// the atom's, up to rounding: D = ρ τ. Every entry votes for the ratios it allows,
//
//     v(ρ) = Σ  1[ |D − ρτ| ≤ u/2 ]  −  ½ 1[ u/2 < |D − ρτ| ≤ 3u/2 ]
//
// so that a smooth density of D/τ cancels and only a spike is left. D and τ are whole multiples of u, whose ratios pile up at
// simple fractions whatever is in the merge. A decoy has the same lattice without the alignment: the task vector of another row,
// rounded to storage on top of this row's base. What the atom has more than its decoy is evidence; what a second decoy has more
// than the first is how large such a difference gets by chance.
//
// Entries take part with |τ| > 4u and |D| > 3u/2, so that every interval has one sign.

/// The ratio with the largest excess of votes.
package struct SpikePeak: Sendable {
  /// 0: no entry took part.
  package let ratio: Double
  /// Excess votes over the entries that took part.
  package let share: Double
  /// The excess over its standard deviation under Poisson counts. Neighbouring entries of a low-rank product are not independent:
  /// compare it with that of the null, not with a table.
  package let z: Double
}

package struct SpikeVotes: Sendable {
  /// Entries of the atom that took part.
  package let entries: Int
  /// Atom less decoy: the evidence.
  package let atom: SpikePeak
  /// Second decoy less first: the same statistic where nothing is to be found.
  package let null: SpikePeak
  /// A decoy alone: the lattice's own pile.
  package let decoy: SpikePeak
}

/// Edges of intervals, summed over modules.
private struct Edges: Sendable {
  var counts = [Int](repeating: 0, count: Spike.counters)
  var entries = 0

  mutating func add(_ o: Edges) {
    for i in counts.indices { counts[i] += o.counts[i] }
    entries += o.entries
  }

  /// By sign and point: entries whose interval holds the point, whose flanks do, and the sum of both half an octave around.
  /// What the lattice piles up is in proportion to the last; it is so wide that a spike changes it little.
  func votes() -> (center: [Double], flank: [Double], around: [Double]) {
    var center: [Double] = []
    var flank: [Double] = []
    var around: [Double] = []
    let reach = 128
    for sign in 0..<2 {
      var (c, f) = (0, 0)
      for p in 0..<Spike.points {
        let e = 4 * (sign * (Spike.points + 1) + p)
        c += counts[e + 1] - counts[e + 2]
        f += counts[e] - counts[e + 1] + counts[e + 2] - counts[e + 3]
        center.append(Double(c))
        flank.append(Double(f))
      }
      let first = sign * Spike.points
      var sums = [0.0]
      for p in 0..<Spike.points { sums.append(sums[p] + center[first + p] + flank[first + p]) }
      for p in 0..<Spike.points { around.append(sums[min(Spike.points, p + reach + 1)] - sums[max(0, p - reach)]) }
    }
    return (center, flank, around)
  }
}

/// The largest z of x less y.
private func peak(_ x: Edges, less y: Edges?) -> SpikePeak {
  guard x.entries > 0 else { return SpikePeak(ratio: 0, share: 0, z: 0) }
  let (c, f, around) = x.votes()
  let other = y.map { $0.votes() }
  var best = SpikePeak(ratio: 0, share: 0, z: -.infinity)
  for i in c.indices {
    var (excess, variance) = (c[i] - f[i] / 2, c[i] + f[i] / 4 + 1)
    if let o = other {
      let scale = (around[i] + 1) / (o.around[i] + 1)
      excess -= scale * (o.center[i] - o.flank[i] / 2)
      variance += scale * scale * (o.center[i] + o.flank[i] / 4)
    }
    let z = excess / variance.squareRoot()
    if z > best.z {
      let r = Spike.ratio(i % Spike.points)
      best = SpikePeak(ratio: i < Spike.points ? r : -r, share: excess / Double(x.entries), z: z)
    }
  }
  return best
}

package struct Spikes: Sendable {
  /// In the order of `atoms`.
  package let votes: [SpikeVotes]

  package init(_ sample: RowSample, atoms: [Int]? = nil, minUnits: Float = 4, _ watch: Watch) throws(UnmergeError) {
    let atoms = atoms ?? Array(0..<sample.atoms)
    let modules = sample.modules
    let slots = max(1, min(watch.threads, modules.count))
    var rooms: [SpikeRoom] = []
    let most = modules.reduce(0) { max($0, $1.entries) }
    for _ in 0..<slots { rooms.append(try SpikeRoom(most)) }
    let workers = rooms
    let results = Results<[Edges]?>(slots, nil)
    var sums = Array(repeating: Array(repeating: Edges(), count: 3), count: atoms.count)
    // One atom's vote on one module at a time: counts are whole numbers, their sum has no order.
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try performPass(tasks: atoms.count * modules.count, slots: slots, watch) { (task, slot) throws(UnmergeError) in
        let m = modules[task / atoms.count]
        results.set(slot, workers[slot].vote(m, m.atoms[atoms[task % atoms.count]], minUnits))
      } finish: { task, slot in
        guard let edges = results.values[slot] else { return }
        for i in 0..<3 { sums[task % atoms.count][i].add(edges[i]) }
      }
    }
    votes = sums.map { s in
      SpikeVotes(
        entries: s[0].entries, atom: peak(s[0], less: s[1]), null: peak(s[2], less: s[1]), decoy: peak(s[1], less: nil))
    }
  }
}

/// The buffers of one thread.
private final class SpikeRoom: @unchecked Sendable {
  private let delta: Buffer<Float>
  private let tau: Buffer<Float>
  private let edges: Buffer<Int32>

  init(_ entries: Int) throws(UnmergeError) {
    delta = try allocate(entries)
    tau = try allocate(entries)
    edges = try allocate(Spike.counters)
  }

  /// Atom, first decoy, second decoy.
  func vote(_ m: SampledModule, _ atom: SampledAtom?, _ minUnits: Float) -> [Edges]? {
    guard let atom else { return nil }
    let n = m.entries
    m.form(atom, delta.pointer)
    // Other rows, or of fewer than four rows other columns.
    let (step, count) = m.rows >= 4 ? (m.cols, m.rows) : (1, n)
    return [0, count / 2, count / 3].map { shift in
      let first = shift * step
      tau.pointer.update(from: delta.pointer + first, count: n - first)
      (tau.pointer + (n - first)).update(from: delta.pointer, count: first)
      // The task vector as it was stored; one of stored checkpoints stays as it is.
      if let type = m.storage, type.size == 2, let base = m.base {
        type.add(tau.pointer, base.pointer, n)
        ElementType.f32.subtract(tau.pointer, base.pointer, n)
      }
      edges.zero()
      var e = Edges()
      e.entries = Spike.vote(
        edges.pointer, m.target.pointer, tau.pointer, unit: m.unit.map { UnsafePointer($0.pointer) }, n, minUnits: minUnits)
      for i in 0..<edges.count { e.counts[i] = Int(edges[i]) }
      return e
    }
  }
}
