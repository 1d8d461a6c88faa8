// unmerge.hpp: ownership, exceptions, callbacks that throw, and every function once.
#include "unmerge.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>

namespace {

int failures = 0;
#define CHECK(condition)                                                                                                       \
  do {                                                                                                                         \
    if (!(condition)) {                                                                                                        \
      failures++;                                                                                                              \
      std::printf("    %s:%d: %s is false\n", __FILE__, __LINE__, #condition);                                                 \
    }                                                                                                                          \
  } while (0)

// f throws an unmerge::error with this status, and its text names the word.
template <class F> void refuses(int line, unmerge_status status, const char *word, F &&f) {
  try {
    f();
  } catch (const unmerge::error &e) {
    if (e.status() != status || std::string(e.what()).find(word) == std::string::npos) {
      failures++;
      std::printf("    line %d: %s: %s\n", line, unmerge::status_name(e.status()), e.what());
    }
    return;
  } catch (const std::exception &e) {
    failures++;
    std::printf("    line %d: another exception: %s\n", line, e.what());
    return;
  }
  failures++;
  std::printf("    line %d: nothing was thrown\n", line);
}
#define REFUSES(status, word, ...) refuses(__LINE__, status, word, [&] { __VA_ARGS__; })

constexpr std::int64_t p = 300, n = 6;

struct data {
  std::vector<double> a, y, truth{1, 0, 0.5, 0, 0, 2};
  data() : a(p * n), y(p) {
    std::uint64_t state = 1;
    for (double &x : a) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      x = static_cast<double>(state >> 11) * 0x1.0p-53 - 0.5;
    }
    for (std::size_t i = 0; i < p; i++) {
      y[i] = 0.001 * std::sin(static_cast<double>(i));
      for (std::size_t j = 0; j < n; j++) y[i] += a[i * n + j] * truth[j];
    }
  }
  unmerge::Operator atoms() const { return unmerge::Operator::from_matrix(unmerge::view(a.data(), p, n)); }
  unmerge::Operator target() const { return unmerge::Operator::from_matrix(unmerge::view(y)); }
  unmerge::Gram gram() const { return unmerge::Gram(atoms(), target()); }
};

bool close(double a, double b, double tol) { return std::fabs(a - b) <= tol; }

void ownership() {
  static_assert(!std::is_copy_constructible_v<unmerge::Gram> && !std::is_copy_assignable_v<unmerge::Gram>);
  static_assert(std::is_nothrow_move_constructible_v<unmerge::Gram> && std::is_nothrow_move_assignable_v<unmerge::Operator>);
  const data d;
  unmerge::Gram g = d.gram();
  CHECK(g && g.atoms() == n && g.targets() == 1);
  unmerge_gram *const raw = g.get();
  unmerge::Gram moved = std::move(g);
  CHECK(moved.get() == raw);
  CHECK(!g); // NOLINT: moved from on purpose
  REFUSES(UNMERGE_E_NULL, "", unmerge::nnls(g));
  g = std::move(moved);
  CHECK(g.get() == raw && unmerge::nnls(g).report().outcome == UNMERGE_CONVERGED);
  {
    const unmerge::Gram owner(g.release()); // destroyed here
  }
  unmerge::Gram stale(raw);
  REFUSES(UNMERGE_E_HANDLE, "", unmerge::nnls(stale));
  std::vector<unmerge::Operator> many;
  for (int i = 0; i < 100; i++) many.push_back(d.atoms());
  many.erase(many.begin() + 10, many.begin() + 50);
  for (const unmerge::Operator &op : many) CHECK(op.columns() == n);
}

void errors() {
  const data d;
  const unmerge::Gram g = d.gram();
  unmerge::lasso_options o;
  o.alpha = -1;
  REFUSES(UNMERGE_E_RANGE, "alpha", unmerge::lasso(g, o));
  o.alpha = std::numeric_limits<double>::quiet_NaN();
  REFUSES(UNMERGE_E_RANGE, "alpha", unmerge::lasso(g, o));
  REFUSES(UNMERGE_E_SHAPE, "", unmerge::Operator::from_matrix(unmerge::view(d.a.data(), -1, 3)));
  REFUSES(UNMERGE_E_SHAPE, "", unmerge::Operator::from_matrix(unmerge::view(d.a.data(), 3, std::numeric_limits<std::int64_t>::max())));
  REFUSES(UNMERGE_E_SHAPE, "", unmerge::nnls(g, {}, {}, std::vector<double>(3)));
  REFUSES(UNMERGE_E_SHAPE, "", unmerge::Gram(d.atoms(), unmerge::Operator::from_matrix(unmerge::view(d.y.data(), 7, 1))));
  data bad;
  bad.a[5 * n + 3] = std::numeric_limits<double>::infinity();
  REFUSES(UNMERGE_E_NONFINITE, "5", bad.gram());
  REFUSES(UNMERGE_E_FORMAT, "", unmerge::Gram::load(std::vector<unsigned char>(100)));
  unmerge::path_options none;
  none.n_alphas = -3;
  REFUSES(UNMERGE_E_RANGE, "n_alphas", unmerge::lasso_path(g, none));
  REFUSES(UNMERGE_E_RANGE, "l1_ratio", unmerge::alpha_max(g, 2));
  try {
    unmerge::lasso(g, o);
  } catch (const std::runtime_error &e) { // what people catch
    CHECK(std::string(e.what()).size() > 10);
  }
}

void methods() {
  const data d;
  const unmerge::Operator a = d.atoms(), y = d.target();
  const unmerge::Gram g(a, y);
  const unmerge::result w = unmerge::nnls(g);
  CHECK(w.atoms == n && w.columns == 1 && w.coef.size() == n && w.reports.size() == 1);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(w(j), d.truth[static_cast<std::size_t>(j)], 0.01));
  CHECK(w.report().outcome == UNMERGE_CONVERGED && w.report().r2 > 0.99);
  const std::vector<double> alphas = unmerge::alpha_max(g);
  unmerge::lasso_options lasso;
  lasso.alpha = 0.01 * alphas.at(0);
  const unmerge::result l = unmerge::lasso(g, lasso);
  const unmerge::result warm = unmerge::lasso(g, lasso, {}, l.coef);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(l(j), warm(j), 1e-8));
  lasso.alpha = 1, lasso.relative = 1;
  for (double x : unmerge::lasso(g, lasso).coef) CHECK(x == 0);
  unmerge::elastic_net_options net;
  net.alpha = 0.1, net.l1_ratio = 0.3;
  CHECK(unmerge::elastic_net(g, net).report().outcome == UNMERGE_CONVERGED);
  unmerge::ridge_options ridge;
  ridge.alpha = 0;
  unmerge::dot_options dot;
  dot.variant = UNMERGE_DOT_JOINT;
  const unmerge::result ls = unmerge::ridge(g, ridge), joint = unmerge::dot(g, dot);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(ls(j), joint(j), 1e-9));
  unmerge::path_options path;
  path.n_alphas = 7;
  const unmerge::path_result pr = unmerge::lasso_path(g, path);
  const std::int64_t offsets[] = {0, 2}, members[] = {0, 1};
  unmerge::group_options groups;
  groups.alpha = 0.5, groups.relative = 1, groups.n_groups = 1, groups.offsets = offsets, groups.members = members;
  CHECK(unmerge::group_lasso(g, groups).report().outcome == UNMERGE_CONVERGED);
  unmerge::group_path_options grid;
  grid.n_alphas = 5;
  CHECK(unmerge::group_lasso_path(g, groups, grid).alphas[4] > 0);
  CHECK(pr.columns == 7 && pr.alphas.size() == 7 && close(pr.alphas[0], alphas[0], 1e-9 * alphas[0]) && pr.report(0).nonzeros == 0);
  unmerge::omp_options omp;
  omp.k = 3;
  const unmerge::omp_result three = unmerge::omp(g, omp);
  CHECK(three.k == 3 && three.order.size() == 3 && three.order[0] == 5 && three(1) == 0 && three(5) != 0);
  omp.k = std::numeric_limits<std::int64_t>::max();
  CHECK((unmerge::omp(g, omp).report().flags & UNMERGE_FLAG_CLIPPED) != 0);
  unmerge::pursuit_options pursuit;
  pursuit.k = 3;
  const unmerge::omp_result greedy = unmerge::pursuit(g, pursuit);
  CHECK(greedy.order == three.order && greedy.coef == three.coef);
  pursuit.k = std::numeric_limits<std::int64_t>::max(), pursuit.kind = UNMERGE_PURSUIT_OLS;
  CHECK((unmerge::pursuit(g, pursuit).report().flags & UNMERGE_FLAG_CLIPPED) != 0);
  unmerge::thresholding_options htp;
  htp.k = 3;
  const unmerge::result kept = unmerge::thresholding(g, htp);
  CHECK(kept.report().nonzeros == 3 && unmerge::thresholding(g, htp, {}, kept.coef).report().nonzeros == 3);
  unmerge::best_subset_options subset;
  subset.k = 3;
  const unmerge::result best = unmerge::best_subset(g, subset), sizes = unmerge::best_subset_path(g, subset);
  CHECK((best.report().flags & UNMERGE_FLAG_SWAP_OPTIMAL) != 0 && best.report().rss <= three.report().rss * (1 + 1e-12));
  CHECK(sizes.columns == 3 && sizes.reports.size() == 3 && sizes.reports[0].nonzeros == 1);
  unmerge::mcp_options mcp;
  mcp.alpha = 1, mcp.relative = 1;
  CHECK(unmerge::mcp(g, mcp).report().nonzeros == 0);
  const unmerge::result c0 = unmerge::cel0(g);
  CHECK((c0.report().flags & UNMERGE_FLAG_LOCAL_MINIMUM) != 0 && unmerge::cel0(g, {}, {}, c0.coef).report().outcome == UNMERGE_CONVERGED);
  CHECK(unmerge::scad(g).report().violation < 1e-9 && unmerge::lq(g).report().violation < 1e-9);
  unmerge::fused_lasso_options fused;
  fused.l1_ratio = 1, fused.alpha = 0.1, fused.relative = 1;
  lasso.alpha = 0.1;
  const unmerge::result chain = unmerge::fused_lasso(g, fused), module = unmerge::fused_lasso_modules(g, 1, fused);
  const unmerge::result sorted = unmerge::slope(g), plain = unmerge::lasso(g, lasso);
  CHECK(sorted.report().relative_gap < 1e-9);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(chain(j), plain(j), 1e-9) && close(module(j), plain(j), 1e-9));
  std::vector<double> x = {3, -1, 0.5}, z(3);
  unmerge::prox(UNMERGE_PROX_L1, unmerge::view(x), unmerge::view(z));
  CHECK(z[0] == 2 && z[1] == 0 && z[2] == 0);
  unmerge::problem nonnegative;
  nonnegative.positive = 1;
  const unmerge::verification v = unmerge::verify(a, y, nonnegative, w.coef);
  CHECK(v.reports.at(0).streamed == 1 && v.residual_correlation.size() == n);
  CHECK(unmerge::refine(g, a, y, nonnegative, w).report().violation < 1e-9);
  CHECK(std::string(unmerge::version()) == "1.0.0" && *unmerge::blas_description() != 0);
  CHECK(std::string(unmerge::outcome_name(w.report().outcome)) == "converged");
}

