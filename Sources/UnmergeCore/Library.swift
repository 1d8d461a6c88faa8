import CUnmerge
import UnmergeLinalg

// Constant strings live for the life of the library: StaticString gives their addresses without copies.
private func text(_ s: StaticString) -> UnsafePointer<CChar> {
  UnsafeRawPointer(s.utf8Start).assumingMemoryBound(to: CChar.self)
}

@_cdecl("unmerge_version") @implementation
public func unmerge_version() -> UnsafePointer<CChar>? { text("1.0.0") }

@_cdecl("unmerge_status_name") @implementation
public func unmerge_status_name(_ status: unmerge_status) -> UnsafePointer<CChar>? {
  switch status {
  case UNMERGE_OK: text("UNMERGE_OK")
  case UNMERGE_E_NULL: text("UNMERGE_E_NULL")
  case UNMERGE_E_RANGE: text("UNMERGE_E_RANGE")
  case UNMERGE_E_SHAPE: text("UNMERGE_E_SHAPE")
  case UNMERGE_E_DTYPE: text("UNMERGE_E_DTYPE")
  case UNMERGE_E_NONFINITE: text("UNMERGE_E_NONFINITE")
  case UNMERGE_E_HANDLE: text("UNMERGE_E_HANDLE")
  case UNMERGE_E_VERSION: text("UNMERGE_E_VERSION")
  case UNMERGE_E_MEMORY: text("UNMERGE_E_MEMORY")
  case UNMERGE_E_FORMAT: text("UNMERGE_E_FORMAT")
  case UNMERGE_E_CANCELLED: text("UNMERGE_E_CANCELLED")
  case UNMERGE_E_DEADLINE: text("UNMERGE_E_DEADLINE")
  case UNMERGE_E_INTERNAL: text("UNMERGE_E_INTERNAL")
  case UNMERGE_E_INFEASIBLE: text("UNMERGE_E_INFEASIBLE")
  default: text("unknown status")
  }
}

@_cdecl("unmerge_outcome_name") @implementation
public func unmerge_outcome_name(_ outcome: Int32) -> UnsafePointer<CChar>? {
  switch outcome {
  case UNMERGE_CONVERGED: text("converged")
  case UNMERGE_ITERATION_LIMIT: text("iteration limit")
  case UNMERGE_TIME_LIMIT: text("time limit")
  case UNMERGE_CANCELLED: text("cancelled")
  case UNMERGE_STALLED: text("stalled")
  default: text("unknown outcome")
  }
}

@_cdecl("unmerge_blas_description") @implementation
public func unmerge_blas_description() -> UnsafePointer<CChar>? { Platform.blasDescription }
