/* NaN and infinity in the data are found, and named by row and atom; zero atoms and extreme scales are data like any other. */
#include "check.h"

static unmerge_error e;
enum { P = 3000, N = 40 };

static problem clean(void) { return make_problem(P, N, 2); }

static void in_a_matrix(void) {
  problem q = clean();
  const double bad[] = {NAN, INFINITY, -INFINITY};
  const int64_t rows[] = {0, 1371, P - 1};
  unmerge_gram *g = NULL;
  double w[N * 2] = {0};
  unmerge_view v = view_f64(w, N, 2);
  const int32_t precisions[] = {UNMERGE_PRECISION_AUTO, UNMERGE_PRECISION_FAST, UNMERGE_PRECISION_EXACT};
  for (int b = 0; b < 3; b++)
    for (int r = 0; r < 3; r++) {
      const int64_t row = rows[r], atom = 23;
      char row_text[24], atom_text[24];
      snprintf(row_text, sizeof row_text, "%lld", (long long)row);
      snprintf(atom_text, sizeof atom_text, "%lld", (long long)atom);
      double *const spot = &q.a[row * N + atom], kept = *spot;
      *spot = bad[b];
      for (int p = 0; p < 3; p++) {
        unmerge_gram_options o;
        unmerge_gram_options_init(&o, sizeof o);
        o.precision = precisions[p];
        if (REFUSED(unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) {
          NAMES(e, row_text);
          NAMES(e, atom_text);
        }
      }
      if (REFUSED(unmerge_verify(q.ao, q.yo, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, row_text);
      REFUSED(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_NONFINITE);
      *spot = kept;
    }
  double *const spot = &q.y[77 * 2 + 1], kept = *spot;
  *spot = NAN;
  if (REFUSED(unmerge_gram_create(q.ao, q.yo, NULL, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "77");
  *spot = kept;
  CHECK(g == NULL);
  OK(unmerge_gram_create(q.ao, q.yo, NULL, NULL, &g, &e), e);
  unmerge_gram_destroy(g);
  free_problem(&q);
}

static void in_small_types(void) {
  float single[6] = {1, 2, NAN, 4, 5, 6};
  uint16_t half[6] = {0x3c00, 0x3c00, 0x7c00, 0x3c00, 0x3c00, 0x3c00};  /* infinity */
  uint16_t brain[6] = {0x3f80, 0x3f80, 0x7fc0, 0x3f80, 0x3f80, 0x3f80}; /* NaN */
  void *const data[] = {single, half, brain};
  const int32_t types[] = {UNMERGE_F32, UNMERGE_F16, UNMERGE_BF16}, sizes[] = {4, 2, 2};
  double y[3] = {1, 2, 3};
  unmerge_view yv = view_f64(y, 3, 1);
  unmerge_operator *yo = NULL, *ao = NULL;
  OK(unmerge_operator_from_matrix(&yv, &yo, &e), e);
  for (int i = 0; i < 3; i++) {
    unmerge_view v;
    memset(&v, 0, sizeof v);
    v.data = data[i], v.dtype = types[i], v.shape[0] = 3, v.shape[1] = 2, v.strides[0] = 2 * sizes[i], v.strides[1] = sizes[i];
    OK(unmerge_operator_from_matrix(&v, &ao, &e), e);
    unmerge_gram *g = NULL;
    if (REFUSED(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "1"); /* row 1, atom 0 */
    unmerge_operator_destroy(ao);
  }
  unmerge_operator_destroy(yo);
}

static void in_named_modules(void) {
  double good[12], bad[12], base[12], target[12];
  for (int i = 0; i < 12; i++) good[i] = i + 1, bad[i] = 2 * i, base[i] = 0.5, target[i] = i % 5;
  bad[7] = INFINITY;
  unmerge_operator *a = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  unmerge_view gv = view_f64(good, 4, 3), bv = view_f64(bad, 4, 3), nv = view_f64(base, 4, 3), tv = view_f64(target, 4, 3);
  OK(unmerge_operator_create(&a, &e), e);
  OK(unmerge_operator_create(&y, &e), e);
  OK(unmerge_operator_add_module(a, "layers.0.q_proj", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_module(y, "layers.0.q_proj", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_module(a, "layers.1.v_proj", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_module(y, "layers.1.v_proj", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_column(a, "law", NULL, &e), e);
  OK(unmerge_operator_add_column(a, "medicine", NULL, &e), e);
  OK(unmerge_operator_add_column(y, "merged", NULL, &e), e);
  for (int64_t m = 0; m < 2; m++) {
    OK(unmerge_operator_set_dense(a, m, 0, &gv, &nv, 1, &e), e);
    OK(unmerge_operator_set_dense(a, m, 1, m == 1 ? &bv : &tv, &nv, 0.5, &e), e);
    OK(unmerge_operator_set_dense(y, m, 0, &tv, &nv, 1, &e), e);
  }
  if (REFUSED(unmerge_gram_create(a, y, NULL, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) {
    NAMES(e, "layers.1.v_proj");
    NAMES(e, "medicine");
  }
  unmerge_mask *mask = NULL;
  REFUSED(unmerge_mask_create(a, NULL, NULL, &mask, &e), e, UNMERGE_E_NONFINITE);
  bad[7] = 1;
  base[2] = NAN;
  if (REFUSED(unmerge_gram_create(a, y, NULL, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "layers.0.q_proj");
  base[2] = 0.5;
  OK(unmerge_gram_create(a, y, NULL, NULL, &g, &e), e);
  unmerge_gram_destroy(g), unmerge_operator_destroy(a), unmerge_operator_destroy(y);
}

static void in_lora_factors(void) {
  double b[8] = {1, 2, 3, 4, 5, 6, 7, 8}, a[6] = {1, -1, 2, -2, 3, -3}, target[12];
  for (int i = 0; i < 12; i++) target[i] = i % 5;
  unmerge_operator *op = NULL, *y = NULL;
  unmerge_gram *g = NULL;
  unmerge_view bv = view_f64(b, 4, 2), av = view_f64(a, 2, 3), tv = view_f64(target, 4, 3);
  OK(unmerge_operator_create(&op, &e), e);
  OK(unmerge_operator_create(&y, &e), e);
  OK(unmerge_operator_add_module(op, "layers.0", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_module(y, "layers.0", 4, 3, NULL, &e), e);
  OK(unmerge_operator_add_column(op, "medicine", NULL, &e), e);
  OK(unmerge_operator_add_column(y, "merged", NULL, &e), e);
  OK(unmerge_operator_set_lora(op, 0, 0, &bv, &av, 2, &e), e);
  OK(unmerge_operator_set_dense(y, 0, 0, &tv, NULL, 1, &e), e);
  b[3] = NAN;
  if (REFUSED(unmerge_gram_create(op, y, NULL, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "medicine");
  b[3] = 4, a[5] = -INFINITY;
  if (REFUSED(unmerge_gram_create(op, y, NULL, NULL, &g, &e), e, UNMERGE_E_NONFINITE)) NAMES(e, "medicine");
  a[5] = -3;
  OK(unmerge_gram_create(op, y, NULL, NULL, &g, &e), e);
  unmerge_gram_destroy(g), unmerge_operator_destroy(op), unmerge_operator_destroy(y);
}

static void in_an_accumulator(void) {
  double x[4] = {1, 2, NAN, 4}, y[2] = {1, 2};
  unmerge_view a = view_f64(x, 2, 2), b = view_f64(y, 2, 1);
  unmerge_accumulator *acc = NULL;
  unmerge_gram *g = NULL;
  OK(unmerge_accumulator_create(2, 1, NULL, &acc, &e), e);
  OK(unmerge_accumulator_add(acc, &a, &b, NULL, &e), e); /* found by finish, says the header */
  REFUSED(unmerge_accumulator_finish(acc, &g, &e), e, UNMERGE_E_NONFINITE);
  CHECK(g == NULL);
  unmerge_accumulator_destroy(acc);
}

static void in_gram_arrays(void) {
  double g[4] = {2, 1, 1, 2}, c[2] = {1, 1}, yy[1] = {3};
  unmerge_view gv = view_f64(g, 2, 2), cv = view_f64(c, 2, 1), yv = view_f64(yy, 1, 1);
  unmerge_gram *gram = NULL;
  double *const spots[] = {&g[0], &g[1], &g[3], &c[1], &yy[0]};
  const double bad[] = {NAN, INFINITY, -INFINITY};
  for (int s = 0; s < 5; s++)
    for (int b = 0; b < 3; b++) {
      const double kept = *spots[s];
      *spots[s] = bad[b];
      REFUSED(unmerge_gram_from_arrays(&gv, &cv, &yv, 5, &gram, &e), e, UNMERGE_E_NONFINITE);
      *spots[s] = kept;
    }
  g[2] = NAN; /* the lower triangle is not read */
  OK(unmerge_gram_from_arrays(&gv, &cv, &yv, 5, &gram, &e), e);
  double w[2];
  unmerge_view v = view_f64(w, 2, 1);
  OK(unmerge_nnls(gram, NULL, NULL, &v, NULL, &e), e);
  CHECK(fabs(w[0] - 1.0 / 3) < 1e-12 && fabs(w[1] - 1.0 / 3) < 1e-12);
  unmerge_gram_destroy(gram);
  gram = NULL;
  g[0] = -1; /* a negative square */
  REFUSED3(unmerge_gram_from_arrays(&gv, &cv, &yv, 5, &gram, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE, UNMERGE_E_NONFINITE);
  g[0] = 2, yy[0] = -1;
  REFUSED3(unmerge_gram_from_arrays(&gv, &cv, &yv, 5, &gram, &e), e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE, UNMERGE_E_NONFINITE);
  CHECK(gram == NULL);
}

static void in_coefficients(void) {
  problem q = make_problem(60, 4, 1);
  double w[4] = {0, NAN, 0, 0};
  unmerge_view v = view_f64(w, 4, 1);
  REFUSED2(unmerge_verify(q.ao, q.yo, NULL, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_NONFINITE, UNMERGE_E_RANGE);
  REFUSED2(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_NONFINITE, UNMERGE_E_RANGE);
  unmerge_lasso_options lasso;
  unmerge_lasso_options_init(&lasso, sizeof lasso);
  lasso.warm_start = 1;
  REFUSED2(unmerge_lasso(q.gram, &lasso, NULL, &v, NULL, &e), e, UNMERGE_E_NONFINITE, UNMERGE_E_RANGE);
  unmerge_elastic_net_options net;
  unmerge_elastic_net_options_init(&net, sizeof net);
  net.warm_start = 1;
  REFUSED2(unmerge_elastic_net(q.gram, &net, NULL, &v, NULL, &e), e, UNMERGE_E_NONFINITE, UNMERGE_E_RANGE);
  unmerge_nnls_options nnls;
  unmerge_nnls_options_init(&nnls, sizeof nnls);
  nnls.warm_start = 1;
  REFUSED2(unmerge_nnls(q.gram, &nnls, NULL, &v, NULL, &e), e, UNMERGE_E_NONFINITE, UNMERGE_E_RANGE);
  OK(unmerge_lasso(q.gram, NULL, NULL, &v, NULL, &e), e); /* cold: what was there does not matter */
  for (int j = 0; j < 4; j++) CHECK(isfinite(w[j]));
  free_problem(&q);
}

static void zero_data(void) {
  double a[20] = {0}, y[10] = {0}, w[2 * PATH_ALPHAS];
  unmerge_report r[PATH_ALPHAS];
  for (int full = 0; full < 4; full++) { /* nothing, an atom, a target, an atom and the target */
    for (int i = 0; i < 10; i++) a[2 * i] = full & 1 ? i - 4.5 : 0, y[i] = full & 2 ? i : 0;
    unmerge_view av = view_f64(a, 10, 2), yv = view_f64(y, 10, 1);
    unmerge_operator *ao = NULL, *yo = NULL;
    unmerge_gram *g = NULL;
    OK(unmerge_operator_from_matrix(&av, &ao, &e), e);
    OK(unmerge_operator_from_matrix(&yv, &yo, &e), e);
    OK(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e), e);
    EACH_METHOD(m) {
      const int64_t c = columns_of(m, 1);
      unmerge_view v = view_f64(w, 2, c);
      for (int t = 0; t < PATH_ALPHAS; t++) unmerge_report_init(&r[t], sizeof r[t]);
      memset(w, 0x5a, sizeof w);
      OK(m->call(g, NULL, NULL, &v, r, &e), e);
      for (int i = 0; i < 2 * c; i++) CHECKF(isfinite(w[i]), "(%s, case %d, %d: %g)", m->name, full, i, w[i]);
      for (int t = 0; t < c; t++) CHECKF(w[c + t] == 0, "(%s, case %d: the zero atom has %g)", m->name, full, w[c + t]);
      if (strcmp(m->name, "dot") != 0)
        CHECKF((r[0].flags & UNMERGE_FLAG_ZERO_ATOM) != 0, "(%s, case %d: flags %d)", m->name, full, (int)r[0].flags);
      CHECKF(!(full & 2) || r[0].yy > 0, "(%s)", m->name);
      CHECKF((full & 2) || r[0].r2 == 0 || isnan(r[0].r2), "(%s: r2 %g of y = 0)", m->name, r[0].r2);
    }
    unmerge_gram_destroy(g), unmerge_operator_destroy(ao), unmerge_operator_destroy(yo);
  }
}

/* Coefficients follow when atoms or the target change their unit, over a hundred orders of magnitude. */
static void scales(void) {
  problem q = make_problem(60, 4, 1);
  double expected[4], w[4], a[240], y[60];
  unmerge_view ev = view_f64(expected, 4, 1), v = view_f64(w, 4, 1), av = view_f64(a, 60, 4), yv = view_f64(y, 60, 1);
  OK(unmerge_nnls(q.gram, NULL, NULL, &ev, NULL, &e), e);
  const double units[] = {1e-100, 1e-30, 1, 1e30, 1e100};
  for (int i = 0; i < 5; i++)
    for (int k = 0; k < 5; k++) {
      for (int j = 0; j < 240; j++) a[j] = q.a[j] * units[i];
      for (int j = 0; j < 60; j++) y[j] = q.y[j] * units[k];
      unmerge_operator *ao = NULL, *yo = NULL;
      unmerge_gram *g = NULL;
      OK(unmerge_operator_from_matrix(&av, &ao, &e), e);
      OK(unmerge_operator_from_matrix(&yv, &yo, &e), e);
      OK(unmerge_gram_create(ao, yo, NULL, NULL, &g, &e), e);
      OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &e), e);
      for (int j = 0; j < 4; j++)
        CHECKF(fabs(w[j] - expected[j] * (units[k] / units[i])) <= 1e-9 * fabs(expected[0]) * (units[k] / units[i]),
               "(atoms %g, target %g: %g and %g)", units[i], units[k], w[j], expected[j] * units[k] / units[i]);
      unmerge_gram_destroy(g), unmerge_operator_destroy(ao), unmerge_operator_destroy(yo);
    }
  free_problem(&q);
}

/* Squares that overflow double cannot be answered; they must not become a wrong answer either. */
static void squares_that_overflow(void) {
  double a[3] = {1e200, -1e200, 1e200}, y[3] = {1, 2, 3}, w[1] = {-5};
  unmerge_view av = view_f64(a, 3, 1), yv = view_f64(y, 3, 1), v = view_f64(w, 1, 1);
  unmerge_operator *ao = NULL, *yo = NULL;
  unmerge_gram *g = NULL;
  OK(unmerge_operator_from_matrix(&av, &ao, &e), e);
  OK(unmerge_operator_from_matrix(&yv, &yo, &e), e);
  if (unmerge_gram_create(ao, yo, NULL, NULL, &g, &e) == UNMERGE_OK) {
    OK(unmerge_nnls(g, NULL, NULL, &v, NULL, &e), e);
    CHECKF(fabs(w[0] - 2.0 / 3 * 1e-200) < 1e-210, "(%g)", w[0]);
    unmerge_gram_destroy(g);
  } else {
    CHECK(e.status == UNMERGE_E_NONFINITE || e.status == UNMERGE_E_RANGE);
  }
  unmerge_operator_destroy(ao), unmerge_operator_destroy(yo);
}

MAIN(TEST(in_a_matrix), TEST(in_small_types), TEST(in_named_modules), TEST(in_lora_factors), TEST(in_an_accumulator),
     TEST(in_gram_arrays), TEST(in_coefficients), TEST(zero_data), TEST(scales), TEST(squares_that_overflow))
