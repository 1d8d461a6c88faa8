import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Attribution by similarity: each atom by itself,
//
//     raw  ⟨a_j, y⟩     cosine  ⟨a_j, y⟩ / (‖a_j‖ ‖y‖)     projection  ⟨a_j, y⟩ / ‖a_j‖²
//
// or all of them together (joint: the orthogonal projection on their span, which is least squares). For orthonormal atoms
// and ‖y‖ = 1 the four agree. The first three are not a joint fit and have no certificate.

extension unmerge_dot_options: Growable {
  package static var defaults: unmerge_dot_options {
    var o = unmerge_dot_options()
    o.struct_size = MemoryLayout<unmerge_dot_options>.size
    return o
  }
}

@_cdecl("unmerge_dot_options_init") @implementation
public func unmerge_dot_options_init(_ options: UnsafeMutablePointer<unmerge_dot_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_dot") @implementation
public func unmerge_dot(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_dot_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try checkReserved(o.reserved, "options->reserved")
    guard UNMERGE_DOT_RAW...UNMERGE_DOT_JOINT ~= o.variant else {
      throw .range(
        "options->variant is \(o.variant); it must be UNMERGE_DOT_RAW, _COSINE, _PROJECTION or _JOINT")
    }
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: gram.atoms, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    if o.variant == UNMERGE_DOT_JOINT {
      try leastSquares(gram, alpha: 0, weights: nil, watch).deliver(output, reports)
    } else {
      try similarities(gram, o.variant, watch).deliver(output, reports)
    }
  }
}

private func similarities(_ gram: Gram, _ variant: Int32, _ watch: Watch) throws(UnmergeError) -> Answers {
  let answers = try Answers(gram.atoms, gram.targets)
  for t in 0..<gram.targets {
    let c = gram.correlation(t)
    let yNorm = gram.targetNorms[t]
    var nonzeros = 0
    for j in 0..<gram.atoms where c[j] != 0 {
      let d = gram.norms[j]
      answers.set(
        t, j, variant == UNMERGE_DOT_RAW ? c[j] * d * yNorm : variant == UNMERGE_DOT_COSINE ? c[j] : c[j] * (yNorm / d))
      nonzeros += 1
    }
    var end = Ending()
    end.certificate.objective = .nan
    end.certificate.rss = .nan
    end.certificate.violation = .nan
    answers.set(t, report: report(end, gram, target: t, nonzeros: nonzeros, watch))
  }
  return answers
}
