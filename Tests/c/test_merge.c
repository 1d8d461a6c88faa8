/* Recipes and replay at the door: what is required, what is refused, what is promised. */
#include "check.h"

static unmerge_error e;
enum { ROWS = 24, COLS = 36, K = 3 };

static uint16_t bf16(double x) {
  float f = (float)x;
  uint32_t u;
  memcpy(&u, &f, 4);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static double of_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static unmerge_view view_of(void *data, int32_t dtype, int64_t size) {
  unmerge_view v;
  memset(&v, 0, sizeof v);
  v.data = data, v.dtype = dtype;
  v.shape[0] = ROWS, v.shape[1] = COLS, v.strides[0] = COLS * size, v.strides[1] = size;
  return v;
}

/* Two modules; the atoms are stored bfloat16 task models on both, the target has the first module only. */
typedef struct merge {
  uint16_t base[ROWS * COLS], model[K][ROWS * COLS], merged[ROWS * COLS];
  double weights[2 * K];
  unmerge_operator *atoms, *target;
  unmerge_recipe recipe;
  unmerge_replay_report reports[3];
} merge;

static void set(unmerge_operator *op, int64_t module, int64_t column, uint16_t *values, uint16_t *base) {
  unmerge_view v = view_of(values, UNMERGE_BF16, 2), b = view_of(base, UNMERGE_BF16, 2);
  OK(unmerge_operator_set_dense(op, module, column, &v, base == NULL ? NULL : &b, 1, &e), e);
}

static merge *make(void) {
  merge *m = calloc(1, sizeof *m);
  uint64_t state = 3;
  OK(unmerge_operator_create(&m->atoms, &e), e);
  OK(unmerge_operator_create(&m->target, &e), e);
  unmerge_operator *const both[] = {m->atoms, m->target};
  for (int i = 0; i < 2; i++) {
    OK(unmerge_operator_add_module(both[i], "one", ROWS, COLS, NULL, &e), e);
    OK(unmerge_operator_add_module(both[i], "two", ROWS, COLS, NULL, &e), e);
  }
  for (int i = 0; i < ROWS * COLS; i++) {
    m->base[i] = bf16(0.03 * noise(&state));
    for (int j = 0; j < K; j++) m->model[j][i] = bf16(of_bf16(m->base[i]) + 0.01 * noise(&state));
    float total = 0; /* differences and products are bfloat16, their sum is rounded at the end */
    for (int j = 0; j < K; j++) {
      const double d = of_bf16(bf16(of_bf16(m->model[j][i]) - of_bf16(m->base[i])));
      total += (float)of_bf16(bf16(d * 0.5));
    }
    m->merged[i] = bf16(of_bf16(m->base[i]) + of_bf16(bf16(total)));
  }
  for (int j = 0; j < K; j++) {
    const char name[2] = {(char)('a' + j), 0};
    OK(unmerge_operator_add_column(m->atoms, name, NULL, &e), e);
    for (int module = 0; module < 2; module++) set(m->atoms, module, j, m->model[j], m->base);
  }
  OK(unmerge_operator_add_column(m->target, "merged", NULL, &e), e);
  set(m->target, 0, 0, m->merged, m->base);
  OK(unmerge_recipe_init(&m->recipe, sizeof m->recipe), e);
  for (int j = 0; j < 2 * K; j++) m->weights[j] = 0.5;
  m->recipe.method = UNMERGE_MERGE_TASK_ARITHMETIC;
  m->recipe.weights = m->weights;
  unmerge_replay_report_init(m->reports, sizeof m->reports[0]);
  return m;
}

static void free_merge(merge *m) {
  unmerge_operator_destroy(m->atoms);
  unmerge_operator_destroy(m->target);
  free(m);
}

static unmerge_status replay(merge *m) { return unmerge_replay(m->atoms, m->target, &m->recipe, NULL, m->reports, &e); }

static void defaults(void) {
  unmerge_recipe r;
  memset(&r, 0x5a, sizeof r);
  CHECK(unmerge_recipe_init(&r, sizeof r) == UNMERGE_OK);
  CHECK(r.struct_size == sizeof r && r.method == UNMERGE_MERGE_LINEAR && r.dtype == 0 && r.out_dtype == 0);
  CHECK(r.task_rounding == UNMERGE_TASK_STORED && r.task_dtype == 0 && r.consensus == UNMERGE_CONSENSUS_SUM);
  CHECK(r.normalize == UNMERGE_METHOD_DEFAULT && r.rescale == UNMERGE_METHOD_DEFAULT);
  CHECK(r.weights == NULL && r.weights_stride == 0 && r.densities == NULL && r.densities_stride == 0);
  CHECK(r.density == 1 && r.gamma == 0.01 && r.epsilon == 0.15 && r.lambda == 1 && r.t == 0.5 && r.base_weight == 0);
  CHECK(r.stacked == 0 && r.reserved == 0);
  unmerge_replay_report p;
  memset(&p, 0x5a, sizeof p);
  CHECK(unmerge_replay_report_init(&p, sizeof p) == UNMERGE_OK && p.struct_size == sizeof p && p.entries == 0);
  CHECK(unmerge_recipe_init(NULL, sizeof r) == UNMERGE_E_NULL);
  CHECK(unmerge_recipe_init(&r, 0) == UNMERGE_E_VERSION);
  CHECK(unmerge_replay_report_init(NULL, sizeof p) == UNMERGE_E_NULL);
}

static void a_recipe_is_replayed(void) {
  merge *m = make();
  OK(replay(m), e);
  for (int i = 0; i < 3; i += 2) {
    const unmerge_replay_report *r = &m->reports[i];
    CHECK(r->struct_size == sizeof *r && r->entries == ROWS * COLS && r->equal == r->entries && r->near == r->entries);
    CHECK(r->consistent == r->entries && r->chance == 0 && r->tied == 0 && r->squared_difference == 0 && r->largest == 0);
  }
  CHECK(m->reports[1].entries == 0 && m->reports[1].equal == 0); /* no target there */
  m->weights[1] = 0.25;
  OK(replay(m), e);
  CHECK(m->reports[2].equal < ROWS * COLS / 2 && m->reports[2].largest > 0);
  /* 1 weight per module: only the first module's count here */
  m->weights[1] = 0.5;
  m->weights[K] = 17;
  m->recipe.weights_stride = K;
  OK(replay(m), e);
  CHECK(m->reports[2].equal == ROWS * COLS);
  free_merge(m);
}

static void merged_weights_are_written_anywhere(void) {
  merge *m = make();
  double out[ROWS * COLS];
  float narrow[COLS][2 * ROWS]; /* transposed, every second place */
  for (int i = 0; i < ROWS * COLS; i++) out[i] = -7;
  memset(narrow, 0x5a, sizeof narrow);
  unmerge_view v = view_of(out, UNMERGE_F64, 8), w = view_of(narrow, UNMERGE_F32, 4);
  w.strides[0] = 8, w.strides[1] = (int64_t)sizeof narrow[0];
  OK(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 0, &v, &e), e);
  OK(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 0, &w, &e), e);
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLS; j++) {
      CHECK(out[i * COLS + j] == of_bf16(m->merged[i * COLS + j]));
      CHECK(narrow[j][2 * i] == (float)out[i * COLS + j]);
    }
  out[0] = -7;
  REFUSED(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 1, &v, &e), e, UNMERGE_E_RANGE); /* no base there */
  NAMES(e, "two");
  REFUSED(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 2, &v, &e), e, UNMERGE_E_RANGE);
  REFUSED(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, -1, &v, &e), e, UNMERGE_E_RANGE);
  v.shape[1] -= 1;
  REFUSED(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 0, &v, &e), e, UNMERGE_E_SHAPE);
  unmerge_view half = view_of(m->merged, UNMERGE_BF16, 2);
  REFUSED(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 0, &half, &e), e, UNMERGE_E_DTYPE);
  CHECK(out[0] == -7);
  set(m->target, 1, 0, m->base, NULL); /* a base alone is enough to merge, but not to replay */
  v.shape[1] += 1;
  OK(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 1, &v, &e), e);
  CHECK(out[5] == of_bf16(m->merged[5]));
  REFUSED(replay(m), e, UNMERGE_E_RANGE);
  NAMES(e, "base");
  free_merge(m);
}

