/* What the methods answer, and that the report's numbers are those of the answer: recomputed here from the arrays. */
#include "check.h"

static unmerge_error e;
enum { P = 500, N = 12, T = 2 };

typedef struct recomputed {
  double rss, yy, correlation[N]; /* correlation: A'r, not normalised */
  double norm[N];
} recomputed;

static recomputed recompute(const problem *q, const double *w, int64_t columns, int64_t t) {
  recomputed r;
  memset(&r, 0, sizeof r);
  for (int64_t i = 0; i < q->p; i++) {
    double residual = q->y[i * q->targets + t];
    r.yy += residual * residual;
    for (int64_t j = 0; j < q->n; j++) residual -= q->a[i * q->n + j] * w[j * columns + t];
    r.rss += residual * residual;
    for (int64_t j = 0; j < q->n; j++) r.correlation[j] += q->a[i * q->n + j] * residual, r.norm[j] += q->a[i * q->n + j] * q->a[i * q->n + j];
  }
  for (int64_t j = 0; j < q->n; j++) r.norm[j] = sqrt(r.norm[j]);
  return r;
}

static bool near(double a, double b, double tol) { return fabs(a - b) <= tol * (fabs(a) + fabs(b)) || (a == 0 && b == 0); }

static void init_reports(unmerge_report *r, int n) {
  for (int t = 0; t < n; t++) unmerge_report_init(&r[t], sizeof r[t]);
}

static void nnls(void) {
  problem q = make_problem(P, N, T);
  double w[N * T];
  unmerge_view v = view_f64(w, N, T);
  unmerge_report r[T];
  init_reports(r, T);
  OK(unmerge_nnls(q.gram, NULL, NULL, &v, r, &e), e);
  for (int t = 0; t < T; t++) {
    const recomputed c = recompute(&q, w, T, t);
    CHECK(r[t].outcome == UNMERGE_CONVERGED && r[t].streamed == 0);
    CHECKF(near(r[t].rss, c.rss, 1e-8) && near(r[t].yy, c.yy, 1e-12) && near(r[t].objective, c.rss / 2, 1e-8), "(%g %g)", r[t].rss, c.rss);
    CHECK(near(1 - r[t].r2, c.rss / c.yy, 1e-7));
    CHECK(r[t].duality_gap >= 0 && r[t].relative_gap <= 1e-9);
    int64_t nonzeros = 0;
    for (int j = 0; j < N; j++) {
      const double x = w[j * T + t];
      nonzeros += x != 0;
      CHECKF(x >= 0 && fabs(x - q.truth[j * T + t]) < 0.01, "(atom %d: %g, planted %g)", j, x, q.truth[j * T + t]);
      const double correlation = c.correlation[j] / (c.norm[j] * sqrt(c.yy)); /* KKT */
      CHECKF(x > 0 ? fabs(correlation) < 1e-10 : correlation < 1e-10, "(atom %d: %g)", j, correlation);
    }
    CHECK(nonzeros == r[t].nonzeros);
  }
  free_problem(&q);
}

