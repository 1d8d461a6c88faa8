/// Random bits as a function of where they are used: (seed, stream, index) give the same number in any order and on any
/// thread. Each word goes through the mixing function of splitmix64 (Steele, Lea & Flood 2014).
package enum CounterRandom {
  package static func bits(_ seed: UInt64, _ stream: UInt64, _ index: UInt64) -> UInt64 {
    mix(mix(mix(seed) ^ stream) ^ index)
  }

  /// Uniform on [0, 1).
  package static func uniform(_ seed: UInt64, _ stream: UInt64, _ index: Int) -> Double {
    Double(bits(seed, stream, UInt64(index)) >> 11) * 0x1p-53
  }

  private static func mix(_ x: UInt64) -> UInt64 {
    var z = x &+ 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
