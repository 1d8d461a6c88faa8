/* Constraints through the C interface: what is met, what is refused, what a caller of any kind may leave out. */
#include "check.h"

static unmerge_error e;
enum { P = 200, N = 8, T = 2 };

static double at(const problem *q, const double *w, int64_t t, double *correlation) {
  double rss = 0;
  memset(correlation, 0, N * sizeof *correlation);
  for (int64_t i = 0; i < q->p; i++) {
    double r = q->y[i * q->targets + t];
    for (int64_t j = 0; j < q->n; j++) r -= q->a[i * q->n + j] * w[j * q->targets + t];
    rss += r * r;
    for (int64_t j = 0; j < q->n; j++) correlation[j] += q->a[i * q->n + j] * r;
  }
  return rss;
}

static void bounds(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], low[N], high[N], g[N];
  unmerge_view v = view_f64(w, N, T);
  unmerge_bvls_options o;
  unmerge_bvls_options_init(&o, sizeof o);
  for (int j = 0; j < N; j++) low[j] = -0.05, high[j] = j == 3 ? -0.05 : 0.25;
  o.lower = low, o.upper = high;
  unmerge_report r[T];
  for (int t = 0; t < T; t++) unmerge_report_init(&r[t], sizeof r[t]);
  OK(unmerge_bvls(q.gram, &o, NULL, &v, r, &e), e);
  for (int t = 0; t < T; t++) {
    const double rss = at(&q, w, t, g);
    CHECK(r[t].outcome == UNMERGE_CONVERGED && fabs(r[t].objective - rss / 2) < 1e-10 * rss && isfinite(r[t].duality_gap));
    for (int j = 0; j < N; j++) {
      const double x = w[j * T + t];
      CHECK(x >= low[j] && x <= high[j]);
      CHECKF((x < high[j] ? g[j] < 1e-8 : 1) && (x > low[j] ? g[j] > -1e-8 : 1), "(atom %d: %g)", j, g[j]);
    }
  }
  high[5] = -1;
  REFUSED(unmerge_bvls(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_RANGE);
  NAMES(e, "options->lower[5]");
  NAMES(e, "upper[5] is -1");
  high[5] = NAN;
  REFUSED(unmerge_bvls(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_RANGE);
  free_problem(&q);
}

static void mixtures(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], multiplier[T], g[N], low[N];
  unmerge_view v = view_f64(w, N, T);
  OK(unmerge_simplex(q.gram, NULL, NULL, &v, multiplier, NULL, &e), e);
  for (int t = 0; t < T; t++) {
    double sum = 0;
    at(&q, w, t, g);
    for (int j = 0; j < N; j++) {
      sum += w[j * T + t];
      CHECK(w[j * T + t] >= 0);
      CHECKF(w[j * T + t] > 0 ? fabs(g[j] + multiplier[t]) < 1e-9 : g[j] + multiplier[t] < 1e-9, "(%g %g)", g[j], multiplier[t]);
    }
    CHECKF(fabs(sum - 1) < 1e-14, "(%.17g)", sum);
  }
  unmerge_simplex_options o;
  unmerge_simplex_options_init(&o, sizeof o);
  for (int j = 0; j < N; j++) low[j] = 0.5;
  o.lower = low, o.total = 3;
  memset(w, 7, sizeof w);
  const double before = w[0];
  REFUSED(unmerge_simplex(q.gram, &o, NULL, &v, multiplier, NULL, &e), e, UNMERGE_E_INFEASIBLE);
  NAMES(e, "between 4.0");
  CHECK(w[0] == before);
  CHECK(strcmp(unmerge_status_name(UNMERGE_E_INFEASIBLE), "UNMERGE_E_INFEASIBLE") == 0);
  o.total = INFINITY;
  REFUSED(unmerge_simplex(q.gram, &o, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  free_problem(&q);
}

static void budgets(void) {
  problem q = make_problem(P, N, 1);
  double w[N], again[N], multiplier, g[N], norm = 0;
  unmerge_view v = view_f64(w, N, 1), av = view_f64(again, N, 1);
  unmerge_lasso_tau_options tau;
  unmerge_lasso_tau_options_init(&tau, sizeof tau);
  OK(unmerge_lasso_tau(q.gram, &tau, NULL, &v, &multiplier, NULL, &e), e);
  for (int j = 0; j < N; j++) norm += fabs(w[j]);
  CHECKF(fabs(norm - 1) < 1e-14, "(%.17g)", norm);
  const double rss = at(&q, w, 0, g);
  for (int j = 0; j < N; j++) CHECK(fabs(g[j]) <= multiplier * (1 + 1e-10));
  unmerge_bpdn_options sigma;
  unmerge_bpdn_options_init(&sigma, sizeof sigma);
  sigma.sigma = sqrt(rss);
  OK(unmerge_bpdn(q.gram, &sigma, NULL, &av, &multiplier, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECKF(fabs(w[j] - again[j]) < 1e-9, "(%g %g)", w[j], again[j]);
  sigma.sigma = 0;
  REFUSED(unmerge_bpdn(q.gram, &sigma, NULL, &av, NULL, NULL, &e), e, UNMERGE_E_INFEASIBLE);
  NAMES(e, "options->sigma");
  OK(unmerge_basis_pursuit(q.gram, NULL, NULL, &v, NULL, &e), e);
  unmerge_dantzig_options d;
  unmerge_dantzig_options_init(&d, sizeof d);
  d.delta = 0;
  OK(unmerge_dantzig(q.gram, &d, NULL, &av, NULL, &e), e);
  for (int j = 0; j < N; j++) CHECK(w[j] == again[j]); /* least squares, by either name */
  d.delta = 0.3, d.relative = 1;
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  OK(unmerge_dantzig(q.gram, &d, NULL, &av, &r, &e), e);
  CHECK(r.outcome == UNMERGE_CONVERGED && r.relative_gap < 1e-10 && r.violation < 1e-13);
  d.reserved = 1;
  REFUSED(unmerge_dantzig(q.gram, &d, NULL, &av, NULL, &e), e, UNMERGE_E_VERSION);
  tau.tau = -1;
  REFUSED(unmerge_lasso_tau(q.gram, &tau, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  NAMES(e, "options->tau is -1");
  free_problem(&q);
}

static void knots_and_refit(void) {
  problem q = make_problem(P, N, 1);
  enum { ROOM = 4 * N };
  double w[N * ROOM], alphas[ROOM], top, single[N], g[N];
  int64_t count = 0;
  unmerge_view v = view_f64(w, N, ROOM), sv = view_f64(single, N, 1);
  unmerge_knots_options o;
  unmerge_knots_options_init(&o, sizeof o);
  o.max_knots = ROOM;
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  OK(unmerge_lasso_knots(q.gram, &o, NULL, alphas, &v, &count, &r, &e), e);
  OK(unmerge_alpha_max(q.gram, 1, NULL, 0, &top, &e), e);
  CHECK(r.outcome == UNMERGE_CONVERGED && count > N && fabs(alphas[0] - top) < 1e-12 * top && alphas[count - 1] == 0);
  for (int64_t i = 0; i < count; i++) {
    for (int j = 0; j < N; j++) single[j] = w[j * ROOM + i];
    at(&q, single, 0, g);
    for (int j = 0; j < N; j++)
      CHECKF(single[j] != 0 ? fabs(g[j] - copysign(alphas[i], single[j])) < 1e-10 : fabs(g[j]) < alphas[i] + 1e-10, "(knot %d, atom %d)", (int)i, j);
  }
  o.max_knots = 2;
  v = view_f64(w, N, 2);
  OK(unmerge_lasso_knots(q.gram, &o, NULL, alphas, &v, &count, &r, &e), e);
  CHECK(count == 2 && r.outcome == UNMERGE_ITERATION_LIMIT);
  REFUSED(unmerge_lasso_knots(q.gram, &o, NULL, NULL, &v, &count, &r, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_lasso_knots(q.gram, &o, NULL, alphas, &v, NULL, &r, &e), e, UNMERGE_E_NULL);
  o.target = 1;
  REFUSED(unmerge_lasso_knots(q.gram, &o, NULL, alphas, &v, &count, &r, &e), e, UNMERGE_E_RANGE);

  for (int j = 0; j < N; j++) single[j] = j % 2;
  OK(unmerge_refit(q.gram, NULL, NULL, &sv, &r, &e), e);
  at(&q, single, 0, g);
  for (int j = 0; j < N; j++) CHECK(j % 2 ? fabs(g[j]) < 1e-10 : single[j] == 0);
  single[0] = INFINITY;
  REFUSED(unmerge_refit(q.gram, NULL, NULL, &sv, NULL, &e), e, UNMERGE_E_NONFINITE);
  free_problem(&q);
}

static void conversions(void) {
  double x[2] = {0.2, 0.5}, y[2];
  OK(unmerge_convert_penalty(UNMERGE_TOOL_SKLEARN, 0, 100, 0, x, y, &e), e);
  CHECK(fabs(y[0] - 20) < 1e-13 && fabs(y[1] - 0.5) < 1e-15);
  OK(unmerge_convert_penalty(UNMERGE_TOOL_SKLEARN, 1, 100, 0, y, y, &e), e);
  CHECK(fabs(y[0] - 0.2) < 1e-15 && fabs(y[1] - 0.5) < 1e-15);
  REFUSED(unmerge_convert_penalty(0, 0, 100, 1, x, y, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_convert_penalty(UNMERGE_TOOL_GLMNET, 0, 100, 0, x, y, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_convert_penalty(UNMERGE_TOOL_SPAMS, 0, 100, 0, NULL, y, &e), e, UNMERGE_E_NULL);
}

static void ended_early(void) {
  problem q = make_problem(P, N, 1);
  double w[N];
  unmerge_view v = view_f64(w, N, 1);
  const int32_t cancel = 1;
  unmerge_run run = new_run();
  run.cancel = &cancel;
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  OK(unmerge_simplex(q.gram, NULL, &run, &v, NULL, &r, &e), e);
  CHECKF(r.outcome == UNMERGE_CANCELLED, "(%d)", r.outcome);
  OK(unmerge_lasso_tau(q.gram, NULL, &run, &v, NULL, &r, &e), e);
  CHECKF(r.outcome == UNMERGE_CANCELLED, "(%d)", r.outcome);
  OK(unmerge_basis_pursuit(q.gram, NULL, &run, &v, &r, &e), e);
  CHECKF(r.outcome == UNMERGE_CANCELLED, "(%d)", r.outcome);
  OK(unmerge_dantzig(q.gram, NULL, &run, &v, &r, &e), e);
  CHECKF(r.outcome == UNMERGE_CANCELLED, "(%d)", r.outcome);
  for (int j = 0; j < N; j++) CHECK(isfinite(w[j]));
  free_problem(&q);
}

MAIN(TEST(bounds), TEST(mixtures), TEST(budgets), TEST(knots_and_refit), TEST(conversions), TEST(ended_early))
