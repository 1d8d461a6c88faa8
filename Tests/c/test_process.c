/* A good guest: threads, fork, small stacks, blocked signals, no output, the same bits whatever the number of threads. */
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>

static unmerge_error e;
enum { P = 40000, N = 24, T = 3 };

typedef struct answers {
  double coef[METHODS][N * PATH_ALPHAS];
  double g[N * N], c[N * T], yy[T];
} answers;

/* Everything the library can say about the problem. */
static void answer(const unmerge_gram *gram, int32_t threads, answers *a) {
  unmerge_error err;
  memset(a, 0, sizeof *a);
  unmerge_run r = new_run();
  r.threads = threads;
  EACH_METHOD(m) {
    unmerge_view v = view_f64(a->coef[m - methods], N, columns_of(m, T));
    OK(m->call(gram, NULL, &r, &v, NULL, &err), err);
  }
  unmerge_view g = view_f64(a->g, N, N), c = view_f64(a->c, N, T), yy = view_f64(a->yy, T, 1);
  OK(unmerge_gram_arrays(gram, -1, &g, &c, &yy, &err), err);
}

static unmerge_gram *pass(const problem *q, int32_t threads, int32_t precision) {
  unmerge_gram *g = NULL;
  unmerge_run r = new_run();
  r.threads = threads;
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.precision = precision;
  OK(unmerge_gram_create(q->ao, q->yo, &o, &r, &g, &e), e);
  return g;
}

static void same_bits_for_any_number_of_threads(void) {
  problem q = make_problem(P, N, T);
  answers *first = malloc(sizeof *first), *other = malloc(sizeof *other);
  const int32_t precisions[] = {UNMERGE_PRECISION_FAST, UNMERGE_PRECISION_EXACT};
  const int32_t threads[] = {1, 2, 3, 7, 0, 64};
  for (int p = 0; p < 2; p++)
    for (int t = 0; t < 6; t++) {
      unmerge_gram *g = pass(&q, threads[t], precisions[p]);
      answer(g, threads[t], t == 0 ? first : other);
      if (t > 0) CHECKF(memcmp(first, other, sizeof *first) == 0, "(precision %d, %d threads)", (int)precisions[p], (int)threads[t]);
      unmerge_gram_destroy(g);
    }
  double w[N * T] = {0}, c1[N * T], c2[N * T];
  unmerge_view v = view_f64(w, N, T), v1 = view_f64(c1, N, T), v2 = view_f64(c2, N, T);
  unmerge_run r = new_run();
  r.threads = 1;
  OK(unmerge_verify(q.ao, q.yo, NULL, &r, &v, &v1, NULL, &e), e);
  r.threads = 5;
  OK(unmerge_verify(q.ao, q.yo, NULL, &r, &v, &v2, NULL, &e), e);
  CHECK(memcmp(c1, c2, sizeof c1) == 0);
  free(first), free(other);
  free_problem(&q);
}

typedef struct share {
  const problem *q;
  const answers *expected;
  int wrong;
} share;

static void *use_shared(void *user) {
  share *s = user;
  answers *mine = malloc(sizeof *mine);
  for (int i = 0; i < 5; i++) {
    answer(s->q->gram, 1 + i % 2, mine);
    s->wrong += memcmp(mine, s->expected, sizeof *mine) != 0;
  }
  unmerge_gram *g = NULL; /* and passes beside each other, on shared operators */
  unmerge_error err;
  if (unmerge_gram_create(s->q->ao, s->q->yo, NULL, NULL, &g, &err) != UNMERGE_OK) s->wrong++;
  answer(g, 0, mine);
  s->wrong += memcmp(mine, s->expected, sizeof *mine) != 0;
  unmerge_gram_destroy(g);
  free(mine);
  return NULL;
}

static void threads_share_a_gram(void) {
  problem q = make_problem(P, N, T);
  answers *expected = malloc(sizeof *expected);
  answer(q.gram, 1, expected);
  enum { THREADS = 8 };
  pthread_t threads[THREADS];
  share shares[THREADS];
  for (int i = 0; i < THREADS; i++) {
    shares[i].q = &q, shares[i].expected = expected, shares[i].wrong = 0;
    pthread_create(&threads[i], NULL, use_shared, &shares[i]);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    CHECKF(shares[i].wrong == 0, "(thread %d: %d answers differ)", i, shares[i].wrong);
  }
  free(expected);
  free_problem(&q);
}

