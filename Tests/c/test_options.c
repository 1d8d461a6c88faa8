/* Every option outside its range is refused by name; the ends of the range are accepted. */
#include "check.h"

static unmerge_error e;
static problem q;
static double w[64];
static unmerge_view v;

static void set_up(void) {
  q = make_problem(60, 4, 1);
  v = view_f64(w, 4, 1);
}

#define BAD(field, ...)                                                                                                        \
  do {                                                                                                                         \
    if (REFUSED(__VA_ARGS__, e, UNMERGE_E_RANGE)) NAMES(e, field);                                                             \
  } while (0)

static const double not_a_number_or_negative[] = {NAN, INFINITY, -INFINITY, -1, -1e-300, -DBL_MAX};
static const double outside_unit[] = {NAN, INFINITY, -INFINITY, -1e-9, 2, 1.0000001};
static const int32_t not_boolean[] = {-1, 2, 99, INT32_MAX, INT32_MIN};
#define EACH(list, name) for (size_t i_##name = 0; i_##name < sizeof list / sizeof *list; i_##name++)
#define AT(list, name) list[i_##name]

static void run(void) {
  set_up();
  const double tols[] = {0, 1, -1, 2, NAN, INFINITY, -1e-10};
  EACH_METHOD(m) {
    unmerge_view c = view_f64(w, 4, columns_of(m, 1));
    EACH(tols, i) {
      unmerge_run r = new_run();
      r.tol = AT(tols, i);
      BAD("tol", m->call(q.gram, NULL, &r, &c, NULL, &e));
    }
    unmerge_run r = new_run();
    r.max_iter = -1;
    BAD("max_iter", m->call(q.gram, NULL, &r, &c, NULL, &e));
    r.max_iter = INT64_MIN;
    BAD("max_iter", m->call(q.gram, NULL, &r, &c, NULL, &e));
    r = new_run();
    const double deadlines[] = {-1, NAN, -INFINITY};
    EACH(deadlines, i) {
      r.deadline = AT(deadlines, i);
      BAD("deadline", m->call(q.gram, NULL, &r, &c, NULL, &e));
    }
    r = new_run();
    const int32_t threads[] = {-1, INT32_MIN};
    EACH(threads, i) {
      r.threads = AT(threads, i);
      BAD("threads", m->call(q.gram, NULL, &r, &c, NULL, &e));
    }
    r = new_run();
    r.tol = 1e-15, r.max_iter = INT64_MAX, r.deadline = 3600, r.threads = 3, r.seed = UINT64_MAX; /* the ends */
    OK(m->call(q.gram, NULL, &r, &c, NULL, &e), e);
    r.tol = 0.999999, r.threads = 1;
    OK(m->call(q.gram, NULL, &r, &c, NULL, &e), e);
  }
  unmerge_run r = new_run();
  r.threads = -1;
  unmerge_gram *g = NULL;
  unmerge_mask *mask = NULL;
  memset(w, 0, sizeof w);
  BAD("threads", unmerge_gram_create(q.ao, q.yo, NULL, &r, &g, &e));
  BAD("threads", unmerge_mask_create(q.ao, NULL, &r, &mask, &e));
  BAD("threads", unmerge_verify(q.ao, q.yo, NULL, &r, &v, NULL, NULL, &e));
  BAD("threads", unmerge_refine(q.gram, q.ao, q.yo, NULL, &r, &v, NULL, &e));
  CHECK(g == NULL && mask == NULL);
}

static void dot(void) {
  set_up();
  unmerge_dot_options o;
  unmerge_dot_options_init(&o, sizeof o);
  const int32_t variants[] = {-1, 4, 99, INT32_MAX, INT32_MIN};
  EACH(variants, i) {
    o.variant = AT(variants, i);
    BAD("variant", unmerge_dot(q.gram, &o, NULL, &v, NULL, &e));
  }
  for (o.variant = 0; o.variant < 4; o.variant++) OK(unmerge_dot(q.gram, &o, NULL, &v, NULL, &e), e);
}

/* alpha and weights mean the same in ridge, lasso, elastic net and problem. */
#define PENALTY(type, call)                                                                                                    \
  do {                                                                                                                         \
    type o;                                                                                                                    \
    type##_init(&o, sizeof o);                                                                                                 \
    EACH(not_a_number_or_negative, i) {                                                                                        \
      o.alpha = AT(not_a_number_or_negative, i);                                                                               \
      BAD("alpha", call);                                                                                                      \
    }                                                                                                                          \
    o.alpha = 0;                                                                                                               \
    OK(call, e);                                                                                                               \
    o.alpha = 1e300;                                                                                                           \
    OK(call, e);                                                                                                               \
    o.alpha = DBL_MIN;                                                                                                         \
    OK(call, e);                                                                                                               \
    double weights[4] = {1, 1, 0, 2};                                                                                          \
    o.weights = weights;                                                                                                       \
    o.alpha = 0.1;                                                                                                             \
    OK(call, e);                                                                                                               \
    EACH(not_a_number_or_negative, i) {                                                                                        \
      weights[3] = AT(not_a_number_or_negative, i);                                                                            \
      BAD("weights", call);                                                                                                    \
    }                                                                                                                          \
    weights[0] = weights[1] = weights[2] = weights[3] = 0;                                                                     \
    OK(call, e);                                                                                                               \
  } while (0)

