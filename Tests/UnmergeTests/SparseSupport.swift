import CUnmerge
import Testing
import UnmergeLinalg

@testable import UnmergeCore
@testable import UnmergeSparse

/// SplitMix64, and sums of twelve uniforms for Gaussians.
struct Draws {
  var state: UInt64

  init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 }

  mutating func bits() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  mutating func uniform() -> Double { Double(bits() >> 11) * 0x1p-53 }
  mutating func normal() -> Double { (0..<12).reduce(-6) { s, _ in s + uniform() } }
}

/// A least-squares problem with its data, which the library never sees: it gets the Gram.
struct Sample: Sendable, CustomStringConvertible {
  var description: String { name }
  let name: String
  let rows: Int
  /// Columns.
  var atoms: [[Double]]
  var targets: [[Double]]

  var n: Int { atoms.count }

  func norm(_ j: Int) -> Double { dot(atoms[j], atoms[j]).squareRoot() }
  func targetNorm(_ t: Int) -> Double { dot(targets[t], targets[t]).squareRoot() }

  func residual(_ w: [Double], _ t: Int = 0) -> [Double] {
    var r = targets[t]
    for j in 0..<n where w[j] != 0 { for i in 0..<rows { r[i] -= w[j] * atoms[j][i] } }
    return r
  }

  func rss(_ w: [Double], _ t: Int = 0) -> Double {
    let r = residual(w, t)
    return dot(r, r)
  }

  func scaled(atoms a: Double, targets b: Double) -> Sample {
    Sample(name: name, rows: rows, atoms: atoms.map { $0.map { a * $0 } }, targets: targets.map { $0.map { b * $0 } })
  }

  static func random(
    _ name: String, rows: Int, n: Int, targets: Int = 1, common: Double = 0, noise: Double = 0.1, nonnegative: Bool = false,
    active: Int = 3, seed: UInt64
  ) -> Sample {
    var random = Draws(seed)
    let shared = (0..<rows).map { _ in random.normal() }
    let atoms = (0..<n).map { _ in (0..<rows).map { common * shared[$0] + random.normal() } }
    let targets = (0..<targets).map { _ in
      var y = (0..<rows).map { _ in noise * random.normal() }
      for j in 0..<min(active, n) {
        let w = nonnegative ? 0.5 + random.uniform() : random.normal()
        for i in 0..<rows { y[i] += w * atoms[(j * 7) % n][i] }
      }
      return y
    }
    return Sample(name: name, rows: rows, atoms: atoms, targets: targets)
  }

  /// Columns of a random orthogonal matrix (Gram-Schmidt, twice).
  static func orthonormal(rows: Int, n: Int, seed: UInt64) -> Sample {
    var random = Draws(seed)
    var atoms: [[Double]] = []
    for _ in 0..<n {
      var a = (0..<rows).map { _ in random.normal() }
      for _ in 0..<2 {
        for b in atoms {
          let s = dot(a, b)
          for i in 0..<rows { a[i] -= s * b[i] }
        }
      }
      let d = dot(a, a).squareRoot()
      atoms.append(a.map { $0 / d })
    }
    return Sample(name: "orthonormal", rows: rows, atoms: atoms, targets: [(0..<rows).map { _ in random.normal() }])
  }
}

func dot(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }

func distance(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).map { abs($0 - $1) }.max() ?? 0 }

/// Least squares on some atoms through Householder-free elimination with pivoting; nil when singular.
func naiveLeastSquares(_ data: Sample, _ support: [Int], ridge: Double = 0, _ t: Int = 0) -> [Double]? {
  let k = support.count
  var m = support.map { i in support.map { j in dot(data.atoms[i], data.atoms[j]) } + [dot(data.atoms[i], data.targets[t])] }
  for i in 0..<k { m[i][i] += ridge }
  for c in 0..<k {
    let p = (c..<k).max { abs(m[$0][c]) < abs(m[$1][c]) } ?? c
    if abs(m[p][c]) < 1e-12 { return nil }
    m.swapAt(c, p)
    for r in 0..<k where r != c {
      let f = m[r][c] / m[c][c]
      for q in c...k { m[r][q] -= f * m[c][q] }
    }
  }
  var w = [Double](repeating: 0, count: data.n)
  for (i, j) in support.enumerated() { w[j] = m[i][k] / m[i][i] }
  return w
}

/// A Gram with a handle, made from data entry by entry.
final class TestGram {
  let gram: Gram
  let handle: OpaquePointer

