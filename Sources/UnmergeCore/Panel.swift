import UnmergeLinalg

/// Up to this many columns the exact Gram has a kernel of its own, faster than float32 BLAS.
let fewColumns = 16

/// What a pass wants of the data.
enum Request: Sendable {
  /// G, C, yy
  case complete
  /// C, yy and the diagonal of G
  case first
  /// G[:, columns]
  case columns([Int])

  /// Columns of the n-row matrix the pass fills.
  func width(_ n: Int) -> Int {
    switch self {
    case .complete: n
    case .first: 0
    case .columns(let columns): columns.count
    }
  }
}

/// Running sums of one block, or of one task of a pass, in double. `g` is n×width, `squares` the diagonal of G.
struct Sums: Sendable {
  let n: Int
  let g: Buffer<Double>
  let c: Buffer<Double>
  let yy: Buffer<Double>
  let squares: Buffer<Double>

  init(_ n: Int, _ targets: Int, _ request: Request) throws(UnmergeError) {
    self.n = n
    g = try allocate(try product(n, request.width(n), "the Gram"))
    c = try allocate(try product(n, targets, "C = A'Y"))
    yy = try allocate(targets)
    squares = try allocate(n)
  }

  func zero() {
    for b in [g, c, yy, squares] { b.zero() }
  }

  func add(_ other: Sums) {
    Double.accumulate(g.pointer, other.g.pointer, g.count)
    Double.accumulate(c.pointer, other.c.pointer, c.count)
    Double.accumulate(yy.pointer, other.yy.pointer, yy.count)
    Double.accumulate(squares.pointer, other.squares.pointer, squares.count)
  }

  /// Puts the diagonal that was summed in double in the place of float32's; returns the largest relative difference, which
  /// bounds what rounding did to the other entries, whose terms mostly cancel.
  func settleDiagonal() -> Double {
    var worst = 0.0
    for j in 0..<n where squares[j] > 0 {
      worst = max(worst, abs(g[j * n + j] / squares[j] - 1))
      g[j * n + j] = squares[j]
    }
    return worst
  }

  /// ⟨column i, column j⟩ += value, columns numbered atoms first, then targets; upper triangle of G.
  func add(_ i: Int, _ j: Int, _ value: Double) {
    let (low, high) = i <= j ? (i, j) : (j, i)
    if high < n {
      g[high * n + low] += value
      if low == high { squares[low] += value }
    } else if low < n {
      c[(high - n) * n + low] += value
    } else if low == high {
      yy[low - n] += value
    }
  }
}

/// Adds the inner products of a panel to sums. The panel is k rows of some atoms (X, n' columns, `lead` apart, or row-major)
/// and some targets (Y, column-major).
///
/// Invariant: what is added depends on the values alone, not on where X lies or how it is ordered in memory, so a matrix
/// read in place, copied, or fed in pieces gives the same bits.
struct PanelKernel<T: Real>: Sendable {
  let n: Int
  let request: Request
  /// Float panels whose values are exact and whose products are summed in double.
  let isWide: Bool
  private let product: Buffer<T>
  private let picked: Buffer<T>

  init(atoms: Int, targets: Int, _ request: Request, isWide: Bool = false) throws(UnmergeError) {
    n = atoms
    self.request = request
    self.isWide = isWide
    product = try allocate(max(try UnmergeCore.product(atoms, max(request.width(atoms), targets), "a panel's product"), 1))
    if case .columns(let columns) = request {
      picked = try allocate(try UnmergeCore.product(panelEntries, columns.count, "a panel"))
    } else {
      picked = try allocate(panelEntries)
    }
  }

  /// Sums go through the kernel for few columns; X is then wanted column-major.
  var isSmall: Bool {
    if case .complete = request { n <= fewColumns && (isWide || T.self == Double.self) } else { false }
  }

  /// Columns are few enough for a kernel that reads X once; X is then wanted column-major.
  var isFew: Bool {
    if case .columns(let columns) = request { T.self == Float.self && columns.count <= 32 } else { false }
  }

  /// X is wanted column-major: whatever is not BLAS takes it so.
  var wantsColumns: Bool {
    if isSmall || isWide || isFew || T.hasProducts { return true }
    if case .first = request { return true }
    return false
  }

