import CUnmerge
import UnmergeCore
import UnmergeLinalg

// The door of NMF.swift, and its saved form:
//
//     "UNMNMF_1"  p  T  k  algorithm loss mode missing extrapolation  iterations plain stalled
//     l1 l2 group unit signed of W, of H   sparsity of W, of H   momentum, its limit; as bits: objective, violation; fingerprint of X
//     W  H'  the next H'  the last plain W, by columns

extension unmerge_nmf_options: Growable {
  package static var defaults: unmerge_nmf_options {
    var o = unmerge_nmf_options()
    o.struct_size = MemoryLayout<unmerge_nmf_options>.size
    o.components = 1
    o.nonnegative_w = 1
    o.extrapolation = 1
    return o
  }
}

@_cdecl("unmerge_nmf_options_init") @implementation
public func unmerge_nmf_options_init(_ options: UnsafeMutablePointer<unmerge_nmf_options>?, _ size: Int) -> unmerge_status {
  initialize(options, size)
}

/// Data to factorise: not empty.
func checkData(_ x: View) throws(UnmergeError) {
  guard x.rows > 0, x.columns > 0 else { throw .shape("x is \(x.rows) x \(x.columns); there is nothing to factorise") }
}

/// One of a numbered list of the header.
private func choice(_ value: Int32, _ name: String, _ count: Int32) throws(UnmergeError) {
  guard 0 <= value, value < count else { throw .range("\(name) is \(value); it must be between 0 and \(count - 1)") }
}

extension NMFOptions {
  fileprivate init(_ o: unmerge_nmf_options) throws(UnmergeError) {
    try choice(o.algorithm, "options->algorithm", 4)
    try choice(o.loss, "options->loss", 2)
    try choice(o.unit, "options->unit", 4)
    try choice(o.sparsity_mode, "options->sparsity_mode", 2)
    try checkFlag(o.nonnegative_w, "options->nonnegative_w")
    try checkFlag(o.missing, "options->missing")
    try checkFlag(o.extrapolation, "options->extrapolation")
    for (value, name) in [
      (o.l1_w, "l1_w"), (o.l2_w, "l2_w"), (o.group_w, "group_w"), (o.l1_h, "l1_h"), (o.l2_h, "l2_h"), (o.group_h, "group_h"),
    ] {
      try check(value, "options->\(name)", 0...Double.greatestFiniteMagnitude, "finite and >= 0")
    }
    for (value, name) in [(o.sparsity_w, "sparsity_w"), (o.sparsity_h, "sparsity_h")] {
      try check(value, "options->\(name)", 0...(1.0).nextDown, "in [0, 1)")
    }
    guard let algorithm = Algorithm(rawValue: o.algorithm), let loss = Loss(rawValue: o.loss) else {
      throw .range("options->algorithm is \(o.algorithm)")
    }
    self.algorithm = algorithm
    self.loss = loss
    w = FactorPenalty(l1: o.l1_w, l2: o.l2_w, group: o.group_w, isSigned: o.nonnegative_w == 0)
    h = FactorPenalty(l1: o.l1_h, l2: o.l2_h, group: o.group_h)
    sparsityW = o.sparsity_w
    sparsityH = o.sparsity_h
    isSparsityOfEach = o.sparsity_mode == UNMERGE_SPARSITY_EACH
    hasMissing = o.missing == 1
    extrapolates = o.extrapolation == 1 && (algorithm == .hals || algorithm == .anls) && loss == .frobenius
    guard loss == .frobenius || algorithm == .mu else {
      throw .range("options->loss is UNMERGE_LOSS_KL; only UNMERGE_NMF_MU minimises it")
    }
    guard algorithm == .projected || (sparsityW == 0 && sparsityH == 0) else {
      throw .range("options->sparsity_\(sparsityW > 0 ? "w" : "h") is held by UNMERGE_NMF_PROJECTED only")
    }
    guard algorithm != .projected || (w.isNone && h.isNone && !hasMissing) else {
      throw .range("options->algorithm is UNMERGE_NMF_PROJECTED, which takes no penalties and no missing entries")
    }
    guard loss == .frobenius || (w.group == 0 && h.group == 0) else {
      throw .range("options->group_\(w.group > 0 ? "w" : "h") needs UNMERGE_LOSS_FROBENIUS")
    }
    if w.isSigned {
      guard algorithm == .hals || algorithm == .anls else {
        throw .range("options->nonnegative_w is 0; only UNMERGE_NMF_HALS and UNMERGE_NMF_ANLS let W be signed")
      }
      guard w.l1 == 0, w.group == 0 else {
        throw .range("options->\(w.l1 > 0 ? "l1_w" : "group_w") needs nonnegative_w = 1")
      }
    }
    let mayBound = algorithm == .hals && !w.isSigned
    switch o.unit {
    case UNMERGE_UNIT_AUTO:
      w.isUnit = mayBound && w.isNone && !h.isNone
      h.isUnit = mayBound && h.isNone && !w.isNone
    case UNMERGE_UNIT_NONE: break
    default:
      guard mayBound else { throw .range("options->unit needs UNMERGE_NMF_HALS and nonnegative_w = 1") }
      w.isUnit = o.unit == UNMERGE_UNIT_W
      h.isUnit = o.unit == UNMERGE_UNIT_H
    }
  }
}

