/* Group penalties from C: the optimality conditions recomputed from the arrays, modules, latent coefficients, refusals. */
#include "check.h"

static unmerge_error e;
enum { P = 300, N = 12, G = 4, T = 2, MODULES = 3 };
static const int64_t offsets[G + 1] = {0, 3, 6, 9, 12};
static const int64_t members[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

static unmerge_group_options some(double alpha) {
  unmerge_group_options o;
  CHECK(unmerge_group_options_init(&o, sizeof o) == UNMERGE_OK);
  CHECK(o.alpha == 1 && o.l1_ratio == 0 && o.ridge == 0 && o.offsets == NULL && o.n_groups == 0 && o.relative == 0);
  o.alpha = alpha, o.n_groups = G, o.offsets = offsets, o.members = members;
  return o;
}

/* Distance of A'(y - Aw) from the subdifferential of the penalty, group by group, over alpha. */
static void optimal(const problem *q, const double *w, int64_t t, double alpha, double l1_ratio, double ridge) {
  double h[N] = {0};
  for (int64_t i = 0; i < q->p; i++) {
    double r = q->y[i * q->targets + t];
    for (int j = 0; j < N; j++) r -= q->a[i * N + j] * w[j * T + t];
    for (int j = 0; j < N; j++) h[j] += q->a[i * N + j] * r;
  }
  const double k = alpha * (1 - l1_ratio) * sqrt(3.0), l = alpha * l1_ratio;
  for (int g = 0; g < G; g++) {
    double size = 0, over = 0;
    for (int j = 3 * g; j < 3 * g + 3; j++) {
      size += w[j * T + t] * w[j * T + t];
      const double excess = fmax(0, fabs(h[j]) - l);
      over += excess * excess;
    }
    if (size == 0) {
      CHECKF(sqrt(over) <= k * (1 + 1e-9), "(group %d: %g and %g)", g, sqrt(over), k);
      continue;
    }
    for (int j = 3 * g; j < 3 * g + 3; j++) {
      const double x = w[j * T + t], d = h[j] - ridge * x - k * x / sqrt(size);
      CHECKF(x != 0 ? fabs(d - copysign(l, x)) <= 1e-8 * alpha : fabs(h[j]) <= l * (1 + 1e-9), "(atom %d: %g)", j, d);
    }
  }
}

static void conditions_of_optimality(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], top[T];
  unmerge_view v = view_f64(w, N, T);
  unmerge_report r[T];
  for (int t = 0; t < T; t++) unmerge_report_init(&r[t], sizeof r[t]);
  for (int kind = 0; kind < 3; kind++) {
    unmerge_group_options o = some(1);
    o.l1_ratio = kind == 1 ? 0.3 : 0, o.ridge = kind == 2 ? 5 : 0;
    OK(unmerge_group_alpha_max(q.gram, &o, NULL, top, &e), e);
    const double alpha[] = {0.6 * top[0], 0.05 * top[0], fmax(top[0], top[1])};
    for (int a = 0; a < 3; a++) {
      o.alpha = alpha[a];
      OK(unmerge_group_lasso(q.gram, &o, NULL, &v, NULL, r, &e), e);
      for (int t = 0; t < T; t++) {
        CHECKF(r[t].outcome == UNMERGE_CONVERGED && r[t].relative_gap <= 1e-10, "(%d, gap %g)", r[t].outcome, r[t].relative_gap);
        CHECK(r[t].df >= 0 && r[t].df <= (double)N);
        optimal(&q, w, t, o.alpha, o.l1_ratio, o.ridge);
      }
    }
    for (int i = 0; i < N * T; i++) CHECK(w[i] == 0);
  }
  /* Without options: each atom by itself, which is the LASSO. */
  double lasso[N * T];
  unmerge_view lv = view_f64(lasso, N, T);
  OK(unmerge_lasso(q.gram, NULL, NULL, &lv, NULL, &e), e);
  OK(unmerge_group_lasso(q.gram, NULL, NULL, &v, NULL, NULL, &e), e);
  for (int i = 0; i < N * T; i++) CHECKF(fabs(w[i] - lasso[i]) <= 1e-12, "(%g and %g)", w[i], lasso[i]);
  free_problem(&q);
}

