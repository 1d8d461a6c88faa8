import CUnmerge
import UnmergeLinalg

// unmerge_prox: the functions of `Prox` by the numbers of the header.

/// What can be asked for, checked.
package struct ProxCall: @unchecked Sendable {
  package let kind: Int32
  package let o: unmerge_prox_options
  /// Rows and columns of x.
  package let n: Int
  let m: Int
  package let weights: Buffer<Double>?
  package let normal: Buffer<Double>?

  package init(_ kind: Int32, _ o: unmerge_prox_options, _ n: Int, _ m: Int) throws(UnmergeError) {
    guard kind >= UNMERGE_PROX_L1, kind <= UNMERGE_PROX_NONNEGATIVE_HOYER else {
      throw .range("kind is \(kind); it must be one of UNMERGE_PROX_... (1 to \(UNMERGE_PROX_NONNEGATIVE_HOYER))")
    }
    self.kind = kind
    self.n = n
    self.m = m
    var o = o
    guard o.step > 0, o.step.isFinite else { throw .range("options->step is \(o.step); it must be finite and > 0") }
    try check(o.alpha, "options->alpha", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try check(o.l1_ratio, "options->l1_ratio", 0...1, "in [0, 1]")
    try check(o.gamma, "options->gamma", 0...Double.greatestFiniteMagnitude, "finite and > 0, or 0 for the default")
    try check(o.q, "options->q", 0.1...0.95, "in [0.1, 0.95]")
    try check(o.radius, "options->radius", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    try check(o.offset, "options->offset", -Double.greatestFiniteMagnitude...Double.greatestFiniteMagnitude, "finite")
    try check(o.k, "options->k", 0...Int64.max, ">= 0")
    try check(o.sparsity, "options->sparsity", 0...1, "in [0, 1]")
    guard o.lower <= o.upper, o.lower < .infinity, o.upper > -.infinity else {
      throw .range("options->lower is \(o.lower) and upper \(o.upper); they must bound an interval")
    }
    if o.gamma == 0 {
      switch kind {
      case UNMERGE_PROX_MCP: o.gamma = 3
      case UNMERGE_PROX_SCAD: o.gamma = 3.7
      default: o.gamma = 1
      }
    }
    if kind == UNMERGE_PROX_SCAD, !(o.gamma > 1) {
      throw .range("options->gamma is \(o.gamma); it must be > 1 for UNMERGE_PROX_SCAD")
    }
    if kind == UNMERGE_PROX_SIMPLEX || kind == UNMERGE_PROX_CAPPED_SIMPLEX, n == 0, m > 0, o.radius > 0 {
      throw .range("options->radius is \(o.radius) and x has no rows; an empty sum is 0")
    }
    if kind == UNMERGE_PROX_CAPPED_SIMPLEX, n > 0, !(o.radius <= Double(n) * o.upper) {
      throw .range("options->radius is \(o.radius); it must be at most \(n) x upper = \(Double(n) * o.upper)")
    }
    self.o = o
    self.weights = try copyDoubles(UnmergeCore.weights(o.weights, n, "options->weights"), n)
    normal = try copyDoubles(o.normal, n)
    if let normal {
      for i in 0..<n where !normal[i].isFinite {
        throw .range("options->normal[\(i)] is \(normal[i]); it must be finite")
      }
    }
    if kind == UNMERGE_PROX_SLOPE, let weights { try checkNonIncreasing(weights, "options->weights") }
  }

  private var strength: Prox.Strength { Prox.Strength(o.alpha, weights.map { UnsafePointer($0.pointer) }) }

  /// z ← prox(x), both n×m, column-major.
  package func apply(
    _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>, step: Double
  ) throws(UnmergeError) {
    let t = o.alpha * step
    let scaled = Prox.Strength(t, strength.weights)
    func separable(_ f: some Separable, _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
      columns(x, z) { f.apply(n, $0, $1, step: step) }
    }
    switch kind {
    case UNMERGE_PROX_L1: separable(Prox.L1(strength), x, z)
    case UNMERGE_PROX_NONNEGATIVE_L1: separable(Prox.NonNegativeL1(strength), x, z)
    case UNMERGE_PROX_L2_SQUARED: separable(Prox.ElasticNet(strength, l1Ratio: 0), x, z)
    case UNMERGE_PROX_ELASTIC_NET: separable(Prox.ElasticNet(strength, l1Ratio: o.l1_ratio), x, z)
    case UNMERGE_PROX_HUBER: separable(Prox.Huber(strength, gamma: o.gamma), x, z)
    case UNMERGE_PROX_L0: separable(Prox.L0(strength), x, z)
    case UNMERGE_PROX_MCP: separable(Prox.MCP(strength, gamma: o.gamma), x, z)
    case UNMERGE_PROX_SCAD: separable(Prox.SCAD(strength, gamma: o.gamma), x, z)
    case UNMERGE_PROX_LQ: separable(Prox.LQ(strength, q: o.q), x, z)
    case UNMERGE_PROX_CEL0: separable(Prox.CEL0(strength, norm: o.gamma), x, z)
    case UNMERGE_PROX_BOX: separable(Prox.Box(o.lower, o.upper), x, z)
    case UNMERGE_PROX_NONNEGATIVE: separable(Prox.Box(0, .infinity), x, z)
    case UNMERGE_PROX_L2: columns(x, z) { Prox.l2(n, $0, $1, t: t) }
    case UNMERGE_PROX_SPARSE_GROUP:
      columns(x, z) { Prox.sparseGroup(n, $0, $1, t: scaled, l1Ratio: o.l1_ratio) }
    case UNMERGE_PROX_LINF: try columns(x, z) { x, z throws(UnmergeError) in try Prox.lInfinity(n, x, z, t: t) }
    case UNMERGE_PROX_SLOPE:
      let slope = try Prox.SLOPE(n)
      columns(x, z) { slope.apply($0, $1, t: scaled) }
    case UNMERGE_PROX_TOTAL_VARIATION, UNMERGE_PROX_FUSED:
      let variation = try Prox.TotalVariation(n)
      let l1 = kind == UNMERGE_PROX_FUSED ? t * o.l1_ratio : 0
      let tv = kind == UNMERGE_PROX_FUSED ? t * (1 - o.l1_ratio) : t
      columns(x, z) { x, z in
        variation.apply(n, x, z, t: tv)
        for i in 0..<n { z[i] = Prox.soft(z[i], l1) }
      }
    case UNMERGE_PROX_NUCLEAR: try Prox.nuclear(n, m, x, z, t: t)
    case UNMERGE_PROX_RANK: try Prox.rank(n, m, x, z, k: Int(o.k))
    case UNMERGE_PROX_K_SPARSE: try columns(x, z) { x, z throws(UnmergeError) in try Prox.kSparse(n, x, z, k: Int(o.k)) }
    case UNMERGE_PROX_L1_BALL:
      try columns(x, z) { x, z throws(UnmergeError) in try Prox.l1Ball(n, x, z, radius: o.radius) }
    case UNMERGE_PROX_L2_BALL: columns(x, z) { Prox.l2Ball(n, $0, $1, radius: o.radius) }
    case UNMERGE_PROX_SIMPLEX:
      try columns(x, z) { x, z throws(UnmergeError) in try Prox.simplex(n, x, z, total: o.radius) }
    case UNMERGE_PROX_CAPPED_SIMPLEX:
      try columns(x, z) { x, z throws(UnmergeError) in
        if o.upper == .infinity {
          try Prox.simplex(n, x, z, total: o.radius)
        } else {
          try Prox.cappedSimplex(n, x, z, total: o.radius, upper: o.upper)
        }
      }
    case UNMERGE_PROX_PLANE, UNMERGE_PROX_HALFSPACE:
      let half = kind == UNMERGE_PROX_HALFSPACE
      columns(x, z) {
        Prox.plane(n, $0, $1, normal: normal.map { UnsafePointer($0.pointer) }, offset: o.offset, halfspace: half)
      }
    case UNMERGE_PROX_HOYER, UNMERGE_PROX_NONNEGATIVE_HOYER:
      try columns(x, z) { x, z throws(UnmergeError) in
        try Prox.hoyer(n, x, z, sparsity: o.sparsity, nonNegative: kind == UNMERGE_PROX_NONNEGATIVE_HOYER)
      }
    case UNMERGE_PROX_CONE: columns(x, z) { Prox.secondOrderCone(n, $0, $1) }
    default:
      try columns(x, z) { x, z throws(UnmergeError) in
        try Prox.monotone(n, x, z, weights: weights.map { UnsafePointer($0.pointer) })
      }
    }
  }

  private func columns(
    _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>,
    _ body: (UnsafePointer<Double>, UnsafeMutablePointer<Double>) throws(UnmergeError) -> Void
  ) throws(UnmergeError) {
    for j in 0..<m { try body(x + j * n, z + j * n) }
  }

  private func columns(
    _ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>,
    _ body: (UnsafePointer<Double>, UnsafeMutablePointer<Double>) -> Void
  ) {
    for j in 0..<m { body(x + j * n, z + j * n) }
  }
}

package func copyDoubles(_ pointer: UnsafePointer<Double>?, _ n: Int) throws(UnmergeError) -> Buffer<Double>? {
  guard let pointer else { return nil }
  let copy = try allocate(n, of: Double.self)
  for i in 0..<n { copy[i] = UnsafeRawPointer(pointer + i).loadUnaligned(as: Double.self) }
  return copy
}

/// Weights that belong to ranks.
package func checkNonIncreasing(_ weights: Buffer<Double>, _ name: String) throws(UnmergeError) {
  for i in 1..<max(weights.count, 1) where weights[i] > weights[i - 1] {
    throw .range("\(name)[\(i)] is \(weights[i]) after \(weights[i - 1]); they must not increase")
  }
}

extension unmerge_prox_options: Growable {
  package static var defaults: unmerge_prox_options {
    var o = unmerge_prox_options()
    o.struct_size = MemoryLayout<unmerge_prox_options>.size
    o.step = 1
    o.alpha = 1
    o.l1_ratio = 0.5
    o.q = 0.5
    o.radius = 1
    o.lower = -.infinity
    o.upper = .infinity
    o.k = 1
    o.sparsity = 0.5
    return o
  }
}

@_cdecl("unmerge_prox_options_init") @implementation
public func unmerge_prox_options_init(_ options: UnsafeMutablePointer<unmerge_prox_options>?, _ size: Int) -> unmerge_status
{
  initialize(options, size)
}

@_cdecl("unmerge_prox") @implementation
public func unmerge_prox(
  _ kind: Int32, _ options: UnsafePointer<unmerge_prox_options>?, _ x: UnsafePointer<unmerge_view>?,
  _ z: UnsafePointer<unmerge_view>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try read(options, "options")
    let x = try view(x, "x")
    let (n, m) = (x.rows, x.columns)
    // LAPACK counts in 32 bits.
    guard n <= Int(Int32.max), m <= Int(Int32.max) else {
      throw .shape("x is \(n) x \(m); at most \(Int32.max) rows and columns")
    }
    let output = try Output(z, "z", rows: n, columns: m)
    let call = try ProxCall(kind, o, n, m)
    let cells = try product(n, m, "x")
    let input = try allocate(cells, of: Double.self)
    let result = try allocate(cells, of: Double.self)
    for j in 0..<m {
      for i in 0..<n {
        let value = x.element(i, j)
        guard value.isFinite else {
          throw UnmergeError(UNMERGE_E_NONFINITE, "x[\(i), \(j)] is \(value); all values must be finite")
        }
        input[j * n + i] = value
      }
    }
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try call.apply(input.pointer, result.pointer, step: call.o.step)
    }
    for j in 0..<m { for i in 0..<n { output.set(i, j, result[j * n + i]) } }
  }
}
