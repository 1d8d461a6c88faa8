/* unmerge.h: which components are in a merged model, how much, how sure, and what is left.
 *
 * The problem.  y in R^p is the difference between a merged checkpoint and its base; the columns a_1..a_n of A (p x n, the
 * "atoms") are known task vectors: dense differences, LoRA products B*A*scale, or any mixture.  Every method answers
 *
 *     minimise over w:   1/2 ||A w - y||^2  +  penalty(w)  subject to  w in a set
 *
 * The data is read once into a Gram (G = A'A, c = A'y, ||y||^2); every method then answers from the Gram in micro- to
 * milliseconds, and reports a certificate that other code can recompute.
 *
 *     unmerge_operator *a = NULL, *y = NULL;  unmerge_gram *g = NULL;
 *     unmerge_operator_from_matrix(&atoms, &a, &err);            // p x n, read in place
 *     unmerge_operator_from_matrix(&target, &y, &err);           // p x 1
 *     unmerge_gram_create(a, y, NULL, NULL, &g, &err);           // the one pass over the data
 *     unmerge_nnls(g, NULL, NULL, &coef, &report, &err);         // as many methods as you like
 *
 * Rules that hold for every function
 *  - Returns UNMERGE_OK (0) or a negative status.  On a negative status outputs are untouched and `error`, when not NULL,
 *    holds one sentence: which argument, what was expected, what came.
 *  - `options`, `run`, `reports` and `error` may be NULL.  Options and run structs must be prepared with their _init
 *    function, which fills in the defaults; set fields afterwards.
 *  - The caller owns every array.  Operators borrow the arrays they are given: keep them alive and unchanged until the
 *    operator, and every Gram made from it with columns on demand, is destroyed.
 *  - Handles are checked: a stale, foreign or NULL handle is UNMERGE_E_HANDLE or UNMERGE_E_NULL, never a crash.  _destroy
 *    accepts NULL and stale handles.  A handle may be destroyed while another thread uses it; the memory goes after.
 *  - Operators are built by one thread; once built, operators, masks and Grams may be shared freely between threads.
 *  - The library never prints, exits, installs signal handlers, reads the environment or keeps settings.
 *  - Same inputs, options and seed give the same bits for any number of threads.
 *  - Callbacks run on the calling thread, must not throw and must not call longjmp through the library.
 */
#ifndef UNMERGE_H
#define UNMERGE_H

#include <stddef.h>
#include <stdint.h>

#define UNMERGE_VERSION_MAJOR 1
#define UNMERGE_VERSION_MINOR 0
#define UNMERGE_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- status, outcome, flags */

/* Status: did the call do its work? */
typedef int32_t unmerge_status;
#define UNMERGE_OK 0
#define UNMERGE_E_NULL (-1)      /* a required argument is NULL */
#define UNMERGE_E_RANGE (-2)     /* an option or argument is outside its range */
#define UNMERGE_E_SHAPE (-3)     /* shapes or sizes do not fit, or overflow */
#define UNMERGE_E_DTYPE (-4)     /* unknown or unsuitable element type */
#define UNMERGE_E_NONFINITE (-5) /* NaN or infinity in the data; the message names row and atom */
#define UNMERGE_E_HANDLE (-6)    /* stale handle, or a handle of another kind */
#define UNMERGE_E_VERSION (-7)   /* struct_size is 0, or a newer struct with fields this library does not know */
#define UNMERGE_E_MEMORY (-8)    /* memory that grows with the data could not be allocated */
#define UNMERGE_E_FORMAT (-9)    /* saved bytes are truncated, damaged or of an unknown version */
#define UNMERGE_E_CANCELLED (-10) /* cancelled before there was an answer (the data pass) */
#define UNMERGE_E_DEADLINE (-11) /* the deadline passed before there was an answer (the data pass) */
#define UNMERGE_E_INTERNAL (-12) /* a defect of the library; please report */
#define UNMERGE_E_INFEASIBLE (-13) /* nothing satisfies the constraints; the message says how near one can come */

/* Outcome: how did a method end?  The coefficients are the best found in every case. */
#define UNMERGE_CONVERGED 0
#define UNMERGE_ITERATION_LIMIT 1
#define UNMERGE_TIME_LIMIT 2
#define UNMERGE_CANCELLED 3
#define UNMERGE_STALLED 4 /* rounding stops progress above tol; see relative_gap and violation */

/* Flags of a report (bit set) */
#define UNMERGE_FLAG_RANK_DEFICIENT 1   /* numerically dependent atoms: the fit is unique, the coefficients are not */
#define UNMERGE_FLAG_ZERO_ATOM 2        /* an atom is identically zero; its coefficient is 0 */
#define UNMERGE_FLAG_CLIPPED 4          /* k was larger than the number of usable atoms */
#define UNMERGE_FLAG_FULLY_EXPLAINED 8  /* the residual is at the rounding floor of the arithmetic */
#define UNMERGE_FLAG_REDUCED_ACCURACY 16 /* condition too high for the precision of the Gram: refine, or use ridge */
#define UNMERGE_FLAG_LOCAL_MINIMUM 32   /* not convex: certified to be a strict local minimum */
#define UNMERGE_FLAG_CONVEX 64          /* not convex as a whole, but on the support it is */
#define UNMERGE_FLAG_SWAP_OPTIMAL 128   /* no exchange of one atom of the support for another lowers the objective */
#define UNMERGE_FLAG_DISCONTINUITY 256  /* group sparse projection: a tie was broken by index to meet the average */

/* ---------------------------------------------------------------- errors, views, the run */

typedef struct unmerge_error { /* never grows */
  unmerge_status status;
  int32_t reserved;
  char message[504]; /* UTF-8, NUL-terminated, one sentence */
} unmerge_error;

/* Element types. f16 is IEEE half, bf16 is bfloat16. */
#define UNMERGE_F64 1
#define UNMERGE_F32 2
#define UNMERGE_F16 3
#define UNMERGE_BF16 4

/* A 2-D array in the caller's memory.  Element (i, j) is at (char*)data + i*strides[0] + j*strides[1]; strides are in bytes
 * and may be negative, zero (broadcast, inputs only) or unaligned.  A vector of length p is p x 1. */
typedef struct unmerge_view { /* never grows */
  void *data;
  int32_t dtype;
  int32_t reserved; /* 0 */
  int64_t shape[2];
  int64_t strides[2];
} unmerge_view;

/* Phases of a progress report */
#define UNMERGE_PHASE_PASS 1   /* reading the data; done/total count entries of one column */
#define UNMERGE_PHASE_SOLVE 2  /* iterating; done counts targets (models: iterations), objective and relative_gap are of the last */

typedef struct unmerge_progress {
  size_t struct_size;
  int32_t phase;
  int32_t pass; /* 1 for the first pass over the data */
  int64_t done;
  int64_t total;
  double objective;    /* NaN in a pass */
  double relative_gap; /* NaN in a pass */
} unmerge_progress;

/* Return 0 to go on, anything else to cancel.  Called at most about ten times a second, on the calling thread. */
typedef int32_t (*unmerge_progress_fn)(void *user, const unmerge_progress *progress);

typedef struct unmerge_run {
  size_t struct_size;
  double tol;               /* relative gap (or violation, where no gap exists) to reach; (0, 1); default 1e-10 */
  int64_t max_iter;         /* sweeps or pivots per target; >= 0; default 10000; 0 = certify the warm start */
  double deadline;          /* seconds from the start of the call; 0 = none (default) */
  uint64_t seed;            /* chooses the folds, draws random starts; default 0 */
  int32_t threads;          /* 0 = one per core (default); results do not depend on it */
  int32_t reserved;         /* 0 */
  unmerge_progress_fn progress; /* NULL = none */
  void *progress_user;
  const int32_t *cancel;    /* NULL = none; any thread may store non-zero there to cancel; polled every few ms */
} unmerge_run;
unmerge_status unmerge_run_init(unmerge_run *run, size_t size);

/* One report per target.  `reports` points to n_targets structs, struct_size set in the first (it is the distance
 * between them); NULL = not wanted. */
typedef struct unmerge_report {
  size_t struct_size;
  int32_t outcome;      /* UNMERGE_CONVERGED ... */
  int32_t flags;        /* UNMERGE_FLAG_... */
  int64_t iterations;   /* sweeps, pivots or selected atoms */
  int64_t nonzeros;
  int64_t passes;       /* passes over the data this answer has needed so far (a saved or given Gram: 0) */
  double objective;     /* 1/2 ||Aw-y||^2 + penalty, at the returned coefficients */
  double duality_gap;   /* bound on objective - optimum; NaN where no bound is known */
  double relative_gap;  /* duality_gap / max(objective, rounding floor of ||y||^2) */
  double violation;     /* largest KKT violation as a correlation, in [0, 1]: |violation_j| / (||a_j|| ||y||) */
  double rss;           /* ||Aw-y||^2 */
  double yy;            /* ||y||^2 */
  double r2;            /* 1 - rss/yy; 0 when y = 0 */
  double condition;     /* estimate for the unit-diagonal Gram of the atoms in use; NaN where not computed */
  double seconds;
  int32_t streamed;     /* 1: certificate recomputed from the data (unmerge_verify, unmerge_refine); 0: from the Gram */
  int32_t reserved;
  double df;            /* effective degrees of freedom of the fit, trace of d(Aw)/dy; NaN where not known */
} unmerge_report;
unmerge_status unmerge_report_init(unmerge_report *report, size_t size);

/* ---------------------------------------------------------------- library */

const char *unmerge_version(void);                       /* "1.0.0" */
const char *unmerge_status_name(unmerge_status status);  /* "UNMERGE_E_SHAPE"; never NULL */
const char *unmerge_outcome_name(int32_t outcome);       /* "converged", ...; never NULL */
const char *unmerge_blas_description(void);              /* what linear algebra is underneath, for bug reports */

/* ---------------------------------------------------------------- operator: a set of columns, never densified
 *
 * An operator is a list of columns (atoms, or targets) over a list of modules.  A module is a named rows x cols matrix of a
 * model; its entries are rows*cols consecutive entries of every column, row-major.  p is the sum of rows*cols.  A column
 * that is not set on a module is zero there. */

typedef struct unmerge_operator unmerge_operator;

unmerge_status unmerge_operator_create(unmerge_operator **out, unmerge_error *error);

/* The columns of one p x n matrix: one module named "" of p x 1 entries, columns named "0", "1", ... */
unmerge_status unmerge_operator_from_matrix(const unmerge_view *matrix, unmerge_operator **out, unmerge_error *error);

/* Names must be unique, UTF-8; the index of the new module or column is stored in *index when index is not NULL. */
unmerge_status unmerge_operator_add_module(unmerge_operator *op, const char *name, int64_t rows, int64_t cols, int64_t *index,
                                           unmerge_error *error);
unmerge_status unmerge_operator_add_column(unmerge_operator *op, const char *name, int64_t *index, unmerge_error *error);

/* Column on module = scale * (values - base).  values and base are rows x cols; base NULL = 0.  Subtracted on the fly. */
unmerge_status unmerge_operator_set_dense(unmerge_operator *op, int64_t module, int64_t column, const unmerge_view *values,
                                          const unmerge_view *base, double scale, unmerge_error *error);

/* Column on module = scale * B * A, with B rows x r and A r x cols (LoRA's lora_B and lora_A).  The product is never formed:
 * <B1 A1, B2 A2> = sum of (B1'B2) o (A1 A2'). */
unmerge_status unmerge_operator_set_lora(unmerge_operator *op, int64_t module, int64_t column, const unmerge_view *b,
                                         const unmerge_view *a, double scale, unmerge_error *error);

/* Any of the four results may be NULL. */
unmerge_status unmerge_operator_shape(const unmerge_operator *op, int64_t *modules, int64_t *columns, int64_t *entries,
                                      unmerge_error *error);
void unmerge_operator_destroy(unmerge_operator *op);

/* ---------------------------------------------------------------- mask: compression to the entries that matter
 *
 * Keeps, per module, the k entries with the largest max over the columns of |entry|, exactly k, ties to the lower index (the
 * compression of UNMERGE, phase 3).  Works from dense columns and factors alike; needs 8 bytes per entry of the largest
 * module while it runs. */

typedef struct unmerge_mask unmerge_mask;
typedef struct unmerge_mask_options {
  size_t struct_size;
  int64_t per_module; /* entries to keep in each module; a smaller module keeps all; 0 = use total */
  int64_t total;      /* entries to keep in all, floor(total / modules) in each module; default 999936 */
} unmerge_mask_options;
unmerge_status unmerge_mask_options_init(unmerge_mask_options *options, size_t size);
unmerge_status unmerge_mask_create(const unmerge_operator *a, const unmerge_mask_options *options, const unmerge_run *run,
                                   unmerge_mask **out, unmerge_error *error);
/* Number of kept entries of a module, or of all modules with module = -1. */
unmerge_status unmerge_mask_count(const unmerge_mask *mask, int64_t module, int64_t *count, unmerge_error *error);
/* The kept entries of a module (row-major index inside the module), ascending; capacity >= the module's count. */
unmerge_status unmerge_mask_indices(const unmerge_mask *mask, int64_t module, int64_t *indices, int64_t capacity,
                                    unmerge_error *error);
void unmerge_mask_destroy(unmerge_mask *mask);

/* ---------------------------------------------------------------- Gram: the summary every method answers from
 *
 * G = A'A (n x n), C = A'Y (n x T), yy = diag(Y'Y), in double, kept per block; blocks add.  Bit-identical for any number of
 * threads.  Read-only once made. */

typedef struct unmerge_gram unmerge_gram;

#define UNMERGE_PRECISION_AUTO 0  /* exact when the data is f64 or the exact pass is cheap; else fast, and once more exact
                                     when the condition estimate says that fast cannot reach `accuracy` */
#define UNMERGE_PRECISION_FAST 1  /* float32 panels summed in double: entry error <= 2e-8 ||a_i|| ||a_j||; computed
                                     exactly all the same where that is as cheap (few atoms or rows) or float32 cannot keep
                                     the bound (bf16, f16 or base-subtracted atoms, extreme scales, a diagonal that shows it).
                                     Near the limit of 2^19 rows nearly parallel or nearly constant atoms reach 3e-8; two atoms
                                     whose product is the same number in every row can reach 1e-6 */
#define UNMERGE_PRECISION_EXACT 2 /* double: entry error <= 5e-15 ||a_i|| ||a_j|| */

#define UNMERGE_COLUMNS_ALL 0
#define UNMERGE_COLUMNS_ON_DEMAND 1 /* C and ||a_j|| now, columns of G in later passes when a sparse method asks; dense
                                       columns only, ignored where there are LoRA factors */

#define UNMERGE_BLOCKS_PER_MODULE 0
#define UNMERGE_BLOCKS_ONE 1

typedef struct unmerge_gram_options {
  size_t struct_size;
  int32_t precision; /* UNMERGE_PRECISION_...; default AUTO */
  int32_t columns;   /* UNMERGE_COLUMNS_...; default ALL */
  int32_t blocks;    /* UNMERGE_BLOCKS_...; default PER_MODULE */
  int32_t folds;     /* K >= 1 splits every block into K folds by a hash of run->seed, module name and row (64 rows together
                        where the module has one column); default 1 */
  double accuracy;   /* AUTO only: accuracy of least-squares coefficients, as a fraction of ||y|| / ||a_j||; default 1e-5 */
  const unmerge_mask *mask; /* NULL = all entries; the mask must have been made for the same modules */
} unmerge_gram_options;
unmerge_status unmerge_gram_options_init(unmerge_gram_options *options, size_t size);

/* The one pass.  a and y must have the same modules in the same order.  Cancellable; needs 8 n^2 (threads + blocks + 2) bytes
 * and one panel per thread beside the data. */
unmerge_status unmerge_gram_create(const unmerge_operator *a, const unmerge_operator *y, const unmerge_gram_options *options,
                                   const unmerge_run *run, unmerge_gram **out, unmerge_error *error);

/* From arrays: G n x n (the upper triangle is read), C n x T, yy T x 1, any dtype; p >= 0 is the number of rows they came from. */
unmerge_status unmerge_gram_from_arrays(const unmerge_view *g, const unmerge_view *c, const unmerge_view *yy, int64_t p,
                                        unmerge_gram **out, unmerge_error *error);

typedef struct unmerge_gram_info {
  size_t struct_size;
  int64_t atoms, targets, blocks, entries;
  int64_t passes;    /* over the data */
  int64_t columns;   /* columns of G known; atoms unless on demand */
  int32_t precision; /* UNMERGE_PRECISION_FAST or _EXACT: what it was made with */
  int32_t reserved;
  double condition;  /* estimate for the unit-diagonal G; infinity when singular; NaN when on demand */
} unmerge_gram_info;
unmerge_status unmerge_gram_get_info(const unmerge_gram *gram, unmerge_gram_info *info, unmerge_error *error);

/* Block b: its module's name (borrowed until the Gram is destroyed), fold and number of entries; results may be NULL. */
unmerge_status unmerge_gram_block(const unmerge_gram *gram, int64_t block, const char **module, int64_t *fold,
                                  int64_t *entries, unmerge_error *error);
