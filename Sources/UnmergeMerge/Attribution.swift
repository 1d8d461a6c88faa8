import CUnmerge
import UnmergeCore
import UnmergeLinalg

// Which atoms, how much, by which method, how sure, what is left
//
// 1. One pass over all entries: RowSpaces. Least squares, and for every atom the residual where that atom could have hidden.
// 2. Presence: T_j against the T of absent atoms of this dictionary; for merges that drop or trim entries also the share of
//    entries that are exact multiples of one atom. Benjamini–Hochberg over the dictionary.
// 3. Character: a sum of low-rank terms leaves a residual of rounding only, dropping entries leaves noise in all directions, and
//    trimming by magnitude leaves no small entries. That says which kind of method it was before any atom is known.
// 4. Weights, by kind: log-determinant fit over the atoms present (sums), places of the multiples (drops), ratios of pairs (trims).
// 5. Recipes of that kind are replayed on a few modules; the one that predicts most stands, and is replayed on all.

package struct AttributionSettings: Sendable {
  package var falseDiscovery: Double
  package var confidence: Double
  package var limits: RowSample.Limits
  package var replays: Bool
}

package struct AttributedAtom: Sendable {
  package var isPresent = false
  package var flags: Int32 = 0
  package var weight = 0.0
  package var low = 0.0
  package var high = 0.0
  package var pValue = 1.0
  package var qValue = 1.0
  package var evidence = 0.0
  package var share = Double.nan
  package var scatter = 0.0
  package var nearestCosine = 0.0
  package var nearest: Int?
}

package enum WeightScale: Int32, Sendable {
  case absolute = 0
  case ratio = 1
  case perModule = 2
}