  convenience init(_ data: Sample, precision: Precision = .exact) throws {
    let n = data.n
    let count = data.targets.count
    let g = try Buffer<Double>(n * n)
    let c = try Buffer<Double>(n * count)
    let yy = try Buffer<Double>(count)
    for i in 0..<n {
      for j in 0...i { g[i * n + j] = dot(data.atoms[i], data.atoms[j]) }
      for t in 0..<count { c[t * n + i] = dot(data.atoms[i], data.targets[t]) }
    }
    for t in 0..<count { yy[t] = dot(data.targets[t], data.targets[t]) }
    let block = try Block(module: ModuleName(""), fold: 0, entries: data.rows, g: g, c: c, yy: yy)
    try self.init(Gram(atoms: n, targets: count, blocks: [block], precision: precision, passes: 0))
  }

  init(_ gram: Gram) throws {
    self.gram = gram
    handle = try register(gram)
  }

  deinit { release(handle, Gram.self) }

  var n: Int { gram.atoms }
}

struct Answer {
  var status: Int32
  var message: String
  /// Column by column.
  var coef: [Double]
  var reports: [unmerge_report]
  var order: [Int64] = []

  func column(_ t: Int, _ n: Int) -> [Double] { Array(coef[(t * n)..<((t + 1) * n)]) }
  var report: unmerge_report { reports[0] }
}

let untouched = 123.25

typealias Door = (
  OpaquePointer, UnsafePointer<unmerge_run>, UnsafePointer<unmerge_view>, UnsafeMutablePointer<unmerge_report>,
  UnsafeMutablePointer<unmerge_error>
) -> Int32

