/* NULL: required arguments are refused, optional ones are accepted, for every function. */
#include "check.h"

static unmerge_error e;
#define NULLED(expression) REFUSED2(expression, e, UNMERGE_E_NULL, UNMERGE_E_HANDLE)

static void inits(void) {
  CHECK(unmerge_run_init(NULL, sizeof(unmerge_run)) == UNMERGE_E_NULL);
  CHECK(unmerge_report_init(NULL, sizeof(unmerge_report)) == UNMERGE_E_NULL);
  CHECK(unmerge_mask_options_init(NULL, sizeof(unmerge_mask_options)) == UNMERGE_E_NULL);
  CHECK(unmerge_gram_options_init(NULL, sizeof(unmerge_gram_options)) == UNMERGE_E_NULL);
  CHECK(unmerge_problem_init(NULL, sizeof(unmerge_problem)) == UNMERGE_E_NULL);
  EACH_METHOD(m) CHECKF(m->init(NULL, m->size) == UNMERGE_E_NULL, "(%s)", m->name);
}

static void names_are_never_null(void) {
  CHECK(strcmp(unmerge_version(), "1.0.0") == 0);
  CHECK(strcmp(unmerge_status_name(UNMERGE_E_SHAPE), "UNMERGE_E_SHAPE") == 0);
  CHECK(strcmp(unmerge_outcome_name(UNMERGE_CONVERGED), "converged") == 0);
  CHECK(unmerge_blas_description() != NULL && *unmerge_blas_description() != 0);
  const int32_t strange[] = {1, -13, -100, 5, 99, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
    CHECK(unmerge_status_name(strange[i]) != NULL);
    CHECK(unmerge_outcome_name(strange[i]) != NULL);
  }
  for (int32_t s = -12; s <= 0; s++) CHECKF(strncmp(unmerge_status_name(s), "UNMERGE_", 8) == 0, "(%d)", (int)s);
}

static void operators(void) {
  double x[6] = {1, 2, 3, 4, 5, 6};
  unmerge_view v = view_f64(x, 3, 2), nothing = view_f64(NULL, 3, 2);
  unmerge_operator *op = NULL;
  int64_t index = -5;
  NULLED(unmerge_operator_create(NULL, &e));
  NULLED(unmerge_operator_from_matrix(NULL, &op, &e));
  NULLED(unmerge_operator_from_matrix(&v, NULL, &e));
  NULLED(unmerge_operator_from_matrix(&nothing, &op, &e));
  CHECK(op == NULL);
  OK(unmerge_operator_create(&op, &e), e);
  NULLED(unmerge_operator_add_module(NULL, "m", 3, 2, &index, &e));
  NULLED(unmerge_operator_add_module(op, NULL, 3, 2, &index, &e));
  NULLED(unmerge_operator_add_column(NULL, "c", &index, &e));
  NULLED(unmerge_operator_add_column(op, NULL, &index, &e));
  CHECK(index == -5);
  OK(unmerge_operator_add_module(op, "m", 3, 2, NULL, &e), e); /* the index may be NULL */
  OK(unmerge_operator_add_column(op, "c", NULL, &e), e);
  NULLED(unmerge_operator_set_dense(NULL, 0, 0, &v, NULL, 1, &e));
  NULLED(unmerge_operator_set_dense(op, 0, 0, NULL, NULL, 1, &e));
  NULLED(unmerge_operator_set_dense(op, 0, 0, &nothing, NULL, 1, &e));
  NULLED(unmerge_operator_set_dense(op, 0, 0, &v, &nothing, 1, &e));
  NULLED(unmerge_operator_set_lora(NULL, 0, 0, &v, &v, 1, &e));
  NULLED(unmerge_operator_set_lora(op, 0, 0, NULL, &v, 1, &e));
  NULLED(unmerge_operator_set_lora(op, 0, 0, &v, NULL, 1, &e));
  NULLED(unmerge_operator_shape(NULL, &index, &index, &index, &e));
  OK(unmerge_operator_shape(op, NULL, NULL, NULL, &e), e);
  int64_t modules = 0, columns = 0, entries = 0;
  OK(unmerge_operator_shape(op, &modules, &columns, &entries, &e), e);
  CHECK(modules == 1 && columns == 1 && entries == 6);
  unmerge_operator_destroy(op);
  unmerge_operator_destroy(NULL);
}

