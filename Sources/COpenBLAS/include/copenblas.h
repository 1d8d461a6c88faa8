// The few BLAS and LAPACK routines the library uses, one name whatever OpenBLAS is underneath.
// Column-major throughout; sizes are checked before they are narrowed to int.
#ifndef COPENBLAS_H
#define COPENBLAS_H

void openblas_ssyrk(int trans, int n, int k, const float *a, int lda, float *c, int ldc);
void openblas_dsyrk(int trans, int n, int k, const double *a, int lda, double *c, int ldc);
void openblas_sgemm(int transa, int transb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                    int ldb, float beta, float *c, int ldc);
void openblas_dgemm(int transa, int transb, int m, int n, int k, double alpha, const double *a, int lda, const double *b,
                    int ldb, double beta, double *c, int ldc);
void openblas_daxpy(int n, double alpha, const double *x, int incx, double *y, int incy);
double openblas_ddot(int n, const double *x, int incx, const double *y, int incy);
void openblas_dtrsv(int lower, int trans, int n, const double *a, int lda, double *x, int incx);
void openblas_dtrsm_left(int lower, int trans, int m, int n, const double *a, int lda, double *b, int ldb);

// Cholesky of the upper triangle, in place; returns LAPACK's info.
int openblas_dpotrf_upper(int n, double *a, int lda);
// Reciprocal condition number (1-norm) from the factor of openblas_dpotrf_upper; work 3n, iwork n.
int openblas_dpocon_upper(int n, const double *a, int lda, double anorm, double *rcond, double *work, int *iwork);
// Upper triangle of C = alpha (A B' + B A') + beta C; A and B are n x k.
void openblas_dsyr2k(int n, int k, double alpha, const double *a, int lda, const double *b, int ldb, double beta, double *c,
                     int ldc);
// Upper triangle of the inverse from the factor of openblas_dpotrf_upper, in place; returns LAPACK's info.
int openblas_dpotri_upper(int n, double *a, int lda);
// Inverse of an upper triangle, in place; returns LAPACK's info.
int openblas_dtrtri_upper(int n, double *a, int lda);
// Eigenvalues first...last (from 1, ascending) of a symmetric matrix given by its upper triangle, which is destroyed, and their
// vectors in z if wanted; w n, support 2n, work lwork >= 26n, iwork liwork >= 10n.
int openblas_dsyevr_upper(int vectors, int n, double *a, int lda, int first, int last, double *w, double *z, int ldz,
                          int *support, double *work, int lwork, int *iwork, int liwork);
// Thin singular value decomposition of a (m x n, destroyed), r = min(m, n): s r, u m x r, vt r x n; iwork 8r; lwork = -1 stores
// the wanted size of work in work[0].
int openblas_dgesdd_thin(int m, int n, double *a, double *s, double *u, double *vt, int r, double *work, int lwork, int *iwork);

// OpenBLAS keeps one thread count per process. The library does its own data parallelism, so it asks for one thread while
// calls are inside and puts the host's number back when the last one leaves.
int openblas_threads_get(void);
void openblas_threads_set(int n);
const char *openblas_description(void);

#endif
