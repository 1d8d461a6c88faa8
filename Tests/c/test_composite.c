/* Composite problems from C: defaults, refusals, the optimality conditions recomputed from the arrays, callbacks, consensus. */
#include "check.h"

static unmerge_error e;
enum { P = 200, N = 8, T = 2 };

static void defaults(void) {
  unmerge_term term;
  memset(&term, 0x5a, sizeof term);
  CHECK(unmerge_term_init(&term, sizeof term) == UNMERGE_OK && term.struct_size == sizeof term && term.kind == UNMERGE_PROX_L1);
  CHECK(term.options == NULL && term.atoms == NULL && term.n_atoms == 0 && term.matrix == NULL && term.prox == NULL);
  CHECK(term.lower == NULL && term.upper == NULL && term.reserved == 0);
  unmerge_composite_options o;
  memset(&o, 0x5a, sizeof o);
  CHECK(unmerge_composite_options_init(&o, sizeof o) == UNMERGE_OK && o.rho == 0 && o.relaxation == 1.6 && o.linear == NULL);
  CHECK(o.engine == UNMERGE_ENGINE_AUTO && o.polish == 1 && o.warm_start == 0 && o.reserved == 0);
  CHECK(unmerge_term_init(NULL, sizeof term) == UNMERGE_E_NULL && unmerge_composite_options_init(&o, 4) == UNMERGE_E_VERSION);
}

#define CALL(o) unmerge_composite(q.gram, t, 2, (o), NULL, &v, NULL, NULL, &e)
#define BAD(word, o, status)                                                                                                   \
  do {                                                                                                                         \
    if (REFUSED(CALL(o), e, status)) NAMES(e, word);                                                                           \
  } while (0)