static void *share_on_demand(void *gram) {
  unmerge_error err;
  double *w = malloc(N * T * sizeof *w);
  unmerge_view v = view_f64(w, N, T);
  OK(unmerge_omp(gram, NULL, NULL, &v, NULL, NULL, &err), err);
  return w;
}

static void threads_share_columns_on_demand(void) {
  problem q = make_problem(P, N, T);
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.columns = UNMERGE_COLUMNS_ON_DEMAND;
  unmerge_gram *g = NULL;
  OK(unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e), e);
  pthread_t threads[6];
  void *w[6];
  for (int i = 0; i < 6; i++) pthread_create(&threads[i], NULL, share_on_demand, g);
  for (int i = 0; i < 6; i++) pthread_join(threads[i], &w[i]);
  for (int i = 1; i < 6; i++) CHECK(memcmp(w[0], w[i], N * T * sizeof(double)) == 0);
  for (int i = 0; i < 6; i++) free(w[i]);
  unmerge_gram_destroy(g);
  free_problem(&q);
}

static void fork_in_the_middle(void) {
  problem q = make_problem(P, N, T);
  answers *expected = malloc(sizeof *expected), *mine = malloc(sizeof *mine);
  answer(q.gram, 0, expected); /* threads have been used */
  for (int i = 0; i < 10; i++) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      unmerge_gram *g = pass(&q, 0, UNMERGE_PRECISION_AUTO);
      answer(g, 0, mine);
      if (memcmp(mine, expected, sizeof *mine) != 0) failures++;
      answer(q.gram, 2, mine); /* the parent's Gram */
      if (memcmp(mine, expected, sizeof *mine) != 0) failures++;
      const pid_t grandchild = fork();
      if (grandchild == 0) {
        alarm(20);
        answer(pass(&q, 0, UNMERGE_PRECISION_AUTO), 0, mine);
        _exit(memcmp(mine, expected, sizeof *mine) != 0);
      }
      int status = -1;
      waitpid(grandchild, &status, 0);
      _exit(failures != 0 || status != 0);
    }
    unmerge_gram *g = pass(&q, 0, UNMERGE_PRECISION_AUTO); /* the parent goes on */
    unmerge_gram_destroy(g);
    int status = -1;
    waitpid(child, &status, 0);
    CHECKF(status == 0, "(child %d: status %x)", i, (unsigned)status);
  }
  free(expected), free(mine);
  free_problem(&q);
}

/* fork while another thread is inside: the child must not wait for locks nobody will open. */
static volatile int32_t stop_working;
static void *work(void *problem_) {
  const problem *q = problem_;
  while (!stop_working) {
    unmerge_gram *g = NULL;
    unmerge_error err;
    double w[N * T];
    unmerge_view v = view_f64(w, N, T);
    OK(unmerge_gram_create(q->ao, q->yo, NULL, NULL, &g, &err), err);
    OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &err), err);
    unmerge_gram_destroy(g);
  }
  return NULL;
}

static void fork_beside_a_working_thread(void) {
  problem q = make_problem(P, N, T);
  pthread_t thread;
  pthread_create(&thread, NULL, work, &q);
  int hung = 0;
  for (int i = 0; i < 30; i++) {
    usleep(3000);
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);
      double w[N * T];
      unmerge_view v = view_f64(w, N, T);
      unmerge_error err;
      unmerge_gram *g = NULL;
      _exit(unmerge_nnls(q.gram, NULL, NULL, &v, NULL, &err) != UNMERGE_OK ||
            unmerge_gram_create(q.ao, q.yo, NULL, NULL, &g, &err) != UNMERGE_OK);
    }
    int status = -1;
    waitpid(child, &status, 0);
    hung += status != 0;
  }
  stop_working = 1;
  pthread_join(thread, NULL);
  CHECKF(hung == 0, "(%d of 30 children did not finish)", hung);
  free_problem(&q);
}

static void *on_a_small_stack(void *unused) {
  (void)unused;
  problem q = make_problem(2000, N, T);
  answers *a = malloc(sizeof *a);
  answer(q.gram, 0, a);
  unmerge_mask *mask = NULL;
  unmerge_error err;
  OK(unmerge_mask_create(q.ao, NULL, NULL, &mask, &err), err);
  unmerge_mask_destroy(mask);
  unmerge_view v = view_f64(a->c, N, T);
  OK(unmerge_verify(q.ao, q.yo, NULL, NULL, &v, NULL, NULL, &err), err);
  OK(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, &v, NULL, &err), err);
  free(a);
  free_problem(&q);
  return &e;
}