  /// `atoms` are the atoms X holds (nil: all, in order), `targets` the targets Y holds; k ≤ panelEntries (`.first`: any).
  func add(
    _ x: UnsafePointer<T>, lead: Int, rowMajor: Bool, atoms: [Int]?, _ y: UnsafePointer<T>, leadY: Int, targets: [Int],
    rows k: Int,
    to sums: Sums
  ) {
    let m = atoms?.count ?? n
    guard k > 0 else { return }
    for (s, t) in targets.enumerated() { sums.yy[t] += T.squares(y + s * leadY, k) }
    guard m > 0 else { return }
    switch request {
    case .complete:
      if isSmall, atoms == nil {
        T.smallGram(sums.g.pointer, x, lead: lead, rows: k, columns: n)
        for (s, t) in targets.enumerated() {
          for j in 0..<n { sums.c[t * n + j] += T.dot(x + j * lead, y + s * leadY, k) }
        }
        return
      }
      if T.hasProducts {
        withPlaces(atoms) { places in
          T.products(
            sums.g.pointer, leadG: n, x, leadX: lead, m, rows: places, x, leadZ: lead, m, columns: places, k, upper: true)
        }
      } else {
        T.syrk(m, k, x, lead, rowMajor: rowMajor, product.pointer, m)
        for j in 0..<m {
          let column = product.pointer + j * m
          if let atoms {
            for i in 0...j { sums.g[atoms[j] * n + atoms[i]] += Double(column[i]) }
          } else {
            T.accumulate(sums.g.pointer + j * n, column, j + 1)
          }
        }
      }
      if T.self == Float.self, targets.count == 1 {
        // The diagonal once more in double, which shows what rounding did to the rest; C comes along.
        let t = targets[0]
        for j in 0..<m {
          let a = atoms?[j] ?? j
          T.dotSquares(
            contiguous(x, j, lead, rowMajor, k), y, k, sums.c.pointer + t * n + a, sums.squares.pointer + a)
        }
      } else {
        if T.self == Float.self { addSquares(x, lead, rowMajor, atoms, m, k, sums) }
        correlate(x, lead, rowMajor, atoms, m, y, leadY, targets, k, sums)
      }
    case .first:
      if isWide {
        for j in 0..<m {
          let a = atoms?[j] ?? j
          for i in stride(from: 0, to: k, by: panelEntries) {
            let rows = min(panelEntries, k - i)
            let column = x + j * lead + i
            for (s, t) in targets.enumerated() { sums.c[t * n + a] += T.dot(column, y + s * leadY + i, rows) }
            sums.squares[a] += T.squares(column, rows)
          }
        }
      } else if targets.count == 1, !rowMajor {
        let t = targets[0]
        for j in 0..<m {
          let a = atoms?[j] ?? j
          for i in stride(from: 0, to: k, by: panelEntries) {
            T.dotNorm(
              x + j * lead + i, y + i, min(panelEntries, k - i), sums.c.pointer + t * n + a, sums.squares.pointer + a)
          }
        }
      } else {
        addSquares(x, lead, rowMajor, atoms, m, k, sums)
        correlate(x, lead, rowMajor, atoms, m, y, leadY, targets, k, sums)
      }
    case .columns(let columns):
      // The chosen columns side by side, then one product with all of them.
      var width = 0
      var place: [Int] = []
      for (q, column) in columns.enumerated() {
        guard let j = atoms == nil ? column : atoms?.firstIndex(of: column) else { continue }
        let d = picked.pointer + width * k
        if rowMajor {
          for i in 0..<k { d[i] = x[i * lead + j] }
        } else {
          d.update(from: x + j * lead, count: k)
        }
        place.append(q)
        width += 1
      }
      guard width > 0 else { return }
      if isFew, atoms == nil, width == columns.count, !rowMajor,
        T.fewProducts(sums.g.pointer, n, x, lead: lead, rows: k, columns: m, picked.pointer, leadC: k, few: width)
      {
        return
      }
      if T.hasProducts {
        withPlaces(atoms) { rows in
          withPlaces(place) { columns in
            T.products(
              sums.g.pointer, leadG: n, x, leadX: lead, m, rows: rows, picked.pointer, leadZ: k, width, columns: columns, k,
              upper: false)
          }
        }
        return
      }
      T.gemm(!rowMajor, false, m, width, k, 1, x, lead, picked.pointer, k, 0, product.pointer, m)
      for (s, q) in place.enumerated() {
        let column = product.pointer + s * m
        if let atoms {
          for i in 0..<m { sums.g[q * n + atoms[i]] += Double(column[i]) }
        } else {
          T.accumulate(sums.g.pointer + q * n, column, m)
        }
      }
    }
  }

  private func withPlaces(_ places: [Int]?, _ body: (UnsafePointer<Int>?) -> Void) {
    if let places { places.withUnsafeBufferPointer { body($0.baseAddress) } } else { body(nil) }
  }

  /// Column j side by side: sums then run in the same order whatever the layout.
  private func contiguous(_ x: UnsafePointer<T>, _ j: Int, _ lead: Int, _ rowMajor: Bool, _ k: Int) -> UnsafePointer<T> {
    guard rowMajor else { return x + j * lead }
    for i in 0..<k { picked[i] = x[i * lead + j] }
    return UnsafePointer(picked.pointer)
  }

  private func addSquares(
    _ x: UnsafePointer<T>, _ lead: Int, _ rowMajor: Bool, _ atoms: [Int]?, _ m: Int, _ k: Int, _ sums: Sums
  ) {
    for j in 0..<m {
      sums.squares[atoms?[j] ?? j] += T.squares(contiguous(x, j, lead, rowMajor, k), k)
    }
  }

  private func correlate(
    _ x: UnsafePointer<T>, _ lead: Int, _ rowMajor: Bool, _ atoms: [Int]?, _ m: Int, _ y: UnsafePointer<T>, _ leadY: Int,
    _ targets: [Int], _ k: Int, _ sums: Sums
  ) {
    guard !targets.isEmpty else { return }
    T.gemm(!rowMajor, false, m, targets.count, k, 1, x, lead, y, leadY, 0, product.pointer, m)
    for (s, t) in targets.enumerated() {
      let column = product.pointer + s * m
      if let atoms {
        for i in 0..<m { sums.c[t * n + atoms[i]] += Double(column[i]) }
      } else {
        T.accumulate(sums.c.pointer + t * n, column, m)
      }
    }
  }
}