void constraints() {
  const data d;
  const unmerge::Gram g = d.gram();
  unmerge::ridge_options plain;
  plain.alpha = 0;
  const unmerge::result least = unmerge::ridge(g, plain);
  std::vector<double> lower(n, -1.0), upper(n, 0.4);
  unmerge::bvls_options box;
  box.lower = lower.data(), box.upper = upper.data();
  const unmerge::result inside = unmerge::bvls(g, box);
  CHECK(inside(0) == 0.4 && inside(5) == 0.4 && inside(1) > -1 && inside.report().outcome == UNMERGE_CONVERGED);
  CHECK(unmerge::bvls(g, box, {}, inside.coef).coef == inside.coef);
  unmerge::simplex_options mixture;
  mixture.total = 3.5;
  const unmerge::constrained_result shares = unmerge::simplex(g, mixture);
  CHECK(close(std::accumulate(shares.coef.begin(), shares.coef.end(), 0.0), 3.5, 1e-12) && shares.multiplier.size() == 1);
  unmerge::lasso_tau_options budget;
  budget.tau = 2;
  const unmerge::constrained_result held = unmerge::lasso_tau(g, budget);
  double norm = 0;
  for (double x : held.coef) norm += std::fabs(x);
  CHECK(close(norm, 2, 1e-12) && held.multiplier.at(0) > 0);
  unmerge::lasso_options same; // the LASSO at the multiplier
  same.alpha = held.multiplier[0];
  const unmerge::result penalised = unmerge::lasso(g, same);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(held(j), penalised(j), 1e-8));
  unmerge::bpdn_options noise;
  noise.sigma = std::sqrt(held.report().rss);
  const unmerge::constrained_result again = unmerge::bpdn(g, noise);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(held(j), again(j), 1e-8));
  noise.sigma = 0.1 * std::sqrt(least.report().rss);
  REFUSES(UNMERGE_E_INFEASIBLE, "sigma", unmerge::bpdn(g, noise));
  const unmerge::result shortest = unmerge::basis_pursuit(g);
  unmerge::dantzig_options selector;
  selector.delta = 0;
  const unmerge::result limit = unmerge::dantzig(g, selector);
  for (std::int64_t j = 0; j < n; j++) CHECK(close(shortest(j), least(j), 1e-9) && close(limit(j), least(j), 1e-8));
  selector.delta = 1, selector.relative = 1;
  CHECK(unmerge::dantzig(g, selector).report().nonzeros == 0);
  const std::int64_t offsets[] = {0, 2, 6}, members[] = {0, 1, 2, 3, 4, 5};
  unmerge::group_options groups;
  groups.n_groups = 2, groups.offsets = offsets, groups.members = members, groups.group_norm = UNMERGE_GROUP_NORM_PREDICTION;
  groups.alpha = unmerge::group_alpha_max(g, groups).at(0);
  CHECK(unmerge::group_lasso(g, groups).report().nonzeros == 0);
  groups.alpha *= 0.5;
  CHECK(unmerge::group_lasso(g, groups).report().nonzeros >= 2);
  budget.tau = -1;
  REFUSES(UNMERGE_E_RANGE, "tau", unmerge::lasso_tau(g, budget));
  upper.assign(n, 0.1);
  mixture.upper = upper.data();
  REFUSES(UNMERGE_E_INFEASIBLE, "", unmerge::simplex(g, mixture));
}