static void refusals(void) {
  problem q = make_problem(60, 4, 1);
  double w[4] = {7, 7, 7, 7}, numbers[8] = {1, 2, 3, 4, 5, 6, 7, NAN}, low[4] = {0, 0, 3, 0}, high[4] = {1, 1, 1, 1};
  int64_t atoms[3] = {0, 1, 4}, twice[3] = {2, 1, 2};
  unmerge_view v = view_f64(w, 4, 1), k = view_f64(numbers, 2, 4), narrow = view_f64(numbers, 2, 3);
  unmerge_term t[2];
#define FRESH for (int i = 0; i < 2; i++) unmerge_term_init(&t[i], sizeof t[i])
  FRESH;
  const int32_t kinds[] = {-1, UNMERGE_PROX_NUCLEAR, UNMERGE_PROX_L0, UNMERGE_PROX_CEL0, UNMERGE_PROX_RANK, 30, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 8; i++) {
    t[1].kind = kinds[i];
    BAD("terms[1].kind", NULL, UNMERGE_E_RANGE);
  }
  FRESH, t[1].kind = UNMERGE_TERM_CALLBACK;
  BAD("terms[1].prox", NULL, UNMERGE_E_NULL);
  FRESH, t[1].atoms = atoms, t[1].n_atoms = 3;
  BAD("terms[1].atoms[2]", NULL, UNMERGE_E_RANGE);
  t[1].atoms = twice;
  BAD("terms[1].atoms[2]", NULL, UNMERGE_E_RANGE);
  t[1].n_atoms = INT64_MAX;
  BAD("terms[1].n_atoms", NULL, UNMERGE_E_RANGE);
  t[1].n_atoms = -1;
  BAD("terms[1].n_atoms", NULL, UNMERGE_E_RANGE);
  t[1].n_atoms = 1, t[1].atoms = NULL;
  BAD("terms[1].n_atoms", NULL, UNMERGE_E_RANGE);
  FRESH, t[1].atoms = atoms, t[1].n_atoms = 2, t[1].matrix = &k;
  BAD("terms[1]", NULL, UNMERGE_E_RANGE);
  FRESH, t[0].matrix = &k;
  BAD("terms[0].matrix[1, 3]", NULL, UNMERGE_E_NONFINITE);
  t[0].matrix = &narrow;
  BAD("terms[0].matrix", NULL, UNMERGE_E_SHAPE);
  FRESH, t[0].lower = low;
  BAD("terms[0].lower", NULL, UNMERGE_E_RANGE);
  t[0].kind = UNMERGE_PROX_BOX, t[0].upper = high;
  BAD("terms[0].lower[2]", NULL, UNMERGE_E_RANGE);
  FRESH, t[1].reserved = 1;
  BAD("terms[1].reserved", NULL, UNMERGE_E_VERSION);
  FRESH, t[1].struct_size = 0;
  BAD("terms[1]", NULL, UNMERGE_E_VERSION);
  FRESH, t[0].struct_size = 0;
  BAD("terms[0]", NULL, UNMERGE_E_VERSION);
  unmerge_prox_options po;
  unmerge_prox_options_init(&po, sizeof po);
  po.alpha = -1;
  FRESH, t[1].options = &po;
  BAD("terms[1]", NULL, UNMERGE_E_RANGE);
  po.alpha = 1, po.weights = high, t[1].kind = UNMERGE_PROX_MONOTONE;
  BAD("terms[1].options->weights", NULL, UNMERGE_E_RANGE);
  FRESH;
  unmerge_composite_options o;
#define WITH(assignment, word, status)                                                                                         \
  do {                                                                                                                         \
    unmerge_composite_options_init(&o, sizeof o);                                                                              \
    o.assignment;                                                                                                              \
    BAD(word, &o, status);                                                                                                     \
  } while (0)
  WITH(rho = NAN, "options->rho", UNMERGE_E_RANGE);
  WITH(rho = -1, "options->rho", UNMERGE_E_RANGE);
  WITH(rho = INFINITY, "options->rho", UNMERGE_E_RANGE);
  WITH(relaxation = 0.9, "options->relaxation", UNMERGE_E_RANGE);
  WITH(relaxation = 1.9, "options->relaxation", UNMERGE_E_RANGE);
  WITH(relaxation = NAN, "options->relaxation", UNMERGE_E_RANGE);
  WITH(engine = 3, "options->engine", UNMERGE_E_RANGE);
  WITH(engine = -1, "options->engine", UNMERGE_E_RANGE);
  WITH(polish = 2, "options->polish", UNMERGE_E_RANGE);
  WITH(warm_start = 2, "options->warm_start", UNMERGE_E_RANGE);
  WITH(reserved = 1, "options->reserved", UNMERGE_E_VERSION);
  WITH(linear = numbers + 4, "options->linear[3]", UNMERGE_E_RANGE);
  WITH(engine = UNMERGE_ENGINE_FISTA, "disjoint", UNMERGE_E_RANGE);
  REFUSED(unmerge_composite(NULL, t, 2, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_composite(q.gram, NULL, 1, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_composite(q.gram, t, -1, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_composite(q.gram, t, INT64_MAX, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_composite(q.gram, t, 2, NULL, NULL, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  unmerge_prox_options_init(&po, sizeof po);
  po.offset = -1; /* w >= 0 and sum w <= -1 */
  FRESH, t[0].kind = UNMERGE_PROX_NONNEGATIVE, t[1].kind = UNMERGE_PROX_HALFSPACE, t[1].options = &po;
  BAD("no point in common", NULL, UNMERGE_E_INFEASIBLE);
  for (int j = 0; j < 4; j++) CHECK(w[j] == 7); /* untouched by every refusal */
  FRESH, t[0].atoms = atoms; /* no atoms at all is a term, too */
  OK(CALL(NULL), e);
  OK(unmerge_composite(q.gram, NULL, 0, NULL, NULL, &v, NULL, NULL, &e), e);
  free_problem(&q);
}

/* alpha |w_j| within [-0.1, 0.3]: the gradient of the data term, from the arrays, against the conditions. */
static void optimality(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], linear[N], residuals[2 * T];
  unmerge_view v = view_f64(w, N, T);
  unmerge_report r[T];
  for (int t = 0; t < T; t++) unmerge_report_init(&r[t], sizeof r[t]);
  for (int j = 0; j < N; j++) linear[j] = j % 2 ? 1.5 : -0.5;
  const double alpha = 4, low = -0.1, high = 0.3;
  unmerge_prox_options l1, box;
  unmerge_prox_options_init(&l1, sizeof l1), unmerge_prox_options_init(&box, sizeof box);
  l1.alpha = alpha, box.lower = low, box.upper = high;
  unmerge_term terms[2];
  for (int i = 0; i < 2; i++) unmerge_term_init(&terms[i], sizeof terms[i]);
  terms[0].options = &l1, terms[1].options = &box, terms[1].kind = UNMERGE_PROX_BOX;
  unmerge_composite_options o;
  unmerge_composite_options_init(&o, sizeof o);
  o.linear = linear;
  OK(unmerge_composite(q.gram, terms, 2, &o, NULL, &v, residuals, r, &e), e);
  for (int t = 0; t < T; t++) {
    CHECK(r[t].outcome == UNMERGE_CONVERGED && r[t].violation <= 1e-10);
    CHECK(fmax(residuals[2 * t], residuals[2 * t + 1]) == r[t].violation);
    double c[P], sum = 0;
    for (int i = 0; i < P; i++) {
      c[i] = q.y[i * T + t];
      for (int j = 0; j < N; j++) c[i] -= q.a[i * N + j] * w[j * T + t];
      sum += 0.5 * c[i] * c[i];
    }
    for (int j = 0; j < N; j++) {
      const double x = w[j * T + t];
      double g = -linear[j];
      for (int i = 0; i < P; i++) g += q.a[i * N + j] * c[i];
      sum += linear[j] * x + alpha * fabs(x);
      CHECK(x >= low && x <= high);
      if (x == high) CHECKF(g >= alpha - 1e-8, "(%g)", g);
      else if (x == low) CHECKF(g <= -alpha + 1e-8, "(%g)", g);
      else if (x == 0) CHECKF(fabs(g) <= alpha + 1e-8, "(%g)", g);
      else CHECKF(fabs(g - (x > 0 ? alpha : -alpha)) <= 1e-8, "(%g %g)", g, x);
    }
    CHECKF(fabs(sum - r[t].objective) <= 1e-9 * fabs(sum), "(%g %g)", sum, r[t].objective);
    CHECK(r[t].duality_gap <= 1e-9 * fabs(sum));
  }
  free_problem(&q);
}

/* From the data, without a Gram: the same answer, and refusals in words. */
static void streamed(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], expected[N * T], residuals[2 * T];
  unmerge_view v = view_f64(w, N, T), ve = view_f64(expected, N, T);
  unmerge_report r[T];
  for (int t = 0; t < T; t++) unmerge_report_init(&r[t], sizeof r[t]);
  unmerge_prox_options l1, box;
  unmerge_prox_options_init(&l1, sizeof l1), unmerge_prox_options_init(&box, sizeof box);
  l1.alpha = 4, box.lower = -0.1, box.upper = 0.3;
  unmerge_term terms[2];
  for (int i = 0; i < 2; i++) unmerge_term_init(&terms[i], sizeof terms[i]);
  terms[0].options = &l1, terms[1].options = &box, terms[1].kind = UNMERGE_PROX_BOX;
  for (int count = 0; count <= 2; count++) {
    OK(unmerge_composite(q.gram, terms, count, NULL, NULL, &ve, NULL, NULL, &e), e);
    OK(unmerge_composite_operator(q.ao, q.yo, terms, count, NULL, NULL, &v, residuals, r, &e), e);
    for (int i = 0; i < N * T; i++) CHECKF(fabs(w[i] - expected[i]) <= 1e-8, "(%g %g)", w[i], expected[i]);
    for (int t = 0; t < T; t++) {
      CHECK(r[t].outcome == UNMERGE_CONVERGED && r[t].passes > 1);
      CHECK(fmax(residuals[2 * t], residuals[2 * t + 1]) == r[t].violation);
      CHECK((r[t].duality_gap <= 1e-9 * r[t].objective) == (count == 1)); /* known for the norm, else NaN */
    }
  }
  for (int i = 0; i < N * T; i++) w[i] = 7;
  unmerge_composite_options o;
  unmerge_composite_options_init(&o, sizeof o);
  o.engine = UNMERGE_ENGINE_FISTA;
  REFUSED(unmerge_composite_operator(q.ao, q.yo, terms, 2, &o, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_composite_operator(NULL, q.yo, terms, 1, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_composite_operator(q.ao, NULL, terms, 1, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_composite_operator(q.ao, q.yo, NULL, 1, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_composite_operator(q.ao, q.yo, terms, 1, NULL, NULL, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  ve.shape[0] = N - 1;
  REFUSED(unmerge_composite_operator(q.ao, q.yo, terms, 1, NULL, NULL, &ve, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
  for (int i = 0; i < N * T; i++) CHECK(w[i] == 7);
  free_problem(&q);
}

typedef struct count {
  int calls, give_up;
} count;

static int32_t soft(void *user, const double *v, double step, double *z, int64_t n) {
  count *c = user;
  if (++c->calls == c->give_up) return 1;
  for (int64_t i = 0; i < n; i++) z[i] = v[i] > 3 * step ? v[i] - 3 * step : v[i] < -3 * step ? v[i] + 3 * step : 0;
  return 0;
}

static void callbacks(void) {
  problem q = make_problem(P, N, T);
  double w[N * T], expected[N * T];
  unmerge_view v = view_f64(w, N, T), ve = view_f64(expected, N, T);
  unmerge_lasso_options lasso;
  unmerge_lasso_options_init(&lasso, sizeof lasso);
  lasso.alpha = 3;
  OK(unmerge_lasso(q.gram, &lasso, NULL, &ve, NULL, &e), e);
  count c = {0, 0};
  unmerge_term term;
  unmerge_term_init(&term, sizeof term);
  term.kind = UNMERGE_TERM_CALLBACK, term.prox = soft, term.prox_user = &c;
  unmerge_report r[T];
  for (int t = 0; t < T; t++) unmerge_report_init(&r[t], sizeof r[t]);
  OK(unmerge_composite(q.gram, &term, 1, NULL, NULL, &v, NULL, r, &e), e);
  CHECK(c.calls > 0 && r[0].outcome == UNMERGE_CONVERGED && isnan(r[0].objective));
  for (int i = 0; i < N * T; i++) CHECKF(fabs(w[i] - expected[i]) <= 1e-7, "(%g %g)", w[i], expected[i]);
  c.calls = 0, c.give_up = 3, w[0] = 99;
  if (REFUSED(unmerge_composite(q.gram, &term, 1, NULL, NULL, &v, NULL, r, &e), e, UNMERGE_E_CANCELLED)) NAMES(e, "returned 1");
  CHECK(w[0] == 99 && c.calls == 3);
  free_problem(&q);
}

static void consensus(void) {
  problem q = make_problem(P, N, T);
  double z[N * T], u[N * T], x[N * T];
  for (int i = 0; i < N * T; i++) z[i] = 0.1 * i, u[i] = -0.05 * i;
  unmerge_view vz = view_f64(z, N, T), vu = view_f64(u, N, T), vx = view_f64(x, N, T), short_ = view_f64(x, N, 1);
  const double rho = 5;
  OK(unmerge_consensus_step(q.gram, rho, &vz, &vu, &vx, &e), e);
  for (int t = 0; t < T; t++)
    for (int j = 0; j < N; j++) {
      double g = rho * (x[j * T + t] - z[j * T + t] + u[j * T + t]);
      for (int i = 0; i < P; i++) {
        double s = -q.y[i * T + t];
        for (int k = 0; k < N; k++) s += q.a[i * N + k] * x[k * T + t];
        g += q.a[i * N + j] * s;
      }
      CHECKF(fabs(g) <= 1e-9, "(%g)", g);
    }
  const double rhos[] = {0, -1, NAN, INFINITY, 1e-300};
  for (int i = 0; i < 5; i++)
    if (REFUSED(unmerge_consensus_step(q.gram, rhos[i], &vz, &vu, &vx, &e), e, UNMERGE_E_RANGE)) NAMES(e, "rho");
  REFUSED(unmerge_consensus_step(NULL, 1, &vz, &vu, &vx, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_consensus_step(q.gram, 1, NULL, &vu, &vx, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_consensus_step(q.gram, 1, &vz, &short_, &vx, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_consensus_step(q.gram, 1, &vz, &vu, &short_, &e), e, UNMERGE_E_SHAPE);
  u[3] = NAN;
  if (REFUSED(unmerge_consensus_step(q.gram, 1, &vz, &vu, &vx, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "u[1, 1]");
  free_problem(&q);
}

MAIN(TEST(defaults), TEST(refusals), TEST(optimality), TEST(streamed), TEST(callbacks), TEST(consensus))
