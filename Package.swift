// swift-tools-version: 6.1
import PackageDescription

// Which OpenBLAS to link: the system's (default), or the copy a Python wheel carries, whose symbols have a prefix.
// No unsafe flags here: everything else the shared library needs (static runtime, soname, export list) comes from CMake.
let scipy = Context.environment["UNMERGE_OPENBLAS"] == "scipy"

let package = Package(
  name: "unmerge",
  products: [
    .library(name: "unmerge", type: .dynamic, targets: ["Unmerge"])
  ],
  targets: [
    .systemLibrary(name: "CUnmerge", path: "include"),
    .target(
      name: "COpenBLAS",
      cSettings: scipy ? [.define("UNMERGE_SCIPY_OPENBLAS")] : [],
      linkerSettings: [.linkedLibrary(scipy ? "scipy_openblas" : "openblas")]),
    .target(name: "CKernels", linkerSettings: [.linkedLibrary("m")]),

    // The rooms, in the order of the arrows. Only UnmergeLinalg may name BLAS.
    .target(name: "UnmergeLinalg", dependencies: ["COpenBLAS", "CKernels"]),
    .target(name: "UnmergeCore", dependencies: ["CUnmerge", "UnmergeLinalg"]),
    .target(name: "UnmergeSparse", dependencies: ["CUnmerge", "UnmergeCore", "UnmergeLinalg"]),
    .target(name: "UnmergeFactor", dependencies: ["CUnmerge", "UnmergeCore", "UnmergeLinalg", "UnmergeSparse"]),
    .target(name: "UnmergeMerge", dependencies: ["CUnmerge", "UnmergeCore", "UnmergeLinalg"]),
    .target(name: "Unmerge", dependencies: ["CUnmerge", "UnmergeCore", "UnmergeSparse", "UnmergeFactor", "UnmergeMerge"]),

    .testTarget(
      name: "UnmergeTests",
      dependencies: ["UnmergeLinalg", "UnmergeCore", "UnmergeSparse", "UnmergeFactor", "UnmergeMerge", "CUnmerge"]),
  ],
  swiftLanguageModes: [.v6]
)
