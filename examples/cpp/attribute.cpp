// Attribution through unmerge.hpp: five adapters one has, a checkpoint with two of them and one that nobody has inside.
//
//     c++ -std=c++17 attribute.cpp $(pkg-config --cflags --libs unmerge) && ./a.out
//
// Ends with 0 when both are named, nobody else is, and the answer says that something is missing.
#include <unmerge.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace {
constexpr std::int64_t modules = 6, rows = 96, cols = 128, rank = 4;
const std::vector<std::string> names{"law", "medicine", "code", "poetry", "chess"};
const std::vector<double> planted{0.5, 0, 0, 0.3, 0}, everything{0.5, 0, 0, 0.3, 0, 0.4}; // the last: nobody's
} // namespace

int main() try {
  std::mt19937 random(7);
  const auto noisy = [&](std::int64_t count, float size) {
    std::normal_distribution<float> normal(0, size);
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float &value : x) value = normal(random);
    return x;
  };
  // Operators borrow: the arrays must outlive them.
  std::vector<std::vector<float>> kept;
  kept.reserve(static_cast<std::size_t>(modules) * 14);
  const auto keep = [&](std::vector<float> x) { return kept.emplace_back(std::move(x)).data(); };

  unmerge::Operator atoms, all, base, target;
  for (const std::string &name : names) atoms.add_column(name), all.add_column(name);
  all.add_column("nobody's"), base.add_column("base"), target.add_column("merged");
  unmerge::recipe recipe;
  recipe.method = UNMERGE_MERGE_TASK_ARITHMETIC;
  recipe.weights = everything.data();
  for (std::int64_t m = 0; m < modules; m++) {
    const std::string name = "layers." + std::to_string(m) + ".v_proj";
    for (unmerge::Operator *op : {&atoms, &all, &base, &target}) op->add_module(name, rows, cols);
    const unmerge::view_type below = unmerge::view(keep(noisy(rows * cols, 0.05f)), rows, cols);
    const unmerge::view_type merged = unmerge::view(keep(noisy(rows * cols, 0)), rows, cols);
    for (std::int64_t t = 0; t < all.columns(); t++) {
      const unmerge::view_type b = unmerge::view(keep(noisy(rows * rank, 0.02f)), rows, rank);
      const unmerge::view_type a = unmerge::view(keep(noisy(rank * cols, 0.05f)), rank, cols);
      all.set_lora(m, t, b, a, 2);
      if (t < atoms.columns()) atoms.set_lora(m, t, b, a, 2);
    }
    base.set_dense(m, 0, below);
    unmerge::merge(all, base, recipe, m, merged); // what a tool would have stored
    target.set_dense(m, 0, merged, below);
  }

  const unmerge::Attribution found = unmerge::attribute(atoms, target);
  const unmerge_attribution_info info = found.info();
  int wrong = 0;
  std::printf("fine-tune  planted   found            90 %%   q-value\n");
  std::size_t j = 0;
  for (const unmerge_attributed_atom &atom : found.atoms()) {
    std::printf("%-9s %8.3f  %6.4f  %.4f .. %.4f  %8.1e%s\n", names[j].c_str(), planted[j], atom.weight, atom.low, atom.high,
                atom.q_value, atom.present ? "" : "  not found");
    wrong += (atom.present != 0) != (planted[j] != 0);
    wrong += atom.present != 0 && std::fabs(atom.weight - planted[j]) > 0.01;
    j++;
  }
  std::printf("%s: %.0f %% of the change is neither explained nor rounding\n",
              info.complete ? "complete" : "something is missing", 100 * info.unexplained);
  wrong += info.complete != 0 || !(info.unexplained > 0.1);

  // The whole recipe explains the file; without what nobody has it does not.
  const double right = unmerge::replay(all, target, recipe).share();
  const double without = unmerge::replay(atoms, target, found.recipe()).share();
  std::printf("stored values predicted: %.1f %% with it, %.1f %% without\n", 100 * right, 100 * without);
  wrong += right < 1 || without > 0.5;
  if (wrong != 0) std::fprintf(stderr, "%d answers are not as planted\n", wrong);
  return wrong != 0;
} catch (const std::exception &e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