void operators_and_masks() {
  const std::vector<float> values(12, 2.0f), base(12, 1.5f);
  const std::vector<float> b{1, 2, 3, 4}, a{1, 1, 2};
  unmerge::Operator op;
  CHECK(op.add_module("layers.0", 4, 3) == 0);
  CHECK(op.add_column("law") == 0 && op.add_column("medicine") == 1);
  op.set_dense(0, 0, unmerge::view(values.data(), 4, 3), unmerge::view(base.data(), 4, 3), 0.5);
  op.set_lora(0, 1, unmerge::view(b.data(), 4, 1), unmerge::view(a.data(), 1, 3));
  CHECK(op.modules() == 1 && op.columns() == 2 && op.entries() == 12);
  unmerge::Operator y;
  y.add_module("layers.0", 4, 3);
  y.add_column("merged");
  const std::vector<double> target(12, 0.5);
  y.set_dense(0, 0, unmerge::view(target.data(), 4, 3));
  const unmerge::result w = unmerge::nnls(unmerge::Gram(op, y));
  CHECK(close(w(0), 2, 1e-10) && close(w(1), 0, 1e-10));
  REFUSES(UNMERGE_E_RANGE, "", op.add_column("law"));
  unmerge::mask_options mo;
  mo.per_module = 5;
  const unmerge::Mask mask(op, mo);
  const std::vector<std::int64_t> kept = mask.indices(0);
  CHECK(mask.count() == 5 && kept.size() == 5 && kept[4] == 11);
  unmerge::gram_options go;
  go.mask = mask.get();
  CHECK(unmerge::Gram(op, y, go).info().entries == 5);

  // bf16 and column-major
  const std::vector<std::uint16_t> ones(12, 0x3f80);
  const unmerge::Operator half = unmerge::Operator::from_matrix(unmerge::view(ones.data(), unmerge::dtype::bf16, 12, 1));
  const unmerge::Operator twelve = unmerge::Operator::from_matrix(unmerge::view(target));
  CHECK(close(unmerge::nnls(unmerge::Gram(half, twelve))(0), 0.5, 1e-12));
  const std::vector<double> columns{1, 0, 0, 0, 2, 0};
  const std::vector<double> diagonal{3, 4, 0};
  const unmerge::Operator cm = unmerge::Operator::from_matrix(unmerge::view_columns(columns.data(), 3, 2));
  const unmerge::result c = unmerge::nnls(unmerge::Gram(cm, unmerge::Operator::from_matrix(unmerge::view(diagonal))));
  CHECK(close(c(0), 3, 1e-12) && close(c(1), 2, 1e-12));
}

