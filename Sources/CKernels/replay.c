// What a merging tool does to every entry, in the arithmetic it does it in: each operation in float32 from values of the
// compute type, its result rounded to that type. `dtype` is as in unmerge.h: 2 f32 (nothing is rounded), 3 f16, 4 bf16.
#include "ckernels.h"
#include "clones.h"
#include <math.h>
#include <string.h>

// A product and a sum are two roundings, except where fmaf says otherwise.
#pragma clang fp contract(off)

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

INLINE float of_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// Round to nearest, ties to even, by carrying into the bits that stay; infinities pass, NaNs would carry and are kept.
INLINE float round_bf16(float x) {
  uint32_t u = bits_of(x), r = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
  return of_bits(x != x ? u : r);
}

// As above with 10 bits; below 2^-14 the spacing is 2^-24, which is that of float32 near 1/2; from 65520 on it is infinity.
INLINE float round_f16(float x) {
  uint32_t u = bits_of(x), sign = u & 0x80000000u, m = u & 0x7fffffffu;
  uint32_t normal = (m + 0xfffu + ((m >> 13) & 1u)) & 0xffffe000u;
  uint32_t small = bits_of((of_bits(m) + 0.5f) - 0.5f);
  uint32_t r = m < 0x38800000u ? small : normal >= 0x47800000u ? 0x7f800000u : normal;
  return of_bits(x != x ? u : r | sign);
}

INLINE float rounded(float x, const int dtype) { return dtype == 4 ? round_bf16(x) : dtype == 3 ? round_f16(x) : x; }

// Each body is compiled once per type: the type is a constant in its loops.
#define BY_TYPE(...)                                                                               \
  switch (dtype) {                                                                                 \
  case 3: { enum { T = 3 }; __VA_ARGS__; } break;                                                  \
  case 4: { enum { T = 4 }; __VA_ARGS__; } break;                                                  \
  default: { enum { T = 2 }; __VA_ARGS__; } break;                                                 \
  }

CLONES void ck_round(float *x, size_t n, int dtype) {
  BY_TYPE(for (size_t i = 0; i < n; i++) x[i] = rounded(x[i], T))
}

CLONES void ck_scale_round(float *x, size_t n, float scale, int dtype) {
  BY_TYPE(for (size_t i = 0; i < n; i++) x[i] = rounded(x[i] * scale, T))
}

CLONES void ck_divide_round(float *x, size_t n, float divisor, int dtype) {
  BY_TYPE(for (size_t i = 0; i < n; i++) x[i] = rounded(x[i] / divisor, T))
}

CLONES void ck_add_round(float *restrict x, const float *restrict y, size_t n, int dtype) {
  BY_TYPE(for (size_t i = 0; i < n; i++) x[i] = rounded(x[i] + y[i], T))
}

CLONES void ck_subtract_round(float *restrict x, const float *restrict y, size_t n, int dtype) {
  BY_TYPE(for (size_t i = 0; i < n; i++) x[i] = rounded(x[i] - y[i], T))
}

CLONES int ck_all_finite(const float *x, size_t n) {
  uint32_t full = 0;
  for (size_t i = 0; i < n; i++) full |= (uint32_t)((bits_of(x[i]) & 0x7f800000u) == 0x7f800000u);
  return full == 0;
}

// ---------------------------------------------------------------- sums over a stack of vectors

enum { BLOCK = 256, CHUNK = 16 };

// Sums in float32, 16 terms at a time and then the sums of 16.
typedef struct {
  float low[BLOCK], high[BLOCK];
} sums;

INLINE void clear(sums *s, size_t n) {
  for (size_t i = 0; i < n; i++) s->low[i] = s->high[i] = 0;
}

INLINE void carry(sums *s, size_t n, size_t j) {
  if (j % CHUNK != CHUNK - 1) return;
  for (size_t i = 0; i < n; i++) {
    s->high[i] += s->low[i];
    s->low[i] = 0;
  }
}