/* Copies out block b, or the sum with block = -1; g n x n, c n x T, yy T x 1, f32 or f64; each may be NULL. */
unmerge_status unmerge_gram_arrays(const unmerge_gram *gram, int64_t block, const unmerge_view *g, const unmerge_view *c,
                                   const unmerge_view *yy, unmerge_error *error);

/* The sum of two Grams over the same numbers of atoms and targets: blocks of one module name and fold add, others are kept. */
unmerge_status unmerge_gram_merge(const unmerge_gram *a, const unmerge_gram *b, unmerge_gram **out, unmerge_error *error);
/* The Gram of some atoms (in the order given) over some blocks; NULL = all.  Leave-one-block-out is a list without it. */
unmerge_status unmerge_gram_subset(const unmerge_gram *gram, const int64_t *atoms, int64_t n_atoms, const int64_t *blocks,
                                   int64_t n_blocks, unmerge_gram **out, unmerge_error *error);

/* A Gram as bytes: versioned, little-endian, with a checksum.  unmerge_gram_save writes exactly *size bytes. */
unmerge_status unmerge_gram_saved_size(const unmerge_gram *gram, int64_t *size, unmerge_error *error);
unmerge_status unmerge_gram_save(const unmerge_gram *gram, void *bytes, int64_t size, unmerge_error *error);
unmerge_status unmerge_gram_load(const void *bytes, int64_t size, unmerge_gram **out, unmerge_error *error);
void unmerge_gram_destroy(unmerge_gram *gram);

/* ---------------------------------------------------------------- accumulator: a Gram from rows that come in pieces
 *
 * Rows of [A Y] in calls of any size; the result does not depend on how they are cut, to the last bit, and equals
 * unmerge_gram_create on the whole matrix in the same precision.  FAST or EXACT (AUTO = EXACT; FAST cannot
 * fall back); columns, folds and mask do not apply. */

typedef struct unmerge_accumulator unmerge_accumulator;
unmerge_status unmerge_accumulator_create(int64_t atoms, int64_t targets, const unmerge_gram_options *options,
                                          unmerge_accumulator **out, unmerge_error *error);
/* a: q x atoms, y: q x targets, the next q rows.  After an error nothing of the call has been added; NaN and infinity are
 * found by unmerge_accumulator_finish. */
unmerge_status unmerge_accumulator_add(unmerge_accumulator *acc, const unmerge_view *a, const unmerge_view *y,
                                       const unmerge_run *run, unmerge_error *error);
/* The Gram of the rows so far; the accumulator stays usable. */
unmerge_status unmerge_accumulator_finish(unmerge_accumulator *acc, unmerge_gram **out, unmerge_error *error);
void unmerge_accumulator_destroy(unmerge_accumulator *acc);

/* ---------------------------------------------------------------- methods
 *
 * coef is n x T (f64 or f32, written; read first where warm_start = 1); column t answers for target t.  `weights`, where an
 * option has it, points to n non-negative finite doubles that multiply the penalty of each atom; NULL = ones. */

