/* Pursuit, thresholding and best subset from C: defaults, ranges, groups, order, and limits in which they agree. */
#include "check.h"

static unmerge_error e;
enum { P = 200, N = 12, T = 2 };

static void defaults(void) {
  unmerge_pursuit_options p;
  memset(&p, 0x5a, sizeof p);
  CHECK(unmerge_pursuit_options_init(&p, sizeof p) == UNMERGE_OK && p.k == 10 && p.per_step == 1 && p.residual_tol == 0);
  CHECK(p.correlation_tol == 0 && p.gamma == 0.5 && p.effective == 0 && p.n_groups == 0 && p.offsets == NULL && p.members == NULL);
  CHECK(p.kind == UNMERGE_PURSUIT_OMP && p.positive == 0 && p.size == UNMERGE_SIZE_K && p.reserved == 0);
  unmerge_thresholding_options t;
  memset(&t, 0x5a, sizeof t);
  CHECK(unmerge_thresholding_options_init(&t, sizeof t) == UNMERGE_OK && t.k == 10 && t.step == 0 && t.n_groups == 0);
  CHECK(t.offsets == NULL && t.kind == UNMERGE_THRESHOLDING_HTP && t.positive == 0 && t.warm_start == 0 && t.reserved == 0);
  unmerge_best_subset_options b;
  memset(&b, 0x5a, sizeof b);
  CHECK(unmerge_best_subset_options_init(&b, sizeof b) == UNMERGE_OK && b.k == 10 && b.ridge == 0 && b.gamma == 0.5);
  CHECK(b.effective == 0 && b.forced == NULL && b.n_forced == 0 && b.target == 0 && b.size == UNMERGE_SIZE_K && b.positive == 0);
}

#define BAD(field, ...)                                                                                                        \
  do {                                                                                                                         \
    if (REFUSED(__VA_ARGS__, e, UNMERGE_E_RANGE)) NAMES(e, field);                                                             \
  } while (0)