void grams() {
  const data d;
  const unmerge::Gram g = d.gram();
  const unmerge::gram_arrays whole = g.arrays();
  const unmerge::Gram again = unmerge::Gram::from_arrays(unmerge::view(whole.g.data(), n, n), unmerge::view(whole.c),
                                                         unmerge::view(whole.yy), p);
  const unmerge::Gram loaded = unmerge::Gram::load(g.save());
  const unmerge::result w = unmerge::nnls(g);
  CHECK(unmerge::nnls(again).coef == w.coef && unmerge::nnls(loaded).coef == w.coef);
  CHECK(g.block(0).module.empty() && g.block(0).entries == p);
  const unmerge::Gram twice = unmerge::Gram::merge(g, again);
  CHECK(close(twice.arrays().yy[0], 2 * whole.yy[0], 1e-12 * whole.yy[0]));
  const unmerge::Gram sub = g.subset(std::vector<std::int64_t>{5, 2});
  CHECK(sub.atoms() == 2 && sub.arrays().g[0] == whole.g[5 * n + 5]);
  CHECK(g.subset(unmerge::all, std::vector<std::int64_t>{0}).atoms() == n);
  unmerge::Accumulator acc(n);
  acc.add(unmerge::view(d.a.data(), 100, n), unmerge::view(d.y.data(), 100, 1));
  acc.add(unmerge::view(d.a.data() + 100 * n, 200, n), unmerge::view(d.y.data() + 100, 200, 1));
  CHECK(unmerge::nnls(acc.finish()).coef == w.coef);
}

