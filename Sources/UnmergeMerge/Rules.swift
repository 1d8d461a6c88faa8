import UnmergeCore
import UnmergeLinalg

/// What a rule is given of an atom: its task vector, or its whole task model.
package enum Operands: Sendable {
  case vectors
  case models
}

/// One merge rule on one module: a function of the stack of task vectors (or models) to the merged weights.
///
/// A rule may put questions to the whole module first (a threshold, an angle); after that every entry is merged from the
/// entries of the stack in its place, a tile at a time, from any thread.
protocol Rule: Sendable {
  var operands: Operands { get }
  /// Masks are drawn, so that the merged weights are not in the recipe.
  var isRandom: Bool { get }
  /// Buffers of the size of a tile the rule wants in `Workspace.extra`.
  var extraTiles: Int { get }
  /// A tile holds all rows (a vector whose entries are ranked as one row).
  var wantsWhole: Bool { get }

  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError)

  /// What is random and not in the recipe, estimated from the merged weights themselves.
  mutating func fit(_ stack: Stack, _ crew: Crew) throws(UnmergeError)

  /// Operands in, `w.out` out, in the compute type. Random rules: the mean over their draws, not rounded.
  func merge(_ stack: Stack, _ w: Workspace)

  /// How many of the entries `merge` did not predict (`w.same` is 0) are what another choice between equal magnitudes gives.
  func tied(_ stack: Stack, _ w: Workspace) -> Int

  /// Random rules: how many entries of the tile are what some draw gives, and how many would be after `moveStored`; nil when
  /// there are too many draws. May overwrite every buffer but `w.stored`.
  func consistent(_ stack: Stack, _ w: Workspace) -> (found: Int, chance: Int)?
}

extension Rule {
  var operands: Operands { .vectors }
  var isRandom: Bool { false }
  var extraTiles: Int { 0 }
  var wantsWhole: Bool { false }
  mutating func survey(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {}
  mutating func fit(_ stack: Stack, _ crew: Crew) throws(UnmergeError) {}
  func tied(_ stack: Stack, _ w: Workspace) -> Int { 0 }
  func consistent(_ stack: Stack, _ w: Workspace) -> (found: Int, chance: Int)? { nil }
}

/// A row of the table below.
struct RuleRow: Sendable {
  let name: String
  /// How many atoms may take part in a module.
  let atoms: ClosedRange<Int>
  var normalize = false
  var rescale = Rescale.none
  let make: @Sendable (Recipe, Stack) throws(UnmergeError) -> any Rule
}

/// The merge methods: a new one is a case of `MergeMethod`, a file and a row here.
extension MergeMethod {
  var row: RuleRow {
    let any = 0...Int.max
    return switch self {
    case .linear: RuleRow(name: "linear", atoms: any, normalize: true, make: linearRule)
    case .taskArithmetic: RuleRow(name: "task_arithmetic", atoms: any, make: taskArithmeticRule)
    case .ties: RuleRow(name: "ties", atoms: any, normalize: true, make: tiesRule)
    case .breadcrumbs: RuleRow(name: "breadcrumbs", atoms: any, make: breadcrumbsRule)
    case .breadcrumbsTies: RuleRow(name: "breadcrumbs_ties", atoms: any, make: breadcrumbsTiesRule)
    case .modelStock: RuleRow(name: "model_stock", atoms: 2...Int.max, make: modelStockRule)
    case .adapterCat: RuleRow(name: "adapter_cat", atoms: any, make: adapterCatRule)
    case .slerp: RuleRow(name: "slerp", atoms: 1...2, make: slerpRule)
    case .nuslerp: RuleRow(name: "nuslerp", atoms: 2...2, make: nuslerpRule)
    case .dareLinear: RuleRow(name: "dare_linear", atoms: any, rescale: .l1, make: dareLinearRule)
    case .dareTies: RuleRow(name: "dare_ties", atoms: any, rescale: .l1, make: dareTiesRule)
    case .dellaLinear: RuleRow(name: "della_linear", atoms: any, rescale: .l1, make: dellaLinearRule)
    case .della: RuleRow(name: "della", atoms: any, normalize: true, rescale: .l1, make: dellaRule)
    }
  }
}
