/* Growable structs: an older, smaller one keeps the defaults of what it lacks; a newer, larger one is accepted while what this
 * library does not know is zero; size 0 is refused. */
#include "check.h"

static unmerge_error e;

enum { ROOM = 512, SURPLUS = 64 };
typedef union room { /* any option struct, with space behind it */
  size_t struct_size;
  double align;
  unsigned char bytes[ROOM];
} room;

static void defaults(void) {
  unmerge_run r;
  memset(&r, 0x5a, sizeof r);
  CHECK(unmerge_run_init(&r, sizeof r) == UNMERGE_OK);
  CHECK(r.struct_size == sizeof r && r.tol == 1e-10 && r.max_iter == 10000 && r.deadline == 0 && r.seed == 0 && r.threads == 0);
  CHECK(r.reserved == 0 && r.progress == NULL && r.progress_user == NULL && r.cancel == NULL);
  unmerge_report p;
  memset(&p, 0x5a, sizeof p);
  CHECK(unmerge_report_init(&p, sizeof p) == UNMERGE_OK);
  CHECK(p.struct_size == sizeof p && p.reserved == 0);
  unmerge_mask_options m;
  memset(&m, 0x5a, sizeof m);
  CHECK(unmerge_mask_options_init(&m, sizeof m) == UNMERGE_OK);
  CHECK(m.struct_size == sizeof m && m.per_module == 0 && m.total == 999936);
  unmerge_gram_options g;
  memset(&g, 0x5a, sizeof g);
  CHECK(unmerge_gram_options_init(&g, sizeof g) == UNMERGE_OK);
  CHECK(g.struct_size == sizeof g && g.precision == UNMERGE_PRECISION_AUTO && g.columns == UNMERGE_COLUMNS_ALL);
  CHECK(g.blocks == UNMERGE_BLOCKS_PER_MODULE && g.folds == 1 && g.accuracy == 1e-5 && g.mask == NULL);
  unmerge_dot_options d;
  memset(&d, 0x5a, sizeof d);
  CHECK(unmerge_dot_options_init(&d, sizeof d) == UNMERGE_OK && d.variant == UNMERGE_DOT_RAW && d.reserved == 0);
  unmerge_ridge_options ri;
  memset(&ri, 0x5a, sizeof ri);
  CHECK(unmerge_ridge_options_init(&ri, sizeof ri) == UNMERGE_OK && ri.alpha == 1 && ri.weights == NULL);
  unmerge_lasso_options la;
  memset(&la, 0x5a, sizeof la);
  CHECK(unmerge_lasso_options_init(&la, sizeof la) == UNMERGE_OK && la.alpha == 1 && la.weights == NULL);
  CHECK(la.relative == 0 && la.positive == 0 && la.warm_start == 0 && la.reserved == 0);
  unmerge_elastic_net_options en;
  memset(&en, 0x5a, sizeof en);
  CHECK(unmerge_elastic_net_options_init(&en, sizeof en) == UNMERGE_OK && en.alpha == 1 && en.l1_ratio == 0.5);
  CHECK(en.weights == NULL && en.relative == 0 && en.positive == 0 && en.warm_start == 0);
  unmerge_path_options pa;
  memset(&pa, 0x5a, sizeof pa);
  CHECK(unmerge_path_options_init(&pa, sizeof pa) == UNMERGE_OK && pa.l1_ratio == 1 && pa.alpha_min_ratio == 1e-3);
  CHECK(pa.alphas == NULL && pa.weights == NULL && pa.n_alphas == 100 && pa.target == 0 && pa.positive == 0);
  unmerge_nnls_options nn;
  memset(&nn, 0x5a, sizeof nn);
  CHECK(unmerge_nnls_options_init(&nn, sizeof nn) == UNMERGE_OK && nn.warm_start == 0);
  unmerge_omp_options om;
  memset(&om, 0x5a, sizeof om);
  CHECK(unmerge_omp_options_init(&om, sizeof om) == UNMERGE_OK && om.k == 10 && om.residual_tol == 0 && om.positive == 0);
  unmerge_problem pr;
  memset(&pr, 0x5a, sizeof pr);
  CHECK(unmerge_problem_init(&pr, sizeof pr) == UNMERGE_OK && pr.alpha == 0 && pr.l1_ratio == 1 && pr.weights == NULL);
  CHECK(pr.positive == 0 && pr.support_only == 0 && pr.mask == NULL);
}