INLINE void stack_block(float *out, const float *const *x, const float *w, size_t k, size_t at, size_t n, int consensus,
                        int normalize, float divisor, float lambda, const float *base, const int dtype) {
  sums s, d;
  float majority[BLOCK];
  clear(&s, n);
  if (consensus != 0) {
    for (size_t j = 0; j < k; j++) {
      const float *v = x[j] + at, c = w[j];
      if (consensus == 1)
        for (size_t i = 0; i < n; i++) s.low[i] += rounded(v[i] * c, dtype);
      else
        for (size_t i = 0; i < n; i++) {
          float p = rounded(v[i] * c, dtype);
          s.low[i] += (float)((p > 0) - (p < 0));
        }
      carry(&s, n, j);
    }
    for (size_t i = 0; i < n; i++) majority[i] = rounded(s.low[i] + s.high[i], dtype) >= 0 ? 1.0f : -1.0f;
    clear(&s, n);
    clear(&d, n);
    for (size_t j = 0; j < k; j++) {
      const float *v = x[j] + at, c = w[j];
      for (size_t i = 0; i < n; i++) {
        float p = rounded(v[i] * c, dtype);
        int agrees = majority[i] > 0 ? p > 0 : p < 0;
        s.low[i] += agrees ? p : 0.0f;
        d.low[i] += agrees ? c : 0.0f;
      }
      carry(&s, n, j);
      carry(&d, n, j);
    }
  } else {
    for (size_t j = 0; j < k; j++) {
      const float *v = x[j] + at, c = w[j];
      for (size_t i = 0; i < n; i++) s.low[i] += rounded(v[i] * c, dtype);
      carry(&s, n, j);
    }
  }
  for (size_t i = 0; i < n; i++) {
    float m = rounded(s.low[i] + s.high[i], dtype);
    if (normalize) {
      float q = consensus != 0 ? rounded(d.low[i] + d.high[i], dtype) : divisor;
      m = rounded(m / (consensus != 0 && q == 0 ? 1.0f : q), dtype);
    }
    if (lambda != 1) m = rounded(m * lambda, dtype);
    out[at + i] = base ? rounded(base[at + i] + m, dtype) : m;
  }
}

CLONES void ck_merge_stack(float *out, const float *const *x, const float *w, size_t k, size_t n, int consensus,
                           int normalize, float divisor, float lambda, const float *base, int dtype) {
  for (size_t at = 0; at < n; at += BLOCK) {
    size_t m = n - at < BLOCK ? n - at : BLOCK;
    BY_TYPE(stack_block(out, x, w, k, at, m, consensus, normalize, divisor, lambda, base, T))
  }
}

CLONES void ck_merge_linear(float *out, const float *const *x, const float *w, size_t k, size_t n, float divisor,
                            int dtype) {
  for (size_t at = 0; at < n; at += BLOCK) {
    size_t m = n - at < BLOCK ? n - at : BLOCK;
    float s[BLOCK] = {0};
    for (size_t j = 0; j < k; j++) {
      const float *v = x[j] + at, c = w[j];
      for (size_t i = 0; i < m; i++) s[i] = __builtin_fmaf(v[i], c, s[i]);
    }
    if (divisor != 1)
      for (size_t i = 0; i < m; i++) s[i] /= divisor;
    BY_TYPE(for (size_t i = 0; i < m; i++) out[at + i] = rounded(s[i], T))
  }
}

CLONES void ck_merge_stock(float *out, const float *const *x, size_t k, size_t n, float t, const float *base, int dtype) {
  BY_TYPE({
    const float rest = rounded(1 - t, T), count = (float)k;
    for (size_t at = 0; at < n; at += BLOCK) {
      size_t m = n - at < BLOCK ? n - at : BLOCK;
      float s[BLOCK];
      for (size_t i = 0; i < m; i++) s[i] = x[0][at + i];
      for (size_t j = 1; j < k; j++)
        for (size_t i = 0; i < m; i++) s[i] = rounded(s[i] + x[j][at + i], T);
      for (size_t i = 0; i < m; i++) {
        float average = rounded(s[i] / count, T);
        out[at + i] = rounded(rounded(t * average, T) + rounded(rest * base[at + i], T), T);
      }
    }
  })
}

