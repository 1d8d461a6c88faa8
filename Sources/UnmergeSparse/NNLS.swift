import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Non-negative least squares
//
//     minimise ½‖Aw − y‖²  subject to  w ≥ 0
//
// is the elastic net with α = 0 and v ≥ 0; `ActiveSet` solves it. An atom outside has g_j ≤ 0 up to the resolution of the
// Gram, an atom inside g_j = 0. With p_j = g_j where v_j > 0 and max(g_j, 0) elsewhere, F(v) − F* ≤ ½ pᵀĜ⁻¹p.
//
// References: Lawson & Hanson 1974, ch. 23; Bro & De Jong 1997 (from the Gram); Kim & Park 2011.

extension unmerge_nnls_options: Growable {
  package static var defaults: unmerge_nnls_options {
    var o = unmerge_nnls_options()
    o.struct_size = MemoryLayout<unmerge_nnls_options>.size
    return o
  }
}

@_cdecl("unmerge_nnls_options_init") @implementation
public func unmerge_nnls_options_init(
  _ options: UnsafeMutablePointer<unmerge_nnls_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_nnls") @implementation
public func unmerge_nnls(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_nnls_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let options = try read(options, "options")
    try checkFlag(options.warm_start, "options->warm_start")
    try checkReserved(options.reserved, "options->reserved")
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let net = ElasticNet(alpha: 0, l1Ratio: 1, bounds: .positive, warmStart: options.warm_start == 1)
    try net.answer(gram, watch, output).deliver(output, reports)
  }
}