static void lasso(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], alpha_max[T];
  unmerge_view v = view_f64(w, N, T);
  unmerge_report r[T];
  init_reports(r, T);
  OK(unmerge_alpha_max(q.gram, 1, NULL, 0, alpha_max, &e), e);
  unmerge_lasso_options o;
  unmerge_lasso_options_init(&o, sizeof o);
  for (int t = 0; t < T; t++) {
    double largest = 0;
    const double zero[N * T] = {0};
    const recomputed c = recompute(&q, zero, T, t);
    for (int j = 0; j < N; j++) largest = fmax(largest, fabs(c.correlation[j]));
    CHECK(near(alpha_max[t], largest, 1e-12));
  }
  o.alpha = 0.1 * alpha_max[0];
  OK(unmerge_lasso(q.gram, &o, NULL, &v, r, &e), e);
  const recomputed c = recompute(&q, w, T, 0);
  double l1 = 0;
  for (int j = 0; j < N; j++) {
    const double x = w[j * T];
    l1 += fabs(x);
    CHECKF(x != 0 ? fabs(c.correlation[j] - copysign(o.alpha, x)) < 1e-6 * o.alpha : fabs(c.correlation[j]) <= o.alpha * (1 + 1e-9), "(atom %d)", j);
  }
  CHECK(near(r[0].objective, c.rss / 2 + o.alpha * l1, 1e-9));
  o.alpha = 1.0000001 * fmax(alpha_max[0], alpha_max[1]); /* nothing */
  OK(unmerge_lasso(q.gram, &o, NULL, &v, r, &e), e);
  for (int i = 0; i < N * T; i++) CHECK(w[i] == 0);
  o.alpha = 0.9999, o.relative = 1; /* one atom */
  OK(unmerge_lasso(q.gram, &o, NULL, &v, r, &e), e);
  CHECKF(r[0].nonzeros == 1, "(%lld)", (long long)r[0].nonzeros);
  free_problem(&q);
}

