// Un-merging through unmerge.hpp: a base model, three fine-tunes and a LoRA adapter, and a merge of some of them.
//
//     c++ -std=c++17 decompose.cpp $(pkg-config --cflags --libs unmerge) && ./a.out
//
// Ends with 0 when the planted weights come out.
#include <unmerge.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

using matrix = std::vector<float>;

int main() try {
  constexpr std::int64_t rows = 192, cols = 128, rank = 8;
  const std::vector<std::string> modules{"layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"};
  const std::vector<std::string> names{"law", "medicine", "code", "poetry (LoRA)"};
  const std::vector<double> planted{0.6, 0.0, 0.3, 0.45};

  std::mt19937 random(1);
  const auto noisy = [&](std::int64_t count, float size) {
    std::normal_distribution<float> normal(0, size);
    matrix x(static_cast<std::size_t>(count));
    for (float &value : x) value = normal(random);
    return x;
  };

  // Operators borrow: the arrays must outlive them.
  std::vector<matrix> kept;
  kept.reserve(modules.size() * 7);
  const auto keep = [&](matrix x) -> matrix & { return kept.emplace_back(std::move(x)); };

  unmerge::Operator atoms, target;
  for (const std::string &name : names) atoms.add_column(name);
  target.add_column("merged");
  for (const std::string &name : modules) {
    const std::int64_t m = atoms.add_module(name, rows, cols);
    target.add_module(name, rows, cols);
    const matrix &base = keep(noisy(rows * cols, 1));
    matrix &merged = keep(base);
    for (std::int64_t t = 0; t < 3; t++) {
      matrix &tune = keep(noisy(rows * cols, 0.02f));
      for (std::size_t i = 0; i < tune.size(); i++) {
        tune[i] += base[i];
        merged[i] += static_cast<float>(planted[static_cast<std::size_t>(t)]) * (tune[i] - base[i]);
      }
      atoms.set_dense(m, t, unmerge::view(tune.data(), rows, cols), unmerge::view(base.data(), rows, cols));
    }
    const matrix &b = keep(noisy(rows * rank, 0.1f)), &a = keep(noisy(rank * cols, 0.1f));
    for (std::size_t i = 0; i < merged.size(); i++)
      for (std::size_t r = 0; r < rank; r++)
        merged[i] += static_cast<float>(planted[3]) * 2 * b[i / cols * rank + r] * a[r * cols + i % cols];
    atoms.set_lora(m, 3, unmerge::view(b.data(), rows, rank), unmerge::view(a.data(), rank, cols), 2);
    target.set_dense(m, 0, unmerge::view(merged.data(), rows, cols), unmerge::view(base.data(), rows, cols));
  }

  unmerge::run run;
  run.on_progress = [](const unmerge_progress &p) { // may throw; return false to cancel
    std::fprintf(stderr, "%s %3.0f %%\n", p.phase == UNMERGE_PHASE_PASS ? "reading" : "solving",
                 100.0 * static_cast<double>(p.done) / static_cast<double>(p.total));
    return true;
  };
  const unmerge::Gram gram(atoms, target, {}, run);
  const unmerge::result answer = unmerge::nnls(gram, {}, run);

  int wrong = 0;
  std::printf("fine-tune        planted   found\n");
  for (std::int64_t j = 0; j < answer.atoms; j++) {
    const std::size_t i = static_cast<std::size_t>(j);
    std::printf("%-16s %7.3f  %6.4f\n", names[i].c_str(), planted[i], answer(j));
    wrong += std::fabs(answer(j) - planted[i]) > 1e-3;
  }
  const unmerge_report &report = answer.report();
  std::printf("explained %.8f; relative gap %.1e, violation %.1e, %s\n", report.r2, report.relative_gap, report.violation,
              unmerge::outcome_name(report.outcome));
  wrong += report.outcome != UNMERGE_CONVERGED || report.r2 < 0.999;

  // The certificate once more, from the data itself.
  unmerge::problem nonnegative;
  nonnegative.positive = 1;
  const unmerge::verification checked = unmerge::verify(atoms, target, nonnegative, answer.coef);
  std::printf("verified from the data: violation %.1e\n", checked.reports.at(0).violation);
  wrong += !(checked.reports.at(0).violation < 1e-5);

  // A question that cannot be answered is an exception that says why.
  unmerge::lasso_options options;
  options.alpha = -1;
  try {
    unmerge::lasso(gram, options);
    wrong++;
  } catch (const unmerge::error &e) {
    std::printf("refused as it should be: %s\n", e.what());
  }
  if (wrong != 0) std::fprintf(stderr, "%d answers are not as planted\n", wrong);
  return wrong != 0;
} catch (const std::exception &e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