CLONES void ck_merge_arc(float *out, const float *x, const float *y, size_t n, float a, float b, float divisor,
                         const float *base, int inner, int dtype) {
  // Inner results in `inner`, the end in `dtype`.
  BY_TYPE(for (size_t i = 0; i < n; i++) {
    float p = a * x[i];
    float q = b * y[i];
    if (inner == T) p = rounded(p, T), q = rounded(q, T);
    float m = rounded(p + q, T);
    if (divisor != 1) m = rounded(m / divisor, T);
    out[i] = base ? rounded(base[i] + m, T) : m;
  })
}

// Sum of the products, each rounded, summed in double.
CLONES double ck_dot_rounded(const float *x, const float *y, size_t n, float dx, float dy, int dtype) {
  double p[16] = {0}, s = 0;
  size_t whole = n / 16 * 16;
  BY_TYPE({
    for (size_t i = 0; i < whole; i += 16)
      for (int l = 0; l < 16; l++)
        p[l] += (double)rounded(rounded(x[i + l] / dx, T) * rounded(y[i + l] / dy, T), T);
    for (size_t i = whole; i < n; i++) s += (double)rounded(rounded(x[i] / dx, T) * rounded(y[i] / dy, T), T);
  })
  for (int l = 0; l < 16; l++) s += p[l];
  return s;
}

CLONES double ck_sum_abs(const float *x, size_t n) {
  double p[16] = {0}, s = 0;
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int l = 0; l < 16; l++) p[l] += fabsf(x[i + l]);
  for (; i < n; i++) s += fabsf(x[i]);
  for (int l = 0; l < 16; l++) s += p[l];
  return s;
}

// ---------------------------------------------------------------- selection by magnitude

void ck_count_high(const float *x, size_t n, uint64_t *count) {
  for (size_t i = 0; i < n; i++) count[(bits_of(x[i]) & 0x7fffffffu) >> 15]++;
}

void ck_count_low(const float *x, size_t n, uint32_t high, uint64_t *count) {
  for (size_t i = 0; i < n; i++) {
    uint32_t m = bits_of(x[i]) & 0x7fffffffu;
    if (m >> 15 == high) count[m & 0x7fffu]++;
  }
}

CLONES void ck_select(float *x, size_t n, float low, int32_t low_end, float high, int32_t high_end, uint64_t *ties,
                      uint64_t bit, int split_low, int split_high) {
  for (size_t i = 0; i < n; i++) {
    float a = fabsf(x[i]);
    int above = a > low || (a == low && (int32_t)i < low_end), below = a < high || (a == high && (int32_t)i < high_end);
    ties[i] |= (split_low && a == low) || (split_high && a == high) ? bit : 0;
    x[i] = above && below ? x[i] : 0.0f * x[i];
  }
}

// Least significant digit first, three digits of 11 bits; equal magnitudes stay in order.
void ck_rank_magnitudes(const float *x, size_t n, uint64_t *keys, uint64_t *spare, float *rank) {
  for (size_t i = 0; i < n; i++) keys[i] = (uint64_t)(bits_of(x[i]) & 0x7fffffffu) << 32 | (uint32_t)i;
  for (int shift = 32; shift < 63; shift += 11) {
    size_t start[2049] = {0};
    for (size_t i = 0; i < n; i++) start[(keys[i] >> shift & 2047) + 1]++;
    for (int d = 0; d < 2048; d++) start[d + 1] += start[d];
    for (size_t i = 0; i < n; i++) spare[start[keys[i] >> shift & 2047]++] = keys[i];
    uint64_t *t = keys;
    keys = spare;
    spare = t;
  }
  const float scale = n > 1 ? 1.0f / (float)(n - 1) : 0;
  for (size_t i = 0; i < n; i++) rank[(uint32_t)keys[i]] = n > 1 ? (float)i * scale : 0.5f;
}

// ---------------------------------------------------------------- comparing what is stored

INLINE int64_t ordinal(float x, const int dtype) {
  uint32_t u = bits_of(x), m = u & 0x7fffffffu;
  int64_t k = m;
  if (dtype == 4) k = m >> 16;
  if (dtype == 3) k = m < 0x38800000u ? (int64_t)(of_bits(m) * 0x1p24f) : (int64_t)(m >> 13) - (112 << 10);
  return u >> 31 ? -k : k;
}

