/* Models: the contract of everything with a state. */
#include "check.h"
#include <malloc.h>
#include <pthread.h>

static unmerge_error e;
enum { P = 23, T = 17, K = 3 };

/* ---------------------------------------------------------------- the kinds, as one table */

static double data[P * T];

static unmerge_view x_view(void) {
  uint64_t state = 11;
  for (int i = 0; i < P * T; i++) data[i] = fabs(noise(&state)) + 0.01;
  return view_f64(data, P, T);
}

static unmerge_nmf_options nmf(int32_t algorithm, int32_t loss) {
  unmerge_nmf_options o;
  unmerge_nmf_options_init(&o, sizeof o);
  o.components = K, o.algorithm = algorithm, o.loss = loss;
  return o;
}

static unmerge_model *make_nmf(int32_t algorithm, int32_t loss) {
  const unmerge_nmf_options o = nmf(algorithm, loss);
  const unmerge_view x = x_view();
  unmerge_model *m = NULL;
  OK(unmerge_nmf_create(&x, &o, NULL, &m, &e), e);
  return m;
}
static unmerge_model *make_hals(void) { return make_nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS); }
static unmerge_model *make_anls(void) { return make_nmf(UNMERGE_NMF_ANLS, UNMERGE_LOSS_FROBENIUS); }
static unmerge_model *make_mu(void) { return make_nmf(UNMERGE_NMF_MU, UNMERGE_LOSS_FROBENIUS); }
static unmerge_model *make_kl(void) { return make_nmf(UNMERGE_NMF_MU, UNMERGE_LOSS_KL); }
static unmerge_model *make_projected(void) { return make_nmf(UNMERGE_NMF_PROJECTED, UNMERGE_LOSS_FROBENIUS); }
static unmerge_model *make_online(void) {
  unmerge_online_nmf_options o;
  unmerge_online_nmf_options_init(&o, sizeof o);
  o.components = K, o.batch = 5;
  const unmerge_view x = x_view();
  unmerge_model *m = NULL;
  OK(unmerge_online_nmf_create(&x, &o, NULL, &m, &e), e);
  return m;
}

typedef struct model_kind {
  const char *name;
  int32_t kind;
  int64_t columns; /* as info says: 0 where codes are not kept */
  unmerge_model *(*make)(void);
} model_kind;
static const model_kind kinds[] = {
    {"hals", UNMERGE_MODEL_NMF, T, make_hals},           {"anls", UNMERGE_MODEL_NMF, T, make_anls},
    {"mu", UNMERGE_MODEL_NMF, T, make_mu},               {"kl", UNMERGE_MODEL_NMF, T, make_kl},
    {"projected", UNMERGE_MODEL_NMF, T, make_projected}, {"online", UNMERGE_MODEL_ONLINE_NMF, 0, make_online},
};
enum { KINDS = sizeof kinds / sizeof *kinds };
#define EACH_KIND(k) for (const model_kind *k = kinds; k < kinds + KINDS; k++)

/* ---------------------------------------------------------------- short hands */

static unmerge_run steps(int64_t n) {
  unmerge_run r = new_run();
  r.max_iter = n, r.tol = 1e-15;
  return r;
}

static void step(unmerge_model *m, int64_t n) {
  const unmerge_view x = x_view();
  const unmerge_run r = steps(n);
  OK(unmerge_model_step(m, &x, &r, NULL, &e), e);
}

static unmerge_model_info info_of(unmerge_model *m) {
  unmerge_model_info info;
  unmerge_model_info_init(&info, sizeof info);
  OK(unmerge_model_get_info(m, &info, &e), e);
  return info;
}

typedef struct saved {
  int64_t size;
  unsigned char *bytes;
} saved;

static saved save(const unmerge_model *m) {
  saved s = {-1, NULL};
  OK(unmerge_model_saved_size(m, &s.size, &e), e);
  CHECK(s.size > 0);
  s.bytes = malloc(s.size > 0 ? (size_t)s.size : 1);
  OK(unmerge_model_save(m, s.bytes, s.size, &e), e);
  return s;
}

static bool same_bytes(saved a, saved b) { return a.size == b.size && memcmp(a.bytes, b.bytes, (size_t)a.size) == 0; }

static bool is_as(const unmerge_model *m, saved before) {
  saved now = save(m);
  const bool same = same_bytes(now, before);
  free(now.bytes);
  return same;
}

/* ---------------------------------------------------------------- structs */

static void defaults(void) {
  unmerge_nmf_options o;
  memset(&o, 0x5a, sizeof o);
  CHECK(unmerge_nmf_options_init(&o, sizeof o) == UNMERGE_OK);
  CHECK(o.struct_size == sizeof o && o.components == 1 && o.algorithm == UNMERGE_NMF_HALS && o.loss == UNMERGE_LOSS_FROBENIUS);
  CHECK(o.init == UNMERGE_INIT_AUTO && o.unit == UNMERGE_UNIT_AUTO && o.sparsity_mode == UNMERGE_SPARSITY_AVERAGE);
  CHECK(o.l1_w == 0 && o.l2_w == 0 && o.group_w == 0 && o.l1_h == 0 && o.l2_h == 0 && o.group_h == 0);
  CHECK(o.sparsity_w == 0 && o.sparsity_h == 0 && o.nonnegative_w == 1 && o.missing == 0 && o.extrapolation == 1);
  CHECK(o.w == NULL && o.h == NULL);
  unmerge_online_nmf_options s;
  memset(&s, 0x5a, sizeof s);
  CHECK(unmerge_online_nmf_options_init(&s, sizeof s) == UNMERGE_OK);
  CHECK(s.struct_size == sizeof s && s.components == 1 && s.batch == 256 && s.decay == 2 && s.l1_h == 0 && s.l2_h == 0);
  unmerge_model_info i;
  memset(&i, 0x5a, sizeof i);
  CHECK(unmerge_model_info_init(&i, sizeof i) == UNMERGE_OK && i.struct_size == sizeof i && i.reserved == 0);
}

