/* Attribution at the door: what is required, what is refused, what is promised. */
#include "check.h"
#include <limits.h>
#include <pthread.h>

static _Thread_local unmerge_error e;
enum { MODULES = 4, ROWS = 48, COLS = 64, K = 5, RANK = 3, ENTRIES = ROWS * COLS };
static const double truth[K] = {0, 0.6, 0, 0.4, 0};

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

static unmerge_view view_of(void *data, int32_t dtype, int64_t size, int64_t rows, int64_t cols) {
  unmerge_view v;
  memset(&v, 0, sizeof v);
  v.data = data, v.dtype = dtype;
  v.shape[0] = rows, v.shape[1] = cols, v.strides[0] = cols * size, v.strides[1] = size;
  return v;
}

/* Adapters of rank 3 on four modules of a bfloat16 base; two of them were added with weights 0.6 and 0.4. */
typedef struct merge {
  uint16_t base[MODULES][ENTRIES], merged[MODULES][ENTRIES];
  float b[K][MODULES][ROWS * RANK], a[K][MODULES][RANK * COLS];
  unmerge_operator *atoms, *target;
  unmerge_attribution *found;
} merge;

static void add_modules(unmerge_operator *op) {
  for (int m = 0; m < MODULES; m++) {
    const char name[] = {'m', (char)('0' + m), 0};
    OK(unmerge_operator_add_module(op, name, ROWS, COLS, NULL, &e), e);
  }
}

static void set_target(unmerge_operator *op, int64_t column, merge *q, int m) {
  unmerge_view v = view_of(q->merged[m], UNMERGE_BF16, 2, ROWS, COLS), b = view_of(q->base[m], UNMERGE_BF16, 2, ROWS, COLS);
  OK(unmerge_operator_set_dense(op, m, column, &v, &b, 1, &e), e);
}

static void set_atom(unmerge_operator *op, merge *q, int m, int j) {
  unmerge_view b = view_of(q->b[j][m], UNMERGE_F32, 4, ROWS, RANK), a = view_of(q->a[j][m], UNMERGE_F32, 4, RANK, COLS);
  OK(unmerge_operator_set_lora(op, m, j, &b, &a, 1, &e), e);
}

static merge *make(void) {
  merge *q = calloc(1, sizeof *q);
  uint64_t state = 11;
  OK(unmerge_operator_create(&q->atoms, &e), e);
  OK(unmerge_operator_create(&q->target, &e), e);
  add_modules(q->atoms), add_modules(q->target);
  for (int j = 0; j < K; j++) {
    const char name[] = {'a', 't', 'o', 'm', (char)('A' + j), 0};
    OK(unmerge_operator_add_column(q->atoms, name, NULL, &e), e);
  }
  OK(unmerge_operator_add_column(q->target, "merged", NULL, &e), e);
  for (int m = 0; m < MODULES; m++) {
    for (int j = 0; j < K; j++) {
      for (int i = 0; i < ROWS * RANK; i++) q->b[j][m][i] = (float)(0.02 * noise(&state));
      for (int i = 0; i < RANK * COLS; i++) q->a[j][m][i] = (float)(0.2 * noise(&state));
      set_atom(q->atoms, q, m, j);
    }
    for (int i = 0; i < ENTRIES; i++) {
      q->base[m][i] = bf16(0.05 * noise(&state));
      double sum = 0; /* task arithmetic over stored bfloat16 task models; the sum in float32 */
      for (int j = 0; j < K; j++) {
        double d = 0;
        for (int r = 0; r < RANK; r++) d += (double)q->b[j][m][i / COLS * RANK + r] * q->a[j][m][r * COLS + i % COLS];
        const double model = of_bf16(bf16(of_bf16(q->base[m][i]) + d));
        sum += truth[j] * (model - of_bf16(q->base[m][i]));
      }
      q->merged[m][i] = bf16(of_bf16(q->base[m][i]) + sum);
    }
    set_target(q->target, 0, q, m);
  }
  if (failures > 0) _exit(1); /* nothing to test on */
  return q;
}

static unmerge_status attribute(merge *q, const unmerge_attribute_options *o, const unmerge_run *r) {
  return unmerge_attribute(q->atoms, q->target, o, r, &q->found, &e);
}

static merge *make_and_attribute(void) {
  merge *q = make();
  OK(attribute(q, NULL, NULL), e);
  if (failures > 0) _exit(1);
  return q;
}

static void free_merge(merge *q) {
  unmerge_attribution_destroy(q->found);
  unmerge_operator_destroy(q->atoms);
  unmerge_operator_destroy(q->target);
  free(q);
}

/* ---------------------------------------------------------------- what is answered */

