/* On a negative status outputs are untouched: coefficients, reports, orders, alphas, handles, numbers. */
#include "check.h"

static unmerge_error e;
enum { N = 4, T = 2, FILL = 0x5a };

static bool filled(const void *p, size_t n) {
  const unsigned char *b = p;
  for (size_t i = 0; i < n; i++)
    if (b[i] != FILL) return false;
  return true;
}

typedef struct outputs {
  double coef[N * 8];
  double alphas[8];
  int64_t order[16];
  unmerge_report reports[8];
} outputs;

/* Patterned, with what has to be there: the size in the first report. */
static void fill(outputs *o) {
  memset(o, FILL, sizeof *o);
  o->reports[0].struct_size = sizeof(unmerge_report);
}
static void check_filled(outputs *o, const char *what) {
  CHECKF(o->reports[0].struct_size == sizeof(unmerge_report), "(%s)", what);
  memset(&o->reports[0].struct_size, FILL, sizeof(size_t));
  CHECKF(filled(o, sizeof *o), "(%s: an output was touched)", what);
}

static void methods_on_bad_calls(void) {
  problem q = make_problem(60, N, T);
  unmerge_gram *stale = NULL;
  OK(unmerge_gram_create(q.ao, q.yo, NULL, NULL, &stale, &e), e);
  unmerge_gram_destroy(stale);
  outputs o;
  EACH_METHOD(m) {
    const int64_t c = columns_of(m, T);
    unmerge_view v = view_f64(o.coef, N, c), wrong = view_f64(o.coef, N, c + 1), half = v;
    half.dtype = UNMERGE_F16;
    unmerge_run bad = new_run();
    bad.tol = NAN;
    union {
      size_t struct_size;
      double room[64];
    } options;
    m->init(&options, m->size);
    options.struct_size = 0;
    const unmerge_gram *grams[] = {NULL, stale, q.gram, q.gram, q.gram, q.gram, (const void *)q.ao};
    const unmerge_view *views[] = {&v, &v, &wrong, &half, &v, &v, &v};
    const unmerge_run *runs[] = {NULL, NULL, NULL, NULL, &bad, NULL, NULL};
    const void *opts[] = {NULL, NULL, NULL, NULL, NULL, &options, NULL};
    for (int i = 0; i < 7; i++) {
      fill(&o);
      CHECKF(m->call(grams[i], opts[i], runs[i], views[i], o.reports, &e) < 0, "(%s, case %d)", m->name, i);
      check_filled(&o, m->name);
    }
  }
  free_problem(&q);
}

