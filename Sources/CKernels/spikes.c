// Votes for the ratio of two lattices of entries, and the grid they fall on.
#include "ckernels.h"
#include "clones.h"
#include <math.h>
#include <string.h>

#pragma clang fp contract(off)

// The grid of ratios is every (1 << SHIFT)-th float32 from FIRST on: 256 points to an octave, found from the bits of a
// number, with no logarithm.
enum { SHIFT = 15, CHUNK = 1024 };
static const uint32_t FIRST = 0x3ca38000u; // 0.01995849609375

static inline uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

float ck_spike_ratio(size_t point) {
  uint32_t u = FIRST + ((uint32_t)point << SHIFT);
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// The first point of the grid that is not below x, at most `points`.
static inline int32_t place(float x, int32_t points) {
  int32_t above = (int32_t)(bits_of(x > 0 ? x : 0) + ((1u << SHIFT) - 1)) - (int32_t)FIRST;
  int32_t p = above < 0 ? 0 : above >> SHIFT;
  return p < points ? p : points;
}

CLONES size_t ck_spikes(int32_t *count, size_t points, const float *d, const float *t, const float *unit, size_t n,
                        float least) {
  const int32_t end = (int32_t)points;
  size_t used = 0;
  int32_t sign[CHUNK], edge[4][CHUNK];
  float width[CHUNK], a[CHUNK], b[CHUNK], h[CHUNK];
  for (size_t start = 0; start < n; start += CHUNK) {
    const int32_t size = (int32_t)(n - start < CHUNK ? n - start : CHUNK);
    const float *x = d + start, *y = t + start, *u = unit ? unit + start : NULL;
    // At least 0.4 % of the larger of the two, so that an interval holds a point of the grid; 0.6 % where no unit is known.
    for (int32_t i = 0; i < size; i++) {
      float p = fabsf(x[i]), q = fabsf(y[i]), m = p > q ? p : q, w = u ? u[i] : 0.006f * m;
      width[i] = w > 0.004f * m ? w : 0.004f * m;
    }
    int32_t k = 0;
    for (int32_t i = 0; i < size; i++) {
      float p = fabsf(x[i]), q = fabsf(y[i]);
      a[k] = p;
      b[k] = q;
      h[k] = width[i];
      sign[k] = (bits_of(x[i]) ^ bits_of(y[i])) >> 31 ? 4 * (end + 1) : 0;
      k += (q > (u ? least * u[i] : 0.0f)) & (p > 1.5f * width[i]);
    }
    for (int32_t i = 0; i < k; i++) {
      float s = 1 / b[i], r = a[i] * s, w = 0.5f * h[i] * s;
      edge[0][i] = sign[i] + 4 * place(r - 3 * w, end);
      edge[1][i] = sign[i] + 4 * place(r - w, end) + 1;
      edge[2][i] = sign[i] + 4 * place(r + w, end) + 2;
      edge[3][i] = sign[i] + 4 * place(r + 3 * w, end) + 3;
    }
    for (int32_t i = 0; i < k; i++) {
      count[edge[0][i]]++;
      count[edge[1][i]]++;
      count[edge[2][i]]++;
      count[edge[3][i]]++;
    }
    used += (size_t)k;
  }
  return used;
}