static void masks(void) {
  problem q = make_problem(60, 4, 1);
  unmerge_mask *mask = NULL;
  int64_t count = -5, indices[60];
  NULLED(unmerge_mask_create(NULL, NULL, NULL, &mask, &e));
  NULLED(unmerge_mask_create(q.ao, NULL, NULL, NULL, &e));
  OK(unmerge_mask_create(q.ao, NULL, NULL, &mask, &e), e);
  NULLED(unmerge_mask_count(NULL, 0, &count, &e));
  NULLED(unmerge_mask_count(mask, 0, NULL, &e));
  NULLED(unmerge_mask_indices(NULL, 0, indices, 60, &e));
  NULLED(unmerge_mask_indices(mask, 0, NULL, 60, &e));
  CHECK(count == -5);
  unmerge_mask_destroy(mask);
  unmerge_mask_destroy(NULL);
  free_problem(&q);
}

static void grams(void) {
  problem q = make_problem(60, 4, 1);
  unmerge_gram *g = NULL;
  double gg[16], c[4], yy[1];
  unmerge_view gv = view_f64(gg, 4, 4), cv = view_f64(c, 4, 1), yv = view_f64(yy, 1, 1);
  NULLED(unmerge_gram_create(NULL, q.yo, NULL, NULL, &g, &e));
  NULLED(unmerge_gram_create(q.ao, NULL, NULL, NULL, &g, &e));
  NULLED(unmerge_gram_create(q.ao, q.yo, NULL, NULL, NULL, &e));
  OK(unmerge_gram_arrays(q.gram, -1, &gv, &cv, &yv, &e), e);
  OK(unmerge_gram_arrays(q.gram, -1, NULL, NULL, NULL, &e), e); /* each may be NULL */
  NULLED(unmerge_gram_arrays(NULL, -1, &gv, &cv, &yv, &e));
  NULLED(unmerge_gram_from_arrays(NULL, &cv, &yv, 60, &g, &e));
  NULLED(unmerge_gram_from_arrays(&gv, NULL, &yv, 60, &g, &e));
  NULLED(unmerge_gram_from_arrays(&gv, &cv, NULL, 60, &g, &e));
  NULLED(unmerge_gram_from_arrays(&gv, &cv, &yv, 60, NULL, &e));
  unmerge_gram_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  NULLED(unmerge_gram_get_info(NULL, &info, &e));
  NULLED(unmerge_gram_get_info(q.gram, NULL, &e));
  NULLED(unmerge_gram_block(NULL, 0, NULL, NULL, NULL, &e));
  OK(unmerge_gram_block(q.gram, 0, NULL, NULL, NULL, &e), e);
  NULLED(unmerge_gram_merge(NULL, q.gram, &g, &e));
  NULLED(unmerge_gram_merge(q.gram, NULL, &g, &e));
  NULLED(unmerge_gram_merge(q.gram, q.gram, NULL, &e));
  NULLED(unmerge_gram_subset(NULL, NULL, 0, NULL, 0, &g, &e));
  NULLED(unmerge_gram_subset(q.gram, NULL, 0, NULL, 0, NULL, &e));
  int64_t size = -5;
  NULLED(unmerge_gram_saved_size(NULL, &size, &e));
  NULLED(unmerge_gram_saved_size(q.gram, NULL, &e));
  CHECK(size == -5);
  OK(unmerge_gram_saved_size(q.gram, &size, &e), e);
  NULLED(unmerge_gram_save(NULL, gg, size, &e));
  NULLED(unmerge_gram_save(q.gram, NULL, size, &e));
  NULLED(unmerge_gram_load(NULL, 64, &g, &e));
  NULLED(unmerge_gram_load(gg, 64, NULL, &e));
  CHECK(g == NULL);
  OK(unmerge_gram_subset(q.gram, NULL, 0, NULL, 0, &g, &e), e); /* NULL lists: all */
  unmerge_gram_destroy(g);
  unmerge_gram_destroy(NULL);
  free_problem(&q);
}

