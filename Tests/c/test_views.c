/* Views: any strides that stay in the caller's memory are read in place and give the same answer; the rest is refused. */
#include "check.h"

static unmerge_error e;
enum { P = 97, N = 5 };

static void solve(const unmerge_view *a, const unmerge_view *y, double w[N]) {
  unmerge_operator *ao = NULL, *yo = NULL;
  unmerge_gram *g = NULL;
  unmerge_view v = view_f64(w, N, 1);
  memset(w, 0, N * sizeof *w);
  OK(unmerge_operator_from_matrix(a, &ao, &e), e);
  OK(unmerge_operator_from_matrix(y, &yo, &e), e);
  OK(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e), e);
  OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &e), e);
  unmerge_gram_destroy(g);
  unmerge_operator_destroy(ao);
  unmerge_operator_destroy(yo);
}

static void same(const double *w, const double *expected, double tol, const char *what) {
  for (int j = 0; j < N; j++) CHECKF(fabs(w[j] - expected[j]) <= tol, "(%s, atom %d: %.17g and %.17g)", what, j, w[j], expected[j]);
}

static void every_stride(void) {
  problem q = make_problem(P, N, 1);
  double expected[N], w[N];
  solve(&q.av, &q.yv, expected);
  CHECK(fabs(expected[0] - q.truth[0]) < 0.01);

  double columns[N * P]; /* column-major */
  for (int i = 0; i < P; i++)
    for (int j = 0; j < N; j++) columns[j * P + i] = q.a[i * N + j];
  unmerge_view v = view_f64(columns, P, N);
  v.strides[0] = 8, v.strides[1] = P * 8;
  solve(&v, &q.yv, w);
  same(w, expected, 1e-13, "column-major");

  double spread[3 * P * 2 * N]; /* every third row, every second column of something larger */
  for (size_t i = 0; i < sizeof spread / sizeof *spread; i++) spread[i] = NAN; /* never read */
  for (int i = 0; i < P; i++)
    for (int j = 0; j < N; j++) spread[3 * i * 2 * N + 2 * j] = q.a[i * N + j];
  v = view_f64(spread, P, N);
  v.strides[0] = 3 * 2 * N * 8, v.strides[1] = 16;
  solve(&v, &q.yv, w);
  same(w, expected, 1e-13, "gaps");

  unmerge_view back_rows = q.av, back_y = q.yv; /* rows reversed on both sides */
  back_rows.data = q.a + (P - 1) * N, back_rows.strides[0] = -N * 8;
  back_y.data = q.y + (P - 1), back_y.strides[0] = -8;
  solve(&back_rows, &back_y, w);
  same(w, expected, 1e-12, "rows reversed");

  unmerge_view back_columns = q.av; /* atoms reversed */
  back_columns.data = q.a + N - 1, back_columns.strides[1] = -8;
  solve(&back_columns, &q.yv, w);
  double reversed[N];
  for (int j = 0; j < N; j++) reversed[j] = expected[N - 1 - j];
  same(w, reversed, 1e-13, "atoms reversed");

  for (int shift = 1; shift < 8; shift++) { /* unaligned data */
    unsigned char *raw = malloc(sizeof(double) * P * N + 8);
    memcpy(raw + shift, q.a, sizeof(double) * P * N);
    v = q.av;
    v.data = raw + shift;
    solve(&v, &q.yv, w);
    same(w, expected, 1e-13, "unaligned data");
    free(raw);
  }
  enum { ROW = N * 8 + 3 }; /* unaligned rows */
  unsigned char rows[P * ROW];
  for (int i = 0; i < P; i++) memcpy(rows + i * ROW, q.a + i * N, N * 8);
  v = q.av;
  v.data = rows, v.strides[0] = ROW;
  solve(&v, &q.yv, w);
  same(w, expected, 1e-13, "unaligned rows");

  float single[P * N];
  for (int i = 0; i < P * N; i++) single[i] = (float)q.a[i];
  v = q.av;
  v.data = single, v.dtype = UNMERGE_F32, v.strides[0] = N * 4, v.strides[1] = 4;
  solve(&v, &q.yv, w);
  same(w, expected, 1e-5, "f32");

  uint16_t brain[P * N]; /* bf16: the upper half of a float */
  for (int i = 0; i < P * N; i++) {
    uint32_t bits;
    memcpy(&bits, &single[i], 4);
    brain[i] = (uint16_t)((bits + 0x8000) >> 16);
  }
  v.data = brain, v.dtype = UNMERGE_BF16, v.strides[0] = N * 2, v.strides[1] = 2;
  solve(&v, &q.yv, w);
  same(w, expected, 2e-2, "bf16");
  free_problem(&q);
}

