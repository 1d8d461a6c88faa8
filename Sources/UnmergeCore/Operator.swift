import CUnmerge
import UnmergeLinalg

/// One column restricted to one module.
package enum Piece: Sendable {
  /// scale · (values − base)
  case dense(values: View, base: View?, scale: Double)
  /// scale · B·A, never formed
  case lora(b: View, a: View, scale: Double)

  package var isDense: Bool { if case .dense = self { true } else { false } }

  /// Needs more than float32 to be read without loss.
  package var isDouble: Bool {
    switch self {
    case .dense(let values, let base, _): values.type == .f64 || base?.type == .f64
    case .lora(let b, let a, _): b.type == .f64 || a.type == .f64
    }
  }
}

/// A rows×cols matrix of a model; its entries are rows·cols consecutive entries of every column.
package struct Module: Sendable {
  package let name: String
  package let rows: Int
  package let cols: Int
  /// By column; nil or beyond the end: the column is zero here.
  package var pieces: [Piece?] = []
  /// All columns at once, as a p×n matrix (cols = 1, pieces empty).
  package var matrix: View?

  package var entries: Int { rows * cols }

  package func piece(_ column: Int) -> Piece? {
    if let matrix { return .dense(values: matrix.column(column), base: nil, scale: 1) }
    return column < pieces.count ? pieces[column] : nil
  }

  /// Every column is set here.
  package func isFull(_ columns: Int) -> Bool {
    matrix != nil || (pieces.count == columns && pieces.allSatisfy { $0 != nil })
  }

  package var isDense: Bool { pieces.allSatisfy { $0?.isDense ?? true } }
  package var isDouble: Bool { matrix?.type == .f64 || pieces.contains { $0?.isDouble ?? false } }
}

/// What an operator is at one moment: columns over modules, in the caller's memory.
package struct Columns: Sendable {
  package var names: [String] = []
  package var modules: [Module] = []
  package var count: Int { names.count }
  package var entries: Int { modules.reduce(0) { saturatingSum($0, $1.entries) } }
}

package final class Operator: Handle, @unchecked Sendable {
  package static let kind: UInt = 1
  package static let name = "an operator"

  private var columns: Columns
  private var columnNames: Set<String>
  private var moduleNames: Set<String>
  private let lock = Lock()

  package init(_ columns: Columns = Columns()) {
    self.columns = columns
    columnNames = Set(columns.names)
    moduleNames = Set(columns.modules.map(\.name))
  }

  /// The operator as it is now; later changes do not reach it.
  package var snapshot: Columns { lock.locked { columns } }

  package func addModule(_ name: String, rows: Int, cols: Int) throws(UnmergeError) -> Int {
    try lock.locked { () throws(UnmergeError) in
      let entries = try product(rows, cols, "module '\(name)'")
      guard saturatingSum(columns.entries, entries) <= Int.max / 16 else {
        throw .shape("module '\(name)' makes p overflow")
      }
      guard columns.modules.first?.matrix == nil else {
        throw .range("op was made from a matrix; modules cannot be added to it")
      }
      guard moduleNames.insert(name).inserted else { throw .range("name '\(name)' is the name of another module already") }
      columns.modules.append(Module(name: name, rows: rows, cols: cols))
      return columns.modules.count - 1
    }
  }

  package func addColumn(_ name: String) throws(UnmergeError) -> Int {
    try lock.locked { () throws(UnmergeError) in
      guard columns.modules.first?.matrix == nil else {
        throw .range("op was made from a matrix; columns cannot be added to it")
      }
      guard columns.count < 1 << 20 else { throw .shape("op has \(columns.count) columns; more are not supported") }
      guard columnNames.insert(name).inserted else { throw .range("name '\(name)' is the name of another column already") }
      columns.names.append(name)
      return columns.count - 1
    }
  }

  package func set(_ piece: Piece, module: Int64, column: Int64) throws(UnmergeError) {
    try lock.locked { () throws(UnmergeError) in
      try check(
        module, "module", 0...Int64(max(columns.modules.count - 1, 0)),
        "an index of the operator's \(columns.modules.count) modules")
      try check(
        column, "column", 0...Int64(max(columns.count - 1, 0)), "an index of the operator's \(columns.count) columns")
      guard !columns.modules.isEmpty, columns.count > 0 else {
        throw .range("op has no modules or no columns yet; add them first")
      }
      let m = Int(module)
      let j = Int(column)
      guard columns.modules[m].matrix == nil else { throw .range("op was made from a matrix; its columns cannot be set") }
      let (rows, cols, name) = (columns.modules[m].rows, columns.modules[m].cols, columns.modules[m].name)
      func fits(_ v: View, _ what: String) throws(UnmergeError) {
        guard v.rows == rows, v.columns == cols else {
          throw .shape("\(what) is \(v.rows) x \(v.columns), but module '\(name)' is \(rows) x \(cols)")
        }
      }
      switch piece {
      case .dense(let values, let base, _):
        try fits(values, "values")
        if let base { try fits(base, "base") }
      case .lora(let b, let a, _):
        guard b.rows == rows, a.columns == cols, b.columns == a.rows else {
          throw .shape(
            "b is \(b.rows) x \(b.columns) and a is \(a.rows) x \(a.columns); module '\(name)' needs \(rows) x r and r x \(cols)"
          )
        }
        guard cols <= Int(Int32.max), a.rows <= Int(Int32.max) else {
          throw .shape("a is \(a.rows) x \(cols), too large for factors")
        }
      }
      if columns.modules[m].pieces.count <= j {
        columns.modules[m].pieces += Array(repeating: nil, count: columns.count - columns.modules[m].pieces.count)
      }
      columns.modules[m].pieces[j] = piece
    }
  }
}