/// Calls a C function with a run, an n×columns output and reports.
func answer(
  _ g: TestGram, columns: Int? = nil, start: [Double]? = nil, run change: (inout unmerge_run) -> Void = { _ in },
  _ door: Door
) -> Answer {
  let columns = columns ?? g.gram.targets
  var run = unmerge_run.defaults
  change(&run)
  var coef = start ?? [Double](repeating: untouched, count: g.n * columns)
  var reports = [unmerge_report](repeating: .defaults, count: max(columns, 1))
  var error = unmerge_error()
  let status = coef.withUnsafeMutableBytes { bytes in
    var view = unmerge_view()
    view.data = bytes.baseAddress
    view.dtype = UNMERGE_F64
    view.shape = (Int64(g.n), Int64(columns))
    view.strides = (8, Int64(8 * g.n))
    return door(g.handle, &run, &view, &reports, &error)
  }
  let message = withUnsafeBytes(of: &error.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  return Answer(status: status, message: message, coef: coef, reports: reports)
}

/// The problems of one convex family, as the tests call them.
struct Net: Sendable, CustomStringConvertible {
  var alpha = 0.0
  var l1Ratio = 1.0
  var positive = false
  var weights: [Double]?
  var relative = false
  var warmStart = false

  var description: String { "alpha \(alpha), l1_ratio \(l1Ratio)\(positive ? ", positive" : "")" }

  func solve(_ g: TestGram, start: [Double]? = nil, run: (inout unmerge_run) -> Void = { _ in }) -> Answer {
    var o = unmerge_elastic_net_options.defaults
    o.alpha = alpha
    o.l1_ratio = l1Ratio
    o.positive = positive ? 1 : 0
    o.relative = relative ? 1 : 0
    o.warm_start = start != nil || warmStart ? 1 : 0
    return answer(g, start: start, run: run) { g, r, c, reports, e in
      if let weights {
        return weights.withUnsafeBufferPointer {
          o.weights = $0.baseAddress
          return unmerge_elastic_net(g, &o, r, c, reports, e)
        }
      }
      return unmerge_elastic_net(g, &o, r, c, reports, e)
    }
  }

  func objective(_ data: Sample, _ w: [Double], _ t: Int = 0) -> Double {
    var f = 0.5 * data.rss(w, t)
    for j in 0..<data.n {
      let pi = weights?[j] ?? 1
      f += alpha * pi * (l1Ratio * abs(w[j]) + 0.5 * (1 - l1Ratio) * w[j] * w[j])
    }
    return f
  }

  /// Largest KKT violation as a correlation, from the data and the definition.
  func violation(_ data: Sample, _ w: [Double], _ t: Int = 0) -> Double {
    let r = data.residual(w, t)
    var worst = 0.0
    for j in 0..<data.n where data.norm(j) > 0 {
      let pi = weights?[j] ?? 1
      let g = dot(data.atoms[j], r) - alpha * pi * (1 - l1Ratio) * w[j]
      let l = alpha * pi * l1Ratio
      let v = w[j] > 0 ? abs(g - l) : w[j] < 0 ? abs(g + l) : max(0, (positive ? g : abs(g)) - l)
      worst = max(worst, v / data.norm(j) / data.targetNorm(t))
    }
    return worst
  }
}

func nnls(_ g: TestGram, start: [Double]? = nil, run: (inout unmerge_run) -> Void = { _ in }) -> Answer {
  var o = unmerge_nnls_options.defaults
  o.warm_start = start == nil ? 0 : 1
  return answer(g, start: start, run: run) { unmerge_nnls($0, &o, $1, $2, $3, $4) }
}

func ridge(_ g: TestGram, alpha: Double, weights: [Double]? = nil) -> Answer {
  var o = unmerge_ridge_options.defaults
  o.alpha = alpha
  return answer(g) { g, r, c, reports, e in
    guard let weights else { return unmerge_ridge(g, &o, r, c, reports, e) }
    return weights.withUnsafeBufferPointer {
      o.weights = $0.baseAddress
      return unmerge_ridge(g, &o, r, c, reports, e)
    }
  }
}

func similarity(_ g: TestGram, _ variant: Int32) -> Answer {
  var o = unmerge_dot_options.defaults
  o.variant = variant
  return answer(g) { unmerge_dot($0, &o, $1, $2, $3, $4) }
}

func omp(
  _ g: TestGram, k: Int, residualTol: Double = 0, positive: Bool = false, run: (inout unmerge_run) -> Void = { _ in }
) -> Answer {
  var o = unmerge_omp_options.defaults
  o.k = Int64(k)
  o.residual_tol = residualTol
  o.positive = positive ? 1 : 0
  var order = [Int64](repeating: -7, count: k * g.gram.targets)
  var result = answer(g, run: run) { g, r, c, reports, e in unmerge_omp(g, &o, r, c, &order, reports, e) }
  result.order = order
  return result
}

func path(
  _ g: TestGram, alphas: [Double]? = nil, count: Int = 20, l1Ratio: Double = 1, positive: Bool = false, target: Int = 0
) -> (alphas: [Double], answer: Answer) {
  var o = unmerge_path_options.defaults
  o.n_alphas = Int64(alphas?.count ?? count)
  o.l1_ratio = l1Ratio
  o.positive = positive ? 1 : 0
  o.target = Int64(target)
  var grid = [Double](repeating: 0, count: Int(o.n_alphas))
  let result = answer(g, columns: grid.count) { g, r, c, reports, e in
    guard let alphas else { return unmerge_lasso_path(g, &o, r, &grid, c, reports, e) }
    return alphas.withUnsafeBufferPointer {
      o.alphas = $0.baseAddress
      return unmerge_lasso_path(g, &o, r, &grid, c, reports, e)
    }
  }
  return (grid, result)
}

func alphaMax(_ g: TestGram, l1Ratio: Double = 1, positive: Bool = false, weights: [Double]? = nil) -> [Double] {
  var result = [Double](repeating: 0, count: g.gram.targets)
  let status: Int32
  if let weights {
    status = unmerge_alpha_max(g.handle, l1Ratio, weights, positive ? 1 : 0, &result, nil)
  } else {
    status = unmerge_alpha_max(g.handle, l1Ratio, nil, positive ? 1 : 0, &result, nil)
  }
  #expect(status == UNMERGE_OK)
  return result
}

/// The problems every law is checked on.
let problems: [Sample] = {
  var list = [
    Sample.random("one atom", rows: 9, n: 1, active: 1, seed: 1),
    .random("small", rows: 20, n: 5, seed: 2),
    .random("tall", rows: 60, n: 20, active: 6, seed: 3),
    .random("noisy", rows: 40, n: 12, noise: 3, seed: 4),
    .random("common factor", rows: 50, n: 15, common: 3, active: 5, seed: 5),
    .random("near copies", rows: 50, n: 10, common: 100, seed: 6),
    .random("non-negative", rows: 40, n: 10, nonnegative: true, active: 5, seed: 7),
  ]
  var sized = Sample.random("sizes apart", rows: 30, n: 8, active: 4, seed: 8)
  for j in 0..<8 { sized.atoms[j] = sized.atoms[j].map { $0 * (j % 2 == 0 ? 1e-6 : 1e5) } }
  list.append(sized)
  return list
}()

/// Those where coefficients are not unique.
let deficient: [Sample] = {
  var twins = Sample.random("twins", rows: 30, n: 6, seed: 11)
  twins.atoms[4] = twins.atoms[0]
  var opposite = Sample.random("opposites", rows: 30, n: 6, seed: 12)
  opposite.atoms[5] = opposite.atoms[0].map { -2 * $0 }
  return [twins, opposite, .random("wide", rows: 8, n: 20, noise: 1, active: 4, seed: 13)]
}()
