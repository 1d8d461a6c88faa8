import CKernels

/// Votes of entries for the ratio D/τ, on a fixed grid that is geometric octave by octave.
package enum Spike {
  package static let points = 1980
  package static func ratio(_ point: Int) -> Double { Double(ck_spike_ratio(point)) }

  /// Of `edges`: counters, eight per point and one point more.
  package static let counters = 8 * (points + 1)

  /// Adds the edges of the entries' intervals; see ckernels.h. Returns how many entries voted.
  package static func vote(
    _ edges: UnsafeMutablePointer<Int32>, _ d: UnsafePointer<Float>, _ t: UnsafePointer<Float>,
    unit: UnsafePointer<Float>?, _ count: Int, minUnits: Float
  ) -> Int {
    ck_spikes(edges, points, d, t, unit, count, minUnits)
  }
}
