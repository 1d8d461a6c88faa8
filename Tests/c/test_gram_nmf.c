/* Semi- and convex NMF from a Gram through the C interface: what is met, what is refused, what may be left out. */
#include "check.h"

static unmerge_error e;
enum { P = 120, T = 10, K = 3 };

static unmerge_model *make(const problem *q, int32_t kind, int32_t extrapolation) {
  unmerge_gram_nmf_options o;
  unmerge_gram_nmf_options_init(&o, sizeof o);
  o.components = K;
  o.kind = kind;
  o.extrapolation = extrapolation;
  unmerge_model *m = NULL;
  OK(unmerge_gram_nmf_create(q->gram, &o, NULL, &m, &e), e);
  return m;
}

/* ||X - X M H||^2 from the data; the atoms of the problem are the columns of X. */
static double rss(const problem *q, const double *m, const double *h) {
  double sum = 0;
  for (int64_t i = 0; i < q->p; i++) {
    double w[K] = {0};
    for (int64_t j = 0; j < T; j++)
      for (int l = 0; l < K; l++) w[l] += q->a[i * q->n + j] * m[j * K + l];
    for (int64_t j = 0; j < T; j++) {
      double r = q->a[i * q->n + j];
      for (int l = 0; l < K; l++) r -= w[l] * h[l * T + j];
      sum += r * r;
    }
  }
  return sum;
}

static void factors_fit_as_reported(void) {
  problem q = make_problem(P, T, 1);
  for (int32_t kind = UNMERGE_GRAM_NMF_SEMI; kind <= UNMERGE_GRAM_NMF_CONVEX; kind++) {
    unmerge_model *model = make(&q, kind, 1);
    double m[T * K], h[K * T], last = INFINITY;
    unmerge_view mv = view_f64(m, T, K), hv = view_f64(h, K, T);
    unmerge_run run = new_run();
    run.max_iter = 1;
    for (int i = 0; i < 20; i++) {
      unmerge_report r;
      unmerge_report_init(&r, sizeof r);
      OK(unmerge_model_step(model, NULL, &run, &r, &e), e);
      OK(unmerge_gram_nmf_mixing(model, &mv, &e), e);
      OK(unmerge_model_codes(model, &hv, &e), e);
      CHECKF(fabs(r.rss - rss(&q, m, h)) < 1e-11 * r.yy, "(%g %g)", r.rss, rss(&q, m, h));
      CHECK(r.objective == r.rss / 2 && r.objective <= last * (1 + 1e-13) && r.violation >= 0);
      last = r.objective;
      for (int j = 0; j < K * T; j++) CHECK(h[j] >= 0 && (kind == UNMERGE_GRAM_NMF_SEMI || m[j] >= 0));
    }
    unmerge_model_info info;
    unmerge_model_info_init(&info, sizeof info);
    OK(unmerge_model_get_info(model, &info, &e), e);
    CHECK(info.kind == UNMERGE_MODEL_GRAM_NMF && info.rows == P && info.columns == T && info.components == K);
    CHECK(info.iterations == 20);
    unmerge_model_destroy(model);
  }
  free_problem(&q);
}

static void saved_and_loaded_is_the_same(void) {
  problem q = make_problem(P, T, 1);
  unmerge_model *model = make(&q, UNMERGE_GRAM_NMF_CONVEX, 1), *copy = NULL;
  unmerge_run run = new_run();
  run.max_iter = 3;
  OK(unmerge_model_step(model, NULL, &run, NULL, &e), e);
  int64_t size = 0;
  OK(unmerge_model_saved_size(model, &size, &e), e);
  char *bytes = malloc((size_t)size);
  OK(unmerge_model_save(model, bytes, size, &e), e);
  OK(unmerge_model_load(bytes, size, &copy, &e), e);
  double m[2][T * K];
  unmerge_view a = view_f64(m[0], T, K), b = view_f64(m[1], T, K);
  OK(unmerge_model_step(model, NULL, &run, NULL, &e), e);
  OK(unmerge_model_step(copy, NULL, &run, NULL, &e), e);
  OK(unmerge_gram_nmf_mixing(model, &a, &e), e);
  OK(unmerge_gram_nmf_mixing(copy, &b, &e), e);
  CHECK(memcmp(m[0], m[1], sizeof m[0]) == 0);
  unmerge_model_destroy(copy);
  copy = NULL;
  for (int64_t i = 0; i < size; i += 37) {
    bytes[i] = (char)(bytes[i] ^ 4);
    REFUSED(unmerge_model_load(bytes, size, &copy, &e), e, UNMERGE_E_FORMAT);
    bytes[i] = (char)(bytes[i] ^ 4);
  }
  for (int64_t n = 0; n < size; n += 53) REFUSED(unmerge_model_load(bytes, n, &copy, &e), e, UNMERGE_E_FORMAT);
  CHECK(copy == NULL);
  free(bytes);
  unmerge_model_destroy(model);
  free_problem(&q);
}

