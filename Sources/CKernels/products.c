// Products of columns of a panel. BLAS packs both sides first, which for panels of a thousand rows costs as much as the
// products; columns are contiguous already, so here blocks of them are multiplied where they lie.
#include "ckernels.h"

#if defined(__x86_64__) && defined(__clang__)
#define WIDE 1
typedef float f32x16 __attribute__((vector_size(64), aligned(4)));
typedef float f32x4 __attribute__((vector_size(16), aligned(4)));
typedef double f64x4 __attribute__((vector_size(32), aligned(8)));
#endif

int ck_has_products(void) {
#ifdef WIDE
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return 0;
#endif
}

#ifdef WIDE
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,fma"), min_vector_width(512)))
#define PICK __builtin_shufflevector

// Sums of the lanes of many registers at once: each level halves their number and the lanes of every sum.
#define HALVES16(a, b)                                                                             \
  (PICK(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +                            \
   PICK(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define QUARTERS16(a, b)                                                                           \
  (PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +                          \
   PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define PAIRS16(a, b)                                                                              \
  (PICK(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +                          \
   PICK(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define SINGLES16(a, b)                                                                            \
  (PICK(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +                         \
   PICK(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))

// out[4 j + i] = <x_i, z_j> for four columns each; `ahead` are columns that come next.
TARGET static inline void block(float *out, const float *const *x, const float *const *z, size_t k, const float *ahead) {
  const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3], *z0 = z[0], *z1 = z[1], *z2 = z[2], *z3 = z[3];
  f32x16 s[16] = {{0}};
  size_t whole = k / 16 * 16;
  for (size_t r = 0; r < whole; r += 16) {
    f32x16 a = *(const f32x16 *)(x0 + r), b = *(const f32x16 *)(x1 + r), c = *(const f32x16 *)(x2 + r),
           d = *(const f32x16 *)(x3 + r), y = *(const f32x16 *)(z0 + r);
    if (ahead) __builtin_prefetch(ahead + r, 0, 2);
    s[0] += a * y, s[1] += b * y, s[2] += c * y, s[3] += d * y;
    y = *(const f32x16 *)(z1 + r);
    s[4] += a * y, s[5] += b * y, s[6] += c * y, s[7] += d * y;
    y = *(const f32x16 *)(z2 + r);
    s[8] += a * y, s[9] += b * y, s[10] += c * y, s[11] += d * y;
    y = *(const f32x16 *)(z3 + r);
    s[12] += a * y, s[13] += b * y, s[14] += c * y, s[15] += d * y;
  }
  for (int q = 0; q < 8; q++) s[q] = HALVES16(s[2 * q], s[2 * q + 1]);
  for (int q = 0; q < 4; q++) s[q] = QUARTERS16(s[2 * q], s[2 * q + 1]);
  for (int q = 0; q < 2; q++) s[q] = PAIRS16(s[2 * q], s[2 * q + 1]);
  *(f32x16 *)out = SINGLES16(s[0], s[1]);
  for (size_t r = whole; r < k; r++)
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < 4; i++) out[4 * j + i] += x[i][r] * z[j][r];
}

// Columns first ... first + 3, the last again where there are fewer.
static inline void four(const float **p, const float *x, size_t lead, size_t first, size_t count) {
  for (size_t i = 0; i < 4; i++) p[i] = x + (first + i < count ? first + i : count - 1) * lead;
}

// Rows of a chunk, and columns of the outer side in one go: STRIP columns of it and four of the other fill most of the first
// cache, 256 columns half of the second.
enum { CHUNK = 512, STRIP = 8 };

// The outer strip stays in the first cache while the inner side goes by, and memory is asked for the next strip meanwhile: a
// column of a panel is too short a run for the machine to see it coming.
TARGET static void chunk(double *g, size_t ldg, const float *x, size_t lead, size_t m, const ptrdiff_t *row, const float *z,
                         size_t leadz, size_t w, const ptrdiff_t *column, size_t k, int upper) {
  size_t outer = upper ? w : m, inner = upper ? m : w, step = upper ? leadz : lead;
  const float *side = upper ? z : x;
  for (size_t o = 0; o < outer; o += STRIP) {
    size_t stop = o + STRIP < outer ? o + STRIP : outer, asked = stop;
    for (size_t t = 0; t < (upper ? stop : inner); t += 4) {
      const float *a[4], *b[4];
      if (upper) four(a, x, lead, t, m);
      else four(b, z, leadz, t, w);
      for (size_t u = upper && t > o ? t : o; u < stop; u += 4) {
        four(upper ? b : a, side, step, u, outer);
        float s[16];
        block(s, a, b, k, asked < stop + STRIP && asked < outer ? side + asked++ * step : 0);
        size_t i = upper ? t : u, j = upper ? u : t;
        int isWhole = !row && i + 4 <= m && !(upper && i + 4 > j);
        for (size_t q = 0; q < 4 && j + q < w; q++) {
          double *to = g + (size_t)(column ? column[j + q] : (ptrdiff_t)(j + q)) * ldg;
          if (isWhole) {
            *(f64x4 *)(to + i) += __builtin_convertvector(*(f32x4 *)(s + 4 * q), f64x4);
            continue;
          }
          for (size_t p = 0; p < 4 && i + p < m; p++)
            if (!upper || i + p <= j + q) to[row ? row[i + p] : (ptrdiff_t)(i + p)] += s[4 * q + p];
        }
      }
    }
  }
}

void ck_products_f32(double *g, size_t ldg, const float *x, size_t lead, size_t m, const ptrdiff_t *row, const float *z,
                     size_t leadz, size_t w, const ptrdiff_t *column, size_t k, int upper) {
  for (size_t r = 0; r < k; r += CHUNK)
    chunk(g, ldg, x + r, lead, m, row, z + r, leadz, w, column, k - r < CHUNK ? k - r : CHUNK, upper);
}
#else
void ck_products_f32(double *g, size_t ldg, const float *x, size_t lead, size_t m, const ptrdiff_t *row, const float *z,
                     size_t leadz, size_t w, const ptrdiff_t *column, size_t k, int upper) {
  for (size_t j = 0; j < w; j++)
    for (size_t i = 0; i < (upper ? j + 1 : m); i++) {
      float s = 0;
      for (size_t r = 0; r < k; r++) s += x[i * lead + r] * z[j * leadz + r];
      g[(size_t)(column ? column[j] : (ptrdiff_t)j) * ldg + (size_t)(row ? row[i] : (ptrdiff_t)i)] += s;
    }
}
#endif