static void defaults(void) {
  unmerge_attribute_options o;
  memset(&o, 0x5a, sizeof o);
  CHECK(unmerge_attribute_options_init(&o, sizeof o) == UNMERGE_OK && o.struct_size == sizeof o);
  CHECK(o.fdr == 0.05 && o.confidence == 0.9 && o.rows == 512 && o.bytes == (int64_t)400 << 20 && o.replay == 1);
  CHECK(o.reserved == 0);
  unmerge_attributed_atom a;
  memset(&a, 0x5a, sizeof a);
  CHECK(unmerge_attributed_atom_init(&a, sizeof a) == UNMERGE_OK && a.struct_size == sizeof a);
  CHECK(a.present == 0 && a.flags == 0 && a.weight == 0);
  unmerge_attribution_info i;
  memset(&i, 0x5a, sizeof i);
  CHECK(unmerge_attribution_info_init(&i, sizeof i) == UNMERGE_OK && i.struct_size == sizeof i);
  CHECK(i.atoms == 0 && i.method == 0 && i.complete == 0 && i.equal == 0 && i.compared == 0);
  CHECK(unmerge_attribute_options_init(NULL, sizeof o) == UNMERGE_E_NULL);
  CHECK(unmerge_attributed_atom_init(NULL, sizeof a) == UNMERGE_E_NULL);
  CHECK(unmerge_attribution_info_init(NULL, sizeof i) == UNMERGE_E_NULL);
  CHECK(unmerge_attribute_options_init(&o, 0) == UNMERGE_E_VERSION);
  CHECK(unmerge_attributed_atom_init(&a, 0) == UNMERGE_E_VERSION);
  CHECK(unmerge_attribution_info_init(&i, 0) == UNMERGE_E_VERSION);
}

static void a_merge_is_attributed(void) {
  merge *q = make_and_attribute();
  unmerge_attribution_info i;
  unmerge_attribution_info_init(&i, sizeof i);
  OK(unmerge_attribution_get_info(q->found, &i, &e), e);
  CHECK(i.atoms == K && i.modules == MODULES && i.entries == MODULES * ENTRIES);
  CHECKF(i.analysed > 0 && i.analysed <= i.entries, "(%lld)", (long long)i.analysed);
  CHECK(i.flags == UNMERGE_ATTRIBUTION_PROVED && i.weights_scale == UNMERGE_WEIGHTS_ABSOLUTE);
  CHECKF(i.equivalent >> i.method & 1 && i.equivalent >> UNMERGE_MERGE_TASK_ARITHMETIC & 1, "(%llx)", (long long)i.equivalent);
  CHECK(i.complete == 1 && i.has_recipe == 1 && isnan(i.density) && i.lambda == 1);
  CHECKF(i.compared == MODULES * ENTRIES && (double)i.equal > 0.97 * (double)i.compared, "(%lld)", (long long)i.equal);
  CHECKF(i.unexplained >= 0 && i.unexplained < 0.02 && i.noise > 0 && i.noise < 1, "(%g %g)", i.unexplained, i.noise);
  CHECK(i.condition >= 1 && i.condition < 10 && i.chance >= 0 && i.chance < 1 && i.seconds > 0);
  unmerge_attributed_atom atoms[K];
  unmerge_attributed_atom_init(atoms, sizeof atoms[0]);
  OK(unmerge_attribution_atoms(q->found, atoms, &e), e);
  for (int j = 0; j < K; j++) {
    const unmerge_attributed_atom *a = &atoms[j];
    CHECK(a->struct_size == sizeof *a && a->present == (truth[j] != 0) && a->flags == 0);
    CHECKF(fabs(a->weight - truth[j]) < (truth[j] != 0 ? 0.003 : 0.02), "(%d: %g)", j, a->weight);
    CHECKF(a->low <= a->weight && a->weight <= a->high, "(%d: %g %g %g)", j, a->low, a->weight, a->high);
    CHECK(a->p_value >= 0 && a->p_value <= 1 && a->q_value >= a->p_value && a->q_value <= 1);
    CHECK(a->present == 0 ? a->q_value > 0.05 : a->q_value <= 0.05);
    CHECK(a->evidence >= 0 && a->scatter >= 0 && fabs(a->nearest_cosine) <= 0.5);
    CHECK(a->nearest >= 0 && a->nearest < K && a->nearest != j);
  }
  double weights[K * MODULES], unexplained[MODULES];
  float narrow[MODULES][K]; /* transposed */
  unmerge_view wv = view_f64(weights, K, MODULES), nv = view_of(narrow, UNMERGE_F32, 4, K, MODULES);
  nv.strides[0] = 4, nv.strides[1] = 4 * K;
  OK(unmerge_attribution_modules(q->found, &wv, unexplained, &e), e);
  OK(unmerge_attribution_modules(q->found, &nv, NULL, &e), e);
  OK(unmerge_attribution_modules(q->found, NULL, NULL, &e), e);
  for (int m = 0; m < MODULES; m++) {
    CHECKF(unexplained[m] >= 0 && unexplained[m] < 0.1, "(%g)", unexplained[m]);
    for (int j = 0; j < K; j++) {
      if (truth[j] != 0) CHECKF(fabs(weights[j * MODULES + m] - truth[j]) < 0.05, "(%d, %d: %g)", j, m, weights[j * MODULES + m]);
      const float same = (float)weights[j * MODULES + m];
      CHECK(narrow[m][j] == same || (isnan(narrow[m][j]) && isnan(same)));
    }
  }
  free_merge(q);
}

