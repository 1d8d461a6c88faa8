import CUnmerge
import UnmergeLinalg

extension unmerge_report: Growable {
  package static var defaults: unmerge_report {
    var r = unmerge_report()
    r.struct_size = MemoryLayout<unmerge_report>.size
    r.objective = .nan
    r.duality_gap = .nan
    r.relative_gap = .nan
    r.violation = .nan
    r.rss = .nan
    r.yy = .nan
    r.r2 = .nan
    r.condition = .nan
    r.df = .nan
    return r
  }
}

@_cdecl("unmerge_report_init") @implementation
public func unmerge_report_init(_ report: UnsafeMutablePointer<unmerge_report>?, _ size: Int) -> unmerge_status {
  initialize(report, size)
}

@_cdecl("unmerge_run_init") @implementation
public func unmerge_run_init(_ run: UnsafeMutablePointer<unmerge_run>?, _ size: Int) -> unmerge_status {
  initialize(run, size)
}
