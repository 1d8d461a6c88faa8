import CUnmerge
import Testing
import UnmergeLinalg

@testable import UnmergeCore
@testable import UnmergeSparse

/// α as fractions of α_max, with every combination the elastic net has.
private let nets: [Net] = {
  var list: [Net] = []
  for alpha in [0.5, 0.1, 1e-3] {
    for l1Ratio in [1.0, 0.5, 0.01] {
      for positive in [false, true] { list.append(Net(alpha: alpha, l1Ratio: l1Ratio, positive: positive)) }
    }
  }
  return list
}()

private func absolute(_ net: Net, _ g: TestGram) -> Net {
  var net = net
  net.alpha *= alphaMax(g, l1Ratio: net.l1Ratio, positive: net.positive)[0]
  return net
}

@Suite struct SparseLaws {
  /// The report is what its definition says at the returned coefficients, from the data.
  @Test(arguments: problems + deficient, nets)
  func solutionsAreOptimalAndReportsTrue(_ data: Sample, _ relative: Net) throws {
    let g = try TestGram(data)
    let net = absolute(relative, g)
    let a = net.solve(g)
    let w = a.coef
    #expect(a.status == UNMERGE_OK)
    #expect(a.report.outcome == UNMERGE_CONVERGED)
    #expect(net.violation(data, w) < 1e-11)
    #expect(a.report.violation < 1e-12)
    #expect(a.report.relative_gap >= 0 && a.report.relative_gap <= 1e-10)
    let f = net.objective(data, w)
    let yy = data.targetNorm(0) * data.targetNorm(0)
    #expect(abs(a.report.objective - f) < 1e-12 * yy)
    #expect(abs(a.report.rss - data.rss(w)) < 1e-12 * yy)
    #expect(abs(a.report.yy - yy) < 1e-13 * yy)
    #expect(abs(a.report.r2 - (1 - data.rss(w) / yy)) < 1e-11)
    #expect(a.report.nonzeros == Int64(w.filter { $0 != 0 }.count))
    if net.positive { #expect(w.allSatisfy { $0 >= 0 }) }
    // No better point nearby: the objective is convex.
    var random = Draws(99)
    for _ in 0..<20 {
      var other = w
      for j in 0..<data.n { other[j] += 1e-4 * random.normal() / data.norm(j) * data.targetNorm(0) }
      if net.positive { other = other.map { max(0, $0) } }
      #expect(net.objective(data, other) >= f - 1e-13 * yy)
    }
  }

  @Test(arguments: problems + deficient)
  func nnlsIsOptimal(_ data: Sample) throws {
    let g = try TestGram(data)
    let a = nnls(g)
    #expect(a.report.outcome == UNMERGE_CONVERGED)
    #expect(a.coef.allSatisfy { $0 >= 0 })
    #expect(Net(positive: true).violation(data, a.coef) < 1e-11)
    #expect(abs(a.report.objective - 0.5 * data.rss(a.coef)) < 1e-12 * a.report.yy)
    if g.gram.condition < 1e8 { #expect(a.report.duality_gap >= 0 && a.report.relative_gap < 1e-10) }
  }

  /// The gap bounds the distance to the optimum at any point, not only at the end.
  @Test(arguments: problems, [Net(alpha: 0.2), Net(alpha: 0.2, l1Ratio: 0.5, positive: true), Net(positive: true)])
  func theGapOfAnyPointIsABound(_ data: Sample, _ relative: Net) throws {
    let g = try TestGram(data)
    let net = absolute(relative, g)
    let best = net.objective(data, net.solve(g).coef)
    var random = Draws(5)
    for _ in 0..<10 {
      let w = (0..<data.n).map { j in
        let x = random.normal() * data.targetNorm(0) / data.norm(j)
        return random.uniform() < 0.5 ? 0 : net.positive ? abs(x) : x
      }
      let a = net.solve(g, start: w) { $0.max_iter = 0 }
      #expect(a.report.iterations == 0)
      #expect(distance(a.coef, w) <= 1e-12 * (w.map(abs).max() ?? 0))
      let excess = net.objective(data, w) - best
      if excess > 1e-6 * best { #expect(a.report.outcome == UNMERGE_ITERATION_LIMIT) }
      #expect(a.report.duality_gap >= excess * (1 - 1e-9) - 1e-13 * a.report.yy)
    }
  }

  @Test(arguments: problems, nets)
  func aSolutionIsAFixedPoint(_ data: Sample, _ relative: Net) throws {
    let g = try TestGram(data)
    let net = absolute(relative, g)
    let first = net.solve(g)
    let again = net.solve(g, start: first.coef)
    #expect(again.report.iterations <= 1)
    #expect(again.report.outcome == UNMERGE_CONVERGED)
    let scale = first.coef.map(abs).max() ?? 0
    #expect(distance(first.coef, again.coef) <= 1e-9 * scale)
  }

  /// However few iterations, the answer is no worse than the start, and never worse than with fewer.
  @Test(arguments: problems, [Net(alpha: 0.01), Net(alpha: 0.01, l1Ratio: 0.3, positive: true)])
  func moreIterationsAreNeverWorse(_ data: Sample, _ relative: Net) throws {
    let g = try TestGram(data)
    let net = absolute(relative, g)
    var last = Double.infinity
    for limit in 0..<12 {
      let a = net.solve(g) { $0.max_iter = Int64(limit) }
      #expect(a.report.iterations <= Int64(limit))
      let f = net.objective(data, a.coef)
      #expect(f <= last + 1e-13 * a.report.yy)
      last = f
    }
  }

  /// w(s A, t y) with α scaled by s t is (t/s) w(A, y): to 1e±30 and beyond.
  @Test(arguments: nets, [(1e30, 1e-30), (1e-30, 1e30), (1e-60, 1e-60), (1e60, 1.0)])
  func scalesDropOut(_ relative: Net, _ scale: (Double, Double)) throws {
    let data = problems[2]
    let g = try TestGram(data)
    let net = absolute(relative, g)
    let plain = net.solve(g).coef
    let moved = try TestGram(data.scaled(atoms: scale.0, targets: scale.1))
    var same = net
    // α l1 scales with s t, α (1 − l1) with s².
    let l1 = net.alpha * net.l1Ratio * scale.0 * scale.1
    let l2 = net.alpha * (1 - net.l1Ratio) * scale.0 * scale.0
    guard l1 + l2 < .infinity else { return }
    same.alpha = l1 + l2
    same.l1Ratio = l1 / (l1 + l2)
    let b = same.solve(moved)
    #expect(b.report.outcome == UNMERGE_CONVERGED)
    // l1_ratio next to 0 or 1 rounds the smaller penalty away when the scales are far apart.
    guard same.l1Ratio > 1e-6, 1 - same.l1Ratio > 1e-6 || net.l1Ratio == 1 else { return }
    #expect(distance(plain, b.coef.map { $0 * scale.0 / scale.1 }) < 1e-9)
  }

  @Test(arguments: problems, [Net(alpha: 0.1), Net(alpha: 0.1, l1Ratio: 0.5), Net(alpha: 0.1, positive: true)])
  func orderAndSignsOfAtomsDoNotMatter(_ data: Sample, _ relative: Net) throws {
    let g = try TestGram(data)
    let net = absolute(relative, g)
    let w = net.solve(g).coef
    var other = data
    other.atoms.reverse()
    #expect(distance(try net.solve(TestGram(other)).coef.reversed(), w) <= 1e-7 * (w.map(abs).max() ?? 0))
    if net.positive { return }
    other = data
    other.atoms[0] = other.atoms[0].map { -$0 }
    var expected = w
    expected[0] = -w[0]
    #expect(distance(try net.solve(TestGram(other)).coef, expected) <= 1e-7 * (w.map(abs).max() ?? 0))
  }
}

@Suite struct SparseLimits {
  let data = Sample.orthonormal(rows: 30, n: 8, seed: 3)

  @Test func orthonormalAtomsHaveClosedForms() throws {
    let g = try TestGram(data)
    let c = data.atoms.map { dot($0, data.targets[0]) }
    func soft(_ x: Double, _ l: Double) -> Double { x > l ? x - l : x < -l ? x + l : 0 }
    for alpha in [0.1, 0.5, 1.0] {
      #expect(distance(Net(alpha: alpha).solve(g).coef, c.map { soft($0, alpha) }) < 1e-13)
      #expect(distance(Net(alpha: alpha, positive: true).solve(g).coef, c.map { max(0, $0 - alpha) }) < 1e-13)
      #expect(
        distance(Net(alpha: alpha, l1Ratio: 0.3).solve(g).coef, c.map { soft($0, 0.3 * alpha) / (1 + 0.7 * alpha) }) < 1e-13)
      #expect(distance(ridge(g, alpha: alpha).coef, c.map { $0 / (1 + alpha) }) < 1e-13)
    }
    #expect(distance(nnls(g).coef, c.map { max(0, $0) }) < 1e-13)
    for variant in [UNMERGE_DOT_RAW, UNMERGE_DOT_PROJECTION, UNMERGE_DOT_JOINT] {
      #expect(distance(similarity(g, variant).coef, c) < 1e-13)
    }
    let order = (0..<8).sorted { abs(c[$0]) > abs(c[$1]) }
    let a = omp(g, k: 3)
    #expect(a.order.map(Int.init) == Array(order.prefix(3)))
    #expect(distance(a.coef, (0..<8).map { order.prefix(3).contains($0) ? c[$0] : 0 }) < 1e-13)
  }

  /// Unit atoms with cosine ρ, both active and positive: w = (c − α) / (1 + ρ) for equal c; with one dominating, the other
  /// is 0.
  @Test func twoAtomsHaveAClosedForm() throws {
    let rho = 0.6
    let a = [1.0, 0, 0]
    let b = [rho, (1 - rho * rho).squareRoot(), 0]
    for (c1, c2, alpha) in [(1.0, 0.9, 0.2), (1.0, 0.3, 0.2), (1.0, -0.8, 0.1)] {
      // y with the given correlations.
      let y = [c1, (c2 - rho * c1) / (1 - rho * rho).squareRoot(), 0.5]
      let g = try TestGram(Sample(name: "", rows: 3, atoms: [a, b], targets: [y]))
      let w = Net(alpha: alpha).solve(g).coef
      let s1 = c1 > 0 ? 1.0 : -1.0
      let s2 = c2 > 0 ? 1.0 : -1.0
      let both = [
        ((c1 - alpha * s1) - rho * (c2 - alpha * s2)) / (1 - rho * rho),
        ((c2 - alpha * s2) - rho * (c1 - alpha * s1)) / (1 - rho * rho),
      ]
      let expected = both[0] * s1 > 0 && both[1] * s2 > 0 ? both : [c1 - alpha * s1, 0]
      #expect(distance(w, expected) < 1e-14)
    }
  }

  @Test(arguments: problems)
  func limitsMeet(_ data: Sample) throws {
    let g = try TestGram(data)
    let largest = alphaMax(g)[0]
    let scale = (0..<data.n).map { data.targetNorm(0) / data.norm($0) }
    func close(_ a: [Double], _ b: [Double], _ tol: Double) -> Bool {
      (0..<data.n).allSatisfy { abs(a[$0] - b[$0]) <= tol * scale[$0] * max(1, g.gram.condition.squareRoot()) }
    }
    // α_max: exact zeros there, some coefficient just below.
    let zero = Net(alpha: largest).solve(g)
    #expect(zero.coef.allSatisfy { $0 == 0 } && zero.report.duality_gap == 0)
    #expect(Net(alpha: largest * 0.999).solve(g).coef.contains { $0 != 0 })
    #expect(Net(alpha: 1, relative: true).solve(g).coef.allSatisfy { $0 == 0 })
    #expect(Net(alpha: 0.3, relative: true).solve(g).coef == Net(alpha: 0.3 * largest).solve(g).coef)
    // LASSO → least squares as α → 0, and is it at 0.
    let ls = ridge(g, alpha: 0).coef
    #expect(close(Net(alpha: 0).solve(g).coef, ls, 0))
    let least = (0..<data.n).map { data.norm($0) * data.targetNorm(0) }.min() ?? 1
    #expect(close(Net(alpha: 1e-13 * least).solve(g).coef, ls, 1e-9))
    #expect(close(similarity(g, UNMERGE_DOT_JOINT).coef, ls, 0))
    // Ridge is the elastic net without its l1 term; its normal equations hold.
    let alpha = 0.1 * data.norm(0) * data.norm(0)
    let r = ridge(g, alpha: alpha)
    #expect(close(Net(alpha: alpha, l1Ratio: 0).solve(g).coef, r.coef, 0))
    #expect(Net(alpha: alpha, l1Ratio: 0).violation(data, r.coef) < 1e-12)
    // Signs that do not bind do not matter.
    let positive = Net(alpha: 0.05 * largest, positive: true)
    let free = Net(alpha: 0.05 * largest).solve(g).coef
    if free.allSatisfy({ $0 >= 0 }) { #expect(close(positive.solve(g).coef, free, 1e-10)) }
    if ls.allSatisfy({ $0 > 0 }) { #expect(close(nnls(g).coef, ls, 1e-10)) }
    #expect(close(nnls(g).coef, Net(alpha: 0, positive: true).solve(g).coef, 0))
    // All atoms selected: least squares.
    #expect(close(omp(g, k: data.n).coef, ls, 1e-8))
  }

  /// The best non-negative fit over all 2^n supports.
  @Test(arguments: (0..<20).map { UInt64($0) })
  func nnlsIsBestOfAllSupports(_ seed: UInt64) throws {
    let n = 3 + Int(seed % 6)
    let data = Sample.random("", rows: 2 * n + 4, n: n, common: Double(seed % 3), noise: 1, active: n, seed: 100 + seed)
    var best = dot(data.targets[0], data.targets[0])
    var bestW = [Double](repeating: 0, count: n)
    for mask in 1..<(1 << n) {
      let support = (0..<n).filter { mask >> $0 & 1 == 1 }
      guard let w = naiveLeastSquares(data, support), w.allSatisfy({ $0 >= 0 }) else { continue }
      if data.rss(w) < best {
        best = data.rss(w)
        bestW = w
      }
    }
    let a = try nnls(TestGram(data))
    #expect(distance(a.coef, bestW) < 1e-10)
    #expect(zip(a.coef, bestW).allSatisfy { ($0 == 0) == ($1 == 0) })
  }

  @Test(arguments: problems, [(1.0, false), (0.5, false), (1.0, true)])
  func aPathIsItsPoints(_ data: Sample, _ kind: (Double, Bool)) throws {
    let g = try TestGram(data)
    let (alphas, a) = path(g, l1Ratio: kind.0, positive: kind.1)
    let largest = alphaMax(g, l1Ratio: kind.0, positive: kind.1)[0]
    #expect(abs(alphas[0] - largest) <= 1e-15 * largest && abs(alphas[19] - 1e-3 * largest) <= 1e-12 * largest)
    for i in 0..<20 {
      #expect(a.reports[i].outcome == UNMERGE_CONVERGED)
      let net = Net(alpha: alphas[i], l1Ratio: kind.0, positive: kind.1)
      #expect(net.violation(data, a.column(i, data.n)) < 1e-11)
      let single = net.solve(g)
      for j in 0..<data.n {
        let unit = data.targetNorm(0) / data.norm(j) * g.gram.condition.squareRoot()
        #expect(abs(a.column(i, data.n)[j] - single.coef[j]) <= 1e-11 * unit)
      }
    }
    // Any order in, the same order out.
    let shuffled = [alphas[7], alphas[2], 0, alphas[11], alphas[2], 2 * largest]
    let (given, b) = path(g, alphas: shuffled, l1Ratio: kind.0, positive: kind.1)
    #expect(given == shuffled)
    for (i, alpha) in shuffled.enumerated() {
      let net = Net(alpha: alpha, l1Ratio: kind.0, positive: kind.1)
      #expect(net.violation(data, b.column(i, data.n)) < 1e-10)
    }
    #expect(b.column(5, data.n).allSatisfy { $0 == 0 })
  }

  /// rss grows and ‖w‖₁ shrinks with α.
  @Test(arguments: problems)
  func pathsAreMonotone(_ data: Sample) throws {
    let (_, a) = try path(TestGram(data), count: 40)
    let norms = (0..<40).map { a.column($0, data.n).reduce(0) { $0 + abs($1) } }
    for i in 1..<40 {
      #expect(a.reports[i].rss <= a.reports[i - 1].rss + 1e-12 * a.reports[0].yy)
      #expect(norms[i] >= norms[i - 1] * (1 - 1e-9))
    }
  }

  @Test func unpenalisedAtomsAreFitted() throws {
    let data = problems[2]
    let g = try TestGram(data)
    var weights = [Double](repeating: 1, count: data.n)
    weights[3] = 0
    weights[8] = 0
    weights[4] = 2.5
    for positive in [false, true] {
      let largest = alphaMax(g, positive: positive, weights: weights)[0]
      // α_max is where the others leave: checked by fitting the two alone.
      let above = Net(alpha: largest * 1.000001, positive: positive, weights: weights).solve(g)
      #expect(above.report.outcome == UNMERGE_CONVERGED)
      #expect((0..<data.n).allSatisfy { above.coef[$0] == 0 || weights[$0] == 0 })
      if !positive, let alone = naiveLeastSquares(data, [3, 8]) { #expect(distance(alone, above.coef) < 1e-12) }
      let below = Net(alpha: largest * 0.99, positive: positive, weights: weights).solve(g)
      #expect((0..<data.n).contains { below.coef[$0] != 0 && weights[$0] > 0 })
      let net = Net(alpha: 0.1 * largest, l1Ratio: 0.7, positive: positive, weights: weights)
      let a = net.solve(g)
      #expect(a.report.outcome == UNMERGE_CONVERGED && net.violation(data, a.coef) < 1e-12)
    }
  }
}

@Suite struct SparsePursuit {
  /// Forward selection by the definition: least squares on the selection, largest |a_jᵀr| / ‖a_j‖ next.
  private func naive(_ data: Sample, _ k: Int, positive: Bool) -> (order: [Int], coef: [Double]) {
    var order: [Int] = []
    var w = [Double](repeating: 0, count: data.n)
    for _ in 0..<k {
      let r = data.residual(w)
      let scores = (0..<data.n).map { j in
        let s = dot(data.atoms[j], r) / data.norm(j)
        return order.contains(j) ? -1 : positive ? s : abs(s)
      }
      guard let j = (0..<data.n).max(by: { scores[$0] < scores[$1] }), scores[j] > 0 else { break }
      order.append(j)
      var best = Double.infinity
      for mask in 1..<(1 << order.count) where positive || mask == (1 << order.count) - 1 {
        let s = order.indices.filter { mask >> $0 & 1 == 1 }.map { order[$0] }
        guard let x = naiveLeastSquares(data, s), !positive || x.allSatisfy({ $0 >= 0 }) else { continue }
        if data.rss(x) < best {
          best = data.rss(x)
          w = x
        }
      }
    }
    return (order, w)
  }

  @Test(arguments: problems, [false, true])
  func selectsAsTheDefinition(_ data: Sample, _ positive: Bool) throws {
    let k = min(5, data.n)
    let expected = naive(data, k, positive: positive)
    let a = try omp(TestGram(data), k: k, positive: positive)
    #expect(a.order.filter { $0 >= 0 }.map(Int.init) == expected.order)
    for j in 0..<data.n { #expect(abs(a.coef[j] - expected.coef[j]) < 1e-9 * data.targetNorm(0) / data.norm(j)) }
    #expect(a.report.violation < 1e-12 && a.report.duality_gap.isNaN)
    #expect(abs(a.report.rss - data.rss(a.coef)) < 1e-12 * a.report.yy)
    #expect(a.report.iterations == Int64(expected.order.count))
  }

  @Test func ties() throws {
    // Equal correlations: the lower index; a copy of a selected atom: passed over.
    let e = (0..<4).map { i in (0..<4).map { $0 == i ? 1.0 : 0 } }
    let data = Sample(name: "", rows: 4, atoms: [e[2], e[0], e[2], e[1]], targets: [[1, 1, 1, 0]])
    for positive in [false, true] {
      let a = try omp(TestGram(data), k: 4, positive: positive)
      #expect(a.order == [0, 1, 3, -1])
      #expect(a.coef == [1, 1, 0, 1])
      #expect(a.report.flags & UNMERGE_FLAG_FULLY_EXPLAINED != 0)
    }
  }

  @Test(arguments: [Precision.exact, .fast])
  func planted(_ precision: Precision) throws {
    let data = Sample.random("", rows: 80, n: 30, noise: 0, nonnegative: true, active: 4, seed: 41)
    let g = try TestGram(data, precision: precision)
    for a in [omp(g, k: 12), omp(g, k: 12, positive: true), nnls(g)] {
      #expect(Set((0..<30).filter { a.coef[$0] != 0 }) == [0, 7, 14, 21])
      #expect(a.report.flags & UNMERGE_FLAG_FULLY_EXPLAINED != 0)
      #expect(a.report.outcome == UNMERGE_CONVERGED)
      #expect(data.rss(a.coef) < 1e-24 * a.report.yy)
    }
  }

  /// A fast Gram errs by 2e-8: its errors are not atoms.
  @Test(arguments: (0..<10).map { UInt64($0) })
  func entryErrorsOfAFastGramAreNotSelected(_ seed: UInt64) throws {
    let data = Sample.random("", rows: 200, n: 40, noise: 0, nonnegative: true, active: 5, seed: 300 + seed)
    let exact = try TestGram(data).gram
    var random = Draws(seed)
    let n = 40
    let g = try Buffer<Double>(n * n)
    let c = try Buffer<Double>(n)
    let yy = try Buffer<Double>(1)
    yy[0] = exact.targetNorms[0] * exact.targetNorms[0]
    for i in 0..<n {
      for j in 0...i {
        let error = i == j ? 0 : 1e-8 * (2 * random.uniform() - 1)
        g[i * n + j] = (exact.column(i)[j] + error) * exact.norms[i] * exact.norms[j]
      }
      let error = 1e-8 * (2 * random.uniform() - 1)
      c[i] = (exact.correlation(0)[i] + error) * exact.norms[i] * exact.targetNorms[0]
    }
    let block = try Block(module: ModuleName(""), fold: 0, entries: 200, g: g, c: c, yy: yy)
    let fast = try TestGram(Gram(atoms: n, targets: 1, blocks: [block], precision: .fast, passes: 1))
    for a in [nnls(fast), omp(fast, k: 20), omp(fast, k: 20, positive: true)] {
      #expect(Set((0..<n).filter { a.coef[$0] != 0 }) == Set((0..<5).map { $0 * 7 }))
      // What is left out violates by the Gram's error, and the outcome says whether that is within tol.
      let r = a.report
      let measure = r.relative_gap.isNaN ? r.violation : r.relative_gap
      #expect(r.outcome == (measure <= 1e-10 ? UNMERGE_CONVERGED : UNMERGE_STALLED))
      #expect(r.violation < 1e-7)
    }
  }

  @Test func residualTolStops() throws {
    let data = problems[2]
    let g = try TestGram(data)
    let all = omp(g, k: 20)
    for tol in [1.0, 0.5, 0.3, 0.1] {
      let a = omp(g, k: 20, residualTol: tol)
      let count = Int(a.report.iterations)
      #expect(Array(a.order.prefix(count)) == Array(all.order.prefix(count)))
      let relative = (data.rss(a.coef) / a.report.yy).squareRoot()
      #expect(relative <= tol)
      // One atom less would not do.
      if count > 0 {
        let fewer = omp(g, k: count - 1 > 0 ? count - 1 : 1)
        #expect(count == 1 || (data.rss(fewer.coef) / a.report.yy).squareRoot() > tol)
      }
    }
  }
}

@Suite struct SparseSimilarity {
  @Test(arguments: problems)
  func matchTheirDefinitions(_ data: Sample) throws {
    let g = try TestGram(data)
    for j in 0..<data.n {
      let raw = dot(data.atoms[j], data.targets[0])
      let d = data.norm(j)
      let size = d * data.targetNorm(0)
      #expect(abs(similarity(g, UNMERGE_DOT_RAW).coef[j] - raw) <= 1e-14 * size)
      #expect(abs(similarity(g, UNMERGE_DOT_COSINE).coef[j] - raw / size) <= 1e-14)
      #expect(abs(similarity(g, UNMERGE_DOT_PROJECTION).coef[j] - raw / d / d) <= 1e-14 * size / d / d)
    }
    let r = similarity(g, UNMERGE_DOT_COSINE).report
    #expect(r.objective.isNaN && r.rss.isNaN && r.duality_gap.isNaN && r.outcome == UNMERGE_CONVERGED)
  }
}

@Suite struct SparseDegenerateInputs {
  private func all(_ g: TestGram) -> [(String, Answer)] {
    [
      ("nnls", nnls(g)), ("lasso", Net(alpha: 0.1, relative: true).solve(g)),
      ("positive lasso", Net(alpha: 0.1, positive: true, relative: true).solve(g)),
      ("elastic net", Net(alpha: 0.1, l1Ratio: 0.5, relative: true).solve(g)), ("ridge", ridge(g, alpha: 1)),
      ("least squares", ridge(g, alpha: 0)), ("joint", similarity(g, UNMERGE_DOT_JOINT)), ("omp", omp(g, k: 3)),
      ("positive omp", omp(g, k: 3, positive: true)), ("positive ridge", Net(alpha: 1, l1Ratio: 0, positive: true).solve(g)),
    ]
  }

  @Test func aZeroTarget() throws {
    var data = problems[1]
    data.targets[0] = [Double](repeating: 0, count: data.rows)
    for (name, a) in all(try TestGram(data)) {
      #expect(a.status == UNMERGE_OK, "\(name)")
      #expect(a.coef.allSatisfy { $0 == 0 } && a.report.outcome == UNMERGE_CONVERGED, "\(name)")
      #expect(a.report.r2 == 0 && a.report.violation == 0 && a.report.objective == 0, "\(name)")
    }
    #expect(try alphaMax(TestGram(data)) == [0])
    #expect(try path(TestGram(data)).answer.coef.allSatisfy { $0 == 0 })
  }

  @Test func aZeroAtom() throws {
    var data = problems[2]
    let without = Sample(name: "", rows: data.rows, atoms: Array(data.atoms.dropFirst()), targets: data.targets)
    data.atoms[0] = [Double](repeating: 0, count: data.rows)
    for ((name, a), (_, b)) in zip(all(try TestGram(data)), all(try TestGram(without))) {
      #expect(a.coef[0] == 0 && a.report.flags & UNMERGE_FLAG_ZERO_ATOM != 0, "\(name)")
      #expect(distance(Array(a.coef.dropFirst()), b.coef) < 1e-12, "\(name)")
      #expect(a.report.outcome == UNMERGE_CONVERGED, "\(name)")
    }
  }

  @Test func nothingButZeros() throws {
    let data = Sample(name: "", rows: 4, atoms: [[0, 0, 0, 0], [0, 0, 0, 0]], targets: [[1, 2, 3, 4]])
    for (name, a) in all(try TestGram(data)) {
      #expect(a.coef == [0, 0] && a.report.outcome == UNMERGE_CONVERGED, "\(name)")
      #expect(abs(a.report.rss - 30) < 1e-12, "\(name)")
    }
  }

  @Test func noAtomsAndNoTargets() throws {
    let data = Sample(name: "", rows: 3, atoms: [], targets: [[1, 2, 2]])
    for (name, a) in all(try TestGram(data)) {
      #expect(a.status == UNMERGE_OK && abs(a.report.rss - 9) < 1e-12, "\(name)")
    }
    for (name, a) in all(try TestGram(Sample(name: "", rows: 2, atoms: [[1, 0]], targets: []))) {
      #expect(a.status == UNMERGE_OK, "\(name)")
    }
  }

  @Test(arguments: deficient)
  func dependentAtomsAreDefined(_ data: Sample) throws {
    let g = try TestGram(data)
    for (name, a) in all(g) {
      #expect(a.status == UNMERGE_OK && a.coef.allSatisfy { $0.isFinite }, "\(name)")
      #expect(a.report.outcome == UNMERGE_CONVERGED, "\(name) \(a.report.violation) \(a.report.relative_gap)")
    }
    // Least squares: the fit is that of an independent subset, dependent atoms are exactly 0.
    let ls = ridge(g, alpha: 0)
    #expect(ls.report.flags & UNMERGE_FLAG_RANK_DEFICIENT != 0)
    #expect(Net().violation(data, ls.coef) < 1e-12)
    #expect(ls.coef.filter { $0 != 0 }.count == min(data.rows, data.n - 1 + (data.rows < data.n ? 1 : 0)))
    // The support of an l1 or sign-constrained solution is independent.
    for a in [nnls(g), Net(alpha: 0.01, relative: true).solve(g)] {
      #expect(naiveLeastSquares(data, (0..<data.n).filter { a.coef[$0] != 0 }) != nil)
    }
  }

  @Test func twins() throws {
    let data = deficient[0]
    let g = try TestGram(data)
    // Ridge shares, l1 and OMP take one, both say so.
    let shared = ridge(g, alpha: 1).coef
    #expect(abs(shared[0] - shared[4]) < 1e-12)
    let net = Net(alpha: 1, l1Ratio: 0.5).solve(g)
    #expect(abs(net.coef[0] - net.coef[4]) < 1e-9 && net.report.flags & UNMERGE_FLAG_RANK_DEFICIENT == 0)
    let lasso = Net(alpha: 0.1, relative: true).solve(g)
    #expect((lasso.coef[0] == 0) != (lasso.coef[4] == 0))
    #expect(lasso.report.flags & UNMERGE_FLAG_RANK_DEFICIENT != 0)
    let start = nnls(g, start: [0.3, 0.1, 0.1, 0.1, 0.4, 0.1])
    #expect(start.coef[0] == 0 || start.coef[4] == 0)
    let a = omp(g, k: 6)
    #expect(a.report.flags & UNMERGE_FLAG_CLIPPED != 0 && a.coef[4] == 0 && a.report.iterations == 5)
  }

  @Test func kIsClipped() throws {
    let data = problems[1]
    let a = try omp(TestGram(data), k: 9)
    #expect(a.report.flags & UNMERGE_FLAG_CLIPPED != 0)
    #expect(a.order.suffix(4) == [-1, -1, -1, -1])
    #expect(Set(a.order.prefix(5)) == [0, 1, 2, 3, 4])
  }

  @Test func hugePenalties() throws {
    let g = try TestGram(problems[1].scaled(atoms: 1e-120, targets: 1e-120))
    for net in [Net(alpha: 1e308), Net(alpha: 1e308, l1Ratio: 0), Net(alpha: 1e308, l1Ratio: 0.5, positive: true)] {
      let a = net.solve(g)
      #expect(a.coef.allSatisfy { $0 == 0 } && a.report.outcome == UNMERGE_CONVERGED)
      #expect(!a.report.objective.isNaN && a.report.duality_gap == 0)
    }
  }
}

@Suite struct SparseRuns {
  @Test func targetsDoNotMeet() throws {
    let data = Sample.random("", rows: 60, n: 30, targets: 7, noise: 1, active: 9, seed: 77)
    let g = try TestGram(data)
    let calls: [(String, (TestGram, Int32) -> Answer)] = [
      ("nnls", { g, threads in nnls(g) { $0.threads = threads } }),
      ("lasso", { g, threads in Net(alpha: 0.03, relative: true).solve(g) { $0.threads = threads } }),
      ("ridge", { g, _ in ridge(g, alpha: 1) }),
      ("omp", { g, threads in omp(g, k: 5) { $0.threads = threads } }),
    ]
    for (name, call) in calls {
      let one = call(g, 1)
      #expect(call(g, 4).coef == one.coef, "\(name)")
      for t in 0..<7 {
        let alone = try TestGram(Sample(name: "", rows: 60, atoms: data.atoms, targets: [data.targets[t]]))
        let single = call(alone, 1)
        #expect(single.coef == one.column(t, 30), "\(name)")
        #expect(single.report.objective == one.reports[t].objective && single.report.iterations == one.reports[t].iterations)
      }
    }
    let a = omp(g, k: 5)
    for t in 0..<7 {
      for i in 0..<5 { #expect(a.coef[t * 30 + Int(a.order[i * 7 + t])] != 0) }
    }
  }

  @Test func runsEndEarly() throws {
    let data = Sample.random("", rows: 200, n: 100, common: 1, noise: 1, nonnegative: true, active: 50, seed: 9)
    let g = try TestGram(data)
    let flag: Int32 = 1
    withUnsafePointer(to: flag) { flag in
      for a in [nnls(g) { $0.cancel = flag }, Net(alpha: 1e-3, relative: true).solve(g) { $0.cancel = flag }] {
        #expect(a.status == UNMERGE_OK && a.report.outcome == UNMERGE_CANCELLED && a.coef.allSatisfy { $0.isFinite })
      }
      #expect(omp(g, k: 5) { $0.cancel = flag }.report.outcome == UNMERGE_CANCELLED)
    }
    #expect(nnls(g) { $0.deadline = 1e-9 }.report.outcome == UNMERGE_TIME_LIMIT)
    #expect(nnls(g) { $0.max_iter = 1 }.report.outcome == UNMERGE_ITERATION_LIMIT)
    let some = omp(g, k: 5) { $0.max_iter = 2 }
    #expect(some.report.outcome == UNMERGE_ITERATION_LIMIT && some.report.iterations == 2)
  }

  @Test func wrongCallsAreRefusedAndTouchNothing() throws {
    let g = try TestGram(problems[1])
    var bad: [(Answer, Int32, String)] = [
      (Net(alpha: -1).solve(g), UNMERGE_E_RANGE, "alpha"), (Net(alpha: .nan).solve(g), UNMERGE_E_RANGE, "alpha"),
      (Net(alpha: .infinity).solve(g), UNMERGE_E_RANGE, "alpha"),
      (Net(alpha: 1, l1Ratio: 1.5).solve(g), UNMERGE_E_RANGE, "l1_ratio"),
      (Net(alpha: 1, l1Ratio: 0, relative: true).solve(g), UNMERGE_E_RANGE, "relative"),
      (Net(alpha: 1, weights: [1, 1, -1, 1, 1]).solve(g), UNMERGE_E_RANGE, "weights[2]"),
      (ridge(g, alpha: -0.5), UNMERGE_E_RANGE, "alpha"), (similarity(g, 4), UNMERGE_E_RANGE, "variant"),
      (similarity(g, -1), UNMERGE_E_RANGE, "variant"), (nnls(g) { $0.tol = 0 }, UNMERGE_E_RANGE, "tol"),
      (omp(g, k: 3, residualTol: 2), UNMERGE_E_RANGE, "residual_tol"),
      (path(g, alphas: [1, -1]).answer, UNMERGE_E_RANGE, "alphas[1]"),
      (path(g, l1Ratio: 0).answer, UNMERGE_E_RANGE, "l1_ratio"),
      (path(g, target: 1).answer, UNMERGE_E_RANGE, "target"),
    ]
    var o = unmerge_omp_options.defaults
    o.k = 0
    bad.append((answer(g) { unmerge_omp($0, &o, $1, $2, nil, $3, $4) }, UNMERGE_E_RANGE, "k"))
    for (a, status, word) in bad {
      #expect(a.status == status && a.message.contains(word), "\(a.message)")
      #expect(a.coef.allSatisfy { $0 == untouched })
    }
    // A warm start of NaN names row and column, and stays as it was.
    var start = [Double](repeating: 1, count: 5)
    start[3] = .nan
    let a = nnls(g, start: start)
    #expect(a.status == UNMERGE_E_NONFINITE && a.message.contains("coef[3, 0]"))
    #expect(a.coef[0] == 1 && a.coef[3].isNaN)
    #expect(unmerge_nnls(nil, nil, nil, nil, nil, nil) == UNMERGE_E_NULL)
    #expect(unmerge_nnls(g.handle, nil, nil, nil, nil, nil) == UNMERGE_E_NULL)
    #expect(unmerge_alpha_max(g.handle, 0, nil, 0, nil, nil) == UNMERGE_E_RANGE)
  }
}
