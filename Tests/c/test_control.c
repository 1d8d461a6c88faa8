/* Stopping: the cancel flag, the deadline and the progress callback, in the pass over the data and in a method. */
#include "check.h"
#include <pthread.h>

static unmerge_error e;
static double one = 1;

/* A matrix of 2^40 rows that is one number in memory: a pass over it takes hours. */
enum { FOREVER_SHIFT = 40 };
static void make_endless(unmerge_operator **a, unmerge_operator **y) {
  unmerge_view av = broadcast_f64(&one, (int64_t)1 << FOREVER_SHIFT, 8), yv = broadcast_f64(&one, (int64_t)1 << FOREVER_SHIFT, 1);
  OK(unmerge_operator_from_matrix(&av, a, &e), e);
  OK(unmerge_operator_from_matrix(&yv, y, &e), e);
}

/* A Gram for which a method has work for a while: correlated atoms, many targets. */
static unmerge_gram *make_slow(int64_t n, int64_t targets) {
  double *g = doubles((size_t)(n * n)), *c = doubles((size_t)(n * targets)), *yy = doubles((size_t)targets);
  uint64_t state = 3;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) g[i * n + j] = pow(0.99, (double)(i > j ? i - j : j - i));
  for (int64_t t = 0; t < targets; t++) {
    double *x = doubles((size_t)n);
    for (int64_t j = 0; j < n; j++) x[j] = (j + t) % 5 == 0 ? 1 + noise(&state) : 0;
    yy[t] = 1;
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t k = 0; k < n; k++) sum += g[j * n + k] * x[k];
      c[j * targets + t] = sum;
      yy[t] += sum * x[j];
    }
    free(x);
  }
  unmerge_view gv = view_f64(g, n, n), cv = view_f64(c, n, targets), yv = view_f64(yy, targets, 1);
  unmerge_gram *gram = NULL;
  OK(unmerge_gram_from_arrays(&gv, &cv, &yv, 100000, &gram, &e), e);
  free(g), free(c), free(yy);
  return gram;
}

static int32_t flag;
static void *set_flag_soon(void *delay) {
  usleep((useconds_t)*(int *)delay);
  __atomic_store_n(&flag, 1, __ATOMIC_RELAXED);
  return NULL;
}

static void cancelled_pass(void) {
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  make_endless(&a, &y);
  unmerge_run r = new_run();
  r.cancel = &flag;
  double w[8] = {0};
  unmerge_view v = view_f64(w, 8, 1);
  for (int delay = 0; delay <= 200000; delay += 100000)
    for (int call = 0; call < 2; call++) {
      pthread_t thread;
      flag = delay == 0;
      if (delay > 0) pthread_create(&thread, NULL, set_flag_soon, &delay);
      const double start = seconds_now();
      if (call == 0) REFUSED(unmerge_gram_create(a, y, NULL, &r, &g, &e), e, UNMERGE_E_CANCELLED);
      else REFUSED(unmerge_verify(a, y, NULL, &r, &v, NULL, NULL, &e), e, UNMERGE_E_CANCELLED);
      const double late = seconds_now() - start - 1e-6 * delay;
      CHECKF(late < 1.0, "(%.3f s after the flag)", late);
      if (delay > 0) pthread_join(thread, NULL);
    }
  CHECK(g == NULL);
  unmerge_view large = broadcast_f64(&one, (int64_t)1 << 23, 8); /* for a mask: 64 MB of working memory */
  unmerge_operator *op = NULL;
  unmerge_mask *mask = NULL;
  OK(unmerge_operator_from_matrix(&large, &op, &e), e);
  flag = 1;
  REFUSED(unmerge_mask_create(op, NULL, &r, &mask, &e), e, UNMERGE_E_CANCELLED);
  flag = 0;
  r.deadline = 1e-9;
  REFUSED(unmerge_mask_create(op, NULL, &r, &mask, &e), e, UNMERGE_E_DEADLINE);
  CHECK(mask == NULL);
}

