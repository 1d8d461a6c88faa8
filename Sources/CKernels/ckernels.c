#include "ckernels.h"
#include "clones.h"
#include <math.h>
#include <string.h>

static inline float f32_of_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline float f32_of_bf16(uint16_t h) { return f32_of_bits((uint32_t)h << 16); }

// Shift exponent and mantissa into place and multiply by 2^112: exact for normal and subnormal halves alike; infinities and
// NaNs, whose exponent field is full, are put right afterwards. No F16C needed.
static inline float f32_of_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7fffu) << 13;
  float scaled = f32_of_bits(rest) * 0x1p112f;
  uint32_t bits;
  memcpy(&bits, &scaled, 4);
  bits = (h & 0x7c00u) == 0x7c00u ? (rest | 0x7f800000u) : bits;
  return f32_of_bits(bits | sign);
}

#define UNALIGNED(type, name) typedef type name __attribute__((aligned(1), may_alias))
UNALIGNED(double, u_f64);
UNALIGNED(float, u_f32);
UNALIGNED(uint16_t, u_u16);

// One loop per element type, contiguous and strided; the contiguous ones vectorise.
#define LOOP(out, type, read)                                                                      \
  if (stride == (ptrdiff_t)sizeof(type)) {                                                         \
    const type *s = (const type *)src;                                                             \
    if (add)                                                                                       \
      for (size_t i = 0; i < n; i++) { type v = s[i]; dst[i] += scale * (out)(read); }             \
    else if (scale == 1)                                                                           \
      for (size_t i = 0; i < n; i++) { type v = s[i]; dst[i] = (out)(read); }                      \
    else                                                                                           \
      for (size_t i = 0; i < n; i++) { type v = s[i]; dst[i] = scale * (out)(read); }              \
  } else {                                                                                         \
    const char *s = (const char *)src;                                                             \
    for (size_t i = 0; i < n; i++, s += stride) {                                                  \
      type v = *(const type *)s;                                                                   \
      out x = scale * (out)(read);                                                                 \
      dst[i] = add ? dst[i] + x : x;                                                               \
    }                                                                                              \
  }

CLONES void ck_load_f32(float *restrict dst, const void *restrict src, int dtype, ptrdiff_t stride, size_t n, float scale,
                        int add) {
  switch (dtype) {
  case 1: LOOP(float, u_f64, v) break;
  case 2: LOOP(float, u_f32, v) break;
  case 3: LOOP(float, u_u16, f32_of_f16(v)) break;
  case 4: LOOP(float, u_u16, f32_of_bf16(v)) break;
  }
}

CLONES void ck_load_f64(double *restrict dst, const void *restrict src, int dtype, ptrdiff_t stride, size_t n, double scale,
                        int add) {
  switch (dtype) {
  case 1: LOOP(double, u_f64, v) break;
  case 2: LOOP(double, u_f32, v) break;
  case 3: LOOP(double, u_u16, f32_of_f16(v)) break;
  case 4: LOOP(double, u_u16, f32_of_bf16(v)) break;
  }
}

#define GATHER(out, type, read)                                                                    \
  for (size_t k = 0; k < n; k++) {                                                                 \
    int64_t i = index[k] / cols, j = index[k] % cols;                                              \
    type v = *(const type *)((const char *)src + i * row_stride + j * col_stride);                 \
    out x = scale * (out)(read);                                                                   \
    dst[k] = add ? dst[k] + x : x;                                                                 \
  }

void ck_gather_f32(float *restrict dst, const void *restrict src, int dtype, ptrdiff_t row_stride, ptrdiff_t col_stride,
                   int64_t cols, const int64_t *restrict index, size_t n, float scale, int add) {
  switch (dtype) {
  case 1: GATHER(float, u_f64, v) break;
  case 2: GATHER(float, u_f32, v) break;
  case 3: GATHER(float, u_u16, f32_of_f16(v)) break;
  case 4: GATHER(float, u_u16, f32_of_bf16(v)) break;
  }
}

void ck_gather_f64(double *restrict dst, const void *restrict src, int dtype, ptrdiff_t row_stride, ptrdiff_t col_stride,
                   int64_t cols, const int64_t *restrict index, size_t n, double scale, int add) {
  switch (dtype) {
  case 1: GATHER(double, u_f64, v) break;
  case 2: GATHER(double, u_f32, v) break;
  case 3: GATHER(double, u_u16, f32_of_f16(v)) break;
  case 4: GATHER(double, u_u16, f32_of_bf16(v)) break;
  }
}

// Explicit lanes: the order of additions is fixed, whatever the instruction set, so every clone gives the same bits as long
// as products and sums are not contracted.
#pragma clang fp contract(off)

enum { LANES = 32 };

