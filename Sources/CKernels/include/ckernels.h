// Element-wise and reduction kernels that need run-time dispatch (AVX2, AVX-512). Everything else is Swift.
#ifndef CKERNELS_H
#define CKERNELS_H
#include <stddef.h>
#include <stdint.h>

// dst[i] (+)= scale * element i of src, for n elements `stride` bytes apart. dtype as in unmerge.h (1 f64, 2 f32, 3 f16,
// 4 bf16). add = 0 stores, add = 1 accumulates. Any alignment.
void ck_load_f32(float *dst, const void *src, int dtype, ptrdiff_t stride, size_t n, float scale, int add);
void ck_load_f64(double *dst, const void *src, int dtype, ptrdiff_t stride, size_t n, double scale, int add);

// dst[k] (+)= scale * element (index[k] / cols, index[k] % cols) of src; strides in bytes.
void ck_gather_f32(float *dst, const void *src, int dtype, ptrdiff_t row_stride, ptrdiff_t col_stride, int64_t cols,
                   const int64_t *index, size_t n, float scale, int add);
void ck_gather_f64(double *dst, const void *src, int dtype, ptrdiff_t row_stride, ptrdiff_t col_stride, int64_t cols,
                   const int64_t *index, size_t n, double scale, int add);

// In one read of the n values of x: *xy += sum x*y, *xx += sum x*x, in lanes summed in double at the end (f32: blocks of at
// most 1024 values are expected).
void ck_dot_norm_f32(const float *x, const float *y, size_t n, double *xy, double *xx);
void ck_dot_norm_f64(const double *x, const double *y, size_t n, double *xy, double *xx);

// sum of x*y and of x*x in double, whatever the type; the order of additions does not depend on it.
double ck_dot_f32(const float *x, const float *y, size_t n);
double ck_dot_f64(const double *x, const double *y, size_t n);
double ck_squares_f32(const float *x, size_t n);
double ck_squares_f64(const double *x, size_t n);

// *xy += sum x*y and *xx += sum x*x in double, x read once.
void ck_dot_squares_f32(const float *x, const float *y, size_t n, double *xy, double *xx);
void ck_dot_squares_f64(const double *x, const double *y, size_t n, double *xy, double *xx);

// sum of x*y as if computed in twice the precision: *high + *low.
void ck_dot_twice(const double *x, const double *y, size_t n, double *high, double *low);

// Upper triangle of g += X'X for few columns (n x n, column-major, leading dimension n); X is k x n, columns `lead` apart.
// BLAS packs and blocks for squares and spends its time on that when n is small; here 2 x 4 columns share their loads.
// Summed in double; both give the same bits for the same values.
void ck_small_gram_f64(double *g, const double *x, size_t lead, size_t k, size_t n);
void ck_small_gram_f32(double *g, const float *x, size_t lead, size_t k, size_t n);

// g += X'C for a few (w <= 32) columns C: X is k x m, C k x w, g m x w with leading dimension ldg. BLAS would pack all of X for them; here
// every number of X is read from memory once. float32 lanes, summed in double every 1024 rows.
void ck_few_products_f32(double *g, size_t ldg, const float *x, size_t lead, size_t k, size_t m, const float *c, size_t leadc,
                         size_t w);

// g[i] -= sum_k w[k] columns[k][i], term after term, eight columns to a read of g.
void ck_subtract_columns(double *g, const double *const *columns, const double *w, size_t k, size_t n);

// c[i] += a[i] for a float32 panel result.
void ck_accumulate_f32(double *c, const float *a, size_t n);
// m[i] = max(m[i], |x[i]|); a NaN stays.
void ck_max_abs(double *m, const double *x, size_t n);

// Sum, sum of squares and smallest of n values in lanes; both sums are not finite where a value is not.
void ck_summary(const double *x, size_t n, double *sum, double *squares, double *least);