static void deadline_in_a_pass(void) {
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  make_endless(&a, &y);
  unmerge_run r = new_run();
  const double deadlines[] = {1e-9, 0.05, 0.3};
  double w[8] = {0};
  unmerge_view v = view_f64(w, 8, 1);
  for (int i = 0; i < 3; i++) {
    r.deadline = deadlines[i];
    double start = seconds_now();
    REFUSED(unmerge_gram_create(a, y, NULL, &r, &g, &e), e, UNMERGE_E_DEADLINE);
    double took = seconds_now() - start;
    CHECKF(took < deadlines[i] + 1.0 && took >= deadlines[i] * 0.99, "(%.3f s)", took);
    start = seconds_now();
    REFUSED(unmerge_verify(a, y, NULL, &r, &v, NULL, NULL, &e), e, UNMERGE_E_DEADLINE);
    took = seconds_now() - start;
    CHECKF(took < deadlines[i] + 1.0, "(%.3f s)", took);
  }
  CHECK(g == NULL);
}

typedef struct seen {
  int calls, stop_at, wrong;
  int32_t phase;
  int64_t done;
  pthread_t thread;
  double first, last;
} seen;

static int32_t watch(void *user, const unmerge_progress *p) {
  seen *s = user;
  s->calls++;
  const double now = seconds_now();
  if (s->calls == 1) s->first = now;
  s->last = now;
  s->wrong += !pthread_equal(pthread_self(), s->thread);
  s->wrong += p->struct_size < sizeof(unmerge_progress);
  s->wrong += p->done < 0 || p->done > p->total || p->total <= 0;
  if (p->phase == UNMERGE_PHASE_PASS) s->wrong += p->pass != 1 || p->done < s->done || !isnan(p->objective) || !isnan(p->relative_gap);
  s->phase = p->phase;
  s->done = p->done;
  return s->calls >= s->stop_at ? 7 : 0;
}

static seen watcher(int stop_at) {
  seen s;
  memset(&s, 0, sizeof s);
  s.stop_at = stop_at;
  s.thread = pthread_self();
  return s;
}

static void progress_in_a_pass(void) {
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  make_endless(&a, &y);
  unmerge_run r = new_run();
  seen s = watcher(4);
  r.progress = watch, r.progress_user = &s;
  r.deadline = 20;
  REFUSED(unmerge_gram_create(a, y, NULL, &r, &g, &e), e, UNMERGE_E_CANCELLED);
  CHECKF(s.calls == 4, "(%d calls)", s.calls);
  CHECK(s.wrong == 0 && s.phase == UNMERGE_PHASE_PASS);
  CHECKF((s.last - s.first) / 3 > 0.08, "(a call every %.3f s)", (s.last - s.first) / 3);
  CHECK(g == NULL);
}

/* Methods that iterate keep the best answer they have. */
static void cancelled_solve(void) {
  enum { N = 300, T = 400 };
  unmerge_gram *g = make_slow(N, T);
  double *w = doubles(N * T);
  unmerge_view v = view_f64(w, N, T);
  unmerge_report *reports = calloc(T, sizeof *reports);
  unmerge_run r = new_run();
  r.cancel = &flag;
  r.tol = 1e-14, r.max_iter = INT64_MAX;
  EACH_METHOD(m) {
    if (m->call == call_dot || m->call == call_ridge || m->call == call_path) continue;
    flag = 1;
    for (int i = 0; i < N * T; i++) w[i] = NAN;
    for (int t = 0; t < T; t++) unmerge_report_init(&reports[t], sizeof *reports);
    const double start = seconds_now();
    OK(m->call(g, NULL, &r, &v, reports, &e), e);
    CHECKF(seconds_now() - start < 2, "(%s: %.3f s)", m->name, seconds_now() - start);
    int cancelled = 0;
    for (int t = 0; t < T; t++) cancelled += reports[t].outcome == UNMERGE_CANCELLED;
    CHECKF(cancelled > 0, "(%s: no target was cancelled)", m->name);
    for (int i = 0; i < N * T; i++)
      if (!isfinite(w[i])) {
        CHECKF(isfinite(w[i]), "(%s: %d)", m->name, i);
        break;
      }
  }
  flag = 0;
  free(w), free(reports);
  unmerge_gram_destroy(g);
}

