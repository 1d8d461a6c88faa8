/* Non-convex and structured penalties, proximal operators: defaults, ranges, limits, and answers recomputed from the arrays. */
#include "check.h"

static unmerge_error e;
enum { P = 300, N = 10, T = 2 };

static void defaults(void) {
  unmerge_mcp_options mcp;
  memset(&mcp, 0x5a, sizeof mcp);
  CHECK(unmerge_mcp_options_init(&mcp, sizeof mcp) == UNMERGE_OK && mcp.alpha == 1 && mcp.gamma == 3 && mcp.weights == NULL);
  CHECK(mcp.relative == 0 && mcp.warm_start == 0);
  unmerge_scad_options scad;
  memset(&scad, 0x5a, sizeof scad);
  CHECK(unmerge_scad_options_init(&scad, sizeof scad) == UNMERGE_OK && scad.alpha == 1 && scad.gamma == 3.7);
  unmerge_cel0_options cel0;
  memset(&cel0, 0x5a, sizeof cel0);
  CHECK(unmerge_cel0_options_init(&cel0, sizeof cel0) == UNMERGE_OK && cel0.alpha == 1 && cel0.weights == NULL && cel0.relative == 0);
  unmerge_lq_options lq;
  memset(&lq, 0x5a, sizeof lq);
  CHECK(unmerge_lq_options_init(&lq, sizeof lq) == UNMERGE_OK && lq.alpha == 1 && lq.q == 0.5);
  unmerge_slope_options slope;
  memset(&slope, 0x5a, sizeof slope);
  CHECK(unmerge_slope_options_init(&slope, sizeof slope) == UNMERGE_OK && slope.alpha == 1 && slope.weights == NULL);
  unmerge_fused_lasso_options fused;
  memset(&fused, 0x5a, sizeof fused);
  CHECK(unmerge_fused_lasso_options_init(&fused, sizeof fused) == UNMERGE_OK && fused.alpha == 1 && fused.l1_ratio == 0.5);
  CHECK(fused.target == 0 && fused.relative == 0 && fused.warm_start == 0);
  unmerge_prox_options prox;
  memset(&prox, 0x5a, sizeof prox);
  CHECK(unmerge_prox_options_init(&prox, sizeof prox) == UNMERGE_OK && prox.step == 1 && prox.alpha == 1 && prox.l1_ratio == 0.5);
  CHECK(prox.gamma == 0 && prox.q == 0.5 && prox.radius == 1 && prox.lower == -INFINITY && prox.upper == INFINITY);
  CHECK(prox.offset == 0 && prox.k == 1 && prox.weights == NULL && prox.normal == NULL);
}

#define BAD(field, ...)                                                                                                        \
  do {                                                                                                                         \
    if (REFUSED(__VA_ARGS__, e, UNMERGE_E_RANGE)) NAMES(e, field);                                                             \
  } while (0)