static void half_precision(void) {
  /* 1, -2, 0.5, 65504, 2^-24 as half; the column against itself gives sums that are exact. */
  uint16_t half[5] = {0x3c00, 0xc000, 0x3800, 0x7bff, 0x0001};
  const double values[5] = {1, -2, 0.5, 65504, 0x1p-24};
  unmerge_view v;
  memset(&v, 0, sizeof v);
  v.data = half, v.dtype = UNMERGE_F16, v.shape[0] = 1, v.shape[1] = 5, v.strides[0] = 10, v.strides[1] = 2;
  double one[1] = {1}, c[5], yy[1];
  unmerge_view y = view_f64(one, 1, 1), cv = view_f64(c, 5, 1), yv = view_f64(yy, 1, 1);
  unmerge_operator *ao = NULL, *yo = NULL;
  unmerge_gram *g = NULL;
  unmerge_gram_options o;
  unmerge_gram_options_init(&o, sizeof o);
  o.precision = UNMERGE_PRECISION_EXACT;
  OK(unmerge_operator_from_matrix(&v, &ao, &e), e);
  OK(unmerge_operator_from_matrix(&y, &yo, &e), e);
  OK(unmerge_gram_create(ao, yo, &o, NULL, &g, &e), e);
  OK(unmerge_gram_arrays(g, -1, NULL, &cv, &yv, &e), e);
  for (int j = 0; j < 5; j++) CHECKF(c[j] == values[j], "(%.17g, not %.17g)", c[j], values[j]);
  unmerge_gram_destroy(g), unmerge_operator_destroy(ao), unmerge_operator_destroy(yo);
}

static void zero_strides_repeat(void) {
  double one = 1, y[P], truth = 0;
  for (int i = 0; i < P; i++) y[i] = 0.01 * i, truth += y[i] / (double)P;
  unmerge_view a = broadcast_f64(&one, P, 1), yv = view_f64(y, P, 1);
  unmerge_operator *ao = NULL, *yo = NULL;
  unmerge_gram *g = NULL;
  double w;
  unmerge_view v = view_f64(&w, 1, 1);
  OK(unmerge_operator_from_matrix(&a, &ao, &e), e);
  OK(unmerge_operator_from_matrix(&yv, &yo, &e), e);
  OK(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e), e);
  OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &e), e);
  CHECK(fabs(w - truth) < 1e-12);
  unmerge_gram_destroy(g), unmerge_operator_destroy(ao), unmerge_operator_destroy(yo);
}

static void outputs_in_any_layout(void) {
  problem q = make_problem(P, N, 2);
  double plain[N * 2];
  unmerge_view pv = view_f64(plain, N, 2);
  EACH_METHOD(m) {
    if (columns_of(m, 2) != 2) continue;
    OK(m->call(q.gram, NULL, NULL, &pv, NULL, &e), e);
    unsigned char raw[2048];
    memset(raw, 0x5a, sizeof raw);
    /* columns first, reversed in both directions, unaligned, with gaps */
    unmerge_view v = view_f64(NULL, N, 2);
    v.data = raw + 1001, v.strides[0] = -24, v.strides[1] = -333;
    OK(m->call(q.gram, NULL, NULL, &v, NULL, &e), e);
    unsigned char expected[sizeof raw];
    memset(expected, 0x5a, sizeof expected);
    for (int j = 0; j < N; j++)
      for (int t = 0; t < 2; t++) memcpy(expected + 1001 - 24 * j - 333 * t, &plain[2 * j + t], 8);
    CHECKF(memcmp(raw, expected, sizeof raw) == 0, "(%s)", m->name);
    float single[N * 2];
    v = view_f64(NULL, N, 2);
    v.data = single, v.dtype = UNMERGE_F32, v.strides[0] = 8, v.strides[1] = 4;
    OK(m->call(q.gram, NULL, NULL, &v, NULL, &e), e);
    for (int i = 0; i < N * 2; i++) CHECKF(single[i] == (float)plain[i], "(%s)", m->name);
  }
  free_problem(&q);
}