/* Nine tenths of the path are left when the flag is set. */
static void cancelled_from_another_thread(void) {
  enum { N = 300, ALPHAS = 40000 };
  unmerge_gram *g = make_slow(N, 1);
  double *w = doubles(N * ALPHAS);
  unmerge_view v = view_f64(w, N, ALPHAS);
  unmerge_report *reports = calloc(ALPHAS, sizeof *reports);
  for (int t = 0; t < ALPHAS; t++) unmerge_report_init(&reports[t], sizeof *reports);
  unmerge_path_options o;
  unmerge_path_options_init(&o, sizeof o);
  o.n_alphas = ALPHAS;
  unmerge_run r = new_run();
  r.cancel = &flag, r.tol = 1e-14;
  flag = 0;
  int delay = 60000;
  pthread_t thread;
  pthread_create(&thread, NULL, set_flag_soon, &delay);
  const double start = seconds_now();
  OK(unmerge_lasso_path(g, &o, &r, NULL, &v, reports, &e), e);
  CHECKF(seconds_now() - start < 1.5, "(%.3f s)", seconds_now() - start);
  pthread_join(thread, NULL);
  CHECKF(reports[ALPHAS - 1].outcome == UNMERGE_CANCELLED, "(%s after %.3f s)", unmerge_outcome_name(reports[ALPHAS - 1].outcome),
         seconds_now() - start);
  CHECK(reports[0].outcome == UNMERGE_CONVERGED);
  for (int i = 0; i < N * ALPHAS; i++)
    if (!isfinite(w[i])) {
      CHECK(isfinite(w[i]));
      break;
    }
  free(w), free(reports);
  unmerge_gram_destroy(g);
}

static void deadline_in_a_solve(void) {
  enum { N = 300, ALPHAS = 40000 };
  unmerge_gram *g = make_slow(N, 1);
  double *w = doubles(N * ALPHAS);
  unmerge_view v = view_f64(w, N, ALPHAS);
  unmerge_report *reports = calloc(ALPHAS, sizeof *reports);
  for (int t = 0; t < ALPHAS; t++) unmerge_report_init(&reports[t], sizeof *reports);
  unmerge_path_options o;
  unmerge_path_options_init(&o, sizeof o);
  o.n_alphas = ALPHAS;
  unmerge_run r = new_run();
  r.deadline = 0.05, r.tol = 1e-14;
  const double start = seconds_now();
  OK(unmerge_lasso_path(g, &o, &r, NULL, &v, reports, &e), e);
  CHECKF(seconds_now() - start < 1.5, "(%.3f s)", seconds_now() - start);
  CHECKF(reports[ALPHAS - 1].outcome == UNMERGE_TIME_LIMIT, "(%s)", unmerge_outcome_name(reports[ALPHAS - 1].outcome));
  free(w), free(reports);
  unmerge_gram_destroy(g);
}

static void progress_in_a_solve(void) {
  enum { N = 300, ALPHAS = 20000 };
  unmerge_gram *g = make_slow(N, 1);
  double *w = doubles((size_t)N * ALPHAS);
  unmerge_view v = view_f64(w, N, ALPHAS);
  unmerge_report *reports = calloc(ALPHAS, sizeof *reports);
  for (int t = 0; t < ALPHAS; t++) unmerge_report_init(&reports[t], sizeof *reports);
  unmerge_path_options o;
  unmerge_path_options_init(&o, sizeof o);
  o.n_alphas = ALPHAS;
  unmerge_run r = new_run();
  seen s = watcher(2);
  r.progress = watch, r.progress_user = &s, r.tol = 1e-14;
  const double start = seconds_now();
  OK(unmerge_lasso_path(g, &o, &r, NULL, &v, reports, &e), e);
  CHECKF(s.calls == 2, "(%d calls in %.3f s)", s.calls, seconds_now() - start);
  CHECK(s.wrong == 0 && s.phase == UNMERGE_PHASE_SOLVE);
  CHECK(reports[ALPHAS - 1].outcome == UNMERGE_CANCELLED);
  free(w), free(reports);
  unmerge_gram_destroy(g);
}