package final class Attribution: Handle, @unchecked Sendable {
  package static let kind: UInt = 5
  package static let name = "an attribution"

  package private(set) var atoms: [AttributedAtom]
  package private(set) var flags: Int32 = 0
  package private(set) var scale = WeightScale.absolute
  package private(set) var isComplete = false
  package private(set) var method: MergeMethod?
  /// Adapters whose factors were summed apart, which no recipe can say.
  package private(set) var isCrossed = false
  package private(set) var recipe: Recipe?
  package private(set) var recipeWeights: Buffer<Double>
  package private(set) var recipeStride = 0
  package private(set) var equivalent: Int64 = 0
  package private(set) var density = Double.nan
  package private(set) var missing = 0.0
  package private(set) var noise = 0.0
  package private(set) var condition = 1.0
  package private(set) var equal = 0
  package private(set) var compared = 0
  package private(set) var chance = 0.0
  package let entries: Int
  package private(set) var analysed = 0
  /// Least squares, module by module, and the share left unexplained there.
  package private(set) var moduleWeights: [[Double]]
  package private(set) var moduleUnexplained: [Double]
  package private(set) var seconds = 0.0

  package init(
    _ a: Columns, _ y: Columns, _ settings: AttributionSettings, _ watch: Watch
  ) throws(UnmergeError) {
    let n = a.count
    entries = a.entries
    atoms = Array(repeating: AttributedAtom(), count: n)
    recipeWeights = try allocate(max(n, 1))
    let (sums, modules) = try RowSpaces(a, y, watch).sums()
    let fit = DictionaryFit(sums.gram, atoms: n)
    moduleWeights = modules.map { _ in Array(repeating: .nan, count: n) }
    moduleUnexplained = modules.map { $0.yy > 0 ? 1 : 0 }

    let usable = judgeDictionary(a, y, fit)
    condition = try fit.condition(usable)
    if usable.count < 4 { flags |= UNMERGE_ATTRIBUTION_FEW_ATOMS }
    if modules.count(where: { $0.yy > 0 }) < 4 { flags |= UNMERGE_ATTRIBUTION_FEW_MODULES }
    guard sums.yy > 0 else {
      flags |= UNMERGE_ATTRIBUTION_UNCHANGED
      isComplete = true
      seconds = watch.seconds
      return
    }
    if sums.stored > 0, sums.yy > 0.5 * sums.stored { flags |= UNMERGE_ATTRIBUTION_WRONG_BASE }

    let dense = DensePresence.dense(a, among: usable)
    var presence = try Presence(sums, usable, dense: dense, fit, seed: watch.seed, watch)
    let sample = try RowSample(a, y, limits: settings.limits, watch)
    var residual: RowSample?
    if !dense.isEmpty {
      let rest = try sample.residual(presence.weights)
      let own = try DensePresence(residual: rest, start: presence.weights, usable, dense: dense, seed: watch.seed, watch)
      presence.replace(own, dense)
      residual = rest
    }
    analysed = sample.modules.reduce(0) { saturatingSum($0, $1.entries) }
    let findings = try Findings(a, y, sample, modules, sums, usable, fit, presence, residual: residual, settings, watch)

    for j in 0..<n {
      atoms[j].evidence = presence.evidence[j]
      atoms[j].pValue = findings.pValues[j]
      atoms[j].qValue = findings.qValues[j]
      atoms[j].isPresent = findings.present.contains(j)
      atoms[j].share = findings.shares[j]
      atoms[j].weight = findings.weights[j]
      atoms[j].low = findings.weights[j] - findings.margins[j]
      atoms[j].high = findings.weights[j] + findings.margins[j]
    }
    try fillModules(modules, sums, findings)
    scale = findings.scale
    method = findings.method
    isCrossed = findings.isCrossed
    recipe = findings.recipe
    density = findings.density
    equivalent = findings.equivalent
    recipeStride = findings.recipeStride
    recipeWeights = try allocate(max(findings.recipeWeights.count, 1))
    for (i, w) in findings.recipeWeights.enumerated() { recipeWeights[i] = w }
    missing = findings.missing
    noise = findings.noise
    isComplete = findings.isComplete
    (equal, compared, chance) = (findings.equal, findings.compared, findings.chance)
    if findings.isProved { flags |= UNMERGE_ATTRIBUTION_PROVED }
    seconds = watch.seconds
  }

  /// Flags of the atoms; those that can answer.
  private func judgeDictionary(_ a: Columns, _ y: Columns, _ fit: DictionaryFit) -> [Int] {
    var usable: [Int] = []
    for j in 0..<a.count {
      var seen = 0
      var missed = 0
      for (m, module) in a.modules.enumerated() where y.modules[m].piece(0) != nil {
        if module.piece(j) == nil { missed += 1 } else { seen += 1 }
      }
      if seen == 0 { atoms[j].flags |= UNMERGE_ATOM_UNSEEN } else if missed > 0 { atoms[j].flags |= UNMERGE_ATOM_PARTIAL }
      guard fit.norm(j) > 0 else {
        if seen > 0 { atoms[j].flags |= UNMERGE_ATOM_ZERO }
        continue
      }
      for i in 0..<a.count where i != j && fit.norm(i) > 0 {
        let cosine = fit.cosine(i, j)
        if abs(cosine) > abs(atoms[j].nearestCosine) {
          atoms[j].nearestCosine = cosine
          atoms[j].nearest = i
        }
      }
      if abs(atoms[j].nearestCosine) > 0.5 { atoms[j].flags |= UNMERGE_ATOM_RELATED }
      if usable.contains(where: { abs(fit.cosine($0, j)) > 1 - 1e-6 }) {
        atoms[j].flags |= UNMERGE_ATOM_DUPLICATE
      } else {
        usable.append(j)
      }
    }
    return usable
  }

  /// Least squares over the atoms present in every module by itself: does one weight hold everywhere?
  private func fillModules(_ modules: [RowSpaceSums], _ sums: RowSpaceSums, _ f: Findings) throws(UnmergeError) {
    let n = atoms.count
    for (m, own) in modules.enumerated() where own.yy > 0 {
      let local = DictionaryFit(own.gram, atoms: n)
      let here = (0..<n).filter { atoms[$0].isPresent && local.norm($0) > 0 }
      let w = try local.solve(own.c, here)
      for j in 0..<n where local.norm(j) > 0 { moduleWeights[m][j] = w[j] }
      let left = own.residual(w) - own.rounding
      moduleUnexplained[m] = min(max(left / own.yy, 0), 1)
    }
    for j in 0..<n where atoms[j].isPresent {
      let values = moduleWeights.compactMap { $0[j].isNaN ? nil : $0[j] }
      guard values.count > 1 else { continue }
      let mean = values.reduce(0, +) / Double(values.count)
      let square = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
      atoms[j].scatter = (square / Double(values.count - 1)).squareRoot()
    }
  }
}
