import UnmergeCore
import UnmergeLinalg

// Linear: m = Σ w_j θ_j / Σ w_j over whole models θ_j, the base among them with `baseWeight`, first.
//
// Summed in float32 with fused multiply-adds and rounded once; `isStacked` (mergekit before 0.1.5): weights and products are
// rounded to the compute type, their sum and the quotient too.
//
// Reference: Wortsman et al. 2022, "Model soups".

private struct Linear: Rule {
  let operands = Operands.models
  let weights: [Float]
  let divisor: Float
  let normalize: Bool
  let hasBase: Bool
  let isStacked: Bool

  func merge(_ stack: Stack, _ w: Workspace) {
    let x = (hasBase ? [UnsafePointer(w.base.pointer)] : []) + w.all(stack.count)
    if isStacked {
      Merged.stack(
        w.out.pointer, x, weights, w.entries, consensus: .all, normalize: normalize, divisor: divisor, lambda: 1, base: nil,
        stack.dtype)
    } else {
      Merged.linear(w.out.pointer, x, weights, w.entries, divisor: normalize ? divisor : 1, stack.dtype)
    }
  }
}

func linearRule(_ recipe: Recipe, _ stack: Stack) throws(UnmergeError) -> any Rule {
  let hasBase = recipe.baseWeight != 0
  let given = (hasBase ? [recipe.baseWeight] : []) + stack.weights
  let weights = recipe.isStacked ? given.map { stack.dtype.round($0) } : given.map { Float($0) }
  let normalize = recipe.normalize ?? recipe.method.row.normalize
  let sum = recipe.isStacked ? stack.dtype.round(shortSum(weights)) : shortSum(weights)
  guard !weights.isEmpty else { throw .range("recipe gives module '\(stack.name)' no weights; linear needs one at least") }
  guard !normalize || sum != 0 else {
    throw .range("recipe->weights sum to 0 in module '\(stack.name)'; they cannot be normalised")
  }
  return Linear(
    weights: weights, divisor: sum, normalize: normalize, hasBase: hasBase, isStacked: recipe.isStacked)
}

/// A short vector's sum in float32, in the order tensor libraries use for one that lies contiguous: four lanes, the rest to
/// the first.
func shortSum(_ x: [Float]) -> Float {
  var lanes: [Float] = [0, 0, 0, 0]
  let whole = x.count / 4 * 4
  for i in 0..<whole { lanes[i % 4] += x[i] }
  for i in whole..<x.count { lanes[0] += x[i] }
  return ((lanes[0] + lanes[1]) + lanes[2]) + lanes[3]
}
