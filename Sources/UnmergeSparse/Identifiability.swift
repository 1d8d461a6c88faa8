import CUnmerge
import UnmergeCore
import UnmergeLinalg

// What a dictionary lets one tell apart, from Ĝ = Z Λ Zᵀ alone:
//
//     null space     N = columns of Z with λ ≤ max(1e-12, n · entry error);  P = N Nᵀ
//     atom j         determined where P_jj = 0; its VIF is (Ĝ⁺)_jj = Σ z_jk² / λ_k over the rest, 1 / (1 − R_j²)
//     groups         connected by P_ij ≠ 0: w + Nx fits as well as w, so only combinations are determined
//
// P does not depend on which basis of the null space LAPACK happens to give.
//
// Reference: Belsley, Kuh & Welsch 1980.

private struct Identifiability {
  let gram: Gram
  /// Ascending.
  let values: Buffer<Double>
  let vectors: Buffer<Double>
  let nulls: Int
  private(set) var group: [Int]
  private(set) var groups = 0

  /// A row of N shorter than this is rounding of the eigenvectors.
  private static let member = 1e-6

  init(_ gram: Gram) throws(UnmergeError) {
    self.gram = gram
    let n = gram.atoms
    let matrix = try allocate(product(n, n, "the Gram"), of: Double.self)
    for j in 0..<n { (matrix.pointer + j * n).update(from: gram.column(j), count: n) }
    let eigen = try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try allocating { () throws(OutOfMemory) in try Symmetric.eigen(n, matrix.pointer) }
    }
    guard let eigen else { throw UnmergeError(UNMERGE_E_INTERNAL, "the eigenvalues of the Gram did not converge") }
    values = eigen.values
    vectors = eigen.vectors
    let tolerance = max(1e-12, Double(n) * gram.precision.entryError)
    var nulls = 0
    while nulls < n, values[nulls] <= tolerance { nulls += 1 }
    self.nulls = nulls
    group = Array(repeating: -1, count: n)
    join()
  }

  /// ⟨row i, row j⟩ of the first `nulls` eigenvectors.
  private func projection(_ i: Int, _ j: Int) -> Double {
    var sum = 0.0
    for k in 0..<nulls { sum += vectors[k * gram.atoms + i] * vectors[k * gram.atoms + j] }
    return sum
  }

  private mutating func join() {
    let n = gram.atoms
    guard nulls > 0 else { return }
    let size = (0..<n).map { gram.norms[$0] > 0 ? projection($0, $0).squareRoot() : 0 }
    for first in 0..<n where size[first] > Self.member && group[first] < 0 {
      var waiting = [first]
      group[first] = groups
      while let i = waiting.popLast() {
        for j in 0..<n where size[j] > Self.member && group[j] < 0 {
          guard abs(projection(i, j)) > Self.member * size[i] * size[j] else { continue }
          group[j] = groups
          waiting.append(j)
        }
      }
      groups += 1
    }
  }

  func vif(_ j: Int) -> Double {
    let n = gram.atoms
    if gram.norms[j] == 0 { return .nan }
    if group[j] >= 0 { return .infinity }
    var sum = 0.0
    for k in nulls..<n {
      let z = vectors[k * n + j]
      sum += z * z / values[k]
    }
    return max(1, sum)
  }

  func nearest(_ j: Int) -> (atom: Int, cosine: Double) {
    var best = (atom: -1, cosine: Double.nan)
    guard gram.norms[j] > 0 else { return best }
    let column = gram.column(j)
    for i in 0..<gram.atoms where i != j && gram.norms[i] > 0 {
      if best.atom < 0 || abs(column[i]) > abs(best.cosine) { best = (i, max(-1, min(1, column[i]))) }
    }
    return best
  }
}

extension unmerge_atom_identifiability: Growable {
  package static var defaults: unmerge_atom_identifiability {
    var a = unmerge_atom_identifiability()
    a.struct_size = MemoryLayout<unmerge_atom_identifiability>.size
    (a.norm, a.vif, a.cosine, a.nearest, a.group) = (.nan, .nan, .nan, -1, -1)
    return a
  }
}

extension unmerge_identifiability_result: Growable {
  package static var defaults: unmerge_identifiability_result {
    var r = unmerge_identifiability_result()
    r.struct_size = MemoryLayout<unmerge_identifiability_result>.size
    r.condition = .nan
    return r
  }
}

@_cdecl("unmerge_atom_identifiability_init") @implementation
public func unmerge_atom_identifiability_init(
  _ atom: UnsafeMutablePointer<unmerge_atom_identifiability>?, _ size: Int
) -> unmerge_status {
  initialize(atom, size)
}

@_cdecl("unmerge_identifiability_result_init") @implementation
public func unmerge_identifiability_result_init(
  _ result: UnsafeMutablePointer<unmerge_identifiability_result>?, _ size: Int
) -> unmerge_status {
  initialize(result, size)
}

@_cdecl("unmerge_identifiability") @implementation
public func unmerge_identifiability(
  _ gram: OpaquePointer?, _ atoms: UnsafeMutablePointer<unmerge_atom_identifiability>?,
  _ singular: UnsafeMutablePointer<Double>?, _ result: UnsafeMutablePointer<unmerge_identifiability_result>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    try checkResult(atoms, "atoms", count: gram.atoms)
    try checkResult(result, "result")
    try gram.needBlocks("ask what is identifiable in")
    let found = try Identifiability(gram)
    let n = gram.atoms
    var zeros = 0
    for j in 0..<n {
      if gram.norms[j] == 0 { zeros += 1 }
      var a = unmerge_atom_identifiability.defaults
      a.norm = gram.norms[j]
      a.vif = found.vif(j)
      let (nearest, cosine) = found.nearest(j)
      a.nearest = Int64(nearest)
      a.cosine = cosine
      a.group = Int64(found.group[j])
      store(a, atoms, index: j)
      singular?[j] = max(0, found.values[n - 1 - j])
    }
    var r = unmerge_identifiability_result.defaults
    r.rank = Int64(n - found.nulls)
    r.groups = Int64(found.groups)
    // Eigenvalues of zero atoms come first and are 0; they say nothing about the others.
    if n > zeros { r.condition = found.nulls > zeros ? .infinity : found.values[n - 1] / found.values[zeros] }
    store(r, result)
  }
}
