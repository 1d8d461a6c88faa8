/* Hoyer's sparsity and group sparse projection: defaults, every bad argument, and answers recomputed from the arrays. */
#include "check.h"

static unmerge_error e;
enum { P = 40, R = 6 };

static double sp(const double *x, int64_t n, int64_t stride) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; i++) sum += fabs(x[i * stride]), squares += x[i * stride] * x[i * stride];
  return squares > 0 ? (sqrt((double)n) - sum / sqrt(squares)) / (sqrt((double)n) - 1) : 1;
}

static unmerge_group_sparse_options new_options(double sparsity) {
  unmerge_group_sparse_options o;
  memset(&o, 0x5a, sizeof o);
  CHECK(unmerge_group_sparse_options_init(&o, sizeof o) == UNMERGE_OK);
  o.sparsity = sparsity;
  return o;
}

static unmerge_group_sparse_report new_report(void) {
  unmerge_group_sparse_report r;
  CHECK(unmerge_group_sparse_report_init(&r, sizeof r) == UNMERGE_OK);
  return r;
}

static void defaults(void) {
  unmerge_group_sparse_options o;
  memset(&o, 0x5a, sizeof o);
  CHECK(unmerge_group_sparse_options_init(&o, sizeof o) == UNMERGE_OK && o.sparsity == 0.5 && o.weights == NULL);
  CHECK(o.objective == UNMERGE_OBJECTIVE_SURROGATE && o.normalise == UNMERGE_NORMALISE_NONE && o.refit == 0 && o.reserved == 0);
  unmerge_prox_options p;
  CHECK(unmerge_prox_options_init(&p, sizeof p) == UNMERGE_OK && p.sparsity == 0.5);
  CHECK(unmerge_group_sparse_options_init(NULL, sizeof o) == UNMERGE_E_NULL);
  CHECK(unmerge_group_sparse_report_init(NULL, 8) == UNMERGE_E_NULL && unmerge_group_sparsity_init(NULL, 8) == UNMERGE_E_NULL);
  unmerge_group_sparsity g;
  CHECK(unmerge_group_sparsity_init(&g, 4) == UNMERGE_E_VERSION);
}

/* The average of columns, of stretches of the same numbers, and of the two calls are one. */
static void columns_and_offsets(void) {
  double x[P * R], z[P * R], flat[P * R], y[P * R], found[R];
  uint64_t state = 3;
  for (int i = 0; i < P; i++)
    for (int j = 0; j < R; j++) x[i * R + j] = noise(&state) * (1 + 0.1 * j), flat[j * P + i] = x[i * R + j];
  unmerge_view xv = view_f64(x, P, R), zv = view_f64(z, P, R), fv = view_f64(flat, P * R, 1), yv = view_f64(y, P * R, 1);
  unmerge_group_sparse_options o = new_options(0.7);
  unmerge_group_sparse_report r = new_report(), s = new_report();
  unmerge_group_sparsity groups[R];
  for (int j = 0; j < R; j++) unmerge_group_sparsity_init(&groups[j], sizeof groups[j]);
  OK(unmerge_group_sparse_projection(&xv, NULL, R, &o, NULL, &zv, groups, &r, &e), e);
  int64_t offsets[R + 1];
  for (int j = 0; j <= R; j++) offsets[j] = (int64_t)j * P;
  OK(unmerge_group_sparse_projection(&fv, offsets, R, &o, NULL, &yv, NULL, &s, &e), e);
  double average = 0;
  int64_t nonzeros = 0;
  for (int j = 0; j < R; j++) {
    const double level = sp(z + j, P, R);
    average += level / (double)R;
    CHECK(fabs(groups[j].sparsity - level) <= 1e-12 && groups[j].state == 0);
    for (int i = 0; i < P; i++) {
      CHECK(z[i * R + j] == y[j * P + i]);
      CHECK(z[i * R + j] == 0 || (z[i * R + j] > 0) == (x[i * R + j] > 0));
      CHECK((z[i * R + j] != 0) == (fabs(x[i * R + j]) > groups[j].threshold));
      nonzeros += z[i * R + j] != 0;
    }
  }
  CHECK(fabs(average - 0.7) <= 1e-12 && fabs(r.sparsity - 0.7) <= 1e-12 && r.nonzeros == nonzeros);
  CHECK(r.outcome == UNMERGE_CONVERGED && r.flags == 0 && r.groups == R && r.relative_gap <= 1e-13 && r.duality_gap >= 0);
  CHECK(r.multiplier == s.multiplier && r.iterations == s.iterations && r.iterations > 1 && r.iterations < 30);
  OK(unmerge_hoyer_sparsity(&zv, NULL, R, NULL, found, &e), e);
  for (int j = 0; j < R; j++) CHECK(fabs(found[j] - groups[j].sparsity) <= 1e-12);
  OK(unmerge_group_sparse_projection(&xv, NULL, R, &o, NULL, &xv, NULL, NULL, &e), e); /* in place */
  CHECK(memcmp(x, z, sizeof x) == 0);
}

