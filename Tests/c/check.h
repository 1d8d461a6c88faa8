/* A test is a function of type `void name(void)`; MAIN runs each in a child process of its own, so that a crash, a hang or a failed
 * check is one failed test and the others still run.
 *
 *     static void zero_is_refused(void) { REFUSED(call(&e), e, UNMERGE_E_RANGE); }
 *     MAIN(TEST(zero_is_refused))
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "unmerge.h"

/* Under a sanitizer memory is kept back on purpose and the address space is full of shadow. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static int failures = 0;

/* The first failures of a test are told, the rest only counted. */
__attribute__((format(printf, 1, 2))) static inline void tell(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (++failures <= 20) vprintf(format, arguments);
  va_end(arguments);
}

#define CHECK(condition)                                                                                                       \
  do {                                                                                                                         \
    if (!(condition)) {                                                                                                        \
      tell("    %s:%d: %s is false\n", __FILE__, __LINE__, #condition);                                                        \
    }                                                                                                                          \
  } while (0)

/* ... with the values that came */
#define CHECKF(condition, ...)                                                                                                 \
  do {                                                                                                                         \
    if (!(condition)) {                                                                                                        \
      tell("    %s:%d: %s is false ", __FILE__, __LINE__, #condition);                                                         \
      failures--;                                                                                                              \
      tell(__VA_ARGS__);                                                                                                       \
      failures--;                                                                                                              \
      tell("\n");                                                                                                              \
    }                                                                                                                          \
  } while (0)

/* The call does its work. */
#define OK(expression, error)                                                                                                  \
  do {                                                                                                                         \
    memset(&(error), 0x5a, sizeof(error));                                                                                     \
    const unmerge_status s_ = (expression);                                                                                    \
    if (s_ != UNMERGE_OK) {                                                                                                    \
      tell("    %s:%d: %s\n        gives %s: %.504s\n", __FILE__, __LINE__, #expression, unmerge_status_name(s_),              \
           (error).message);                                                                                                   \
    }                                                                                                                          \
  } while (0)

/* The call refuses with one of up to three statuses, and says why in one sentence. */
#define REFUSED3(expression, error, a, b, c)                                                                                   \
  (memset(&(error), 0x5a, sizeof(error)), refused_((expression), &(error), a, b, c, #expression, __LINE__))
#define REFUSED2(expression, error, a, b) REFUSED3(expression, error, a, b, b)
#define REFUSED(expression, error, a) REFUSED3(expression, error, a, a, a)

static inline bool refused_(unmerge_status s, const unmerge_error *e, int a, int b, int c, const char *what, int line) {
  if (s != a && s != b && s != c) {
    tell("    line %d: %s\n        gives %s, expected %s\n", line, what, unmerge_status_name(s), unmerge_status_name(a));
    return false;
  }
  const char *end = memchr(e->message, 0, sizeof e->message);
  if (e->status != s || end == NULL || end - e->message < 8 || memchr(e->message, '\n', (size_t)(end - e->message)) != NULL) {
    tell("    line %d: %s\n        gives %s, but the error holds %s and \"%.504s\"\n", line, what, unmerge_status_name(s),
         unmerge_status_name(e->status), end == NULL ? "no end of the message" : e->message);
    return false;
  }
  return true;
}

/* ... and the sentence names this. */
#define NAMES(error, word) CHECKF(strstr((error).message, word) != NULL, "(\"%s\" should name \"%s\")", (error).message, word)

typedef struct test {
  const char *name;
  void (*run)(void);
} test;
#define TEST(function) {#function, function}

static inline int run_tests(const test *tests, size_t n, int argc, char **argv, unsigned seconds) {
  int failed = 0, ran = 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (size_t i = 0; i < n; i++) {
    if (argc > 1 && strcmp(argv[argc - 1], tests[i].name) != 0 && strchr(argv[argc - 1], '/') == NULL) continue;
    ran++;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      alarm(seconds);
      tests[i].run();
      fflush(stdout);
      _exit(failures == 0 ? 0 : 1);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) status = -1;
    if (status != 0) {
      failed++;
      if (status != -1 && WIFSIGNALED(status)) printf("    ended by %s\n", strsignal(WTERMSIG(status)));
    }
    printf("%s %s\n", status == 0 ? "ok    " : "FAILED", tests[i].name);
  }
  printf("%d of %d tests passed\n", ran - failed, ran);
  return failed == 0 && ran > 0 ? 0 : 1;
}
#define MAIN(...)                                                                                                              \
  int main(int argc, char **argv) {                                                                                            \
    const test tests[] = {__VA_ARGS__};                                                                                        \
    return run_tests(tests, sizeof tests / sizeof tests[0], argc, argv, 120);                                                  \
  }

/* ---------------------------------------------------------------- what the tests work on */

static inline double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* splitmix64, then a centred, nearly normal value */
static inline double noise(uint64_t *state) {
  double sum = 0;
  for (int i = 0; i < 4; i++) {
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    sum += (double)((z ^ (z >> 31)) >> 11) * 0x1.0p-53 - 0.5;
  }
  return sum;
}

static inline unmerge_view view_f64(double *data, int64_t rows, int64_t cols) {
  unmerge_view v;
  memset(&v, 0, sizeof v);
  v.data = data;
  v.dtype = UNMERGE_F64;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.strides[0] = cols * 8;
  v.strides[1] = 8;
  return v;
}

/* Zeros of any shape that are one double in memory. */
static inline unmerge_view broadcast_f64(double *value, int64_t rows, int64_t cols) {
  unmerge_view v = view_f64(value, rows, 1);
  v.shape[1] = cols;
  v.strides[0] = v.strides[1] = 0;
  return v;
}

static inline double *doubles(size_t n) {
  double *d = calloc(n == 0 ? 1 : n, sizeof *d);
  if (d == NULL) {
    printf("    the test itself is out of memory\n");
    _exit(1);
  }
  return d;
}

/* y = A w with a sparse, positive w, plus a little of everything; p x n and p x targets, row-major. */
typedef struct problem {
  int64_t p, n, targets;
  double *a, *y, *truth;
  unmerge_view av, yv;
  unmerge_operator *ao, *yo;
  unmerge_gram *gram;
} problem;

static inline problem make_problem(int64_t p, int64_t n, int64_t targets) {
  problem q;
  memset(&q, 0, sizeof q);
  uint64_t state = 7;
  q.p = p, q.n = n, q.targets = targets;
  q.a = doubles((size_t)(p * n)), q.y = doubles((size_t)(p * targets)), q.truth = doubles((size_t)(n * targets));
  for (int64_t i = 0; i < p * n; i++) q.a[i] = noise(&state);
  for (int64_t j = 0; j < n; j++)
    for (int64_t t = 0; t < targets; t++) q.truth[j * targets + t] = (j + t) % 3 == 0 ? 0.2 + 0.1 * (double)(j % 7) : 0;
  for (int64_t i = 0; i < p; i++)
    for (int64_t t = 0; t < targets; t++) {
      double sum = 0.01 * noise(&state);
      for (int64_t j = 0; j < n; j++) sum += q.a[i * n + j] * q.truth[j * targets + t];
      q.y[i * targets + t] = sum;
    }
  q.av = view_f64(q.a, p, n), q.yv = view_f64(q.y, p, targets);
  unmerge_error e;
  OK(unmerge_operator_from_matrix(&q.av, &q.ao, &e), e);
  OK(unmerge_operator_from_matrix(&q.yv, &q.yo, &e), e);
  OK(unmerge_gram_create(q.ao, q.yo, NULL, NULL, &q.gram, &e), e);
  if (failures > 0) _exit(1); /* nothing to test on */
  return q;
}

static inline void free_problem(problem *q) {
  unmerge_gram_destroy(q->gram);
  unmerge_operator_destroy(q->ao);
  unmerge_operator_destroy(q->yo);
  free(q->a), free(q->y), free(q->truth);
}

static inline unmerge_run new_run(void) {
  unmerge_run r;
  unmerge_run_init(&r, sizeof r);
  return r;
}

/* ---------------------------------------------------------------- the methods, as one table
 *
 * Everything a method takes besides its options looks the same, so what holds for every method is tested over this list. */

enum { PATH_ALPHAS = 5, OMP_K = 2 };

typedef unmerge_status (*method_call)(const unmerge_gram *, const void *options, const unmerge_run *, const unmerge_view *coef,
                                      unmerge_report *, unmerge_error *);

typedef struct method {
  const char *name;
  size_t size; /* of its options */
  unmerge_status (*init)(void *, size_t);
  method_call call;
} method;

#define METHOD(short_name)                                                                                                     \
  static inline unmerge_status init_##short_name(void *o, size_t size) { return unmerge_##short_name##_options_init(o, size); } \
  static inline unmerge_status call_##short_name(const unmerge_gram *g, const void *o, const unmerge_run *r,                    \
                                                 const unmerge_view *w, unmerge_report *p, unmerge_error *e) {                  \
    return unmerge_##short_name(g, o, r, w, p, e);                                                                             \
  }
METHOD(dot)
METHOD(ridge)
METHOD(lasso)
METHOD(elastic_net)
METHOD(nnls)
METHOD(mcp)
METHOD(scad)
METHOD(cel0)
METHOD(lq)
METHOD(slope)
METHOD(fused_lasso)
METHOD(basis_pursuit)
METHOD(dantzig)
static inline unmerge_status init_lasso_tau(void *o, size_t size) { return unmerge_lasso_tau_options_init(o, size); }
static inline unmerge_status call_lasso_tau(const unmerge_gram *g, const void *o, const unmerge_run *r, const unmerge_view *w,
                                            unmerge_report *p, unmerge_error *e) {
  return unmerge_lasso_tau(g, o, r, w, NULL, p, e);
}
METHOD(thresholding)
METHOD(best_subset)
static inline unmerge_status init_omp(void *o, size_t size) {
  const unmerge_status s = unmerge_omp_options_init(o, size);
  if (s == UNMERGE_OK) ((unmerge_omp_options *)o)->k = OMP_K;
  return s;
}
static inline unmerge_status call_omp(const unmerge_gram *g, const void *o, const unmerge_run *r, const unmerge_view *w,
                                      unmerge_report *p, unmerge_error *e) {
  return unmerge_omp(g, o, r, w, NULL, p, e);
}
static inline unmerge_status init_pursuit(void *o, size_t size) {
  const unmerge_status s = unmerge_pursuit_options_init(o, size);
  if (s == UNMERGE_OK) ((unmerge_pursuit_options *)o)->k = OMP_K, ((unmerge_pursuit_options *)o)->kind = UNMERGE_PURSUIT_OLS;
  return s;
}
static inline unmerge_status call_pursuit(const unmerge_gram *g, const void *o, const unmerge_run *r, const unmerge_view *w,
                                          unmerge_report *p, unmerge_error *e) {
  return unmerge_pursuit(g, o, r, w, NULL, p, e);
}
/* Without groups of the caller's: every atom is one. */
static inline unmerge_status init_group(void *o, size_t size) { return unmerge_group_options_init(o, size); }
static inline unmerge_status call_group(const unmerge_gram *g, const void *o, const unmerge_run *r, const unmerge_view *w,
                                        unmerge_report *p, unmerge_error *e) {
  return unmerge_group_lasso(g, o, r, w, NULL, p, e);
}
/* One term, the l1 norm of all atoms. */
static inline unmerge_status init_composite(void *o, size_t size) { return unmerge_composite_options_init(o, size); }
static inline unmerge_status call_composite(const unmerge_gram *g, const void *o, const unmerge_run *r, const unmerge_view *w,
                                            unmerge_report *p, unmerge_error *e) {
  unmerge_term term;
  unmerge_term_init(&term, sizeof term);
  return unmerge_composite(g, &term, 1, o, r, w, NULL, p, e);
}
static inline unmerge_status init_path(void *o, size_t size) {
  const unmerge_status s = unmerge_path_options_init(o, size);
  if (s == UNMERGE_OK) ((unmerge_path_options *)o)->n_alphas = PATH_ALPHAS;
  return s;
}
static inline unmerge_status call_path(const unmerge_gram *g, const void *o, const unmerge_run *r, const unmerge_view *w,
                                       unmerge_report *p, unmerge_error *e) {
  unmerge_path_options five;
  if (o == NULL) { /* the default is 100 alphas */
    init_path(&five, sizeof five);
    o = &five;
  }
  return unmerge_lasso_path(g, o, r, NULL, w, p, e);
}

static const method methods[] = {
    {"dot", sizeof(unmerge_dot_options), init_dot, call_dot},
    {"ridge", sizeof(unmerge_ridge_options), init_ridge, call_ridge},
    {"lasso", sizeof(unmerge_lasso_options), init_lasso, call_lasso},
    {"elastic_net", sizeof(unmerge_elastic_net_options), init_elastic_net, call_elastic_net},
    {"nnls", sizeof(unmerge_nnls_options), init_nnls, call_nnls},
    {"mcp", sizeof(unmerge_mcp_options), init_mcp, call_mcp},
    {"scad", sizeof(unmerge_scad_options), init_scad, call_scad},
    {"cel0", sizeof(unmerge_cel0_options), init_cel0, call_cel0},
    {"lq", sizeof(unmerge_lq_options), init_lq, call_lq},
    {"slope", sizeof(unmerge_slope_options), init_slope, call_slope},
    {"fused_lasso", sizeof(unmerge_fused_lasso_options), init_fused_lasso, call_fused_lasso},
    {"lasso_tau", sizeof(unmerge_lasso_tau_options), init_lasso_tau, call_lasso_tau},
    {"basis_pursuit", sizeof(unmerge_basis_pursuit_options), init_basis_pursuit, call_basis_pursuit},
    {"dantzig", sizeof(unmerge_dantzig_options), init_dantzig, call_dantzig},
    {"omp", sizeof(unmerge_omp_options), init_omp, call_omp},
    {"pursuit", sizeof(unmerge_pursuit_options), init_pursuit, call_pursuit},
    {"thresholding", sizeof(unmerge_thresholding_options), init_thresholding, call_thresholding},
    {"best_subset", sizeof(unmerge_best_subset_options), init_best_subset, call_best_subset},
    {"group_lasso", sizeof(unmerge_group_options), init_group, call_group},
    {"composite", sizeof(unmerge_composite_options), init_composite, call_composite},
    {"lasso_path", sizeof(unmerge_path_options), init_path, call_path},
};
enum { METHODS = sizeof methods / sizeof methods[0] };

/* Columns of coef and number of reports for a Gram with this many targets. */
static inline int64_t columns_of(const method *m, int64_t targets) { return m->call == call_path ? PATH_ALPHAS : targets; }

#define EACH_METHOD(m) for (const method *m = methods; m < methods + METHODS; m++)

#endif
