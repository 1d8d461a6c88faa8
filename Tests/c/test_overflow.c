/* Sizes that overflow are refused before anything is read or allocated. */
#include "check.h"
#include <sys/resource.h>

static unmerge_error e;
static double x[64];
#define TOO_LARGE(expression) REFUSED3(expression, e, UNMERGE_E_SHAPE, UNMERGE_E_MEMORY, UNMERGE_E_RANGE)

/* A ceiling of 3 GB on the address space of this test. */
static bool limit_memory(void) {
  if (SANITIZED) return false;
  struct rlimit limit;
  limit.rlim_cur = limit.rlim_max = (rlim_t)3 << 30;
  return setrlimit(RLIMIT_AS, &limit) == 0;
}

static const int64_t large[] = {INT64_MAX, INT64_MAX - 1, (int64_t)1 << 62, (int64_t)1 << 61, ((int64_t)1 << 61) + 1};
enum { LARGE = sizeof large / sizeof *large };

static void matrices(void) {
  unmerge_operator *op = NULL;
  for (int i = 0; i < LARGE; i++) {
    const int64_t shapes[][2] = {{large[i], 1}, {1, large[i]}, {large[i], 2}, {large[i], large[i]}, {large[i], 8}};
    for (int k = 0; k < 5; k++) {
      unmerge_view v = view_f64(x, 1, 1);
      v.shape[0] = shapes[k][0], v.shape[1] = shapes[k][1];
      v.strides[0] = 8, v.strides[1] = 8;
      TOO_LARGE(unmerge_operator_from_matrix(&v, &op, &e));
    }
  }
  /* Products that wrap to something small. */
  const int64_t wraps[][2] = {{(int64_t)1 << 32, (int64_t)1 << 32}, {((int64_t)1 << 32) + 1, (int64_t)1 << 32}, {(int64_t)3 << 62, 4}, {(int64_t)1 << 60, 16}};
  for (int i = 0; i < 4; i++) {
    unmerge_view v = view_f64(x, 1, 1);
    v.shape[0] = wraps[i][0], v.shape[1] = wraps[i][1];
    v.strides[0] = v.strides[1] = 0;
    TOO_LARGE(unmerge_operator_from_matrix(&v, &op, &e));
  }
  CHECK(op == NULL);
}

static void strides_that_leave_memory(void) {
  unmerge_operator *op = NULL;
  const int64_t strides[] = {INT64_MAX, INT64_MIN, INT64_MAX - 7, INT64_MIN + 8, (int64_t)1 << 62, -((int64_t)1 << 62)};
  for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
    for (int axis = 0; axis < 2; axis++) {
      unmerge_view v = view_f64(x, 3, 3);
      v.strides[axis] = strides[i];
      REFUSED2(unmerge_operator_from_matrix(&v, &op, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_RANGE);
    }
    unmerge_view v = view_f64(x, 4, 4);
    v.strides[0] = v.strides[1] = strides[i];
    REFUSED2(unmerge_operator_from_matrix(&v, &op, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_RANGE);
  }
  CHECK(op == NULL);
}

/* A stride that is never used may be anything: arrays of one row or one column carry strange ones. */
static void strides_of_single_rows(void) {
  problem q = make_problem(60, 4, 1);
  double w[4 * PATH_ALPHAS];
  const int64_t strides[] = {0, INT64_MAX, INT64_MIN, INT64_MIN + 1, -8, 3};
  for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
    unmerge_view y = q.yv;
    y.strides[1] = strides[i];
    unmerge_operator *yo = NULL;
    unmerge_gram *g = NULL;
    OK(unmerge_operator_from_matrix(&y, &yo, &e), e);
    OK(unmerge_gram_create(q.ao, yo, NULL, NULL, &g, &e), e);
    EACH_METHOD(m) {
      if (columns_of(m, 1) != 1) continue;
      unmerge_view v = view_f64(w, 4, 1);
      v.strides[1] = strides[i];
      OK(m->call(g, NULL, NULL, &v, NULL, &e), e);
    }
    unmerge_gram_destroy(g);
    unmerge_operator_destroy(yo);
  }
  unmerge_view one = view_f64(x, 1, 3); /* one row */
  one.strides[0] = INT64_MIN;
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  x[0] = 1, x[1] = 2, x[2] = 3;
  unmerge_view yv = view_f64(x, 1, 1);
  yv.strides[0] = INT64_MIN, yv.strides[1] = INT64_MIN;
  OK(unmerge_operator_from_matrix(&one, &a, &e), e);
  OK(unmerge_operator_from_matrix(&yv, &y, &e), e);
  OK(unmerge_gram_create(a, y, NULL, NULL, &g, &e), e);
  unmerge_gram_destroy(g), unmerge_operator_destroy(a), unmerge_operator_destroy(y);
  free_problem(&q);
}