// x[i] = x[i] / y[i]; 0 where x is NaN or y nothing.
void ck_divide_present(double *x, const double *y, size_t n);

// Sum modulo 2^64 of the bits of the entries times a hash of (row, column); `fast` entries lie side by side, along a row if by_rows.
uint64_t ck_fingerprint(const double *x, size_t fast, size_t slow, uint64_t row, uint64_t column, int by_rows);

// Relaxed atomic load of a cancel flag; NULL reads as 0.
int32_t ck_load_flag(const int32_t *flag);

// ---- excess.c: sparsity as a ratio of norms. Sums are in double, in an order that does not depend on the instruction set.
typedef struct ck_sums {
  double count, mass, squares;
} ck_sums;

// x has the type dtype 1 (f64) or 2 (f32).

// max |x| (as `count`), sum |x|, sum x*x.
ck_sums ck_magnitudes(const void *x, int dtype, size_t n);
// With u = max(|x| - t, 0): how many are > 0, sum u, sum u*u.
ck_sums ck_excess(const void *x, int dtype, size_t n, double t);
// The |x| > t, in order, to z, which has room for n or is x; returns how many there are.
size_t ck_survivors(void *z, const void *x, int dtype, size_t n, double t);
// With u = max((unit |x| - t) - d, 0) where unit |x| > t: z = sign(x) scale u, or z = unit x where u > 0 when keep; how many
// are not 0, sum |z|, sum z*z.
ck_sums ck_shrink(double *z, const void *x, int dtype, size_t n, double unit, double t, double d, double scale, int keep);
// n doubles to elements `stride` bytes apart, of dtype 1 (f64) or 2 (f32). Any alignment.
void ck_store(void *dst, int dtype, ptrdiff_t stride, const double *x, size_t n);

// dst (columns `lead` apart) = src, rows x cols with its rows `stride` values apart.
void ck_columns_of_rows_f32(float *dst, size_t lead, const float *src, size_t stride, size_t rows, size_t cols);

// ---- products.c: products of columns without packing them

// Whether this machine has the registers that make them faster than BLAS: AVX-512.
int ck_has_products(void);
// g[row[i] + column[j] ldg] += <x_i, z_j> for m columns x and w columns z, `lead` and `leadz` apart, of k values; row and
// column NULL: i and j. upper: i <= j only; z is then x. Float32 sums of 512 values at most, added in double.
void ck_products_f32(double *g, size_t ldg, const float *x, size_t lead, size_t m, const ptrdiff_t *row, const float *z,
                     size_t leadz, size_t w, const ptrdiff_t *column, size_t k, int upper);

// ---- replay.c: the arithmetic of merging tools. Operations in float32, results rounded to dtype (2 f32, 3 f16, 4 bf16).

void ck_round(float *x, size_t n, int dtype);
void ck_scale_round(float *x, size_t n, float scale, int dtype);                // x = x * scale
void ck_divide_round(float *x, size_t n, float divisor, int dtype);              // x = x / divisor
void ck_add_round(float *x, const float *y, size_t n, int dtype);               // x = x + y
void ck_subtract_round(float *x, const float *y, size_t n, int dtype);          // x = x - y
int ck_all_finite(const float *x, size_t n);

// out = base + lambda (sum_j w_j x_j) / divisor over k vectors. Products are rounded, summed in float32, the sum is rounded.
// consensus 0: all terms; 1: those with the sign of the sum; 2: those with the sign of most. With a consensus the divisor is
// the rounded sum of the weights that agree (0: 1). base NULL: none.
void ck_merge_stack(float *out, const float *const *x, const float *w, size_t k, size_t n, int consensus, int normalize,
                    float divisor, float lambda, const float *base, int dtype);