static void outputs_that_overlap(void) {
  problem q = make_problem(P, N, 2);
  double w[64];
  EACH_METHOD(m) {
    const int64_t strides[][2] = {{0, 8}, {8, 0}, {0, 0}, {8, 8}, {4, 64}, {16, 4}, {-4, 64}, {16, 16}, {8, 16}, {1, 1}};
    for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
      unmerge_view v = view_f64(w + 16, N, columns_of(m, 2));
      v.strides[0] = strides[i][0], v.strides[1] = strides[i][1];
      REFUSED2(m->call(q.gram, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_RANGE);
    }
  }
  free_problem(&q);
}

static void output_shapes_and_types(void) {
  problem q = make_problem(P, N, 2);
  double w[128];
  EACH_METHOD(m) {
    const int64_t c = columns_of(m, 2);
    const int64_t shapes[][2] = {{N, c + 1}, {N + 1, c}, {N - 1, c}, {N, c - 1}, {c, N}, {0, 0}, {N, 0}, {-N, c}, {N, -c}, {N * c, 1}, {-N, -c}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
      if (shapes[i][0] == N && shapes[i][1] == c) continue;
      unmerge_view v = view_f64(w, shapes[i][0], shapes[i][1]);
      if (REFUSED(m->call(q.gram, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_SHAPE)) NAMES(e, "coef");
    }
    const int32_t types[] = {0, -1, 5, 99, INT32_MAX, INT32_MIN, UNMERGE_F16, UNMERGE_BF16};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
      unmerge_view v = view_f64(w, N, c);
      v.dtype = types[i];
      if (REFUSED(m->call(q.gram, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_DTYPE)) NAMES(e, "coef");
    }
  }
  free_problem(&q);
}

static void input_shapes_and_types(void) {
  double x[64] = {0};
  unmerge_operator *op = NULL;
  const int32_t types[] = {0, -1, 5, 99, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    unmerge_view v = view_f64(x, 4, 4);
    v.dtype = types[i];
    REFUSED(unmerge_operator_from_matrix(&v, &op, &e), e, UNMERGE_E_DTYPE);
  }
  const int64_t shapes[][2] = {{-1, 4}, {4, -1}, {-1, -1}, {INT64_MIN, 1}, {1, INT64_MIN}, {INT64_MIN, INT64_MIN}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    unmerge_view v = view_f64(x, 4, 4);
    v.shape[0] = shapes[i][0], v.shape[1] = shapes[i][1];
    REFUSED(unmerge_operator_from_matrix(&v, &op, &e), e, UNMERGE_E_SHAPE);
  }
  CHECK(op == NULL);

  /* Modules: what does not fit is refused. */
  OK(unmerge_operator_create(&op, &e), e);
  OK(unmerge_operator_add_module(op, "layers.0.q", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_column(op, "law", NULL, &e), e);
  unmerge_view good = view_f64(x, 4, 3), flat = view_f64(x, 12, 1), turned = view_f64(x, 3, 4), typed = good;
  typed.dtype = 77;
  REFUSED(unmerge_operator_set_dense(op, 0, 0, &turned, NULL, 1, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_operator_set_dense(op, 0, 0, &flat, NULL, 1, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_operator_set_dense(op, 0, 0, &good, &turned, 1, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_operator_set_dense(op, 0, 0, &typed, NULL, 1, &e), e, UNMERGE_E_DTYPE);
  REFUSED(unmerge_operator_set_dense(op, 0, 0, &good, &typed, 1, &e), e, UNMERGE_E_DTYPE);
  unmerge_view b = view_f64(x, 4, 2), a = view_f64(x, 2, 3), odd = view_f64(x, 3, 3), five = view_f64(x, 5, 2);
  REFUSED(unmerge_operator_set_lora(op, 0, 0, &b, &odd, 1, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_operator_set_lora(op, 0, 0, &five, &a, 1, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_operator_set_lora(op, 0, 0, &a, &b, 1, &e), e, UNMERGE_E_SHAPE);
  const int64_t wrong[] = {-1, 1, 2, INT64_MAX, INT64_MIN, (int64_t)1 << 32};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    REFUSED2(unmerge_operator_set_dense(op, wrong[i], 0, &good, NULL, 1, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_operator_set_dense(op, 0, wrong[i], &good, NULL, 1, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_operator_set_lora(op, wrong[i], 0, &b, &a, 1, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_operator_set_lora(op, 0, wrong[i], &b, &a, 1, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  }
  const double scales[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < 3; i++) {
    REFUSED2(unmerge_operator_set_dense(op, 0, 0, &good, NULL, scales[i], &e), e, UNMERGE_E_RANGE, UNMERGE_E_NONFINITE);
    REFUSED2(unmerge_operator_set_lora(op, 0, 0, &b, &a, scales[i], &e), e, UNMERGE_E_RANGE, UNMERGE_E_NONFINITE);
  }
  OK(unmerge_operator_set_dense(op, 0, 0, &good, &good, 1, &e), e);
  unmerge_operator_destroy(op);
}

static void names(void) {
  unmerge_operator *op = NULL;
  OK(unmerge_operator_create(&op, &e), e);
  int64_t index = -5;
  OK(unmerge_operator_add_module(op, "a", 1, 1, &index, &e), e);
  CHECK(index == 0);
  OK(unmerge_operator_add_module(op, "\xce\xbb", 1, 1, &index, &e), e);
  CHECK(index == 1);
  OK(unmerge_operator_add_column(op, "a", &index, &e), e); /* columns have their own names */
  CHECK(index == 0);
  index = -5;
  if (REFUSED2(unmerge_operator_add_module(op, "a", 1, 1, &index, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE)) NAMES(e, "a");
  REFUSED2(unmerge_operator_add_column(op, "a", &index, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  const char *bad[] = {"\xff", "\xc3", "ab\x80", "\xed\xa0\x80", "\xf8\x88\x80\x80\x80"}; /* not UTF-8 */
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    REFUSED(unmerge_operator_add_module(op, bad[i], 1, 1, &index, &e), e, UNMERGE_E_RANGE);
    REFUSED(unmerge_operator_add_column(op, bad[i], &index, &e), e, UNMERGE_E_RANGE);
  }
  CHECK(index == -5);
  char *large = malloc(1 << 20); /* a name of a megabyte, then once more: the message must not overflow */
  memset(large, 'x', (1 << 20) - 1);
  large[(1 << 20) - 1] = 0;
  OK(unmerge_operator_add_column(op, large, NULL, &e), e);
  REFUSED2(unmerge_operator_add_column(op, large, NULL, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  for (int i = 0; i + 2 < 1 << 20; i += 2) memcpy(large + i, "\xce\xbb", 2); /* and cut between characters */
  OK(unmerge_operator_add_column(op, large, NULL, &e), e);
  REFUSED2(unmerge_operator_add_column(op, large, NULL, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  free(large);
  unmerge_operator_destroy(op);
}

static void modules_must_agree(void) {
  double x[6] = {1, 2, 3, 4, 5, 7};
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  OK(unmerge_operator_create(&a, &e), e);
  OK(unmerge_operator_create(&y, &e), e);
  OK(unmerge_operator_add_module(a, "q", 3, 2, NULL, &e), e);
  OK(unmerge_operator_add_module(y, "k", 3, 2, NULL, &e), e);
  OK(unmerge_operator_add_column(a, "law", NULL, &e), e);
  OK(unmerge_operator_add_column(y, "merged", NULL, &e), e);
  unmerge_view v = view_f64(x, 3, 2);
  OK(unmerge_operator_set_dense(a, 0, 0, &v, NULL, 1, &e), e);
  OK(unmerge_operator_set_dense(y, 0, 0, &v, NULL, 1, &e), e);
  REFUSED(unmerge_gram_create(a, y, NULL, NULL, &g, &e), e, UNMERGE_E_SHAPE);
  double w[1] = {0};
  unmerge_view wv = view_f64(w, 1, 1);
  REFUSED(unmerge_verify(a, y, NULL, NULL, &wv, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
  unmerge_operator *z = NULL;
  unmerge_view shorter = view_f64(x, 5, 1);
  OK(unmerge_operator_from_matrix(&shorter, &z, &e), e);
  REFUSED(unmerge_gram_create(a, z, NULL, NULL, &g, &e), e, UNMERGE_E_SHAPE);
  CHECK(g == NULL);
  unmerge_operator_destroy(a), unmerge_operator_destroy(y), unmerge_operator_destroy(z);
}

MAIN(TEST(every_stride), TEST(half_precision), TEST(zero_strides_repeat), TEST(outputs_in_any_layout), TEST(outputs_that_overlap),
     TEST(output_shapes_and_types), TEST(input_shapes_and_types), TEST(names), TEST(modules_must_agree))
