import CUnmerge
import UnmergeCore
import UnmergeLinalg

extension NMF {
  package func transform(_ x: View, _ watch: Watch, _ codes: Output) throws(UnmergeError) -> unmerge_report {
    let data = DataMatrix(view: x, threads: watch.threads, hasMissing: options.hasMissing)
    let summary = try data.summary()
    if !options.w.isSigned { try data.checkNonnegative(summary.least, options.remedy) }
    let k = components
    // The model of this data with W held: codes may be of any size and sparsity.
    var free = options
    free.h.isUnit = false
    free.sparsityH = 0
    free.sparsityW = 0
    let other = try NMF(free, rows: rows, columns: x.columns, components: k)
    other.w.assign(w)
    let work = try Work(other, data, watch.threads, squares: summary.squares, sum: summary.sum)
    let level = max(summary.sum, 0) / max(Double(x.rows) * Double(x.columns), 1) / Double(k)
    for i in 0..<other.h.values.count { other.h.values[i] = level }
    var outcome = UNMERGE_ITERATION_LIMIT
    var iterations = 0
    w.gram(into: work.gram)
    free.h.add(to: work.gram, k)
    while iterations < watch.maxIterations {
      if let stop = watch.poll() {
        outcome = stop.outcome
        break
      }
      let moved: Double
      if options.loss == .kl {
        let m = try other.divergenceStep(other.h, w, data.transposed, work.productH, free.h)
        moved = summary.sum > 0 ? m / summary.sum : 0
      } else {
        if iterations == 0 || data.hasMissing {
          try data.transposed.multiply(w, into: work.productH, work.entry(other.h, w))
        }
        let m = try work.stepH.minimise(other.h, work.productH, work.gram, free.h)
        moved = summary.squares > 0 ? (m / summary.squares).squareRoot() : 0
      }
      iterations += 1
      let isExact = options.loss == .frobenius && !data.hasMissing
      if isExact || moved <= watch.tol {
        outcome = UNMERGE_CONVERGED
        break
      }
    }
    var report = try other.certificate(work, codesOnly: true)
    for t in 0..<x.columns { for l in 0..<k { codes.set(l, t, other.h.values[l * x.columns + t]) } }
    report.outcome = outcome
    report.iterations = Int64(iterations)
    report.seconds = watch.seconds
    return report
  }
}