/* The recipe borrows from the attribution, and only from it; replaying it gives the counts of the info. */
static void the_recipe_is_ready_for_use(void) {
  merge *q = make_and_attribute();
  unmerge_attribution_info i;
  unmerge_attribution_info_init(&i, sizeof i);
  OK(unmerge_attribution_get_info(q->found, &i, &e), e);
  unmerge_recipe r, again;
  unmerge_recipe_init(&r, sizeof r);
  unmerge_recipe_init(&again, sizeof again);
  OK(unmerge_attribution_recipe(q->found, &r, &e), e);
  OK(unmerge_attribution_recipe(q->found, &again, &e), e);
  CHECK(memcmp(&r, &again, sizeof r) == 0 && r.weights != NULL && r.method == i.method && r.lambda == i.lambda);
  for (int j = 0; j < K; j++) CHECKF(fabs(r.weights[j] - truth[j]) < 0.003, "(%g)", r.weights[j]);
  unmerge_replay_report reports[MODULES + 1];
  unmerge_replay_report_init(reports, sizeof reports[0]);
  OK(unmerge_replay(q->atoms, q->target, &r, NULL, reports, &e), e);
  CHECK(reports[MODULES].equal == i.equal && reports[MODULES].entries == i.compared);
  double out[ENTRIES], same = 0;
  unmerge_view v = view_f64(out, ROWS, COLS);
  OK(unmerge_merge(q->atoms, q->target, &r, NULL, 2, &v, &e), e);
  for (int x = 0; x < ENTRIES; x++) same += out[x] == of_bf16(q->merged[2][x]);
  CHECK(same == (double)reports[2].equal);
  unmerge_operator_destroy(q->atoms), unmerge_operator_destroy(q->target); /* the answer needs the data no longer */
  q->atoms = q->target = NULL;
  for (int j = 0; j < K; j++) CHECK(r.weights[j] == again.weights[j] && isfinite(r.weights[j]));
  OK(unmerge_attribution_recipe(q->found, &again, &e), e);
  CHECK(memcmp(&r, &again, sizeof r) == 0);
  free_merge(q);
}

static void names_of_methods(void) {
  CHECK(strcmp(unmerge_merge_name(UNMERGE_MERGE_LINEAR), "linear") == 0);
  CHECK(strcmp(unmerge_merge_name(UNMERGE_MERGE_TASK_ARITHMETIC), "task_arithmetic") == 0);
  CHECK(strcmp(unmerge_merge_name(UNMERGE_MERGE_DARE_TIES), "dare_ties") == 0);
  CHECK(strcmp(unmerge_merge_name(UNMERGE_MERGE_ADAPTER_CAT), "adapter_cat") == 0);
  CHECK(strcmp(unmerge_merge_name(0), "unknown") == 0);
  const int32_t others[] = {-1, 99, INT32_MIN, INT32_MAX};
  for (int i = 0; i < 4; i++) CHECK(strcmp(unmerge_merge_name(others[i]), "unknown") == 0);
}

/* ---------------------------------------------------------------- what is refused */