static void *nothing(void *unused) { return unused; }

/* 64 kB of stack beyond what the C library needs for a thread (thread-local variables lie there too). */
static void small_stack(void) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_t thread;
  size_t least = 16 * 1024;
  while (least < 1024 * 1024 && (pthread_attr_setstacksize(&attributes, least) != 0 ||
                                 pthread_create(&thread, &attributes, nothing, NULL) != 0))
    least += 4 * 1024;
  pthread_join(thread, NULL);
  CHECK(pthread_attr_setstacksize(&attributes, least + 64 * 1024) == 0);
  CHECKF(pthread_create(&thread, &attributes, on_a_small_stack, NULL) == 0, "(least %zu)", least);
  void *result = NULL;
  pthread_join(thread, &result);
  CHECK(result != NULL);
}

static void signals_blocked(void) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  problem q = make_problem(P, N, T);
  answers *a = malloc(sizeof *a);
  answer(q.gram, 0, a);
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, NULL, &now);
  CHECK(sigismember(&now, SIGINT) == 1 && sigismember(&now, SIGTERM) == 1);
  free(a);
  free_problem(&q);
}

static void silent(void) {
  char path[] = "/tmp/unmerge-silent-XXXXXX";
  const int file = mkstemp(path), out = dup(1), err = dup(2);
  fflush(stdout);
  dup2(file, 1), dup2(file, 2);
  double bad[4] = {1, NAN, 3, 4}, w[4 * T];
  unmerge_view b = view_f64(bad, 2, 2), v = view_f64(w, 4, T);
  problem q = make_problem(100, 4, T);
  unmerge_operator *op = NULL;
  unmerge_gram *g = NULL;
  EACH_METHOD(m) m->call(q.gram, NULL, NULL, &v, NULL, &e);
  unmerge_operator_from_matrix(&b, &op, &e);
  unmerge_gram_create(op, q.yo, NULL, NULL, &g, &e);
  unmerge_gram_create(op, op, NULL, NULL, &g, &e);
  unmerge_accumulator *acc = NULL;
  unmerge_accumulator_create(INT64_MAX, 1, NULL, &acc, &e);
  unmerge_gram_destroy((void *)&q);
  free_problem(&q);
  fflush(stdout);
  struct stat s;
  fstat(file, &s);
  dup2(out, 1), dup2(err, 2);
  unlink(path);
  CHECKF(s.st_size == 0, "(%lld bytes were printed)", (long long)s.st_size);
}

static void memory_comes_back(void) {
  if (SANITIZED) return;
  problem q = make_problem(2000, N, T);
  double w[N * PATH_ALPHAS];
  long before = 0;
  for (int i = 0; i < 400; i++) {
    unmerge_gram *g = NULL;
    unmerge_mask *mask = NULL;
    OK(unmerge_gram_create(q.ao, q.yo, NULL, NULL, &g, &e), e);
    OK(unmerge_mask_create(q.ao, NULL, NULL, &mask, &e), e);
    EACH_METHOD(m) {
      unmerge_view v = view_f64(w, N, columns_of(m, T));
      OK(m->call(g, NULL, NULL, &v, NULL, &e), e);
    }
    REFUSED2(unmerge_gram_load(w, 100, &g, &e), e, UNMERGE_E_FORMAT, UNMERGE_E_SHAPE);
    unmerge_gram_destroy(g);
    unmerge_mask_destroy(mask);
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld %ld", &pages, &resident) != 2) return;
    fclose(f);
    if (i == 199) before = resident;
    if (i == 399) CHECKF(resident - before < 256, "(%ld pages more after 200 rounds)", resident - before); /* 1 MB */
  }
  free_problem(&q);
}

MAIN(TEST(same_bits_for_any_number_of_threads), TEST(threads_share_a_gram), TEST(threads_share_columns_on_demand),
     TEST(fork_in_the_middle), TEST(fork_beside_a_working_thread), TEST(small_stack), TEST(signals_blocked), TEST(silent),
     TEST(memory_comes_back))
