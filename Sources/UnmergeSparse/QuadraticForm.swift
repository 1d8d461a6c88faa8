import UnmergeCore
import UnmergeLinalg

/// ½ − bᵀx + ½ xᵀQx in the units of `BlockForm`, as composite problems need it: Q as numbers (`BlockForm`), or only what Q does
/// to a vector (`OperatorForm`).
protocol QuadraticForm: AnyObject, Sendable {
  var n: Int { get }
  /// D
  var scale: Double { get }
  /// Q, n×n, where there is one.
  var matrix: UnsafeMutablePointer<Double>? { get }
  func diagonal(_ j: Int) -> Double
  /// b for target t.
  func correlation(_ t: Int) -> UnsafePointer<Double>
  /// z ← Qx; z is not x.
  func apply(_ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>)
}

extension QuadraticForm {
  /// An estimate of ‖Q‖₂ from below, by power iteration; work 2·n.
  func norm(_ work: UnsafeMutablePointer<Double>) -> Double { powerIteration(n, work) { apply($0, $1) } }
}

func powerIteration(
  _ m: Int, _ work: UnsafeMutablePointer<Double>, _ apply: (UnsafePointer<Double>, UnsafeMutablePointer<Double>) -> Void
) -> Double {
  let z = work + m
  for i in 0..<m { work[i] = 1 + 0.5 * Double(i &* 7919 % 97) / 97 }
  var size = 0.0
  for _ in 0..<20 {
    let length = Vector.dot(m, work, work).squareRoot()
    guard length > 0 else { return size }
    for i in 0..<m { work[i] /= length }
    apply(work, z)
    size = Vector.dot(m, work, z)
    work.update(from: z, count: m)
  }
  return size
}

extension BlockForm: QuadraticForm {
  var matrix: UnsafeMutablePointer<Double>? { block(0) }
  func diagonal(_ j: Int) -> Double { block(0)[j * (n + 1)] }
}

/// Q = AᵀA / D² through passes over the data: n numbers where a Gram has n².
final class OperatorForm: QuadraticForm, @unchecked Sendable {
  let n: Int
  let scale: Double
  let matrix: UnsafeMutablePointer<Double>? = nil
  private let product: NormalProduct
  private let norms: Buffer<Double>
  private let correlations: Buffer<Double>
  private let scaled: Buffer<Double>

  /// `summary`: norms and correlations, of a pass of its own.
  init(_ a: Columns, _ summary: Gram, _ watch: Watch) throws(UnmergeError) {
    n = summary.atoms
    norms = summary.norms
    var largest = 0.0
    for j in 0..<n { largest = max(largest, norms[j]) }
    scale = largest
    product = try NormalProduct(a, threads: watch.threads)
    correlations = try allocate(UnmergeCore.product(n, summary.targets, "c"))
    scaled = try allocate(n)
    guard largest > 0 else { return }
    for t in 0..<summary.targets {
      for j in 0..<n { correlations[t * n + j] = summary.correlation(t)[j] * (norms[j] / largest) }
    }
  }

  var passes: Int { product.passes + 1 }

  func diagonal(_ j: Int) -> Double { scale > 0 ? (norms[j] / scale) * (norms[j] / scale) : 0 }

  func correlation(_ t: Int) -> UnsafePointer<Double> { UnsafePointer(correlations.pointer + t * n) }

  func apply(_ x: UnsafePointer<Double>, _ z: UnsafeMutablePointer<Double>) {
    guard scale > 0 else { return z.update(repeating: 0, count: n) }
    for j in 0..<n { scaled[j] = x[j] / scale }
    product.apply(scaled.pointer, z)
    for j in 0..<n { z[j] /= scale }
  }
}