static void overlap_and_warm_start(void) {
  problem q = make_problem(P, N, 1);
  const int64_t o3[] = {0, 5, 10, 14}, m3[] = {0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 7, 8, 9, 10};
  double w[N], latent[14], again[N], parts[14];
  unmerge_view v = view_f64(w, N, 1), lv = view_f64(latent, 14, 1), av = view_f64(again, N, 1), pv = view_f64(parts, 14, 1);
  unmerge_group_options o = some(0.2);
  o.relative = 1, o.n_groups = 3, o.offsets = o3, o.members = m3, o.l1_ratio = 0.1;
  OK(unmerge_group_lasso(q.gram, &o, NULL, &v, &lv, NULL, &e), e);
  for (int j = 0; j < 11; j++) {
    double sum = 0;
    for (int k = 0; k < 14; k++) sum += m3[k] == j ? latent[k] : 0;
    CHECKF(fabs(sum - w[j]) <= 1e-15 * fabs(sum), "(atom %d)", j);
  }
  memcpy(again, w, sizeof w), memcpy(parts, latent, sizeof latent);
  o.warm_start = 1;
  unmerge_run run;
  unmerge_run_init(&run, sizeof run);
  run.max_iter = 0;
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  OK(unmerge_group_lasso(q.gram, &o, &run, &av, &pv, &r, &e), e);
  CHECK(r.outcome == UNMERGE_CONVERGED && memcmp(w, again, sizeof w) == 0 && memcmp(latent, parts, sizeof latent) == 0);
  free_problem(&q);
}

