/* Model selection, standard errors, identifiability and Grams with changes: the contract, and numbers recomputed from the
 * arrays. */
#include "check.h"

static unmerge_error e;
enum { P = 2600, N = 6, BLOCKS = 26, ALPHAS = 7 };

/* y = A w + noise over BLOCKS modules of P / BLOCKS rows. */
typedef struct split {
  problem q;
  unmerge_operator *a, *y;
  unmerge_gram *gram;
} split;

static split make_split(void) {
  split s;
  s.q = make_problem(P, N, 1);
  uint64_t state = 3;
  for (int i = 0; i < P; i++) s.q.y[i] += noise(&state);
  OK(unmerge_operator_create(&s.a, &e), e);
  OK(unmerge_operator_create(&s.y, &e), e);
  const int rows = P / BLOCKS;
  for (int b = 0; b < BLOCKS; b++) {
    char name[16];
    snprintf(name, sizeof name, "m%d", b);
    OK(unmerge_operator_add_module(s.a, name, rows, 1, NULL, &e), e);
    OK(unmerge_operator_add_module(s.y, name, rows, 1, NULL, &e), e);
  }
  for (int j = 0; j <= N; j++) {
    char name[16];
    snprintf(name, sizeof name, "c%d", j);
    unmerge_operator *op = j < N ? s.a : s.y;
    OK(unmerge_operator_add_column(op, name, NULL, &e), e);
    for (int b = 0; b < BLOCKS; b++) {
      unmerge_view v = view_f64(j < N ? s.q.a + (size_t)(b * rows) * N + j : s.q.y + b * rows, rows, 1);
      v.strides[0] = j < N ? N * 8 : 8;
      OK(unmerge_operator_set_dense(op, b, j < N ? j : 0, &v, NULL, 1, &e), e);
    }
  }
  OK(unmerge_gram_create(s.a, s.y, NULL, NULL, &s.gram, &e), e);
  if (failures > 0) _exit(1);
  return s;
}

static void free_split(split *s) {
  unmerge_gram_destroy(s->gram);
  unmerge_operator_destroy(s->a);
  unmerge_operator_destroy(s->y);
  free_problem(&s->q);
}

static void defaults(void) {
  unmerge_cv_options c;
  memset(&c, 0x5a, sizeof c);
  CHECK(unmerge_cv_options_init(&c, sizeof c) == UNMERGE_OK && c.struct_size == sizeof c && c.l1_ratio == 1 && c.alpha_min_ratio == 0);
  CHECK(c.n_alphas == 100 && c.alphas == NULL && c.weights == NULL && c.folds == NULL && c.target == 0 && c.positive == 0);
  CHECK(c.lower == NULL && c.upper == NULL && c.reserved == 0);
  unmerge_criteria_options i;
  memset(&i, 0x5a, sizeof i);
  CHECK(unmerge_criteria_options_init(&i, sizeof i) == UNMERGE_OK && i.gamma == 0.5 && i.sigma2 == 1 && i.effective == 0);
  CHECK(i.sigma == UNMERGE_SIGMA_FULL && i.target == 0 && i.reserved == 0);
  unmerge_stability_options s;
  memset(&s, 0x5a, sizeof s);
  CHECK(unmerge_stability_options_init(&s, sizeof s) == UNMERGE_OK && s.l1_ratio == 1 && s.alpha_min_ratio == 1e-3);
  CHECK(s.threshold == 0.75 && s.q == 0 && s.pairs == 50 && s.n_alphas == 100 && s.target == 0 && s.positive == 0);
  unmerge_inference_options f;
  memset(&f, 0x5a, sizeof f);
  CHECK(unmerge_inference_options_init(&f, sizeof f) == UNMERGE_OK && f.support == NULL && f.n_support == 0);
  CHECK(f.contrasts == NULL && f.n_contrasts == 0 && f.clusters == NULL && f.confidence == 0.95);
  CHECK(f.covariance == UNMERGE_COVARIANCE_CLASSICAL && f.target == 0 && f.reserved == 0);
  unmerge_cv_result cr;
  unmerge_stability_result sr;
  unmerge_inference_result fr;
  unmerge_inferred fi;
  unmerge_atom_identifiability ai;
  unmerge_identifiability_result ir;
  CHECK(unmerge_cv_result_init(&cr, sizeof cr) == UNMERGE_OK && cr.struct_size == sizeof cr);
  CHECK(unmerge_stability_result_init(&sr, sizeof sr) == UNMERGE_OK && sr.struct_size == sizeof sr);
  CHECK(unmerge_inference_result_init(&fr, sizeof fr) == UNMERGE_OK && fr.struct_size == sizeof fr);
  CHECK(unmerge_inferred_init(&fi, sizeof fi) == UNMERGE_OK && fi.struct_size == sizeof fi);
  CHECK(unmerge_atom_identifiability_init(&ai, sizeof ai) == UNMERGE_OK && ai.struct_size == sizeof ai);
  CHECK(unmerge_identifiability_result_init(&ir, sizeof ir) == UNMERGE_OK && ir.struct_size == sizeof ir);
}