CLONES void ck_dot_norm_f32(const float *x_, const float *y_, size_t n, double *xy, double *xx) {
  const u_f32 *x = (const u_f32 *)x_, *y = (const u_f32 *)y_;
  float p[LANES] = {0}, q[LANES] = {0};
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    // A page ahead, where the machine's own prefetching ends.
    __builtin_prefetch((const char *)(x + i) + 4096);
    __builtin_prefetch((const char *)(x + i) + 4160);
    for (int l = 0; l < LANES; l++) {
      p[l] += x[i + l] * y[i + l];
      q[l] += x[i + l] * x[i + l];
    }
  }
  double s = 0, t = 0;
  for (; i < n; i++) {
    s += (double)x[i] * y[i];
    t += (double)x[i] * x[i];
  }
  for (int l = 0; l < LANES; l++) {
    s += p[l];
    t += q[l];
  }
  *xy += s;
  *xx += t;
}

CLONES void ck_dot_norm_f64(const double *x_, const double *y_, size_t n, double *xy, double *xx) {
  const u_f64 *x = (const u_f64 *)x_, *y = (const u_f64 *)y_;
  double p[LANES] = {0}, q[LANES] = {0};
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) {
      p[l] += x[i + l] * y[i + l];
      q[l] += x[i + l] * x[i + l];
    }
  double s = 0, t = 0;
  for (; i < n; i++) {
    s += x[i] * y[i];
    t += x[i] * x[i];
  }
  for (int l = 0; l < LANES; l++) {
    s += p[l];
    t += q[l];
  }
  *xy += s;
  *xx += t;
}

// Dot2 of Ogita, Rump & Oishi 2005, lane by lane: every product and every addition is carried with its rounding error, so the
// sum is as if computed in twice the precision and rounded to *high + *low. The order of additions is fixed.
CLONES void ck_dot_twice(const double *x_, const double *y_, size_t n, double *high, double *low) {
  const u_f64 *x = (const u_f64 *)x_, *y = (const u_f64 *)y_;
  double s[8] = {0}, e[8] = {0};
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; l++) {
      double p = x[i + l] * y[i + l], q = __builtin_fma(x[i + l], y[i + l], -p);
      double t = s[l] + p, z = t - s[l];
      e[l] += (s[l] - (t - z)) + (p - z) + q;
      s[l] = t;
    }
  for (int l = 0; i < n; i++, l++) {
    double p = x[i] * y[i], q = __builtin_fma(x[i], y[i], -p);
    double t = s[l] + p, z = t - s[l];
    e[l] += (s[l] - (t - z)) + (p - z) + q;
    s[l] = t;
  }
  double sum = 0, error = 0;
  for (int l = 0; l < 8; l++) {
    double t = sum + s[l], z = t - sum;
    error += (sum - (t - z)) + (s[l] - z) + e[l];
    sum = t;
  }
  *high = sum + error;
  *low = (sum - *high) + error;
}

#define SQUARES(name, type, alias)                                                                 \
  CLONES double name(const type *x_, size_t n) {                                                   \
    const alias *x = (const alias *)x_;                                                            \
    double p[16] = {0}, s = 0;                                                                     \
    size_t i = 0;                                                                                  \
    for (; i + 16 <= n; i += 16)                                                                   \
      for (int l = 0; l < 16; l++) {                                                               \
        double v = x[i + l];                                                                       \
        p[l] += v * v;                                                                             \
      }                                                                                            \
    for (; i < n; i++) s += (double)x[i] * x[i];                                                   \
    for (int l = 0; l < 16; l++) s += p[l];                                                        \
    return s;                                                                                      \
  }
#define DOT(name, type, alias)                                                                     \
  CLONES double name(const type *x_, const type *y_, size_t n) {                                   \
    const alias *x = (const alias *)x_, *y = (const alias *)y_;                                    \
    double p[16] = {0}, s = 0;                                                                     \
    size_t i = 0;                                                                                  \
    for (; i + 16 <= n; i += 16)                                                                   \
      for (int l = 0; l < 16; l++) p[l] += (double)x[i + l] * y[i + l];                            \
    for (; i < n; i++) s += (double)x[i] * y[i];                                                   \
    for (int l = 0; l < 16; l++) s += p[l];                                                        \
    return s;                                                                                      \
  }
DOT(ck_dot_f32, float, u_f32)
DOT(ck_dot_f64, double, u_f64)
SQUARES(ck_squares_f32, float, u_f32)
SQUARES(ck_squares_f64, double, u_f64)

