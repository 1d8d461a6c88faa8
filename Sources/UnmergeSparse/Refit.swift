import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Relaxed coefficients
//
//     w ← (1 − γ) w + γ argmin { ½‖Au − y‖² : u_j = 0 where w_j = 0, ℓ ≤ u ≤ u, optionally sign(u_j) = sign(w_j) or 0 }
//
// γ = 1 takes the shrinkage of any method back, keeping what it selected. `ActiveSet` solves it with everybody else excluded.
//
// References: Meinshausen 2007; Hastie, Tibshirani & Tibshirani 2020.

extension unmerge_refit_options: Growable {
  package static var defaults: unmerge_refit_options {
    var o = unmerge_refit_options()
    o.struct_size = MemoryLayout<unmerge_refit_options>.size
    o.relax = 1
    return o
  }
}

@_cdecl("unmerge_refit_options_init") @implementation
public func unmerge_refit_options_init(
  _ options: UnsafeMutablePointer<unmerge_refit_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_refit") @implementation
public func unmerge_refit(
  _ gram: OpaquePointer?, _ options: UnsafePointer<unmerge_refit_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ coef: UnsafePointer<unmerge_view>?, _ reports: UnsafeMutablePointer<unmerge_report>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let gram = try object(gram, "gram", Gram.self)
    let o = try read(options, "options")
    try check(o.relax, "options->relax", 0...1, "in [0, 1]")
    try checkFlag(o.keep_signs, "options->keep_signs")
    try checkReserved(o.reserved, "options->reserved")
    let n = gram.atoms
    let bounds = try Bounds(o.lower, o.upper, positive: false, count: n)
    let watch = try Watch(run)
    let output = try Output(coef, "coef", rows: n, columns: gram.targets)
    try checkResult(reports, "reports", count: gram.targets)
    let given = try readWarmStart(output, gram)
    let answers = try Answers(n, gram.targets)
    let (relax, keepsSigns) = (o.relax, o.keep_signs == 1)
    try eachTarget(gram, watch) { t throws(UnmergeError) in
      let start = given.pointer + t * n
      let own = keepsSigns ? try bounds.within(signs: start, count: n) : bounds
      let problem = try Quadratic(gram, target: t, alpha: 0, l1Ratio: 1, weights: nil, bounds: own)
      for j in 0..<n where start[j] == 0 { problem.lambda[j] = .infinity }
      let solver = try ActiveSet(problem)
      scaleWarmStart(start, problem, solver.v)
      var end = try solver.run(watch, tol: watch.tol, maxIterations: watch.maxIterations)
      if relax < 1 {
        let outcome = end.outcome
        for j in 0..<n {
          let old = start[j] * (gram.norms[j] / problem.unit)
          solver.v[j] = relax * solver.v[j] + (1 - relax) * old
        }
        problem.gradient(solver.v, solver.g)
        end.certificate = problem.certify(solver.v, solver.g)
        try problem.tighten(&end.certificate, solver.v, solver.g, tol: watch.tol, nil)
        end.outcome = outcome
      }
      let free = try Quadratic(gram, target: t, alpha: 0, l1Ratio: 1, weights: nil, bounds: relax == 1 ? own : .none)
      answers.set(t, free, solver.v, end, watch)
      if relax < 1 {
        for j in 0..<n where gram.norms[j] == 0 || solver.v[j] == start[j] * (gram.norms[j] / free.unit) {
          answers.set(t, j, (1 - relax) * start[j] + (gram.norms[j] > 0 ? relax * start[j] : 0))
        }
      }
    }
    answers.deliver(output, reports)
  }
}