INLINE float spacing(float x, const int dtype) {
  const int digits = dtype == 4 ? 7 : dtype == 3 ? 10 : 23, least = dtype == 3 ? -14 : -126;
  int e = (int)((bits_of(x) & 0x7fffffffu) >> 23) - 127;
  if (e < least) e = least;
  // 2^(e - digits), which may be subnormal
  return of_bits(e - digits >= -126 ? (uint32_t)(e - digits + 127) << 23 : 1u << (e - digits + 149));
}

CLONES void ck_spacing(float *out, const float *x, size_t n, int dtype) {
  BY_TYPE(for (size_t i = 0; i < n; i++) out[i] = spacing(x[i], T))
}

CLONES double ck_sum_spacing_squares(const float *x, size_t n, int dtype) {
  double p[16] = {0}, s = 0;
  size_t whole = n / 16 * 16;
  BY_TYPE({
    for (size_t i = 0; i < whole; i += 16)
      for (int l = 0; l < 16; l++) {
        double u = spacing(x[i + l], T);
        p[l] += u * u;
      }
    for (size_t i = whole; i < n; i++) {
      double u = spacing(x[i], T);
      s += u * u;
    }
  })
  for (int l = 0; l < 16; l++) s += p[l];
  return s;
}

CLONES void ck_compare(const float *x, const float *y, size_t n, int dtype, uint8_t *same, int64_t *equal, int64_t *near,
                       double *squares, double *largest) {
  int64_t equals = 0, nears = 0, most = 0;
  double p[16] = {0}, sum = 0;
  // Counts of a block fit in 32 bits; the sum in lanes lets the loop vectorise.
  BY_TYPE(for (size_t at = 0; at < n; at += 4096) {
    size_t end = n - at < 4096 ? n : at + 4096, whole = at + (end - at) / 16 * 16;
    int32_t e = 0, c = 0;
    for (size_t i = at; i < end; i++) {
      int64_t d = ordinal(x[i], T) - ordinal(y[i], T);
      d = d < 0 ? -d : d;
      most = d > most ? d : most;
      c += d <= 1;
    }
    for (size_t i = at; i < end; i++) {
      uint8_t same_here = x[i] == y[i];
      same[i] = same_here;
      e += same_here;
    }
    for (size_t i = at; i < whole; i += 16)
      for (int l = 0; l < 16; l++) {
        double r = (double)x[i + l] - y[i + l];
        p[l] += r * r;
      }
    for (size_t i = whole; i < end; i++) sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    equals += e;
    nears += c;
  })
  for (int l = 0; l < 16; l++) sum += p[l];
  *equal += equals;
  *near += nears;
  *squares += sum;
  *largest = (double)most > *largest ? (double)most : *largest;
}

CLONES size_t ck_mark_equal(const float *x, const float *y, size_t n, uint8_t *same) {
  size_t fresh = 0;
  for (size_t i = 0; i < n; i++) {
    uint8_t e = x[i] == y[i];
    fresh += (size_t)(e & !same[i]);
    same[i] |= e;
  }
  return fresh;
}

CLONES void ck_nearer(const float *x, const float *y, size_t n, float *distance, float *label, float value) {
  for (size_t i = 0; i < n; i++) {
    float d = fabsf(x[i] - y[i]);
    label[i] = d < distance[i] ? value : label[i];
    distance[i] = d < distance[i] ? d : distance[i];
  }
}

CLONES void ck_accumulate(float *sum, const float *x, size_t n, float scale) {
  for (size_t i = 0; i < n; i++) sum[i] += scale * x[i];
}

CLONES void ck_accumulate_product(float *sum, const float *x, const float *y, size_t n, float scale) {
  for (size_t i = 0; i < n; i++) sum[i] += scale * x[i] * y[i];
}

CLONES void ck_multiply_affine(float *x, const float *y, size_t n, float a, float b) {
  for (size_t i = 0; i < n; i++) x[i] *= a + b * y[i];
}
