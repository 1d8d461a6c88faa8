/* LASSO on plain arrays: which of 40 atoms make up y?
 *
 *     cc lasso.c $(pkg-config --cflags --libs unmerge) -lm && ./a.out
 *
 * Plants five atoms in 20000 noisy entries, reads the data once into a Gram, solves on a grid of alphas, and checks that the
 * planted atoms come out. Ends with 0 when they do.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unmerge.h>

enum { P = 20000, N = 40 };

static void stop_on(unmerge_status status, const unmerge_error *error) {
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", unmerge_status_name(status), error->message);
    exit(1);
  }
}

static double noise(void) { /* a sum of four uniform numbers is normal enough */
  static uint32_t state = 12345;
  double sum = 0;
  int i;
  for (i = 0; i < 4; i++) {
    state = state * 1664525u + 1013904223u;
    sum += (double)state / 4294967296.0 - 0.5;
  }
  return sum;
}

static unmerge_view matrix(double *data, int64_t rows, int64_t cols) { /* row-major */
  unmerge_view v = {0};
  v.data = data;
  v.dtype = UNMERGE_F64;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.strides[0] = cols * (int64_t)sizeof(double);
  v.strides[1] = (int64_t)sizeof(double);
  return v;
}

int main(void) {
  static const int planted[5] = {3, 11, 12, 25, 38};
  static const double weight[5] = {1.0, -0.7, 0.5, 0.3, -0.2};
  double *a = malloc(sizeof(double) * P * N), *y = malloc(sizeof(double) * P), coef[N], alpha_max = 0;
  unmerge_operator *atoms = NULL, *target = NULL;
  unmerge_gram *gram = NULL;
  unmerge_error error;
  unmerge_view view_a = matrix(a, P, N), view_y = matrix(y, P, 1), view_w = matrix(coef, N, 1);
  unmerge_lasso_options options;
  unmerge_report report;
  int i, j, k, wrong = 0;

  if (a == NULL || y == NULL) return 1;
  for (i = 0; i < P; i++) {
    for (j = 0; j < N; j++) a[i * N + j] = noise();
    y[i] = 0.5 * noise();
    for (k = 0; k < 5; k++) y[i] += weight[k] * a[i * N + planted[k]];
  }

  /* Operators read the arrays in place; the Gram is the one pass over them. */
  stop_on(unmerge_operator_from_matrix(&view_a, &atoms, &error), &error);
  stop_on(unmerge_operator_from_matrix(&view_y, &target, &error), &error);
  stop_on(unmerge_gram_create(atoms, target, NULL, NULL, &gram, &error), &error);

  stop_on(unmerge_alpha_max(gram, 1.0, NULL, 0, &alpha_max, &error), &error);
  printf("alpha_max %.4g\n\n  alpha/alpha_max  nonzeros       r2  relative gap  violation  outcome\n", alpha_max);
  unmerge_lasso_options_init(&options, sizeof options);
  unmerge_report_init(&report, sizeof report);
  for (k = 0; k <= 5; k++) {
    options.alpha = alpha_max * pow(0.5, k);
    options.warm_start = k > 0; /* from the solution before */
    stop_on(unmerge_lasso(gram, &options, NULL, &view_w, &report, &error), &error);
    printf("%17.4g  %8lld  %7.4f  %12.1e  %9.1e  %s\n", options.alpha / alpha_max, (long long)report.nonzeros, report.r2,
           report.relative_gap, report.violation, unmerge_outcome_name(report.outcome));
    wrong += report.outcome != UNMERGE_CONVERGED || report.relative_gap > 1e-9;
  }

  printf("\n  atom  planted   lasso\n");
  for (j = 0; j < N; j++) {
    double truth = 0;
    for (k = 0; k < 5; k++)
      if (planted[k] == j) truth = weight[k];
    if (coef[j] != 0 || truth != 0) printf("%6d  %7.3f  %6.3f\n", j, truth, coef[j]);
    wrong += (truth != 0) != (fabs(coef[j]) > 0.05) || fabs(coef[j] - truth) > 0.1;
  }

  unmerge_gram_destroy(gram);
  unmerge_operator_destroy(target);
  unmerge_operator_destroy(atoms);
  free(a);
  free(y);
  if (wrong) fprintf(stderr, "%d answers are not as planted\n", wrong);
  return wrong != 0;
}
