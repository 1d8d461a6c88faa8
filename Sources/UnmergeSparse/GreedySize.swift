import CUnmerge
import UnmergeCore
import UnmergeLinalg

// The number of atoms by a criterion, with q effective entries of p and s atoms of n:
//
//     SIC = q ln(rss/p) + s ln(n) ln(ln q)     BIC = q ln(rss/p) + s ln q     EBIC = BIC + 2γ ln C(n, s)
//
// References: Zhu, Wen, Zhu, Zhang & Wang 2020; Schwarz 1978; Chen & Chen 2008.

struct SizeRule: Sendable {
  private let kind: Int32
  private let effective: Double
  private let atoms: Double
  private let gamma: Double
  /// ‖r‖² / ‖y‖² below which nothing is resolved.
  private let resolution: Double

  /// Nil for UNMERGE_SIZE_K.
  init?(_ kind: Int32, effective: Double, gamma: Double, _ gram: Gram) throws(UnmergeError) {
    try check(Int64(kind), "options->size", 0...3, "UNMERGE_SIZE_K, _SIC, _BIC or _EBIC")
    try check(gamma, "options->gamma", 0...1, "in [0, 1]")
    guard effective == 0 || (effective >= 3 && effective.isFinite) else {
      throw .range("options->effective is \(effective); it must be finite and >= 3, or 0 for all entries")
    }
    guard kind != UNMERGE_SIZE_K else { return nil }
    self.kind = kind
    self.effective = effective > 0 ? effective : Double(gram.entries)
    guard self.effective >= 3 else {
      throw .range("options->size needs a Gram of at least 3 entries, or options->effective; gram has \(gram.entries)")
    }
    atoms = Double(gram.atoms)
    self.gamma = gamma
    resolution = floor(gram)
  }

  /// Up to a constant. rss in units of ‖y‖².
  func value(rss: Double, size: Int) -> Double {
    let fit = effective * Platform.log(max(rss, resolution))
    let s = Double(size)
    switch kind {
    case UNMERGE_SIZE_SIC: return fit + s * Platform.log(max(atoms, 1)) * Platform.log(Platform.log(effective))
    case UNMERGE_SIZE_BIC: return fit + s * Platform.log(effective)
    default: return fit + s * Platform.log(effective) + 2 * gamma * logBinomial(atoms, min(s, atoms))
    }
  }
}
