import Testing
import UnmergeLinalg

@testable import UnmergeMerge

struct IntervalsTests {
  /// P(|N(0, s²) + U(−h, h)| ≤ m) by the trapezoidal rule over the uniform part.
  private func share(_ m: Double, _ s: Double, _ h: Double) -> Double {
    let steps = 4000
    return (0...steps).reduce(0) { sum, i in
      let u = h * (2 * Double(i) / Double(steps) - 1)
      let inside = Platform.normal((m - u) / s) - Platform.normal((-m - u) / s)
      return sum + inside * (i == 0 || i == steps ? 0.5 : 1) / Double(steps)
    }
  }

  @Test(arguments: [0.5, 0.9, 0.99], [0.01, 0.3, 1, 10])
  func halfWidthsHoldTheirShare(level: Double, half: Double) {
    #expect(abs(share(halfWidth(level, error: 1, half: half), 1, half) - level) < 1e-4)
  }

  @Test func halfWidthsHaveTheirLimits() {
    #expect(abs(halfWidth(0.9, error: 2, half: 0) - 3.2897) < 1e-3)
    #expect(abs(halfWidth(0.9, error: 0, half: 2) - 1.8) < 1e-12)
  }

  /// A weight written with two digits that a tool rounded is in the cell of what it became; one that storage holds exactly, or an
  /// equal share, has no cell.
  @Test func roundedWeightsHaveTheCellOfTheTool() {
    let rounded = RoundedWeights(type: .bf16)
    for recipe in [0.53, 0.81, -0.37, 0.29] {
      let stored = Double(ElementType.bf16.round(Float(recipe)))
      let (w, margin) = rounded.intervals([Estimate(value: stored + 1e-5, error: 1e-5)], share: 1, modules: 100)[0]
      #expect(w == stored)
      #expect(abs(recipe - w) <= margin)
      #expect(margin <= abs(stored) / 128)
    }
    for plain in [0.5, 1.0 / 3, 0.2] {
      let (w, margin) = rounded.intervals([Estimate(value: plain, error: 1e-6)], share: 0.9, modules: 100)[0]
      #expect(w == plain)
      #expect(margin < 2e-6)
    }
    let (_, margin) = RoundedWeights(type: nil).intervals([Estimate(value: 0.53, error: 1e-6)], share: 0.9, modules: 100)[0]
    #expect(margin < 2e-6)
  }
}