// out = sum_j w_j x_j / divisor: fused multiply-adds in float32, rounded once.
void ck_merge_linear(float *out, const float *const *x, const float *w, size_t k, size_t n, float divisor, int dtype);
// out = t mean(x) + (1 - t) base, every step rounded.
void ck_merge_stock(float *out, const float *const *x, size_t k, size_t n, float t, const float *base, int dtype);
// out = base + (a x + b y) / divisor; the products are rounded when inner == dtype.
void ck_merge_arc(float *out, const float *x, const float *y, size_t n, float a, float b, float divisor, const float *base,
                  int inner, int dtype);
// sum of (x/dx)(y/dy), quotients and products rounded, summed in double
double ck_dot_rounded(const float *x, const float *y, size_t n, float dx, float dy, int dtype);
double ck_sum_abs(const float *x, size_t n);

// Histograms of |x|: its upper 16 bits (65536 counters), and the lower 15 of those with given upper bits (32768).
void ck_count_high(const float *x, size_t n, uint64_t *count);
void ck_count_low(const float *x, size_t n, uint32_t high, uint64_t *count);
// Zeroes what is not between low and high in magnitude; equal to low (high) stays up to index low_end (high_end). Where a
// bound is split, its equals get `bit` in ties.
void ck_select(float *x, size_t n, float low, int32_t low_end, float high, int32_t high_end, uint64_t *ties, uint64_t bit,
               int split_low, int split_high);
// rank[i] = number of smaller magnitudes (ties: lower index first) over n - 1; keys and spare are scratch of n each.
void ck_rank_magnitudes(const float *x, size_t n, uint64_t *keys, uint64_t *spare, float *rank);

// The unit in the last place of each entry, and the sum of its squares.
void ck_spacing(float *out, const float *x, size_t n, int dtype);
double ck_sum_spacing_squares(const float *x, size_t n, int dtype);
// Adds to the counts of entries that are equal (0 = -0) or at most one step of dtype apart; same[i] = equal.
void ck_compare(const float *x, const float *y, size_t n, int dtype, uint8_t *same, int64_t *equal, int64_t *near,
                double *squares, double *largest);
// same[i] |= x[i] == y[i]; returns how many are new.
size_t ck_mark_equal(const float *x, const float *y, size_t n, uint8_t *same);

// Where |x - y| < distance: label = value, and distance = |x - y|.
void ck_nearer(const float *x, const float *y, size_t n, float *distance, float *label, float value);
void ck_accumulate(float *sum, const float *x, size_t n, float scale);                          // sum += scale x
void ck_accumulate_product(float *sum, const float *x, const float *y, size_t n, float scale);  // sum += scale x y
void ck_multiply_affine(float *x, const float *y, size_t n, float a, float b);                  // x *= a + b y

// ---- spikes.c: votes for ratios

// Points of a grid of ratios from 0.02 to 4 and beyond, 256 to an octave; point < 2048.
float ck_spike_ratio(size_t point);
// For entries with |t| > least unit and |d| > 1.5 unit: where on the grid the intervals |d - r t| <= unit/2 of r and the two
// of the same width beside it begin and end. count holds, for positive and then for negative r, points + 1 times how many of
// the edges r - 3h, r - h, r + h, r + 3h have that point as the first not below them. A unit is at least 0.4 % of the larger
// of |d| and |t|, and 0.6 % where unit is NULL. Returns the number of entries.
size_t ck_spikes(int32_t *count, size_t points, const float *d, const float *t, const float *unit, size_t n, float least);

// ---- nmf.c: a block of a non-negative factor

#define CK_ROWS 64
// Sweeps of exact coordinate descent for CK_ROWS problems min 1/2 x'Gx - b'x over x >= 0: coordinate i of problem r is at
// i * CK_ROWS + r of f and b. Stops when a sweep moves less than `least` times the first, measured as sum G_ii dx_i^2, and
// returns that of the first. A coordinate with G_ii <= 0 stays, or becomes 0 where b < 0.
double ck_nonnegative_sweeps(double *f, const double *b, const double *g, size_t k, size_t sweeps, double least);
#endif
