#include "copenblas.h"

#ifdef UNMERGE_SCIPY_OPENBLAS
#define NAME(x) scipy_##x
#else
#define NAME(x) x
#endif

enum { COLUMN_MAJOR = 102, NO_TRANS = 111, TRANS = 112, UPPER = 121, LOWER = 122, NON_UNIT = 131, LEFT = 141 };

void NAME(cblas_ssyrk)(int, int, int, int, int, float, const float *, int, float, float *, int);
void NAME(cblas_dsyrk)(int, int, int, int, int, double, const double *, int, double, double *, int);
void NAME(cblas_sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
void NAME(cblas_dgemm)(int, int, int, int, int, int, double, const double *, int, const double *, int, double, double *, int);
void NAME(cblas_daxpy)(int, double, const double *, int, double *, int);
double NAME(cblas_ddot)(int, const double *, int, const double *, int);
void NAME(cblas_dtrsv)(int, int, int, int, int, const double *, int, double *, int);
void NAME(cblas_dtrsm)(int, int, int, int, int, int, int, double, const double *, int, double *, int);
void NAME(dpotrf_)(const char *, const int *, double *, const int *, int *, unsigned long);
void NAME(dpocon_)(const char *, const int *, const double *, const int *, const double *, double *, double *, int *, int *,
                   unsigned long);
void NAME(cblas_dsyr2k)(int, int, int, int, int, double, const double *, int, const double *, int, double, double *, int);
void NAME(dpotri_)(const char *, const int *, double *, const int *, int *, unsigned long);
void NAME(dtrtri_)(const char *, const char *, const int *, double *, const int *, int *, unsigned long, unsigned long);
void NAME(dsyevr_)(const char *, const char *, const char *, const int *, double *, const int *, const double *,
                   const double *, const int *, const int *, const double *, int *, double *, double *, const int *, int *,
                   double *, const int *, int *, const int *, int *, unsigned long, unsigned long, unsigned long);
void NAME(dgesdd_)(const char *, const int *, const int *, double *, const int *, double *, double *, const int *, double *,
                   const int *, double *, const int *, int *, int *, unsigned long);
int NAME(openblas_get_num_threads)(void);
void NAME(openblas_set_num_threads)(int);
char *NAME(openblas_get_config)(void);

static int op(int trans) { return trans ? TRANS : NO_TRANS; }

void openblas_ssyrk(int trans, int n, int k, const float *a, int lda, float *c, int ldc) {
  NAME(cblas_ssyrk)(COLUMN_MAJOR, UPPER, op(trans), n, k, 1.0f, a, lda, 0.0f, c, ldc);
}
void openblas_dsyrk(int trans, int n, int k, const double *a, int lda, double *c, int ldc) {
  NAME(cblas_dsyrk)(COLUMN_MAJOR, UPPER, op(trans), n, k, 1.0, a, lda, 0.0, c, ldc);
}
void openblas_sgemm(int transa, int transb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                    int ldb, float beta, float *c, int ldc) {
  NAME(cblas_sgemm)(COLUMN_MAJOR, op(transa), op(transb), m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void openblas_dgemm(int transa, int transb, int m, int n, int k, double alpha, const double *a, int lda, const double *b,
                    int ldb, double beta, double *c, int ldc) {
  NAME(cblas_dgemm)(COLUMN_MAJOR, op(transa), op(transb), m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void openblas_daxpy(int n, double alpha, const double *x, int incx, double *y, int incy) {
  NAME(cblas_daxpy)(n, alpha, x, incx, y, incy);
}
double openblas_ddot(int n, const double *x, int incx, const double *y, int incy) {
  return NAME(cblas_ddot)(n, x, incx, y, incy);
}
void openblas_dtrsv(int lower, int trans, int n, const double *a, int lda, double *x, int incx) {
  NAME(cblas_dtrsv)(COLUMN_MAJOR, lower ? LOWER : UPPER, op(trans), NON_UNIT, n, a, lda, x, incx);
}
void openblas_dtrsm_left(int lower, int trans, int m, int n, const double *a, int lda, double *b, int ldb) {
  NAME(cblas_dtrsm)(COLUMN_MAJOR, LEFT, lower ? LOWER : UPPER, op(trans), NON_UNIT, m, n, 1.0, a, lda, b, ldb);
}
int openblas_dpotrf_upper(int n, double *a, int lda) {
  int info = 0;
  NAME(dpotrf_)("U", &n, a, &lda, &info, 1);
  return info;
}
int openblas_dpocon_upper(int n, const double *a, int lda, double anorm, double *rcond, double *work, int *iwork) {
  int info = 0;
  NAME(dpocon_)("U", &n, a, &lda, &anorm, rcond, work, iwork, &info, 1);
  return info;
}
void openblas_dsyr2k(int n, int k, double alpha, const double *a, int lda, const double *b, int ldb, double beta, double *c,
                     int ldc) {
  NAME(cblas_dsyr2k)(COLUMN_MAJOR, UPPER, NO_TRANS, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
int openblas_dpotri_upper(int n, double *a, int lda) {
  int info = 0;
  NAME(dpotri_)("U", &n, a, &lda, &info, 1);
  return info;
}
int openblas_dtrtri_upper(int n, double *a, int lda) {
  int info = 0;
  NAME(dtrtri_)("U", "N", &n, a, &lda, &info, 1, 1);
  return info;
}
int openblas_dsyevr_upper(int vectors, int n, double *a, int lda, int first, int last, double *w, double *z, int ldz,
                          int *support, double *work, int lwork, int *iwork, int liwork) {
  int info = 0, found = 0;
  double zero = 0;
  NAME(dsyevr_)(vectors ? "V" : "N", "I", "U", &n, a, &lda, &zero, &zero, &first, &last, &zero, &found, w, z, &ldz, support,
                work, &lwork, iwork, &liwork, &info, 1, 1, 1);
  return info;
}
int openblas_dgesdd_thin(int m, int n, double *a, double *s, double *u, double *vt, int r, double *work, int lwork, int *iwork) {
  int info = 0;
  NAME(dgesdd_)("S", &m, &n, a, &m, s, u, &m, vt, &r, work, &lwork, iwork, &info, 1);
  return info;
}
int openblas_threads_get(void) { return NAME(openblas_get_num_threads)(); }
void openblas_threads_set(int n) { NAME(openblas_set_num_threads)(n); }
const char *openblas_description(void) { return NAME(openblas_get_config)(); }