// Five adapters over four modules, and a float checkpoint merged from them by task arithmetic.
struct merged_model {
  static constexpr std::int64_t modules = 4, rows = 48, cols = 64, rank = 2, tunes = 5;
  std::vector<double> weights{0.5, 0, 0.25, 0, 0};
  std::vector<std::vector<float>> kept;
  unmerge::Operator atoms, base, target;
  unmerge::recipe recipe;

  merged_model() {
    std::uint64_t state = 3;
    const auto noisy = [&](std::int64_t count, float size) {
      std::vector<float> x(static_cast<std::size_t>(count));
      for (float &value : x) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = size * (static_cast<float>(state >> 40) * 0x1.0p-24f - 0.5f);
      }
      return kept.emplace_back(std::move(x)).data();
    };
    kept.reserve(100);
    for (std::int64_t t = 0; t < tunes; t++) atoms.add_column("tune " + std::to_string(t));
    base.add_column("base");
    target.add_column("merged");
    recipe.method = UNMERGE_MERGE_TASK_ARITHMETIC;
    recipe.weights = weights.data();
    for (std::int64_t m = 0; m < modules; m++) {
      for (unmerge::Operator *op : {&atoms, &base, &target}) op->add_module("layers." + std::to_string(m), rows, cols);
      const unmerge::view_type below = unmerge::view(noisy(rows * cols, 0.2f), rows, cols);
      float *const merged = noisy(rows * cols, 0);
      for (std::int64_t t = 0; t < tunes; t++)
        atoms.set_lora(m, t, unmerge::view(noisy(rows * rank, 0.1f), rows, rank),
                       unmerge::view(noisy(rank * cols, 0.1f), rank, cols));
      base.set_dense(m, 0, below);
      unmerge::merge(atoms, base, recipe, m, unmerge::view(merged, rows, cols));
      target.set_dense(m, 0, unmerge::view(merged, rows, cols), below);
    }
  }
};

void recipes() {
  const merged_model d;
  const unmerge::replayed r = unmerge::replay(d.atoms, d.target, d.recipe);
  const std::int64_t entries = d.modules * d.rows * d.cols;
  CHECK(r.modules.size() == 4 && r.modules[3].entries == d.rows * d.cols);
  CHECK(r.total.entries == entries && r.total.equal == entries && r.share() == 1);
  const std::vector<double> other{0.5, 0, 0.3, 0, 0};
  unmerge::recipe wrong = d.recipe;
  wrong.weights = other.data();
  CHECK(unmerge::replay(d.atoms, d.target, wrong).share() < 0.5);
  std::vector<double> out(static_cast<std::size_t>(d.rows * d.cols));
  unmerge::merge(d.atoms, d.base, d.recipe, 2, unmerge::view(out.data(), d.rows, d.cols));
  CHECK(out[5] != 0);
  const unmerge::view_type o = unmerge::view(out.data(), d.rows, d.cols);
  REFUSES(UNMERGE_E_RANGE, "module", unmerge::merge(d.atoms, d.base, d.recipe, 9, o));
  wrong.weights = nullptr;
  REFUSES(UNMERGE_E_NULL, "weights", unmerge::replay(d.atoms, d.target, wrong));
  wrong = d.recipe;
  wrong.method = 99;
  REFUSES(UNMERGE_E_RANGE, "method", unmerge::replay(d.atoms, d.target, wrong));
  CHECK(std::string(unmerge::merge_name(UNMERGE_MERGE_TIES)) == "ties" && std::string(unmerge::merge_name(0)) == "unknown");
  CHECK(std::isnan(unmerge::replayed().share()));
}