static void null_arguments(void) {
  merge *q = make_and_attribute();
  unmerge_attribution *out = NULL, *const f = q->found;
  unmerge_attribution_info i;
  unmerge_attributed_atom atoms[K];
  unmerge_recipe r;
  unmerge_attribution_info_init(&i, sizeof i);
  unmerge_attributed_atom_init(atoms, sizeof atoms[0]);
  unmerge_recipe_init(&r, sizeof r);
  REFUSED(unmerge_attribute(NULL, q->target, NULL, NULL, &out, &e), e, UNMERGE_E_NULL);
  NAMES(e, "atoms");
  REFUSED(unmerge_attribute(q->atoms, NULL, NULL, NULL, &out, &e), e, UNMERGE_E_NULL);
  NAMES(e, "target");
  REFUSED(unmerge_attribute(q->atoms, q->target, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  NAMES(e, "out");
  REFUSED(unmerge_attribution_get_info(NULL, &i, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_attribution_get_info(f, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_attribution_atoms(NULL, atoms, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_attribution_atoms(f, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_attribution_modules(NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_attribution_recipe(NULL, &r, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_attribution_recipe(f, NULL, &e), e, UNMERGE_E_NULL);
  CHECK(out == NULL && r.weights == NULL && i.atoms == 0 && atoms[0].weight == 0);
  /* error may be NULL, in refusal and in success */
  CHECK(unmerge_attribute(NULL, q->target, NULL, NULL, &out, NULL) == UNMERGE_E_NULL);
  CHECK(unmerge_attribute(q->atoms, q->target, NULL, NULL, &out, NULL) == UNMERGE_OK && out != NULL);
  CHECK(unmerge_attribution_get_info(out, &i, NULL) == UNMERGE_OK && i.atoms == K);
  unmerge_attribution_destroy(out);
  unmerge_attribution_destroy(NULL);
  free_merge(q);
}

static void refuse_attribution(unmerge_attribution *h) {
  unmerge_attribution_info i;
  unmerge_attributed_atom atoms[K];
  unmerge_recipe r;
  unmerge_attribution_info_init(&i, sizeof i);
  unmerge_attributed_atom_init(atoms, sizeof atoms[0]);
  unmerge_recipe_init(&r, sizeof r);
  double w[K * MODULES];
  unmerge_view v = view_f64(w, K, MODULES);
  REFUSED(unmerge_attribution_get_info(h, &i, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_attribution_atoms(h, atoms, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_attribution_modules(h, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_attribution_recipe(h, &r, &e), e, UNMERGE_E_HANDLE);
  unmerge_attribution_destroy(h);
}

static void stale_and_foreign_handles(void) {
  merge *q = make_and_attribute();
  unmerge_attribution *out = NULL, *const gone = q->found;
  unmerge_attribution_destroy(gone);
  refuse_attribution(gone);
  refuse_attribution((void *)q->atoms);
  refuse_attribution((void *)(uintptr_t)0x1234567);
  refuse_attribution((void *)q);
  OK(attribute(q, NULL, NULL), e); /* the slot is used again */
  CHECK(q->found != gone);
  refuse_attribution(gone);
  REFUSED(unmerge_attribute((void *)q->found, q->target, NULL, NULL, &out, &e), e, UNMERGE_E_HANDLE);
  NAMES(e, "atoms");
  REFUSED(unmerge_attribute(q->atoms, (void *)q->found, NULL, NULL, &out, &e), e, UNMERGE_E_HANDLE);
  NAMES(e, "target");
  unmerge_operator *const target = q->target;
  unmerge_operator_destroy(target);
  REFUSED(attribute(q, NULL, NULL), e, UNMERGE_E_HANDLE);
  q->target = NULL;
  CHECK(out == NULL);
  free_merge(q);
}

static void ranges_of_options(void) {
  merge *q = make();
  unmerge_attribute_options o;
  unmerge_attribute_options_init(&o, sizeof o);
  const unmerge_attribute_options good = o;
  const double outside[] = {0, 1, -0.1, 1.5, NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 7; i++)
    for (int which = 0; which < 2; which++) {
      *(which == 0 ? &o.fdr : &o.confidence) = outside[i];
      if (REFUSED(attribute(q, &o, NULL), e, UNMERGE_E_RANGE)) NAMES(e, which == 0 ? "fdr" : "confidence");
      o = good;
    }
  const int64_t rows[] = {15, 0, -1, INT64_MIN}, bytes[] = {(1 << 20) - 1, 0, -1, INT64_MIN};
  for (int i = 0; i < 4; i++) {
    o.rows = rows[i];
    if (REFUSED(attribute(q, &o, NULL), e, UNMERGE_E_RANGE)) NAMES(e, "rows");
    o = good;
    o.bytes = bytes[i];
    if (REFUSED(attribute(q, &o, NULL), e, UNMERGE_E_RANGE)) NAMES(e, "bytes");
    o = good;
  }
  const int32_t flags[] = {-1, 2, INT32_MAX};
  for (int i = 0; i < 3; i++) {
    o.replay = flags[i];
    if (REFUSED(attribute(q, &o, NULL), e, UNMERGE_E_RANGE)) NAMES(e, "replay");
    o = good;
  }
  o.reserved = 1;
  REFUSED(attribute(q, &o, NULL), e, UNMERGE_E_VERSION);
  CHECK(q->found == NULL);
  /* The ends of the ranges are inside. */
  o = good;
  o.fdr = DBL_MIN, o.confidence = 1 - DBL_EPSILON, o.rows = 16, o.bytes = 1 << 20, o.replay = 0;
  OK(attribute(q, &o, NULL), e);
  unmerge_attribution_destroy(q->found);
  o.fdr = 1 - DBL_EPSILON, o.confidence = DBL_MIN, o.rows = INT64_MAX, o.bytes = INT64_MAX, o.replay = 1;
  OK(attribute(q, &o, NULL), e);
  free_merge(q);
}

static void structs_of_other_versions(void) {
  merge *q = make_and_attribute();
  enum { SURPLUS = 40 };
  union {
    size_t struct_size;
    unmerge_attribute_options options;
    unmerge_attribution_info info;
    unmerge_recipe recipe;
    unsigned char bytes[K * (sizeof(unmerge_attributed_atom) + sizeof(unmerge_recipe))];
  } u;
  unmerge_attribution *out = NULL;
  /* size 0, sizes never prepared */
  const size_t bad[] = {0, 4, (size_t)-1, (size_t)1 << 62};
  for (int i = 0; i < 4; i++) {
    memset(&u, 0x5a, sizeof u);
    u.struct_size = bad[i];
    REFUSED(unmerge_attribute(q->atoms, q->target, (void *)&u, NULL, &out, &e), e, UNMERGE_E_VERSION);
    REFUSED(unmerge_attribution_get_info(q->found, (void *)&u, &e), e, UNMERGE_E_VERSION);
    REFUSED(unmerge_attribution_atoms(q->found, (void *)&u, &e), e, UNMERGE_E_VERSION);
    REFUSED(unmerge_attribution_recipe(q->found, (void *)&u, &e), e, UNMERGE_E_VERSION);
    for (size_t b = sizeof(size_t); b < sizeof u; b++) CHECK(u.bytes[b] == 0x5a);
  }
  CHECK(out == NULL);
  /* options: older */
  memset(&u, 0x5a, sizeof u);
  u.struct_size = offsetof(unmerge_attribute_options, confidence);
  u.options.fdr = 0.02;
  OK(unmerge_attribute(q->atoms, q->target, &u.options, NULL, &out, &e), e);
  unmerge_attribution_destroy(out), out = NULL;
  /* options: newer, with what this library does not know zero and not zero */
  memset(&u, 0, sizeof u);
  unmerge_attribute_options_init(&u.options, sizeof u.options + SURPLUS);
  OK(unmerge_attribute(q->atoms, q->target, &u.options, NULL, &out, &e), e);
  unmerge_attribution_destroy(out), out = NULL;
  u.bytes[sizeof u.options + 7] = 1;
  REFUSED(unmerge_attribute(q->atoms, q->target, &u.options, NULL, &out, &e), e, UNMERGE_E_VERSION);
  CHECK(out == NULL);
  /* results: older ones get what they have room for, newer ones zeros behind it or nothing */
  unmerge_attribution_info i;
  unmerge_attribution_info_init(&i, sizeof i);
  OK(unmerge_attribution_get_info(q->found, &i, &e), e);
  memset(&u, 0x5a, sizeof u);
  u.struct_size = offsetof(unmerge_attribution_info, flags);
  OK(unmerge_attribution_get_info(q->found, &u.info, &e), e);
  const size_t begin = sizeof(size_t), end = offsetof(unmerge_attribution_info, flags);
  CHECK(memcmp(u.bytes + begin, (unsigned char *)&i + begin, end - begin) == 0);
  for (size_t b = offsetof(unmerge_attribution_info, flags); b < sizeof u; b++) CHECK(u.bytes[b] == 0x5a);
  memset(&u, 0, sizeof u);
  unmerge_attribution_info_init(&u.info, sizeof i + SURPLUS);
  OK(unmerge_attribution_get_info(q->found, &u.info, &e), e);
  CHECK(u.struct_size == sizeof i + SURPLUS && u.info.atoms == K && u.info.method == i.method && u.info.seconds == i.seconds);
  for (size_t b = sizeof i; b < sizeof u; b++) CHECK(u.bytes[b] == 0);

  unmerge_recipe r;
  unmerge_recipe_init(&r, sizeof r);
  OK(unmerge_attribution_recipe(q->found, &r, &e), e);
  memset(&u, 0x5a, sizeof u);
  u.struct_size = offsetof(unmerge_recipe, density);
  OK(unmerge_attribution_recipe(q->found, &u.recipe, &e), e);
  CHECK(u.recipe.method == r.method && u.recipe.weights == r.weights);
  for (size_t b = offsetof(unmerge_recipe, density); b < sizeof u; b++) CHECK(u.bytes[b] == 0x5a);
  memset(&u, 0, sizeof u);
  unmerge_recipe_init(&u.recipe, sizeof r + SURPLUS);
  OK(unmerge_attribution_recipe(q->found, &u.recipe, &e), e);
  CHECK(u.struct_size == sizeof r + SURPLUS && u.recipe.method == r.method && u.recipe.lambda == r.lambda);

  unmerge_attributed_atom atoms[K], a;
  unmerge_attributed_atom_init(atoms, sizeof a);
  OK(unmerge_attribution_atoms(q->found, atoms, &e), e);
  const size_t steps[] = {sizeof a + SURPLUS, offsetof(unmerge_attributed_atom, p_value)};
  for (int s = 0; s < 2; s++) { /* the size is the distance */
    memset(&u, s == 0 ? 0 : 0x5a, sizeof u);
    u.struct_size = steps[s];
    OK(unmerge_attribution_atoms(q->found, (void *)&u, &e), e);
    const size_t known = steps[s] < sizeof a ? steps[s] : sizeof a;
    for (size_t j = 0; j < K; j++) {
      memcpy(&a, u.bytes + j * steps[s], known);
      CHECK(a.struct_size == steps[s]);
      CHECK(memcmp((char *)&a + sizeof(size_t), (char *)&atoms[j] + sizeof(size_t), known - sizeof(size_t)) == 0);
    }
    for (size_t b = K * steps[s]; b < sizeof u; b++) CHECK(u.bytes[b] == (s == 0 ? 0 : 0x5a));
  }
  unmerge_run run = new_run();
  run.struct_size = 0;
  REFUSED(unmerge_attribute(q->atoms, q->target, NULL, &run, &out, &e), e, UNMERGE_E_VERSION);
  CHECK(out == NULL);
  free_merge(q);
}

static void operators_that_do_not_fit(void) {
  merge *q = make();
  unmerge_attribution *out = NULL;
  unmerge_operator *none = NULL, *empty = NULL, *other = NULL;
  OK(unmerge_operator_create(&none, &e), e);
  add_modules(none);
  REFUSED(unmerge_attribute(none, q->target, NULL, NULL, &out, &e), e, UNMERGE_E_SHAPE); /* no atoms */
  REFUSED(unmerge_attribute(q->atoms, none, NULL, NULL, &out, &e), e, UNMERGE_E_SHAPE);  /* no target */
  REFUSED(unmerge_attribute(q->atoms, q->atoms, NULL, NULL, &out, &e), e, UNMERGE_E_SHAPE);
  OK(unmerge_operator_add_column(q->target, "another", NULL, &e), e);
  REFUSED(attribute(q, NULL, NULL), e, UNMERGE_E_SHAPE); /* two targets */
  NAMES(e, "2");
  OK(unmerge_operator_create(&empty, &e), e);
  OK(unmerge_operator_add_column(empty, "x", NULL, &e), e);
  REFUSED(unmerge_attribute(q->atoms, empty, NULL, NULL, &out, &e), e, UNMERGE_E_SHAPE);
  REFUSED(unmerge_attribute(empty, empty, NULL, NULL, &out, &e), e, UNMERGE_E_SHAPE); /* no modules at all */
  for (int what = 0; what < 4; what++) { /* fewer, another name, transposed, another order */
    OK(unmerge_operator_create(&other, &e), e);
    OK(unmerge_operator_add_column(other, "y", NULL, &e), e);
    for (int m = 0; m < MODULES - (what == 0); m++) {
      const char name[] = {what == 1 ? 'n' : 'm', (char)('0' + (what == 3 ? MODULES - 1 - m : m)), 0};
      OK(unmerge_operator_add_module(other, name, what == 2 ? COLS : ROWS, what == 2 ? ROWS : COLS, NULL, &e), e);
    }
    REFUSED(unmerge_attribute(q->atoms, other, NULL, NULL, &out, &e), e, UNMERGE_E_SHAPE);
    unmerge_operator_destroy(other);
  }
  CHECK(out == NULL);
  unmerge_operator_destroy(none), unmerge_operator_destroy(empty);
  free_merge(q);
}

static void views_of_results(void) {
  merge *q = make_and_attribute();
  double w[K * MODULES], unexplained[MODULES] = {-7, -7, -7, -7};
  for (int i = 0; i < K * MODULES; i++) w[i] = -7;
  unmerge_view v = view_f64(w, K, MODULES);
  v.shape[0] -= 1;
  REFUSED(unmerge_attribution_modules(q->found, &v, unexplained, &e), e, UNMERGE_E_SHAPE);
  v.shape[0] += 1, v.shape[1] -= 1;
  REFUSED(unmerge_attribution_modules(q->found, &v, unexplained, &e), e, UNMERGE_E_SHAPE);
  v.shape[1] += 1, v.dtype = UNMERGE_BF16;
  REFUSED(unmerge_attribution_modules(q->found, &v, unexplained, &e), e, UNMERGE_E_DTYPE);
  v.dtype = UNMERGE_F64, v.data = NULL;
  REFUSED(unmerge_attribution_modules(q->found, &v, unexplained, &e), e, UNMERGE_E_NULL);
  v.data = w, v.strides[0] = 0;
  REFUSED3(unmerge_attribution_modules(q->found, &v, unexplained, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  for (int i = 0; i < K * MODULES; i++) CHECK(w[i] == -7);
  for (int i = 0; i < MODULES; i++) CHECK(unexplained[i] == -7);
  free_merge(q);
}

static void data_that_is_not_finite(void) {
  merge *q = make();
  const uint16_t never[] = {0x7fc0, 0x7f80, 0xff80}; /* NaN, infinity, -infinity */
  for (int i = 0; i < 3; i++) {
    uint16_t *const spots[] = {&q->merged[2][17 * COLS + 5], &q->base[2][17 * COLS + 5]};
    for (int s = 0; s < 2; s++) {
      const uint16_t kept = *spots[s];
      *spots[s] = never[i];
      if (REFUSED(attribute(q, NULL, NULL), e, UNMERGE_E_NONFINITE)) {
        NAMES(e, "row 17");
        NAMES(e, "m2");
        NAMES(e, "merged");
      }
      *spots[s] = kept;
    }
    const float bad = i == 0 ? NAN : i == 1 ? INFINITY : -INFINITY;
    float *const factors[] = {&q->b[3][1][31 * RANK + 1], &q->a[3][1][2 * COLS + 40]};
    for (int s = 0; s < 2; s++) {
      const float kept = *factors[s];
      *factors[s] = bad;
      if (REFUSED(attribute(q, NULL, NULL), e, UNMERGE_E_NONFINITE)) {
        NAMES(e, s == 0 ? "row 31" : "row 2");
        NAMES(e, "m1");
        NAMES(e, "atomD");
      }
      *factors[s] = kept;
    }
  }
  CHECK(q->found == NULL);
  OK(attribute(q, NULL, NULL), e);
  free_merge(q);
}

/* ---------------------------------------------------------------- stopping */

static int32_t flag;
static void *set_flag_soon(void *delay) {
  usleep((useconds_t)*(int *)delay);
  __atomic_store_n(&flag, 1, __ATOMIC_RELAXED);
  return NULL;
}

static void cancelled_before(void) {
  merge *q = make();
  flag = 1;
  unmerge_run r = new_run();
  r.cancel = &flag;
  REFUSED(attribute(q, NULL, &r), e, UNMERGE_E_CANCELLED);
  r = new_run();
  r.deadline = 1e-9;
  REFUSED(attribute(q, NULL, &r), e, UNMERGE_E_DEADLINE);
  CHECK(q->found == NULL);
  free_merge(q);
}

/* Modules that are one number in memory: reading them takes hours. */
static void cancelled_in_the_pass(void) {
  static double one = 1;
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_attribution *out = NULL;
  unmerge_view v = broadcast_f64(&one, (int64_t)1 << 34, 64), f = broadcast_f64(&one, (int64_t)1 << 34, 4),
               g = broadcast_f64(&one, 4, 64);
  for (int kind = 0; kind < 2; kind++) {
    OK(unmerge_operator_create(&a, &e), e);
    OK(unmerge_operator_create(&y, &e), e);
    unmerge_operator *const both[] = {a, y};
    for (int i = 0; i < 2; i++) {
      OK(unmerge_operator_add_module(both[i], "m", v.shape[0], v.shape[1], NULL, &e), e);
      OK(unmerge_operator_add_column(both[i], "x", NULL, &e), e);
    }
    if (kind == 0) OK(unmerge_operator_set_dense(a, 0, 0, &v, NULL, 2, &e), e);
    else OK(unmerge_operator_set_lora(a, 0, 0, &f, &g, 2, &e), e);
    OK(unmerge_operator_set_dense(y, 0, 0, &v, NULL, 1, &e), e);
    unmerge_run r = new_run();
    r.cancel = &flag;
    flag = 0;
    int delay = 100000;
    pthread_t thread;
    pthread_create(&thread, NULL, set_flag_soon, &delay);
    double start = seconds_now();
    REFUSED(unmerge_attribute(a, y, NULL, &r, &out, &e), e, UNMERGE_E_CANCELLED);
    CHECKF(seconds_now() - start < 2, "(%.3f s)", seconds_now() - start);
    pthread_join(thread, NULL);
    r = new_run();
    r.deadline = 0.1;
    start = seconds_now();
    REFUSED(unmerge_attribute(a, y, NULL, &r, &out, &e), e, UNMERGE_E_DEADLINE);
    CHECKF(seconds_now() - start < 2 && seconds_now() - start >= 0.099, "(%.3f s)", seconds_now() - start);
    unmerge_operator_destroy(a), unmerge_operator_destroy(y);
  }
  CHECK(out == NULL);
}

/* Whenever it is stopped: it ends soon, and there is no answer; or it had finished. */
static void stopped_anywhere(void) {
  merge *q = make();
  double start, whole = INFINITY; /* the least of some: the first takes longer, and others use the machine */
  for (int i = 0; i < 5; i++) {
    start = seconds_now();
    OK(attribute(q, NULL, NULL), e);
    whole = fmin(whole, seconds_now() - start);
    unmerge_attribution_destroy(q->found);
  }
  int stopped = 0;
  for (int i = 1; i < 24; i++) {
    q->found = NULL;
    unmerge_run r = new_run();
    r.deadline = whole * i / 24;
    start = seconds_now();
    const unmerge_status s = attribute(q, NULL, &r);
    CHECKF(s == UNMERGE_OK || s == UNMERGE_E_DEADLINE, "(%s)", unmerge_status_name(s));
    CHECK((s == UNMERGE_OK) == (q->found != NULL));
    CHECKF(seconds_now() - start < r.deadline + 1, "(%.3f s instead of %.3f)", seconds_now() - start, r.deadline);
    stopped += s == UNMERGE_E_DEADLINE;
    unmerge_attribution_destroy(q->found);
  }
  q->found = NULL;
  CHECKF(stopped > 4, "(%d)", stopped);
  free_merge(q);
}

typedef struct seen {
  int calls, wrong, stop_at;
  pthread_t thread;
} seen;

static int32_t watch(void *user, const unmerge_progress *p) {
  seen *s = user;
  s->calls++;
  s->wrong += p->struct_size < sizeof *p || (p->phase != UNMERGE_PHASE_PASS && p->phase != UNMERGE_PHASE_SOLVE);
  s->wrong += p->done < 0 || p->done > p->total || p->total <= 0 || !pthread_equal(pthread_self(), s->thread);
  return s->calls == s->stop_at;
}

static void progress_is_told(void) {
  merge *q = make();
  for (int stop = 0; stop < 2; stop++) {
    seen s = {0, 0, stop, pthread_self()};
    unmerge_run r = new_run();
    r.progress = watch, r.progress_user = &s;
    q->found = NULL;
    const unmerge_status status = attribute(q, NULL, &r);
    CHECKF(status == (s.calls > 0 && stop ? UNMERGE_E_CANCELLED : UNMERGE_OK), "(%s)", unmerge_status_name(status));
    CHECK(s.wrong == 0 && (status == UNMERGE_OK) == (q->found != NULL));
    unmerge_attribution_destroy(q->found);
  }
  q->found = NULL;
  free_merge(q);
}

/* ---------------------------------------------------------------- the same bits, and no more memory */

typedef struct answer {
  unmerge_attribution_info info;
  unmerge_attributed_atom atoms[K];
  double weights[K * MODULES], unexplained[MODULES], recipe[K];
} answer;

static answer ask(merge *q, int32_t threads) {
  answer a;
  memset(&a, 0, sizeof a);
  unmerge_attribution_info_init(&a.info, sizeof a.info);
  unmerge_attributed_atom_init(a.atoms, sizeof a.atoms[0]);
  unmerge_run r = new_run();
  r.threads = threads, r.seed = 5;
  OK(attribute(q, NULL, &r), e);
  OK(unmerge_attribution_get_info(q->found, &a.info, &e), e);
  OK(unmerge_attribution_atoms(q->found, a.atoms, &e), e);
  unmerge_view v = view_f64(a.weights, K, MODULES);
  OK(unmerge_attribution_modules(q->found, &v, a.unexplained, &e), e);
  unmerge_recipe recipe;
  unmerge_recipe_init(&recipe, sizeof recipe);
  OK(unmerge_attribution_recipe(q->found, &recipe, &e), e);
  memcpy(a.recipe, recipe.weights, sizeof a.recipe);
  unmerge_attribution_destroy(q->found);
  q->found = NULL;
  a.info.seconds = 0;
  return a;
}

static void same_bits_for_any_number_of_threads(void) {
  merge *q = make();
  const answer one = ask(q, 1);
  const int32_t threads[] = {2, 5, 0, 1};
  for (int i = 0; i < 4; i++) {
    const answer other = ask(q, threads[i]);
    CHECKF(memcmp(&one, &other, sizeof one) == 0, "(%d threads)", (int)threads[i]);
  }
  free_merge(q);
}

typedef struct shared {
  merge *q;
  answer a;
} shared;

static void *ask_beside(void *user) {
  shared *s = user;
  merge own = {.atoms = s->q->atoms, .target = s->q->target};
  s->a = ask(&own, 1);
  return NULL;
}

static void threads_share_operators(void) {
  merge *q = make();
  const answer alone = ask(q, 1);
  enum { N = 4 };
  static shared s[N];
  pthread_t threads[N];
  for (int i = 0; i < N; i++) {
    s[i].q = q;
    pthread_create(&threads[i], NULL, ask_beside, &s[i]);
  }
  for (int i = 0; i < N; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < N; i++) CHECK(memcmp(&alone, &s[i].a, sizeof alone) == 0);
  free_merge(q);
}

static void memory_comes_back(void) {
  if (SANITIZED) return;
  merge *q = make();
  long least[2] = {LONG_MAX, LONG_MAX}; /* of two stretches, settled: a block of 1 MB comes and goes */
  for (int i = 0; i < 60; i++) {
    ask(q, 1);
    unmerge_run r = new_run();
    r.threads = 1, r.deadline = 0.001 * (i % 10 + 1); /* refusals give theirs back too */
    if (attribute(q, NULL, &r) == UNMERGE_OK) unmerge_attribution_destroy(q->found);
    q->found = NULL;
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld %ld", &pages, &resident) != 2) return;
    fclose(f);
    if (i >= 10 && resident < least[i / 30]) least[i / 30] = resident;
  }
  CHECKF(least[1] - least[0] < 128, "(%ld pages more after 30 rounds)", least[1] - least[0]); /* 512 kB */
  free_merge(q);
}

/* Two threads of a forked child meet in code that runs for the first time. Swift's runtime, left alone, takes the child for its
 * parent there, and one child in twenty hangs. */
static pthread_barrier_t together;

static void *attribute_together(void *user) {
  const merge *q = user;
  unmerge_attribution *found = NULL;
  unmerge_error err;
  unmerge_run r = new_run();
  r.threads = 1;
  pthread_barrier_wait(&together);
  OK(unmerge_attribute(q->atoms, q->target, NULL, &r, &found, &err), err);
  unmerge_attribution_destroy(found);
  return NULL;
}

static void threads_of_a_forked_child(void) {
  merge *q = make();
  enum { CHILDREN = 100 };
  int hung = 0;
  for (int i = 0; i < CHILDREN && hung < 3; i++) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(SANITIZED ? 30 : 10);
      pthread_t thread;
      pthread_barrier_init(&together, NULL, 2);
      pthread_create(&thread, NULL, attribute_together, q);
      attribute_together(q);
      pthread_join(thread, NULL);
      _exit(failures != 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    hung += status != 0;
  }
  CHECKF(hung == 0, "(%d children)", hung);
  free_merge(q);
}

MAIN(TEST(defaults), TEST(a_merge_is_attributed), TEST(the_recipe_is_ready_for_use), TEST(names_of_methods), TEST(null_arguments),
     TEST(stale_and_foreign_handles), TEST(ranges_of_options), TEST(structs_of_other_versions), TEST(operators_that_do_not_fit),
     TEST(views_of_results), TEST(data_that_is_not_finite), TEST(cancelled_before), TEST(cancelled_in_the_pass),
     TEST(stopped_anywhere), TEST(progress_is_told), TEST(same_bits_for_any_number_of_threads), TEST(threads_share_operators),
     TEST(memory_comes_back), TEST(threads_of_a_forked_child))
