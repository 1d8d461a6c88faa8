import CUnmerge
import Testing
import UnmergeLinalg

@testable import UnmergeCore

@Suite struct TilingTests {
  struct Shape: Sendable { let rows: Int, cols: Int, entries: Int, folds: Int }

  @Test(arguments: [
    Shape(rows: 5000, cols: 1, entries: 1024, folds: 1), Shape(rows: 7, cols: 3000, entries: 1024, folds: 1),
    Shape(rows: 300, cols: 17, entries: 100, folds: 3), Shape(rows: 1, cols: 1, entries: 1, folds: 1),
    Shape(rows: 2000, cols: 1, entries: 128, folds: 4), Shape(rows: 3, cols: 0, entries: 10, folds: 1),
    Shape(rows: 0, cols: 5, entries: 10, folds: 1),
  ])
  func tilesCoverEveryEntryOnce(_ s: Shape) {
    var seen = [Int](repeating: 0, count: s.rows * s.cols)
    let folds = Folds(count: s.folds, seed: 11)
    for fold in 0..<s.folds {
      let pick: ((Int) -> Bool)? = s.folds == 1 ? nil : { folds.fold(module: 2, row: $0, cols: s.cols) == fold }
      for tile in Tiling(rows: 0..<s.rows, cols: s.cols, entries: s.entries, pick: pick) {
        #expect(tile.rows == tile.runs.reduce(0) { $0 + $1.count })
        #expect(tile.entries <= max(s.entries, 1))
        for run in tile.runs { for i in run { for j in tile.cols { seen[i * s.cols + j] += 1 } } }
      }
    }
    #expect(seen.allSatisfy { $0 == 1 })
  }

  @Test func foldsAreBalancedAndFollowTheSeed() {
    let a = (0..<10_000).map { Folds(count: 5, seed: 1).fold(module: 0, row: $0, cols: 8) }
    let b = (0..<10_000).map { Folds(count: 5, seed: 2).fold(module: 0, row: $0, cols: 8) }
    #expect(a != b)
    for f in 0..<5 { #expect(abs(a.filter { $0 == f }.count - 2000) < 200) }
  }
}

@Suite struct DoorTests {
  @Test func handlesAreCheckedByKindAndGeneration() throws {
    let op = try register(Operator())
    _ = try object(op, "op", Operator.self)
    #expect(throws: UnmergeError.self) { _ = try object(op, "gram", Gram.self) }
    release(op, Gram.self)  // another kind: left alone
    _ = try object(op, "op", Operator.self)
    release(op, Operator.self)
    #expect(throws: UnmergeError.self) { _ = try object(op, "op", Operator.self) }
    let again = try register(Operator())  // the slot is used again, the old handle stays stale
    #expect(throws: UnmergeError.self) { _ = try object(op, "op", Operator.self) }
    release(again, Operator.self)
    release(again, Operator.self)
    for bits in [UInt(1), 0x9000_0000_0000_0000, .max, UInt(bitPattern: op) ^ 1] {
      #expect(throws: UnmergeError.self) { _ = try object(OpaquePointer(bitPattern: bits), "op", Operator.self) }
    }
  }

  @Test func structsOfOtherVersionsAreReadOrRefused() throws {
    let size = MemoryLayout<unmerge_run>.size
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: size + 64, alignment: 8)
    defer { bytes.deallocate() }
    let run = bytes.bindMemory(to: unmerge_run.self, capacity: 1)
    #expect(unmerge_run_init(run, size + 64) == UNMERGE_OK)
    run.pointee.tol = 1e-3
    #expect(try read(run, "run").tol == 1e-3)  // newer, zero tail
    bytes.storeBytes(of: 1, toByteOffset: size + 5, as: UInt8.self)
    #expect(throws: UnmergeError.self) { _ = try read(run, "run") }
    run.pointee.struct_size = 16  // older: knows tol only
    run.pointee.max_iter = 77
    #expect(try read(run, "run").max_iter == unmerge_run.defaults.max_iter)
    #expect(try read(run, "run").tol == 1e-3)
    for bad in [0, 7, 1 << 40] {
      run.pointee.struct_size = bad
      #expect(throws: UnmergeError.self) { _ = try read(run, "run") }
    }
  }

  @Test func aLongMessageIsCutAtACharacter() {
    var error = unmerge_error()
    let status = door(&error) { () throws(UnmergeError) in throw .range(String(repeating: "ä", count: 600)) }
    #expect(status == UNMERGE_E_RANGE)
    let text = withUnsafeBytes(of: &error.message) { String(validatingCString: $0.bindMemory(to: CChar.self).baseAddress!) }
    #expect(text == String(repeating: "ä", count: 251))
  }
}