void attributions() {
  static_assert(!std::is_copy_constructible_v<unmerge::Attribution>);
  static_assert(std::is_nothrow_move_constructible_v<unmerge::Attribution>);
  const merged_model d;
  const unmerge::Attribution found = unmerge::attribute(d.atoms, d.target);
  const unmerge_attribution_info info = found.info();
  CHECK(info.atoms == d.tunes && info.modules == d.modules && info.complete == 1);
  CHECK(info.compared == d.modules * d.rows * d.cols);
  const std::vector<unmerge_attributed_atom> atoms = found.atoms();
  CHECK(atoms.size() == 5);
  for (std::size_t j = 0; j < atoms.size(); j++) {
    CHECK((atoms[j].present != 0) == (d.weights[j] != 0));
    CHECK(close(atoms[j].weight, d.weights[j], 1e-3) && atoms[j].low <= atoms[j].weight && atoms[j].weight <= atoms[j].high);
  }
  const unmerge::attribution_modules m = found.modules();
  CHECK(m.weights.size() == 20 && m.unexplained.size() == 4 && close(m.weights[0], 0.5, 1e-2) && m.unexplained[3] < 0.01);
  CHECK(found.has_recipe());
  const unmerge::recipe again = found.recipe();
  CHECK(unmerge::replay(d.atoms, d.target, again).share() > 0.97);
  unmerge::attribute_options o;
  o.fdr = 2;
  REFUSES(UNMERGE_E_RANGE, "fdr", unmerge::attribute(d.atoms, d.target, o));
  REFUSES(UNMERGE_E_SHAPE, "", unmerge::attribute(d.atoms, d.atoms));
  unmerge::cancel_flag flag;
  flag.set();
  unmerge::run r;
  r.cancel = flag.address();
  REFUSES(UNMERGE_E_CANCELLED, "", unmerge::attribute(d.atoms, d.target, {}, r));
  unmerge::Attribution none = unmerge::Attribution(nullptr);
  REFUSES(UNMERGE_E_NULL, "", none.info());
}

struct planned {
  int value;
};

// A pass that would take hours, and a callback.
void callbacks() {
  const double one = 1;
  const std::int64_t rows = std::int64_t(1) << 40;
  const unmerge::Operator a = unmerge::Operator::from_matrix(unmerge::view_bytes(&one, unmerge::dtype::f64, rows, 4, 0, 0));
  const unmerge::Operator y = unmerge::Operator::from_matrix(unmerge::view_bytes(&one, unmerge::dtype::f64, rows, 1, 0, 0));
  unmerge::run r;
  r.deadline = 20;
  auto alive = std::make_shared<int>(0);
  r.on_progress = [alive](const unmerge_progress &progress) -> bool {
    CHECK(progress.phase == UNMERGE_PHASE_PASS && progress.total > 0);
    if (++*alive == 2) throw planned{42};
    return true;
  };
  bool caught = false;
  try {
    unmerge::Gram(a, y, {}, r);
  } catch (const planned &e) { // the exception itself, not a translation
    caught = e.value == 42;
  }
  CHECK(caught && *alive == 2);
  r.on_progress = [](const unmerge_progress &) { return false; };
  REFUSES(UNMERGE_E_CANCELLED, "", unmerge::Gram(a, y, {}, r));
  r.on_progress = nullptr;
  unmerge::cancel_flag flag;
  r.cancel = flag.address();
  flag.set();
  CHECK(flag.is_set());
  REFUSES(UNMERGE_E_CANCELLED, "", unmerge::Gram(a, y, {}, r));
  flag.clear();
  r.deadline = 0.05;
  REFUSES(UNMERGE_E_DEADLINE, "deadline", unmerge::Gram(a, y, {}, r));
  const data d; // the library is as good as new
  r.deadline = 0;
  CHECK(unmerge::nnls(d.gram(), {}, r).report().outcome == UNMERGE_CONVERGED);
}