/* Sets one field, expects the refusal that names it, and restores the default. */
#define FIELD(type, call, field, value)                                                                                        \
  do {                                                                                                                         \
    unmerge_##type##_options_init(&o, sizeof o);                                                                               \
    o.field = value;                                                                                                           \
    BAD(#field, call);                                                                                                         \
  } while (0)

static void ranges(void) {
  problem q = make_problem(60, 4, 1);
  double w[4];
  unmerge_view v = view_f64(w, 4, 1);
  int64_t offsets[3] = {0, 2, 4}, falling[3] = {0, 3, 2}, members[4] = {0, 1, 2, 3}, outside[4] = {0, 1, 2, 4}, shared[4] = {0, 1, 1, 3};
  const double fractions[] = {NAN, -1e-300, 1.0000001, INFINITY};
  {
    unmerge_pursuit_options o;
#define PURSUIT unmerge_pursuit(q.gram, &o, NULL, &v, NULL, NULL, &e)
    const int64_t counts[] = {0, -1, INT64_MIN};
    for (int i = 0; i < 3; i++) {
      FIELD(pursuit, PURSUIT, k, counts[i]);
      FIELD(pursuit, PURSUIT, per_step, counts[i]);
    }
    for (int i = 0; i < 4; i++) {
      FIELD(pursuit, PURSUIT, residual_tol, fractions[i]);
      FIELD(pursuit, PURSUIT, correlation_tol, fractions[i]);
      FIELD(pursuit, PURSUIT, gamma, fractions[i]);
    }
    const double effective[] = {NAN, INFINITY, -1, 2.9};
    for (int i = 0; i < 4; i++) FIELD(pursuit, PURSUIT, effective, effective[i]);
    FIELD(pursuit, PURSUIT, kind, 3);
    FIELD(pursuit, PURSUIT, kind, -1);
    FIELD(pursuit, PURSUIT, positive, 2);
    FIELD(pursuit, PURSUIT, size, 4);
    unmerge_pursuit_options_init(&o, sizeof o);
    o.reserved = 1;
    REFUSED(PURSUIT, e, UNMERGE_E_VERSION);
    o.reserved = 0, o.k = INT64_MAX, o.per_step = INT64_MAX; /* no numbers to store for them */
    OK(PURSUIT, e);
    o.n_groups = 2, o.offsets = falling, o.members = members;
    BAD("offsets", PURSUIT);
    o.offsets = offsets, o.members = outside;
    BAD("members[3]", PURSUIT);
    o.members = NULL;
    REFUSED(PURSUIT, e, UNMERGE_E_NULL);
    o.members = shared; /* may overlap */
    OK(PURSUIT, e);
    o.kind = UNMERGE_PURSUIT_MP;
    BAD("per_step", PURSUIT);
    o.per_step = 1;
    BAD("offsets", PURSUIT);
  }
  {
    unmerge_thresholding_options o;
#define THRESHOLDING unmerge_thresholding(q.gram, &o, NULL, &v, NULL, &e)
    FIELD(thresholding, THRESHOLDING, k, 0);
    FIELD(thresholding, THRESHOLDING, step, NAN);
    FIELD(thresholding, THRESHOLDING, step, -1);
    FIELD(thresholding, THRESHOLDING, kind, 6);
    FIELD(thresholding, THRESHOLDING, kind, INT32_MIN);
    FIELD(thresholding, THRESHOLDING, positive, -1);
    FIELD(thresholding, THRESHOLDING, warm_start, 2);
    for (int kind = 0; kind < 6; kind++) {
      unmerge_thresholding_options_init(&o, sizeof o);
      o.kind = kind, o.k = INT64_MAX;
      OK(THRESHOLDING, e);
      o.n_groups = 2, o.offsets = offsets, o.members = shared;
      BAD("members", THRESHOLDING);
      o.members = members, o.k = 1;
      OK(THRESHOLDING, e);
      CHECK((w[0] != 0) == (w[1] != 0) && (w[2] != 0) == (w[3] != 0) && (w[0] != 0) != (w[2] != 0));
      o.step = DBL_MAX;
      if (kind == UNMERGE_THRESHOLDING_HTP || kind == UNMERGE_THRESHOLDING_IHT) OK(THRESHOLDING, e);
      else BAD("step", THRESHOLDING);
    }
  }
  {
    unmerge_best_subset_options o;
    int64_t forced[2] = {1, 1};
#define SUBSET unmerge_best_subset(q.gram, &o, NULL, &v, NULL, &e)
    FIELD(best_subset, SUBSET, k, 0);
    FIELD(best_subset, SUBSET, ridge, NAN);
    FIELD(best_subset, SUBSET, ridge, INFINITY);
    FIELD(best_subset, SUBSET, n_forced, -1);
    FIELD(best_subset, SUBSET, n_forced, 11);
    FIELD(best_subset, SUBSET, target, 1);
    FIELD(best_subset, SUBSET, size, -1);
    FIELD(best_subset, SUBSET, positive, 3);
    unmerge_best_subset_options_init(&o, sizeof o);
    o.n_forced = 2;
    REFUSED(SUBSET, e, UNMERGE_E_NULL);
    o.forced = forced;
    BAD("forced[1]", SUBSET);
    forced[1] = 4;
    BAD("forced[1]", SUBSET);
    o.n_forced = 0, o.k = INT64_MAX, o.ridge = DBL_MAX;
    OK(SUBSET, e);
    o.k = 2, o.target = -1;
    BAD("target", unmerge_best_subset_path(q.gram, &o, NULL, &v, NULL, &e));
    o.target = 0;
    REFUSED(unmerge_best_subset_path(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_SHAPE);
    double path[8];
    unmerge_view two = view_f64(path, 4, 2);
    OK(unmerge_best_subset_path(q.gram, &o, NULL, &two, NULL, &e), e);
    REFUSED(unmerge_best_subset_path(NULL, &o, NULL, &two, NULL, &e), e, UNMERGE_E_NULL);
  }
  free_problem(&q);
}

/* Two planted atoms, found by every kind, and in the order of their contributions. */
static void planted(void) {
  problem q = make_problem(P, N, T);
  double w[N * T];
  unmerge_view v = view_f64(w, N, T);
  int64_t order[4 * T], first[4 * T];
  unmerge_report r[T];
  unmerge_omp_options omp;
  unmerge_omp_options_init(&omp, sizeof omp);
  omp.k = 4;
  OK(unmerge_omp(q.gram, &omp, NULL, &v, first, NULL, &e), e);
  double best[T] = {INFINITY, INFINITY};
  for (int kind = 0; kind < 3; kind++) {
    unmerge_pursuit_options o;
    unmerge_pursuit_options_init(&o, sizeof o);
    o.k = 4, o.kind = kind;
    unmerge_report_init(&r[0], sizeof r[0]);
    OK(unmerge_pursuit(q.gram, &o, NULL, &v, order, r, &e), e);
    for (int t = 0; t < T; t++) {
      CHECK(r[t].nonzeros <= 4 && isnan(r[t].duality_gap) && r[t].outcome == UNMERGE_CONVERGED);
      if (kind < 2 && r[t].rss < best[t]) best[t] = r[t].rss;
      for (int i = 0; i < 4; i++) {
        const int64_t j = order[i * T + t];
        CHECK(j >= -1 && j < N && (j < 0 || w[j * T + t] != 0));
        if (kind == UNMERGE_PURSUIT_OMP) CHECK(j == first[i * T + t]);
      }
    }
  }
  for (int kind = 0; kind < 6; kind++) {
    unmerge_thresholding_options o;
    unmerge_thresholding_options_init(&o, sizeof o);
    o.k = 4, o.kind = kind;
    unmerge_report_init(&r[0], sizeof r[0]);
    OK(unmerge_thresholding(q.gram, &o, NULL, &v, r, &e), e);
    for (int t = 0; t < T; t++) {
      CHECK(r[t].nonzeros <= 4 && r[t].violation < 1e-10 && isnan(r[t].duality_gap));
      if (r[t].rss < best[t]) best[t] = r[t].rss;
    }
  }
  unmerge_best_subset_options o;
  unmerge_best_subset_options_init(&o, sizeof o);
  o.k = 4;
  unmerge_report_init(&r[0], sizeof r[0]);
  OK(unmerge_best_subset(q.gram, &o, NULL, &v, r, &e), e);
  for (int t = 0; t < T; t++) {
    CHECK((r[t].flags & UNMERGE_FLAG_SWAP_OPTIMAL) != 0 || (r[t].flags & UNMERGE_FLAG_FULLY_EXPLAINED) != 0);
    CHECK(r[t].rss <= best[t] * (1 + 1e-9) + 1e-12 * r[t].yy);
  }
  free_problem(&q);
}

MAIN(TEST(defaults), TEST(ranges), TEST(planted))