static void accumulators(void) {
  double x[4] = {1, 2, 3, 4}, y[2] = {1, 2};
  unmerge_view a = view_f64(x, 2, 2), b = view_f64(y, 2, 1);
  unmerge_accumulator *acc = NULL;
  unmerge_gram *g = NULL;
  NULLED(unmerge_accumulator_create(2, 1, NULL, NULL, &e));
  OK(unmerge_accumulator_create(2, 1, NULL, &acc, &e), e);
  NULLED(unmerge_accumulator_add(NULL, &a, &b, NULL, &e));
  NULLED(unmerge_accumulator_add(acc, NULL, &b, NULL, &e));
  NULLED(unmerge_accumulator_add(acc, &a, NULL, NULL, &e));
  NULLED(unmerge_accumulator_finish(NULL, &g, &e));
  NULLED(unmerge_accumulator_finish(acc, NULL, &e));
  CHECK(g == NULL);
  unmerge_accumulator_destroy(acc);
  unmerge_accumulator_destroy(NULL);
}

static void every_method(void) {
  problem q = make_problem(60, 4, 2);
  EACH_METHOD(m) {
    double w[4 * PATH_ALPHAS];
    unmerge_view v = view_f64(w, 4, columns_of(m, 2)), nothing = view_f64(NULL, 4, columns_of(m, 2));
    NULLED(m->call(NULL, NULL, NULL, &v, NULL, &e));
    NULLED(m->call(q.gram, NULL, NULL, NULL, NULL, &e));
    NULLED(m->call(q.gram, NULL, NULL, &nothing, NULL, &e));
    OK(m->call(q.gram, NULL, NULL, &v, NULL, &e), e); /* options, run and reports */
    CHECK(m->call(q.gram, NULL, NULL, &v, NULL, NULL) == UNMERGE_OK); /* and the error */
    CHECK(m->call(NULL, NULL, NULL, &v, NULL, NULL) < 0);
  }
  double alpha;
  NULLED(unmerge_alpha_max(NULL, 1, NULL, 0, &alpha, &e));
  NULLED(unmerge_alpha_max(q.gram, 1, NULL, 0, NULL, &e));
  free_problem(&q);
}

static void verify_and_refine(void) {
  problem q = make_problem(60, 4, 1);
  double w[4] = {0, 0, 0, 0};
  unmerge_view v = view_f64(w, 4, 1);
  NULLED(unmerge_verify(NULL, q.yo, NULL, NULL, &v, NULL, NULL, &e));
  NULLED(unmerge_verify(q.ao, NULL, NULL, NULL, &v, NULL, NULL, &e));
  NULLED(unmerge_verify(q.ao, q.yo, NULL, NULL, NULL, NULL, NULL, &e));
  OK(unmerge_verify(q.ao, q.yo, NULL, NULL, &v, NULL, NULL, &e), e);
  NULLED(unmerge_refine(NULL, q.ao, q.yo, NULL, NULL, &v, NULL, &e));
  NULLED(unmerge_refine(q.gram, NULL, q.yo, NULL, NULL, &v, NULL, &e));
  NULLED(unmerge_refine(q.gram, q.ao, NULL, NULL, NULL, &v, NULL, &e));
  NULLED(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, NULL, NULL, &e));
  OK(unmerge_refine(q.gram, q.ao, q.yo, NULL, NULL, &v, NULL, &e), e);
  free_problem(&q);
}

static void error_may_be_null(void) {
  double x[4] = {1, 2, 3, 4};
  unmerge_view v = view_f64(x, 2, 2);
  unmerge_operator *op = NULL;
  CHECK(unmerge_operator_from_matrix(NULL, &op, NULL) == UNMERGE_E_NULL);
  CHECK(unmerge_operator_from_matrix(&v, &op, NULL) == UNMERGE_OK);
  CHECK(unmerge_gram_create(NULL, NULL, NULL, NULL, NULL, NULL) < 0);
  CHECK(unmerge_mask_create(NULL, NULL, NULL, NULL, NULL) < 0);
  CHECK(unmerge_accumulator_create(-1, 1, NULL, NULL, NULL) < 0);
  CHECK(unmerge_verify(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) < 0);
  unmerge_operator_destroy(op);
}

MAIN(TEST(inits), TEST(names_are_never_null), TEST(operators), TEST(masks), TEST(grams), TEST(accumulators), TEST(every_method),
     TEST(verify_and_refine), TEST(error_may_be_null))
