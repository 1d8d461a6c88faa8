import CUnmerge
import UnmergeCore
import UnmergeFactor

/// Every kind of model that can be saved. A new one is a row.
private let kinds: [any Model.Type] = [NMF.self, OnlineNMF.self, GramNMF.self]

@_cdecl("unmerge_model_load") @implementation
public func unmerge_model_load(
  _ bytes: UnsafeRawPointer?, _ size: Int64, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<unmerge_error>?
) -> unmerge_status {
  door(error) { () throws(UnmergeError) in
    guard let bytes else { throw .null("bytes") }
    guard let out else { throw .null("out") }
    try check(size, "size", 0...Int64.max / 2, ">= 0")
    let start = ByteReader.magic(bytes, Int(size)).dropLast()
    guard let kind = kinds.first(where: { $0.magic.dropLast() == start }) else {
      throw UnmergeError(UNMERGE_E_FORMAT, "bytes is not a saved model: it begins with none of their marks")
    }
    var reader = try ByteReader(bytes, Int(size), magic: kind.magic, what: "a saved model")
    let model = try kind.init(&reader)
    try reader.finish()
    try publish(ModelHandle(model), out)
  }
}
