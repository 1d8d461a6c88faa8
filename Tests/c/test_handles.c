/* Handles: stale, foreign and invented ones are errors, never crashes. */
#include "check.h"

static unmerge_error e;

typedef struct handles {
  unmerge_operator *op;
  unmerge_mask *mask;
  unmerge_gram *gram;
  unmerge_accumulator *acc;
} handles;

static handles all_from(void *h) {
  handles r;
  r.op = h, r.mask = h, r.gram = h, r.acc = h;
  return r;
}

/* Every function that takes a handle refuses these; y and g stand for the good other argument. */
static void refuse_operator(unmerge_operator *h, const problem *q) {
  double w[4] = {0};
  unmerge_view v = view_f64(w, 4, 1);
  int64_t n = -5;
  unmerge_mask *mask = NULL;
  unmerge_gram *gram = NULL;
  REFUSED(unmerge_operator_add_module(h, "m", 1, 1, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_operator_add_column(h, "c", &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_operator_set_dense(h, 0, 0, &v, NULL, 1, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_operator_set_lora(h, 0, 0, &v, &v, 1, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_operator_shape(h, &n, &n, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_mask_create(h, NULL, NULL, &mask, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_create(h, q->yo, NULL, NULL, &gram, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_create(q->ao, h, NULL, NULL, &gram, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_verify(h, q->yo, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_verify(q->ao, h, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_refine(q->gram, h, q->yo, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_refine(q->gram, q->ao, h, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  CHECK(n == -5 && mask == NULL && gram == NULL);
  unmerge_operator_destroy(h);
}

static void refuse_mask(unmerge_mask *h, const problem *q) {
  int64_t n = -5;
  unmerge_gram *gram = NULL;
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.mask = h;
  unmerge_problem p;
  unmerge_problem_init(&p, sizeof p);
  p.mask = h;
  double w[4] = {0};
  unmerge_view v = view_f64(w, 4, 1);
  REFUSED(unmerge_mask_count(h, -1, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_mask_indices(h, 0, &n, 1, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_create(q->ao, q->yo, &o, NULL, &gram, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_verify(q->ao, q->yo, &p, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_refine(q->gram, q->ao, q->yo, &p, NULL, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  CHECK(n == -5 && gram == NULL);
  unmerge_mask_destroy(h);
}

static void refuse_gram(unmerge_gram *h, const problem *q) {
  double w[4 * PATH_ALPHAS] = {0}, alpha = -5;
  unmerge_view v = view_f64(w, 4, 1);
  int64_t n = -5;
  unmerge_gram *gram = NULL;
  unmerge_gram_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  REFUSED(unmerge_gram_get_info(h, &info, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_block(h, 0, NULL, &n, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_arrays(h, -1, NULL, NULL, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_merge(h, q->gram, &gram, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_merge(q->gram, h, &gram, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_subset(h, NULL, 0, NULL, 0, &gram, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_saved_size(h, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_save(h, w, sizeof w, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_alpha_max(h, 1, NULL, 0, &alpha, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_refine(h, q->ao, q->yo, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  EACH_METHOD(m) {
    unmerge_view c = view_f64(w, 4, columns_of(m, 1));
    REFUSED(m->call(h, NULL, NULL, &c, NULL, &e), e, UNMERGE_E_HANDLE);
  }
  CHECK(n == -5 && gram == NULL && alpha == -5);
  unmerge_gram_destroy(h);
}

static void refuse_accumulator(unmerge_accumulator *h) {
  double x[2] = {1, 2};
  unmerge_view v = view_f64(x, 1, 1);
  unmerge_gram *gram = NULL;
  REFUSED(unmerge_accumulator_add(h, &v, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_accumulator_finish(h, &gram, &e), e, UNMERGE_E_HANDLE);
  CHECK(gram == NULL);
  unmerge_accumulator_destroy(h);
}

/* Still as good as new after all the refusals. */
static void still_works(const problem *q) {
  double w[4];
  unmerge_view v = view_f64(w, 4, 1);
  unmerge_gram *g = NULL;
  OK(unmerge_gram_create(q->ao, q->yo, NULL, NULL, &g, &e), e);
  OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &e), e);
  OK(unmerge_nnls(q->gram, NULL, NULL, &v, NULL, &e), e);
  unmerge_gram_destroy(g);
}

static handles make_handles(const problem *q) {
  handles h;
  memset(&h, 0, sizeof h);
  OK(unmerge_operator_create(&h.op, &e), e);
  OK(unmerge_mask_create(q->ao, NULL, NULL, &h.mask, &e), e);
  OK(unmerge_gram_create(q->ao, q->yo, NULL, NULL, &h.gram, &e), e);
  OK(unmerge_accumulator_create(1, 1, NULL, &h.acc, &e), e);
  return h;
}

static void destroy_handles(handles h) {
  unmerge_operator_destroy(h.op);
  unmerge_mask_destroy(h.mask);
  unmerge_gram_destroy(h.gram);
  unmerge_accumulator_destroy(h.acc);
}

static void refuse_all(handles h, const problem *q) {
  refuse_operator(h.op, q);
  refuse_mask(h.mask, q);
  refuse_gram(h.gram, q);
  refuse_accumulator(h.acc);
}

static void stale(void) {
  problem q = make_problem(60, 4, 1);
  handles h = make_handles(&q);
  destroy_handles(h);
  refuse_all(h, &q);
  destroy_handles(h); /* twice is accepted */
  destroy_handles(h);
  still_works(&q);
}

static void stale_after_the_slot_is_used_again(void) {
  problem q = make_problem(60, 4, 1);
  handles old = make_handles(&q);
  destroy_handles(old);
  handles fresh[16];
  for (int i = 0; i < 16; i++) fresh[i] = make_handles(&q);
  refuse_all(old, &q);
  for (int i = 0; i < 16; i++) { /* the old handles' destroy did not hit a new one */
    OK(unmerge_operator_shape(fresh[i].op, NULL, NULL, NULL, &e), e);
    OK(unmerge_gram_arrays(fresh[i].gram, -1, NULL, NULL, NULL, &e), e);
    destroy_handles(fresh[i]);
  }
  still_works(&q);
}

static void foreign(void) {
  problem q = make_problem(60, 4, 1);
  handles h = make_handles(&q);
  handles wrong[4] = {all_from(h.op), all_from(h.mask), all_from(h.gram), all_from(h.acc)};
  wrong[0].op = (void *)h.gram;
  wrong[1].mask = (void *)h.op;
  wrong[2].gram = (void *)h.acc;
  wrong[3].acc = (void *)h.mask;
  for (int i = 0; i < 4; i++) refuse_all(wrong[i], &q);
  OK(unmerge_operator_shape(h.op, NULL, NULL, NULL, &e), e); /* nobody destroyed another kind */
  OK(unmerge_gram_arrays(h.gram, -1, NULL, NULL, NULL, &e), e);
  int64_t n;
  OK(unmerge_mask_count(h.mask, -1, &n, &e), e);
  still_works(&q);
  destroy_handles(h);
}

static void invented(void) {
  problem q = make_problem(60, 4, 1);
  long long zeros[64];
  memset(zeros, 0, sizeof zeros);
  void *heap = calloc(1, 4096), *freed = malloc(256);
  const uintptr_t freed_bits = (uintptr_t)freed;
  free(freed);
  const uintptr_t values[] = {1,          8,           0xdeadbeef,  (uintptr_t)zeros,  (uintptr_t)heap, freed_bits,
                              UINTPTR_MAX, INTPTR_MAX,  UINTPTR_MAX - 7, (uintptr_t)1 << 63, (uintptr_t)&q};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) refuse_all(all_from((void *)values[i]), &q);
  /* Neighbours of a good handle in every bit. */
  for (int bit = 0; bit < 64; bit++) refuse_gram((void *)((uintptr_t)q.gram ^ ((uintptr_t)1 << bit)), &q);
  still_works(&q);
  free(heap);
}

static void a_gram_outlives_its_operators(void) {
  problem q = make_problem(60, 4, 1);
  double before[4], after[4];
  unmerge_view b = view_f64(before, 4, 1), a = view_f64(after, 4, 1);
  OK(unmerge_nnls(q.gram, NULL, NULL, &b, NULL, &e), e);
  unmerge_operator_destroy(q.ao);
  unmerge_operator_destroy(q.yo);
  OK(unmerge_nnls(q.gram, NULL, NULL, &a, NULL, &e), e);
  CHECK(memcmp(before, after, sizeof before) == 0);
}

static void on_demand_outlives_its_operators_too(void) {
  problem q = make_problem(600, 12, 1);
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.columns = UNMERGE_COLUMNS_ON_DEMAND;
  unmerge_gram *g = NULL;
  OK(unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e), e);
  unmerge_operator_destroy(q.ao);
  unmerge_operator_destroy(q.yo); /* the arrays stay */
  double w[12], full[12];
  unmerge_view v = view_f64(w, 12, 1), f = view_f64(full, 12, 1);
  unmerge_omp_options omp;
  unmerge_omp_options_init(&omp, sizeof omp);
  omp.k = 3;
  OK(unmerge_omp(g, &omp, NULL, &v, NULL, NULL, &e), e);
  OK(unmerge_omp(q.gram, &omp, NULL, &f, NULL, NULL, &e), e);
  for (int j = 0; j < 12; j++) CHECKF(fabs(w[j] - full[j]) < 1e-8, "(atom %d: %g and %g)", j, w[j], full[j]);
  unmerge_gram_destroy(g);
}

static void a_mask_may_go_first(void) {
  problem q = make_problem(60, 4, 1);
  unmerge_mask *mask = NULL;
  unmerge_gram *g = NULL;
  unmerge_mask_options mo;
  unmerge_mask_options_init(&mo, sizeof mo);
  mo.per_module = 20;
  OK(unmerge_mask_create(q.ao, &mo, NULL, &mask, &e), e);
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.mask = mask;
  OK(unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e), e);
  unmerge_mask_destroy(mask);
  double w[4];
  unmerge_view v = view_f64(w, 4, 1);
  OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &e), e);
  unmerge_gram_destroy(g);
}

static void many_handles(void) {
  enum { COUNT = 20000 };
  unmerge_operator **ops = calloc(COUNT, sizeof *ops);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < COUNT; i++)
      if (unmerge_operator_create(&ops[i], &e) != UNMERGE_OK) failures++;
    for (int i = 0; i < COUNT; i++) unmerge_operator_destroy(ops[(i * 7919) % COUNT]);
  }
  REFUSED(unmerge_operator_shape(ops[5], NULL, NULL, NULL, &e), e, UNMERGE_E_HANDLE);
  free(ops);
}

MAIN(TEST(stale), TEST(stale_after_the_slot_is_used_again), TEST(foreign), TEST(invented), TEST(a_gram_outlives_its_operators),
     TEST(on_demand_outlives_its_operators_too), TEST(a_mask_may_go_first), TEST(many_handles))
