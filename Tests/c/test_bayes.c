/* Bayesian selection: the contract in C, and numbers recomputed from the Gram. */
#include "check.h"
#include <math.h>

static unmerge_error e;
enum { P = 200, N = 5, M = 6 };

static void defaults(void) {
  unmerge_garrote_options g;
  memset(&g, 0x5a, sizeof g);
  CHECK(unmerge_garrote_options_init(&g, sizeof g) == UNMERGE_OK && g.struct_size == sizeof g && g.gamma == -3);
  CHECK(g.sigma2 == 0 && g.effective == 0 && g.target == 0);
  unmerge_garrote_path_options p;
  memset(&p, 0x5a, sizeof p);
  CHECK(unmerge_garrote_path_options_init(&p, sizeof p) == UNMERGE_OK && p.n_gammas == 50 && p.held_out == 1);
  CHECK(p.gammas == NULL && p.folds == NULL && p.sigma2 == 0 && p.effective == 0 && p.target == 0 && p.reserved == 0);
  unmerge_sparse_bayes_options s;
  memset(&s, 0x5a, sizeof s);
  CHECK(unmerge_sparse_bayes_options_init(&s, sizeof s) == UNMERGE_OK && s.algorithm == UNMERGE_EVIDENCE_FAST);
  CHECK(s.sigma2 == 0 && s.effective == 0 && s.target == 0 && s.reserved == 0);
  unmerge_spike_slab_options k;
  memset(&k, 0x5a, sizeof k);
  CHECK(unmerge_spike_slab_options_init(&k, sizeof k) == UNMERGE_OK && k.prior == 0.5 && k.slab == 1 && k.sigma2 == 1);
  CHECK(k.shape == 0 && k.scale == 0 && k.noise == UNMERGE_NOISE_INVERSE_GAMMA && k.effective == 0 && k.reserved == 0);
  unmerge_garrote_result gr;
  unmerge_garrote_path_result pr;
  unmerge_sparse_bayes_result sr;
  unmerge_spike_slab_result kr;
  CHECK(unmerge_garrote_result_init(&gr, sizeof gr) == UNMERGE_OK && gr.struct_size == sizeof gr);
  CHECK(unmerge_garrote_path_result_init(&pr, sizeof pr) == UNMERGE_OK && pr.struct_size == sizeof pr);
  CHECK(unmerge_sparse_bayes_result_init(&sr, sizeof sr) == UNMERGE_OK && sr.struct_size == sizeof sr);
  CHECK(unmerge_spike_slab_result_init(&kr, sizeof kr) == UNMERGE_OK && kr.struct_size == sizeof kr);
}

static unmerge_gram *make(problem *q) {
  *q = make_problem(P, N, 1);
  uint64_t state = 3;
  for (int i = 0; i < P; i++) q->y[i] += noise(&state);
  unmerge_view a = view_f64(q->a, P, N), y = view_f64(q->y, P, 1);
  unmerge_operator *A = NULL, *Y = NULL;
  unmerge_gram *gram = NULL;
  OK(unmerge_operator_from_matrix(&a, &A, &e), e);
  OK(unmerge_operator_from_matrix(&y, &Y, &e), e);
  OK(unmerge_gram_create(A, Y, NULL, NULL, &gram, &e), e);
  unmerge_operator_destroy(A);
  unmerge_operator_destroy(Y);
  if (failures > 0) _exit(1);
  return gram;
}

/* v = m w, and m is what its own equation says. */
static void garrote(const unmerge_gram *gram, const problem *q) {
  double v[N], m[N], w[N];
  unmerge_garrote_result r;
  unmerge_report report;
  unmerge_garrote_result_init(&r, sizeof r);
  unmerge_report_init(&report, sizeof report);
  OK(unmerge_variational_garrote(gram, NULL, NULL, v, m, w, &r, &report, &e), e);
  CHECK(report.outcome == UNMERGE_CONVERGED && report.violation <= 1e-10 && report.objective == r.free_energy);
  double expected = 0;
  for (int j = 0; j < N; j++) {
    double d2 = 0;
    for (int i = 0; i < P; i++) d2 += q->a[i * N + j] * q->a[i * N + j];
    CHECK(fabs(v[j] - m[j] * w[j]) <= 1e-12 * (1 + fabs(w[j])));
    CHECK(fabs(m[j] - 1 / (1 + exp(-r.gamma - w[j] * w[j] * d2 / (2 * r.sigma2)))) < 1e-8);
    expected += m[j];
  }
  CHECK(fabs(expected - r.expected) < 1e-12);
  OK(unmerge_variational_garrote(gram, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &e), e);

  double curve[M * 7], coef[N * M];
  unmerge_view cv = view_f64(curve, M, 7), wv = view_f64(coef, N, M);
  unmerge_garrote_path_options o;
  unmerge_garrote_path_result pr;
  unmerge_garrote_path_options_init(&o, sizeof o);
  unmerge_garrote_path_result_init(&pr, sizeof pr);
  o.n_gammas = M;
  OK(unmerge_garrote_path(gram, &o, NULL, &cv, &wv, NULL, NULL, &pr, &e), e);
  CHECK(pr.folds == 0 && pr.unconverged == 0 && pr.best == pr.bic && pr.transition == pr.bic && isnan(curve[5]));
  for (int i = 1; i < M; i++) CHECK(curve[7 * i] > curve[7 * (i - 1)]);
}