static void bad_arguments(void) {
  problem q = make_problem(P, T, 1);
  unmerge_gram_nmf_options o;
  unmerge_gram_nmf_options_init(&o, sizeof o);
  unmerge_model *m = NULL;
  REFUSED(unmerge_gram_nmf_create(NULL, &o, NULL, &m, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, NULL, &e), e, UNMERGE_E_NULL);
  const int64_t components[] = {0, -1, T + 1, INT64_MAX, INT64_MIN};
  for (int i = 0; i < 5; i++) {
    o.components = components[i];
    REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
    NAMES(e, "options->components");
  }
  o.components = K;
  const int32_t flags[] = {-1, 2, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 4; i++) {
    o.kind = flags[i];
    REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
    NAMES(e, "options->kind");
    o.kind = 0, o.extrapolation = flags[i];
    REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
    NAMES(e, "options->extrapolation");
    o.extrapolation = 1, o.init = flags[i];
    REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
    NAMES(e, "options->init");
    o.init = 0;
  }
  const double penalties[] = {-1, NAN, INFINITY, -DBL_MIN};
  for (int i = 0; i < 4; i++) {
    o.l1_h = penalties[i];
    REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
    NAMES(e, "options->l1_h");
    o.l1_h = 0, o.l2_h = penalties[i];
    REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
    NAMES(e, "options->l2_h");
    o.l2_h = 0;
  }
  o.reserved = 1;
  REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_VERSION);
  o.reserved = 0;
  o.init = UNMERGE_INIT_GIVEN;
  REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_NULL);
  double h[K * T];
  for (int i = 0; i < K * T; i++) h[i] = i == 7 ? -1 : 1;
  unmerge_view v = view_f64(h, K, T);
  o.h = &v;
  REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
  NAMES(e, "options->h[0, 7] is -1");
  h[7] = NAN;
  REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_RANGE);
  v.shape[0] = K - 1;
  REFUSED(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e, UNMERGE_E_SHAPE);
  CHECK(m == NULL);
  h[7] = DBL_MAX; /* a start of any size is one */
  v.shape[0] = K;
  OK(unmerge_gram_nmf_create(q.gram, &o, NULL, &m, &e), e);
  OK(unmerge_model_step(m, NULL, NULL, NULL, &e), e);
  unmerge_view x = view_f64(q.a, P, T);
  REFUSED(unmerge_model_step(m, &x, NULL, NULL, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_model_components(m, &x, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_model_transform(m, &x, NULL, &v, NULL, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_gram_nmf_mixing(m, &v, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_gram_nmf_mixing(m, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_gram_nmf_mixing(NULL, &v, &e), e, UNMERGE_E_NULL);
  unmerge_model_destroy(m);
  REFUSED(unmerge_gram_nmf_mixing(m, &v, &e), e, UNMERGE_E_HANDLE);
  unmerge_nmf_options n;
  unmerge_nmf_options_init(&n, sizeof n);
  n.nonnegative_w = 0;
  OK(unmerge_nmf_create(&x, &n, NULL, &m, &e), e);
  REFUSED(unmerge_gram_nmf_mixing(m, &v, &e), e, UNMERGE_E_RANGE);
  NAMES(e, "unmerge_gram_nmf_create");
  unmerge_model_destroy(m);
  free_problem(&q);
}

static void ended_early(void) {
  problem q = make_problem(P, T, 1);
  unmerge_model *model = make(&q, UNMERGE_GRAM_NMF_SEMI, 0);
  const int32_t cancel = 1;
  unmerge_run run = new_run();
  run.cancel = &cancel;
  unmerge_report r;
  unmerge_report_init(&r, sizeof r);
  OK(unmerge_model_step(model, NULL, &run, &r, &e), e);
  CHECK(r.outcome == UNMERGE_CANCELLED && r.iterations == 0 && isfinite(r.objective) && isfinite(r.violation));
  unmerge_model_destroy(model);
  free_problem(&q);
}

MAIN(TEST(factors_fit_as_reported), TEST(saved_and_loaded_is_the_same), TEST(bad_arguments), TEST(ended_early))