@_cdecl("unmerge_nmf_create") @implementation
public func unmerge_nmf_create(
  _ x: UnsafePointer<unmerge_view>?, _ options: UnsafePointer<unmerge_nmf_options>?, _ run: UnsafePointer<unmerge_run>?,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let x = try modelData(x)
    let o = try read(options, "options")
    let watch = try Watch(run)
    guard let out else { throw .null("out") }
    try checkData(x)
    try check(o.components, "options->components", 1...65536, "between 1 and 65536")
    try choice(o.`init`, "options->init", 5)
    let model = try NMF(NMFOptions(o), rows: x.rows, columns: x.columns, components: Int(o.components))
    try Threads.withSingleThreadedBLAS { () throws(UnmergeError) in
      try model.start(DataMatrix(view: x, threads: watch.threads, hasMissing: o.missing == 1), o, watch)
    }
    try publish(ModelHandle(model), out)
  }
}

extension NMF {
  fileprivate func start(_ x: DataMatrix, _ o: unmerge_nmf_options, _ watch: Watch) throws(UnmergeError) {
    let seed = watch.seed
    let summary = try x.summary()
    if !options.w.isSigned { try x.checkNonnegative(summary.least, options.remedy) }
    let few = components <= min(rows, columns)
    let mayDecompose = few && !x.hasMissing && !options.w.isSigned
    switch o.`init` {
    case UNMERGE_INIT_GIVEN:
      try givenStart(o.w, "options->w", into: w, isTransposed: false, isSigned: options.w.isSigned)
      try givenStart(o.h, "options->h", into: h, isTransposed: true, isSigned: false)
    case UNMERGE_INIT_NNDSVD, UNMERGE_INIT_NNDSVDA,
      UNMERGE_INIT_AUTO where mayDecompose:
      guard mayDecompose else {
        throw .range(
          "options->init asks for singular vectors; they need all entries, components <= \(min(rows, columns)) and nonnegative_w = 1: use UNMERGE_INIT_RANDOM"
        )
      }
      let mean = summary.sum / (Double(rows) * Double(columns))
      try nndsvdStart(x, w, h, fill: o.`init` == UNMERGE_INIT_NNDSVD ? 0 : mean, seed: seed, watch)
    default:
      try randomStart(x, w, h, sum: options.w.isSigned ? 0 : summary.sum, seed: seed)
    }
    try begin()
  }

  package func write(_ bytes: inout ByteWriter) {
    for n in [rows, columns, components] { bytes.put(n) }
    let o = options
    bytes.put(Int(o.algorithm.rawValue))
    bytes.put(Int(o.loss.rawValue))
    for flag in [o.isSparsityOfEach, o.hasMissing, o.extrapolates] { bytes.put(flag ? 1 : 0) }
    for p in [o.w, o.h] {
      for value in [p.l1, p.l2, p.group] { bytes.put(value) }
      bytes.put(p.isUnit ? 1 : 0)
      bytes.put(p.isSigned ? 1 : 0)
    }
    bytes.put(o.sparsityW)
    bytes.put(o.sparsityH)
    let s = state
    bytes.put(s.iterations)
    bytes.put(s.isPlain ? 1 : 0)
    bytes.put(s.isStalled ? 1 : 0)
    bytes.put(s.momentum)
    bytes.put(s.largestMomentum)
    // May be infinite or, before the first step, not a number.
    for value in [s.objective, s.convergedAt] { bytes.put(Int(bitPattern: UInt(value.bitPattern))) }
    bytes.put(Int(bitPattern: UInt(s.data)))
    for f in factors { bytes.put(f.pointer, f.values.count) }
  }

  package convenience init(_ bytes: inout ByteReader) throws(UnmergeError) {
    let p = try bytes.integer("rows", 1...Int(Int32.max))
    let t = try bytes.integer("columns", 1...Int(Int32.max))
    let k = try bytes.integer("components", 1...65536)
    var o = NMFOptions()
    guard let algorithm = NMFOptions.Algorithm(rawValue: Int32(try bytes.integer("algorithm", 0...3))),
      let loss = NMFOptions.Loss(rawValue: Int32(try bytes.integer("loss", 0...1)))
    else { throw bytes.bad("its algorithm is unknown") }
    o.algorithm = algorithm
    o.loss = loss
    o.isSparsityOfEach = try bytes.integer("a flag", 0...1) == 1
    o.hasMissing = try bytes.integer("a flag", 0...1) == 1
    o.extrapolates = try bytes.integer("a flag", 0...1) == 1
    func penalty() throws(UnmergeError) -> FactorPenalty {
      FactorPenalty(
        l1: try bytes.number("l1"), l2: try bytes.number("l2"), group: try bytes.number("group"),
        isUnit: try bytes.integer("a flag", 0...1) == 1, isSigned: try bytes.integer("a flag", 0...1) == 1)
    }
    o.w = try penalty()
    o.h = try penalty()
    o.sparsityW = try bytes.number("a sparsity")
    o.sparsityH = try bytes.number("a sparsity")
    var s = State()
    s.iterations = try bytes.integer("iterations", 0...Int.max / 2)
    s.isPlain = try bytes.integer("a flag", 0...1) == 1
    s.isStalled = try bytes.integer("a flag", 0...1) == 1
    s.momentum = try bytes.number("momentum")
    s.largestMomentum = try bytes.number("momentum")
    func anything(_ name: String) throws(UnmergeError) -> Double {
      Double(bitPattern: UInt64(bitPattern: Int64(try bytes.integer(name, Int.min...Int.max))))
    }
    s.objective = try anything("objective")
    s.convergedAt = try anything("violation")
    s.data = UInt64(bitPattern: Int64(try bytes.integer("a fingerprint", Int.min...Int.max)))
    guard bytes.wordsLeft >= 2 * (p * k + t * k) else { throw bytes.bad("it ends inside its factors") }
    try self.init(o, rows: p, columns: t, components: k)
    state = s
    for f in factors { try bytes.numbers(into: f.pointer, f.values.count, "a factor") }
  }
}
