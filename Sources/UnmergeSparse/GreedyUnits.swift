import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// What a selection method takes or leaves: single atoms, or groups of them.
///
/// Without groups unit j is atom j. A zero atom is in no unit's span; a unit of zero atoms alone is not usable.
struct Units: Sendable {
  private let groups: Groups?
  let count: Int
  let largest: Int
  /// Units that have an atom which is not zero.
  let usable: Int

  init(_ gram: Gram) {
    groups = nil
    count = gram.atoms
    largest = min(1, count)
    var usable = 0
    for j in 0..<count where gram.norms[j] > 0 { usable += 1 }
    self.usable = usable
  }

  init(_ gram: Gram, _ groups: Groups) {
    self.groups = groups
    count = groups.count
    var (largest, usable) = (0, 0)
    for g in 0..<groups.count {
      let members = groups.offsets[g]..<groups.offsets[g + 1]
      largest = max(largest, members.count)
      if members.contains(where: { gram.norms[groups.members[$0]] > 0 }) { usable += 1 }
    }
    self.largest = largest
    self.usable = usable
  }

  /// From the door: NULL offsets are single atoms.
  static func read(
    _ gram: Gram, _ offsets: UnsafePointer<Int64>?, _ members: UnsafePointer<Int64>?, _ count: Int64, disjoint: Bool
  ) throws(UnmergeError) -> Units {
    if offsets == nil, count == 0 { return Units(gram) }
    let groups = try Groups(offsets, members, count: count, columns: gram.atoms, period: gram.atoms)
    if disjoint {
      let owner: Buffer<Int> = try allocate(gram.atoms)
      for g in 0..<groups.count {
        for i in groups.offsets[g]..<groups.offsets[g + 1] {
          let j = groups.members[i]
          guard owner[j] == 0 else {
            throw .range("options->members has atom \(j) in groups \(owner[j] - 1) and \(g); groups must not overlap")
          }
          owner[j] = g + 1
        }
      }
    }
    return Units(gram, groups)
  }

  var areAtoms: Bool { groups == nil }

  @inline(__always) func size(_ i: Int) -> Int { groups.map { $0.offsets[i + 1] - $0.offsets[i] } ?? 1 }

  @inline(__always) func atom(_ i: Int, _ k: Int) -> Int { groups.map { $0.members[$0.offsets[i] + k] } ?? i }

  /// score_i = ‖x_i‖, of the positive part where only that counts.
  func score(_ x: UnsafePointer<Double>, positive: Bool, _ score: UnsafeMutablePointer<Double>) {
    guard let groups else {
      for j in 0..<count { score[j] = positive ? max(x[j], 0) : abs(x[j]) }
      return
    }
    for i in 0..<count {
      var sum = 0.0
      for k in groups.offsets[i]..<groups.offsets[i + 1] {
        let y = positive ? max(x[groups.members[k]], 0) : x[groups.members[k]]
        sum += y * y
      }
      score[i] = sum.squareRoot()
    }
  }
}

/// The indices of the k largest scores in the first k places of `index`, in no order; ties go to the lower index. Quickselect:
/// expected time linear in count.
func selectLargest(_ k: Int, _ score: UnsafePointer<Double>, _ index: UnsafeMutablePointer<Int>, count: Int) {
  for i in 0..<count { index[i] = i }
  guard k > 0, k < count else { return }
  @inline(__always) func precedes(_ a: Int, _ b: Int) -> Bool {
    score[a] != score[b] ? score[a] > score[b] : a < b
  }
  @inline(__always) func swap(_ a: Int, _ b: Int) { (index[a], index[b]) = (index[b], index[a]) }
  var (low, high) = (0, count - 1)
  while low < high {
    let middle = low + (high - low) / 2
    if precedes(index[middle], index[low]) { swap(middle, low) }
    if precedes(index[high], index[low]) { swap(high, low) }
    if precedes(index[high], index[middle]) { swap(high, middle) }
    swap(middle, high)
    let pivot = index[high]
    var place = low
    for i in low..<high where precedes(index[i], pivot) {
      swap(i, place)
      place += 1
    }
    swap(place, high)
    if place == k || place == k - 1 { return }
    if place < k { low = place + 1 } else { high = place - 1 }
  }
}
