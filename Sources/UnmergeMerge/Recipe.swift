import CUnmerge
import UnmergeCore
import UnmergeLinalg

/// The rules merging tools know, as the header numbers them.
package enum MergeMethod: Int32, Sendable, CaseIterable {
  case linear = 1
  case taskArithmetic = 2
  case ties = 3
  case breadcrumbs = 4
  case breadcrumbsTies = 5
  case modelStock = 6
  case slerp = 7
  case nuslerp = 8
  case dareLinear = 9
  case dareTies = 10
  case dellaLinear = 11
  case della = 12
  case adapterCat = 13
}

/// How the task model of an atom that is not a stored checkpoint came to be.
package enum TaskRounding: Int32, Sendable {
  /// It never was: the atom itself is the task vector.
  case none = 0
  /// base + Δ in float32, rounded once when stored.
  case stored = 1
  /// Δ rounded, added to the base, the sum rounded.
  case product = 2
}

/// What makes up for the entries a sparsification drops.
package enum Rescale: Int32, Sendable {
  case none = 0
  /// division by the density
  case density = 1
  /// the l1 norm is put back
  case l1 = 2
}

/// A number for every atom, the same in all modules or different in each.
package struct PerAtom: Sendable {
  private let values: Buffer<Double>?
  private let stride: Int
  private let constant: Double

  package init(constant: Double) {
    values = nil
    stride = 0
    self.constant = constant
  }

  /// Atom j in module m: values[m·stride + j].
  package init(_ values: Buffer<Double>, stride: Int = 0) {
    self.values = values
    self.stride = stride
    constant = 0
  }

  package init(_ values: [Double], stride: Int = 0) throws(UnmergeError) {
    let copy: Buffer<Double> = try allocate(values.count)
    for (i, v) in values.enumerated() { copy[i] = v }
    self.init(copy, stride: stride)
  }

  package subscript(_ atom: Int, module m: Int) -> Double { values.map { $0[m * stride + atom] } ?? constant }
}

/// How a merged checkpoint was made from a base and task vectors. nil stands for what the method's own default is.
package struct Recipe: Sendable {
  package var method: MergeMethod
  /// Atoms whose weight in a module is 0 take no part there.
  package var weights: PerAtom
  /// The type the tool computes in; nil: that of the stored target.
  package var dtype: ElementType?
  /// The type it stores; nil: the one it computes in.
  package var outType: ElementType?
  package var taskRounding = TaskRounding.stored
  /// The type task models were stored in; nil: that of the base.
  package var taskType: ElementType?
  package var normalize: Bool?
  package var rescale: Rescale?
  package var consensus = Merged.Consensus.sum
  package var densities = PerAtom(constant: 1)
  package var gamma = 0.01
  package var epsilon = 0.15
  package var lambda = 1.0
  package var t = 0.5
  package var baseWeight = 0.0
  /// Linear only: weights and products are rounded to dtype before they are summed.
  package var isStacked = false

  package init(_ method: MergeMethod, weights: PerAtom) {
    self.method = method
    self.weights = weights
  }
}

// MARK: the door

extension unmerge_recipe: Growable {
  package static var defaults: unmerge_recipe {
    var r = unmerge_recipe()
    r.struct_size = MemoryLayout<unmerge_recipe>.size
    r.method = UNMERGE_MERGE_LINEAR
    r.task_rounding = UNMERGE_TASK_STORED
    r.normalize = UNMERGE_METHOD_DEFAULT
    r.rescale = UNMERGE_METHOD_DEFAULT
    r.consensus = UNMERGE_CONSENSUS_SUM
    r.density = 1
    r.gamma = 0.01
    r.epsilon = 0.15
    r.lambda = 1
    r.t = 0.5
    return r
  }
}

@_cdecl("unmerge_recipe_init") @implementation
public func unmerge_recipe_init(_ recipe: UnsafeMutablePointer<unmerge_recipe>?, _ size: Int) -> unmerge_status {
  initialize(recipe, size)
}

