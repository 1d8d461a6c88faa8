import CUnmerge
import UnmergeCore
import UnmergeLinalg

// The door of Attribution.swift.

extension unmerge_attribute_options: Growable {
  package static var defaults: unmerge_attribute_options {
    var o = unmerge_attribute_options()
    o.struct_size = MemoryLayout<unmerge_attribute_options>.size
    o.fdr = 0.05
    o.confidence = 0.9
    o.rows = 512
    o.bytes = 400 << 20
    o.replay = 1
    return o
  }
}

extension unmerge_attributed_atom: Growable {
  package static var defaults: unmerge_attributed_atom {
    var a = unmerge_attributed_atom()
    a.struct_size = MemoryLayout<unmerge_attributed_atom>.size
    a.p_value = 1
    a.q_value = 1
    a.share = .nan
    a.nearest = -1
    return a
  }

  fileprivate init(_ a: AttributedAtom) {
    self = .defaults
    present = a.isPresent ? 1 : 0
    flags = a.flags
    weight = a.weight
    low = a.low
    high = a.high
    p_value = a.pValue
    q_value = a.qValue
    evidence = a.evidence
    share = a.share
    scatter = a.scatter
    nearest_cosine = a.nearestCosine
    nearest = Int64(a.nearest ?? -1)
  }
}

extension unmerge_attribution_info: Growable {
  package static var defaults: unmerge_attribution_info {
    var i = unmerge_attribution_info()
    i.struct_size = MemoryLayout<unmerge_attribution_info>.size
    i.density = .nan
    i.lambda = 1
    return i
  }

  fileprivate init(_ a: Attribution) {
    self = .defaults
    atoms = Int64(a.atoms.count)
    modules = Int64(a.moduleWeights.count)
    entries = Int64(a.entries)
    analysed = Int64(a.analysed)
    flags = a.flags
    weights_scale = a.scale.rawValue
    method = a.isCrossed ? UNMERGE_MERGE_ADAPTER_LINEAR : a.method?.rawValue ?? 0
    complete = a.isComplete ? 1 : 0
    equivalent = a.equivalent
    has_recipe = a.recipe == nil ? 0 : 1
    normalize = (a.recipe.map { $0.normalize ?? $0.method.row.normalize } ?? false) ? 1 : 0
    density = a.density
    lambda = a.recipe?.lambda ?? 1
    unexplained = min(max(a.missing, 0), 1)
    noise = a.noise
    missing = a.missing
    condition = a.condition
    equal = Int64(a.equal)
    compared = Int64(a.compared)
    chance = a.chance
    seconds = a.seconds
  }
}

@_cdecl("unmerge_attribute_options_init") @implementation
public func unmerge_attribute_options_init(
  _ options: UnsafeMutablePointer<unmerge_attribute_options>?, _ size: Int
) -> unmerge_status {
  initialize(options, size)
}

@_cdecl("unmerge_attributed_atom_init") @implementation
public func unmerge_attributed_atom_init(
  _ atom: UnsafeMutablePointer<unmerge_attributed_atom>?, _ size: Int
) -> unmerge_status {
  initialize(atom, size)
}

@_cdecl("unmerge_attribution_info_init") @implementation
public func unmerge_attribution_info_init(
  _ info: UnsafeMutablePointer<unmerge_attribution_info>?, _ size: Int
) -> unmerge_status {
  initialize(info, size)
}

@_cdecl("unmerge_attribute") @implementation
public func unmerge_attribute(
  _ atoms: OpaquePointer?, _ target: OpaquePointer?, _ options: UnsafePointer<unmerge_attribute_options>?,
  _ run: UnsafePointer<unmerge_run>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(atoms, "atoms", Operator.self).snapshot
    let y = try object(target, "target", Operator.self).snapshot
    guard let out else { throw .null("out") }
    let o = try read(options, "options")
    func open(_ x: Double, _ name: String) throws(UnmergeError) {
      guard x > 0, x < 1 else { throw .range("\(name) is \(x); it must be in (0, 1)") }
    }
    try open(o.fdr, "options->fdr")
    try open(o.confidence, "options->confidence")
    try check(o.rows, "options->rows", 16...Int64.max, ">= 16")
    try check(o.bytes, "options->bytes", 1 << 20...Int64.max, "at least 1 MiB (1048576)")
    try checkFlag(o.replay, "options->replay")
    guard o.reserved == 0 else {
      throw UnmergeError(UNMERGE_E_VERSION, "options->reserved is \(o.reserved); it must be 0")
    }
    try checkSameModules(a, y)
    guard a.count > 0 else { throw .shape("atoms has no columns; at least one atom is needed") }
    guard y.count == 1 else { throw .shape("target has \(y.count) columns; exactly one is expected") }
    guard a.entries > 0 else { throw .shape("atoms and target have no entries; at least one module is needed") }
    var limits = RowSample.Limits()
    limits.rows = Int(min(o.rows, 1 << 20))
    limits.bytes = Int(o.bytes)
    let settings = AttributionSettings(
      falseDiscovery: o.fdr, confidence: o.confidence, limits: limits, replays: o.replay == 1)
    try publish(try Attribution(a, y, settings, try Watch(run)), out)
  }
}

