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

// Upper triangle of g += X'X for few columns (n x n, column-major, leading dimension n); X is k x n, columns `lead` apart.
// BLAS packs and blocks for squares and spends its time on that when n is small; here 2 x 4 columns share their loads.
// Summed in double; both give the same bits for the same values.
void ck_small_gram_f64(double *g, const double *x, size_t lead, size_t k, size_t n);
void ck_small_gram_f32(double *g, const float *x, size_t lead, size_t k, size_t n);

// c[i] += a[i] for a float32 panel result.
void ck_accumulate_f32(double *c, const float *a, size_t n);
// m[i] = max(m[i], |x[i]|); a NaN stays.
void ck_max_abs(double *m, const double *x, size_t n);

// Relaxed atomic load of a cancel flag; NULL reads as 0.
int32_t ck_load_flag(const int32_t *flag);
#endif