static void path(void) {
  problem q = make_problem(P, N, T);
  enum { STEPS = 20 };
  double w[N * STEPS], alphas[STEPS], single[N * T];
  unmerge_view v = view_f64(w, N, STEPS), sv = view_f64(single, N, T);
  unmerge_group_options o = some(1);
  unmerge_group_path_options p;
  CHECK(unmerge_group_path_options_init(&p, sizeof p) == UNMERGE_OK);
  CHECK(p.n_alphas == 100 && p.alpha_min_ratio == 1e-3 && p.target == 0);
  p.n_alphas = STEPS, p.target = 1;
  OK(unmerge_group_lasso_path(q.gram, &o, &p, NULL, alphas, &v, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECK(w[j * STEPS] == 0);
  for (int i = 1; i < STEPS; i += 6) {
    o.alpha = alphas[i];
    OK(unmerge_group_lasso(q.gram, &o, NULL, &sv, NULL, NULL, &e), e);
    for (int j = 0; j < N; j++) CHECKF(fabs(single[j * T + 1] - w[j * STEPS + i]) < 1e-8, "(step %d, atom %d)", i, j);
  }
  p.target = T;
  REFUSED(unmerge_group_lasso_path(q.gram, &o, &p, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_RANGE);
  NAMES(e, "path->target");
  free_problem(&q);
}

/* Three modules of P rows; the explicit dictionary has N columns per module, zero elsewhere. */
static void modules(void) {
  enum { ROWS = MODULES * P, WIDE = MODULES * N };
  problem q[MODULES];
  double *a = doubles(ROWS * WIDE), *y = doubles(ROWS), w[N * MODULES], x[WIDE];
  unmerge_operator *ao = NULL, *yo = NULL, *xo = NULL, *xy = NULL;
  unmerge_gram *gram = NULL, *explicit = NULL;
  OK(unmerge_operator_create(&ao, &e), e);
  OK(unmerge_operator_create(&yo, &e), e);
  for (int j = 0; j < N; j++) OK(unmerge_operator_add_column(ao, (char[]){(char)('a' + j), 0}, NULL, &e), e);
  OK(unmerge_operator_add_column(yo, "y", NULL, &e), e);
  for (int m = 0; m < MODULES; m++) {
    q[m] = make_problem(P, N, 1);
    const char name[] = {'m', (char)('0' + m), 0};
    OK(unmerge_operator_add_module(ao, name, P, 1, NULL, &e), e);
    OK(unmerge_operator_add_module(yo, name, P, 1, NULL, &e), e);
    for (int i = 0; i < P; i++) {
      q[m].y[i] *= m + 1; /* modules that differ */
      y[m * P + i] = q[m].y[i];
      for (int j = 0; j < N; j++) a[(m * P + i) * WIDE + m * N + j] = q[m].a[i * N + j];
    }
    for (int j = 0; j < N; j++) {
      unmerge_view column = view_f64(q[m].a + j, P, 1);
      column.strides[0] = N * 8;
      OK(unmerge_operator_set_dense(ao, m, j, &column, NULL, 1, &e), e);
    }
    unmerge_view target = view_f64(q[m].y, P, 1);
    OK(unmerge_operator_set_dense(yo, m, 0, &target, NULL, 1, &e), e);
  }
  OK(unmerge_gram_create(ao, yo, NULL, NULL, &gram, &e), e);
  unmerge_view av = view_f64(a, ROWS, WIDE), yv = view_f64(y, ROWS, 1);
  OK(unmerge_operator_from_matrix(&av, &xo, &e), e);
  OK(unmerge_operator_from_matrix(&yv, &xy, &e), e);
  OK(unmerge_gram_create(xo, xy, NULL, NULL, &explicit, &e), e);

  unmerge_group_options o;
  unmerge_group_options_init(&o, sizeof o);
  o.alpha = 0.2, o.relative = 1, o.l1_ratio = 0.2;
  unmerge_view v = view_f64(w, N, MODULES), xv = view_f64(x, WIDE, 1);
  OK(unmerge_group_lasso_modules(gram, &o, NULL, &v, NULL, NULL, &e), e); /* one group per atom */
  int64_t atom_offsets[N + 1], atom_members[WIDE];
  for (int j = 0; j <= N; j++) atom_offsets[j] = j * MODULES;
  for (int j = 0; j < N; j++)
    for (int m = 0; m < MODULES; m++) atom_members[j * MODULES + m] = m * N + j;
  o.n_groups = N, o.offsets = atom_offsets, o.members = atom_members;
  OK(unmerge_group_lasso(explicit, &o, NULL, &xv, NULL, NULL, &e), e);
  int in = 0;
  for (int j = 0; j < N; j++)
    for (int m = 0; m < MODULES; m++) {
      in += w[j * MODULES + m] != 0;
      CHECKF(fabs(w[j * MODULES + m] - x[m * N + j]) < 1e-8, "(atom %d, module %d: %g)", j, m, w[j * MODULES + m]);
    }
  CHECK(in > 0 && in < WIDE);
  v = view_f64(w, N, MODULES - 1);
  REFUSED(unmerge_group_lasso_modules(gram, &o, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
  NAMES(e, "coef");
  unmerge_gram_destroy(gram), unmerge_gram_destroy(explicit);
  unmerge_operator_destroy(ao), unmerge_operator_destroy(yo), unmerge_operator_destroy(xo), unmerge_operator_destroy(xy);
  for (int m = 0; m < MODULES; m++) free_problem(&q[m]);
  free(a), free(y);
}

/* One group of all atoms: w is least squares shortened, by what ||A w|| allows. */
static void norm_of_the_prediction(void) {
  problem q = make_problem(60, N, 1);
  const int64_t all[] = {0, N};
  int64_t every[N];
  double w[N], least[N], latent[N], top = 0;
  for (int j = 0; j < N; j++) every[j] = j;
  unmerge_view v = view_f64(w, N, 1), lv = view_f64(least, N, 1), pv = view_f64(latent, N, 1);
  unmerge_group_options o = some(0);
  o.n_groups = 1, o.offsets = all, o.members = every, o.group_norm = UNMERGE_GROUP_NORM_PREDICTION;
  OK(unmerge_group_alpha_max(q.gram, &o, NULL, &top, &e), e);
  OK(unmerge_group_lasso(q.gram, &o, NULL, &lv, NULL, NULL, &e), e);
  o.alpha = 0.25 * top;
  OK(unmerge_group_lasso(q.gram, &o, NULL, &v, &pv, NULL, &e), e);
  for (int j = 0; j < N; j++) {
    CHECK(fabs(w[j] - 0.75 * least[j]) <= 1e-8 * (1 + fabs(least[j])));
    CHECK(latent[j] == w[j]);
  }
  free_problem(&q);
}

static void verified(void) {
  problem q = make_problem(P, N, 1);
  double w[N];
  unmerge_view v = view_f64(w, N, 1);
  unmerge_group_options o = some(0.2);
  o.l1_ratio = 0.3;
  OK(unmerge_group_lasso(q.gram, &o, NULL, &v, NULL, NULL, &e), e);
  unmerge_problem claim;
  unmerge_problem_init(&claim, sizeof claim);
  claim.groups = &o;
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  OK(unmerge_verify(q.ao, q.yo, &claim, NULL, &v, NULL, &r, &e), e);
  CHECK(r.outcome == UNMERGE_CONVERGED && r.streamed == 1 && r.relative_gap <= 1e-10);
  w[0] += 1;
  OK(unmerge_verify(q.ao, q.yo, &claim, NULL, &v, NULL, &r, &e), e);
  CHECK(r.outcome != UNMERGE_CONVERGED);
  REFUSED(unmerge_refine(q.gram, q.ao, q.yo, &claim, NULL, &v, NULL, &e), e, UNMERGE_E_RANGE);
  NAMES(e, "problem->groups");
  o.relative = 1;
  REFUSED(unmerge_verify(q.ao, q.yo, &claim, NULL, &v, NULL, &r, &e), e, UNMERGE_E_RANGE);
  o.relative = 0, claim.alpha = 1;
  REFUSED(unmerge_verify(q.ao, q.yo, &claim, NULL, &v, NULL, &r, &e), e, UNMERGE_E_RANGE);
  free_problem(&q);
}

static void refusals(void) {
  problem q = make_problem(50, N, 1);
  double w[N], top[1];
  for (int j = 0; j < N; j++) w[j] = 7;
  unmerge_view v = view_f64(w, N, 1), short_latent = view_f64(top, 1, 1);
  unmerge_group_options o = some(1);
#define REFUSES(code, name)                                                                                                    \
  REFUSED(unmerge_group_lasso(q.gram, &o, NULL, &v, NULL, NULL, &e), e, code);                                                 \
  NAMES(e, name);                                                                                                              \
  REFUSED(unmerge_group_alpha_max(q.gram, &o, NULL, top, &e), e, code);                                                        \
  o = some(1)
  o.alpha = -1;
  REFUSES(UNMERGE_E_RANGE, "options->alpha");
  o.l1_ratio = NAN;
  REFUSES(UNMERGE_E_RANGE, "options->l1_ratio");
  o.ridge = INFINITY;
  REFUSES(UNMERGE_E_RANGE, "options->ridge");
  o.relative = 2;
  REFUSES(UNMERGE_E_RANGE, "options->relative");
  o.reserved = 1;
  REFUSES(UNMERGE_E_VERSION, "options->reserved");
  o.reserved2 = 1;
  REFUSES(UNMERGE_E_VERSION, "options->reserved2");
  o.group_norm = 2;
  REFUSES(UNMERGE_E_RANGE, "options->group_norm");
  o.group_norm = UNMERGE_GROUP_NORM_PREDICTION, o.l1_ratio = 0.1;
  REFUSES(UNMERGE_E_RANGE, "options->l1_ratio");
  o.group_norm = UNMERGE_GROUP_NORM_PREDICTION, o.positive = 1;
  REFUSES(UNMERGE_E_RANGE, "options->positive");
  o.n_groups = -1;
  REFUSES(UNMERGE_E_RANGE, "options->n_groups");
  o.n_groups = INT64_MAX;
  REFUSES(UNMERGE_E_RANGE, "options->n_groups");
  o.offsets = NULL;
  REFUSES(UNMERGE_E_NULL, "options->offsets");
  o.members = NULL;
  REFUSES(UNMERGE_E_NULL, "options->members");
  const int64_t down[] = {0, 4, 2, 9, 12}, late[] = {1, 4, 6, 9, 12};
  o.offsets = down;
  REFUSES(UNMERGE_E_RANGE, "options->offsets[2]");
  o.offsets = late;
  REFUSES(UNMERGE_E_RANGE, "options->offsets[0]");
  int64_t outside[N], twice[N];
  memcpy(outside, members, sizeof outside), memcpy(twice, members, sizeof twice);
  outside[5] = N, twice[4] = 3;
  o.members = outside;
  REFUSES(UNMERGE_E_RANGE, "options->members[5]");
  o.members = twice;
  REFUSES(UNMERGE_E_RANGE, "distinct");
  const double bad[G] = {1, 1, -1, 1};
  o.group_weights = bad;
  REFUSES(UNMERGE_E_RANGE, "options->group_weights[2]");
  o.ridge_weights = bad;
  REFUSES(UNMERGE_E_RANGE, "options->ridge_weights[2]");
  REFUSED(unmerge_group_lasso(q.gram, &o, NULL, &v, &short_latent, NULL, &e), e, UNMERGE_E_SHAPE);
  NAMES(e, "latent");
  REFUSED(unmerge_group_lasso(q.gram, &o, NULL, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_group_alpha_max(q.gram, &o, NULL, NULL, &e), e, UNMERGE_E_NULL);
  for (int j = 0; j < N; j++) CHECK(w[j] == 7);
  free_problem(&q);
}

MAIN(TEST(conditions_of_optimality), TEST(overlap_and_warm_start), TEST(path), TEST(modules), TEST(norm_of_the_prediction),
     TEST(verified), TEST(refusals))