#define BOOLEAN(type, field, call)                                                                                             \
  do {                                                                                                                         \
    type o;                                                                                                                    \
    type##_init(&o, sizeof o);                                                                                                 \
    EACH(not_boolean, i) {                                                                                                     \
      o.field = AT(not_boolean, i);                                                                                            \
      BAD(#field, call);                                                                                                       \
    }                                                                                                                          \
    o.field = 1;                                                                                                               \
    memset(w, 0, sizeof w);                                                                                                    \
    OK(call, e);                                                                                                               \
  } while (0)

static void ridge(void) {
  set_up();
  PENALTY(unmerge_ridge_options, unmerge_ridge(q.gram, &o, NULL, &v, NULL, &e));
}

static void lasso(void) {
  set_up();
  PENALTY(unmerge_lasso_options, unmerge_lasso(q.gram, &o, NULL, &v, NULL, &e));
  BOOLEAN(unmerge_lasso_options, relative, unmerge_lasso(q.gram, &o, NULL, &v, NULL, &e));
  BOOLEAN(unmerge_lasso_options, positive, unmerge_lasso(q.gram, &o, NULL, &v, NULL, &e));
  BOOLEAN(unmerge_lasso_options, warm_start, unmerge_lasso(q.gram, &o, NULL, &v, NULL, &e));
}

static void elastic_net(void) {
  set_up();
  PENALTY(unmerge_elastic_net_options, unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e));
  BOOLEAN(unmerge_elastic_net_options, relative, unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e));
  BOOLEAN(unmerge_elastic_net_options, positive, unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e));
  BOOLEAN(unmerge_elastic_net_options, warm_start, unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e));
  unmerge_elastic_net_options o;
  unmerge_elastic_net_options_init(&o, sizeof o);
  EACH(outside_unit, i) {
    o.l1_ratio = AT(outside_unit, i);
    BAD("l1_ratio", unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e));
  }
  o.l1_ratio = 0;
  OK(unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e), e);
  o.relative = 1; /* there is no alpha_max without an l1 term */
  REFUSED(unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_RANGE);
  o.l1_ratio = 1;
  OK(unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e), e);
}

static void alpha_max(void) {
  set_up();
  double a = -5;
  EACH(outside_unit, i) BAD("l1_ratio", unmerge_alpha_max(q.gram, AT(outside_unit, i), NULL, 0, &a, &e));
  BAD("l1_ratio", unmerge_alpha_max(q.gram, 0, NULL, 0, &a, &e));
  EACH(not_boolean, i) BAD("positive", unmerge_alpha_max(q.gram, 1, NULL, AT(not_boolean, i), &a, &e));
  double weights[4] = {1, 1, 1, NAN};
  BAD("weights", unmerge_alpha_max(q.gram, 1, weights, 0, &a, &e));
  CHECK(a == -5);
  OK(unmerge_alpha_max(q.gram, 1, NULL, 0, &a, &e), e);
  CHECK(a > 0);
}

static void nnls(void) {
  set_up();
  BOOLEAN(unmerge_nnls_options, warm_start, unmerge_nnls(q.gram, &o, NULL, &v, NULL, &e));
}

static void omp(void) {
  set_up();
  BOOLEAN(unmerge_omp_options, positive, unmerge_omp(q.gram, &o, NULL, &v, NULL, NULL, &e));
  unmerge_omp_options o;
  unmerge_omp_options_init(&o, sizeof o);
  const int64_t ks[] = {0, -1, INT64_MIN};
  EACH(ks, i) {
    o.k = AT(ks, i);
    BAD("k", unmerge_omp(q.gram, &o, NULL, &v, NULL, NULL, &e));
  }
  o.k = 2;
  EACH(outside_unit, i) {
    o.residual_tol = AT(outside_unit, i);
    BAD("residual_tol", unmerge_omp(q.gram, &o, NULL, &v, NULL, NULL, &e));
  }
  o.residual_tol = 1;
  OK(unmerge_omp(q.gram, &o, NULL, &v, NULL, NULL, &e), e);
}