static void others(const unmerge_gram *gram) {
  double w[N], variance[N], alphas[N], probability[N], sizes[N + 1];
  unmerge_sparse_bayes_result s;
  unmerge_report report;
  unmerge_sparse_bayes_result_init(&s, sizeof s);
  unmerge_report_init(&report, sizeof report);
  OK(unmerge_sparse_bayes(gram, NULL, NULL, w, variance, alphas, &s, &report, &e), e);
  CHECK(report.outcome == UNMERGE_CONVERGED && report.objective == -s.log_evidence && s.sigma2 > 0);
  int64_t inside = 0;
  for (int j = 0; j < N; j++) {
    inside += !isinf(alphas[j]);
    CHECK(isinf(alphas[j]) ? w[j] == 0 && variance[j] == 0 : fabs(alphas[j] * (variance[j] + w[j] * w[j]) - 1) < 1e-8);
  }
  CHECK(inside == s.atoms);
  unmerge_spike_slab_result k;
  unmerge_spike_slab_result_init(&k, sizeof k);
  OK(unmerge_spike_slab(gram, NULL, NULL, w, probability, NULL, sizes, &k, &e), e);
  double total = 0, mean = 0, sum = 0;
  for (int j = 0; j <= N; j++) total += sizes[j], mean += j * sizes[j];
  for (int j = 0; j < N; j++) sum += probability[j];
  CHECK(k.sets == 1 << N && fabs(total - 1) < 1e-12 && fabs(mean - sum) < 1e-12 && fabs(k.expected - sum) < 1e-12);
  CHECK(k.best_probability > 0 && k.best_log_joint <= k.log_evidence);
}

static void refusals(const unmerge_gram *gram) {
  double w[N] = {7, 7, 7, 7, 7};
  unmerge_garrote_options g;
  unmerge_garrote_options_init(&g, sizeof g);
  g.gamma = NAN;
  CHECK(unmerge_variational_garrote(gram, &g, NULL, w, NULL, NULL, NULL, NULL, &e) == UNMERGE_E_RANGE && strstr(e.message, "gamma"));
  unmerge_sparse_bayes_options s;
  unmerge_sparse_bayes_options_init(&s, sizeof s);
  s.algorithm = 2;
  CHECK(unmerge_sparse_bayes(gram, &s, NULL, w, NULL, NULL, NULL, NULL, &e) == UNMERGE_E_RANGE && strstr(e.message, "algorithm"));
  unmerge_spike_slab_options k;
  unmerge_spike_slab_options_init(&k, sizeof k);
  k.shape = 1;
  CHECK(unmerge_spike_slab(gram, &k, NULL, w, NULL, NULL, NULL, NULL, &e) == UNMERGE_E_RANGE && strstr(e.message, "shape"));
  unmerge_garrote_path_options p;
  unmerge_garrote_path_options_init(&p, sizeof p);
  const double falling[2] = {-1, -2};
  p.gammas = falling;
  p.n_gammas = 2;
  CHECK(unmerge_garrote_path(gram, &p, NULL, NULL, NULL, NULL, NULL, NULL, &e) == UNMERGE_E_RANGE && strstr(e.message, "gammas[1]"));
  CHECK(unmerge_sparse_bayes(NULL, NULL, NULL, w, NULL, NULL, NULL, NULL, &e) == UNMERGE_E_NULL);
  for (int j = 0; j < N; j++) CHECK(w[j] == 7);
}

static void answers(void) {
  problem q;
  unmerge_gram *gram = make(&q);
  garrote(gram, &q);
  others(gram);
  refusals(gram);
  unmerge_gram_destroy(gram);
  free_problem(&q);
}

MAIN(TEST(defaults), TEST(answers))