static void ragged_and_degenerate(void) {
  double x[9] = {3, -1, 0.5, 0, 0, 7, 1, 1, -1}, z[9];
  const int64_t offsets[6] = {0, 3, 5, 6, 6, 9}; /* a vector, zeros, one entry, none, ties */
  unmerge_view xv = view_f64(x, 9, 1), zv = view_f64(z, 9, 1);
  unmerge_group_sparse_options o = new_options(0.9);
  unmerge_group_sparse_report r = new_report();
  unmerge_group_sparsity g[5];
  for (int i = 0; i < 5; i++) unmerge_group_sparsity_init(&g[i], sizeof g[i]);
  OK(unmerge_group_sparse_projection(&xv, offsets, 5, &o, NULL, &zv, g, &r, &e), e);
  CHECK(fabs((sp(z, 3, 1) + 1 + sp(z + 6, 3, 1)) / 3 - 0.9) <= 1e-14);
  CHECK(z[3] == 0 && z[4] == 0 && z[5] == 7 && z[6] > z[7] && z[7] == -z[8]);
  CHECK(r.groups == 3 && r.excluded == 2 && r.zero_groups == 1 && r.flags == UNMERGE_FLAG_DISCONTINUITY);
  CHECK(g[1].state == UNMERGE_GROUP_ZERO && g[2].state == UNMERGE_GROUP_EXCLUDED && isnan(g[3].sparsity));
  CHECK(g[4].state & UNMERGE_GROUP_TIED);
  o.sparsity = 0;
  OK(unmerge_group_sparse_projection(&xv, offsets, 5, &o, NULL, &zv, NULL, &r, &e), e);
  CHECK(memcmp(x, z, sizeof x) == 0 && r.iterations == 0);
  o.sparsity = 1;
  OK(unmerge_group_sparse_projection(&xv, offsets, 5, &o, NULL, &zv, NULL, &r, &e), e);
  CHECK(z[0] == 3 && z[1] == 0 && z[2] == 0 && z[6] == 1 && z[7] == 0 && r.one_sparse == 2);
  unmerge_view none = view_f64(x, 0, 1);
  const int64_t nothing[1] = {0};
  OK(unmerge_group_sparse_projection(&none, nothing, 0, &o, NULL, &none, NULL, &r, &e), e);
  CHECK(r.groups == 0 && r.sparsity == 1 && r.nonzeros == 0);
}