static void path(void) {
  set_up();
  unmerge_path_options o;
  unmerge_path_options_init(&o, sizeof o);
  o.n_alphas = 5;
  unmerge_view c = view_f64(w, 4, 5);
#define PATH unmerge_lasso_path(q.gram, &o, NULL, NULL, &c, NULL, &e)
  EACH(outside_unit, i) {
    o.l1_ratio = AT(outside_unit, i);
    BAD("l1_ratio", PATH);
  }
  o.l1_ratio = 0;
  BAD("l1_ratio", PATH);
  o.l1_ratio = 1;
  const double ratios[] = {0, 1, -1, 2, NAN, INFINITY};
  EACH(ratios, i) {
    o.alpha_min_ratio = AT(ratios, i);
    BAD("alpha_min_ratio", PATH);
  }
  o.alpha_min_ratio = 1e-3;
  const int64_t counts[] = {0, -1, INT64_MIN};
  EACH(counts, i) {
    o.n_alphas = AT(counts, i);
    REFUSED2(PATH, e, UNMERGE_E_RANGE, UNMERGE_E_SHAPE);
  }
  o.n_alphas = 5;
  const int64_t targets[] = {-1, 1, INT64_MAX, INT64_MIN};
  EACH(targets, i) {
    o.target = AT(targets, i);
    BAD("target", PATH);
  }
  o.target = 0;
  EACH(not_boolean, i) {
    o.positive = AT(not_boolean, i);
    BAD("positive", PATH);
  }
  o.positive = 1;
  OK(PATH, e);
  double alphas[5] = {0.1, 0.2, 0, 0.05, 0.1};
  o.alphas = alphas;
  OK(PATH, e);
  EACH(not_a_number_or_negative, i) {
    alphas[3] = AT(not_a_number_or_negative, i);
    BAD("alphas", PATH);
  }
  o.alphas = NULL;
  double weights[4] = {1, 1, -1, 1};
  o.weights = weights;
  BAD("weights", PATH);
  o.weights = NULL;
  o.n_alphas = 1; /* one alpha: alpha_max itself */
  c = view_f64(w, 4, 1);
  OK(PATH, e);
}

static void gram(void) {
  set_up();
  unmerge_gram_options o;
  unmerge_gram *g = NULL;
  const int32_t codes[] = {-1, 3, 99, INT32_MAX, INT32_MIN};
  EACH(codes, i) {
    unmerge_gram_options_init(&o, sizeof o);
    o.precision = AT(codes, i);
    BAD("precision", unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e));
    unmerge_gram_options_init(&o, sizeof o);
    o.columns = AT(codes, i);
    BAD("columns", unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e));
    unmerge_gram_options_init(&o, sizeof o);
    o.blocks = AT(codes, i);
    BAD("blocks", unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e));
  }
  unmerge_gram_options_init(&o, sizeof o);
  const int32_t folds[] = {0, -1, INT32_MIN};
  EACH(folds, i) {
    o.folds = AT(folds, i);
    BAD("folds", unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e));
  }
  unmerge_gram_options_init(&o, sizeof o);
  const double accuracies[] = {NAN, INFINITY, -1, 0};
  EACH(accuracies, i) {
    o.accuracy = AT(accuracies, i);
    BAD("accuracy", unmerge_gram_create(q.ao, q.yo, &o, NULL, &g, &e));
  }
  CHECK(g == NULL);
  unmerge_accumulator *acc = NULL;
  unmerge_gram_options_init(&o, sizeof o);
  o.precision = 7;
  BAD("precision", unmerge_accumulator_create(4, 1, &o, &acc, &e));
  CHECK(acc == NULL);
}

static void mask(void) {
  set_up();
  unmerge_mask_options o;
  unmerge_mask *m = NULL;
  const int64_t negative[] = {-1, INT64_MIN};
  EACH(negative, i) {
    unmerge_mask_options_init(&o, sizeof o);
    o.per_module = AT(negative, i);
    BAD("per_module", unmerge_mask_create(q.ao, &o, NULL, &m, &e));
    unmerge_mask_options_init(&o, sizeof o);
    o.total = AT(negative, i);
    BAD("total", unmerge_mask_create(q.ao, &o, NULL, &m, &e));
  }
  CHECK(m == NULL);
  unmerge_mask_options_init(&o, sizeof o);
  o.per_module = INT64_MAX; /* a smaller module keeps all */
  OK(unmerge_mask_create(q.ao, &o, NULL, &m, &e), e);
  int64_t n = 0;
  OK(unmerge_mask_count(m, -1, &n, &e), e);
  CHECK(n == 60);
  unmerge_mask_destroy(m);
}

static void problem_options(void) {
  set_up();
  memset(w, 0, sizeof w);
#define VERIFY unmerge_verify(q.ao, q.yo, &o, NULL, &v, NULL, NULL, &e)
#define REFINE unmerge_refine(q.gram, q.ao, q.yo, &o, NULL, &v, NULL, &e)
  PENALTY(unmerge_problem, VERIFY);
  memset(w, 0, sizeof w);
  PENALTY(unmerge_problem, REFINE);
  memset(w, 0, sizeof w);
  BOOLEAN(unmerge_problem, positive, VERIFY);
  BOOLEAN(unmerge_problem, support_only, VERIFY);
  BOOLEAN(unmerge_problem, positive, REFINE);
  BOOLEAN(unmerge_problem, support_only, REFINE);
  unmerge_problem o;
  unmerge_problem_init(&o, sizeof o);
  EACH(outside_unit, i) {
    o.l1_ratio = AT(outside_unit, i);
    BAD("l1_ratio", VERIFY);
    BAD("l1_ratio", REFINE);
  }
}

MAIN(TEST(run), TEST(dot), TEST(ridge), TEST(lasso), TEST(elastic_net), TEST(alpha_max), TEST(nnls), TEST(omp), TEST(path), TEST(gram),
     TEST(mask), TEST(problem_options))