void spans() {
  std::vector<double> v{1, 2, 3};
  const std::vector<double> c{1, 2, 3};
  double raw[2] = {1, 2};
  const std::array<double, 2> array{1, 2};
  const unmerge::span<const double> s1(v), s2(c), s3(raw), s4(array), none;
  const unmerge::span<double> s5(v);
  CHECK(s1.size() == 3 && s2[1] == 2 && s3.size() == 2 && s4.data() == array.data() && none.empty() && none.data() == nullptr);
  s5[0] = 7;
  CHECK(v[0] == 7 && std::accumulate(s5.begin(), s5.end(), 0.0) == 12);
  const unmerge_view view = unmerge::view(c);
  CHECK(view.dtype == UNMERGE_F64 && view.shape[0] == 3 && view.shape[1] == 1 && view.strides[0] == 8);
  const unmerge_view matrix = unmerge::view(s5.data(), 1, 3);
  CHECK(matrix.strides[0] == 24 && matrix.strides[1] == 8);
  CHECK(unmerge::view(std::array<float, 2>{1, 2}).dtype == UNMERGE_F32);
}

void models() {
  // X = W H exactly, of rank 2.
  const std::vector<double> w{1, 0, 2, 1, 0, 3, 1, 1, 4, 0}, h{1, 2, 0, 1, 0, 1, 3, 1};
  std::vector<double> x(20);
  for (std::size_t i = 0; i < 5; i++)
    for (std::size_t j = 0; j < 4; j++) x[i * 4 + j] = w[2 * i] * h[j] + w[2 * i + 1] * h[4 + j];
  const unmerge_view data = unmerge::view(x.data(), 5, 4);
  unmerge::nmf_options options;
  options.components = 2;
  unmerge::run r;
  r.max_iter = 2000;
  r.tol = 1e-9;
  unmerge::Model model = unmerge::Model::nmf(data, options);
  const unmerge_report report = model.step(data, r);
  CHECK(report.outcome == UNMERGE_CONVERGED && report.rss < 1e-12 * report.yy);
  CHECK(model.info().rows == 5 && model.info().columns == 4 && model.info().components == 2);
  const std::vector<double> found = model.components(), codes = model.codes();
  CHECK(found.size() == 10 && codes.size() == 8);
  double worst = 0;
  for (std::size_t i = 0; i < 5; i++)
    for (std::size_t j = 0; j < 4; j++)
      worst = std::max(worst, std::abs(x[i * 4 + j] - found[2 * i] * codes[j] - found[2 * i + 1] * codes[4 + j]));
  CHECK(worst < 1e-5);
  const unmerge::Model again = unmerge::Model::load(model.save());
  CHECK(again.components() == found && again.codes() == codes);
  const std::vector<double> same = again.transform(data);
  double change = 0;
  for (std::size_t i = 0; i < 8; i++) change = std::max(change, std::abs(same[i] - codes[i]));
  CHECK(change < 1e-4);
  REFUSES(UNMERGE_E_NULL, "x", model.step(r));
  options.components = 0;
  REFUSES(UNMERGE_E_RANGE, "components", unmerge::Model::nmf(data, options));

  unmerge::group_sparse_options half;
  half.sparsity = 0.75;
  std::vector<double> z(20);
  const unmerge_view to = unmerge::view(z.data(), 5, 4);
  const unmerge::group_sparse_report sparse = unmerge::group_sparse_projection(data, to, half);
  CHECK(std::abs(sparse.sparsity - 0.75) < 1e-9 && sparse.groups == 4);
}

} // namespace

int main() {
  const struct {
    const char *name;
    void (*run)();
  } tests[] = {{"ownership", ownership},       {"errors", errors},   {"methods", methods},     {"constraints", constraints},
               {"operators_and_masks", operators_and_masks},         {"grams", grams},
               {"recipes", recipes},           {"attributions", attributions},
               {"callbacks", callbacks},       {"spans", spans},               {"models", models}};
  int failed = 0;
  for (const auto &test : tests) {
    failures = 0;
    try {
      test.run();
    } catch (const std::exception &e) {
      failures++;
      std::printf("    unexpected: %s\n", e.what());
    }
    failed += failures != 0;
    std::printf("%s %s\n", failures == 0 ? "ok    " : "FAILED", test.name);
  }
  return failed != 0;
}