static void arguments_are_checked(void) {
  merge *m = make();
  double out[ROWS * COLS];
  unmerge_view v = view_of(out, UNMERGE_F64, 8);
  REFUSED(unmerge_replay(NULL, m->target, &m->recipe, NULL, m->reports, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_replay(m->atoms, NULL, &m->recipe, NULL, m->reports, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_replay(m->atoms, m->target, NULL, NULL, m->reports, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_replay(m->atoms, m->target, &m->recipe, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_merge(m->atoms, m->target, &m->recipe, NULL, 0, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_merge(m->atoms, m->target, NULL, NULL, 0, &v, &e), e, UNMERGE_E_NULL);
  m->recipe.weights = NULL;
  REFUSED(replay(m), e, UNMERGE_E_NULL);
  m->recipe.weights = m->weights;
  const unmerge_recipe good = m->recipe;
  const struct {
    size_t at;
    int32_t value;
    unmerge_status status;
  } bad[] = {
      {offsetof(unmerge_recipe, method), 0, UNMERGE_E_RANGE},     {offsetof(unmerge_recipe, method), 14, UNMERGE_E_RANGE},
      {offsetof(unmerge_recipe, dtype), UNMERGE_F64, UNMERGE_E_DTYPE}, {offsetof(unmerge_recipe, dtype), 9, UNMERGE_E_DTYPE},
      {offsetof(unmerge_recipe, out_dtype), -1, UNMERGE_E_DTYPE}, {offsetof(unmerge_recipe, task_dtype), 5, UNMERGE_E_DTYPE},
      {offsetof(unmerge_recipe, task_rounding), -1, UNMERGE_E_RANGE},
      {offsetof(unmerge_recipe, normalize), 2, UNMERGE_E_RANGE},
      {offsetof(unmerge_recipe, rescale), 3, UNMERGE_E_RANGE},    {offsetof(unmerge_recipe, consensus), 0, UNMERGE_E_RANGE},
      {offsetof(unmerge_recipe, stacked), 2, UNMERGE_E_RANGE},    {offsetof(unmerge_recipe, reserved), 1, UNMERGE_E_VERSION},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    memcpy((char *)&m->recipe + bad[i].at, &bad[i].value, sizeof(int32_t));
    REFUSED(replay(m), e, bad[i].status);
    m->recipe = good;
  }
  const size_t doubles_at[] = {offsetof(unmerge_recipe, density), offsetof(unmerge_recipe, gamma),
                               offsetof(unmerge_recipe, epsilon), offsetof(unmerge_recipe, lambda),
                               offsetof(unmerge_recipe, t),       offsetof(unmerge_recipe, base_weight)};
  const double never[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof doubles_at / sizeof *doubles_at; i++)
    for (int b = 0; b < 3; b++) {
      memcpy((char *)&m->recipe + doubles_at[i], &never[b], sizeof(double));
      REFUSED(replay(m), e, UNMERGE_E_RANGE);
      m->recipe = good;
    }
  const int64_t strides[] = {-1, 1, K - 1, INT64_MIN, INT64_MAX};
  for (int i = 0; i < 5; i++) {
    m->recipe.weights_stride = strides[i];
    REFUSED2(replay(m), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    m->recipe = good;
  }
  m->recipe.struct_size = 0;
  REFUSED(replay(m), e, UNMERGE_E_VERSION);
  m->recipe = good;
  m->reports[0].struct_size = 0;
  REFUSED(replay(m), e, UNMERGE_E_VERSION);
  unmerge_replay_report_init(m->reports, sizeof m->reports[0]);
  /* operators that do not fit */
  OK(unmerge_operator_add_column(m->target, "another", NULL, &e), e);
  REFUSED(replay(m), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_replay(m->atoms, m->atoms, &m->recipe, NULL, m->reports, &e), e, UNMERGE_E_SHAPE);
  OK(unmerge_operator_add_module(m->atoms, "three", 1, 1, NULL, &e), e);
  REFUSED(replay(m), e, UNMERGE_E_SHAPE);
  unmerge_operator *gone = m->target;
  unmerge_operator_destroy(gone);
  REFUSED(unmerge_replay(m->atoms, gone, &m->recipe, NULL, m->reports, &e), e, UNMERGE_E_HANDLE);
  free_merge(m);
}

static void a_double_target_needs_a_type(void) {
  merge *m = make();
  double wide[ROWS * COLS];
  for (int i = 0; i < ROWS * COLS; i++) wide[i] = of_bf16(m->merged[i]);
  unmerge_view v = view_of(wide, UNMERGE_F64, 8), b = view_of(m->base, UNMERGE_BF16, 2);
  OK(unmerge_operator_set_dense(m->target, 0, 0, &v, &b, 1, &e), e);
  REFUSED(replay(m), e, UNMERGE_E_DTYPE);
  m->recipe.dtype = UNMERGE_BF16;
  OK(replay(m), e);
  CHECK(m->reports[0].equal == ROWS * COLS);
  OK(unmerge_operator_set_dense(m->target, 0, 0, &v, &b, 2, &e), e); /* not stored weights */
  REFUSED(replay(m), e, UNMERGE_E_RANGE);
  free_merge(m);
}

static void every_method_ends_early_on_request(void) {
  merge *m = make();
  const int32_t stop = 1;
  unmerge_run run = new_run();
  run.cancel = &stop;
  for (int32_t kind = UNMERGE_MERGE_LINEAR; kind <= UNMERGE_MERGE_DELLA; kind++) {
    m->recipe.method = kind;
    m->recipe.density = 0.5;
    if (kind == UNMERGE_MERGE_SLERP || kind == UNMERGE_MERGE_NUSLERP) m->weights[0] = 0;
    REFUSED(unmerge_replay(m->atoms, m->target, &m->recipe, &run, m->reports, &e), e, UNMERGE_E_CANCELLED);
    CHECK(m->reports[0].entries == 0);
    OK(replay(m), e);
    CHECK(m->reports[0].entries == ROWS * COLS && m->reports[2].entries == ROWS * COLS);
    unmerge_replay_report_init(m->reports, sizeof m->reports[0]);
    m->weights[0] = 0.5;
  }
  run = new_run();
  run.deadline = 1e-9;
  m->recipe.method = UNMERGE_MERGE_TIES;
  REFUSED(unmerge_replay(m->atoms, m->target, &m->recipe, &run, m->reports, &e), e, UNMERGE_E_DEADLINE);
  free_merge(m);
}

/* Odd numbers: empty modules, zeros, values at the ends of the types. */
static void strange_data_is_data(void) {
  merge *m = make();
  const uint16_t strange[] = {0, 0x8000, 1, 0x8001, 0x7f7f, 0xff7f, 0x0080, 0x3f80};
  for (int i = 0; i < ROWS * COLS; i++) {
    m->model[0][i] = strange[i % 8];
    m->model[1][i] = strange[(i / 8) % 8];
  }
  for (int32_t kind = UNMERGE_MERGE_LINEAR; kind <= UNMERGE_MERGE_DELLA; kind++)
    for (int32_t dtype = 0; dtype <= UNMERGE_BF16; dtype++) {
      if (dtype == UNMERGE_F64) continue;
      m->recipe.method = kind, m->recipe.dtype = dtype, m->recipe.density = 0.5;
      m->weights[0] = kind == UNMERGE_MERGE_SLERP || kind == UNMERGE_MERGE_NUSLERP ? 0 : 0.5;
      OK(replay(m), e);
    }
  free_merge(m);
  unmerge_operator *a = NULL, *y = NULL;
  OK(unmerge_operator_create(&a, &e), e);
  OK(unmerge_operator_create(&y, &e), e);
  uint16_t nothing = 0;
  unmerge_view v = view_of(&nothing, UNMERGE_BF16, 2);
  unmerge_operator *const both[] = {a, y};
  for (int shape = 0; shape < 3; shape++) {
    const int64_t rows = shape == 0 ? 0 : 5, cols = shape == 1 ? 0 : shape == 2 ? 5 : 7;
    const char name[2] = {(char)('a' + shape), 0};
    v.shape[0] = rows, v.shape[1] = cols, v.strides[0] = v.strides[1] = 0;
    for (int i = 0; i < 2; i++) {
      OK(unmerge_operator_add_module(both[i], name, rows, cols, NULL, &e), e);
      if (shape == 0)
        for (int c = 0; c < 2 - i; c++) OK(unmerge_operator_add_column(both[i], c == 0 ? "x" : "z", NULL, &e), e);
      for (int c = 0; c < 2 - i; c++) OK(unmerge_operator_set_dense(both[i], shape, c, &v, &v, 1, &e), e);
    }
  }
  const double w[2] = {1, 1};
  unmerge_recipe r;
  unmerge_replay_report reports[4];
  for (int32_t kind = UNMERGE_MERGE_LINEAR; kind <= UNMERGE_MERGE_DELLA; kind++) {
    unmerge_recipe_init(&r, sizeof r);
    unmerge_replay_report_init(reports, sizeof reports[0]);
    r.method = kind, r.weights = w, r.density = 0.5;
    OK(unmerge_replay(a, y, &r, NULL, reports, &e), e);
    CHECKF(reports[3].entries == 25 && reports[3].consistent == 25, "(method %d)", (int)kind);
  }
  unmerge_operator_destroy(a);
  unmerge_operator_destroy(y);
}

MAIN(TEST(defaults), TEST(a_recipe_is_replayed), TEST(merged_weights_are_written_anywhere), TEST(arguments_are_checked),
     TEST(a_double_target_needs_a_type), TEST(every_method_ends_early_on_request), TEST(strange_data_is_data))