static void info(void) {
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    step(m, 4);
    const unmerge_model_info i = info_of(m);
    CHECKF(i.kind == k->kind && i.rows == P && i.columns == k->columns && i.components == K, "(%s)", k->name);
    CHECKF(i.iterations == 4, "(%s: %lld)", k->name, (long long)i.iterations);
    unmerge_model_destroy(m);
  }
}

/* Size 0 is nobody's struct; a longer one is a later library's, fine while what is unknown is zero. */
static void struct_sizes(void) {
  const unmerge_view x = x_view();
  unmerge_model *const mark = (unmerge_model *)(uintptr_t)0x5a5a, *out = mark;
  struct {
    unmerge_nmf_options o;
    unsigned char more[16];
  } later;
  memset(&later, 0, sizeof later);
  later.o = nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS);
  later.o.struct_size = 0;
  REFUSED(unmerge_nmf_create(&x, &later.o, NULL, &out, &e), e, UNMERGE_E_VERSION);
  later.o.struct_size = sizeof later;
  later.more[3] = 1;
  REFUSED(unmerge_nmf_create(&x, &later.o, NULL, &out, &e), e, UNMERGE_E_VERSION);
  CHECK(out == mark);
  later.more[3] = 0;
  OK(unmerge_nmf_create(&x, &later.o, NULL, &out, &e), e);
  unmerge_model *m = out;
  saved before = save(m);

  struct {
    unmerge_run r;
    unsigned char more[16];
  } run;
  memset(&run, 0, sizeof run);
  run.r = steps(1);
  run.r.struct_size = 0;
  REFUSED(unmerge_model_step(m, &x, &run.r, NULL, &e), e, UNMERGE_E_VERSION);
  run.r.struct_size = sizeof run, run.more[0] = 1;
  REFUSED(unmerge_model_step(m, &x, &run.r, NULL, &e), e, UNMERGE_E_VERSION);
  unmerge_report report;
  memset(&report, 0, sizeof report);
  REFUSED(unmerge_model_step(m, &x, NULL, &report, &e), e, UNMERGE_E_VERSION);
  unmerge_model_info i;
  memset(&i, 0, sizeof i);
  REFUSED(unmerge_model_get_info(m, &i, &e), e, UNMERGE_E_VERSION);
  CHECK(is_as(m, before));

  /* An earlier, shorter one: the fields it has are filled in, the rest is not touched. */
  memset(&i, 0x5a, sizeof i);
  i.struct_size = offsetof(unmerge_model_info, columns);
  OK(unmerge_model_get_info(m, &i, &e), e);
  CHECK(i.rows == P && i.kind == UNMERGE_MODEL_NMF && i.columns == 0x5a5a5a5a5a5a5a5a && i.iterations == 0x5a5a5a5a5a5a5a5a);
  unmerge_nmf_options early = nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS);
  early.struct_size = offsetof(unmerge_nmf_options, algorithm);
  memset((char *)&early + early.struct_size, 0x5a, sizeof early - early.struct_size);
  unmerge_model *defaulted = NULL;
  OK(unmerge_nmf_create(&x, &early, NULL, &defaulted, &e), e);
  if (defaulted != NULL) CHECK(is_as(defaulted, before));
  free(before.bytes);
  unmerge_model_destroy(defaulted);
  unmerge_model_destroy(m);
}

static void options_may_be_null(void) { /* one component, then */
  const unmerge_view x = x_view();
  unmerge_model *m = NULL;
  OK(unmerge_nmf_create(&x, NULL, NULL, &m, NULL), e);
  CHECK(info_of(m).components == 1);
  OK(unmerge_model_step(m, &x, NULL, NULL, NULL), e);
  double w[P], h[T];
  const unmerge_view wv = view_f64(w, P, 1), hv = view_f64(h, 1, T);
  OK(unmerge_model_components(m, &wv, NULL), e);
  OK(unmerge_model_codes(m, &hv, NULL), e);
  unmerge_model_destroy(m);
}

/* ---------------------------------------------------------------- NULL and handles */

static void refuse_all(unmerge_model *m, int a, int b) {
  const unmerge_view x = x_view();
  double w[P * T];
  const unmerge_view wv = view_f64(w, P, K), hv = view_f64(w, K, T);
  unmerge_model_info i;
  unmerge_model_info_init(&i, sizeof i);
  int64_t size = -5;
  w[0] = -5;
  REFUSED2(unmerge_model_get_info(m, &i, &e), e, a, b);
  REFUSED2(unmerge_model_step(m, &x, NULL, NULL, &e), e, a, b);
  REFUSED2(unmerge_model_transform(m, &x, NULL, &hv, NULL, &e), e, a, b);
  REFUSED2(unmerge_model_components(m, &wv, &e), e, a, b);
  REFUSED2(unmerge_model_codes(m, &hv, &e), e, a, b);
  REFUSED2(unmerge_model_saved_size(m, &size, &e), e, a, b);
  REFUSED2(unmerge_model_save(m, w, sizeof w, &e), e, a, b);
  CHECK(w[0] == -5 && size == -5);
  unmerge_model_destroy(m);
}