static void methods_on_bad_options(void) {
  problem q = make_problem(60, N, T);
  outputs o;
  unmerge_view v = view_f64(o.coef, N, T), five = view_f64(o.coef, N, PATH_ALPHAS);
#define UNTOUCHED(expression)                                                                                                  \
  do {                                                                                                                         \
    fill(&o);                                                                                                                  \
    CHECK((expression) < 0);                                                                                                   \
    check_filled(&o, #expression);                                                                                             \
  } while (0)
  unmerge_ridge_options ridge;
  unmerge_ridge_options_init(&ridge, sizeof ridge);
  ridge.alpha = -1;
  UNTOUCHED(unmerge_ridge(q.gram, &ridge, NULL, &v, o.reports, &e));
  unmerge_lasso_options lasso;
  unmerge_lasso_options_init(&lasso, sizeof lasso);
  lasso.alpha = NAN;
  UNTOUCHED(unmerge_lasso(q.gram, &lasso, NULL, &v, o.reports, &e));
  unmerge_elastic_net_options net;
  unmerge_elastic_net_options_init(&net, sizeof net);
  net.l1_ratio = 2;
  UNTOUCHED(unmerge_elastic_net(q.gram, &net, NULL, &v, o.reports, &e));
  unmerge_nnls_options nnls;
  unmerge_nnls_options_init(&nnls, sizeof nnls);
  nnls.warm_start = 2;
  UNTOUCHED(unmerge_nnls(q.gram, &nnls, NULL, &v, o.reports, &e));
  unmerge_omp_options omp;
  unmerge_omp_options_init(&omp, sizeof omp);
  omp.k = 0;
  UNTOUCHED(unmerge_omp(q.gram, &omp, NULL, &v, o.order, o.reports, &e));
  unmerge_path_options path;
  unmerge_path_options_init(&path, sizeof path);
  path.n_alphas = PATH_ALPHAS;
  path.target = T;
  UNTOUCHED(unmerge_lasso_path(q.gram, &path, NULL, o.alphas, &five, o.reports, &e));
  path.target = 0;
  const double alphas[PATH_ALPHAS] = {1, 2, 3, 4, -1}; /* the last one is wrong */
  path.alphas = alphas;
  UNTOUCHED(unmerge_lasso_path(q.gram, &path, NULL, o.alphas, &five, o.reports, &e));
  unmerge_dot_options dot;
  unmerge_dot_options_init(&dot, sizeof dot);
  dot.variant = 9;
  UNTOUCHED(unmerge_dot(q.gram, &dot, NULL, &v, o.reports, &e));
  UNTOUCHED(unmerge_alpha_max(q.gram, NAN, NULL, 0, o.alphas, &e));
  const double weights[N] = {1, 1, 1, -1};
  UNTOUCHED(unmerge_alpha_max(q.gram, 1, weights, 0, o.alphas, &e));
  free_problem(&q);
}

static void verify_and_refine(void) {
  problem q = make_problem(60, N, T);
  double w[N * T] = {0}, before[N * T] = {0};
  unmerge_view v = view_f64(w, N, T);
  outputs o;
  unmerge_view correlation = view_f64(o.coef, N, T);
  q.y[7] = NAN; /* found late, in the pass */
  UNTOUCHED(unmerge_verify(q.ao, q.yo, NULL, NULL, &v, &correlation, o.reports, &e));
  CHECK(e.status == UNMERGE_E_NONFINITE);
  UNTOUCHED(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, &v, o.reports, &e));
  CHECK(memcmp(w, before, sizeof w) == 0);
  free_problem(&q);
}

static void handles_and_numbers(void) {
  problem q = make_problem(60, N, T);
  void *const mark = (void *)(uintptr_t)0x5a5a5a5a5a5a5a5a;
  unmerge_operator *op = mark;
  unmerge_gram *g = mark;
  unmerge_mask *mask = mark;
  unmerge_accumulator *acc = mark;
  unmerge_view bad = q.av;
  bad.dtype = 9;
  CHECK(unmerge_operator_from_matrix(&bad, &op, &e) < 0 && op == mark);
  unmerge_gram_options go;
  unmerge_gram_options_init(&go, sizeof go);
  go.folds = -1;
  CHECK(unmerge_gram_create(q.ao, q.yo, &go, NULL, &g, &e) < 0 && g == mark);
  CHECK(unmerge_accumulator_create(3, 1, &go, &acc, &e) < 0 || acc != mark); /* folds do not apply there */
  CHECK(unmerge_gram_from_arrays(&q.av, &q.av, &q.av, 5, &g, &e) < 0 && g == mark);
  const int64_t nine[1] = {9};
  CHECK(unmerge_gram_subset(q.gram, nine, 1, NULL, 0, &g, &e) < 0 && g == mark);
  CHECK(unmerge_gram_load("nonsense", 8, &g, &e) < 0 && g == mark);
  CHECK(unmerge_gram_merge(q.gram, NULL, &g, &e) < 0 && g == mark);
  problem other = make_problem(60, N + 1, T);
  CHECK(unmerge_gram_merge(q.gram, other.gram, &g, &e) == UNMERGE_E_SHAPE && g == mark);
  q.a[5] = INFINITY;
  CHECK(unmerge_gram_create(q.ao, q.yo, NULL, NULL, &g, &e) == UNMERGE_E_NONFINITE && g == mark);
  CHECK(unmerge_mask_create(q.ao, NULL, NULL, &mask, &e) == UNMERGE_E_NONFINITE && mask == mark);
  unmerge_gram_info info;
  memset(&info, FILL, sizeof info);
  info.struct_size = sizeof info;
  CHECK(unmerge_gram_get_info(NULL, &info, &e) < 0 && filled(&info.atoms, sizeof info - sizeof(size_t)));
  int64_t a = -5, b = -5, c = -5;
  const char *name = mark;
  CHECK(unmerge_gram_block(q.gram, 5, &name, &a, &b, &e) < 0 && a == -5 && b == -5 && name == mark);
  CHECK(unmerge_operator_shape(NULL, &a, &b, &c, &e) < 0 && a == -5 && b == -5 && c == -5);
  double x[N * N];
  memset(x, FILL, sizeof x);
  unmerge_view gv = view_f64(x, N, N), wrong = view_f64(x, N, N + 1);
  CHECK(unmerge_gram_arrays(q.gram, -1, &gv, &wrong, NULL, &e) < 0 && filled(x, sizeof x)); /* all or nothing */
  free_problem(&q);
  free_problem(&other);
}

