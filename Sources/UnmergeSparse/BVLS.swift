import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Least squares between bounds
//
//     minimise ½‖Aw − y‖²  subject to  ℓ ≤ w ≤ u
//
// is the elastic net with α = 0 between bounds; `ActiveSet` solves it. An atom at its lower bound has g_j ≤ 0, at its upper
// one g_j ≥ 0, between them g_j = 0. With all bounds finite the gap is Σ max over the box of g_j (x − w_j).
//
// Reference: Stark & Parker 1995.

extension unmerge_bvls_options: Growable {
  package static var defaults: unmerge_bvls_options {
    var o = unmerge_bvls_options()
    o.struct_size = MemoryLayout<unmerge_bvls_options>.size
    return o
  }
}

@_cdecl("unmerge_bvls_options_init") @implementation
public func unmerge_bvls_options_init(
  _ options: UnsafeMutablePointer<unmerge_bvls_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_bvls") @implementation
public func unmerge_bvls(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_bvls_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkFlag(o.warm_start, "options->warm_start")
    try checkReserved(o.reserved, "options->reserved")
    let bounds = try Bounds(o.lower, o.upper, positive: false, count: gram.atoms)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let net = ElasticNet(alpha: 0, l1Ratio: 1, bounds: bounds, warmStart: o.warm_start == 1)
    try net.answer(gram, watch, output).deliver(output, reports)
  }
}