static void nulls_and_handles(void) {
  problem q = make_problem(60, 3, 1);
  double x[9], w[3] = {0};
  int64_t k = -7;
  unmerge_view v = view_f64(w, 3, 1), m = view_f64(x, 3, 3), row = view_f64(x, 1, UNMERGE_CRITERIA);
  unmerge_gram *g = NULL;
  void *const bad[2] = {NULL, q.ao};
  for (int i = 0; i < 2; i++) {
    const int code = i == 0 ? UNMERGE_E_NULL : UNMERGE_E_HANDLE;
    REFUSED(unmerge_gram_folds(bad[i], NULL, &k, &e), e, code);
    REFUSED(unmerge_cross_validate(bad[i], NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &e), e, code);
    REFUSED(unmerge_information_criteria(bad[i], NULL, &v, NULL, &row, NULL, &e), e, code);
    REFUSED(unmerge_stability_selection(bad[i], NULL, NULL, NULL, NULL, NULL, NULL, &e), e, code);
    REFUSED(unmerge_least_squares_inference(bad[i], NULL, NULL, NULL, NULL, NULL, &e), e, code);
    REFUSED(unmerge_identifiability(bad[i], NULL, NULL, NULL, &e), e, code);
    REFUSED(unmerge_gram_add_atoms(bad[i], q.ao, q.ao, q.yo, NULL, NULL, &g, &e), e, code);
    REFUSED(unmerge_gram_transform(bad[i], &m, &g, &e), e, code);
    REFUSED(unmerge_gram_weighted(bad[i], x, &g, &e), e, code);
    REFUSED(unmerge_gram_shift_target(bad[i], &v, &g, &e), e, code);
  }
  REFUSED(unmerge_information_criteria(q.gram, NULL, NULL, NULL, &row, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_information_criteria(q.gram, NULL, &v, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_add_atoms(q.gram, NULL, q.ao, q.yo, NULL, NULL, &g, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_add_atoms(q.gram, q.ao, NULL, q.yo, NULL, NULL, &g, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_add_atoms(q.gram, q.ao, q.ao, NULL, NULL, NULL, &g, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_add_atoms(q.gram, q.ao, q.ao, q.yo, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_transform(q.gram, NULL, &g, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_transform(q.gram, &m, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_weighted(q.gram, NULL, &g, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_weighted(q.gram, w, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_shift_target(q.gram, NULL, &g, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_shift_target(q.gram, &v, NULL, &e), e, UNMERGE_E_NULL);
  CHECK(g == NULL && k == -7);
  /* Nothing is wanted: still a legal question. */
  OK(unmerge_identifiability(q.gram, NULL, NULL, NULL, NULL), e);
  OK(unmerge_least_squares_inference(q.gram, NULL, NULL, NULL, NULL, NULL, &e), e);
  OK(unmerge_gram_folds(q.gram, NULL, NULL, &e), e);
  free_problem(&q);
}

static void fold_errors(void) {
  split s = make_split();
  const int rows = P / BLOCKS;
  int64_t folds[BLOCKS], count = 0;
  OK(unmerge_gram_folds(s.gram, folds, &count, &e), e);
  CHECK(count == BLOCKS);
  for (int b = 0; b < BLOCKS; b++) CHECK(folds[b] == b);
  for (int b = 0; b < BLOCKS; b++) folds[b] = b % 3 - (b % 3 == 2 && b > 20 ? 3 : 0); /* some of fold 2 always train */
  enum { K = 3 };
  double curve[ALPHAS * 3], errors[ALPHAS * K], paths[N * K * ALPHAS], coef[N * ALPHAS];
  unmerge_view cv = view_f64(curve, ALPHAS, 3), ev = view_f64(errors, ALPHAS, K), pv = view_f64(paths, N, K * ALPHAS),
               wv = view_f64(coef, N, ALPHAS);
  unmerge_report reports[ALPHAS];
  for (int i = 0; i < ALPHAS; i++) unmerge_report_init(&reports[i], sizeof reports[i]);
  unmerge_cv_result result;
  unmerge_cv_result_init(&result, sizeof result);
  unmerge_cv_options o;
  unmerge_cv_options_init(&o, sizeof o);
  o.n_alphas = ALPHAS, o.folds = folds;
  OK(unmerge_cross_validate(s.gram, &o, NULL, &cv, &ev, &pv, &wv, reports, &result, &e), e);
  CHECK(result.folds == K && result.unconverged == 0 && result.best >= 0 && result.best < ALPHAS);
  double smallest = INFINITY;
  for (int i = 0; i < ALPHAS; i++) {
    double mean = 0, squares = 0;
    for (int k = 0; k < K; k++) {
      double rss = 0;
      int64_t p = 0;
      for (int b = 0; b < BLOCKS; b++)
        for (int r = b * rows; folds[b] == k && r < (b + 1) * rows; r++, p++) {
          double residual = s.q.y[r];
          for (int j = 0; j < N; j++) residual -= s.q.a[r * N + j] * paths[j * K * ALPHAS + k * ALPHAS + i];
          rss += residual * residual;
        }
      CHECKF(fabs(errors[i * K + k] - rss / (double)p) <= 1e-11 * errors[i * K + k], "(%g %g)", errors[i * K + k], rss / (double)p);
      mean += errors[i * K + k] / (double)K;
    }
    for (int k = 0; k < K; k++) squares += (errors[i * K + k] - mean) * (errors[i * K + k] - mean);
    CHECK(fabs(curve[3 * i + 1] - mean) <= 1e-13 * mean && fabs(curve[3 * i + 2] - sqrt(squares / ((double)K - 1) / (double)K)) <= 1e-9 * mean);
    smallest = fmin(smallest, mean);
    CHECK(reports[i].outcome == UNMERGE_CONVERGED && reports[i].df == (double)reports[i].nonzeros);
  }
  CHECK(fabs(curve[3 * result.best + 1] - smallest) <= 1e-13 * smallest);
  CHECK(curve[3 * result.one_se] >= curve[3 * result.best] && curve[3 * result.one_se + 1] <= smallest + curve[3 * result.best + 2]);
  /* The same bits without the outputs, on one thread. */
  unmerge_run run = new_run();
  run.threads = 1;
  double again[ALPHAS * K];
  unmerge_view av = view_f64(again, ALPHAS, K);
  OK(unmerge_cross_validate(s.gram, &o, &run, NULL, &av, NULL, NULL, NULL, NULL, &e), e);
  CHECK(memcmp(again, errors, sizeof again) == 0);
  free_split(&s);
}

#define CV unmerge_cross_validate(s.gram, &o, NULL, NULL, &ev, NULL, NULL, NULL, NULL, &e)
static void cross_validation_refuses(void) {
  split s = make_split();
  double errors[ALPHAS * BLOCKS];
  for (int i = 0; i < ALPHAS * BLOCKS; i++) errors[i] = -5;
  unmerge_view ev = view_f64(errors, ALPHAS, BLOCKS);
  unmerge_cv_options o;
#define FRESH unmerge_cv_options_init(&o, sizeof o), o.n_alphas = ALPHAS
  const double ratios[] = {-0.1, 1.1, NAN};
  for (int i = 0; i < 3; i++) {
    FRESH, o.l1_ratio = ratios[i];
    REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "l1_ratio");
    FRESH, o.alpha_min_ratio = ratios[i];
    REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "alpha_min_ratio");
  }
  const int64_t counts[] = {0, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 62};
  for (int i = 0; i < 5; i++) {
    FRESH, o.n_alphas = counts[i];
    REFUSED3(CV, e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE, UNMERGE_E_MEMORY);
  }
  FRESH, o.target = 1;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "target");
  FRESH, o.positive = 2;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "positive");
  FRESH, o.reserved = 1;
  REFUSED(CV, e, UNMERGE_E_VERSION); NAMES(e, "reserved");
  double alphas[ALPHAS] = {1, 2, 3, 4, 5, 6, -1};
  FRESH, o.alphas = alphas;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "alphas[6]");
  const double lower[N] = {1, 0, 0, 0, 0, 0};
  FRESH, o.lower = lower;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "bounds");
  int64_t folds[BLOCKS] = {0};
  FRESH, o.folds = folds; /* one fold */
  REFUSED(CV, e, UNMERGE_E_RANGE);
  folds[1] = INT64_MAX;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "folds[1]");
  folds[1] = -2;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "folds[1]");
  folds[1] = 2;
  REFUSED(CV, e, UNMERGE_E_RANGE); NAMES(e, "fold 1");
  FRESH;
  unmerge_view wrong = view_f64(errors, ALPHAS, 3);
  REFUSED(unmerge_cross_validate(s.gram, &o, NULL, NULL, &wrong, NULL, NULL, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
  const int32_t stop = 1;
  unmerge_run run = new_run();
  run.cancel = &stop;
  REFUSED(unmerge_cross_validate(s.gram, &o, &run, NULL, &ev, NULL, NULL, NULL, NULL, &e), e, UNMERGE_E_CANCELLED);
  unmerge_gram *one = NULL;
  const int64_t blocks[] = {0};
  OK(unmerge_gram_subset(s.gram, NULL, 0, blocks, 1, &one, &e), e);
  REFUSED(unmerge_cross_validate(one, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &e), e, UNMERGE_E_RANGE); NAMES(e, "folds");
  unmerge_gram_destroy(one);
  for (int i = 0; i < ALPHAS * BLOCKS; i++) CHECK(errors[i] == -5);
  free_split(&s);
}

static void criteria_and_inference(void) {
  split s = make_split();
  unmerge_inferred found[N + 1];
  for (int j = 0; j <= N; j++) unmerge_inferred_init(&found[j], sizeof found[j]);
  double cov[N * N];
  const double line[N] = {1, 0, 0, -1, 0, 0};
  unmerge_view v = view_f64(cov, N, N);
  unmerge_inference_result r;
  unmerge_inference_result_init(&r, sizeof r);
  unmerge_inference_options o;
  unmerge_inference_options_init(&o, sizeof o);
  o.contrasts = line, o.n_contrasts = 1, o.covariance = UNMERGE_COVARIANCE_CLUSTER;
  OK(unmerge_least_squares_inference(s.gram, &o, NULL, found, &v, &r, &e), e);
  CHECK(r.rank == N && r.clusters == BLOCKS && r.degrees == BLOCKS - 1);
  double rss = 0, w[N];
  for (int j = 0; j < N; j++) {
    w[j] = found[j].estimate;
    CHECK(fabs(w[j] - s.q.truth[j]) < 6 * found[j].standard_error && found[j].vif >= 1);
    CHECK(fabs(found[j].standard_error * found[j].standard_error - cov[j * N + j]) <= 1e-12 * cov[j * N + j]);
    CHECK(found[j].low < w[j] && w[j] < found[j].high);
  }
  for (int i = 0; i < P; i++) {
    double residual = s.q.y[i];
    for (int j = 0; j < N; j++) residual -= s.q.a[i * N + j] * w[j];
    rss += residual * residual;
  }
  CHECK(fabs(r.rss - rss) <= 1e-11 * rss && fabs(r.sigma2 - rss / (P - N)) <= 1e-11 * r.sigma2);
  const double variance = cov[0] + cov[3 * N + 3] - 2 * cov[3];
  CHECK(fabs(found[N].estimate - (w[0] - w[3])) <= 1e-12);
  CHECK(fabs(found[N].standard_error - sqrt(variance)) <= 1e-9 * sqrt(variance) && isnan(found[N].vif));
  /* Least squares is the fit whose sigma^2 the criteria use. */
  double criteria[UNMERGE_CRITERIA], sigma2 = 0;
  unmerge_view wv = view_f64(w, N, 1), cv = view_f64(criteria, 1, UNMERGE_CRITERIA);
  OK(unmerge_information_criteria(s.gram, NULL, &wv, NULL, &cv, &sigma2, &e), e);
  CHECK(fabs(sigma2 - r.sigma2) <= 1e-11 * sigma2);
  CHECK(fabs(criteria[UNMERGE_CRITERION_BIC] - criteria[UNMERGE_CRITERION_AIC] - (double)N * (log(P) - 2)) < 1e-6);
  CHECK(criteria[UNMERGE_CRITERION_EBIC] == criteria[UNMERGE_CRITERION_BIC]); /* C(n, n) = 1 */
  CHECK(fabs(criteria[UNMERGE_CRITERION_CP] - (double)N) < 1e-6);                      /* Cp of the full model is its size */
  CHECK(fabs(criteria[UNMERGE_CRITERION_GCV] - rss / (double)P / pow(1 - (double)N / (double)P, 2)) <= 1e-11 * criteria[UNMERGE_CRITERION_GCV]);
  /* Refusals */
  const int64_t twice[] = {1, 1}, beyond[] = {N};
#define INFER unmerge_least_squares_inference(s.gram, &o, NULL, found, NULL, NULL, &e)
  unmerge_inference_options_init(&o, sizeof o), o.support = twice, o.n_support = 2;
  REFUSED(INFER, e, UNMERGE_E_RANGE); NAMES(e, "support[1]");
  unmerge_inference_options_init(&o, sizeof o), o.support = beyond, o.n_support = 1;
  REFUSED(INFER, e, UNMERGE_E_RANGE); NAMES(e, "support[0]");
  unmerge_inference_options_init(&o, sizeof o), o.support = beyond, o.n_support = -1;
  REFUSED(INFER, e, UNMERGE_E_RANGE); NAMES(e, "n_support");
  unmerge_inference_options_init(&o, sizeof o), o.contrasts = line, o.n_contrasts = INT64_MAX;
  REFUSED(INFER, e, UNMERGE_E_RANGE); NAMES(e, "n_contrasts");
  unmerge_inference_options_init(&o, sizeof o), o.confidence = 1;
  REFUSED(INFER, e, UNMERGE_E_RANGE); NAMES(e, "confidence");
  unmerge_inference_options_init(&o, sizeof o), o.covariance = 2;
  REFUSED(INFER, e, UNMERGE_E_RANGE); NAMES(e, "covariance");
  unmerge_criteria_options c;
#define CRITERIA unmerge_information_criteria(s.gram, &c, &wv, NULL, &cv, NULL, &e)
  unmerge_criteria_options_init(&c, sizeof c), c.gamma = 2;
  REFUSED(CRITERIA, e, UNMERGE_E_RANGE); NAMES(e, "gamma");
  unmerge_criteria_options_init(&c, sizeof c), c.sigma = 3;
  REFUSED(CRITERIA, e, UNMERGE_E_RANGE); NAMES(e, "sigma");
  unmerge_criteria_options_init(&c, sizeof c), c.sigma = UNMERGE_SIGMA_GIVEN, c.sigma2 = 0;
  REFUSED(CRITERIA, e, UNMERGE_E_RANGE); NAMES(e, "sigma2");
  unmerge_criteria_options_init(&c, sizeof c), c.effective = NAN;
  REFUSED(CRITERIA, e, UNMERGE_E_RANGE); NAMES(e, "effective");
  const double df = -1;
  REFUSED(unmerge_information_criteria(s.gram, NULL, &wv, &df, &cv, NULL, &e), e, UNMERGE_E_RANGE); NAMES(e, "df[0]");
  free_split(&s);
}

static void stability(void) {
  split s = make_split();
  unmerge_stability_options o;
  unmerge_stability_options_init(&o, sizeof o);
  o.n_alphas = ALPHAS, o.q = 2;
  double alphas[ALPHAS], frequency[N], along[N * ALPHAS], again[N];
  unmerge_view v = view_f64(along, N, ALPHAS);
  unmerge_stability_result r;
  unmerge_stability_result_init(&r, sizeof r);
  OK(unmerge_stability_selection(s.gram, &o, NULL, alphas, frequency, &v, &r, &e), e);
  double sum = 0;
  int64_t selected = 0;
  for (int j = 0; j < N; j++) {
    CHECK(frequency[j] >= 0 && frequency[j] <= 1 && frequency[j] * 100 == floor(frequency[j] * 100 + 0.5));
    for (int i = 1; i < ALPHAS; i++) CHECK(along[j * ALPHAS + i] >= 0 && along[j * ALPHAS + i] <= 1);
    sum += frequency[j], selected += frequency[j] >= 0.75;
  }
  CHECK(r.halves == 100 && r.q == 2 && r.selected == selected && fabs(r.mean_selected - sum) < 1e-12 && sum <= 2);
  CHECK(fabs(r.bound - sum * sum / (double)N / 0.5) < 1e-12);
  unmerge_run run = new_run();
  run.threads = 1;
  OK(unmerge_stability_selection(s.gram, &o, &run, NULL, again, NULL, NULL, &e), e);
  CHECK(memcmp(again, frequency, sizeof again) == 0);
  int64_t blocks[19];
  for (int i = 0; i < 19; i++) blocks[i] = i;
  unmerge_gram *few = NULL;
  OK(unmerge_gram_subset(s.gram, NULL, 0, blocks, 19, &few, &e), e);
  REFUSED(unmerge_stability_selection(few, &o, NULL, NULL, again, NULL, NULL, &e), e, UNMERGE_E_RANGE); NAMES(e, "folds");
  const double bad[] = {0.5, 1.5, NAN};
  for (int i = 0; i < 3; i++) {
    o.threshold = bad[i];
    REFUSED(unmerge_stability_selection(s.gram, &o, NULL, NULL, again, NULL, NULL, &e), e, UNMERGE_E_RANGE); NAMES(e, "threshold");
  }
  unmerge_gram_destroy(few);
  free_split(&s);
}

static void identifiable(void) {
  const double g[9] = {4, 2, 0, 2, 4, 0, 0, 0, 9}, c[3] = {1, 1, 1}, yy = 10;
  unmerge_view gv = view_f64((double *)g, 3, 3), cv = view_f64((double *)c, 3, 1), yv = view_f64((double *)&yy, 1, 1);
  unmerge_gram *gram = NULL;
  OK(unmerge_gram_from_arrays(&gv, &cv, &yv, 100, &gram, &e), e);
  unmerge_atom_identifiability atoms[3];
  for (int j = 0; j < 3; j++) unmerge_atom_identifiability_init(&atoms[j], sizeof atoms[j]);
  double singular[3];
  unmerge_identifiability_result r;
  unmerge_identifiability_result_init(&r, sizeof r);
  OK(unmerge_identifiability(gram, atoms, singular, &r, &e), e);
  CHECK(fabs(singular[0] - 1.5) < 1e-14 && fabs(singular[1] - 1) < 1e-14 && fabs(singular[2] - 0.5) < 1e-14);
  CHECK(r.rank == 3 && r.groups == 0 && fabs(r.condition - 3) < 1e-13);
  CHECK(fabs(atoms[0].vif - 4. / 3) < 1e-14 && fabs(atoms[1].vif - 4. / 3) < 1e-14 && fabs(atoms[2].vif - 1) < 1e-14);
  CHECK(atoms[0].nearest == 1 && atoms[1].nearest == 0 && atoms[0].cosine == 0.5 && atoms[2].cosine == 0 && atoms[2].norm == 3);
  /* A fourth atom that is the sum of the first two. */
  const double m[12] = {1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0};
  unmerge_view mv = view_f64((double *)m, 3, 4);
  unmerge_gram *sum = NULL;
  OK(unmerge_gram_transform(gram, &mv, &sum, &e), e);
  unmerge_atom_identifiability four[4];
  for (int j = 0; j < 4; j++) unmerge_atom_identifiability_init(&four[j], sizeof four[j]);
  OK(unmerge_identifiability(sum, four, NULL, &r, &e), e);
  CHECK(r.rank == 3 && r.groups == 1 && isinf(r.condition));
  CHECK(four[0].group == 0 && four[1].group == 0 && four[2].group == -1 && four[3].group == 0 && isinf(four[3].vif));
  unmerge_gram_destroy(sum);
  unmerge_gram_destroy(gram);
}

static void changes(void) {
  split s = make_split();
  /* Two atoms of s, then the rest beside them: the Gram of all. */
  double g[N * N], h[N * N];
  unmerge_view gv = view_f64(g, N, N), hv = view_f64(h, N, N);
  const int rows = P / BLOCKS;
  unmerge_operator *part[2];
  for (int side = 0; side < 2; side++) {
    OK(unmerge_operator_create(&part[side], &e), e);
    for (int b = 0; b < BLOCKS; b++) {
      char name[16];
      snprintf(name, sizeof name, "m%d", b);
      OK(unmerge_operator_add_module(part[side], name, rows, 1, NULL, &e), e);
    }
    for (int j = 0; j < (side == 0 ? 2 : N - 2); j++) {
      char name[16];
      snprintf(name, sizeof name, "%d", j);
      OK(unmerge_operator_add_column(part[side], name, NULL, &e), e);
      for (int b = 0; b < BLOCKS; b++) {
        unmerge_view v = view_f64(s.q.a + (size_t)(b * rows) * N + (side == 0 ? j : j + 2), rows, 1);
        v.strides[0] = N * 8;
        OK(unmerge_operator_set_dense(part[side], b, j, &v, NULL, 1, &e), e);
      }
    }
  }
  unmerge_gram *small = NULL, *grown = NULL, *other = NULL;
  OK(unmerge_gram_create(part[0], s.y, NULL, NULL, &small, &e), e);
  OK(unmerge_gram_add_atoms(small, part[0], part[1], s.y, NULL, NULL, &grown, &e), e);
  OK(unmerge_gram_arrays(grown, -1, &gv, NULL, NULL, &e), e);
  OK(unmerge_gram_arrays(s.gram, -1, &hv, NULL, NULL, &e), e);
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) CHECK(fabs(g[i * N + j] - h[i * N + j]) <= 5e-15 * sqrt(h[i * N + i] * h[j * N + j]));
  REFUSED(unmerge_gram_add_atoms(small, part[1], part[1], s.y, NULL, NULL, &other, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_gram_add_atoms(small, s.y, part[1], part[0], NULL, NULL, &other, &e), e, UNMERGE_E_SHAPE);
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.folds = 2;
  REFUSED(unmerge_gram_add_atoms(small, part[0], part[1], s.y, &o, NULL, &other, &e), e, UNMERGE_E_SHAPE); NAMES(e, "options");
  const int32_t stop = 1;
  unmerge_run run = new_run();
  run.cancel = &stop;
  REFUSED(unmerge_gram_add_atoms(small, part[0], part[1], s.y, NULL, &run, &other, &e), e, UNMERGE_E_CANCELLED);
  /* y - A w: what is left is the residual of w. */
  double w[N], left[1];
  unmerge_view wv = view_f64(w, N, 1), lv = view_f64(left, 1, 1);
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  unmerge_ridge_options ridge;
  unmerge_ridge_options_init(&ridge, sizeof ridge);
  ridge.alpha = 0;
  OK(unmerge_ridge(s.gram, &ridge, NULL, &wv, &r, &e), e);
  CHECK(r.df == (double)N);
  for (int j = 0; j < N; j++) w[j] = -w[j];
  OK(unmerge_gram_shift_target(s.gram, &wv, &other, &e), e);
  OK(unmerge_gram_arrays(other, -1, NULL, NULL, &lv, &e), e);
  CHECKF(fabs(left[0] - r.rss) <= 1e-9 * r.rss, "(%g %g)", left[0], r.rss);
  unmerge_gram_destroy(other), other = NULL;
  double weights[BLOCKS];
  for (int b = 0; b < BLOCKS; b++) weights[b] = b < 5 ? 4 : 0;
  OK(unmerge_gram_weighted(s.gram, weights, &other, &e), e);
  unmerge_gram_destroy(other), other = NULL;
  const double bad[] = {-1, NAN, INFINITY, 1e308};
  for (int i = 0; i < 4; i++) {
    weights[7] = bad[i];
    REFUSED2(unmerge_gram_weighted(s.gram, weights, &other, &e), e, UNMERGE_E_RANGE, UNMERGE_E_NONFINITE); NAMES(e, "weights");
    w[3] = bad[i] < 0 ? NAN : bad[i];
    REFUSED(unmerge_gram_shift_target(s.gram, &wv, &other, &e), e, UNMERGE_E_NONFINITE); NAMES(e, "m");
  }
  unmerge_view huge = broadcast_f64(w, N, INT64_C(1) << 40);
  REFUSED2(unmerge_gram_transform(s.gram, &huge, &other, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_MEMORY);
  CHECK(other == NULL);
  unmerge_gram_destroy(small), unmerge_gram_destroy(grown);
  unmerge_operator_destroy(part[0]), unmerge_operator_destroy(part[1]);
  free_split(&s);
}

MAIN(TEST(defaults), TEST(nulls_and_handles), TEST(fold_errors), TEST(cross_validation_refuses), TEST(criteria_and_inference),
     TEST(stability), TEST(identifiable), TEST(changes))
