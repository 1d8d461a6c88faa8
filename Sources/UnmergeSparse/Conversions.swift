import CUnmerge
import UnmergeCore

// Other tools' penalties as l1 and l2 = α l1_ratio, α (1 − l1_ratio) of
//
//     ½‖Aw − y‖² + l1 ‖w‖₁ + l2/2 ‖w‖²
//
// and back. What differs is the scale of the fit (1, 1/2, 1/(2p)), and for glmnet that it fits y/s, s² = ‖y‖²/p: the l1 part
// scales with y as the fit's slope does and comes out even, the l2 part keeps 1/s.

@_cdecl("unmerge_convert_penalty") @implementation
public func unmerge_convert_penalty(
  _ tool: Int32, _ back: Int32, _ rows: Double, _ yy: Double, _ values: UnsafePointer<Double>?,
  _ result: UnsafeMutablePointer<Double>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let positive = Double.leastNonzeroMagnitude...Double.greatestFiniteMagnitude
    let nonNegative = 0...Double.greatestFiniteMagnitude
    guard UNMERGE_TOOL_SKLEARN...UNMERGE_TOOL_ADELIE_COV ~= tool else {
      throw .range("tool is \(tool); it must be UNMERGE_TOOL_SKLEARN, _RIDGE, _GLMNET, _SPAMS or _ADELIE_COV")
    }
    try checkFlag(back, "back")
    guard let values else { throw .null("values") }
    guard let result else { throw .null("result") }
    let (first, second) = (values[0], values[1])
    try check(first, "values[0]", nonNegative, "finite and >= 0")
    let isPair = tool == UNMERGE_TOOL_SPAMS && back == 0
    try check(second, "values[1]", isPair ? nonNegative : 0...1, isPair ? "finite and >= 0" : "in [0, 1]")
    // l1 and l2 of the tool in units of ours.
    var (scale, ridge) = (1.0, 1.0)
    if tool == UNMERGE_TOOL_SKLEARN || tool == UNMERGE_TOOL_GLMNET {
      try check(rows, "rows", positive, "finite and > 0")
      (scale, ridge) = (rows, rows)
    }
    if tool == UNMERGE_TOOL_GLMNET {
      try check(yy, "yy", positive, "finite and > 0")
      ridge = rows / (yy / rows).squareRoot()
    }
    var parts = (first * second, first * (1 - second))
    if isPair { parts = (first, second) }
    if tool == UNMERGE_TOOL_RIDGE { parts = back == 1 ? (0, parts.1) : (0, first) }
    let (l1, l2) = back == 1 ? (parts.0 / scale, parts.1 / ridge) : (parts.0 * scale, parts.1 * ridge)
    if back == 1, tool == UNMERGE_TOOL_SPAMS {
      (result[0], result[1]) = (l1, l2)
    } else if tool == UNMERGE_TOOL_RIDGE {
      guard back == 0 || second == 0 || first == 0 else {
        throw .range("values[1] is \(second); ridge has no l1 part, l1_ratio must be 0")
      }
      (result[0], result[1]) = (l2, 0)
    } else {
      (result[0], result[1]) = (l1 + l2, l1 + l2 > 0 ? l1 / (l1 + l2) : second)
    }
  }
}
