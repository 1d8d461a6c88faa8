#include "ckernels.h"
#include "clones.h"
#include <math.h>
#include <string.h>

// The accumulators of one coordinate of all rows stay in registers while the coordinates of the others stream from L1.
enum { HALF = CK_ROWS / 2 };

CLONES double ck_nonnegative_sweeps(double *restrict f, const double *restrict b, const double *restrict g, size_t k,
                                    size_t sweeps, double least) {
  double first = 0;
  for (size_t s = 0; s < sweeps; s++) {
    double moved[HALF] = {0};
    for (size_t i = 0; i < k; i++) {
      const double *row = g + i * k;
      double d = row[i];
      if (!(d > 0)) { // nothing holds it but its price
        for (size_t r = 0; r < CK_ROWS; r++)
          if (b[i * CK_ROWS + r] < 0) f[i * CK_ROWS + r] = 0;
        continue;
      }
      double inverse = 1 / d;
      for (size_t h = 0; h < CK_ROWS; h += HALF) {
        double a[HALF];
        for (size_t r = 0; r < HALF; r++) a[r] = b[i * CK_ROWS + h + r];
        for (size_t l = 0; l < k; l++) {
          double gl = row[l];
          const double *x = f + l * CK_ROWS + h;
          for (size_t r = 0; r < HALF; r++) a[r] -= gl * x[r];
        }
        double *x = f + i * CK_ROWS + h;
        for (size_t r = 0; r < HALF; r++) {
          double old = x[r], now = old + a[r] * inverse;
          now = now > 0 ? now : 0;
          x[r] = now;
          moved[r] += (now - old) * (now - old) * d;
        }
      }
    }
    double total = 0;
    for (size_t r = 0; r < HALF; r++) total += moved[r];
    if (s == 0) first = total;
    if (total <= least * first) break;
  }
  return first;
}

CLONES void ck_summary(const double *restrict x, size_t n, double *sum, double *squares, double *least) {
  enum { LANES = 16 };
  double s[LANES] = {0}, q[LANES] = {0}, low[LANES];
  for (size_t r = 0; r < LANES; r++) low[r] = INFINITY;
  size_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (size_t r = 0; r < LANES; r++) {
      double v = x[i + r];
      s[r] += v;
      q[r] += v * v;
      low[r] = v < low[r] ? v : low[r];
    }
  for (size_t r = 0; i < n; i++, r++) {
    s[r] += x[i];
    q[r] += x[i] * x[i];
    low[r] = x[i] < low[r] ? x[i] : low[r];
  }
  *sum = *squares = 0;
  *least = INFINITY;
  for (size_t r = 0; r < LANES; r++) {
    *sum += s[r];
    *squares += q[r];
    *least = low[r] < *least ? low[r] : *least;
  }
}

CLONES void ck_divide_present(double *restrict x, const double *restrict y, size_t n) {
  for (size_t i = 0; i < n; i++) {
    double q = x[i] / y[i];
    x[i] = y[i] > 1e-300 && q == q ? q : 0;
  }
}

CLONES uint64_t ck_fingerprint(const double *restrict x, size_t fast, size_t slow, uint64_t row, uint64_t column, int by_rows) {
  const uint64_t down = 0x9E3779B97F4A7C15u, across = 0xC2B2AE3D27D4EB4Fu; // odd, far from each other's multiples
  uint64_t step = by_rows ? across : down, turn = by_rows ? down : across, start = row * down + column * across, sum = 0;
  for (size_t s = 0; s < slow; s++, start += turn)
    for (size_t f = 0; f < fast; f++) {
      uint64_t z = start + f * step, bits;
      memcpy(&bits, x + s * fast + f, 8);
      z = (z ^ z >> 32) * 0xD6E8FEB86659FD93u;
      sum += bits * ((z ^ z >> 32) | 1);
    }
  return sum;
}