static void ranges(void) {
  problem q = make_problem(60, 4, 1);
  double w[4], rising[4] = {1, 2, 3, 4}, negative[4] = {1, 1, -1, 1}, none[4] = {0, 0, 0, 0};
  unmerge_view v = view_f64(w, 4, 1);
  const double strengths[] = {NAN, INFINITY, -1, -1e-300};
#define STRENGTHS(name)                                                                                                        \
  for (int i = 0; i < 4; i++) {                                                                                                \
    unmerge_##name##_options o;                                                                                                \
    unmerge_##name##_options_init(&o, sizeof o);                                                                               \
    o.alpha = strengths[i];                                                                                                    \
    BAD("alpha", unmerge_##name(q.gram, &o, NULL, &v, NULL, &e));                                                              \
    o.alpha = DBL_MAX, o.relative = 2;                                                                                         \
    BAD("relative", unmerge_##name(q.gram, &o, NULL, &v, NULL, &e));                                                           \
    o.relative = 0, o.warm_start = -1;                                                                                         \
    BAD("warm_start", unmerge_##name(q.gram, &o, NULL, &v, NULL, &e));                                                         \
    o.warm_start = 0;                                                                                                          \
    OK(unmerge_##name(q.gram, &o, NULL, &v, NULL, &e), e); /* the largest strength: 0 */                                       \
    for (int j = 0; j < 4; j++) CHECK(w[j] == 0);                                                                              \
    o.relative = 1;                                                                                                            \
    OK(unmerge_##name(q.gram, &o, NULL, &v, NULL, &e), e);                                                                     \
  }
  STRENGTHS(mcp)
  STRENGTHS(scad)
  STRENGTHS(cel0)
  STRENGTHS(lq)
  STRENGTHS(slope)
  STRENGTHS(fused_lasso)
  unmerge_mcp_options mcp;
  unmerge_mcp_options_init(&mcp, sizeof mcp);
  const double gammas[] = {NAN, INFINITY, 1, 0, -3};
  for (int i = 0; i < 5; i++) {
    mcp.gamma = gammas[i];
    BAD("gamma", unmerge_mcp(q.gram, &mcp, NULL, &v, NULL, &e));
  }
  mcp.gamma = nextafter(1, 2), mcp.weights = negative;
  BAD("weights", unmerge_mcp(q.gram, &mcp, NULL, &v, NULL, &e));
  mcp.weights = none; /* nothing is penalised */
  OK(unmerge_mcp(q.gram, &mcp, NULL, &v, NULL, &e), e);
  unmerge_lq_options lq;
  unmerge_lq_options_init(&lq, sizeof lq);
  const double qs[] = {NAN, 0, 1, -1, 0.0999, 0.951};
  for (int i = 0; i < 6; i++) {
    lq.q = qs[i];
    BAD("q", unmerge_lq(q.gram, &lq, NULL, &v, NULL, &e));
  }
  unmerge_slope_options slope;
  unmerge_slope_options_init(&slope, sizeof slope);
  slope.weights = rising;
  BAD("weights[1]", unmerge_slope(q.gram, &slope, NULL, &v, NULL, &e));
  slope.weights = none;
  BAD("weights[0]", unmerge_slope(q.gram, &slope, NULL, &v, NULL, &e));
  unmerge_fused_lasso_options fused;
  unmerge_fused_lasso_options_init(&fused, sizeof fused);
  fused.l1_ratio = NAN;
  BAD("l1_ratio", unmerge_fused_lasso(q.gram, &fused, NULL, &v, NULL, &e));
  fused.l1_ratio = 0, fused.relative = 1;
  BAD("relative", unmerge_fused_lasso(q.gram, &fused, NULL, &v, NULL, &e));
  fused.relative = 0, fused.target = 1;
  BAD("target", unmerge_fused_lasso(q.gram, &fused, NULL, &v, NULL, &e));
  BAD("target", unmerge_fused_lasso_modules(q.gram, &fused, NULL, &v, NULL, &e));
  fused.target = INT64_MIN;
  BAD("target", unmerge_fused_lasso_modules(q.gram, &fused, NULL, &v, NULL, &e));
  fused.target = 0;
  unmerge_view two = view_f64(w, 2, 2);
  REFUSED(unmerge_fused_lasso_modules(q.gram, &fused, NULL, &two, NULL, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_fused_lasso_modules(NULL, &fused, NULL, &v, NULL, &e), e, UNMERGE_E_NULL);
  OK(unmerge_fused_lasso_modules(q.gram, &fused, NULL, &v, NULL, &e), e);
  free_problem(&q);
}

/* What each minimises is at its answer no larger than around it. */
static double objective(const problem *q, const double *w, int64_t t, double l1, double fusion, double count) {
  double sum = 0;
  for (int64_t i = 0; i < q->p; i++) {
    double r = q->y[i * q->targets + t];
    for (int64_t j = 0; j < q->n; j++) r -= q->a[i * q->n + j] * w[j];
    sum += 0.5 * r * r;
  }
  for (int64_t j = 0; j < q->n; j++) {
    sum += l1 * fabs(w[j]) + count * (w[j] != 0);
    if (j > 0) sum += fusion * fabs(w[j] - w[j - 1]);
  }
  return sum;
}

static void answers(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], one[N];
  unmerge_view v = view_f64(w, N, T);
  unmerge_report r[T];
  for (int t = 0; t < T; t++) unmerge_report_init(&r[t], sizeof r[t]);
  unmerge_fused_lasso_options fused;
  unmerge_fused_lasso_options_init(&fused, sizeof fused);
  fused.alpha = 5, fused.l1_ratio = 0.25;
  unmerge_cel0_options cel0;
  unmerge_cel0_options_init(&cel0, sizeof cel0);
  cel0.alpha = 0.5;
  for (int which = 0; which < 2; which++) {
    if (which == 0) OK(unmerge_fused_lasso(q.gram, &fused, NULL, &v, r, &e), e);
    if (which == 1) OK(unmerge_cel0(q.gram, &cel0, NULL, &v, r, &e), e);
    const double l1 = which == 0 ? 1.25 : 0, fusion = which == 0 ? 3.75 : 0, count = which == 0 ? 0 : 0.5;
    for (int t = 0; t < T; t++) {
      CHECK(r[t].outcome == UNMERGE_CONVERGED);
      for (int j = 0; j < N; j++) one[j] = w[j * T + t];
      const double best = objective(&q, one, t, l1, fusion, count);
      CHECKF(fabs(best - r[t].objective) <= 1e-9 * best, "(%g %g)", best, r[t].objective);
      for (int j = 0; j < N; j++)
        for (int d = -1; d <= 1; d += 2) {
          const double x = one[j];
          one[j] = x + 1e-3 * d;
          CHECK(objective(&q, one, t, l1, fusion, count) >= best * (1 - 1e-12));
          one[j] = 0;
          CHECK(objective(&q, one, t, l1, fusion, count) >= best * (1 - 1e-12));
          one[j] = x;
        }
    }
  }
  free_problem(&q);
}

static void prox(void) {
  double x[6] = {3, -2, 1, 1, 0.5, -0.25}, z[6], weights[3] = {1, 2, NAN};
  float f[6];
  unmerge_view vx = view_f64(x, 6, 1), vz = view_f64(z, 6, 1), vf = {f, UNMERGE_F32, 0, {6, 1}, {4, 4}};
  OK(unmerge_prox(UNMERGE_PROX_L1, NULL, &vx, &vz, &e), e);
  OK(unmerge_prox(UNMERGE_PROX_L1, NULL, &vx, &vf, &e), e);
  const double soft[6] = {2, -1, 0, 0, 0, 0};
  for (int i = 0; i < 6; i++) CHECK(z[i] == soft[i] && (double)f[i] == soft[i]);
  unmerge_prox_options o;
  unmerge_prox_options_init(&o, sizeof o);
  for (int32_t kind = 1; kind <= 31; kind++) { /* whatever the shape, nothing is written outside and nothing traps */
    for (int64_t n = 0; n <= 6; n++)
      for (int64_t m = 0; n * m <= 6 && m <= 3; m++) {
        unmerge_view a = view_f64(x, n, m), b = view_f64(z, n, m);
        o.radius = 0;
        OK(unmerge_prox(kind, &o, &a, &b, &e), e);
        for (int64_t i = 0; i < n * m; i++) CHECKF(isfinite(z[i]), "(kind %d)", kind);
      }
  }
  const int32_t unknown[] = {0, 32, -1, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 5; i++) BAD("kind", unmerge_prox(unknown[i], NULL, &vx, &vz, &e));
  o.radius = 1, o.weights = weights;
  unmerge_view three = view_f64(x, 3, 1), out = view_f64(z, 3, 1);
  BAD("weights[2]", unmerge_prox(UNMERGE_PROX_L1, &o, &three, &out, &e));
  o.weights = NULL;
  REFUSED(unmerge_prox(UNMERGE_PROX_L1, &o, &vx, &three, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_prox(UNMERGE_PROX_L1, &o, NULL, &vz, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_prox(UNMERGE_PROX_L1, &o, &vx, NULL, &e), e, UNMERGE_E_NULL);
  unmerge_view half = vz;
  half.dtype = UNMERGE_F16;
  REFUSED(unmerge_prox(UNMERGE_PROX_L1, &o, &vx, &half, &e), e, UNMERGE_E_DTYPE);
  const double before = z[0];
  x[4] = NAN;
  if (REFUSED(unmerge_prox(UNMERGE_PROX_CONE, &o, &vx, &vz, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "x[4, 0]");
  CHECK(z[0] == before);
  o.struct_size = 0;
  REFUSED(unmerge_prox(UNMERGE_PROX_L1, &o, &three, &out, &e), e, UNMERGE_E_VERSION);
  static double huge[1];
  unmerge_view wide = {huge, UNMERGE_F64, 0, {(int64_t)1 << 40, 1}, {0, 0}};
  REFUSED(unmerge_prox(UNMERGE_PROX_L1, NULL, &wide, &wide, &e), e, UNMERGE_E_SHAPE);
}

MAIN(TEST(defaults), TEST(ranges), TEST(answers), TEST(prox))