#define DOT_SQUARES(name, type, alias)                                                             \
  CLONES void name(const type *x_, const type *y_, size_t n, double *xy, double *xx) {             \
    const alias *x = (const alias *)x_, *y = (const alias *)y_;                                    \
    double p[16] = {0}, q[16] = {0}, s = 0, t = 0;                                                 \
    size_t i = 0;                                                                                  \
    for (; i + 16 <= n; i += 16)                                                                   \
      for (int l = 0; l < 16; l++) {                                                               \
        double v = x[i + l];                                                                       \
        p[l] += v * y[i + l];                                                                      \
        q[l] += v * v;                                                                             \
      }                                                                                            \
    for (; i < n; i++) s += (double)x[i] * y[i], t += (double)x[i] * x[i];                         \
    for (int l = 0; l < 16; l++) s += p[l], t += q[l];                                             \
    *xy += s;                                                                                      \
    *xx += t;                                                                                      \
  }
DOT_SQUARES(ck_dot_squares_f32, float, u_f32)
DOT_SQUARES(ck_dot_squares_f64, double, u_f64)

// Four lanes are a register of AVX2, two of SSE2.
typedef double lanes4 __attribute__((vector_size(32), aligned(8)));

typedef float floats4 __attribute__((vector_size(16), aligned(4)));
#define LOAD4(vector, p) __builtin_convertvector(*(const vector *)(p), lanes4)

// In a block of 2 x 4 columns missing ones repeat the last; their sums are dropped.
#define SMALL_GRAM(name, type, vector) \
  CLONES void name(double *g, const type *x, size_t lead, size_t k, size_t n) { \
    size_t whole = k / 4 * 4; \
    for (size_t j = 0; j < n; j += 4) { \
      size_t nj = n - j < 4 ? n - j : 4; \
      const type *b0 = x + j * lead, *b1 = x + (j + (nj > 1 ? 1 : 0)) * lead, *b2 = x + (j + (nj > 2 ? 2 : nj - 1)) * lead, \
                   *b3 = x + (j + nj - 1) * lead; \
      for (size_t i = 0; i < j + nj; i += 2) { \
        size_t ni = i + 1 < n ? 2 : 1; \
        const type *a0 = x + i * lead, *a1 = x + (i + ni - 1) * lead; \
        lanes4 s[8] = {{0}}; \
        for (size_t r = 0; r < whole; r += 4) { \
          lanes4 u = LOAD4(vector, a0 + r), v = LOAD4(vector, a1 + r); \
          lanes4 p = LOAD4(vector, b0 + r), q = LOAD4(vector, b1 + r); \
          s[0] += u * p; \
          s[1] += v * p; \
          s[2] += u * q; \
          s[3] += v * q; \
          p = LOAD4(vector, b2 + r), q = LOAD4(vector, b3 + r); \
          s[4] += u * p; \
          s[5] += v * p; \
          s[6] += u * q; \
          s[7] += v * q; \
        } \
        const type *b[4] = {b0, b1, b2, b3}; \
        for (size_t c = 0; c < nj; c++) \
          for (size_t a = 0; a < ni; a++) { \
            if (i + a > j + c) continue; \
            const lanes4 *t = &s[2 * c + a]; \
            double sum = ((*t)[0] + (*t)[1]) + ((*t)[2] + (*t)[3]); \
            const type *left = a ? a1 : a0; \
            for (size_t r = whole; r < k; r++) sum += (double)left[r] * b[c][r]; \
            g[(j + c) * n + i + a] += sum; \
          } \
      } \
    } \
  }
SMALL_GRAM(ck_small_gram_f64, double, lanes4)
SMALL_GRAM(ck_small_gram_f32, float, floats4)

// Blocks of 2 columns of x by 4 of c; missing ones repeat the last and are dropped.
typedef float floats16 __attribute__((vector_size(64), aligned(4)));
typedef float floats8 __attribute__((vector_size(32), aligned(4)));
typedef double doubles8 __attribute__((vector_size(64)));
#define HALF(v, a, b, c, d, e, f, g, h) __builtin_convertvector(__builtin_shufflevector(v, v, a, b, c, d, e, f, g, h), doubles8)
#define FOLD(v) (HALF(v, 0, 1, 2, 3, 4, 5, 6, 7) + HALF(v, 8, 9, 10, 11, 12, 13, 14, 15))
enum { FEW = 32 }; // w is at most that

