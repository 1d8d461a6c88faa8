import UnmergeCore
import UnmergeLinalg

// Model stock: m = t·mean(θ_j) + (1 − t)·base, t = k·c / (1 + (k − 1)·c), c the mean cosine of all pairs of task vectors; t
// = 0 where the denominator vanishes. One t per module. Weights only say who takes part.
//
// Norms and products are summed here in double and then rounded as the tool's are; a tool that sums in float32 may come to a
// neighbouring t, so `fit` looks among those.
//
// Reference: Jang, Yun & Han 2024.

private struct ModelStock: Rule {
  let operands = Operands.models
  var t: Float = 0

  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    let k = stack.count
    let type = stack.dtype
    let products = try Products(k, crew)
    try crew.eachTile(stack, .vectors) { w, place in
      let sums = products.places[place]
      for i in 0..<k {
        for j in 0...i {
          // Norms take the squares as they are, products are rounded first.
          let d = (i == j ? ElementType.f32 : type).dot(w.x(i), w.x(j), w.entries)
          sums[i * k + j] = i == j ? Float.squares(w.x(i), w.entries) : d
        }
      }
    } finish: { place in
      products.take(place)
    }
    var cosines: [Float] = []
    for i in 0..<k {
      for j in (i + 1)..<max(k, i + 1) {
        let norms = type.round(
          type.round(products.total[i * k + i].squareRoot()) * type.round(products.total[j * k + j].squareRoot()))
        let floor = type.round(1e-6 as Float)
        let c = type.round(type.round(products.total[j * k + i]) / max(norms, floor))
        cosines.append(min(max(c, -1), 1))
      }
    }
    let c = type.round(type.round(shortSum(cosines)) / Float(cosines.count))
    let denominator = type.round(1 + type.round(Float(k - 1) * c))
    t = abs(denominator) < 1e-6 ? 0 : type.round(type.round(Float(k) * c) / denominator)
  }

  func merge(_ stack: Stack, _ w: Workspace) {
    Merged.stock(w.out.pointer, w.all(stack.count), w.entries, t: t, base: w.base.pointer, stack.dtype)
  }

  mutating func fit(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {
    let sample = Sample(stack, crew, operands, limit: 1 << 14)
    try sample.load()
    let w = sample.w
    var start = t
    if stack.outType == .f32 {
      // m − base = t·(mean − base)
      var (g, c) = (0.0, 0.0)
      for i in 0..<w.entries {
        let mean = (0..<stack.count).reduce(0.0) { $0 + Double(w.x($1)[i]) } / Double(stack.count)
        let d = mean - Double(w.base[i])
        g += d * d
        c += d * (Double(w.stored[i]) - Double(w.base[i]))
      }
      // Another recipe's target says nothing about t.
      if g > 0, abs(c / g - Double(t)) < 1e-3 { start = stack.dtype.round(c / g) }
    }
    t = try refine([start], stack.dtype, steps: [1, 2, 3, 4]) { trial in
      Merged.stock(w.out.pointer, w.all(stack.count), w.entries, t: trial[0], base: w.base.pointer, stack.dtype)
      return sample.matches()
    }[0]
  }
}

/// Inner products of k vectors over a module: those of the tiles under way, and their sum in the order of the tiles.
struct Products: Sendable {
  let places: [Buffer<Double>]
  let total: Buffer<Double>

  init(_ k: Int, _ crew: Crew) throws(UnmergeError) {
    let size = try product(k, k, "the products of the atoms")
    total = try allocate(size)
    var places: [Buffer<Double>] = []
    for _ in 0..<crew.places { places.append(try allocate(size)) }
    self.places = places
  }

  func take(_ place: Int) { Double.accumulate(total.pointer, places[place].pointer, total.count) }
}

func modelStockRule(_ recipe: Recipe, _ stack: Stack) -> any Rule { ModelStock() }