/// The atoms and targets of a problem: the same modules in the same order.
package func checkSameModules(_ a: Columns, _ y: Columns) throws(UnmergeError) {
  guard a.modules.count == y.modules.count else {
    throw .shape("y has \(y.modules.count) modules, but a has \(a.modules.count); they must be the same")
  }
  for (m, n) in zip(a.modules, y.modules) where m.name != n.name || m.rows != n.rows || m.cols != n.cols {
    throw .shape(
      "module '\(n.name)' of y is \(n.rows) x \(n.cols), but in its place a has '\(m.name)', \(m.rows) x \(m.cols)")
  }
}

// MARK: the door

private func string(_ pointer: UnsafePointer<CChar>?, _ name: String) throws(UnmergeError) -> String {
  guard let pointer else { throw .null(name) }
  guard let s = String(validatingCString: pointer) else { throw .range("\(name) is not valid UTF-8") }
  return s
}

@_cdecl("unmerge_operator_create") @implementation
public func unmerge_operator_create(
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    guard let out else { throw .null("out") }
    try publish(Operator(), out)
  }
}

@_cdecl("unmerge_operator_from_matrix") @implementation
public func unmerge_operator_from_matrix(
  _ matrix: UnsafePointer<unmerge_view>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    guard let out else { throw .null("out") }
    let m = try view(matrix, "matrix")
    guard m.columns <= 1 << 20 else { throw .shape("matrix has \(m.columns) columns; at most \(1 << 20) are supported") }
    var columns = Columns()
    columns.names = (0..<m.columns).map(String.init)
    columns.modules = [Module(name: "", rows: m.rows, cols: 1, matrix: m)]
    try publish(Operator(columns), out)
  }
}

@_cdecl("unmerge_operator_add_module") @implementation
public func unmerge_operator_add_module(
  _ op: OpaquePointer?, _ name: UnsafePointer<CChar>?, _ rows: Int64, _ cols: Int64, _ index: UnsafeMutablePointer<Int64>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try object(op, "op", Operator.self)
    let name = try string(name, "name")
    try check(rows, "rows", 0...Int64.max, ">= 0")
    try check(cols, "cols", 0...Int64.max, ">= 0")
    let i = try o.addModule(name, rows: Int(rows), cols: Int(cols))
    index?.pointee = Int64(i)
  }
}

@_cdecl("unmerge_operator_add_column") @implementation
public func unmerge_operator_add_column(
  _ op: OpaquePointer?, _ name: UnsafePointer<CChar>?, _ index: UnsafeMutablePointer<Int64>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try object(op, "op", Operator.self)
    let i = try o.addColumn(try string(name, "name"))
    index?.pointee = Int64(i)
  }
}

@_cdecl("unmerge_operator_set_dense") @implementation
public func unmerge_operator_set_dense(
  _ op: OpaquePointer?, _ module: Int64, _ column: Int64, _ values: UnsafePointer<unmerge_view>?,
  _ base: UnsafePointer<unmerge_view>?, _ scale: Double, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try object(op, "op", Operator.self)
    let v = try view(values, "values")
    let b = base == nil ? nil : try view(base, "base")
    guard scale.isFinite else { throw .range("scale is \(scale); it must be finite") }
    try o.set(.dense(values: v, base: b, scale: scale), module: module, column: column)
  }
}

@_cdecl("unmerge_operator_set_lora") @implementation
public func unmerge_operator_set_lora(
  _ op: OpaquePointer?, _ module: Int64, _ column: Int64, _ b: UnsafePointer<unmerge_view>?,
  _ a: UnsafePointer<unmerge_view>?, _ scale: Double, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let o = try object(op, "op", Operator.self)
    let bView = try view(b, "b")
    let aView = try view(a, "a")
    guard scale.isFinite else { throw .range("scale is \(scale); it must be finite") }
    try o.set(.lora(b: bView, a: aView, scale: scale), module: module, column: column)
  }
}

@_cdecl("unmerge_operator_shape") @implementation
public func unmerge_operator_shape(
  _ op: OpaquePointer?, _ modules: UnsafeMutablePointer<Int64>?, _ columns: UnsafeMutablePointer<Int64>?,
  _ entries: UnsafeMutablePointer<Int64>?, _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    let s = try object(op, "op", Operator.self).snapshot
    modules?.pointee = Int64(s.modules.count)
    columns?.pointee = Int64(s.count)
    entries?.pointee = Int64(s.entries)
  }
}

@_cdecl("unmerge_operator_destroy") @implementation
public func unmerge_operator_destroy(_ op: OpaquePointer?) { release(op, Operator.self) }