CLONES void ck_few_products_f32(double *g, size_t ldg, const float *x, size_t lead, size_t k, size_t m, const float *c,
                                size_t leadc, size_t w) {
#pragma clang fp contract(fast)
  size_t whole = k / 16 * 16;
  for (size_t i = 0; i < m; i += 2) {
    size_t ni = i + 1 < m ? 2 : 1;
    const float *a0 = x + i * lead, *a1 = x + (i + ni - 1) * lead;
    // Columns are far apart: the next two are asked for while these are worked on.
    const float *next0 = x + (i + 2 < m ? i + 2 : i) * lead, *next1 = x + (i + 3 < m ? i + 3 : i) * lead;
    doubles8 one[FEW] = {{0}}, two[FEW] = {{0}};
    for (size_t first = 0; first < whole; first += 1024) {
      size_t end = whole - first < 1024 ? whole : first + 1024;
      for (size_t j = 0; j < w; j += 4) {
        size_t nj = w - j < 4 ? w - j : 4;
        const float *b0 = c + j * leadc, *b1 = c + (j + (nj > 1 ? 1 : 0)) * leadc, *b2 = c + (j + (nj > 2 ? 2 : nj - 1)) * leadc,
                    *b3 = c + (j + nj - 1) * leadc;
        floats16 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, t0 = {0}, t1 = {0}, t2 = {0}, t3 = {0};
        for (size_t r = first; r < end; r += 16) {
          __builtin_prefetch(next0 + r);
          __builtin_prefetch(next1 + r);
          floats16 u = *(const floats16 *)(a0 + r), v = *(const floats16 *)(a1 + r);
          floats16 p = *(const floats16 *)(b0 + r), q = *(const floats16 *)(b1 + r);
          s0 += u * p, t0 += v * p;
          s1 += u * q, t1 += v * q;
          p = *(const floats16 *)(b2 + r), q = *(const floats16 *)(b3 + r);
          s2 += u * p, t2 += v * p;
          s3 += u * q, t3 += v * q;
        }
        one[j] += FOLD(s0), two[j] += FOLD(t0);
        if (nj > 1) one[j + 1] += FOLD(s1), two[j + 1] += FOLD(t1);
        if (nj > 2) one[j + 2] += FOLD(s2), two[j + 2] += FOLD(t2);
        if (nj > 3) one[j + 3] += FOLD(s3), two[j + 3] += FOLD(t3);
      }
    }
    for (size_t j = 0; j < w; j++) {
      double s = 0, t = 0;
      for (int l = 0; l < 8; l++) s += one[j][l], t += two[j][l];
      for (size_t r = whole; r < k; r++) s += (double)a0[r] * c[j * leadc + r], t += (double)a1[r] * c[j * leadc + r];
      g[j * ldg + i] += s;
      if (ni > 1) g[j * ldg + i + 1] += t;
    }
  }
}

CLONES void ck_subtract_columns(double *restrict g, const double *const *columns, const double *w, size_t k, size_t n) {
  size_t j = 0;
  for (; j + 8 <= k; j += 8) {
    const double *a = columns[j], *b = columns[j + 1], *c = columns[j + 2], *d = columns[j + 3], *e = columns[j + 4],
                 *f = columns[j + 5], *p = columns[j + 6], *q = columns[j + 7], *s = w + j;
    double s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3], s4 = s[4], s5 = s[5], s6 = s[6], s7 = s[7];
    for (size_t i = 0; i < n; i++) {
      double x = g[i];
      x -= s0 * a[i];
      x -= s1 * b[i];
      x -= s2 * c[i];
      x -= s3 * d[i];
      x -= s4 * e[i];
      x -= s5 * f[i];
      x -= s6 * p[i];
      x -= s7 * q[i];
      g[i] = x;
    }
  }
  for (; j < k; j++) {
    const double *a = columns[j], s = w[j];
    for (size_t i = 0; i < n; i++) g[i] -= s * a[i];
  }
}

void ck_columns_of_rows_f32(float *dst, size_t lead, const float *src, size_t stride, size_t rows, size_t cols) {
  // Sixteen rows fill a cache line of every column they go to.
  for (size_t top = 0; top < rows; top += 16)
    for (size_t j = 0; j < cols; j += 4)
      for (size_t i = top; i < top + 16 && i < rows; i += 4) {
        if (i + 4 > rows || j + 4 > cols) {
          for (size_t q = j; q < j + 4 && q < cols; q++)
            for (size_t p = i; p < i + 4 && p < rows; p++) dst[q * lead + p] = src[p * stride + q];
          continue;
        }
        const float *s = src + i * stride + j;
        floats4 a = *(const floats4 *)s, b = *(const floats4 *)(s + stride), c = *(const floats4 *)(s + 2 * stride),
                d = *(const floats4 *)(s + 3 * stride);
        floats4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        float *t = dst + j * lead + i;
        *(floats4 *)t = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        *(floats4 *)(t + lead) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        ab = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        *(floats4 *)(t + 2 * lead) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        *(floats4 *)(t + 3 * lead) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
      }
}

CLONES void ck_accumulate_f32(double *restrict c, const float *restrict a, size_t n) {
  for (size_t i = 0; i < n; i++) c[i] += a[i];
}

CLONES void ck_max_abs(double *restrict m, const double *restrict x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    double v = fabs(x[i]);
    m[i] = v > m[i] || v != v ? v : m[i];
  }
}

int32_t ck_load_flag(const int32_t *flag) { return flag ? __atomic_load_n(flag, __ATOMIC_RELAXED) : 0; }