extension Recipe {
  /// The caller's recipe over n atoms and so many modules, checked and copied.
  init(_ pointer: UnsafePointer<unmerge_recipe>?, atoms n: Int, modules: Int) throws(UnmergeError) {
    guard pointer != nil else { throw .null("recipe") }
    let r = try read(pointer, "recipe")
    guard let method = MergeMethod(rawValue: r.method) else {
      throw .range("recipe->method is \(r.method); it must be UNMERGE_MERGE_LINEAR to UNMERGE_MERGE_ADAPTER_CAT")
    }
    guard r.weights != nil else { throw .null("recipe->weights") }
    let finite = -Double.greatestFiniteMagnitude...Double.greatestFiniteMagnitude
    self.init(
      method, weights: try perAtom(r.weights, r.weights_stride, n, modules, "recipe->weights", finite, "finite"))
    dtype = try storageType(r.dtype, "recipe->dtype")
    outType = try storageType(r.out_dtype, "recipe->out_dtype")
    taskType = try storageType(r.task_dtype, "recipe->task_dtype")
    guard let rounding = TaskRounding(rawValue: r.task_rounding) else {
      throw .range("recipe->task_rounding is \(r.task_rounding); it must be UNMERGE_TASK_EXACT, _STORED or _PRODUCT")
    }
    taskRounding = rounding
    if r.normalize != UNMERGE_METHOD_DEFAULT {
      try checkFlag(r.normalize, "recipe->normalize")
      normalize = r.normalize == 1
    }
    if r.rescale != UNMERGE_METHOD_DEFAULT {
      guard let kind = Rescale(rawValue: r.rescale) else {
        throw .range("recipe->rescale is \(r.rescale); it must be UNMERGE_RESCALE_NONE, _DENSITY, _L1 or the default")
      }
      rescale = kind
    }
    guard let consensus = Merged.Consensus(rawValue: r.consensus), consensus != .all else {
      throw .range("recipe->consensus is \(r.consensus); it must be UNMERGE_CONSENSUS_SUM or UNMERGE_CONSENSUS_COUNT")
    }
    self.consensus = consensus
    try check(r.density, "recipe->density", 0...1, "in [0, 1]")
    densities = PerAtom(constant: r.density)
    if r.densities != nil {
      densities = try perAtom(r.densities, r.densities_stride, n, modules, "recipe->densities", 0...1, "in [0, 1]")
    }
    try check(r.gamma, "recipe->gamma", 0...1, "in [0, 1]")
    try check(r.epsilon, "recipe->epsilon", 0...0.5, "in [0, 0.5]")
    try check(r.lambda, "recipe->lambda", finite, "finite")
    try check(r.t, "recipe->t", finite, "finite")
    try check(r.base_weight, "recipe->base_weight", finite, "finite")
    try checkFlag(r.stacked, "recipe->stacked")
    guard r.reserved == 0 else {
      throw UnmergeError(UNMERGE_E_VERSION, "recipe->reserved is \(r.reserved); it must be 0")
    }
    gamma = r.gamma
    epsilon = r.epsilon
    lambda = r.lambda
    t = r.t
    baseWeight = r.base_weight
    isStacked = r.stacked == 1
  }
}

private func storageType(_ value: Int32, _ name: String) throws(UnmergeError) -> ElementType? {
  if value == 0 { return nil }
  guard let type = ElementType(rawValue: value), type != .f64 else {
    throw UnmergeError(UNMERGE_E_DTYPE, "\(name) is \(value); it must be UNMERGE_F32, UNMERGE_F16, UNMERGE_BF16 or 0")
  }
  return type
}

private func perAtom(
  _ pointer: UnsafePointer<Double>?, _ stride: Int64, _ n: Int, _ modules: Int, _ name: String, _ range: ClosedRange<Double>,
  _ words: String
) throws(UnmergeError) -> PerAtom {
  guard stride == 0 || stride >= Int64(n) else {
    throw .range("\(name)_stride is \(stride); it must be 0 or at least the number of atoms, \(n)")
  }
  // The caller's rows may lie further apart than ours.
  let sets = stride == 0 ? 1 : modules
  let step = stride == 0 ? n : Int(stride)
  _ = try product(max(step, 1), max(sets, 1), name)
  let copy: Buffer<Double> = try allocate(try product(n, sets, name))
  guard let pointer else { return PerAtom(copy, stride: stride == 0 ? 0 : n) }
  for m in 0..<sets {
    for j in 0..<n {
      let v = UnsafeRawPointer(pointer + (m * step + j)).loadUnaligned(as: Double.self)
      try check(v, "\(name)[\(m * step + j)]", range, words)
      copy[m * n + j] = v
    }
  }
  return PerAtom(copy, stride: stride == 0 ? 0 : n)
}
