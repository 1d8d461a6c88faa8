import CKernels

/// Element types of the caller's arrays; raw values are those of the C header.
package enum ElementType: Int32, Sendable {
  case f64 = 1
  case f32 = 2
  case f16 = 3
  case bf16 = 4

  package var size: Int {
    switch self {
    case .f64: 8
    case .f32: 4
    case .f16, .bf16: 2
    }
  }
}

/// A 2-D array in somebody else's memory: element (i, j) lies `i * rowStride + j * columnStride` bytes from `base`.
/// Any stride: negative, zero, unaligned. Checked at the door, trusted here.
package struct View: @unchecked Sendable {
  package let base: UnsafeRawPointer
  package let type: ElementType
  package let rows: Int
  package let columns: Int
  package let rowStride: Int
  package let columnStride: Int

  package init(base: UnsafeRawPointer, type: ElementType, rows: Int, columns: Int, rowStride: Int, columnStride: Int) {
    self.base = base
    self.type = type
    self.rows = rows
    self.columns = columns
    self.rowStride = rowStride
    self.columnStride = columnStride
  }

  package func address(_ i: Int, _ j: Int) -> UnsafeRawPointer { base + i * rowStride + j * columnStride }

  package func column(_ j: Int) -> View {
    View(
      base: base + j * columnStride, type: type, rows: rows, columns: 1, rowStride: rowStride, columnStride: columnStride)
  }

  /// One element in double, for searches and small arrays; panels go through `load`.
  package func element(_ i: Int, _ j: Int) -> Double {
    var x = 0.0
    ck_load_f64(&x, address(i, j), type.rawValue, type.size, 1, 1, 0)
    return x
  }

  /// Pointer and leading dimension when the array is column-major (`trans` false: columns contiguous) or row-major
  /// (`trans` true) in `T` as BLAS wants it, so that it can be read where it is.
  package func inPlace<T: Real>(_: T.Type) -> (pointer: UnsafePointer<T>, leading: Int, rowMajor: Bool)? {
    let size = MemoryLayout<T>.size
    guard type == T.elementType, UInt(bitPattern: base) % UInt(size) == 0 else { return nil }
    let p = base.assumingMemoryBound(to: T.self)
    func fits(_ stride: Int, _ least: Int) -> Int? {
      guard stride > 0, stride % size == 0, stride / size >= max(least, 1), stride / size <= Int(Int32.max) else {
        return nil
      }
      return stride / size
    }
    if rowStride == size || rows == 1 {
      if columns == 1 { return (p, max(rows, 1), false) }
      if let ld = fits(columnStride, rows) { return (p, ld, false) }
    }
    if columnStride == size || columns == 1, let ld = fits(rowStride, columns) { return (p, ld, true) }
    return nil
  }
}