static void iteration_limit(void) {
  enum { N = 60 };
  unmerge_gram *g = make_slow(N, 1);
  double w[N];
  unmerge_view v = view_f64(w, N, 1);
  unmerge_report report;
  unmerge_report_init(&report, sizeof report);
  unmerge_run r = new_run();
  r.max_iter = 1, r.tol = 1e-14;
  unmerge_lasso_options lasso;
  unmerge_lasso_options_init(&lasso, sizeof lasso);
  lasso.alpha = 1e-3;
  OK(unmerge_lasso(g, &lasso, &r, &v, &report, &e), e);
  CHECKF(report.outcome == UNMERGE_ITERATION_LIMIT, "(%s)", unmerge_outcome_name(report.outcome));
  CHECK(report.relative_gap > 1e-14);
  OK(unmerge_nnls(g, NULL, &r, &v, &report, &e), e);
  CHECKF(report.outcome == UNMERGE_ITERATION_LIMIT, "(%s)", unmerge_outcome_name(report.outcome));
  for (int j = 0; j < N; j++) CHECK(w[j] >= 0);

  /* max_iter = 0 certifies the warm start and leaves it as it is (but for the rounding of its scaling). */
  r = new_run();
  OK(unmerge_lasso(g, &lasso, &r, &v, &report, &e), e);
  CHECK(report.outcome == UNMERGE_CONVERGED);
  double kept[N];
  memcpy(kept, w, sizeof kept);
  const double objective = report.objective;
  lasso.warm_start = 1, r.max_iter = 0;
  OK(unmerge_lasso(g, &lasso, &r, &v, &report, &e), e);
  for (int j = 0; j < N; j++) CHECKF(fabs(w[j] - kept[j]) <= 4 * DBL_EPSILON * fabs(kept[j]), "(%.17g and %.17g)", w[j], kept[j]);
  CHECKF(report.outcome == UNMERGE_CONVERGED, "(%s)", unmerge_outcome_name(report.outcome));
  CHECK(fabs(report.objective - objective) <= 1e-12 * fabs(objective));
  w[3] += 1;
  OK(unmerge_lasso(g, &lasso, &r, &v, &report, &e), e);
  CHECKF(report.outcome == UNMERGE_ITERATION_LIMIT, "(%s)", unmerge_outcome_name(report.outcome));
  CHECK(report.objective > objective);
  unmerge_gram_destroy(g);
}

/* A callback may use the library. */
static int32_t nested(void *user, const unmerge_progress *p) {
  (void)p;
  int *calls = user;
  problem q = make_problem(60, 4, 1);
  double w[4];
  unmerge_view v = view_f64(w, 4, 1);
  unmerge_error inner;
  if (unmerge_nnls(q.gram, NULL, NULL, &v, NULL, &inner) == UNMERGE_OK) ++*calls;
  free_problem(&q);
  return *calls >= 2;
}

static void library_calls_from_the_callback(void) {
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  make_endless(&a, &y);
  int calls = 0;
  unmerge_run r = new_run();
  r.progress = nested, r.progress_user = &calls, r.deadline = 20;
  REFUSED(unmerge_gram_create(a, y, NULL, &r, &g, &e), e, UNMERGE_E_CANCELLED);
  CHECK(calls == 2);
}

/* Destroying what another thread is using is allowed; the memory goes when the call is over. */
static unmerge_operator *shared_a, *shared_y;
static void *destroy_soon(void *unused) {
  (void)unused;
  usleep(100000);
  unmerge_operator_destroy(shared_a);
  unmerge_operator_destroy(shared_y);
  return NULL;
}

static void destroyed_while_in_use(void) {
  unmerge_gram *g = NULL;
  make_endless(&shared_a, &shared_y);
  unmerge_run r = new_run();
  r.deadline = 0.4;
  pthread_t thread;
  pthread_create(&thread, NULL, destroy_soon, NULL);
  REFUSED(unmerge_gram_create(shared_a, shared_y, NULL, &r, &g, &e), e, UNMERGE_E_DEADLINE);
  pthread_join(thread, NULL);
  REFUSED(unmerge_gram_create(shared_a, shared_y, NULL, &r, &g, &e), e, UNMERGE_E_HANDLE);
}

MAIN(TEST(cancelled_pass), TEST(deadline_in_a_pass), TEST(progress_in_a_pass), TEST(cancelled_solve), TEST(cancelled_from_another_thread),
     TEST(deadline_in_a_solve), TEST(progress_in_a_solve), TEST(iteration_limit), TEST(library_calls_from_the_callback),
     TEST(destroyed_while_in_use))