/* Limits in which methods must agree. */
static void limits(void) {
  problem q = make_problem(P, N, 1);
  double ls[N], w[N];
  unmerge_view lv = view_f64(ls, N, 1), v = view_f64(w, N, 1);
  unmerge_ridge_options ridge;
  unmerge_ridge_options_init(&ridge, sizeof ridge);
  ridge.alpha = 0;
  OK(unmerge_ridge(q.gram, &ridge, NULL, &lv, NULL, &e), e); /* least squares */
#define AGREE(what, tol)                                                                                                       \
  for (int j = 0; j < N; j++) CHECKF(fabs(w[j] - ls[j]) < (tol), "(" what ", atom %d: %g and %g)", j, w[j], ls[j])
  unmerge_lasso_options lasso_;
  unmerge_lasso_options_init(&lasso_, sizeof lasso_);
  lasso_.alpha = 0;
  OK(unmerge_lasso(q.gram, &lasso_, NULL, &v, NULL, &e), e);
  AGREE("lasso with alpha 0", 1e-6);
  unmerge_elastic_net_options net;
  unmerge_elastic_net_options_init(&net, sizeof net);
  net.alpha = 3, net.l1_ratio = 0;
  ridge.alpha = 3;
  OK(unmerge_elastic_net(q.gram, &net, NULL, &v, NULL, &e), e);
  double r3[N];
  unmerge_view rv = view_f64(r3, N, 1);
  OK(unmerge_ridge(q.gram, &ridge, NULL, &rv, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECKF(fabs(w[j] - r3[j]) < 1e-6, "(elastic net without l1 is ridge: %g and %g)", w[j], r3[j]);
  net.l1_ratio = 1;
  lasso_.alpha = 3;
  OK(unmerge_elastic_net(q.gram, &net, NULL, &v, NULL, &e), e);
  OK(unmerge_lasso(q.gram, &lasso_, NULL, &rv, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECKF(fabs(w[j] - r3[j]) < 1e-6, "(elastic net without l2 is lasso: %g and %g)", w[j], r3[j]);
  unmerge_omp_options omp;
  unmerge_omp_options_init(&omp, sizeof omp);
  omp.k = N;
  int64_t order[N], seen_ = 0;
  OK(unmerge_omp(q.gram, &omp, NULL, &v, order, NULL, &e), e);
  AGREE("omp with all atoms", 1e-8);
  for (int i = 0; i < N; i++) seen_ |= (int64_t)1 << order[i];
  CHECK(seen_ == ((int64_t)1 << N) - 1);
  unmerge_dot_options dot;
  unmerge_dot_options_init(&dot, sizeof dot);
  dot.variant = UNMERGE_DOT_JOINT;
  OK(unmerge_dot(q.gram, &dot, NULL, &v, NULL, &e), e);
  AGREE("joint projection", 1e-9);
  free_problem(&q);
}

static void dot(void) {
  problem q = make_problem(P, N, 1);
  const double zero[N] = {0};
  const recomputed c = recompute(&q, zero, 1, 0);
  double w[N];
  unmerge_view v = view_f64(w, N, 1);
  unmerge_dot_options o;
  unmerge_dot_options_init(&o, sizeof o);
  OK(unmerge_dot(q.gram, &o, NULL, &v, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECK(near(w[j], c.correlation[j], 1e-11));
  o.variant = UNMERGE_DOT_COSINE;
  unmerge_report r;
  init_reports(&r, 1);
  OK(unmerge_dot(q.gram, &o, NULL, &v, &r, &e), e);
  for (int j = 0; j < N; j++) CHECK(near(w[j], c.correlation[j] / (c.norm[j] * sqrt(c.yy)), 1e-11) && fabs(w[j]) <= 1);
  CHECK(isnan(r.objective) && isnan(r.duality_gap));
  o.variant = UNMERGE_DOT_PROJECTION;
  OK(unmerge_dot(q.gram, &o, NULL, &v, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECK(near(w[j], c.correlation[j] / (c.norm[j] * c.norm[j]), 1e-11));
  free_problem(&q);
}

static void omp_finds_the_planted_atoms(void) {
  problem q = make_problem(P, N, 1);
  double w[N];
  unmerge_view v = view_f64(w, N, 1);
  int64_t planted = 0, order[N + 3];
  for (int j = 0; j < N; j++) planted += q.truth[j] != 0;
  unmerge_omp_options o;
  unmerge_omp_options_init(&o, sizeof o);
  o.k = planted;
  unmerge_report r;
  init_reports(&r, 1);
  OK(unmerge_omp(q.gram, &o, NULL, &v, order, &r, &e), e);
  CHECK(r.nonzeros == planted && r.iterations == planted);
  for (int j = 0; j < N; j++) CHECK((w[j] != 0) == (q.truth[j] != 0) && fabs(w[j] - q.truth[j]) < 0.01);
  for (int64_t i = 0; i < planted; i++) CHECK(q.truth[order[i]] != 0);
  o.k = N + 3;
  OK(unmerge_omp(q.gram, &o, NULL, &v, order, &r, &e), e);
  CHECK((r.flags & UNMERGE_FLAG_CLIPPED) != 0 && order[N] == -1 && order[N + 2] == -1);
  free_problem(&q);
}

static void path(void) {
  problem q = make_problem(P, N, 1);
  enum { ALPHAS = 20 };
  double w[N * ALPHAS], alphas[ALPHAS], alpha_max, single[N];
  unmerge_view v = view_f64(w, N, ALPHAS), sv = view_f64(single, N, 1);
  unmerge_report r[ALPHAS];
  init_reports(r, ALPHAS);
  unmerge_path_options o;
  unmerge_path_options_init(&o, sizeof o);
  o.n_alphas = ALPHAS;
  OK(unmerge_alpha_max(q.gram, 1, NULL, 0, &alpha_max, &e), e);
  OK(unmerge_lasso_path(q.gram, &o, NULL, alphas, &v, r, &e), e);
  CHECK(near(alphas[0], alpha_max, 1e-12) && near(alphas[ALPHAS - 1], 1e-3 * alpha_max, 1e-9) && r[0].nonzeros == 0);
  for (int i = 1; i < ALPHAS; i++) {
    CHECK(alphas[i] < alphas[i - 1] && r[i].objective <= r[i - 1].objective * (1 + 1e-12) && r[i].outcome == UNMERGE_CONVERGED);
    unmerge_lasso_options lasso_;
    unmerge_lasso_options_init(&lasso_, sizeof lasso_);
    lasso_.alpha = alphas[i];
    OK(unmerge_lasso(q.gram, &lasso_, NULL, &sv, NULL, &e), e);
    for (int j = 0; j < N; j++) CHECKF(fabs(single[j] - w[j * ALPHAS + i]) < 1e-5, "(alpha %d, atom %d: %g and %g)", i, j, single[j], w[j * ALPHAS + i]);
  }
  free_problem(&q);
}

/* Blocks add, pieces add, subsets are what they are called. */
static void gram_algebra(void) {
  problem q = make_problem(P, N, T);
  double g[N * N], g1[N * N], g2[N * N];
  unmerge_view v = view_f64(g, N, N), v1 = view_f64(g1, N, N), v2 = view_f64(g2, N, N);
  OK(unmerge_gram_arrays(q.gram, -1, &v, NULL, NULL, &e), e);
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) {
      double sum = 0;
      for (int k = 0; k < P; k++) sum += q.a[k * N + i] * q.a[k * N + j];
      CHECK(fabs(sum - g[i * N + j]) < 1e-10 && g[i * N + j] == g[j * N + i]);
    }
  unmerge_accumulator *acc = NULL; /* pieces of any size: the same bits */
  unmerge_gram *pieces = NULL, *both = NULL, *sub = NULL;
  OK(unmerge_accumulator_create(N, T, NULL, &acc, &e), e);
  const int64_t cuts[] = {0, 1, 2, 100, 101, 499, P};
  for (int i = 0; i < 6; i++) {
    unmerge_view a = view_f64(q.a + cuts[i] * N, cuts[i + 1] - cuts[i], N), y = view_f64(q.y + cuts[i] * T, cuts[i + 1] - cuts[i], T);
    OK(unmerge_accumulator_add(acc, &a, &y, NULL, &e), e);
  }
  OK(unmerge_accumulator_finish(acc, &pieces, &e), e);
  OK(unmerge_gram_arrays(pieces, -1, &v1, NULL, NULL, &e), e);
  CHECK(memcmp(g, g1, sizeof g) == 0);
  unmerge_accumulator_destroy(acc);
  OK(unmerge_gram_merge(q.gram, q.gram, &both, &e), e);
  OK(unmerge_gram_arrays(both, -1, &v2, NULL, NULL, &e), e);
  for (int i = 0; i < N * N; i++) CHECK(near(g2[i], 2 * g[i], 1e-15));
  const int64_t atoms[3] = {7, 0, 3};
  double gs[9];
  unmerge_view vs = view_f64(gs, 3, 3);
  OK(unmerge_gram_subset(q.gram, atoms, 3, NULL, 0, &sub, &e), e);
  OK(unmerge_gram_arrays(sub, -1, &vs, NULL, NULL, &e), e);
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 3; j++) CHECK(gs[i * 3 + j] == g[atoms[i] * N + atoms[j]]);
  unmerge_gram_destroy(pieces), unmerge_gram_destroy(both), unmerge_gram_destroy(sub);

  unmerge_gram_options o; /* folds partition the rows */
  unmerge_gram_options_init(&o, sizeof o);
  o.folds = 5;
  unmerge_gram *folds = NULL;
  OK(unmerge_gram_create(q.ao, q.yo, &o, NULL, &folds, &e), e);
  unmerge_gram_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  OK(unmerge_gram_get_info(folds, &info, &e), e);
  CHECK(info.blocks == 5 && info.entries == P);
  memset(g1, 0, sizeof g1);
  int64_t rows = 0;
  for (int64_t b = 0; b < 5; b++) {
    const char *name = NULL;
    int64_t fold = -1, entries = -1;
    OK(unmerge_gram_block(folds, b, &name, &fold, &entries, &e), e);
    CHECK(name != NULL && *name == 0 && fold == b);
    CHECK(entries >= 0 && (entries % 64 == 0 || entries % 64 == P % 64)); /* lots of 64 rows stay together */
    rows += entries;
    OK(unmerge_gram_arrays(folds, b, &v2, NULL, NULL, &e), e);
    for (int i = 0; i < N * N; i++) g1[i] += g2[i];
  }
  CHECK(rows == P);
  for (int i = 0; i < N * N; i++) CHECK(fabs(g1[i] - g[i]) < 1e-10);
  unmerge_gram_destroy(folds);
  free_problem(&q);
}

static void modules_and_lora(void) {
  /* Two modules; one column dense with a base, one as factors; against the same thing formed by hand. */
  enum { R = 6, C = 5, K = 2 };
  uint64_t state = 11;
  double values[R * C], base[R * C], b[R * K], a[K * C], bias[7], dense[2 * (R * C + 7)], target[R * C + 7];
  for (int i = 0; i < R * C; i++) values[i] = noise(&state), base[i] = noise(&state);
  for (int i = 0; i < R * K; i++) b[i] = noise(&state);
  for (int i = 0; i < K * C; i++) a[i] = noise(&state);
  for (int i = 0; i < 7; i++) bias[i] = noise(&state);
  memset(dense, 0, sizeof dense);
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) {
      dense[2 * (i * C + j)] = 0.5 * (values[i * C + j] - base[i * C + j]);
      for (int k = 0; k < K; k++) dense[2 * (i * C + j) + 1] += 2 * b[i * K + k] * a[k * C + j];
    }
  for (int i = 0; i < 7; i++) dense[2 * (R * C + i)] = bias[i]; /* the factored column is zero there */
  for (int i = 0; i < R * C + 7; i++) target[i] = 3 * dense[2 * i] + 0.25 * dense[2 * i + 1];
  unmerge_operator *op = NULL, *y = NULL;
  OK(unmerge_operator_create(&op, &e), e);
  OK(unmerge_operator_create(&y, &e), e);
  unmerge_operator *const ops[] = {op, y};
  for (int i = 0; i < 2; i++) {
    OK(unmerge_operator_add_module(ops[i], "weight", R, C, NULL, &e), e);
    OK(unmerge_operator_add_module(ops[i], "bias", 7, 1, NULL, &e), e);
  }
  OK(unmerge_operator_add_column(op, "fine-tune", NULL, &e), e);
  OK(unmerge_operator_add_column(op, "adapter", NULL, &e), e);
  OK(unmerge_operator_add_column(y, "merged", NULL, &e), e);
  unmerge_view vv = view_f64(values, R, C), bv = view_f64(base, R, C), fb = view_f64(b, R, K), fa = view_f64(a, K, C), biasv = view_f64(bias, 7, 1);
  unmerge_view t0 = view_f64(target, R, C), t1 = view_f64(target + R * C, 7, 1);
  OK(unmerge_operator_set_dense(op, 0, 0, &vv, &bv, 0.5, &e), e);
  OK(unmerge_operator_set_lora(op, 0, 1, &fb, &fa, 2, &e), e);
  OK(unmerge_operator_set_dense(op, 1, 0, &biasv, NULL, 1, &e), e);
  OK(unmerge_operator_set_dense(y, 0, 0, &t0, NULL, 1, &e), e);
  OK(unmerge_operator_set_dense(y, 1, 0, &t1, NULL, 1, &e), e);
  unmerge_gram *g = NULL;
  OK(unmerge_gram_create(op, y, NULL, NULL, &g, &e), e);
  double w[2], gg[4];
  unmerge_view wv = view_f64(w, 2, 1), gv = view_f64(gg, 2, 2);
  unmerge_report r;
  init_reports(&r, 1);
  OK(unmerge_nnls(g, NULL, NULL, &wv, &r, &e), e);
  CHECKF(fabs(w[0] - 3) < 1e-10 && fabs(w[1] - 0.25) < 1e-10, "(%.15g %.15g)", w[0], w[1]);
  CHECK((r.flags & UNMERGE_FLAG_FULLY_EXPLAINED) != 0);
  OK(unmerge_gram_arrays(g, -1, &gv, NULL, NULL, &e), e);
  double by_hand[3] = {0, 0, 0};
  for (int i = 0; i < R * C + 7; i++) {
    by_hand[0] += dense[2 * i] * dense[2 * i];
    by_hand[1] += dense[2 * i] * dense[2 * i + 1];
    by_hand[2] += dense[2 * i + 1] * dense[2 * i + 1];
  }
  CHECK(near(gg[0], by_hand[0], 1e-12) && fabs(gg[1] - by_hand[1]) < 1e-12 && near(gg[3], by_hand[2], 1e-12));
  unmerge_gram_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  OK(unmerge_gram_get_info(g, &info, &e), e);
  CHECK(info.blocks == 2 && info.entries == R * C + 7);
  const char *name = NULL;
  int64_t entries = 0;
  OK(unmerge_gram_block(g, 1, &name, NULL, &entries, &e), e);
  CHECK(name != NULL && strcmp(name, "bias") == 0 && entries == 7);
  unmerge_gram_destroy(g), unmerge_operator_destroy(op), unmerge_operator_destroy(y);
}

static void mask(void) {
  double a[12] = {1, 0, -5, 0, 2, 2, 0, 5, 3, -3, 0, 0}; /* 6 x 2: largest |entry| 1 5 2 5 3 0 */
  unmerge_view av = view_f64(a, 6, 2);
  unmerge_operator *op = NULL;
  unmerge_mask *m = NULL;
  OK(unmerge_operator_from_matrix(&av, &op, &e), e);
  unmerge_mask_options o;
  unmerge_mask_options_init(&o, sizeof o);
  const int64_t expected[6][6] = {{1}, {1, 3}, {1, 3, 4}, {1, 2, 3, 4}, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4, 5}};
  for (int64_t k = 1; k <= 6; k++) {
    int64_t kept[6], n = 0;
    o.per_module = k;
    OK(unmerge_mask_create(op, &o, NULL, &m, &e), e);
    OK(unmerge_mask_count(m, 0, &n, &e), e);
    CHECK(n == k);
    OK(unmerge_mask_indices(m, 0, kept, 6, &e), e);
    CHECKF(memcmp(kept, expected[k - 1], (size_t)k * sizeof *kept) == 0, "(k = %d)", (int)k);
    unmerge_mask_destroy(m);
  }
  unmerge_operator_destroy(op);
}

static void verify_and_refine(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], correlation[N * T];
  unmerge_view v = view_f64(w, N, T), cv = view_f64(correlation, N, T);
  unmerge_report r[T], s[T];
  init_reports(r, T), init_reports(s, T);
  OK(unmerge_nnls(q.gram, NULL, NULL, &v, r, &e), e);
  unmerge_problem p;
  unmerge_problem_init(&p, sizeof p);
  p.positive = 1;
  OK(unmerge_verify(q.ao, q.yo, &p, NULL, &v, &cv, s, &e), e);
  for (int t = 0; t < T; t++) {
    const recomputed c = recompute(&q, w, T, t);
    for (int j = 0; j < N; j++) CHECK(fabs(correlation[j * T + t] - c.correlation[j]) < 1e-9);
    CHECK(s[t].streamed == 1 && near(s[t].rss, c.rss, 1e-12) && near(s[t].objective, r[t].objective, 1e-8) && s[t].violation < 1e-9);
  }
  w[0] += 1e-3; /* something to put right */
  OK(unmerge_refine(q.gram, q.ao, q.yo, &p, NULL, &v, s, &e), e);
  for (int t = 0; t < T; t++) CHECKF(s[t].streamed == 1 && s[t].violation < 1e-9, "(%g)", s[t].violation);
  free_problem(&q);
}

MAIN(TEST(nnls), TEST(lasso), TEST(limits), TEST(dot), TEST(omp_finds_the_planted_atoms), TEST(path), TEST(gram_algebra),
     TEST(modules_and_lora), TEST(mask), TEST(verify_and_refine))
