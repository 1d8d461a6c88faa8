import CUnmerge
import UnmergeLinalg

/// Generic classes that calls of all kinds need. Swift's runtime makes their metadata when they are first used, and who comes
/// meanwhile waits; the child of a fork inherits that wait, but not the thread that would end it. So they are made together, by
/// the first call of all, which creates something and comes before there is anything to work on beside a fork.
private let metadata: [any Any.Type] = [
  Buffer<Double>.self, Buffer<Float>.self, Buffer<Int>.self, Buffer<Bool>.self, Buffer<Int8>.self, Buffer<UInt8>.self,
  Buffer<Int32>.self, Buffer<Int64>.self, Buffer<UInt64>.self, Buffer<CChar>.self, Buffer<UnsafePointer<Double>?>.self,
  Buffer<unmerge_report>.self, [Int].self, [Double].self, [Bool].self,
]

/// Called by the door; costs an atomic load once it is done.
@inline(__always)
func makeMetadata() { _ = metadata.count }