static void null(void) {
  CHECK(unmerge_nmf_options_init(NULL, sizeof(unmerge_nmf_options)) == UNMERGE_E_NULL);
  CHECK(unmerge_online_nmf_options_init(NULL, sizeof(unmerge_online_nmf_options)) == UNMERGE_E_NULL);
  CHECK(unmerge_model_info_init(NULL, sizeof(unmerge_model_info)) == UNMERGE_E_NULL);
  const unmerge_view x = x_view(), nothing = view_f64(NULL, P, T);
  unmerge_model *out = NULL;
  REFUSED(unmerge_nmf_create(NULL, NULL, NULL, &out, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_nmf_create(&nothing, NULL, NULL, &out, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_nmf_create(&x, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_online_nmf_create(NULL, NULL, NULL, &out, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_online_nmf_create(&x, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
  unmerge_nmf_options given = nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS);
  double w[P * K] = {0};
  const unmerge_view wv = view_f64(w, P, K);
  given.init = UNMERGE_INIT_GIVEN;
  REFUSED(unmerge_nmf_create(&x, &given, NULL, &out, &e), e, UNMERGE_E_NULL);
  given.w = &wv;
  REFUSED(unmerge_nmf_create(&x, &given, NULL, &out, &e), e, UNMERGE_E_NULL);
  NAMES(e, "h");
  REFUSED(unmerge_model_load(NULL, 64, &out, &e), e, UNMERGE_E_NULL);
  REFUSED(unmerge_model_load(w, 64, NULL, &e), e, UNMERGE_E_NULL);
  CHECK(out == NULL);
  refuse_all(NULL, UNMERGE_E_NULL, UNMERGE_E_HANDLE);
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    saved before = save(m);
    REFUSED(unmerge_model_get_info(m, NULL, &e), e, UNMERGE_E_NULL);
    REFUSED(unmerge_model_step(m, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL); /* the data is not kept */
    NAMES(e, "x");
    REFUSED(unmerge_model_step(m, &nothing, NULL, NULL, &e), e, UNMERGE_E_NULL);
    REFUSED(unmerge_model_transform(m, NULL, NULL, &wv, NULL, &e), e, UNMERGE_E_NULL);
    REFUSED(unmerge_model_transform(m, &x, NULL, NULL, NULL, &e), e, UNMERGE_E_NULL);
    REFUSED(unmerge_model_components(m, NULL, &e), e, UNMERGE_E_NULL);
    REFUSED3(unmerge_model_codes(m, NULL, &e), e, UNMERGE_E_NULL, UNMERGE_E_SHAPE, UNMERGE_E_RANGE); /* a stream has none */
    REFUSED(unmerge_model_saved_size(m, NULL, &e), e, UNMERGE_E_NULL);
    REFUSED(unmerge_model_save(m, NULL, before.size, &e), e, UNMERGE_E_NULL);
    CHECKF(is_as(m, before), "(%s)", k->name);
    free(before.bytes);
    unmerge_model_destroy(m);
  }
}

static void stale(void) {
  EACH_KIND(k) {
    unmerge_model *old = k->make();
    unmerge_model_destroy(old);
    refuse_all(old, UNMERGE_E_HANDLE, UNMERGE_E_HANDLE);
    unmerge_model *fresh[8];
    for (int i = 0; i < 8; i++) fresh[i] = k->make();
    refuse_all(old, UNMERGE_E_HANDLE, UNMERGE_E_HANDLE); /* destroys nobody's successor either */
    for (int i = 0; i < 8; i++) step(fresh[i], 1), unmerge_model_destroy(fresh[i]);
  }
}

static void foreign(void) {
  problem q = make_problem(60, 4, 1);
  void *others[] = {q.ao, q.yo, q.gram};
  for (int i = 0; i < 3; i++) refuse_all(others[i], UNMERGE_E_HANDLE, UNMERGE_E_HANDLE);
  double w[4];
  const unmerge_view v = view_f64(w, 4, 1);
  OK(unmerge_nnls(q.gram, NULL, NULL, &v, NULL, &e), e); /* still there */
  OK(unmerge_operator_shape(q.ao, NULL, NULL, NULL, &e), e);
  unmerge_model *m = make_hals();
  void *wrong = m;
  int64_t n = -5;
  unmerge_gram *g = NULL;
  REFUSED(unmerge_operator_shape(wrong, &n, &n, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_nnls(wrong, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_saved_size(wrong, &n, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_gram_create(wrong, wrong, NULL, NULL, &g, &e), e, UNMERGE_E_HANDLE);
  REFUSED(unmerge_mask_count(wrong, -1, &n, &e), e, UNMERGE_E_HANDLE);
  unmerge_gram_destroy(wrong);
  unmerge_operator_destroy(wrong);
  unmerge_accumulator_destroy(wrong);
  step(m, 1);
  unmerge_model_destroy(m);
  free_problem(&q);
}

static void invented(void) {
  unmerge_model *m = make_hals();
  void *heap = calloc(1, 4096);
  const uintptr_t values[] = {1, 8, 0xdeadbeef, (uintptr_t)heap, (uintptr_t)data, UINTPTR_MAX, INTPTR_MAX, (uintptr_t)1 << 63};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) refuse_all((void *)values[i], UNMERGE_E_HANDLE, UNMERGE_E_HANDLE);
  for (int bit = 0; bit < 64; bit++) { /* neighbours of a good one */
    void *neighbour = (void *)((uintptr_t)m ^ ((uintptr_t)1 << bit));
    refuse_all(neighbour, UNMERGE_E_HANDLE, UNMERGE_E_HANDLE);
  }
  step(m, 1);
  unmerge_model_destroy(m);
  free(heap);
}

/* ---------------------------------------------------------------- shapes, types, values */

#define UNCHANGED(m, before, name) CHECKF(is_as(m, before), "(%s changed)", name)

static void shapes_of_the_data(void) {
  double big[(P + 1) * (T + 1)], found[K * (T + 1)];
  for (size_t i = 0; i < sizeof big / sizeof *big; i++) big[i] = 1;
  const struct {
    int64_t rows, cols;
  } wrong[] = {{P - 1, T}, {P + 1, T}, {T, P}, {0, T}, {P, 0}, {-1, T}, {P, -1}, {INT64_MAX, INT64_MAX}};
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    step(m, 2);
    saved before = save(m);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
      if (k->columns == 0 && wrong[i].rows == P && wrong[i].cols == 0) continue; /* a stream may have nothing new */
      const unmerge_view x = view_f64(big, wrong[i].rows, wrong[i].cols);
      REFUSED(unmerge_model_step(m, &x, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
      NAMES(e, "x");
      UNCHANGED(m, before, k->name);
      const unmerge_view codes = view_f64(found, K, T);
      REFUSED(unmerge_model_transform(m, &x, NULL, &codes, NULL, &e), e, UNMERGE_E_SHAPE);
    }
    if (k->columns > 0) { /* the codes belong to as many columns */
      for (int64_t cols = T - 1; cols <= T + 1; cols += 2) {
        const unmerge_view x = view_f64(big, P, cols);
        REFUSED(unmerge_model_step(m, &x, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
      }
    }
    UNCHANGED(m, before, k->name);
    free(before.bytes);
    unmerge_model_destroy(m);
  }
}

static void shapes_of_the_results(void) {
  double w[(P + T) * (P + T)];
  const struct {
    int64_t rows, cols;
  } wrong[] = {{P, K + 1}, {P, K - 1}, {K, P}, {T, K}, {P - 1, K}, {0, 0}, {-1, K}, {K + 1, T}, {K, T + 1}, {T, K + 1}};
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    w[0] = -5;
    const unmerge_view x = x_view();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
      const unmerge_view v = view_f64(w, wrong[i].rows, wrong[i].cols);
      REFUSED(unmerge_model_components(m, &v, &e), e, UNMERGE_E_SHAPE);
      REFUSED2(unmerge_model_codes(m, &v, &e), e, UNMERGE_E_SHAPE, k->columns > 0 ? UNMERGE_E_SHAPE : UNMERGE_E_RANGE);
      REFUSED(unmerge_model_transform(m, &x, NULL, &v, NULL, &e), e, UNMERGE_E_SHAPE);
    }
    unmerge_view odd = view_f64(w, P, K), codes = view_f64(w, K, T);
    odd.dtype = codes.dtype = 99;
    REFUSED(unmerge_model_components(m, &odd, &e), e, UNMERGE_E_DTYPE);
    if (k->columns > 0) REFUSED(unmerge_model_codes(m, &codes, &e), e, UNMERGE_E_DTYPE);
    REFUSED(unmerge_model_transform(m, &x, NULL, &codes, NULL, &e), e, UNMERGE_E_DTYPE);
    unmerge_view broadcast = view_f64(w, P, K); /* every entry in one place: for inputs only */
    broadcast.strides[0] = broadcast.strides[1] = 0;
    REFUSED3(unmerge_model_components(m, &broadcast, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_RANGE, UNMERGE_E_DTYPE);
    CHECK(w[0] == -5);
    unmerge_model_destroy(m);
  }
}

/* Results are written through any strides, and nothing beside them. */
static void strided_results(void) {
  unmerge_model *m = make_hals();
  step(m, 3);
  double w[P * K], h[K * T], room[2 * P * 2 * K];
  const unmerge_view wv = view_f64(w, P, K), hv = view_f64(h, K, T);
  OK(unmerge_model_components(m, &wv, &e), e);
  OK(unmerge_model_codes(m, &hv, &e), e);
  for (size_t i = 0; i < sizeof room / sizeof *room; i++) room[i] = -5;
  unmerge_view v = view_f64(room + (P - 1) * 4 * K, P, K); /* rows backwards, every second of either */
  v.strides[0] = -4 * K * 8, v.strides[1] = 16;
  OK(unmerge_model_components(m, &v, &e), e);
  for (int i = 0; i < 2 * P; i++)
    for (int l = 0; l < 2 * K; l++) {
      const bool written = i % 2 == 0 && l % 2 == 0;
      CHECK(room[i * 2 * K + l] == (written ? w[(P - 1 - i / 2) * K + l / 2] : -5));
    }
  double transposed[T * K];
  v = view_f64(transposed, K, T);
  v.strides[0] = 8, v.strides[1] = K * 8;
  OK(unmerge_model_codes(m, &v, &e), e);
  for (int l = 0; l < K; l++)
    for (int t = 0; t < T; t++) CHECK(transposed[t * K + l] == h[l * T + t]);
  float single[P * K];
  v = view_f64((double *)(void *)single, P, K);
  v.dtype = UNMERGE_F32, v.strides[0] = K * 4, v.strides[1] = 4;
  OK(unmerge_model_components(m, &v, &e), e);
  for (int i = 0; i < P * K; i++) CHECK(single[i] == (float)w[i]);
  unmerge_model_destroy(m);
}

static void values_that_are_refused(void) {
  const double bad[] = {NAN, INFINITY, -INFINITY, -1};
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    step(m, 2);
    saved before = save(m);
    double x[P * T], h[K * T];
    for (int i = 0; i < 4; i++) {
      x_view();
      memcpy(x, data, sizeof x);
      x[7 * T + 11] = bad[i];
      const unmerge_view v = view_f64(x, P, T), codes = view_f64(h, K, T);
      unmerge_report report;
      unmerge_report_init(&report, sizeof report);
      report.iterations = -5;
      h[0] = -5;
      const int status = i < 3 ? UNMERGE_E_NONFINITE : UNMERGE_E_RANGE;
      const unmerge_run r = steps(3);
      REFUSED(unmerge_model_step(m, &v, &r, &report, &e), e, status);
      NAMES(e, "x");
      NAMES(e, "7"); /* row and column */
      NAMES(e, "11");
      UNCHANGED(m, before, k->name);
      REFUSED(unmerge_model_transform(m, &v, &r, &codes, &report, &e), e, status);
      UNCHANGED(m, before, k->name);
      CHECKF(report.iterations == -5 && h[0] == -5, "(%s: outputs are untouched)", k->name);
      unmerge_model *out = NULL;
      unmerge_nmf_options o = nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS);
      REFUSED(unmerge_nmf_create(&v, &o, NULL, &out, &e), e, status);
      CHECK(out == NULL);
    }
    unmerge_view whole = x_view();
    whole.dtype = 99;
    REFUSED(unmerge_model_step(m, &whole, NULL, NULL, &e), e, UNMERGE_E_DTYPE);
    UNCHANGED(m, before, k->name);
    free(before.bytes);
    unmerge_model_destroy(m);
  }
}

static void options_that_are_refused(void) {
  const unmerge_view x = x_view();
  unmerge_model *out = NULL;
#define BAD(word, ...)                                                                                                         \
  do {                                                                                                                         \
    unmerge_nmf_options o = nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS);                                                     \
    __VA_ARGS__;                                                                                                               \
    REFUSED2(unmerge_nmf_create(&x, &o, NULL, &out, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);                                 \
    NAMES(e, word);                                                                                                            \
  } while (0)
  BAD("components", o.components = 0);
  BAD("components", o.components = -1);
  BAD("components", o.components = INT64_MIN);
  const int32_t codes[] = {-1, 5, 99, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 5; i++) {
    BAD("algorithm", o.algorithm = codes[i]);
    BAD("loss", o.loss = codes[i]);
    BAD("init", o.init = codes[i]);
    BAD("unit", o.unit = codes[i]);
    BAD("sparsity_mode", o.sparsity_mode = codes[i]);
    BAD("nonnegative_w", o.nonnegative_w = codes[i]);
    BAD("missing", o.missing = codes[i]);
    BAD("extrapolation", o.extrapolation = codes[i]);
  }
  const double numbers[] = {-1, -1e-300, NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 5; i++) {
    BAD("l1_w", o.l1_w = numbers[i]);
    BAD("l2_w", o.l2_w = numbers[i]);
    BAD("group_w", o.group_w = numbers[i]);
    BAD("l1_h", o.l1_h = numbers[i]);
    BAD("l2_h", o.l2_h = numbers[i]);
    BAD("group_h", o.group_h = numbers[i]);
    BAD("sparsity_w", o.algorithm = UNMERGE_NMF_PROJECTED; o.sparsity_w = numbers[i]);
    BAD("sparsity_h", o.algorithm = UNMERGE_NMF_PROJECTED; o.sparsity_h = numbers[i]);
  }
  BAD("sparsity_w", o.algorithm = UNMERGE_NMF_PROJECTED; o.sparsity_w = 1);
  BAD("sparsity_h", o.algorithm = UNMERGE_NMF_PROJECTED; o.sparsity_h = 1);
  BAD("sparsity_w", o.sparsity_w = 0.5);
  BAD("sparsity_h", o.algorithm = UNMERGE_NMF_MU; o.sparsity_h = 0.5);
  BAD("unit", o.unit = UNMERGE_UNIT_W; o.algorithm = UNMERGE_NMF_ANLS);
  BAD("loss", o.loss = UNMERGE_LOSS_KL);
  BAD("nonnegative_w", o.nonnegative_w = 0; o.algorithm = UNMERGE_NMF_MU);
  BAD("l1_w", o.nonnegative_w = 0; o.l1_w = 1);
  BAD("group_w", o.nonnegative_w = 0; o.group_w = 1);
#define BAD_STREAM(word, ...)                                                                                                  \
  do {                                                                                                                         \
    unmerge_online_nmf_options o;                                                                                              \
    unmerge_online_nmf_options_init(&o, sizeof o);                                                                             \
    __VA_ARGS__;                                                                                                               \
    REFUSED2(unmerge_online_nmf_create(&x, &o, NULL, &out, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);                          \
    NAMES(e, word);                                                                                                            \
  } while (0)
  BAD_STREAM("components", o.components = 0);
  BAD_STREAM("batch", o.batch = 0);
  BAD_STREAM("batch", o.batch = -1);
  for (int i = 0; i < 5; i++) {
    BAD_STREAM("decay", o.decay = numbers[i]);
    BAD_STREAM("l1_h", o.l1_h = numbers[i]);
    BAD_STREAM("l2_h", o.l2_h = numbers[i]);
  }
  CHECK(out == NULL);
}

static void sizes_that_overflow(void) {
  const unmerge_view x = x_view();
  unmerge_model *out = NULL;
  const int64_t huge[] = {INT64_MAX, INT64_MAX / 8, INT64_C(1) << 60, INT64_C(1) << 52};
  for (int i = 0; i < 4; i++) {
    unmerge_nmf_options o = nmf(UNMERGE_NMF_HALS, UNMERGE_LOSS_FROBENIUS);
    o.init = UNMERGE_INIT_RANDOM;
    o.components = huge[i];
    REFUSED3(unmerge_nmf_create(&x, &o, NULL, &out, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_MEMORY, UNMERGE_E_RANGE);
    unmerge_online_nmf_options s;
    unmerge_online_nmf_options_init(&s, sizeof s);
    s.components = huge[i];
    REFUSED3(unmerge_online_nmf_create(&x, &s, NULL, &out, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_MEMORY, UNMERGE_E_RANGE);
    double one = 1;
    const unmerge_view wide = broadcast_f64(&one, 2, huge[i]), tall = broadcast_f64(&one, huge[i], 2);
    const unmerge_view square = broadcast_f64(&one, huge[i], huge[i]);
    o.components = 1;
    const unmerge_view *views[] = {&wide, &tall, &square};
    for (int v = 0; v < 3; v++)
      REFUSED3(unmerge_nmf_create(views[v], &o, NULL, &out, &e), e, UNMERGE_E_SHAPE, UNMERGE_E_MEMORY, UNMERGE_E_RANGE);
  }
  CHECK(out == NULL);
}

static void the_callers_arrays_are_not_written(void) {
  x_view();
  double w[P * K], h[K * T], copies[P * T + P * K + K * T];
  uint64_t state = 3;
  for (int i = 0; i < P * K; i++) w[i] = fabs(noise(&state));
  for (int i = 0; i < K * T; i++) h[i] = fabs(noise(&state));
  memcpy(copies, data, sizeof data), memcpy(copies + P * T, w, sizeof w), memcpy(copies + P * T + P * K, h, sizeof h);
  const unmerge_view x = view_f64(data, P, T), wv = view_f64(w, P, K), hv = view_f64(h, K, T);
  const int32_t algorithms[] = {UNMERGE_NMF_HALS, UNMERGE_NMF_ANLS, UNMERGE_NMF_MU, UNMERGE_NMF_PROJECTED};
  for (int i = 0; i < 4; i++) {
    unmerge_nmf_options o = nmf(algorithms[i], UNMERGE_LOSS_FROBENIUS);
    o.init = UNMERGE_INIT_GIVEN, o.w = &wv, o.h = &hv;
    unmerge_model *m = NULL;
    OK(unmerge_nmf_create(&x, &o, NULL, &m, &e), e);
    const unmerge_run r = steps(5);
    OK(unmerge_model_step(m, &x, &r, NULL, &e), e);
    double found[K * T];
    const unmerge_view codes = view_f64(found, K, T);
    OK(unmerge_model_transform(m, &x, NULL, &codes, NULL, &e), e);
    unmerge_model_destroy(m);
  }
  CHECK(memcmp(copies, data, sizeof data) == 0 && memcmp(copies + P * T, w, sizeof w) == 0);
  CHECK(memcmp(copies + P * T + P * K, h, sizeof h) == 0);
}

/* ---------------------------------------------------------------- saved bytes */

static void saved_and_resumed(void) {
  EACH_KIND(k) {
    unmerge_model *whole = k->make(), *parts = k->make(), *loaded = NULL;
    step(whole, 20);
    step(parts, 7);
    saved s = save(parts);
    unmerge_model_destroy(parts);
    OK(unmerge_model_load(s.bytes, s.size, &loaded, &e), e);
    CHECKF(is_as(loaded, s), "(%s)", k->name);
    free(s.bytes); /* the bytes are not needed any more */
    const unmerge_model_info i = info_of(loaded);
    CHECKF(i.kind == k->kind && i.rows == P && i.columns == k->columns && i.components == K, "(%s)", k->name);
    CHECKF(i.iterations == 7, "(%s)", k->name);
    step(loaded, 13);
    saved end = save(whole);
    CHECKF(is_as(loaded, end), "(%s)", k->name);
    free(end.bytes);
    unmerge_model_destroy(whole);
    unmerge_model_destroy(loaded);
  }
}

static void damaged_bytes(void) {
  unmerge_model *const mark = (unmerge_model *)(uintptr_t)0x5a5a, *out = mark;
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    step(m, 2);
    saved s = save(m);
    for (int64_t n = 0; n < s.size; n++) {
      unsigned char *exact = malloc((size_t)n + 1); /* of its own size, for a sanitizer to see a read behind it */
      memcpy(exact, s.bytes, (size_t)n);
      REFUSED2(unmerge_model_load(exact, n, &out, &e), e, UNMERGE_E_FORMAT, UNMERGE_E_SHAPE);
      free(exact);
    }
    REFUSED2(unmerge_model_load(s.bytes, -1, &out, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    REFUSED2(unmerge_model_load(s.bytes, INT64_MIN, &out, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    unsigned char *copy = malloc((size_t)s.size + 8);
    memset(copy, 0, (size_t)s.size + 8);
    memcpy(copy, s.bytes, (size_t)s.size);
    for (int64_t more = 1; more <= 8; more++)
      REFUSED2(unmerge_model_load(copy, s.size + more, &out, &e), e, UNMERGE_E_FORMAT, UNMERGE_E_SHAPE);
    for (int64_t i = 0; i < s.size; i++) { /* every byte counts, kind and version among them */
      for (int bit = 0; bit < 8; bit += i < 128 ? 1 : 7) {
        copy[i] ^= (unsigned char)(1 << bit);
        REFUSED(unmerge_model_load(copy, s.size, &out, &e), e, UNMERGE_E_FORMAT);
        copy[i] = s.bytes[i];
      }
    }
    CHECK(out == mark);
    OK(unmerge_model_load(copy, s.size, &out, &e), e);
    unmerge_model_destroy(out);
    out = mark;
    free(copy), free(s.bytes);
    unmerge_model_destroy(m);
  }
  const char text[] = "nonsense";
  REFUSED(unmerge_model_load(text, 8, &out, &e), e, UNMERGE_E_FORMAT);
  CHECK(out == mark);
}

static void bytes_of_another_kind(void) {
  problem q = make_problem(60, 4, 1);
  int64_t size = 0;
  OK(unmerge_gram_saved_size(q.gram, &size, &e), e);
  char *gram = malloc((size_t)size);
  OK(unmerge_gram_save(q.gram, gram, size, &e), e);
  unmerge_model *out = NULL;
  REFUSED(unmerge_model_load(gram, size, &out, &e), e, UNMERGE_E_FORMAT);
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    saved s = save(m);
    unmerge_gram *g = NULL;
    REFUSED(unmerge_gram_load(s.bytes, s.size, &g, &e), e, UNMERGE_E_FORMAT);
    CHECK(g == NULL);
    free(s.bytes);
    unmerge_model_destroy(m);
  }
  CHECK(out == NULL);
  free(gram);
  free_problem(&q);
}

static void room_for_the_bytes(void) {
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    saved s = save(m);
    unsigned char *room = malloc((size_t)s.size + 16);
    memset(room, 0x5a, (size_t)s.size + 16);
    const int64_t wrong[] = {s.size - 1, 0, -1, INT64_MIN};
    for (int i = 0; i < 4; i++) REFUSED2(unmerge_model_save(m, room, wrong[i], &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
    for (int64_t i = 0; i < s.size; i++) CHECK(room[i] == 0x5a);
    OK(unmerge_model_save(m, room, s.size, &e), e);
    CHECK(memcmp(room, s.bytes, (size_t)s.size) == 0);
    for (int64_t i = s.size; i < s.size + 16; i++) CHECK(room[i] == 0x5a);
    free(room), free(s.bytes);
    unmerge_model_destroy(m);
  }
}

/* ---------------------------------------------------------------- early ends */

static void cancelled_before_it_began(void) {
  const unmerge_view x = x_view();
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    step(m, 2);
    saved before = save(m);
    const int32_t cancel = 1;
    unmerge_run r = steps(1000);
    r.cancel = &cancel;
    unmerge_report report;
    unmerge_report_init(&report, sizeof report);
    OK(unmerge_model_step(m, &x, &r, &report, &e), e);
    CHECKF(report.outcome == UNMERGE_CANCELLED && report.iterations < 1000, "(%s: %d)", k->name, (int)report.outcome);
    CHECKF(info_of(m).iterations == 2 + report.iterations, "(%s)", k->name);
    unmerge_model *again = NULL;
    OK(unmerge_model_load(before.bytes, before.size, &again, &e), e);
    step(again, report.iterations);
    saved there = save(again);
    CHECKF(is_as(m, there), "(%s: %lld iterations)", k->name, (long long)report.iterations);
    r.cancel = NULL, r.max_iter = 1;
    OK(unmerge_model_step(m, &x, &r, &report, &e), e);
    CHECK(report.iterations == 1);
    free(before.bytes), free(there.bytes);
    unmerge_model_destroy(again);
    unmerge_model_destroy(m);
  }
}

static void deadline(void) {
  const unmerge_view x = x_view();
  EACH_KIND(k) {
    unmerge_model *m = k->make();
    unmerge_run r = steps(INT64_MAX);
    r.tol = 5e-324;
    r.deadline = 0.02;
    unmerge_report report;
    unmerge_report_init(&report, sizeof report);
    const double from = seconds_now();
    OK(unmerge_model_step(m, &x, &r, &report, &e), e);
    CHECKF(seconds_now() - from < 30, "(%s)", k->name);
    CHECKF(report.outcome != UNMERGE_ITERATION_LIMIT && report.outcome != UNMERGE_CANCELLED, "(%s)", k->name);
    CHECKF(info_of(m).iterations == report.iterations, "(%s)", k->name);
    if (report.iterations < 200000) {
      unmerge_model *again = k->make();
      r.deadline = 0, r.max_iter = report.iterations;
      if (report.iterations > 0) OK(unmerge_model_step(again, &x, &r, NULL, &e), e);
      saved there = save(again);
      CHECKF(is_as(m, there), "(%s: %lld iterations)", k->name, (long long)report.iterations);
      free(there.bytes);
      unmerge_model_destroy(again);
    }
    unmerge_model_destroy(m);
  }
}

/* ---------------------------------------------------------------- threads */

enum { EACH = 40 };

static void *steps_one(void *model) {
  unmerge_error mine;
  const unmerge_view x = view_f64(data, P, T);
  const unmerge_run r = steps(1);
  for (int i = 0; i < EACH; i++) OK(unmerge_model_step(model, &x, &r, NULL, &mine), mine);
  return NULL;
}

/* What is seen between two steps is a whole state: it loads, and W is that of some number of iterations. */
static void *looks(void *model) {
  unmerge_error mine;
  double w[P * K];
  const unmerge_view wv = view_f64(w, P, K);
  for (int i = 0; i < EACH; i++) {
    OK(unmerge_model_components(model, &wv, &mine), mine);
    for (int j = 0; j < P * K; j++) CHECK(w[j] >= 0);
    int64_t size = 0;
    OK(unmerge_model_saved_size(model, &size, &mine), mine);
    unsigned char *bytes = malloc((size_t)size);
    OK(unmerge_model_save(model, bytes, size, &mine), mine);
    unmerge_model *copy = NULL;
    OK(unmerge_model_load(bytes, size, &copy, &mine), mine);
    unmerge_model_destroy(copy);
    free(bytes);
  }
  return NULL;
}

static void calls_on_one_model_queue(void) {
  x_view();
  EACH_KIND(k) {
    unmerge_model *m = k->make(), *alone = k->make();
    pthread_t threads[3];
    pthread_create(&threads[0], NULL, steps_one, m);
    pthread_create(&threads[1], NULL, steps_one, m);
    pthread_create(&threads[2], NULL, looks, m);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECKF(info_of(m).iterations == 2 * EACH, "(%s)", k->name);
    step(alone, 2 * EACH);
    saved s = save(alone);
    CHECKF(is_as(m, s), "(%s)", k->name);
    free(s.bytes);
    unmerge_model_destroy(m);
    unmerge_model_destroy(alone);
  }
}

static void *steps_until_it_is_gone(void *model) {
  unmerge_error mine;
  const unmerge_view x = view_f64(data, P, T);
  const unmerge_run r = steps(50);
  for (int i = 0; i < 1000000; i++) {
    const unmerge_status s = unmerge_model_step(model, &x, &r, NULL, &mine);
    if (s == UNMERGE_E_HANDLE) return NULL;
    CHECKF(s == UNMERGE_OK, "(%s: %s)", unmerge_status_name(s), mine.message);
  }
  return NULL;
}

static void destroyed_while_it_is_used(void) {
  x_view();
  EACH_KIND(k) {
    for (int round = 0; round < 5; round++) {
      unmerge_model *m = k->make();
      pthread_t threads[2];
      for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, steps_until_it_is_gone, m);
      usleep(2000);
      unmerge_model_destroy(m);
      for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    }
  }
}

/* ---------------------------------------------------------------- memory */

static void a_life(const model_kind *k) {
  const unmerge_view x = x_view();
  double w[P * T];
  const unmerge_view wv = view_f64(w, P, K), hv = view_f64(w, K, T), wrong = view_f64(w, P - 1, T);
  unmerge_model *m = k->make(), *copy = NULL;
  step(m, 3);
  OK(unmerge_model_components(m, &wv, &e), e);
  OK(unmerge_model_transform(m, &x, NULL, &hv, NULL, &e), e);
  REFUSED(unmerge_model_step(m, &wrong, NULL, NULL, &e), e, UNMERGE_E_SHAPE);
  data[5] = NAN;
  const unmerge_view nan = view_f64(data, P, T);
  REFUSED(unmerge_model_step(m, &nan, NULL, NULL, &e), e, UNMERGE_E_NONFINITE);
  saved s = save(m);
  OK(unmerge_model_load(s.bytes, s.size, &copy, &e), e);
  s.bytes[s.size / 2] ^= 1;
  unmerge_model *none = NULL;
  REFUSED(unmerge_model_load(s.bytes, s.size, &none, &e), e, UNMERGE_E_FORMAT);
  free(s.bytes);
  unmerge_model_destroy(copy);
  unmerge_model_destroy(m);
}

static void only_what_is_not_destroyed_stays(void) {
  if (SANITIZED) return;
  EACH_KIND(k) {
    for (int i = 0; i < 30; i++) a_life(k);
    const size_t before = mallinfo2().uordblks;
    for (int i = 0; i < 200; i++) a_life(k);
    const size_t after = mallinfo2().uordblks;
    /* A table of handles may grow; the factors of one forgotten model are 960 bytes, of 200 of them 192,000. */
    CHECKF(after < before + 48000, "(%s: %zu bytes more after 200 lives)", k->name, after - before);
  }
}

MAIN(TEST(defaults), TEST(info), TEST(struct_sizes), TEST(options_may_be_null), TEST(null), TEST(stale), TEST(foreign),
     TEST(invented), TEST(shapes_of_the_data), TEST(shapes_of_the_results), TEST(strided_results), TEST(values_that_are_refused),
     TEST(options_that_are_refused), TEST(sizes_that_overflow), TEST(the_callers_arrays_are_not_written), TEST(saved_and_resumed),
     TEST(damaged_bytes), TEST(bytes_of_another_kind), TEST(room_for_the_bytes), TEST(cancelled_before_it_began), TEST(deadline),
     TEST(calls_on_one_model_queue), TEST(destroyed_while_it_is_used), TEST(only_what_is_not_destroyed_stays))
