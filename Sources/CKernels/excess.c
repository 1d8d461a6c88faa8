// What of a vector lies above a threshold: its sums, its survivors, and the vector shrunk by it.
#include "ckernels.h"
#include "clones.h"
#include <math.h>

typedef double u_f64 __attribute__((aligned(1), may_alias));
typedef float u_f32 __attribute__((aligned(1), may_alias));

// The callers see one function for both types: Swift merges functions that differ in nothing but the kernel they call into one that
// takes the kernel's address, and the address of a dispatched function is not there yet when a library is loaded lazily.

// Sixteen lanes whatever the instruction set, added in the order of the lanes.
enum { LANES = 16 };

#define MAGNITUDES(name, type, magnitude)                                                          \
  CLONES static ck_sums name(const type *x, size_t n) {                                                   \
    double a[LANES] = {0}, b[LANES] = {0};                                                         \
    type m[LANES] = {0};                                                                           \
    size_t i = 0;                                                                                  \
    for (; i + LANES <= n; i += LANES)                                                             \
      for (int l = 0; l < LANES; l++) {                                                            \
        type v = magnitude(x[i + l]);                                                              \
        double w = v;                                                                              \
        m[l] = v > m[l] ? v : m[l];                                                                \
        a[l] += w;                                                                                 \
        b[l] += w * w;                                                                             \
      }                                                                                            \
    for (; i < n; i++) {                                                                           \
      type v = magnitude(x[i]);                                                                    \
      double w = v;                                                                                \
      m[0] = v > m[0] ? v : m[0];                                                                  \
      a[0] += w;                                                                                   \
      b[0] += w * w;                                                                               \
    }                                                                                              \
    ck_sums sums = {0, 0, 0};                                                                      \
    for (int l = 0; l < LANES; l++) {                                                              \
      sums.count = m[l] > sums.count ? m[l] : sums.count;                                          \
      sums.mass += a[l];                                                                           \
      sums.squares += b[l];                                                                        \
    }                                                                                              \
    return sums;                                                                                   \
  }
MAGNITUDES(magnitudes_f32, float, fabsf)
MAGNITUDES(magnitudes_f64, double, fabs)

#define EXCESS(name, type, magnitude)                                                                         \
  CLONES static ck_sums name(const type *x, size_t n, double t) {                                         \
    double q[LANES] = {0}, a[LANES] = {0}, b[LANES] = {0};                                         \
    size_t i = 0;                                                                                  \
    for (; i + LANES <= n; i += LANES)                                                             \
      for (int l = 0; l < LANES; l++) {                                                            \
        double u = (double)magnitude(x[i + l]) - t;                                                \
        q[l] += u > 0 ? 1.0 : 0.0;                                                                 \
        u = u > 0 ? u : 0;                                                                         \
        a[l] += u;                                                                                 \
        b[l] += u * u;                                                                             \
      }                                                                                            \
    for (; i < n; i++) {                                                                           \
      double u = (double)magnitude(x[i]) - t;                                                      \
      q[0] += u > 0 ? 1.0 : 0.0;                                                                   \
      u = u > 0 ? u : 0;                                                                           \
      a[0] += u;                                                                                   \
      b[0] += u * u;                                                                               \
    }                                                                                              \
    ck_sums sums = {0, 0, 0};                                                                      \
    for (int l = 0; l < LANES; l++) {                                                              \
      sums.count += q[l];                                                                          \
      sums.mass += a[l];                                                                           \
      sums.squares += b[l];                                                                        \
    }                                                                                              \
    return sums;                                                                                   \
  }
EXCESS(excess_f32, float, fabsf)
EXCESS(excess_f64, double, fabs)

// A stretch without survivors costs one comparison a lane; in the others every entry is stored and the place moves on or not.
#define SURVIVORS(name, type, magnitude)                                                           \
  CLONES static size_t name(type *z, const type *x, size_t n, double t) {                          \
    size_t k = 0, i = 0;                                                                           \
    for (; i + LANES <= n; i += LANES) {                                                           \
      int any = 0;                                                                                 \
      for (int l = 0; l < LANES; l++) any |= (double)magnitude(x[i + l]) > t;                      \
      if (!any) continue;                                                                          \
      for (int l = 0; l < LANES; l++) {                                                            \
        type v = magnitude(x[i + l]);                                                              \
        z[k] = v;                                                                                  \
        k += (double)v > t;                                                                        \
      }                                                                                            \
    }                                                                                              \
    for (; i < n; i++) {                                                                           \
      type v = magnitude(x[i]);                                                                    \
      z[k] = v;                                                                                    \
      k += (double)v > t;                                                                          \
    }                                                                                              \
    return k;                                                                                      \
  }
SURVIVORS(survivors_f32, float, fabsf)
SURVIVORS(survivors_f64, double, fabs)

#define SHRINK(name, type)                                                                         \
  CLONES static ck_sums name(double *z, const type *x, size_t n, double unit, double t, double d, double scale, int keep) {        \
    double q[LANES] = {0}, a[LANES] = {0}, b[LANES] = {0};                                         \
    for (size_t i = 0; i < n; i += LANES) {                                                        \
      int count = n - i < LANES ? (int)(n - i) : LANES;                                            \
      for (int l = 0; l < count; l++) {                                                            \
        double s = (double)x[i + l], v = unit * fabs(s), u = (v - t) - d;                          \
        u = v > t && u > 0 ? (keep ? v : scale * u) : 0;                                     \
        z[i + l] = s < 0 ? 0 - u : u;                                                              \
        q[l] += u > 0 ? 1.0 : 0.0;                                                                 \
        a[l] += u;                                                                                 \
        b[l] += u * u;                                                                             \
      }                                                                                            \
    }                                                                                              \
    ck_sums sums = {0, 0, 0};                                                                      \
    for (int l = 0; l < LANES; l++) {                                                              \
      sums.count += q[l];                                                                          \
      sums.mass += a[l];                                                                           \
      sums.squares += b[l];                                                                        \
    }                                                                                              \
    return sums;                                                                                   \
  }
SHRINK(shrink_f32, float)
SHRINK(shrink_f64, double)

ck_sums ck_magnitudes(const void *x, int dtype, size_t n) { return dtype == 1 ? magnitudes_f64(x, n) : magnitudes_f32(x, n); }

ck_sums ck_excess(const void *x, int dtype, size_t n, double t) {
  return dtype == 1 ? excess_f64(x, n, t) : excess_f32(x, n, t);
}

size_t ck_survivors(void *z, const void *x, int dtype, size_t n, double t) {
  return dtype == 1 ? survivors_f64(z, x, n, t) : survivors_f32(z, x, n, t);
}

ck_sums ck_shrink(double *z, const void *x, int dtype, size_t n, double unit, double t, double d, double scale, int keep) {
  return dtype == 1 ? shrink_f64(z, x, n, unit, t, d, scale, keep) : shrink_f32(z, x, n, unit, t, d, scale, keep);
}

void ck_store(void *dst, int dtype, ptrdiff_t stride, const double *x, size_t n) {
  char *p = dst;
  if (dtype == 1)
    for (size_t i = 0; i < n; i++, p += stride) *(u_f64 *)p = x[i];
  else
    for (size_t i = 0; i < n; i++, p += stride) *(u_f32 *)p = (float)x[i];
}