static void init_of_other_versions(void) {
  EACH_METHOD(m) {
    room o;
    memset(&o, 0x5a, sizeof o);
    CHECKF(m->init(&o, 0) == UNMERGE_E_VERSION, "(%s)", m->name);
    CHECKF(o.bytes[0] == 0x5a, "(%s: size 0 wrote)", m->name);
    CHECKF(m->init(&o, m->size + SURPLUS) == UNMERGE_OK, "(%s)", m->name); /* a newer header */
    CHECKF(o.struct_size == m->size + SURPLUS, "(%s)", m->name);
    for (size_t i = m->size; i < m->size + SURPLUS; i++) CHECKF(o.bytes[i] == 0, "(%s: byte %zu)", m->name, i);
    CHECKF(o.bytes[m->size + SURPLUS] == 0x5a, "(%s: wrote behind the struct)", m->name);
  }
  room o;
  memset(&o, 0x5a, sizeof o);
  const size_t older = offsetof(unmerge_elastic_net_options, weights);
  CHECK(unmerge_elastic_net_options_init((void *)&o, older) == UNMERGE_OK); /* an older header */
  CHECK(o.struct_size == older);
  for (size_t i = older; i < sizeof o; i++) CHECK(o.bytes[i] == 0x5a);
}

static void size_zero(void) {
  problem q = make_problem(60, 4, 1);
  double w[4 * PATH_ALPHAS];
  EACH_METHOD(m) {
    unmerge_view v = view_f64(w, 4, columns_of(m, 1));
    room o;
    m->init(&o, m->size);
    o.struct_size = 0;
    REFUSED(m->call(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_VERSION);
    unmerge_run r = new_run();
    r.struct_size = 0;
    REFUSED(m->call(q.gram, NULL, &r, &v, NULL, &e), e, UNMERGE_E_VERSION);
    unmerge_report reports[PATH_ALPHAS];
    memset(reports, 0, sizeof reports);
    REFUSED(m->call(q.gram, NULL, NULL, &v, reports, &e), e, UNMERGE_E_VERSION);
  }
  unmerge_gram_options g;
  unmerge_gram_options_init(&g, sizeof g);
  g.struct_size = 0;
  unmerge_gram *out = NULL;
  REFUSED(unmerge_gram_create(q.ao, q.yo, &g, NULL, &out, &e), e, UNMERGE_E_VERSION);
  unmerge_accumulator *acc = NULL;
  REFUSED(unmerge_accumulator_create(2, 1, &g, &acc, &e), e, UNMERGE_E_VERSION);
  unmerge_mask_options mo;
  unmerge_mask_options_init(&mo, sizeof mo);
  mo.struct_size = 0;
  unmerge_mask *mask = NULL;
  REFUSED(unmerge_mask_create(q.ao, &mo, NULL, &mask, &e), e, UNMERGE_E_VERSION);
  unmerge_problem pr;
  unmerge_problem_init(&pr, sizeof pr);
  pr.struct_size = 0;
  unmerge_view v = view_f64(w, 4, 1);
  memset(w, 0, sizeof w);
  REFUSED(unmerge_verify(q.ao, q.yo, &pr, NULL, &v, NULL, NULL, &e), e, UNMERGE_E_VERSION);
  REFUSED(unmerge_refine(q.gram, q.ao, q.yo, &pr, NULL, &v, NULL, &e), e, UNMERGE_E_VERSION);
  unmerge_gram_info info;
  memset(&info, 0, sizeof info);
  REFUSED(unmerge_gram_get_info(q.gram, &info, &e), e, UNMERGE_E_VERSION);
  CHECK(out == NULL && acc == NULL && mask == NULL);
  free_problem(&q);
}

static void newer_structs(void) {
  problem q = make_problem(60, 4, 1);
  double w[4 * PATH_ALPHAS], plain[4 * PATH_ALPHAS];
  EACH_METHOD(m) {
    const size_t bytes = 8 * 4 * (size_t)columns_of(m, 1);
    unmerge_view v = view_f64(w, 4, columns_of(m, 1)), pv = view_f64(plain, 4, columns_of(m, 1));
    room o;
    m->init(&o, m->size);
    OK(m->call(q.gram, &o, NULL, &pv, NULL, &e), e);
    memset(&o, 0, sizeof o);
    m->init(&o, m->size);
    o.struct_size = m->size + SURPLUS;
    OK(m->call(q.gram, &o, NULL, &v, NULL, &e), e);
    CHECKF(memcmp(w, plain, bytes) == 0, "(%s)", m->name);
    const size_t spots[] = {m->size, m->size + 1, m->size + SURPLUS - 1};
    for (int i = 0; i < 3; i++) {
      o.bytes[spots[i]] = 1;
      REFUSED(m->call(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_VERSION);
      o.bytes[spots[i]] = 0;
    }
    o.bytes[m->size + SURPLUS] = 1; /* behind the struct: nobody's business */
    OK(m->call(q.gram, &o, NULL, &v, NULL, &e), e);
  }
  room o;
  memset(&o, 0, sizeof o);
  unmerge_run_init((void *)&o, sizeof(unmerge_run) + SURPLUS);
  unmerge_view v = view_f64(w, 4, 1);
  OK(unmerge_nnls(q.gram, NULL, (void *)&o, &v, NULL, &e), e);
  o.bytes[sizeof(unmerge_run) + 5] = 1;
  REFUSED(unmerge_nnls(q.gram, NULL, (void *)&o, &v, NULL, &e), e, UNMERGE_E_VERSION);
  free_problem(&q);
}

static void absurd_sizes(void) {
  problem q = make_problem(60, 4, 1);
  double w[4];
  unmerge_view v = view_f64(w, 4, 1);
  const size_t sizes[] = {(size_t)-1, (size_t)-8, (size_t)1 << 62, (size_t)1 << 63, (size_t)0x5a5a5a5a5a5a5a5a};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) { /* a struct that was never prepared */
    unmerge_nnls_options o;
    unmerge_nnls_options_init(&o, sizeof o);
    o.struct_size = sizes[i];
    REFUSED(unmerge_nnls(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_VERSION);
    unmerge_report report;
    unmerge_report_init(&report, sizeof report);
    report.struct_size = sizes[i];
    REFUSED(unmerge_nnls(q.gram, NULL, NULL, &v, &report, &e), e, UNMERGE_E_VERSION);
  }
  for (size_t size = 1; size < 8; size++) {
    unmerge_nnls_options o;
    unmerge_nnls_options_init(&o, sizeof o);
    o.struct_size = size;
    REFUSED(unmerge_nnls(q.gram, &o, NULL, &v, NULL, &e), e, UNMERGE_E_VERSION);
  }
  free_problem(&q);
}

static void older_structs(void) {
  problem q = make_problem(60, 4, 1);
  double w[4], plain[4];
  unmerge_view v = view_f64(w, 4, 1), pv = view_f64(plain, 4, 1);
  unmerge_elastic_net_options o;
  unmerge_elastic_net_options_init(&o, sizeof o);
  o.alpha = 0.7;
  OK(unmerge_elastic_net(q.gram, &o, NULL, &pv, NULL, &e), e);
  memset(&o, 0x5a, sizeof o); /* from here on garbage behind the older struct */
  o.struct_size = offsetof(unmerge_elastic_net_options, l1_ratio);
  o.alpha = 0.7;
  OK(unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e), e);
  CHECK(memcmp(w, plain, sizeof w) == 0);
  o.struct_size = sizeof(size_t); /* nothing but defaults */
  OK(unmerge_elastic_net(q.gram, &o, NULL, &v, NULL, &e), e);
  OK(unmerge_elastic_net(q.gram, NULL, NULL, &pv, NULL, &e), e);
  CHECK(memcmp(w, plain, sizeof w) == 0);
  unmerge_run r;
  memset(&r, 0x5a, sizeof r);
  r.struct_size = offsetof(unmerge_run, max_iter);
  r.tol = 1e-9;
  OK(unmerge_elastic_net(q.gram, NULL, &r, &v, NULL, &e), e);
  free_problem(&q);
}

static void reports_of_other_versions(void) {
  problem q = make_problem(60, 4, 3);
  double w[12];
  unmerge_view v = view_f64(w, 4, 3);
  unmerge_report now[3];
  for (int t = 0; t < 3; t++) unmerge_report_init(&now[t], sizeof now[t]);
  OK(unmerge_nnls(q.gram, NULL, NULL, &v, now, &e), e);

  /* A newer caller: further apart, and what is behind the known fields stays zero. */
  enum { STEP = sizeof(unmerge_report) + 40 };
  union {
    unmerge_report first;
    unsigned char bytes[3 * STEP];
  } newer;
  memset(&newer, 0, sizeof newer);
  unmerge_report_init(&newer.first, STEP);
  OK(unmerge_nnls(q.gram, NULL, NULL, &v, &newer.first, &e), e);
  for (int t = 0; t < 3; t++) {
    unmerge_report r;
    memcpy(&r, newer.bytes + t * STEP, sizeof r);
    CHECK(r.struct_size == STEP);
    CHECK(r.objective == now[t].objective && r.rss == now[t].rss && r.nonzeros == now[t].nonzeros);
    for (size_t i = sizeof r; i < STEP; i++) CHECK(newer.bytes[(size_t)t * STEP + i] == 0);
  }

  /* An older caller: closer together, nothing written behind the last. */
  enum { OLD = offsetof(unmerge_report, rss) };
  union {
    unmerge_report first;
    unsigned char bytes[3 * sizeof(unmerge_report)];
  } older;
  memset(&older, 0x5a, sizeof older);
  older.first.struct_size = OLD;
  OK(unmerge_nnls(q.gram, NULL, NULL, &v, &older.first, &e), e);
  for (int t = 0; t < 3; t++) {
    double objective;
    memcpy(&objective, older.bytes + t * OLD + (int)offsetof(unmerge_report, objective), 8);
    CHECK(objective == now[t].objective);
  }
  for (size_t i = 3 * OLD; i < sizeof older.bytes; i++) CHECK(older.bytes[i] == 0x5a);
  free_problem(&q);
}

static void info_of_other_versions(void) {
  problem q = make_problem(60, 4, 3);
  unmerge_gram_info info;
  memset(&info, 0x5a, sizeof info);
  info.struct_size = offsetof(unmerge_gram_info, blocks);
  OK(unmerge_gram_get_info(q.gram, &info, &e), e);
  CHECK(info.atoms == 4 && info.targets == 3 && info.blocks == 0x5a5a5a5a5a5a5a5a);
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  OK(unmerge_gram_get_info(q.gram, &info, &e), e);
  CHECK(info.struct_size == sizeof info && info.atoms == 4 && info.targets == 3 && info.blocks == 1 && info.entries == 60);
  CHECK(info.columns == 4 && info.passes == 1 && info.precision == UNMERGE_PRECISION_EXACT && info.condition >= 1);
  free_problem(&q);
}

static void reserved_fields(void) {
  problem q = make_problem(60, 4, 1);
  double w[4];
  unmerge_view v = view_f64(w, 4, 1);
  unmerge_run r = new_run();
  r.reserved = 1;
  REFUSED2(unmerge_nnls(q.gram, NULL, &r, &v, NULL, &e), e, UNMERGE_E_VERSION, UNMERGE_E_RANGE);
  v.reserved = 1;
  REFUSED2(unmerge_nnls(q.gram, NULL, NULL, &v, NULL, &e), e, UNMERGE_E_VERSION, UNMERGE_E_RANGE);
  free_problem(&q);
}

MAIN(TEST(defaults), TEST(init_of_other_versions), TEST(size_zero), TEST(newer_structs), TEST(absurd_sizes), TEST(older_structs),
     TEST(reports_of_other_versions), TEST(info_of_other_versions), TEST(reserved_fields))