static void bad_arguments(void) {
  double x[12], z[12], found[4];
  for (int i = 0; i < 12; i++) x[i] = i - 4.5, z[i] = 77;
  unmerge_view xv = view_f64(x, 12, 1), zv = view_f64(z, 12, 1), m = view_f64(x, 4, 3);
  const int64_t offsets[3] = {0, 5, 12};
  unmerge_group_sparse_options o = new_options(0.5);
#define CALL(x_, offsets_, n_, z_) unmerge_group_sparse_projection(x_, offsets_, n_, &o, NULL, z_, NULL, NULL, &e)
#define BAD(status, word, ...)                                                                                                 \
  do {                                                                                                                         \
    if (REFUSED(__VA_ARGS__, e, status)) NAMES(e, word);                                                                       \
    for (int i_ = 0; i_ < 12; i_++) CHECK(z[i_] == 77);                                                                        \
  } while (0)
  BAD(UNMERGE_E_NULL, "x", CALL(NULL, offsets, 2, &zv));
  BAD(UNMERGE_E_NULL, "z", CALL(&xv, offsets, 2, NULL));
  BAD(UNMERGE_E_SHAPE, "n_groups", CALL(&m, NULL, 4, &m));
  BAD(UNMERGE_E_SHAPE, "n_groups", CALL(&xv, offsets, -1, &zv));
  BAD(UNMERGE_E_SHAPE, "n_groups", CALL(&xv, offsets, INT64_MAX, &zv));
  BAD(UNMERGE_E_SHAPE, "one column", CALL(&m, offsets, 2, &m));
  BAD(UNMERGE_E_SHAPE, "z is 12 x 1", CALL(&m, NULL, 3, &zv));
  const int64_t late[3] = {1, 5, 12}, falling[3] = {0, 13, 12}, back[4] = {0, 6, 5, 12}, early[3] = {0, 5, 11},
                negative[3] = {0, -1, 12}, huge[3] = {0, INT64_MAX, 12};
  BAD(UNMERGE_E_RANGE, "offsets[0]", CALL(&xv, late, 2, &zv));
  BAD(UNMERGE_E_RANGE, "offsets[1]", CALL(&xv, falling, 2, &zv));
  BAD(UNMERGE_E_RANGE, "offsets[2]", CALL(&xv, back, 3, &zv));
  BAD(UNMERGE_E_RANGE, "offsets[2]", CALL(&xv, early, 2, &zv));
  BAD(UNMERGE_E_RANGE, "offsets[1]", CALL(&xv, negative, 2, &zv));
  BAD(UNMERGE_E_RANGE, "offsets[1]", CALL(&xv, huge, 2, &zv));
  const double levels[] = {NAN, INFINITY, -INFINITY, -1e-9, 1.0000001};
  for (int i = 0; i < 5; i++) {
    o.sparsity = levels[i];
    BAD(UNMERGE_E_RANGE, "sparsity", CALL(&xv, offsets, 2, &zv));
  }
  o.sparsity = 0.5, o.objective = 2;
  BAD(UNMERGE_E_RANGE, "objective", CALL(&xv, offsets, 2, &zv));
  o.objective = -1;
  BAD(UNMERGE_E_RANGE, "objective", CALL(&xv, offsets, 2, &zv));
  o.objective = 0, o.normalise = 3;
  BAD(UNMERGE_E_RANGE, "normalise", CALL(&xv, offsets, 2, &zv));
  o.normalise = 0, o.refit = 2;
  BAD(UNMERGE_E_RANGE, "refit", CALL(&xv, offsets, 2, &zv));
  o.refit = 0, o.reserved = 1;
  BAD(UNMERGE_E_VERSION, "reserved", CALL(&xv, offsets, 2, &zv));
  o.reserved = 0, o.struct_size = 3;
  BAD(UNMERGE_E_VERSION, "struct_size", CALL(&xv, offsets, 2, &zv));
  o.struct_size = sizeof o;
  double w[12] = {1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0};
  unmerge_view wv = view_f64(w, 12, 1), short_w = view_f64(w, 11, 1);
  o.weights = &wv;
  BAD(UNMERGE_E_RANGE, "group 1", CALL(&xv, offsets, 2, &zv));
  w[7] = -1;
  BAD(UNMERGE_E_RANGE, "weights[7, 0]", CALL(&xv, offsets, 2, &zv));
  w[7] = NAN;
  BAD(UNMERGE_E_RANGE, "weights[7, 0]", CALL(&xv, offsets, 2, &zv));
  o.weights = &short_w;
  BAD(UNMERGE_E_SHAPE, "weights", CALL(&xv, offsets, 2, &zv));
  o.weights = NULL;
  const double values[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    const double kept = x[8];
    x[8] = values[i];
    BAD(UNMERGE_E_NONFINITE, "x[8, 0]", CALL(&xv, offsets, 2, &zv));
    REFUSED(unmerge_hoyer_sparsity(&xv, offsets, 2, NULL, found, &e), e, UNMERGE_E_NONFINITE);
    x[8] = kept;
  }
  unmerge_run run = new_run();
  run.tol = 0;
  BAD(UNMERGE_E_RANGE, "tol", unmerge_group_sparse_projection(&xv, offsets, 2, &o, &run, &zv, NULL, NULL, &e));
  int32_t cancel = 1;
  run = new_run(), run.cancel = &cancel;
  BAD(UNMERGE_E_CANCELLED, "cancelled", unmerge_group_sparse_projection(&xv, offsets, 2, &o, &run, &zv, NULL, NULL, &e));
  unmerge_group_sparse_report r;
  memset(&r, 0, sizeof r);
  BAD(UNMERGE_E_VERSION, "report", unmerge_group_sparse_projection(&xv, offsets, 2, &o, NULL, &zv, NULL, &r, &e));
  unmerge_group_sparsity g[2];
  memset(g, 0, sizeof g);
  BAD(UNMERGE_E_VERSION, "groups", unmerge_group_sparse_projection(&xv, offsets, 2, &o, NULL, &zv, g, NULL, &e));
  REFUSED(unmerge_hoyer_sparsity(&xv, offsets, 2, NULL, NULL, &e), e, UNMERGE_E_NULL);
  unmerge_view half = zv;
  half.dtype = UNMERGE_F16;
  BAD(UNMERGE_E_DTYPE, "z", CALL(&xv, offsets, 2, &half));
  half = zv, half.strides[0] = 0;
  BAD(UNMERGE_E_SHAPE, "overlap", CALL(&xv, offsets, 2, &half));
  unmerge_prox_options p;
  unmerge_prox_options_init(&p, sizeof p);
  for (int i = 0; i < 5; i++) {
    p.sparsity = levels[i];
    BAD(UNMERGE_E_RANGE, "sparsity", unmerge_prox(UNMERGE_PROX_HOYER, &p, &xv, &zv, &e));
  }
  BAD(UNMERGE_E_RANGE, "kind", unmerge_prox(UNMERGE_PROX_NONNEGATIVE_HOYER + 1, NULL, &xv, &zv, &e));
  CALL(&xv, offsets, 2, &zv); /* and the same without what was bad */
  CHECK(e.status == UNMERGE_OK && fabs((sp(z, 5, 1) + sp(z + 5, 7, 1)) / 2 - 0.5) <= 1e-14);
}

/* A projection is not a convex penalty: composite problems refuse it. */
static void not_a_term(void) {
  problem q = make_problem(30, 3, 1);
  double w[3];
  unmerge_view v = view_f64(w, 3, 1);
  unmerge_term t;
  unmerge_term_init(&t, sizeof t);
  t.kind = UNMERGE_PROX_HOYER;
  REFUSED(unmerge_composite(q.gram, &t, 1, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  free_problem(&q);
}

MAIN(TEST(defaults), TEST(columns_and_offsets), TEST(ragged_and_degenerate), TEST(bad_arguments), TEST(not_a_term))