/* Dot products and projections (attribution by similarity). */
#define UNMERGE_DOT_RAW 0        /* <a_j, y> */
#define UNMERGE_DOT_COSINE 1     /* <a_j, y> / (||a_j|| ||y||), in [-1, 1]; 0 for a zero atom or y */
#define UNMERGE_DOT_PROJECTION 2 /* <a_j, y> / ||a_j||^2: the least-squares weight when atom j is alone */
#define UNMERGE_DOT_JOINT 3      /* orthogonal projection on the span of all atoms: least squares; dependent atoms get 0 */
typedef struct unmerge_dot_options {
  size_t struct_size;
  int32_t variant; /* default UNMERGE_DOT_RAW */
  int32_t reserved;
} unmerge_dot_options;
unmerge_status unmerge_dot_options_init(unmerge_dot_options *options, size_t size);
/* For RAW, COSINE and PROJECTION the report's objective, rss and gap are NaN: they are not a joint fit. */
unmerge_status unmerge_dot(const unmerge_gram *gram, const unmerge_dot_options *options, const unmerge_run *run,
                           const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Ridge: 1/2 ||Aw-y||^2 + alpha/2 sum_j weights_j w_j^2.  Direct (Cholesky).  alpha = 0 is least squares; dependent atoms
 * then get 0 and UNMERGE_FLAG_RANK_DEFICIENT is set. */
typedef struct unmerge_ridge_options {
  size_t struct_size;
  double alpha; /* >= 0, finite; default 1 */
  const double *weights;
} unmerge_ridge_options;
unmerge_status unmerge_ridge_options_init(unmerge_ridge_options *options, size_t size);
unmerge_status unmerge_ridge(const unmerge_gram *gram, const unmerge_ridge_options *options, const unmerge_run *run,
                             const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* LASSO: 1/2 ||Aw-y||^2 + alpha sum_j weights_j |w_j|, optionally w >= 0 or lower <= w <= upper.  Covariance coordinate descent with an active-set
 * Newton finish; duality gap free of cancellation.  alpha >= alpha_max gives exactly 0. */
typedef struct unmerge_lasso_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1; a fraction of alpha_max when relative = 1 */
  const double *weights;
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t positive;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
  int32_t reserved;
  const double *lower; /* n bounds lower_j <= w_j (-infinity: none); NULL = none.  Signs are bounds at 0 */
  const double *upper; /* n bounds w_j <= upper_j (infinity: none); NULL = none; equal bounds fix a coefficient */
} unmerge_lasso_options;
unmerge_status unmerge_lasso_options_init(unmerge_lasso_options *options, size_t size);
unmerge_status unmerge_lasso(const unmerge_gram *gram, const unmerge_lasso_options *options, const unmerge_run *run,
                             const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Elastic net: 1/2 ||Aw-y||^2 + alpha l1_ratio sum weights_j |w_j| + alpha (1-l1_ratio)/2 sum weights_j w_j^2. */
typedef struct unmerge_elastic_net_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1; a fraction of alpha_max when relative = 1 (needs l1_ratio > 0) */
  double l1_ratio;    /* [0, 1]; default 0.5 */
  const double *weights;
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t positive;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
  int32_t reserved;
  const double *lower; /* as for the LASSO */
  const double *upper;
} unmerge_elastic_net_options;
unmerge_status unmerge_elastic_net_options_init(unmerge_elastic_net_options *options, size_t size);
unmerge_status unmerge_elastic_net(const unmerge_gram *gram, const unmerge_elastic_net_options *options,
                                   const unmerge_run *run, const unmerge_view *coef, unmerge_report *reports,
                                   unmerge_error *error);

/* The smallest alpha whose LASSO (elastic net, for l1_ratio in (0, 1)) solution is 0, for each target: T doubles.
 * positive = 1: for the non-negative problem. */
unmerge_status unmerge_alpha_max(const unmerge_gram *gram, double l1_ratio, const double *weights, int32_t positive,
                                 double *alpha_max, unmerge_error *error);

/* A path of elastic nets (LASSO for l1_ratio = 1) for one target over a decreasing grid of alphas, each warm-started. */
typedef struct unmerge_path_options {
  size_t struct_size;
  double l1_ratio;        /* (0, 1]; default 1 */
  double alpha_min_ratio; /* (0, 1); default 1e-3; grid alpha_max * ratio^(i / (n_alphas - 1)) */
  const double *alphas;   /* NULL = that grid; else n_alphas values >= 0 in any order */
  const double *weights;
  int64_t n_alphas;       /* >= 1; default 100 */
  int64_t target;         /* 0 <= target < T; default 0 */
  int32_t positive;       /* 0 or 1; default 0 */
  int32_t reserved;
  const double *lower;    /* as for the LASSO; alphas must be given where a bound excludes 0 */
  const double *upper;
} unmerge_path_options;
unmerge_status unmerge_path_options_init(unmerge_path_options *options, size_t size);
/* alphas (n_alphas doubles, NULL = not wanted), coef (n x n_alphas) and the n_alphas reports are in the order of the grid, or of
 * the alphas given. */
unmerge_status unmerge_lasso_path(const unmerge_gram *gram, const unmerge_path_options *options, const unmerge_run *run,
                                  double *alphas, const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Non-negative least squares: 1/2 ||Aw-y||^2 subject to w >= 0.  Active set; exact zeros; the gap is the bound
 * 1/2 v'G^-1 v of the projected gradient v (NaN for a singular or partly known G). */
typedef struct unmerge_nnls_options {
  size_t struct_size;
  int32_t warm_start; /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_nnls_options;
unmerge_status unmerge_nnls_options_init(unmerge_nnls_options *options, size_t size);
unmerge_status unmerge_nnls(const unmerge_gram *gram, const unmerge_nnls_options *options, const unmerge_run *run,
                            const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Least squares between bounds: 1/2 ||Aw-y||^2 subject to lower <= w <= upper.  Active set; bounds are met exactly, and the
 * duality gap is finite when all bounds are.  Infinite bounds are none; equal ones fix a coefficient. */
typedef struct unmerge_bvls_options {
  size_t struct_size;
  const double *lower; /* n numbers or -infinity; NULL = none */
  const double *upper; /* n numbers or infinity; NULL = none */
  int32_t warm_start;  /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_bvls_options;
unmerge_status unmerge_bvls_options_init(unmerge_bvls_options *options, size_t size);
unmerge_status unmerge_bvls(const unmerge_gram *gram, const unmerge_bvls_options *options, const unmerge_run *run,
                            const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Mixtures: 1/2 ||Aw-y||^2 subject to sum_j w_j = total, lower <= w <= upper; by default the simplex, w >= 0 and total 1.
 * Exact: the multiplier of the sum is found face by face.  UNMERGE_E_INFEASIBLE where no w between the bounds has that sum.
 * multiplier (T doubles, NULL = not wanted): d objective / d total. */
typedef struct unmerge_simplex_options {
  size_t struct_size;
  double total;        /* finite; default 1 */
  const double *lower; /* NULL = zeros; -infinity for none */
  const double *upper; /* NULL = none */
} unmerge_simplex_options;
unmerge_status unmerge_simplex_options_init(unmerge_simplex_options *options, size_t size);
unmerge_status unmerge_simplex(const unmerge_gram *gram, const unmerge_simplex_options *options, const unmerge_run *run,
                               const unmerge_view *coef, double *multiplier, unmerge_report *reports, unmerge_error *error);

/* LASSO in its constrained forms, optionally with w >= 0.  Each is the LASSO at some alpha, returned in `multiplier` (T doubles,
 * NULL = not wanted): the constraint is met to rounding, face by face, without a tolerance.
 *
 *   unmerge_lasso_tau       min 1/2 ||Aw-y||^2        subject to  sum weights_j |w_j| <= tau
 *   unmerge_bpdn            min sum weights_j |w_j|   subject to  ||Aw-y|| <= sigma       (UNMERGE_E_INFEASIBLE below the
 *                                                                                         least-squares residual)
 *   unmerge_basis_pursuit   min sum weights_j |w_j|   over all least-squares solutions (Aw = y where y is in their span)
 *
 * The report's objective and gap are those of the problem as stated here. */
typedef struct unmerge_lasso_tau_options {
  size_t struct_size;
  double tau;       /* >= 0, finite; default 1; beyond the norm of the least-squares solution it does not bind (multiplier 0) */
  const double *weights;
  int32_t positive; /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_lasso_tau_options;
unmerge_status unmerge_lasso_tau_options_init(unmerge_lasso_tau_options *options, size_t size);
unmerge_status unmerge_lasso_tau(const unmerge_gram *gram, const unmerge_lasso_tau_options *options, const unmerge_run *run,
                                 const unmerge_view *coef, double *multiplier, unmerge_report *reports, unmerge_error *error);

typedef struct unmerge_bpdn_options {
  size_t struct_size;
  double sigma;     /* >= 0, finite; default 0; a fraction of ||y|| when relative = 1 */
  const double *weights;
  int32_t relative; /* 0 or 1; default 0 */
  int32_t positive; /* 0 or 1; default 0 */
} unmerge_bpdn_options;
unmerge_status unmerge_bpdn_options_init(unmerge_bpdn_options *options, size_t size);
unmerge_status unmerge_bpdn(const unmerge_gram *gram, const unmerge_bpdn_options *options, const unmerge_run *run,
                            const unmerge_view *coef, double *multiplier, unmerge_report *reports, unmerge_error *error);

typedef struct unmerge_basis_pursuit_options {
  size_t struct_size;
  const double *weights;
  int32_t positive; /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_basis_pursuit_options;
unmerge_status unmerge_basis_pursuit_options_init(unmerge_basis_pursuit_options *options, size_t size);
unmerge_status unmerge_basis_pursuit(const unmerge_gram *gram, const unmerge_basis_pursuit_options *options,
                                     const unmerge_run *run, const unmerge_view *coef, unmerge_report *reports,
                                     unmerge_error *error);
/* ---------------------------------------------------------------- group penalties: atoms that come and go together
 *
 *     1/2 ||Aw - y||^2 + alpha [ l1_ratio sum_j weights_j |w_j| + (1 - l1_ratio) sum_g group_weights_g ||w_g||_2 ]
 *                      + ridge/2 sum_g ridge_weights_g ||w_g||^2,                               optionally w >= 0
 *
 * l1_ratio = 0 is the group LASSO: a group is in as a whole or exactly 0.  Between 0 and 1, the sparse group LASSO, single
 * coefficients of a group that is in may be 0 too.  l1_ratio = 1 is the LASSO.
 *
 * Group g is members[offsets[g]], ..., members[offsets[g + 1] - 1].  An atom in no group has no group penalty and no ridge; an
 * empty group is ignored.  An atom in several groups is split: w_j is the sum of one latent coefficient per membership, and
 * the penalties are of the latent coefficients, so that the support is a union of groups (Jacob, Obozinski & Vert 2009).
 *
 * group_norm = UNMERGE_GROUP_NORM_PREDICTION has ||A_g w_g|| in place of ||w_g|| everywhere, in the ridge too: groups are made
 * orthonormal first, so that atoms alike, or on other scales, weigh no more (Simon & Tibshirani 2012).  Of the w_g that
 * contribute the same it takes the shortest in units of the atoms' lengths.  For l1_ratio = 0, without w >= 0, over a Gram with
 * all its columns (else UNMERGE_E_SHAPE), not per module.
 *
 * Exact block steps, active groups only, then Newton on the coefficients that are in; the duality gap is free of cancellation.
 * alpha >= alpha_max gives exactly 0 on every penalised coefficient.  violation is that of a whole group, in units of its
 * longest atom; df is the trace of d(Aw)/dy (Yuan & Lin 2006; Vaiter et al. 2012). */
#define UNMERGE_GROUP_NORM_COEFFICIENTS 0
#define UNMERGE_GROUP_NORM_PREDICTION 1
typedef struct unmerge_group_options {
  size_t struct_size;
  double alpha;                /* >= 0, finite; default 1; a fraction of alpha_max when relative = 1 */
  double l1_ratio;             /* [0, 1]; default 0 */
  double ridge;                /* >= 0, finite; default 0 */
  int64_t n_groups;            /* >= 0 */
  const int64_t *offsets;      /* n_groups + 1, ascending from 0; NULL (default, n_groups = 0) = each atom a group of its own */
  const int64_t *members;      /* offsets[n_groups] coefficients; distinct within a group */
  const double *group_weights; /* n_groups, >= 0, finite; NULL = the square root of the group's size; 0 = no group penalty */
  const double *weights;       /* one per coefficient, of its l1 penalty; NULL = ones */
  const double *ridge_weights; /* n_groups, >= 0, finite; NULL = ones */
  int32_t relative;            /* 0 or 1; default 0 */
  int32_t positive;            /* 0 or 1; default 0 */
  int32_t warm_start;          /* 0 or 1; default 0; begins from `latent` where that is given, else from coef (an atom in
                                  several groups: all of it in the first) */
  int32_t reserved;
  int32_t group_norm;          /* UNMERGE_GROUP_NORM_...; default COEFFICIENTS */
  int32_t reserved2;
} unmerge_group_options;
unmerge_status unmerge_group_options_init(unmerge_group_options *options, size_t size);

/* latent: offsets[n_groups] x T, the coefficients per membership, in the order of `members`; NULL = not wanted. */
unmerge_status unmerge_group_lasso(const unmerge_gram *gram, const unmerge_group_options *options, const unmerge_run *run,
                                   const unmerge_view *coef, const unmerge_view *latent, unmerge_report *reports,
                                   unmerge_error *error);

/* The smallest alpha whose answer is 0 on every penalised coefficient, for each target: T doubles; 0 where nothing is
 * penalised.  alpha, relative and warm_start of the options are not looked at. */
unmerge_status unmerge_group_alpha_max(const unmerge_gram *gram, const unmerge_group_options *options,
                                       const unmerge_run *run, double *alpha_max, unmerge_error *error);

/* A path over a decreasing grid of alphas for one target, each warm-started; groups enter by the strong rule, checked. */
typedef struct unmerge_group_path_options {
  size_t struct_size;
  double alpha_min_ratio; /* (0, 1); default 1e-3; grid alpha_max * ratio^(i / (n_alphas - 1)) */
  const double *alphas;   /* NULL = that grid; else n_alphas values >= 0 in any order */
  int64_t n_alphas;       /* >= 1; default 100 */
  int64_t target;         /* 0 <= target < T; default 0 */
} unmerge_group_path_options;
unmerge_status unmerge_group_path_options_init(unmerge_group_path_options *options, size_t size);
/* As unmerge_lasso_path: alphas (n_alphas doubles or NULL), coef (n x n_alphas) and the reports are in the order of the grid, or
 * of the alphas given.  alpha, relative and warm_start of the options are not looked at. */
unmerge_status unmerge_group_lasso_path(const unmerge_gram *gram, const unmerge_group_options *options,
                                        const unmerge_group_path_options *path, const unmerge_run *run, double *alphas,
                                        const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* A coefficient of its own for every atom in every module, w_jm, with groups across modules:
 *
 *     1/2 sum_m ||A_m w_m - y_m||^2 + the same penalties.
 *
 * Modules are those of the Gram's blocks (made with UNMERGE_BLOCKS_PER_MODULE), numbered as they first appear; folds of a
 * module add.  Coefficient (j, m) is number m n + j in `members` and `weights`; offsets NULL = one group per atom over all
 * modules: which atoms are in, with what strength where.  coef: n x (L T), column t L + m is module m for target t.  Time and
 * memory grow with L n^2.  UNMERGE_E_SHAPE for a Gram on demand, which has no blocks. */
unmerge_status unmerge_group_lasso_modules(const unmerge_gram *gram, const unmerge_group_options *options,
                                           const unmerge_run *run, const unmerge_view *coef, const unmerge_view *latent,
                                           unmerge_report *reports, unmerge_error *error);

/* ---------------------------------------------------------------- greedy selection */

/* The Dantzig selector: min sum_j weights_j |w_j| subject to |a_j'(y - Aw)| <= delta weights_j for every atom.  delta is in the
 * units of the LASSO's alpha: the LASSO's answer for alpha = delta is admissible, and at alpha_max both are 0.  A linear
 * program over the Gram, solved by a simplex method that begins at the LASSO's answer; the gap is that of the program. */
typedef struct unmerge_dantzig_options {
  size_t struct_size;
  double delta;     /* >= 0, finite; default 1; a fraction of alpha_max when relative = 1; 0: as basis pursuit */
  const double *weights;
  int32_t relative; /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_dantzig_options;
unmerge_status unmerge_dantzig_options_init(unmerge_dantzig_options *options, size_t size);
unmerge_status unmerge_dantzig(const unmerge_gram *gram, const unmerge_dantzig_options *options, const unmerge_run *run,
                               const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* The LASSO's whole path for one target: min 1/2 ||Aw-y||^2 + alpha sum weights_j |w_j| + ridge/2 sum w_j^2 for every alpha
 * from alpha_max down to alpha_min.  The answer is linear in alpha between knots, where an atom enters or leaves; knots and the
 * coefficients at them are exact (homotopy).  Knots closer than 1e-9 alpha are one. */
typedef struct unmerge_knots_options {
  size_t struct_size;
  double alpha_min;   /* >= 0, finite; default 0; a fraction of alpha_max when relative = 1; beyond it: one knot, alpha_min */
  double ridge;       /* >= 0, finite; default 0 */
  const double *weights;
  int64_t max_knots;  /* >= 1; default 1000 */
  int64_t target;     /* 0 <= target < T; default 0 */
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t positive;   /* 0 or 1; default 0 */
} unmerge_knots_options;
unmerge_status unmerge_knots_options_init(unmerge_knots_options *options, size_t size);
/* alphas: max_knots doubles, descending; coef: n x max_knots; the first *knots of them are written.  UNMERGE_ITERATION_LIMIT: the
 * path has more than max_knots.  report: of the last knot, but violation is the largest of all knots. */
unmerge_status unmerge_lasso_knots(const unmerge_gram *gram, const unmerge_knots_options *options, const unmerge_run *run,
                                   double *alphas, const unmerge_view *coef, int64_t *knots, unmerge_report *report,
                                   unmerge_error *error);

/* Relaxed (debiased) coefficients of any method: (1 - relax) coef + relax refit, refit being least squares on the support
 * (non-zeros) of the coef given.  coef is read first.  The report is about least squares on that support. */
typedef struct unmerge_refit_options {
  size_t struct_size;
  double relax;       /* [0, 1]; default 1 */
  int32_t keep_signs; /* 1: the refit changes no sign; default 0 */
  int32_t reserved;
  const double *lower; /* bounds of the refit, as for bvls; NULL = none.  An atom outside the support stays at 0, or at the
                          bound nearest to it */
  const double *upper;
} unmerge_refit_options;
unmerge_status unmerge_refit_options_init(unmerge_refit_options *options, size_t size);
unmerge_status unmerge_refit(const unmerge_gram *gram, const unmerge_refit_options *options, const unmerge_run *run,
                             const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Penalties of other tools, in their own two numbers, as alpha and l1_ratio of the elastic net here, and back (back = 1).
 *
 *   SKLEARN      alpha, l1_ratio     1/(2 rows) ||r||^2 + alpha (l1_ratio |w|_1 + (1-l1_ratio)/2 |w|^2): Lasso, ElasticNet;
 *                                    celer and skglm (l1_ratio 1); adelie's grpnet (lmda, alpha)
 *   RIDGE        alpha, -            ||r||^2 + alpha |w|^2: scikit-learn's Ridge; second number 0
 *   GLMNET       lambda, alpha       SKLEARN's, but glmnet fits y / s with s = ||y|| / sqrt(rows), which divides the l2 part by
 *                                    s (gaussian, no intercept, standardize = FALSE)
 *   SPAMS        lambda1, lambda2    1/2 ||r||^2 + lambda1 |w|_1 + lambda2/2 |w|^2
 *   ADELIE_COV   lmda, alpha         gaussian_cov(A'A, A'y): lmda (alpha |w|_1 + (1-alpha)/2 |w|^2)
 *
 * SPGL1's sigma and tau are those of unmerge_bpdn and unmerge_lasso_tau.  rows: p, or the sum of the sample weights; > 0 for SKLEARN
 * and GLMNET.  yy: ||y||^2, > 0 for GLMNET.  values and result: two doubles each; they may be the same. */
#define UNMERGE_TOOL_SKLEARN 1
#define UNMERGE_TOOL_RIDGE 2
#define UNMERGE_TOOL_GLMNET 3
#define UNMERGE_TOOL_SPAMS 4
#define UNMERGE_TOOL_ADELIE_COV 5
unmerge_status unmerge_convert_penalty(int32_t tool, int32_t back, double rows, double yy, const double *values, double *result,
                                       unmerge_error *error);

/* Orthogonal matching pursuit: greedily min ||Aw-y||^2 with at most k atoms, scored by |a_j'r| / ||a_j||; coefficients are
 * least squares on the selection.  Ties go to the lower index; numerically dependent atoms are passed over. */
typedef struct unmerge_omp_options {
  size_t struct_size;
  int64_t k;           /* >= 1; default 10; more than the usable atoms: clipped, UNMERGE_FLAG_CLIPPED */
  double residual_tol; /* stop when ||r|| <= residual_tol * ||y||; [0, 1]; default 0 */
  int32_t positive;    /* 1: only atoms with a positive correlation, non-negative refit; default 0 */
  int32_t reserved;
} unmerge_omp_options;
unmerge_status unmerge_omp_options_init(unmerge_omp_options *options, size_t size);
/* order: k x T int64, row-major, atoms in the order of selection, then -1; NULL = not wanted.
 * violation is the largest correlation of the residual with a selected atom. */
unmerge_status unmerge_omp(const unmerge_gram *gram, const unmerge_omp_options *options, const unmerge_run *run,
                           const unmerge_view *coef, int64_t *order, unmerge_report *reports, unmerge_error *error);

/* Who decides how many atoms (or groups) an answer has, for methods that find answers of every size up to k.  With q effective
 * entries, s atoms in the answer of n, the smallest of
 *
 *     SIC  = q ln(rss/p) + s ln(n) ln(ln q)         (Zhu, Wen, Zhu, Zhang & Wang 2020)
 *     BIC  = q ln(rss/p) + s ln(q)                  (Schwarz 1978)
 *     EBIC = BIC + 2 gamma ln C(n, s)               (Chen & Chen 2008)
 *
 * over all sizes, ties to the smaller; an rss below the resolution of the Gram counts as that.  Entries of a model are far
 * from independent: with q = p = 10^6 every criterion lets far too much in; give `effective`. */
#define UNMERGE_SIZE_K 0 /* k itself (default) */
#define UNMERGE_SIZE_SIC 1
#define UNMERGE_SIZE_BIC 2
#define UNMERGE_SIZE_EBIC 3

/* Greedy pursuit of min ||Aw-y||^2 with at most k atoms.  u_j is the correlation of a_j / ||a_j|| with the residual, h_j the part
 * of a_j / ||a_j|| outside the span of the selection:
 *
 *     OMP  takes the largest |u_j|, refits all (unmerge_omp is this with per_step = 1)
 *     OLS  takes the largest |u_j| / sqrt(h_j): the atom whose addition lowers ||r||^2 most; the same cost.  The better choice
 *          for atoms that are alike
 *     MP   takes the largest |u_j| and moves its coefficient alone, w_j += a_j'r / ||a_j||^2; an atom may come again; ends
 *          before atom k + 1.  Its residual stays correlated with the selection, which violation says
 *
 * With groups, an atom is replaced by a group: taken is the one whose span explains most of the residual (OLS: whose addition
 * lowers ||r||^2 most), k counts groups and so does `order`.  Groups may overlap; atoms in no group are never taken.
 * positive = 1 scores the positive part of u (of a group: its norm) and refits by NNLS; with MP coefficients stay >= 0.
 * Numerically dependent atoms are passed over, ties go to the lower index.  No bound on the distance to the best k atoms is
 * known: duality_gap is NaN; violation is the largest correlation of the residual with a selected atom.
 * Mallat & Zhang 1993; Pati, Rezaiifar & Krishnaprasad 1993; Chen, Billings & Luo 1989; Wang, Kwon & Shim 2012. */
#define UNMERGE_PURSUIT_OMP 0
#define UNMERGE_PURSUIT_OLS 1
#define UNMERGE_PURSUIT_MP 2
typedef struct unmerge_pursuit_options {
  size_t struct_size;
  int64_t k;              /* >= 1; default 10; more than the usable atoms: clipped, UNMERGE_FLAG_CLIPPED */
  int64_t per_step;       /* >= 1; default 1; N: the N best by one score join at once (generalised OMP); MP: must be 1 */
  double residual_tol;    /* stop when ||r|| <= residual_tol * ||y||; [0, 1]; default 0 */
  double correlation_tol; /* stop when no atom's cosine with the residual exceeds this; [0, 1]; default 0 */
  double gamma;           /* [0, 1]; of EBIC; default 0.5 */
  double effective;       /* q; 0 (default) = the Gram's entries p, else >= 3 */
  int64_t n_groups;       /* >= 0; default 0 */
  const int64_t *offsets; /* n_groups + 1, ascending from 0; NULL (default) = single atoms.  MP: must be NULL */
  const int64_t *members; /* offsets[n_groups] atoms, distinct within a group */
  int32_t kind;           /* UNMERGE_PURSUIT_...; default OMP */
  int32_t positive;       /* 0 or 1; default 0; OLS: must be 0 */
  int32_t size;           /* UNMERGE_SIZE_...; default K; MP: must be K */
  int32_t reserved;
} unmerge_pursuit_options;
unmerge_status unmerge_pursuit_options_init(unmerge_pursuit_options *options, size_t size);
/* order: k x T int64, row-major, atoms (or groups) in the order of selection, then -1; NULL = not wanted. */
unmerge_status unmerge_pursuit(const unmerge_gram *gram, const unmerge_pursuit_options *options, const unmerge_run *run,
                               const unmerge_view *coef, int64_t *order, unmerge_report *reports, unmerge_error *error);

/* min 1/2 ||Aw-y||^2 with at most k atoms, by thresholding: k atoms are kept, the k largest |v_j|, v_j = w_j ||a_j||: what an
 * atom contributes, whatever its scale (thresholding w_j itself: give atoms of unit norm).  g: correlations with the residual.
 *
 *     IHT     v <- the k largest of v + mu g, mu = 1/lambda_max, or `step`; halved when it would raise ||r||
 *     NIHT    the same, mu = ||g_S||^2 / g_S'G_SS g_S; halved where the support changes and it is too long for descent
 *     AIHT    NIHT with two over-relaxations per step, each kept when it lowers ||r||
 *     HTP     S <- the k largest of v + mu g, least squares on S; mu is the exact step along the k largest of g
 *     COSAMP  least squares on S and the 2k largest of g, its k largest kept, least squares on those
 *     SUBSPACE the same with k instead of 2k, from S = the k largest correlations (subspace pursuit)
 *
 * All end with least squares on the support (positive: NNLS), accept a step only when ||r|| falls, and return the best iterate.
 * IHT and its kind go straight to the limit of a support once it has settled.  With groups k counts groups, kept by their norm;
 * groups must not overlap, atoms in no group are never kept.  Exact recovery from noiseless data is a theorem under restricted
 * isometry (k small against the rows); no bound for a given answer is known: duality_gap is NaN; violation is the largest
 * correlation of the residual with an atom that is kept.  Blumensath & Davies 2009, 2010; Qiu & Dogandzic 2012; Foucart 2011;
 * Needell & Tropp 2009; Dai & Milenkovic 2009. */
#define UNMERGE_THRESHOLDING_HTP 0
#define UNMERGE_THRESHOLDING_IHT 1
#define UNMERGE_THRESHOLDING_NIHT 2
#define UNMERGE_THRESHOLDING_AIHT 3
#define UNMERGE_THRESHOLDING_COSAMP 4
#define UNMERGE_THRESHOLDING_SUBSPACE 5
typedef struct unmerge_thresholding_options {
  size_t struct_size;
  int64_t k;              /* >= 1; default 10; more than the usable atoms: clipped, UNMERGE_FLAG_CLIPPED */
  double step;            /* IHT: mu, in units of the unit-diagonal Gram; HTP: the first mu tried; >= 0, finite; default 0 =
                             chosen as above.  Others: must be 0 */
  int64_t n_groups;       /* >= 0; default 0 */
  const int64_t *offsets; /* as in unmerge_pursuit_options */
  const int64_t *members;
  int32_t kind;           /* UNMERGE_THRESHOLDING_...; default HTP */
  int32_t positive;       /* 1: w >= 0; default 0 */
  int32_t warm_start;     /* 1: from coef, of which the k largest are kept; default 0 */
  int32_t reserved;
} unmerge_thresholding_options;
unmerge_status unmerge_thresholding_options_init(unmerge_thresholding_options *options, size_t size);
unmerge_status unmerge_thresholding(const unmerge_gram *gram, const unmerge_thresholding_options *options,
                                    const unmerge_run *run, const unmerge_view *coef, unmerge_report *reports,
                                    unmerge_error *error);

/* Best subset: min 1/2 ||Aw-y||^2 + ridge/2 ||w||^2 over all w with at most k non-zeros, optionally w >= 0.
 *
 * For sizes 1 .. k (and two beyond), from the best of the size below and of forward OLS; then exact exchanges of one atom: for all
 * s (n - s) pairs at once the change of the objective with everything refitted, the best taken until none lowers it; in small
 * problems exchanges of two; then down again from the largest size, until nothing improves.  UNMERGE_FLAG_SWAP_OPTIMAL is set
 * where no exchange of one atom lowers the objective: a stronger statement than stationarity, and not a proof of the global
 * optimum, for which no bound is known (duality_gap is NaN).  Never worse than forward OLS of the same size.  violation is that
 * of the fit on the support; iterations are exchanges.  Reads all columns of the Gram.  Hocking & Leslie 1967; Miller 2002;
 * Hazimeh & Mazumder 2020; Zhu, Wen, Zhu, Zhang & Wang 2020. */
typedef struct unmerge_best_subset_options {
  size_t struct_size;
  int64_t k;             /* >= 1; default 10, forced atoms included; more than the independent atoms: UNMERGE_FLAG_CLIPPED */
  double ridge;          /* >= 0, finite; default 0 */
  double gamma;          /* as in unmerge_pursuit_options */
  double effective;
  const int64_t *forced; /* n_forced different atoms that are always in; NULL = none */
  int64_t n_forced;      /* 0 <= n_forced <= k; default 0 */
  int64_t target;        /* unmerge_best_subset_path: 0 <= target < T; default 0.  unmerge_best_subset: must be 0 */
  int32_t size;          /* UNMERGE_SIZE_...; default K; unmerge_best_subset_path: not looked at */
  int32_t positive;      /* 1: w >= 0; default 0; forced atoms may then be 0 */
} unmerge_best_subset_options;
unmerge_status unmerge_best_subset_options_init(unmerge_best_subset_options *options, size_t size);
unmerge_status unmerge_best_subset(const unmerge_gram *gram, const unmerge_best_subset_options *options, const unmerge_run *run,
                                   const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);
/* The answers of all sizes for one target: coef n x k, k reports; column s - 1 has at most s atoms (or the forced ones, where
 * those are more). */
unmerge_status unmerge_best_subset_path(const unmerge_gram *gram, const unmerge_best_subset_options *options,
                                        const unmerge_run *run, const unmerge_view *coef, unmerge_report *reports,
                                        unmerge_error *error);

/* ---------------------------------------------------------------- model selection and statistics: from the same Gram
 *
 * How much penalty, how sure, and what cannot be told apart: all from the Gram and its blocks, without the data.  Rows are
 * entries of a model, not independent samples.  Blocks by hash (unmerge_gram_options.folds) ask how well entries like these
 * are predicted; blocks by module ask whether coefficients found in some modules hold in others. */

/* The groups of blocks that cross-validation leaves out by default, as one number per block of the Gram: its folds where it
 * has more than one, else its modules.  folds: one int64 per block, or NULL; *count: their number, or NULL. */
unmerge_status unmerge_gram_folds(const unmerge_gram *gram, int64_t *folds, int64_t *count, unmerge_error *error);

/* Cross-validation of a path of elastic nets (LASSO for l1_ratio = 1, ridge for 0), for one target.
 *
 * Fold k is left out: G_-k = sum of the other blocks, added anew and never subtracted; w_k minimises the elastic net there
 * with alpha p_-k / p, so that alpha per entry is the same for all; its error is
 *
 *     e_k = (yy_k - 2 c_k'w_k + w_k'G_k w_k) / p_k,    summed as if in twice the precision.
 *
 * Chosen are the alpha of the smallest mean of e_k over the K folds, and the largest alpha whose mean is within one standard
 * error of it (sd / sqrt(K)).  scikit-learn's LassoCV with p equal folds: its alpha times p is this alpha. */
typedef struct unmerge_cv_options {
  size_t struct_size;
  double l1_ratio;        /* [0, 1]; default 1 */
  double alpha_min_ratio; /* [0, 1); grid as in unmerge_path_options, for ridge below the trace of G; default 0 = 1e-3, for
                             ridge 1e-9 */
  const double *alphas;   /* NULL = that grid, from all blocks; else n_alphas values >= 0 in any order */
  const double *weights;
  const double *lower;    /* as for the LASSO */
  const double *upper;
  const int64_t *folds;   /* NULL = unmerge_gram_folds; else one per block, 0 .. K-1 each at least once, -1 = never left out */
  int64_t n_alphas;       /* >= 1; default 100 */
  int64_t target;         /* 0 <= target < T; default 0 */
  int32_t positive;       /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_cv_options;
unmerge_status unmerge_cv_options_init(unmerge_cv_options *options, size_t size);

typedef struct unmerge_cv_result {
  size_t struct_size;
  int64_t folds;       /* K >= 2 */
  int64_t best;        /* index into the grid: smallest mean error, ties to the larger alpha */
  int64_t one_se;      /* index into the grid: largest alpha within one standard error of it */
  int64_t unconverged; /* of the K * n_alphas problems, how many did not reach run->tol */
  double seconds;
} unmerge_cv_result;
unmerge_status unmerge_cv_result_init(unmerge_cv_result *result, size_t size);

/* Each of these may be NULL: curve n_alphas x 3 (alpha, mean error, standard error), errors n_alphas x K, fold_coef
 * n x (K * n_alphas) with column k * n_alphas + i for fold k and alpha i; coef n x n_alphas and the n_alphas reports: the path on
 * all blocks, whose columns best and one_se are the answer.  Needs a Gram with all its columns and two groups of blocks.  Ended
 * early it has no answer: UNMERGE_E_CANCELLED, UNMERGE_E_DEADLINE; so has stability selection. */
unmerge_status unmerge_cross_validate(const unmerge_gram *gram, const unmerge_cv_options *options, const unmerge_run *run,
                                      const unmerge_view *curve, const unmerge_view *errors, const unmerge_view *fold_coef,
                                      const unmerge_view *coef, unmerge_report *reports, unmerge_cv_result *result,
                                      unmerge_error *error);

/* Information criteria of given fits, normal errors:  with q = effective entries, s2 = sigma^2, rss per fit,
 *
 *     D    = q ln(2 pi s2) + (q/p) rss / s2            (s2 unknown: q ln(2 pi rss/p) + q)
 *     AIC  = D + 2 df      BIC = D + ln(q) df          EBIC = BIC + 2 gamma ln C(n, df)
 *     Cp   = (q/p) rss / s2 - q + 2 df                 GCV  = (rss/p) / (1 - df/q)^2
 *
 * (Akaike 1974; Schwarz 1978; Chen & Chen 2008; Mallows 1973; Golub, Heath & Wahba 1979.)  Entries of a model are far from
 * independent: with q = p = 10^6 every criterion lets far too much in; ask again with smaller q. */
#define UNMERGE_CRITERION_AIC 0
#define UNMERGE_CRITERION_BIC 1
#define UNMERGE_CRITERION_EBIC 2
#define UNMERGE_CRITERION_CP 3   /* NaN where s2 is unknown */
#define UNMERGE_CRITERION_GCV 4
#define UNMERGE_CRITERIA 5

#define UNMERGE_SIGMA_FULL 0    /* s2 = rss of least squares on all atoms / (q - their rank) * q/p, as LassoLarsIC */
#define UNMERGE_SIGMA_GIVEN 1
#define UNMERGE_SIGMA_UNKNOWN 2 /* estimated by each fit for itself */

typedef struct unmerge_criteria_options {
  size_t struct_size;
  double gamma;     /* [0, 1]; of EBIC; default 0.5 */
  double sigma2;    /* variance of an entry's error, > 0, for UNMERGE_SIGMA_GIVEN; default 1 */
  double effective; /* q > 0; default 0 = p */
  int64_t target;   /* 0 <= target < T; default 0 */
  int32_t sigma;    /* UNMERGE_SIGMA_...; default FULL */
  int32_t reserved;
} unmerge_criteria_options;
unmerge_status unmerge_criteria_options_init(unmerge_criteria_options *options, size_t size);

/* coef n x m holds m fits, df their m degrees of freedom (NULL = numbers of non-zeros); criteria m x UNMERGE_CRITERIA is
 * written, and *sigma2 (NULL = not wanted; NaN where unknown). */
unmerge_status unmerge_information_criteria(const unmerge_gram *gram, const unmerge_criteria_options *options,
                                            const unmerge_view *coef, const double *df, const unmerge_view *criteria,
                                            double *sigma2, unmerge_error *error);

/* Stability selection with complementary pairs: the blocks are halved at random `pairs` times, the path is run on either half
 * (with alpha in proportion to its entries), and an atom is selected by a half when it is among the first at most q to enter.
 * Selected in all: whoever is selected by `threshold` of the halves.  With theta = q/n, for atoms that a half selects with
 * probability <= theta, their expected number among the selected is at most
 *
 *     bound = q theta / (2 threshold - 1),    bound_unimodal = C(threshold, pairs) q theta   (unimodal frequencies)
 *
 * (Meinshausen & Buhlmann 2010; Shah & Samworth 2013, theorems 1 and 2), q being the mean number selected by a half.  What the
 * bounds ask of the data is that blocks are exchangeable: take folds, not modules. */
typedef struct unmerge_stability_options {
  size_t struct_size;
  double l1_ratio;        /* (0, 1]; default 1 */
  double alpha_min_ratio; /* (0, 1); default 1e-3 */
  const double *alphas;   /* NULL = the grid of unmerge_path_options; else n_alphas values >= 0 in any order */
  const double *weights;
  const double *lower;    /* as for the LASSO */
  const double *upper;
  double threshold;       /* (0.5, 1]; default 0.75 */
  int64_t q;              /* >= 0; default 0 = floor(sqrt(0.8 n)), at least 1 */
  int64_t pairs;          /* >= 1; default 50 */
  int64_t n_alphas;       /* >= 1; default 100 */
  int64_t target;         /* 0 <= target < T; default 0 */
  int32_t positive;       /* 0 or 1; default 0 */
  int32_t reserved;
} unmerge_stability_options;
unmerge_status unmerge_stability_options_init(unmerge_stability_options *options, size_t size);

typedef struct unmerge_stability_result {
  size_t struct_size;
  int64_t halves;        /* 2 * pairs */
  int64_t q;             /* limit used */
  int64_t selected;      /* number of atoms at or above the threshold */
  double mean_selected;  /* by a half */
  double bound;          /* not below the expected number of falsely selected atoms, see above */
  double bound_unimodal; /* NaN outside the theorem's range */
  double seconds;
} unmerge_stability_result;
unmerge_status unmerge_stability_result_init(unmerge_stability_result *result, size_t size);

/* frequency: n doubles, the share of halves that select each atom; path: n x n_alphas, the share of halves where its
 * coefficient is not 0 at each alpha, or NULL; alphas: n_alphas doubles or NULL.  run->seed chooses the halves.  Needs at least
 * 20 blocks. */
unmerge_status unmerge_stability_selection(const unmerge_gram *gram, const unmerge_stability_options *options,
                                           const unmerge_run *run, double *alphas, double *frequency, const unmerge_view *path,
                                           unmerge_stability_result *result, unmerge_error *error);

/* Least squares on a given support with standard errors: w = G_SS^-1 c_S and
 *
 *     CLASSICAL   cov = s2 G_SS^-1, s2 = rss / (p - rank); t with p - rank degrees of freedom
 *     CLUSTER     cov = f G_SS^-1 (sum_b s_b s_b') G_SS^-1, s_b = c_b - G_b w the scores of cluster b of L,
 *                 f = L/(L-1) (p-1)/(p-rank); t with L - 1 degrees of freedom (Liang & Zeger 1986; Cameron & Miller 2015)
 *
 * CLASSICAL takes all p errors for independent and equal; those of a model are not, and CLUSTER asks only that modules are.
 * A support that was chosen on the same data makes intervals too short: choose on some blocks, infer on others. */
#define UNMERGE_COVARIANCE_CLASSICAL 0
#define UNMERGE_COVARIANCE_CLUSTER 1
typedef struct unmerge_inference_options {
  size_t struct_size;
  const int64_t *support;  /* n_support different atoms; NULL = all */
  int64_t n_support;       /* default 0 */
  const double *contrasts; /* n_contrasts x n_support, row-major: combinations l'w to be tested as well; NULL = none */
  int64_t n_contrasts;     /* default 0 */
  const int64_t *clusters; /* one number >= 0 per block, CLUSTER only; NULL = one cluster per module, or per fold where there is
                              one module */
  int64_t target;          /* 0 <= target < T; default 0 */
  double confidence;       /* (0, 1); default 0.95 */
  int32_t covariance;      /* UNMERGE_COVARIANCE_...; default CLASSICAL */
  int32_t reserved;
} unmerge_inference_options;
unmerge_status unmerge_inference_options_init(unmerge_inference_options *options, size_t size);

typedef struct unmerge_inferred { /* one coefficient or contrast; NaN but for the estimate, which is 0, where the atom depends
                                     on earlier ones of the support, and for contrasts that involve such an atom */
  size_t struct_size;
  double estimate;
  double standard_error;
  double t;
  double p_value;   /* two-sided, of the value 0 */
  double low, high; /* at the confidence asked for */
  double vif;       /* variance inflation G_jj (G_SS^-1)_jj >= 1; infinity for a dependent atom, NaN for a contrast */
} unmerge_inferred;
unmerge_status unmerge_inferred_init(unmerge_inferred *inferred, size_t size);

typedef struct unmerge_inference_result {
  size_t struct_size;
  int64_t rank;        /* of the support */
  int64_t clusters;    /* L; 0 for CLASSICAL */
  double degrees;      /* of freedom of t */
  double sigma2;       /* rss / (p - rank) */
  double rss;
  double r2;
} unmerge_inference_result;
unmerge_status unmerge_inference_result_init(unmerge_inference_result *result, size_t size);

/* inferred: n_support (n for NULL) + n_contrasts structs, struct_size set in the first; covariance: of the coefficients,
 * n_support x n_support, or NULL. */
unmerge_status unmerge_least_squares_inference(const unmerge_gram *gram, const unmerge_inference_options *options,
                                               const unmerge_run *run, unmerge_inferred *inferred,
                                               const unmerge_view *covariance, unmerge_inference_result *result,
                                               unmerge_error *error);

/* What the dictionary lets one tell apart, before any y: from the eigenvalues l_1 >= ... >= l_n and vectors of the unit-diagonal
 * Gram.  Eigenvalues <= max(1e-12, n * entry error of the Gram) count as 0; an atom with weight in their vectors can be
 * replaced by others, and atoms joined by them form a group: only combinations of its coefficients are determined. */
typedef struct unmerge_atom_identifiability {
  size_t struct_size;
  double norm;    /* ||a_j|| */
  double vif;     /* 1 / (1 - R_j^2), R_j^2 of atom j on all others: >= 1; infinity in a group; NaN for a zero atom */
  double cosine;  /* with the nearest other atom, signed; NaN when there is none */
  int64_t nearest; /* largest |cosine|; -1 when there is none */
  int64_t group;  /* 0, 1, ... of dependent atoms, in the order of their first; -1 = determined */
} unmerge_atom_identifiability;
unmerge_status unmerge_atom_identifiability_init(unmerge_atom_identifiability *atom, size_t size);

typedef struct unmerge_identifiability_result {
  size_t struct_size;
  int64_t rank;
  int64_t groups;
  double condition;  /* l_1 / l_n of the unit-diagonal Gram of the non-zero atoms; infinity when l_n counts as 0 */
} unmerge_identifiability_result;
unmerge_status unmerge_identifiability_result_init(unmerge_identifiability_result *result, size_t size);

/* atoms: n structs, struct_size set in the first, or NULL; singular: n doubles, singular values of the unit-diagonal Gram in
 * descending order (zero atoms count as 0), or NULL. */
unmerge_status unmerge_identifiability(const unmerge_gram *gram, unmerge_atom_identifiability *atoms, double *singular,
                                       unmerge_identifiability_result *result, unmerge_error *error);

/* A Gram with changes, exactly and without the old data.  Removing atoms or blocks is unmerge_gram_subset: what is left has no
 * number of theirs in it.  All keep the blocks.
 *
 * add_atoms: atoms of a_new after those of a_old, in one pass over [a_new] x [a_old, a_new, y], in double.  a_old and y must be
 * what gram was made from; options and run->seed those it was made with (precision and columns are not used). */
unmerge_status unmerge_gram_add_atoms(const unmerge_gram *gram, const unmerge_operator *a_old, const unmerge_operator *a_new,
                                      const unmerge_operator *y, const unmerge_gram_options *options, const unmerge_run *run,
                                      unmerge_gram **out, unmerge_error *error);
/* The atoms A M, M n x m: rescaled, exchanged, mixed. */
unmerge_status unmerge_gram_transform(const unmerge_gram *gram, const unmerge_view *m, unmerge_gram **out, unmerge_error *error);
/* Block b counts weights[b] times: non-negative and finite, one per block.  Numbers of entries stay. */
unmerge_status unmerge_gram_weighted(const unmerge_gram *gram, const double *weights, unmerge_gram **out, unmerge_error *error);
/* The targets Y + A M, M n x T: c += G m, yy += 2 c'm + m'G m (summed as if in twice the precision).  What is left when an atom
 * is taken out of the target: M holds minus its weight. */
unmerge_status unmerge_gram_shift_target(const unmerge_gram *gram, const unmerge_view *m, unmerge_gram **out,
                                         unmerge_error *error);

/* ---------------------------------------------------------------- Bayesian selection: how probable is each atom?
 *
 * Models with s_j in {0, 1}: atom j is inside, or it is not.  All take p entries as q = `effective` independent ones: the
 * likelihood is that of p errors of variance sigma2, to the power q / p (temperature p / q),
 *
 *     log L(w) = -q/2 ln(2 pi sigma2) - (q/p) ||Aw-y||^2 / (2 sigma2)
 *
 * With q = p = 10^6 every probability is 0 or 1; entries of a model are far from independent, and q says how far.  All answer
 * one target and read all columns of the Gram.  In reports `objective` is the free energy or minus the log evidence, not
 * 1/2 ||Aw-y||^2 + penalty, duality_gap is NaN and `violation` is explained with the method; df is NaN where not mentioned. */

/* Variational Garrote: y = sum_j s_j w_j a_j + noise, P(s_j = 1) = 1 / (1 + e^-gamma), and q(s) = prod_j q_j(s_j) with
 * q_j(1) = m_j.  m, w and sigma2 make the free energy stationary, a bound on -log P(y | w, sigma2):
 *
 *     F = q/2 [ E / sigma2 + ln(2 pi sigma2) ] - gamma sum m + n ln(1 + e^gamma) + sum [ m ln m + (1-m) ln(1-m) ]
 *     E = [ ||A v - y||^2 + sum m_j (1-m_j) w_j^2 ||a_j||^2 ] / p,   v_j = m_j w_j
 *
 * that is  sigma2 = E,  m_j = 1 / (1 + exp(-gamma - q w_j^2 ||a_j||^2 / (2 p sigma2))),  a_j'(A v - y) = ||a_j||^2 (v_j - w_j).
 * coef is v.  F has many minima: one is sought from few atoms with gamma rising and one from all atoms, and the lower kept;
 * of two, none with sum m > q / 2, where F falls without end towards a fit of the noise, if the other has fewer.
 * violation is the largest |m_j - its right-hand side|; UNMERGE_FLAG_LOCAL_MINIMUM where the Hessian is positive definite. */
typedef struct unmerge_garrote_options {
  size_t struct_size;
  double gamma;     /* finite; default -3, a prior of five atoms in a hundred */
  double sigma2;    /* > 0 and finite: given; 0 (default): found */
  double effective; /* q, > 0 and finite; 0 (default): all entries */
  int64_t target;   /* 0 <= target < T; default 0 */
} unmerge_garrote_options;
unmerge_status unmerge_garrote_options_init(unmerge_garrote_options *options, size_t size);

typedef struct unmerge_garrote_result {
  size_t struct_size;
  double free_energy; /* F */
  double gamma;
  double sigma2;
  double expected;    /* sum of m: expected number of atoms */
  double entropy;     /* mean of -m ln m - (1-m) ln(1-m), in [0, ln 2]: how undecided */
} unmerge_garrote_result;
unmerge_status unmerge_garrote_result_init(unmerge_garrote_result *result, size_t size);

/* coef, inclusion (m) and weights (w): n doubles each, or NULL. */
unmerge_status unmerge_variational_garrote(const unmerge_gram *gram, const unmerge_garrote_options *options,
                                           const unmerge_run *run, double *coef, double *inclusion, double *weights,
                                           unmerge_garrote_result *result, unmerge_report *report, unmerge_error *error);

/* The same along a grid of gamma, forward from few atoms and back from many, warm, keeping the lower F at each.  Where the
 * blocks of the Gram form K >= 2 folds the same path without each fold (q and all) gives an error on it. */
typedef struct unmerge_garrote_path_options {
  size_t struct_size;
  double sigma2;         /* as above */
  double effective;
  const double *gammas;  /* n_gammas, finite, increasing; NULL (default): geometric, from where no set of atoms can pay for
                            the prior of one to -1 */
  int64_t n_gammas;      /* >= 1; default 50 */
  const int64_t *folds;  /* fold of each block as in unmerge_cv_options; NULL = unmerge_gram_folds */
  int64_t target;
  int32_t held_out;      /* 1 (default): errors on folds, where there are any; 0: none */
  int32_t reserved;
} unmerge_garrote_path_options;
unmerge_status unmerge_garrote_path_options_init(unmerge_garrote_path_options *options, size_t size);

typedef struct unmerge_garrote_path_result {
  size_t struct_size;
  int64_t folds;       /* K, 0 = no held-out errors */
  int64_t best;        /* index of the smallest held-out error; without folds = bic */
  int64_t transition;  /* the smallest gamma within one standard error of it: below, the error jumps; without folds = bic */
  int64_t bic;         /* index of the smallest q E / sigma2 + q ln(sigma2) + ln(q) sum m among sum m <= q / 2.  (F does not
                          choose: w is fitted, not integrated over, so F only falls as the prior lets more atoms in.) */
  int64_t components;  /* atoms with m > 1/2 at the transition */
  int64_t unconverged; /* solutions of the path and the folds that did not reach tol */
  double seconds;
} unmerge_garrote_path_result;
unmerge_status unmerge_garrote_path_result_init(unmerge_garrote_path_result *result, size_t size);

/* curve: n_gammas x 7: gamma, F, sum of m, mean entropy, sigma2, mean held-out squared error per entry, its standard error
 * (both NaN without folds).  coef and inclusion: n x n_gammas; reports: n_gammas.  Each may be NULL. */
unmerge_status unmerge_garrote_path(const unmerge_gram *gram, const unmerge_garrote_path_options *options,
                                    const unmerge_run *run, const unmerge_view *curve, const unmerge_view *coef,
                                    const unmerge_view *inclusion, unmerge_report *reports,
                                    unmerge_garrote_path_result *result, unmerge_error *error);

/* Sparse Bayesian learning (automatic relevance determination): w_j ~ N(0, 1 / alpha_j); alpha and sigma2 maximise the
 * evidence  log P(y | alpha, sigma2) = log of the integral of L(w) prod_j N(w_j; 0, 1 / alpha_j).  Most alpha are infinite:
 * those atoms are out.  coef is the posterior mean.
 *
 *     FAST  one alpha at a time to its maximum, atoms in and out as they raise the evidence, then Newton's method
 *     EM    alpha_j = 1 / (w_j^2 + var_j), sigma2 alike: slow, and the evidence never falls
 *
 * violation is the largest of |1 - alpha_j (var_j + w_j^2)| over atoms inside, max(0, Q_j^2 / S_j - 1) over those outside
 * (how much the evidence wants them) and the same of sigma2.  df is sum_j 1 - alpha_j var_j.  UNMERGE_FLAG_LOCAL_MINIMUM: a
 * strict local maximum of the evidence, in the logarithms of alpha and sigma2 of the atoms inside. */
#define UNMERGE_EVIDENCE_FAST 0
#define UNMERGE_EVIDENCE_EM 1
typedef struct unmerge_sparse_bayes_options {
  size_t struct_size;
  double sigma2;     /* > 0 and finite: given; 0 (default): found */
  double effective;  /* q, > 0 and finite; 0 (default): all entries */
  int64_t target;    /* 0 <= target < T; default 0 */
  int32_t algorithm; /* UNMERGE_EVIDENCE_...; default FAST */
  int32_t reserved;
} unmerge_sparse_bayes_options;
unmerge_status unmerge_sparse_bayes_options_init(unmerge_sparse_bayes_options *options, size_t size);

typedef struct unmerge_sparse_bayes_result {
  size_t struct_size;
  double log_evidence;
  double sigma2;
  int64_t atoms; /* inside */
} unmerge_sparse_bayes_result;
unmerge_status unmerge_sparse_bayes_result_init(unmerge_sparse_bayes_result *result, size_t size);

/* coef, variance (diagonal of the posterior covariance; 0 outside) and alphas (infinity outside): n doubles each, or NULL. */
unmerge_status unmerge_sparse_bayes(const unmerge_gram *gram, const unmerge_sparse_bayes_options *options,
                                    const unmerge_run *run, double *coef, double *variance, double *alphas,
                                    unmerge_sparse_bayes_result *result, unmerge_report *report, unmerge_error *error);

/* Spike and slab, exactly: the posterior over all 2^n sets of at most 20 atoms that are not zero.  P(s_j = 1) = prior;
 *
 *     GIVEN          w_j | s_j = 1 ~ N(0, slab),          sigma2 known
 *     INVERSE_GAMMA  w_j | s_j = 1 ~ N(0, sigma2 slab),   sigma2 ~ Inverse-Gamma(shape, scale)
 *
 * coef is the posterior mean over all sets.  With shape = scale = 0 (improper, 1 / sigma2) the log evidence is up to a
 * constant.  A cancelled call has no answer. */
#define UNMERGE_NOISE_GIVEN 0
#define UNMERGE_NOISE_INVERSE_GAMMA 1
typedef struct unmerge_spike_slab_options {
  size_t struct_size;
  double prior;     /* (0, 1); default 0.5 */
  double slab;      /* > 0 and finite; default 1 */
  double sigma2;    /* GIVEN: > 0 and finite; default 1 */
  double shape;     /* INVERSE_GAMMA: both > 0 and finite, or both 0 (default) */
  double scale;
  double effective; /* q, > 0 and finite; 0 (default): all entries */
  int64_t target;   /* 0 <= target < T; default 0 */
  int32_t noise;    /* UNMERGE_NOISE_...; default INVERSE_GAMMA */
  int32_t reserved;
} unmerge_spike_slab_options;
unmerge_status unmerge_spike_slab_options_init(unmerge_spike_slab_options *options, size_t size);

typedef struct unmerge_spike_slab_result {
  size_t struct_size;
  double log_evidence;     /* log P(y) */
  double best_log_joint;   /* log P(y, S) of the most probable set S */
  double best_probability; /* P(S | y) */
  double expected;         /* sum of the inclusion probabilities */
  int64_t sets;            /* enumerated */
  double seconds;
} unmerge_spike_slab_result;
unmerge_status unmerge_spike_slab_result_init(unmerge_spike_slab_result *result, size_t size);

/* coef, inclusion, best (posterior mean of the most probable set, 0 outside): n doubles each; sizes: n + 1, the posterior of
 * the number of atoms.  Each may be NULL. */
unmerge_status unmerge_spike_slab(const unmerge_gram *gram, const unmerge_spike_slab_options *options, const unmerge_run *run,
                                  double *coef, double *inclusion, double *best, double *sizes,
                                  unmerge_spike_slab_result *result, unmerge_error *error);

/* ---------------------------------------------------------------- penalties that shrink less, or tie coefficients together
 *
 * Non-convex penalties.  d_j = ||a_j||; phi is increasing and concave in |w|, so zeros are exact and large coefficients are
 * hardly shrunk.  Coordinate descent from three starts (a path of falling alphas, the LASSO, and from beyond alpha back), the
 * lowest objective, Newton on the smooth pieces.  The certificate is honest about what is known: `violation` is that of the
 * stationarity conditions; UNMERGE_FLAG_LOCAL_MINIMUM is set where they hold strictly and the Hessian on the support is
 * positive definite; UNMERGE_FLAG_CONVEX where the smallest eigenvalue of the unit-diagonal Gram of the support exceeds the
 * concavity of phi, so that no other minimum has this support or a part of it; duality_gap is a bound where that holds for
 * all atoms (then the answer is the global minimum), else NaN. */

/* MCP: 1/2 ||Aw-y||^2 + sum_j phi_j(w_j),  phi_j(w) = l|w| - d_j^2 w^2 / (2 gamma)  for d_j^2 |w| <= gamma l, then constant;
 * l = alpha weights_j.  gamma -> infinity is the LASSO with the same alpha; gamma -> 1 is best subset by hard thresholding. */
typedef struct unmerge_mcp_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1; a fraction of the LASSO's alpha_max when relative = 1 */
  double gamma;       /* > 1, finite; default 3 */
  const double *weights;
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 1: from coef, instead of the path; default 0 */
} unmerge_mcp_options;
unmerge_status unmerge_mcp_options_init(unmerge_mcp_options *options, size_t size);
unmerge_status unmerge_mcp(const unmerge_gram *gram, const unmerge_mcp_options *options, const unmerge_run *run,
                           const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* SCAD: phi_j'(w) = l for d_j^2 w <= l, (gamma l - d_j^2 w) / (gamma - 1) up to gamma l, then 0, for w > 0;
 * l = alpha weights_j. */
typedef struct unmerge_scad_options {
  size_t struct_size;
  double alpha;       /* as in MCP */
  double gamma;       /* > 2, finite; default 3.7 */
  const double *weights;
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
} unmerge_scad_options;
unmerge_status unmerge_scad_options_init(unmerge_scad_options *options, size_t size);
unmerge_status unmerge_scad(const unmerge_gram *gram, const unmerge_scad_options *options, const unmerge_run *run,
                            const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* CEL0: the count of atoms, made continuous: the MCP with l = d_j sqrt(2 alpha weights_j) and gamma = 1.  Its global minimisers
 * are those of 1/2 ||Aw-y||^2 + alpha sum_{w_j != 0} weights_j, its local minimisers are fewer. */
typedef struct unmerge_cel0_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1: what an atom has to lower 1/2 ||Aw-y||^2 by; relative = 1: a fraction of
                         the largest that leaves an atom in, max c_j^2 / (2 d_j^2 weights_j) */
  const double *weights;
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
} unmerge_cel0_options;
unmerge_status unmerge_cel0_options_init(unmerge_cel0_options *options, size_t size);
unmerge_status unmerge_cel0(const unmerge_gram *gram, const unmerge_cel0_options *options, const unmerge_run *run,
                            const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* l_q: 1/2 ||Aw-y||^2 + alpha sum_j weights_j |w_j|^q.  0 is always stationary: the answer is one that no single coefficient
 * improves. */
typedef struct unmerge_lq_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1; relative = 1: a fraction of the largest that leaves an atom in */
  double q;           /* [0.1, 0.95]; default 0.5 */
  const double *weights;
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
} unmerge_lq_options;
unmerge_status unmerge_lq_options_init(unmerge_lq_options *options, size_t size);
unmerge_status unmerge_lq(const unmerge_gram *gram, const unmerge_lq_options *options, const unmerge_run *run,
                          const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* SLOPE (sorted l1): 1/2 ||Aw-y||^2 + alpha sum_i weights_i |w|_(i),  |w|_(1) >= |w|_(2) >= ...  Atoms that explain the same get
 * coefficients of the same size (OSCAR: weights falling linearly); Benjamini-Hochberg weights control false discoveries on
 * orthogonal atoms.  Weights belong to ranks, not to atoms; scale the atoms first if their norms differ and should not count.
 * Reads all columns of the Gram.  violation is max |x - z|, x = w max ||a_j|| / ||y||, z = prox of the penalty at x + its
 * gradient: 0 exactly at the optimum; the same for the fused LASSO. */
typedef struct unmerge_slope_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1; a fraction of the smallest alpha that gives 0 when relative = 1 */
  const double *weights; /* n, >= 0, not increasing, the first > 0; NULL = ones (the LASSO) */
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
} unmerge_slope_options;
unmerge_status unmerge_slope_options_init(unmerge_slope_options *options, size_t size);
unmerge_status unmerge_slope(const unmerge_gram *gram, const unmerge_slope_options *options, const unmerge_run *run,
                             const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* Fused LASSO: 1/2 ||Aw-y||^2 + alpha [ l1_ratio sum |w_j| + (1 - l1_ratio) sum |w_{j+1} - w_j| ], along the order of the atoms
 * (checkpoints of one training run, layers, dates).  An atom that is zero takes the value of its neighbours. */
typedef struct unmerge_fused_lasso_options {
  size_t struct_size;
  double alpha;       /* >= 0, finite; default 1; a fraction of the smallest alpha that gives 0 when relative = 1 */
  double l1_ratio;    /* [0, 1]; default 0.5; 0 has no smallest alpha that gives 0 */
  int64_t target;     /* unmerge_fused_lasso_modules: 0 <= target < T; default 0.  unmerge_fused_lasso: must be 0 */
  int32_t relative;   /* 0 or 1; default 0 */
  int32_t warm_start; /* 0 or 1; default 0 */
} unmerge_fused_lasso_options;
unmerge_status unmerge_fused_lasso_options_init(unmerge_fused_lasso_options *options, size_t size);
unmerge_status unmerge_fused_lasso(const unmerge_gram *gram, const unmerge_fused_lasso_options *options, const unmerge_run *run,
                                   const unmerge_view *coef, unmerge_report *reports, unmerge_error *error);

/* The same with a coefficient per atom and module, tied along the order of the modules:
 *
 *     1/2 sum_l ||A_l w_l - y_l||^2 + alpha sum_j [ l1_ratio sum_l |w_jl| + (1 - l1_ratio) sum_l |w_j,l+1 - w_jl| ]
 *
 * for one target of a Gram with a block per module (folds of a module are added).  coef is n x L, one report. */
unmerge_status unmerge_fused_lasso_modules(const unmerge_gram *gram, const unmerge_fused_lasso_options *options,
                                           const unmerge_run *run, const unmerge_view *coef, unmerge_report *report,
                                           unmerge_error *error);

/* ---------------------------------------------------------------- proximal operators and projections
 *
 *     z = argmin_z  step f(z) + 1/2 ||z - x||^2
 *
 * for a numbered f.  x and z are n x m: functions of a vector act on each column, functions of a matrix on the whole.  Exact
 * (closed forms, one sort or one pass); where two minimisers tie the one nearer to 0 is taken, among equal entries the lower
 * index.  z may be x.  p_j = weights_j (n of them; NULL = ones).
 *
 *   kind                          f(z)                                                             options
 *   UNMERGE_PROX_L1               alpha sum p_j |z_j|                                              alpha, weights
 *   UNMERGE_PROX_NONNEGATIVE_L1   alpha sum p_j z_j, z >= 0                                        alpha, weights
 *   UNMERGE_PROX_L2_SQUARED       alpha/2 sum p_j z_j^2                                            alpha, weights
 *   UNMERGE_PROX_ELASTIC_NET      alpha [ l1_ratio sum p_j |z_j| + (1-l1_ratio)/2 sum p_j z_j^2 ]  alpha, l1_ratio, weights
 *   UNMERGE_PROX_HUBER            alpha sum p_j h(z_j), h = z^2/(2 gamma), |z| - gamma/2 beyond    alpha, gamma (1), weights
 *   UNMERGE_PROX_L2               alpha ||z||_2                                                    alpha
 *   UNMERGE_PROX_SPARSE_GROUP     alpha [ l1_ratio sum p_j |z_j| + (1-l1_ratio) ||z||_2 ]          alpha, l1_ratio, weights
 *   UNMERGE_PROX_LINF             alpha max |z_j|                                                  alpha
 *   UNMERGE_PROX_SLOPE            alpha sum p_i |z|_(i), p not increasing                          alpha, weights
 *   UNMERGE_PROX_TOTAL_VARIATION  alpha sum |z_{j+1} - z_j|                                        alpha
 *   UNMERGE_PROX_FUSED            alpha [ l1_ratio sum |z_j| + (1-l1_ratio) sum |z_{j+1} - z_j| ]  alpha, l1_ratio
 *   UNMERGE_PROX_NUCLEAR          alpha sum of the singular values of Z (matrix)                   alpha
 *   not convex:
 *   UNMERGE_PROX_L0               alpha sum_{z_j != 0} p_j                                         alpha, weights
 *   UNMERGE_PROX_MCP              sum: l|z| - z^2/(2 gamma) to |z| = gamma l, constant; l = alpha p_j    alpha, gamma (3), weights
 *   UNMERGE_PROX_SCAD             sum: slope l to l, (gamma l - |z|)/(gamma-1) to gamma l, 0       alpha, gamma (3.7; > 1), weights
 *   UNMERGE_PROX_LQ               alpha sum p_j |z_j|^q                                            alpha, q, weights
 *   UNMERGE_PROX_CEL0             sum: l - (gamma^2/2)(|z| - sqrt(2l)/gamma)^2 to sqrt(2l)/gamma, l;   alpha, gamma (1), weights
 *                                 gamma is the norm of the atoms, l = alpha p_j
 *   projections (f is 0 in the set, infinite outside; step and alpha play no part):
 *   UNMERGE_PROX_K_SPARSE         at most k non-zeros                                              k
 *   UNMERGE_PROX_RANK             rank at most k (matrix)                                          k
 *   UNMERGE_PROX_L1_BALL          sum |z_j| <= radius                                              radius
 *   UNMERGE_PROX_L2_BALL          ||z||_2 <= radius                                                radius
 *   UNMERGE_PROX_SIMPLEX          z >= 0, sum z_j = radius                                         radius
 *   UNMERGE_PROX_CAPPED_SIMPLEX   0 <= z <= upper, sum z_j = radius <= n upper                     radius, upper
 *   UNMERGE_PROX_BOX              lower <= z_j <= upper                                            lower, upper
 *   UNMERGE_PROX_NONNEGATIVE      z >= 0                                                           -
 *   UNMERGE_PROX_PLANE            sum normal_j z_j = offset                                        normal (NULL: ones), offset
 *   UNMERGE_PROX_HALFSPACE        sum normal_j z_j <= offset                                       normal, offset
 *   UNMERGE_PROX_CONE             ||(z_1, ..., z_{n-1})||_2 <= z_0                                 -
 *   UNMERGE_PROX_MONOTONE         z_0 <= z_1 <= ..., nearest in sum p_j (z_j - x_j)^2              weights
 *   not convex:
 *   UNMERGE_PROX_HOYER            Hoyer's sparsity of z (see below) >= sparsity                    sparsity
 *   UNMERGE_PROX_NONNEGATIVE_HOYER  the same and z >= 0                                            sparsity
 */
#define UNMERGE_PROX_L1 1
#define UNMERGE_PROX_NONNEGATIVE_L1 2
#define UNMERGE_PROX_L2_SQUARED 3
#define UNMERGE_PROX_ELASTIC_NET 4
#define UNMERGE_PROX_HUBER 5
#define UNMERGE_PROX_L2 6
#define UNMERGE_PROX_SPARSE_GROUP 7
#define UNMERGE_PROX_LINF 8
#define UNMERGE_PROX_SLOPE 9
#define UNMERGE_PROX_TOTAL_VARIATION 10
#define UNMERGE_PROX_FUSED 11
#define UNMERGE_PROX_NUCLEAR 12
#define UNMERGE_PROX_L0 13
#define UNMERGE_PROX_MCP 14
#define UNMERGE_PROX_SCAD 15
#define UNMERGE_PROX_LQ 16
#define UNMERGE_PROX_CEL0 17
#define UNMERGE_PROX_K_SPARSE 18
#define UNMERGE_PROX_RANK 19
#define UNMERGE_PROX_L1_BALL 20
#define UNMERGE_PROX_L2_BALL 21
#define UNMERGE_PROX_SIMPLEX 22
#define UNMERGE_PROX_CAPPED_SIMPLEX 23
#define UNMERGE_PROX_BOX 24
#define UNMERGE_PROX_NONNEGATIVE 25
#define UNMERGE_PROX_PLANE 26
#define UNMERGE_PROX_HALFSPACE 27
#define UNMERGE_PROX_CONE 28
#define UNMERGE_PROX_MONOTONE 29
#define UNMERGE_PROX_HOYER 30
#define UNMERGE_PROX_NONNEGATIVE_HOYER 31
typedef struct unmerge_prox_options {
  size_t struct_size;
  double step;           /* > 0, finite; default 1 */
  double alpha;          /* >= 0, finite; default 1 */
  double l1_ratio;       /* [0, 1]; default 0.5 */
  double gamma;          /* > 0 (SCAD: > 1), finite; 0 (default): the number in brackets */
  double q;              /* [0.1, 0.95]; default 0.5 */
  double radius;         /* >= 0, finite; default 1 */
  double lower;          /* <= upper, not NaN; default -infinity */
  double upper;          /* not NaN; default infinity (of the capped simplex: >= 0) */
  double offset;         /* finite; default 0 */
  int64_t k;             /* >= 0; default 1 */
  const double *weights; /* n, >= 0 and finite */
  const double *normal;  /* n, finite */
  double sparsity;       /* [0, 1]; default 0.5 */
} unmerge_prox_options;
unmerge_status unmerge_prox_options_init(unmerge_prox_options *options, size_t size);
/* x: any element type, finite.  z: f64 or f32, of the shape of x; computed in double. */
unmerge_status unmerge_prox(int32_t kind, const unmerge_prox_options *options, const unmerge_view *x, const unmerge_view *z,
                            unmerge_error *error);

/* ---------------------------------------------------------------- sparsity as a ratio of norms: groups under one average
 *
 * Hoyer's sparsity of x in R^n, n >= 2, with weights w >= 0 (NULL: ones; Hoyer 2004):
 *
 *     sp(x) = (||w||_2 - w'|x| / ||x||_2) / (||w||_2 - min w_j)  in [0, 1],        sp(0) = 1
 *
 * 0 where all |x_j| are equal, 1 where one entry is not 0; the same for every scale, sign and order.  It is a level and not a
 * fraction of zeros: k equal entries beside zeros have (sqrt(n) - sqrt(k)) / (sqrt(n) - 1), so 0.8 in n = 1152 is 58 entries,
 * 5 % of them.
 *
 * Group sparse projection of c_1 .. c_r, of any lengths (Ohib, Gillis, Dalmasso, Shah, Potluru & Plis 2022):
 *
 *     maximise  sum_i f_i d_i'|c_i|   subject to  mean_i sp(d_i) >= sparsity,  d_i >= 0,  ||d_i||_2 = 1
 *     z_i = (d_i'|c_i|) sign(c_i) o d_i                    d_i = (|c_i| - t_i w_i)_+ / ||.||,   t_i = mu b_i / f_i
 *
 * with b_i = 1 / (||w_i|| - min w_i) and one multiplier mu for all: the constraint decides by itself how sparse each group
 * becomes.  f_i = 1, or what `normalise` says.  Groups that lie on the target already are returned bit for bit.  A vector
 * alone is UNMERGE_PROX_HOYER.
 *
 * mu is found from sums over the entries above t_i: on a given support the average is a formula in mu, whose root is never beyond the
 * right one, so mu grows, supports shrink, and where they stay the root is exact.  The average is met to rounding.  It jumps where all that is
 * left of a group is tied (to 1e-12 of the largest); tied entries then share what mass is needed, the first of them
 * becoming the largest, which is still optimal, and UNMERGE_FLAG_DISCONTINUITY is set.  With weights the average can also jump
 * from one lone entry to a lighter one, and there the answer can be short of optimal by what duality_gap says.
 *
 * UNMERGE_OBJECTIVE_SQUARED maximises sum_i (f_i d_i'|c_i|)^2 instead, for f = 1 the same as the least error ||c - z||^2: a
 * sequence of the problems above, each with the gains f_i^2 d_i'|c_i| of the one before, in which the sum of squares only grows,
 * until it does by less than run->tol of itself, in at most run->max_iter steps.  A stationary point; objective, multiplier and
 * duality_gap are those of its last step, whose gains are divided by the largest f_i d_i'|c_i| of the first problem.
 *
 * The certificate: duality_gap = sum_i max_d [f_i d'|c_i| - mu b_i w_i'd] + mu (sum_i ||w_i|| b_i - r sparsity) - objective >= 0 bounds
 * how far the objective is from that of the best directions, although the problem is not convex. */

#define UNMERGE_OBJECTIVE_SURROGATE 0
#define UNMERGE_OBJECTIVE_SQUARED 1
#define UNMERGE_NORMALISE_NONE 0 /* f = 1: groups of small norm become sparse first */
#define UNMERGE_NORMALISE_L2 1   /* f = 1 / ||c_i|| */
#define UNMERGE_NORMALISE_RMS 2  /* f = sqrt(n_i) / ||c_i|| */

typedef struct unmerge_group_sparse_options {
  size_t struct_size;
  double sparsity;   /* the average to reach, [0, 1]; default 0.5 */
  int32_t objective; /* UNMERGE_OBJECTIVE_...; default SURROGATE */
  int32_t normalise; /* UNMERGE_NORMALISE_...; default NONE */
  int32_t refit;     /* 0 or 1; default 0; 1 = the original values on the support found: no shrinkage, a lower sparsity */
  int32_t reserved;  /* 0 */
  const unmerge_view *weights; /* of the shape of x, >= 0 and finite, in no group all 0; NULL = ones */
} unmerge_group_sparse_options;
unmerge_status unmerge_group_sparse_options_init(unmerge_group_sparse_options *options, size_t size);

typedef struct unmerge_group_sparse_report {
  size_t struct_size;
  int32_t outcome;        /* UNMERGE_CONVERGED, or UNMERGE_ITERATION_LIMIT of the steps; a run that is stopped has no answer */
  int32_t flags;          /* UNMERGE_FLAG_DISCONTINUITY, or 0 */
  int64_t iterations;     /* evaluations of the average, over all steps; 0 = the target was met by x */
  int64_t steps;          /* of the squared objective after the first problem */
  int64_t groups;         /* that count in the average */
  int64_t excluded;       /* with fewer than two entries: returned as they are */
  int64_t zero_groups;    /* 0 before and after, counted as sparsity 1 */
  int64_t one_sparse;     /* groups with exactly one entry left: near 1 they tell that layers collapse */
  int64_t nonzeros;       /* of z, before it is rounded to its element type */
  double passes;          /* entries read to evaluate the average, in units of the entries there are */
  double multiplier;      /* mu */
  double sparsity;        /* the average of z, before it is rounded; with refit that of the restored values */
  double objective;       /* sum f_i d_i'|c_i| */
  double duality_gap;
  double relative_gap;    /* duality_gap / objective; 0 when both are 0 */
  double squared_error;   /* ||x - z||^2 */
  double relative_error;  /* ||x - z|| / ||x||; 0 when x = 0 */
  double seconds;
} unmerge_group_sparse_report;
unmerge_status unmerge_group_sparse_report_init(unmerge_group_sparse_report *report, size_t size);

#define UNMERGE_GROUP_EXCLUDED 1   /* fewer than two entries */
#define UNMERGE_GROUP_ZERO 2       /* all entries are 0 */
#define UNMERGE_GROUP_ONE_SPARSE 4 /* one entry is left */
#define UNMERGE_GROUP_TIED 8       /* d_i is not (|c_i| - t_i w_i)_+ : it shares a mass among tied entries */
typedef struct unmerge_group_sparsity {
  size_t struct_size;
  double sparsity;  /* of z_i; NaN when excluded */
  double threshold; /* t_i */
  double scale;     /* d_i'|c_i|, the norm of z_i without refit */
  int64_t nonzeros;
  int32_t state;    /* UNMERGE_GROUP_... (bit set) */
  int32_t reserved;
} unmerge_group_sparsity;
unmerge_status unmerge_group_sparsity_init(unmerge_group_sparsity *group, size_t size);

/* x: p x m, any element type, finite.  Groups are the m columns (offsets NULL, n_groups = m), or of a p x 1 x the entries
 * offsets[i] .. offsets[i+1] - 1, with n_groups + 1 offsets from 0 to p that do not decrease.  Rows as groups: a view with rows and
 * columns exchanged.  z: f64 or f32, of the shape of x; z may be x.  groups: n_groups structs, struct_size set in the first; NULL
 * = not wanted.  Needs one copy of x (with weights two, in double) while it runs; one thread. */
unmerge_status unmerge_group_sparse_projection(const unmerge_view *x, const int64_t *offsets, int64_t n_groups,
                                               const unmerge_group_sparse_options *options, const unmerge_run *run,
                                               const unmerge_view *z, unmerge_group_sparsity *groups,
                                               unmerge_group_sparse_report *report, unmerge_error *error);
/* sp of every group as above: n_groups doubles, NaN for fewer than two entries.  weights as in the options. */
unmerge_status unmerge_hoyer_sparsity(const unmerge_view *x, const int64_t *offsets, int64_t n_groups,
                                      const unmerge_view *weights, double *sparsity, unmerge_error *error);

/* ---------------------------------------------------------------- composite problems: a penalty or set of your own making
 *
 *     minimise  1/2 ||Aw-y||^2 + q'w + sum_i g_i(K_i w)
 *
 * for convex g_i of the table above on all coefficients, on some of them, or on K_i w with a matrix K_i of the caller's: sums
 * and intersections that no method of its own covers.  Where one does, it is faster.
 *
 * ADMM splits z_i = K_i w, with over-relaxation and a rho that balances the residuals; FISTA, with gradient restart, serves
 * terms on disjoint atoms without matrix.  Both find the face of the z_i (zeros, bounds, clusters, active constraints); Newton
 * on it (`polish`) finds the minimum there to rounding and is kept where the residuals fall.  Boyd, Parikh, Chu, Peleato &
 * Eckstein 2011; O'Donoghue & Candes 2015; Li, Sun & Toh 2018.
 *
 * The certificate: z_i = prox of g_i, and l_i a subgradient of g_i at z_i by construction.  Then
 *
 *     primal = ||K w - z|| / max(||K w||, ||z||, ||w||, ||c - q|| / D^2),        D = max ||a_j||,
 *     dual   = ||Gw - c + q + sum K_i' l_i|| / max(||c - q||, ||Gw||, ||K'l||)
 *
 * (terms stacked, each K_i divided by the root mean square of the norms of its rows); both 0 exactly at an optimum.
 * `violation` is the larger one and CONVERGED means violation <= tol.
 * duality_gap bounds the objective's distance from the optimum where G is regular, up to what `primal` leaves of the sets (else
 * it is the one of norms, see unmerge_composite_operator, or NaN): 1/2 e'G^-1 e, e the vector in the numerator of `dual`, and
 * what each g_i deviates from its tangent between z_i and K_i w.  Sets count as 0 in the objective.  UNMERGE_E_INFEASIBLE with a proof (Banjac, Goulart, Stellato & Boyd 2019) where
 * the sets have no point in common; a problem without a lower bound (q alone can make one) ends with ITERATION_LIMIT.
 * df: the dimension of the face of w where it is flat, else tr d(Aw)/dy on it; NaN where G is singular, for callbacks, and where
 * g_i(K_i w) with a matrix bends. */

/* A proximal operator of the caller's: z = argmin step f(z) + 1/2 ||z - v||^2, n numbers; z is not v.  0 to go on, anything else
 * ends the call with UNMERGE_E_CANCELLED.  f must be convex; its value is not known, so the objective is NaN, and there is no
 * polish.  Called on the calling thread. */
typedef int32_t (*unmerge_prox_fn)(void *user, const double *v, double step, double *z, int64_t n);
#define UNMERGE_TERM_CALLBACK 0

typedef struct unmerge_term {
  size_t struct_size;
  int32_t kind;     /* a convex UNMERGE_PROX_... of a vector, or UNMERGE_TERM_CALLBACK; default UNMERGE_PROX_L1 */
  int32_t reserved; /* 0 */
  const unmerge_prox_options *options; /* NULL = defaults; step plays no part; MONOTONE without weights */
  const int64_t *atoms; /* n_atoms different indices in [0, n): g of those coefficients in that order; NULL = all */
  int64_t n_atoms;      /* >= 0; default 0 */
  const unmerge_view *matrix; /* K, k x n, finite; NULL = the identity; not together with atoms */
  const double *lower;  /* BOX: as many bounds as K w has entries, instead of those of the options; NULL = those */
  const double *upper;
  unmerge_prox_fn prox; /* UNMERGE_TERM_CALLBACK: required */
  void *prox_user;
} unmerge_term;
unmerge_status unmerge_term_init(unmerge_term *term, size_t size);

#define UNMERGE_ENGINE_AUTO 0 /* ADMM */
#define UNMERGE_ENGINE_ADMM 1
#define UNMERGE_ENGINE_FISTA 2
typedef struct unmerge_composite_options {
  size_t struct_size;
  double rho;           /* ADMM's penalty, in units of ||a||^2; > 0 fixes it; 0 (default): mean ||a_j||^2, then adapted */
  double relaxation;    /* [1, 1.8]; default 1.6 */
  const double *linear; /* q, n finite numbers; NULL = 0 */
  int32_t engine;       /* UNMERGE_ENGINE_...; default AUTO */
  int32_t polish;       /* 0 or 1; default 1 */
  int32_t warm_start;   /* 0 or 1; default 0 */
  int32_t reserved;     /* 0 */
} unmerge_composite_options;
unmerge_status unmerge_composite_options_init(unmerge_composite_options *options, size_t size);
/* terms: n_terms >= 0 structs; the struct_size of the first is the distance between them.  residuals: 2 T doubles, primal and
 * dual of target t at 2 t and 2 t + 1; NULL = not wanted.  iterations counts steps of the engine and Newton steps. */
unmerge_status unmerge_composite(const unmerge_gram *gram, const unmerge_term *terms, int64_t n_terms,
                                 const unmerge_composite_options *options, const unmerge_run *run, const unmerge_view *coef,
                                 double *residuals, unmerge_report *reports, unmerge_error *error);

/* The same from the data itself, without a Gram: for dictionaries whose n x n numbers are too many.  Memory is O(n) per thread,
 * O(entries of the terms), and factors in double; a step is one pass over a and y or a few.  y has T columns over the modules of
 * a; targets are answered one after the other.  AUTO is FISTA for terms on disjoint atoms without matrix, ADMM else, whose step
 * is solved by conjugate gradients; so is Newton's, on faces of zeros, bounds, norms and squares (sums, clusters and balls are
 * left to the engine).  Where all terms are L1, NONNEGATIVE_L1, L2 or LINF on disjoint atoms that cover all, without linear,
 * duality_gap is that of the dual norms, free of cancellation, and CONVERGED also means relative_gap <= tol.  Elsewhere it is
 * NaN.  condition is NaN.  The deadline and the cancel flag are asked between passes. */
unmerge_status unmerge_composite_operator(const unmerge_operator *a, const unmerge_operator *y, const unmerge_term *terms,
                                          int64_t n_terms, const unmerge_composite_options *options, const unmerge_run *run,
                                          const unmerge_view *coef, double *residuals, unmerge_report *reports,
                                          unmerge_error *error);

/* Consensus over row blocks: what one machine contributes that holds a Gram of its rows only,
 *
 *     x = argmin 1/2 ||A_b x - y_b||^2 + rho/2 ||x - z + u||^2,
 *
 * n x T each, rho > 0 and finite.  A round: every machine calls this; z = the composite problem with G = B rho I and
 * c = rho sum_b (x_b + u_b), B the number of machines; u_b += x_b - z.  Where Grams may be sent, adding them answers in one. */
unmerge_status unmerge_consensus_step(const unmerge_gram *gram, double rho, const unmerge_view *z, const unmerge_view *u,
                                      const unmerge_view *x, unmerge_error *error);

/* ---------------------------------------------------------------- verify and refine: from the data, not from the Gram
 *
 * The problem the coefficients are an answer to: alpha, l1_ratio, weights, positive as in the elastic net (alpha = 0: least
 * squares, with positive = 1: NNLS; l1_ratio = 0: ridge).  support_only = 1: least squares on the non-zero coefficients (OMP).
 * With `groups` the penalties are those of unmerge_group_lasso, alpha, l1_ratio, weights and positive included, and nothing else
 * but the mask may be set here; for unmerge_verify, groups that do not overlap, relative = 0 and UNMERGE_GROUP_NORM_COEFFICIENTS. */
typedef struct unmerge_problem {
  size_t struct_size;
  double alpha;         /* >= 0; default 0 */
  double l1_ratio;      /* [0, 1]; default 1 */
  const double *weights;
  int32_t positive;     /* 0 or 1; default 0 */
  int32_t support_only; /* 0 or 1; default 0 */
  const unmerge_mask *mask; /* NULL = all entries */
  const double *lower;  /* n bounds, as for the LASSO; NULL = none */
  const double *upper;
  const unmerge_group_options *groups; /* NULL = none */
} unmerge_problem;
unmerge_status unmerge_problem_init(unmerge_problem *problem, size_t size);

/* One streamed pass in double: residual, correlations A'r, objective, gap and violation of coef.  residual_correlation: n x T
 * doubles view (written) or NULL. */
unmerge_status unmerge_verify(const unmerge_operator *a, const unmerge_operator *y, const unmerge_problem *problem,
                              const unmerge_run *run, const unmerge_view *coef, const unmerge_view *residual_correlation,
                              unmerge_report *reports, unmerge_error *error);

/* One streamed refinement: coef += solution of G_SS d = (A'r - penalty gradient)_S on the support S of coef (all atoms for
 * ridge and least squares without sign), with the residual recomputed from the data; wins about four digits up to condition
 * 1e6 of A.  Reports are those of the refined coefficients, streamed = 1.  Signs are kept: a coefficient that would change
 * its sign stays where it is and shows up in the violation. */
unmerge_status unmerge_refine(const unmerge_gram *gram, const unmerge_operator *a, const unmerge_operator *y,
                              const unmerge_problem *problem, const unmerge_run *run, const unmerge_view *coef,
                              unmerge_report *reports, unmerge_error *error);

/* ---------------------------------------------------------------- models: what is learned from the data and has a state
 *
 * A model is created, stepped, asked, saved and resumed.  It does not keep the data: every step is given it.  n iterations in
 * one call or in several, saved and loaded between or not, leave the same bits.  An early end (cancel, deadline) leaves the
 * state of the last whole iteration, an error that of before the call.  Calls on one model from several threads queue; a
 * progress callback that calls its own model is refused (UNMERGE_E_HANDLE). */
typedef struct unmerge_model unmerge_model;
void unmerge_model_destroy(unmerge_model *model);
#define UNMERGE_MODEL_NMF 1
#define UNMERGE_MODEL_GRAM_NMF 2
#define UNMERGE_MODEL_ONLINE_NMF 3
typedef struct unmerge_model_info {
  size_t struct_size;
  int32_t kind; /* UNMERGE_MODEL_... */
  int32_t reserved;
  int64_t rows;       /* p */
  int64_t columns;    /* T, of the data it was created for; 0 for a stream, whose codes are not kept */
  int64_t components; /* k */
  int64_t iterations; /* of its whole life */
} unmerge_model_info;
unmerge_status unmerge_model_info_init(unmerge_model_info *info, size_t size);
unmerge_status unmerge_model_get_info(const unmerge_model *model, unmerge_model_info *info, unmerge_error *error);
/* At most run.max_iter more iterations; ends earlier when `violation` <= run.tol.  x: the data, p x T; NULL for a model that
 * has what it needs. */
unmerge_status unmerge_model_step(unmerge_model *model, const unmerge_view *x, const unmerge_run *run, unmerge_report *report,
                                  unmerge_error *error);
/* Codes H (k x columns of x) of any data for the dictionary as it is; the model does not change. */
unmerge_status unmerge_model_transform(unmerge_model *model, const unmerge_view *x, const unmerge_run *run,
                                       const unmerge_view *codes, unmerge_report *report, unmerge_error *error);
unmerge_status unmerge_model_components(const unmerge_model *model, const unmerge_view *w, unmerge_error *error); /* W, p x k, f64 or f32 */
unmerge_status unmerge_model_codes(const unmerge_model *model, const unmerge_view *h, unmerge_error *error);      /* H, k x T */
unmerge_status unmerge_model_saved_size(const unmerge_model *model, int64_t *size, unmerge_error *error);
unmerge_status unmerge_model_save(const unmerge_model *model, void *bytes, int64_t size, unmerge_error *error);
unmerge_status unmerge_model_load(const void *bytes, int64_t size, unmerge_model **out, unmerge_error *error);

/* ---------------------------------------------------------------- non-negative matrix factorisation
 *
 *     minimise over W (p x k) >= 0, H (k x T) >= 0:
 *         D(X, WH) + l1_w sum W + l2_w/2 ||W||^2 + group_w/2 sum_i (sum_l W_il)^2 + the same of H (by its columns)
 *
 * D = 1/2 ||X - WH||^2 over the entries that are there, or the Kullback-Leibler divergence sum x log(x/wh) - x + wh.
 * Where one factor alone is penalised the scale would run into the other, whose vectors (columns of W, rows of H) then have
 * norm at most 1 (`unit`).  Signed W (semi-NMF) with nonnegative_w = 0.
 *
 *   UNMERGE_NMF_HALS  sweeps over the components, as many as pay for the product before them, extrapolated with restarts;
 *                     never ascends.  Cichocki & Phan 2009; Gillis & Glineur 2012; Ang & Gillis 2019.
 *   UNMERGE_NMF_ANLS  exact alternating least squares by block pivoting.  Kim & Park 2008, 2011: with group_h > 0 and l2_w
 *                     > 0 their SNMF/R, with group_w and l2_h SNMF/L.
 *   UNMERGE_NMF_MU    multiplicative updates; for the divergence the only one.  Lee & Seung 2001.
 *   UNMERGE_NMF_PROJECTED  accelerated projected gradient, for factors held at a Hoyer sparsity: sparsity_w (columns of W),
 *                     sparsity_h (rows of H), each vector or on average.  Not monotone: the best iterate is kept.  After
 *                     Ohib et al. 2022 (gspNMF, cspNMF); Hoyer 2004.
 *
 * Report: objective; rss = ||X - WH||^2 and yy = ||X||^2 over the entries that are there (NaN for the divergence), from the data;
 * nonzeros of W and H; passes over X.  violation: how far one projected step would still move, in units of X,
 *
 *     sqrt( sum over both factors and components l of d_l ||f_l - P(f_l - grad_l/d_l)||^2 ) / ||X||,
 *
 * d_l the squared norm of the other factor's l-th vector + l2 + group, P the nearest point of the set; for the divergence
 * sum f |grad| / sum X, which multiplicative updates stop at.  0 exactly at a stationary point; NaN where a sparsity is held,
 * and CONVERGED then means that the step, relative to W and H, became shorter than tol. */
#define UNMERGE_NMF_HALS 0
#define UNMERGE_NMF_ANLS 1
#define UNMERGE_NMF_MU 2
#define UNMERGE_NMF_PROJECTED 3
#define UNMERGE_LOSS_FROBENIUS 0
#define UNMERGE_LOSS_KL 1
#define UNMERGE_INIT_AUTO 0    /* NNDSVDA where it can be: k <= min(p, T), no missing entries, W not signed; else RANDOM */
#define UNMERGE_INIT_RANDOM 1  /* uniform, scaled to the data */
#define UNMERGE_INIT_NNDSVD 2  /* Boutsidis & Gallopoulos 2008, singular vectors to about 1e-3; under MU zeros stay zero */
#define UNMERGE_INIT_NNDSVDA 3 /* zeros replaced by the mean of X */
#define UNMERGE_INIT_GIVEN 4   /* w and h */
#define UNMERGE_UNIT_AUTO 0    /* the factor without penalty, if the other has one */
#define UNMERGE_UNIT_NONE 1
#define UNMERGE_UNIT_W 2
#define UNMERGE_UNIT_H 3
#define UNMERGE_SPARSITY_AVERAGE 0
#define UNMERGE_SPARSITY_EACH 1
typedef struct unmerge_nmf_options {
  size_t struct_size;
  int64_t components; /* k >= 1; default 1 */
  int32_t algorithm;  /* UNMERGE_NMF_...; default HALS */
  int32_t loss;       /* UNMERGE_LOSS_...; default FROBENIUS */
  int32_t init;       /* UNMERGE_INIT_...; default AUTO */
  int32_t unit;       /* UNMERGE_UNIT_...; default AUTO; HALS only */
  double l1_w, l2_w, group_w; /* >= 0, finite; default 0 */
  double l1_h, l2_h, group_h;
  double sparsity_w, sparsity_h; /* Hoyer sparsity in [0, 1); 0 (default) = not held; PROJECTED only */
  int32_t sparsity_mode;  /* UNMERGE_SPARSITY_...; default AVERAGE */
  int32_t nonnegative_w;  /* 0 or 1; default 1; 0: HALS or ANLS without penalty on W but l2_w */
  int32_t missing;        /* 1: a NaN in X is an entry that is not there; default 0: an error */
  int32_t extrapolation;  /* HALS, ANLS: 0 or 1; default 1 */
  const unmerge_view *w;  /* UNMERGE_INIT_GIVEN: p x k and k x T, finite, >= 0 (w: unless nonnegative_w = 0) */
  const unmerge_view *h;
} unmerge_nmf_options;
unmerge_status unmerge_nmf_options_init(unmerge_nmf_options *options, size_t size);
/* x: p x T, >= 0 (semi-NMF: any), its norm 0 or in [1e-100, 1e100]; any element type, read in place.  Reads x for the start;
 * run.seed draws it. */
unmerge_status unmerge_nmf_create(const unmerge_view *x, const unmerge_nmf_options *options, const unmerge_run *run,
                                  unmerge_model **out, unmerge_error *error);

/* The same of a stream: minimise over W >= 0 the sum over x_t of min over h >= 0 of 1/2 ||x_t - Wh||^2 + l1_h sum h + l2_h/2
 * ||h||^2, in memory that does not depend on how many there are.  A step of n iterations takes n batches of columns of x in
 * order, from where the last one ended, round and round; or give each batch to a call of its own.  Codes of a batch are exact,
 * the past counts with (1 - 1/t)^decay at the t-th batch.  With a penalty the columns of W have norm at most 1.  x of create
 * is for the start (NNDSVD with means).  Report: objective, rss, yy of the batches of this call, each with the W of before it;
 * violation that of W on the sums of the past; CONVERGED when a batch changes W by no more than tol of its norm.  Mairal, Bach,
 * Ponce & Sapiro 2010. */
typedef struct unmerge_online_nmf_options {
  size_t struct_size;
  int64_t components; /* k >= 1; default 1 */
  int64_t batch;      /* columns, >= 1; default 256 */
  double decay;       /* >= 0, finite; default 2; 0 = the past counts in full */
  double l1_h, l2_h;  /* >= 0, finite; default 0 */
} unmerge_online_nmf_options;
unmerge_status unmerge_online_nmf_options_init(unmerge_online_nmf_options *options, size_t size);
unmerge_status unmerge_online_nmf_create(const unmerge_view *x, const unmerge_online_nmf_options *options,
                                         const unmerge_run *run, unmerge_model **out, unmerge_error *error);

/* ---------------------------------------------------------------- semi- and convex NMF of a collection, from its Gram
 *
 * The columns x_1 ... x_T of X (p x T) are signed, task vectors say.  The dictionary is sought among their combinations, W = X M:
 *
 *     minimise over M (T x k), H (k x T) >= 0:   1/2 ||X - X M H||^2 + l1_h sum H + l2_h/2 ||H||^2
 *
 *   UNMERGE_GRAM_NMF_SEMI     M of any sign, W too.  No W outside the span of X does better.
 *   UNMERGE_GRAM_NMF_CONVEX   M >= 0: every component is a sum of the x_t, with weights that can be read
 *
 * All of it lives in K = X'X, the Gram with the x_t for atoms (targets play no part): nothing of size p is formed or kept, and
 * after the one pass an iteration costs O(k T^2), convex also O(T |support|^2) for each component.  Components have ||X m_l|| = 1, or
 * 0; with a penalty at most 1, which is then a constraint.  By turns, each side exact: H by block pivoting; M = H'(HH')^+ (semi),
 * a non-negative least-squares problem per column (convex); a component that no column uses starts again at the x_t that
 * fits worst.  Every iteration descends, to a stationary point that need not be the global minimum: compare starts.  Semi-NMF
 * without penalties may have no minimum, only an infimum that M and H approach slowly; l2_h > 0 gives it one.
 *
 * The model is stepped with x = NULL and keeps K: 8 T^2 bytes, while it steps a convex one four times as much beside.
 * unmerge_model_codes gives H, unmerge_gram_nmf_mixing M; components and transform would need X: W is X M, and codes of new
 * targets are unmerge_nnls on the Gram transformed by M.
 *
 * Report: objective; rss = ||X - XMH||^2 and yy = ||X||^2, from K: below 1e-15 yy rss is rounding; nonzeros of H (convex: and
 * M); violation = the gradient that is left, by components divided by the norm of the other factor's vector / ||X||, for what
 * is >= 0 cut at the bound: 0 exactly at a stationary point.
 * Ding, Li & Jordan 2010; Kim & Park 2011 (H); Ang & Gillis 2019 (extrapolation). */
#define UNMERGE_GRAM_NMF_SEMI 0
#define UNMERGE_GRAM_NMF_CONVEX 1
typedef struct unmerge_gram_nmf_options {
  size_t struct_size;
  int64_t components; /* k, 1 to T; default 1 */
  int32_t kind;       /* UNMERGE_GRAM_NMF_...; default SEMI */
  /* UNMERGE_INIT_AUTO (default): semi, the larger of the positive and the negative part of K's leading eigenvectors (Boutsidis
   * & Gallopoulos 2008); convex, the columns that stand out most, one after the other (Gillis & Vavasis 2014).
   * UNMERGE_INIT_RANDOM: H uniform in [0, 1) from run.seed.  UNMERGE_INIT_GIVEN: h. */
  int32_t init;
  double l1_h, l2_h;     /* >= 0, finite; default 0 */
  const unmerge_view *h; /* UNMERGE_INIT_GIVEN: k x T, finite, >= 0 */
  int32_t extrapolation; /* 0 or 1; default 1: M answers to H moved on along its last step, with restarts */
  int32_t reserved;
} unmerge_gram_nmf_options;
unmerge_status unmerge_gram_nmf_options_init(unmerge_gram_nmf_options *options, size_t size);
unmerge_status unmerge_gram_nmf_create(const unmerge_gram *gram, const unmerge_gram_nmf_options *options, const unmerge_run *run,
                                       unmerge_model **out, unmerge_error *error);
unmerge_status unmerge_gram_nmf_mixing(const unmerge_model *model, const unmerge_view *m, unmerge_error *error); /* M, T x k */

/* ---------------------------------------------------------------- recipes and replay: what would the tool have stored?
 *
 * A recipe says how a merged checkpoint was made from a base b and task models t_1 .. t_k.  Replaying it gives the weights
 * the merging tool would have stored: every operation in the tool's own arithmetic, every result rounded to `dtype`, the end
 * to `out_dtype`.  A right recipe predicts (almost) all stored values exactly, a wrong one as many as chance does.  With
 * task vectors d_j = t_j - b:
 *
 *     LINEAR            sum_j w_j t_j / sum_j w_j (with base_weight, b is one of them, the first)
 *     TASK_ARITHMETIC   b + lambda sum_j w_j d_j
 *     TIES              d_j loses all but its int(density p) largest entries (of p in the module; one at least); then
 *                       b + lambda sum w_j d_j / sum w_j, entry by entry over the j whose w_j d_j has the elected sign
 *     BREADCRUMBS       as TASK_ARITHMETIC; d_j keeps int(density p) entries below its int(gamma p) largest
 *     BREADCRUMBS_TIES  the same with the elected sign
 *     MODEL_STOCK       t mean(t_j) + (1 - t) b, t = k c / (1 + (k - 1) c), c the mean cosine of all pairs of d_j; k >= 2
 *     SLERP             on the arc from the first to the second model (one atom: from b) at t; a line where |cos| > 0.9995
 *     NUSLERP           b + the same arc between two d_j, at w_2 / (w_1 + w_2)
 *     DARE_LINEAR       as TASK_ARITHMETIC; entries of d_j are kept with probability density, rescaled
 *     DARE_TIES         the same with the elected sign
 *     DELLA_LINEAR      as DARE_LINEAR with probability density + epsilon (2 r - 1), r in [0, 1] the rank in its row
 *     DELLA             the same with the elected sign
 *     ADAPTER_CAT       b + sum_j B_j (w_j scale_j A_j): the LoRA atoms joined to one adapter that is stored in dtype and
 *                       then merged (PEFT's cat and merge_and_unload); task_rounding does not apply
 *
 * Atoms with weight 0 in a module take no part there.  An atom that is not set on a module has t_j = b.  An atom set dense
 * as values - base with scale 1 is a stored task model; any other is a task vector, see task_rounding.  Formulas and order
 * of operations are those of mergekit 0.1.5 and PEFT 0.21; nothing of theirs is used. */

#define UNMERGE_MERGE_LINEAR 1
#define UNMERGE_MERGE_TASK_ARITHMETIC 2
#define UNMERGE_MERGE_TIES 3
#define UNMERGE_MERGE_BREADCRUMBS 4
#define UNMERGE_MERGE_BREADCRUMBS_TIES 5
#define UNMERGE_MERGE_MODEL_STOCK 6
#define UNMERGE_MERGE_SLERP 7
#define UNMERGE_MERGE_NUSLERP 8
#define UNMERGE_MERGE_DARE_LINEAR 9
#define UNMERGE_MERGE_DARE_TIES 10
#define UNMERGE_MERGE_DELLA_LINEAR 11
#define UNMERGE_MERGE_DELLA 12
#define UNMERGE_MERGE_ADAPTER_CAT 13
#define UNMERGE_MERGE_ADAPTER_LINEAR 14 /* factors summed apart; found by unmerge_attribute, not a recipe */

#define UNMERGE_TASK_EXACT 0   /* d_j is the atom itself; no task model was stored */
#define UNMERGE_TASK_STORED 1  /* t_j = b + atom in float32, rounded once to task_dtype */
#define UNMERGE_TASK_PRODUCT 2 /* the atom is rounded to task_dtype, then the sum is */

#define UNMERGE_METHOD_DEFAULT (-1)

#define UNMERGE_RESCALE_NONE 0
#define UNMERGE_RESCALE_DENSITY 1 /* kept entries divided by density */
#define UNMERGE_RESCALE_L1 2      /* kept entries multiplied so that sum |d_j| is what it was */

#define UNMERGE_CONSENSUS_SUM 1   /* the elected sign is that of sum_j w_j d_j */
#define UNMERGE_CONSENSUS_COUNT 2 /* ... that of most w_j d_j */

typedef struct unmerge_recipe {
  size_t struct_size;
  int32_t method;        /* UNMERGE_MERGE_...; default LINEAR */
  int32_t dtype;         /* computed in: UNMERGE_F32, _F16, _BF16; 0 (default) = as the target is stored */
  int32_t out_dtype;     /* stored as: the same; 0 (default) = dtype */
  int32_t task_rounding; /* UNMERGE_TASK_...; default STORED */
  int32_t task_dtype;    /* 0 (default) = as the base is stored */
  int32_t normalize;     /* 1 = divide by the sum of weights, 0 = do not; UNMERGE_METHOD_DEFAULT (default) = 1 for LINEAR,
                            TIES and DELLA, else 0; MODEL_STOCK and the arcs do not look at it */
  int32_t rescale;       /* UNMERGE_RESCALE_... or UNMERGE_METHOD_DEFAULT (default): L1 for DARE and DELLA, else NONE */
  int32_t consensus;     /* UNMERGE_CONSENSUS_...; default SUM */
  const double *weights;    /* n finite doubles; required.  Atom j in module m: weights[m * weights_stride + j] */
  int64_t weights_stride;   /* 0 (default): the same weights in all modules; else >= n */
  const double *densities;  /* as weights, in [0, 1]; NULL (default) = density for all */
  int64_t densities_stride;
  double density;     /* [0, 1]; default 1 */
  double gamma;       /* [0, 1]; default 0.01 */
  double epsilon;     /* [0, 0.5]; default 0.15; density +- epsilon must be in (0, 1) where DELLA draws */
  double lambda;      /* finite; default 1 */
  double t;           /* SLERP; finite; default 0.5 */
  double base_weight; /* LINEAR; finite; default 0: the base is not among the models */
  int32_t stacked;    /* LINEAR: 1 = weights and products are rounded to dtype before the sum, as by mergekit before 0.1.5;
                         0 (default) = one rounding at the end */
  int32_t reserved;
} unmerge_recipe;
unmerge_status unmerge_recipe_init(unmerge_recipe *recipe, size_t size);

/* The merged weights of one module as they would be stored.  base: an operator of one column over the same modules, dense
 * with scale 1: its base is taken, or where it has none its values.  out: rows x cols, f32 or f64.  Random methods: the mean
 * over their draws, not rounded.  UNMERGE_E_RANGE where the method cannot be formed (too few or too many atoms, weights that
 * sum to 0; DARE_TIES and DELLA: more than 12 atoms with a density between 0 and 1). */
unmerge_status unmerge_merge(const unmerge_operator *atoms, const unmerge_operator *base, const unmerge_recipe *recipe,
                             const unmerge_run *run, int64_t module, const unmerge_view *out, unmerge_error *error);

/* What is compared: the weights the recipe gives, as they would be stored, with the values of the target's one column (dense
 * with a base, scale 1), entry by entry; 0 equals -0.  Among equal magnitudes at a threshold of TIES or BREADCRUMBS tools
 * choose arbitrarily: an entry counts as equal when either choice gives it; the other numbers are of the lower index first.
 * A module without a target has 0 entries. */
typedef struct unmerge_replay_report {
  size_t struct_size;
  int64_t entries;
  int64_t equal;      /* predicted exactly; random methods: equal to the rounded mean */
  int64_t near;       /* at most one unit in the last place of out_dtype apart */
  int64_t consistent; /* random methods: equal to the result of one of the 2^k keep/drop patterns of that entry; -1 when more
                         than 12 atoms are drawn; other methods: equal.  RESCALE_L1 depends on the draw: the factors are
                         estimated from the target first */
  int64_t chance;     /* what coincidence gives: consistent, had every stored value been three units in the last place
                         further from 0.  Evidence is how far consistent is above it */
  int64_t tied;       /* of equal, those that another choice between equal magnitudes predicts */
  double squared_difference; /* sum over the entries of (predicted - stored)^2 */
  double largest;     /* difference, in units in the last place */
} unmerge_replay_report;
unmerge_status unmerge_replay_report_init(unmerge_replay_report *report, size_t size);

/* reports: modules + 1 structs, the last one for all modules together; struct_size set in the first.  Cancellable; needs,
 * beside the data, one float32 copy of the largest module per thread where magnitudes are selected, and k + 12 tiles per
 * thread. */
unmerge_status unmerge_replay(const unmerge_operator *atoms, const unmerge_operator *target, const unmerge_recipe *recipe,
                              const unmerge_run *run, unmerge_replay_report *reports, unmerge_error *error);

/* ---------------------------------------------------------------- attribution: which atoms, how much, how sure, what is left
 *
 * The question behind all of this, answered in one call.  The target is what a merge left, merged - base, and may contain
 * fine-tunes nobody has; the atoms are the fine-tunes one has.  For every atom: is it inside, with what weight, how sure;
 * for the merge: by which method, with which parameters, is anything missing, and does the recipe reproduce the file.
 *
 * Three kinds of evidence, each with its own null distribution:
 *  - least squares and the log-determinant fit min_w sum_m k_m log det(R_m R_m'/k_m + s_m I), R_m = D_m - sum_j w_j d_jm: the
 *    right weights leave the residual of lowest rank.  Compared with the residual left in the row space of the same atom,
 *    T_j = |w_j| ||d_j|| / ||R P_j||; its null comes from leaving atoms of the dictionary out and merging them.  A dense atom
 *    is in all rows: T_j = |w_j| (G_jj / N)^1/2 of the log-determinant fit, with N entries and G_jj the square of d_j
 *    whitened by C_m = R_m R_m'/k_m + s_m I; its null is that of the dense atoms;
 *  - where entries were dropped or trimmed (DARE, TIES, DELLA, breadcrumbs), entries that one component alone has left are
 *    exact multiples of that component: the share of entries D = rho d_j, beyond what the same atom shifted by rows gives;
 *  - replay of the recipe found: how many stored values it predicts exactly.
 *
 * p-values hold for atoms that are absent; q-values are those of Benjamini and Hochberg over the dictionary. */

typedef struct unmerge_attribution unmerge_attribution;

/* How weights are to be read */
#define UNMERGE_WEIGHTS_ABSOLUTE 0
#define UNMERGE_WEIGHTS_RATIO 1      /* the merge divides by a sum of weights: only ratios can be known; they sum to 1 */
#define UNMERGE_WEIGHTS_PER_MODULE 2 /* they differ from module to module; `weight` is their mean */

/* Flags of an atom */
#define UNMERGE_ATOM_ZERO 1        /* zero in every module that the target has */
#define UNMERGE_ATOM_DUPLICATE 2   /* a multiple of an earlier atom: the two cannot be told apart, the earlier one answers */
#define UNMERGE_ATOM_RELATED 4     /* cosine above 0.5 with another atom: shared history; see nearest */
#define UNMERGE_ATOM_PARTIAL 8     /* not set on some of the target's modules */
#define UNMERGE_ATOM_UNSEEN 16     /* sets none of the target's modules: nothing can be said about it */

/* Flags of an attribution */
#define UNMERGE_ATTRIBUTION_UNCHANGED 1   /* the target equals its base: nothing was merged */
#define UNMERGE_ATTRIBUTION_WRONG_BASE 2  /* target - base is as large as the base's own values: not this base */
#define UNMERGE_ATTRIBUTION_FEW_MODULES 4 /* fewer than 4 modules: standard errors are rough */
#define UNMERGE_ATTRIBUTION_FEW_ATOMS 8   /* fewer than 4 usable atoms: the null distribution is a default, not this dictionary's */
#define UNMERGE_ATTRIBUTION_PROVED 16     /* the recipe reproduces nearly all stored values; see equal and compared */

typedef struct unmerge_attribute_options {
  size_t struct_size;
  double fdr;        /* (0, 1); false discovery rate at which atoms are called present; default 0.05 */
  double confidence; /* (0, 1); of the intervals; default 0.9 */
  int64_t rows;      /* rows of each module that are analysed, >= 16; default 512 (all where a module has fewer) */
  int64_t bytes;     /* memory for the analysed sample; >= 1 MiB; default 400 MiB; modules are left out evenly beyond it */
  int32_t replay;    /* 1 (default): replay the recipe found over all entries; 0: over the analysed rows only */
  int32_t reserved;
} unmerge_attribute_options;
unmerge_status unmerge_attribute_options_init(unmerge_attribute_options *options, size_t size);

/* atoms: n >= 1 columns, LoRA or dense; target: one column, dense with a base (a checkpoint) or LoRA (a merged adapter); same
 * modules in the same order.  Cancellable; progress has UNMERGE_PHASE_PASS and _SOLVE. */
unmerge_status unmerge_attribute(const unmerge_operator *atoms, const unmerge_operator *target,
                                 const unmerge_attribute_options *options, const unmerge_run *run, unmerge_attribution **out,
                                 unmerge_error *error);

typedef struct unmerge_attributed_atom {
  size_t struct_size;
  int32_t present;  /* 1: called present at the false discovery rate asked for */
  int32_t flags;    /* UNMERGE_ATOM_... */
  double weight;    /* best estimate when present, see weights_scale; otherwise the weight least squares would give it */
  double low, high; /* interval at the confidence asked for */
  double p_value;   /* chance of such evidence were the atom absent */
  double q_value;
  double evidence;  /* T_j */
  double share;     /* excess share of entries that are multiples of this atom alone; NaN where that does not apply */
  double scatter;   /* standard deviation of its weight over the modules */
  double nearest_cosine; /* largest |cosine| with another atom */
  int64_t nearest;       /* that atom; -1 when there is none */
} unmerge_attributed_atom;
unmerge_status unmerge_attributed_atom_init(unmerge_attributed_atom *atom, size_t size);

typedef struct unmerge_attribution_info {
  size_t struct_size;
  int64_t atoms, modules, entries;
  int64_t analysed;      /* entries in the analysed sample */
  int32_t flags;         /* UNMERGE_ATTRIBUTION_... */
  int32_t weights_scale; /* UNMERGE_WEIGHTS_... */
  int32_t method;        /* UNMERGE_MERGE_...; 0 = none of those known */
  int32_t complete;      /* 1: atoms called present explain the target up to the noise of its method and storage */
  int64_t equivalent;    /* bit set, 1 << UNMERGE_MERGE_...: methods this target cannot tell from `method` */
  int32_t normalize;     /* as in unmerge_recipe */
  int32_t has_recipe;    /* 1: unmerge_attribution_recipe has one; 0: only the kind of method is known */
  double density;        /* NaN where the method has none */
  double lambda;
  double unexplained;    /* share of ||target||^2 that is neither explained nor rounding, in [0, 1] */
  double noise;          /* share of ||target||^2 that storage and method predict as noise */
  double missing;        /* evidence that something is missing, larger = more: residual over what was predicted */
  double condition;      /* of the unit-diagonal Gram of the atoms */
  int64_t equal, compared; /* stored values the recipe predicts exactly (random methods: is consistent with), of how many */
  double chance;         /* share of values that coincidence predicts */
  double seconds;
} unmerge_attribution_info;
unmerge_status unmerge_attribution_info_init(unmerge_attribution_info *info, size_t size);
unmerge_status unmerge_attribution_get_info(const unmerge_attribution *attribution, unmerge_attribution_info *info,
                                            unmerge_error *error);

/* n structs, struct_size set in the first. */
unmerge_status unmerge_attribution_atoms(const unmerge_attribution *attribution, unmerge_attributed_atom *atoms,
                                         unmerge_error *error);

/* Per module, as doubles: weights n x M (least squares, module by module; NaN where the module was not analysed), and M
 * numbers: the share of ||target||^2 there that is left unexplained.  Each may be NULL. */
unmerge_status unmerge_attribution_modules(const unmerge_attribution *attribution, const unmerge_view *weights,
                                           double *unexplained, unmerge_error *error);

/* The recipe found, ready for unmerge_merge and unmerge_replay; recipe->weights points into the attribution and lives as long. */
unmerge_status unmerge_attribution_recipe(const unmerge_attribution *attribution, unmerge_recipe *recipe,
                                          unmerge_error *error);
const char *unmerge_merge_name(int32_t method); /* "task_arithmetic", ...; "unknown" for 0; never NULL */
void unmerge_attribution_destroy(unmerge_attribution *attribution);

#ifdef __cplusplus
}
#endif
#endif /* UNMERGE_H */