@_cdecl("unmerge_attribution_get_info") @implementation
public func unmerge_attribution_get_info(
  _ attribution: OpaquePointer?, _ info: UnsafeMutablePointer<unmerge_attribution_info>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(attribution, "attribution", Attribution.self)
    guard info != nil else { throw .null("info") }
    try checkResult(info, "info")
    store(unmerge_attribution_info(a), info)
  }
}

@_cdecl("unmerge_attribution_atoms") @implementation
public func unmerge_attribution_atoms(
  _ attribution: OpaquePointer?, _ atoms: UnsafeMutablePointer<unmerge_attributed_atom>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(attribution, "attribution", Attribution.self)
    guard atoms != nil else { throw .null("atoms") }
    try checkResult(atoms, "atoms")
    for (j, atom) in a.atoms.enumerated() { store(unmerge_attributed_atom(atom), atoms, index: j) }
  }
}

@_cdecl("unmerge_attribution_modules") @implementation
public func unmerge_attribution_modules(
  _ attribution: OpaquePointer?, _ weights: UnsafePointer<unmerge_view>?, _ unexplained: UnsafeMutablePointer<Double>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(attribution, "attribution", Attribution.self)
    let modules = a.moduleWeights.count
    let output = try optionalOutput(weights, "weights", rows: a.atoms.count, columns: modules)
    if let output {
      for m in 0..<modules { for j in 0..<a.atoms.count { output.set(j, m, a.moduleWeights[m][j]) } }
    }
    if let unexplained {
      for m in 0..<modules {
        UnsafeMutableRawPointer(unexplained + m).storeBytes(of: a.moduleUnexplained[m], as: Double.self)
      }
    }
  }
}

@_cdecl("unmerge_attribution_recipe") @implementation
public func unmerge_attribution_recipe(
  _ attribution: OpaquePointer?, _ recipe: UnsafeMutablePointer<unmerge_recipe>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let a = try object(attribution, "attribution", Attribution.self)
    guard recipe != nil else { throw .null("recipe") }
    try checkResult(recipe, "recipe")
    guard let found = a.recipe else {
      throw .range("attribution has no recipe: no atom was found present, or no known method fits")
    }
    var r = unmerge_recipe.defaults
    r.method = found.method.rawValue
    r.dtype = found.dtype?.rawValue ?? 0
    r.out_dtype = found.outType?.rawValue ?? 0
    r.task_rounding = found.taskRounding.rawValue
    r.task_dtype = found.taskType?.rawValue ?? 0
    if let normalize = found.normalize { r.normalize = normalize ? 1 : 0 }
    if let rescale = found.rescale { r.rescale = rescale.rawValue }
    r.consensus = found.consensus.rawValue
    r.weights = UnsafePointer(a.recipeWeights.pointer)
    r.weights_stride = Int64(a.recipeStride)
    r.density = a.density.isNaN ? 1 : a.density
    r.gamma = found.gamma
    r.epsilon = found.epsilon
    r.lambda = found.lambda
    r.t = found.t
    r.base_weight = found.baseWeight
    r.stacked = found.isStacked ? 1 : 0
    store(r, recipe)
  }
}

@_cdecl("unmerge_merge_name") @implementation
public func unmerge_merge_name(_ method: Int32) -> UnsafePointer<CChar>? {
  let name: StaticString =
    switch MergeMethod(rawValue: method) {
    case .linear: "linear"
    case .taskArithmetic: "task_arithmetic"
    case .ties: "ties"
    case .breadcrumbs: "breadcrumbs"
    case .breadcrumbsTies: "breadcrumbs_ties"
    case .modelStock: "model_stock"
    case .slerp: "slerp"
    case .nuslerp: "nuslerp"
    case .dareLinear: "dare_linear"
    case .dareTies: "dare_ties"
    case .dellaLinear: "della_linear"
    case .della: "della"
    case .adapterCat: "adapter_cat"
    case nil: method == UNMERGE_MERGE_ADAPTER_LINEAR ? "adapter_linear" : "unknown"
    }
  return UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
}

@_cdecl("unmerge_attribution_destroy") @implementation
public func unmerge_attribution_destroy(_ attribution: OpaquePointer?) { release(attribution, Attribution.self) }
