import UnmergeCore
import UnmergeLinalg

// Adapters concatenated to one, which is stored and then merged:
//
//     m = base + Σ B_j·(w_j s_j A_j)
//
// B_j and w_j s_j A_j are rounded when the new adapter is made, the sum of the products when it is formed, and the merged
// weights once more; products and sums are float32.
//
// Reference: PEFT's add_weighted_adapter (`cat`) with merge_and_unload.

private struct AdapterCat: Rule {
  func merge(_ stack: Stack, _ w: Workspace) {
    let out = w.out.pointer
    out.update(repeating: 0, count: w.entries)
    for j in 0..<stack.count { ElementType.f32.add(out, w.x(j), w.entries) }
    stack.dtype.round(out, w.entries)
    stack.dtype.add(out, w.base.pointer, w.entries)
  }
}

func adapterCatRule(_ recipe: Recipe, _ stack: Stack) throws(UnmergeError) -> any Rule {
  guard stack.hasOnlyParts else {
    throw .range("atoms have a column that is not factors in module '\(stack.name)'; adapter_cat joins factors only")
  }
  return AdapterCat()
}