static void modules(void) {
  unmerge_operator *op = NULL;
  OK(unmerge_operator_create(&op, &e), e);
  int64_t index = -5;
  const int64_t shapes[][2] = {{INT64_MAX, 2}, {2, INT64_MAX}, {(int64_t)1 << 62, 4}, {(int64_t)1 << 32, (int64_t)1 << 32}, {INT64_MAX, INT64_MAX},
                               {-1, 3}, {3, -1}, {-1, -1}, {INT64_MIN, INT64_MIN}, {INT64_MIN, 1}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    TOO_LARGE(unmerge_operator_add_module(op, "m", shapes[i][0], shapes[i][1], &index, &e));
  CHECK(index == -5);
  /* The sum over modules overflows: some module has to be the one too many. */
  unmerge_status last = UNMERGE_OK;
  for (int i = 0; i < 40 && last == UNMERGE_OK; i++) {
    char name[16];
    snprintf(name, sizeof name, "m%d", i);
    last = unmerge_operator_add_module(op, name, (int64_t)1 << 58, 1, NULL, &e);
  }
  CHECK(last == UNMERGE_E_SHAPE || last == UNMERGE_E_RANGE || last == UNMERGE_E_MEMORY);
  int64_t modules_ = 0, columns = 0, entries = 0;
  OK(unmerge_operator_shape(op, &modules_, &columns, &entries, &e), e);
  CHECK(entries > 0 && modules_ < 40);
  unmerge_operator_destroy(op);
}

static void from_arrays(void) {
  unmerge_gram *g = NULL;
  unmerge_view one = view_f64(x, 1, 1);
  x[0] = 1;
  for (int i = 0; i < LARGE; i++) {
    unmerge_view big = broadcast_f64(x, large[i], large[i]), tall = broadcast_f64(x, large[i], 1), wide = broadcast_f64(x, 1, large[i]);
    TOO_LARGE(unmerge_gram_from_arrays(&big, &tall, &one, 1, &g, &e));
    TOO_LARGE(unmerge_gram_from_arrays(&one, &wide, &tall, 1, &g, &e));
  }
  /* 2^33 atoms: n^2 overflows although every view alone is fine; 2^28: 2^59 bytes nobody has. */
  for (int shift = 28; shift <= 33; shift += 5) {
    unmerge_view big = broadcast_f64(x, (int64_t)1 << shift, (int64_t)1 << shift), tall = broadcast_f64(x, (int64_t)1 << shift, 1);
    TOO_LARGE(unmerge_gram_from_arrays(&big, &tall, &one, 1, &g, &e));
  }
  const int64_t rows[] = {-1, INT64_MIN};
  for (int i = 0; i < 2; i++) REFUSED2(unmerge_gram_from_arrays(&one, &one, &one, rows[i], &g, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  CHECK(g == NULL);
}

static void pass_over_too_many_atoms(void) {
  limit_memory();
  /* A matrix that is one number in memory and has 2^30 columns: the Gram would need 2^63 bytes. */
  unmerge_view a = broadcast_f64(x, 2, (int64_t)1 << 30), y = broadcast_f64(x, 2, 1);
  unmerge_operator *ao = NULL, *yo = NULL;
  unmerge_gram *g = NULL;
  memset(&e, 0, sizeof e);
  const unmerge_status s = unmerge_operator_from_matrix(&a, &ao, &e);
  if (s != UNMERGE_OK) { /* a billion names may be refused already */
    CHECK(s == UNMERGE_E_SHAPE || s == UNMERGE_E_MEMORY);
    return;
  }
  OK(unmerge_operator_from_matrix(&y, &yo, &e), e);
  TOO_LARGE(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e));
  unmerge_operator_destroy(ao), unmerge_operator_destroy(yo);
}

static void accumulators(void) {
  unmerge_accumulator *acc = NULL;
  for (int i = 0; i < LARGE; i++) {
    TOO_LARGE(unmerge_accumulator_create(large[i], 1, NULL, &acc, &e));
    TOO_LARGE(unmerge_accumulator_create(1, large[i], NULL, &acc, &e));
    TOO_LARGE(unmerge_accumulator_create(large[i], large[i], NULL, &acc, &e));
  }
  const int64_t more[][2] = {{(int64_t)1 << 32, 1}, {(int64_t)1 << 31, 1}, {(int64_t)1 << 28, 1}, {-1, 1}, {1, -1}, {INT64_MIN, 1}};
  for (size_t i = 0; i < sizeof more / sizeof *more; i++) TOO_LARGE(unmerge_accumulator_create(more[i][0], more[i][1], NULL, &acc, &e));
  CHECK(acc == NULL);
  OK(unmerge_accumulator_create(2, 1, NULL, &acc, &e), e);
  unmerge_view a = broadcast_f64(x, INT64_MAX, 2), y = broadcast_f64(x, INT64_MAX, 1);
  TOO_LARGE(unmerge_accumulator_add(acc, &a, &y, NULL, &e));
  unmerge_view a3 = view_f64(x, 4, 3), a2 = view_f64(x, 4, 2), y3 = view_f64(x, 3, 1), y4 = view_f64(x, 4, 1), y42 = view_f64(x, 4, 2);
  REFUSED(unmerge_accumulator_add(acc, &a3, &y4, NULL, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_accumulator_add(acc, &a2, &y3, NULL, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_accumulator_add(acc, &a2, &y42, NULL, &e), e, UNMERGE_E_SHAPE);
  OK(unmerge_accumulator_add(acc, &a2, &y4, NULL, &e), e);
  unmerge_accumulator_destroy(acc);
}

static void path_and_omp(void) {
  problem q = make_problem(60, 4, 2);
  double w[8];
  for (int i = 0; i < LARGE; i++) {
    unmerge_path_options o;
    unmerge_path_options_init(&o, sizeof o);
    o.n_alphas = large[i];
    unmerge_view v = broadcast_f64(w, 4, large[i]);
    TOO_LARGE(unmerge_lasso_path(q.gram, &o, NULL, NULL, &v, NULL, &e));
    unmerge_omp_options k;
    unmerge_omp_options_init(&k, sizeof k);
    k.k = large[i]; /* legal: clipped */
    unmerge_view c = view_f64(w, 4, 2);
    unmerge_report r[2];
    unmerge_report_init(&r[0], sizeof r[0]);
    OK(unmerge_omp(q.gram, &k, NULL, &c, NULL, r, &e), e);
    CHECK((r[0].flags & UNMERGE_FLAG_CLIPPED) != 0);
    unmerge_run run = new_run();
    run.max_iter = large[i]; /* legal */
    OK(unmerge_nnls(q.gram, NULL, &run, &c, NULL, &e), e);
  }
  free_problem(&q);
}

static void indices(void) {
  problem q = make_problem(60, 4, 1);
  unmerge_gram *g = NULL;
  const int64_t wrong[] = {-1, 4, INT64_MAX, INT64_MIN, (int64_t)1 << 32};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const int64_t atoms[2] = {0, wrong[i]};
    REFUSED2(unmerge_gram_subset(q.gram, atoms, 2, NULL, 0, &g, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_gram_subset(q.gram, NULL, 0, atoms, 2, &g, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    if (wrong[i] != -1) REFUSED2(unmerge_gram_arrays(q.gram, wrong[i], NULL, NULL, NULL, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_gram_block(q.gram, wrong[i], NULL, NULL, NULL, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  }
  const int64_t atoms[1] = {0};
  const int64_t counts[] = {-1, INT64_MIN};
  for (int i = 0; i < 2; i++) {
    REFUSED2(unmerge_gram_subset(q.gram, atoms, counts[i], NULL, 0, &g, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_gram_subset(q.gram, NULL, 0, atoms, counts[i], &g, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  }
  int64_t n = -5;
  unmerge_mask *mask = NULL;
  OK(unmerge_mask_create(q.ao, NULL, NULL, &mask, &e), e);
  const int64_t modules_[] = {-2, 1, INT64_MAX, INT64_MIN};
  for (int i = 0; i < 4; i++) {
    REFUSED2(unmerge_mask_count(mask, modules_[i], &n, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_mask_indices(mask, modules_[i], &n, 1, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  }
  const int64_t capacities[] = {0, 1, 59, -1, INT64_MIN};
  for (int i = 0; i < 5; i++) REFUSED2(unmerge_mask_indices(mask, 0, &n, capacities[i], &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  CHECK(n == -5 && g == NULL);
  unmerge_mask_destroy(mask);
  free_problem(&q);
}

static void saved_grams(void) {
  problem q = make_problem(60, 4, 1);
  unmerge_gram *g = NULL;
  int64_t size = 0;
  OK(unmerge_gram_saved_size(q.gram, &size, &e), e);
  CHECK(size > 0 && size < 100000);
  unsigned char *bytes = malloc((size_t)size + 1), *copy = malloc((size_t)size + 1);
  bytes[size] = 0x5a;
  const int64_t small[] = {0, 1, size - 1, -1, INT64_MIN};
  for (int i = 0; i < 5; i++) REFUSED2(unmerge_gram_save(q.gram, bytes, small[i], &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  OK(unmerge_gram_save(q.gram, bytes, size, &e), e);
  CHECK(bytes[size] == 0x5a);
  OK(unmerge_gram_load(bytes, size, &g, &e), e);
  double w[4], v[4];
  unmerge_view wv = view_f64(w, 4, 1), vv = view_f64(v, 4, 1);
  OK(unmerge_nnls(q.gram, NULL, NULL, &wv, NULL, &e), e);
  OK(unmerge_nnls(g, NULL, NULL, &vv, NULL, &e), e);
  CHECK(memcmp(w, v, sizeof w) == 0);
  unmerge_gram_destroy(g);
  g = NULL;
  for (int64_t n = 0; n < size; n++) REFUSED2(unmerge_gram_load(bytes, n, &g, &e), e, UNMERGE_E_FORMAT, UNMERGE_E_SHAPE); /* cut short */
  REFUSED2(unmerge_gram_load(bytes, -1, &g, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  for (int64_t i = 0; i < size; i++) /* one bit wrong anywhere */
    for (int bit = 0; bit < 8; bit += 7) {
      memcpy(copy, bytes, (size_t)size);
      copy[i] ^= (unsigned char)(1u << bit);
      REFUSED(unmerge_gram_load(copy, size, &g, &e), e, UNMERGE_E_FORMAT);
    }
  for (int i = 0; i < 200; i++) { /* noise */
    uint64_t state = (uint64_t)i;
    for (int64_t k = 0; k < size; k++) copy[k] = (unsigned char)(1000 * noise(&state));
    if (i % 2 == 0) memcpy(copy, bytes, 16);
    REFUSED(unmerge_gram_load(copy, size, &g, &e), e, UNMERGE_E_FORMAT);
  }
  CHECK(g == NULL);
  free(bytes), free(copy);
  free_problem(&q);
}

/* What does not fit is a status and not the end of the process. */
static void memory_that_is_not_there(void) {
  if (!limit_memory()) return;
  unmerge_accumulator *acc = NULL;
  REFUSED(unmerge_accumulator_create(60000, 1, NULL, &acc, &e), e, UNMERGE_E_MEMORY); /* 29 GB */
  unmerge_view one = view_f64(x, 1, 1), big = broadcast_f64(x, 60000, 60000), tall = broadcast_f64(x, 60000, 1);
  unmerge_gram *g = NULL;
  REFUSED(unmerge_gram_from_arrays(&big, &tall, &one, 1, &g, &e), e, UNMERGE_E_MEMORY);
  unmerge_view a = broadcast_f64(x, 10, 60000), y = broadcast_f64(x, 10, 1);
  unmerge_operator *ao = NULL, *yo = NULL;
  OK(unmerge_operator_from_matrix(&a, &ao, &e), e);
  OK(unmerge_operator_from_matrix(&y, &yo, &e), e);
  REFUSED(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e), e, UNMERGE_E_MEMORY);
  unmerge_operator *op = NULL;
  unmerge_mask *mask = NULL;
  OK(unmerge_operator_create(&op, &e), e);
  OK(unmerge_operator_add_module(op, "m", (int64_t)1 << 31, 1, NULL, &e), e);
  OK(unmerge_operator_add_column(op, "c", NULL, &e), e);
  unmerge_view huge = broadcast_f64(x, (int64_t)1 << 31, 1);
  OK(unmerge_operator_set_dense(op, 0, 0, &huge, NULL, 1, &e), e);
  REFUSED(unmerge_mask_create(op, NULL, NULL, &mask, &e), e, UNMERGE_E_MEMORY); /* 8 bytes per entry */
  CHECK(acc == NULL && g == NULL && mask == NULL);
  problem q = make_problem(60, 4, 1); /* and it works on */
  free_problem(&q);
}

MAIN(TEST(matrices), TEST(strides_that_leave_memory), TEST(strides_of_single_rows), TEST(modules), TEST(from_arrays),
     TEST(pass_over_too_many_atoms), TEST(accumulators), TEST(path_and_omp), TEST(indices), TEST(saved_grams),
     TEST(memory_that_is_not_there))
