import UnmergeCore
import UnmergeLinalg

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

// Interpolation on the sphere between u and v at angle θ:
//
//     m = sin((1 − t)θ)/sin θ · u + sin(tθ)/sin θ · v,   cos θ = ⟨u, v⟩/(‖u‖ ‖v‖)
//
//     slerp     u, v whole models (one atom: base and model); in float32, rounded once; (1 − t)·u + t·v where |cos θ| >
//     0.9995,
//               which is the rule for fine-tunes of one base
//     nuslerp   u, v task vectors, m is added to the base, t = w_2/(w_1 + w_2); every step rounded; the line only where
//               1 − cos²θ ≤ 1e-16
//
// Reference: Shoemake 1985.

private struct Slerp: Rule {
  let operands = Operands.models
  let t: Float
  var a: Float = 0
  var b: Float = 0

  private func ends(_ stack: Stack, _ w: Workspace) -> (UnsafePointer<Float>, UnsafePointer<Float>) {
    stack.count == 1
      ? (UnsafePointer(w.base.pointer), UnsafePointer(w.x(0))) : (UnsafePointer(w.x(0)), UnsafePointer(w.x(1)))
  }

  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    let products = try Products(2, crew)
    let rule = self
    try crew.eachTile(stack, .models) { w, place in
      let (u, v) = rule.ends(stack, w)
      let sums = products.places[place]
      sums[0] = Float.squares(u, w.entries)
      sums[1] = Float.dot(u, v, w.entries)
      sums[3] = Float.squares(v, w.entries)
    } finish: { place in
      products.take(place)
    }
    let sums = products.total
    func norm(_ square: Double) -> Double { square.squareRoot() > 1e-8 ? square.squareRoot() : 1 }
    let cosine = Float(min(max(sums[1] / norm(sums[0]) / norm(sums[3]), -1), 1))
    (a, b) = (1 - t, t)
    if abs(cosine) <= 0.9995 {
      let theta = acos(cosine)
      a = sin((1 - t) * theta) / sin(theta)
      b = sin(t * theta) / sin(theta)
    }
  }

  func merge(_ stack: Stack, _ w: Workspace) {
    let (u, v) = ends(stack, w)
    Merged.arc(
      w.out.pointer, u, v, w.entries, a: a, b: b, divisor: 1, base: nil, inner: .f32, .f32)
    stack.dtype.round(w.out.pointer, w.entries)
  }
}

extension Slerp {
  /// On the arc, a and b are functions of an angle computed in float32.
  mutating func fit(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    guard a != 1 - t, stack.outType == .f32, stack.dtype == .f32 else { return }
    let sample = Sample(stack, crew, operands, limit: 1 << 14)
    try sample.load()
    let w = sample.w
    let (u, v) = ends(stack, w)
    let (uv, um, vm) = (
      Float.dot(u, v, w.entries), Float.dot(u, w.stored.pointer, w.entries), Float.dot(v, w.stored.pointer, w.entries)
    )
    guard let x = solve([Float.squares(u, w.entries), uv, uv, Float.squares(v, w.entries)], [um, vm]),
      abs(x[0] - Double(a)) < 1e-3, abs(x[1] - Double(b)) < 1e-3
    else { return }
    let best = try refine([Float(x[0]), Float(x[1])], .f32, steps: [1, 2, 3]) { trial in
      Merged.arc(
        w.out.pointer, u, v, w.entries, a: trial[0], b: trial[1], divisor: 1, base: nil, inner: .f32, .f32)
      return sample.matches()
    }
    (a, b) = (best[0], best[1])
  }
}

private struct NuSlerp: Rule {
  let t: Double
  var a: Float = 0
  var b: Float = 0
  var divisor: Float = 1

  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    let type = stack.dtype
    let norms = try Products(2, crew)
    try crew.eachTile(stack, .vectors) { w, place in
      norms.places[place][0] = Float.squares(w.x(0), w.entries)
      norms.places[place][3] = Float.squares(w.x(1), w.entries)
    } finish: { place in
      norms.take(place)
    }
    let floor = type.round(1e-7 as Float)
    let length = (0..<2).map { max(type.round(norms.total[3 * $0].squareRoot()), floor) }
    let angle = try Products(1, crew)
    try crew.eachTile(stack, .vectors) { w, place in
      angle.places[place][0] = type.dot(w.x(0), w.x(1), w.entries, dx: length[0], dy: length[1])
    } finish: { place in
      angle.take(place)
    }
    let cosine = min(max(type.round(angle.total[0]), -1), 1)
    if type.round(1 - type.round(cosine * cosine)) <= 1e-16 {
      (a, b, divisor) = (Float(1 - t), Float(t), 1)
    } else {
      let theta = type.round(acos(cosine))
      a = type.round(sin(type.round(Float(1 - t) * theta)))
      b = type.round(sin(type.round(Float(t) * theta)))
      divisor = type.round(sin(theta))
    }
  }

  func merge(_ stack: Stack, _ w: Workspace) {
    Merged.arc(
      w.out.pointer, w.x(0), w.x(1), w.entries, a: a, b: b, divisor: divisor, base: w.base.pointer, inner: stack.dtype,
      stack.dtype)
  }
}

func slerpRule(_ recipe: Recipe, _ stack: Stack) -> any Rule { Slerp(t: Float(recipe.t)) }

func nuslerpRule(_ recipe: Recipe, _ stack: Stack) -> any Rule {
  let sum = stack.weights[0] + stack.weights[1]
  return NuSlerp(t: abs(sum) < 1e-6 ? 0.5 : stack.weights[1] / sum)
}
