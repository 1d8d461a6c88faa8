import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Orthogonal matching pursuit: greedily
//
//     minimise ‖Aw − y‖²  subject to at most k non-zeros
//
// by taking the atom with the largest |u_j|, u = ĉ − Ĝv being the correlations with the residual of the best fit so far.
// With Ĝ_SS = LLᵀ and W = L⁻¹Ĝ_S,: (one row per selected atom) a step costs one row and no solve:
//
//     W_t = (Ĝ_j − Σ_i W_ij W_i) / √h_j,   z_t = u_j / √h_j,   u −= z_t W_t,   h −= W_t²,   ‖r‖² −= z_t²
//
// where h_j = 1 − Σ_i W_ij² is what of atom j is outside the span. h_j ≤ 1e-12: dependent, passed over. At the end
// LLᵀ v_S = ĉ_S, refined once. The certificate is that of least squares on S: |u_j| = 0 for j in S. There is no bound on the
// distance to the best k atoms. `Pursuit` does it, with its variants.
//
// The positive variant takes the largest u_j > 0 and refits by NNLS on the selection.
//
// It stops before k when no correlation is above the entry error of the Gram, or the residual of an exact one is rounding.
// (That of a fast one is not asked: its ‖r‖² is worth 2e-8, a correlation of 1e-4, where correlations are worth 4e-8.)
//
// References: Pati, Rezaiifar & Krishnaprasad 1993; Rubinstein, Zibulevsky & Elad 2008; Bruckstein, Elad & Zibulevsky 2008.

extension unmerge_omp_options: Growable {
  package static var defaults: unmerge_omp_options {
    var o = unmerge_omp_options()
    o.struct_size = MemoryLayout<unmerge_omp_options>.size
    o.k = 10
    return o
  }
}

@_cdecl("unmerge_omp_options_init") @implementation
public func unmerge_omp_options_init(_ options: UnsafeMutablePointer<unmerge_omp_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_omp") @implementation
public func unmerge_omp(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_omp_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ order: UnsafeMutablePointer<Int64>?,
  _ reports: UnsafeMutablePointer<unmerge_report>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.k, "options->k", 1...Int64.max, ">= 1")
    try check(o.residual_tol, "options->residual_tol", 0...1, "in [0, 1]")
    try checkFlag(o.positive, "options->positive")
    try checkReserved(o.reserved, "options->reserved")
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    // `order` has k rows, however many atoms there are; what is beyond them is -1.
    let rows = min(Int(o.k), gram.atoms)
    let cells = order == nil ? 0 : try product(Int(o.k), gram.targets, "order")
    let selected = try allocate(product(rows, gram.targets, "order"), of: Int64.self)
    let answers = try Answers(gram.atoms, gram.targets)
    let pursuit = Pursuit(units: Units(gram), k: Int(o.k), residualTol: o.residual_tol, positive: o.positive == 1)
    try pursuit.answer(gram, answers, selected, watch)
    answers.deliver(output, reports)
    guard let order else { return }
    let known = rows * gram.targets
    order.update(from: selected.pointer, count: known)
    if cells > known { (order + known).update(repeating: -1, count: cells - known) }
  }
}