/* And on success nothing but the outputs is written: inputs and the space around the arrays stay. */
static void only_the_outputs(void) {
  problem q = make_problem(60, N, T);
  double a[60 * N], y[60 * T], guard[N * 8 + 32];
  memcpy(a, q.a, sizeof a), memcpy(y, q.y, sizeof y);
  EACH_METHOD(m) {
    const int64_t c = columns_of(m, T);
    memset(guard, FILL, sizeof guard);
    unmerge_view v = view_f64(guard + 16, N, c);
    OK(m->call(q.gram, NULL, NULL, &v, NULL, &e), e);
    CHECKF(filled(guard, 16 * 8) && filled(guard + 16 + N * c, sizeof guard - 8 * (16 + N * (size_t)c)), "(%s)", m->name);
  }
  int64_t order[3 * T + 2];
  memset(order, FILL, sizeof order);
  unmerge_omp_options o;
  unmerge_omp_options_init(&o, sizeof o);
  o.k = 3;
  unmerge_view v = view_f64(guard, N, T);
  OK(unmerge_omp(q.gram, &o, NULL, &v, order + 1, NULL, &e), e);
  CHECK(filled(&order[0], 8) && filled(&order[3 * T + 1], 8));
  for (int i = 0; i < 3 * T; i++) CHECK(order[i + 1] >= -1 && order[i + 1] < N);
  OK(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, &v, NULL, &e), e);
  CHECK(memcmp(a, q.a, sizeof a) == 0 && memcmp(y, q.y, sizeof y) == 0);
  free_problem(&q);
}

/* A success clears the error; the options are only read. */
static void error_and_options(void) {
  problem q = make_problem(60, N, 1);
  double w[N];
  unmerge_view v = view_f64(w, N, 1);
  memset(&e, FILL, sizeof e);
  CHECK(unmerge_nnls(q.gram, NULL, NULL, &v, NULL, &e) == UNMERGE_OK);
  CHECK(e.status == UNMERGE_OK);
  unmerge_lasso_options o, copy;
  unmerge_lasso_options_init(&o, sizeof o);
  copy = o;
  unmerge_run r = new_run(), run_copy = r;
  OK(unmerge_lasso(q.gram, &o, &r, &v, NULL, &e), e);
  CHECK(memcmp(&o, &copy, sizeof o) == 0 && memcmp(&r, &run_copy, sizeof r) == 0);
  free_problem(&q);
}

MAIN(TEST(methods_on_bad_calls), TEST(methods_on_bad_options), TEST(verify_and_refine), TEST(handles_and_numbers), TEST(only_the_outputs),
     TEST(error_and_options))
