/* Un-merging: a base model, four fine-tunes of it, and a merge of some of them. Which are in it, and how much?
 *
 *     cc decompose.c $(pkg-config --cflags --libs unmerge) -lm && ./a.out
 *
 * The models are lists of named weight matrices in float. Three fine-tunes are full models, from which the base is subtracted on
 * the fly; the fourth is a LoRA adapter, which is never multiplied out. Progress is shown, and Ctrl-C cancels. Ends with 0 when
 * the planted weights come out.
 */
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unmerge.h>

enum { MODULES = 4, ROWS = 192, COLS = 128, RANK = 8, TUNES = 3 };

static int32_t cancel = 0; /* the library looks at it every few milliseconds */
static void on_interrupt(int number) {
  (void)number;
  cancel = 1;
}

static int32_t show(void *user, const unmerge_progress *p) { /* at most ten times a second, on this thread */
  (void)user;
  fprintf(stderr, "\r%s %3.0f %%", p->phase == UNMERGE_PHASE_PASS ? "reading" : "solving", 100.0 * (double)p->done / (double)p->total);
  return 0; /* anything else would cancel */
}

static void stop_on(unmerge_status status, const unmerge_error *error) {
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", unmerge_status_name(status), error->message);
    exit(status == UNMERGE_E_CANCELLED ? 130 : 1);
  }
}

static float noise(float size) {
  static uint32_t state = 4321;
  float sum = 0;
  int i;
  for (i = 0; i < 4; i++) {
    state = state * 1664525u + 1013904223u;
    sum += (float)(state >> 8) / 16777216.0f - 0.5f;
  }
  return size * sum;
}

static float *noisy(int count, float size) {
  float *x = malloc(sizeof(float) * (size_t)count);
  int i;
  if (x == NULL) exit(1);
  for (i = 0; i < count; i++) x[i] = noise(size);
  return x;
}

static unmerge_view matrix(float *data, int64_t rows, int64_t cols) {
  unmerge_view v = {0};
  v.data = data;
  v.dtype = UNMERGE_F32;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.strides[0] = cols * (int64_t)sizeof(float);
  v.strides[1] = (int64_t)sizeof(float);
  return v;
}

int main(void) {
  static const char *const modules[MODULES] = {"layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"};
  static const char *const names[TUNES + 1] = {"law", "medicine", "code", "poetry (LoRA)"};
  static const double planted[TUNES + 1] = {0.6, 0.0, 0.3, 0.45}; /* merged = base + sum of planted * (fine-tune - base) */
  float *base[MODULES], *tune[TUNES][MODULES], *lora_b[MODULES], *lora_a[MODULES], *merged[MODULES];
  unmerge_operator *atoms = NULL, *target = NULL;
  unmerge_gram *gram = NULL;
  unmerge_error error;
  unmerge_run run;
  unmerge_report report;
  double coef[TUNES + 1] = {0};
  unmerge_view w = {0};
  int m, t, i, r, wrong = 0;

  /* The models. */
  for (m = 0; m < MODULES; m++) {
    base[m] = noisy(ROWS * COLS, 1.0f);
    merged[m] = noisy(ROWS * COLS, 1e-4f);
    lora_b[m] = noisy(ROWS * RANK, 0.1f);
    lora_a[m] = noisy(RANK * COLS, 0.1f);
    for (t = 0; t < TUNES; t++) {
      tune[t][m] = noisy(ROWS * COLS, 0.02f);
      for (i = 0; i < ROWS * COLS; i++) tune[t][m][i] += base[m][i];
    }
    for (i = 0; i < ROWS * COLS; i++) {
      double sum = base[m][i];
      for (t = 0; t < TUNES; t++) sum += planted[t] * (tune[t][m][i] - base[m][i]);
      for (r = 0; r < RANK; r++) sum += planted[TUNES] * 2.0 * lora_b[m][i / COLS * RANK + r] * lora_a[m][r * COLS + i % COLS];
      merged[m][i] += (float)sum;
    }
  }

  /* Columns over modules: what each fine-tune changed, and what the merge changed. Nothing is copied. */
  stop_on(unmerge_operator_create(&atoms, &error), &error);
  stop_on(unmerge_operator_create(&target, &error), &error);
  for (t = 0; t <= TUNES; t++) stop_on(unmerge_operator_add_column(atoms, names[t], NULL, &error), &error);
  stop_on(unmerge_operator_add_column(target, "merged", NULL, &error), &error);
  for (m = 0; m < MODULES; m++) {
    unmerge_view b = matrix(base[m], ROWS, COLS), y = matrix(merged[m], ROWS, COLS);
    unmerge_view factor_b = matrix(lora_b[m], ROWS, RANK), factor_a = matrix(lora_a[m], RANK, COLS);
    stop_on(unmerge_operator_add_module(atoms, modules[m], ROWS, COLS, NULL, &error), &error);
    stop_on(unmerge_operator_add_module(target, modules[m], ROWS, COLS, NULL, &error), &error);
    for (t = 0; t < TUNES; t++) {
      unmerge_view v = matrix(tune[t][m], ROWS, COLS);
      stop_on(unmerge_operator_set_dense(atoms, m, t, &v, &b, 1.0, &error), &error);
    }
    stop_on(unmerge_operator_set_lora(atoms, m, TUNES, &factor_b, &factor_a, 2.0, &error), &error);
    stop_on(unmerge_operator_set_dense(target, m, 0, &y, &b, 1.0, &error), &error);
  }

  /* One pass, then the answer. */
  unmerge_run_init(&run, sizeof run);
  run.progress = show;
  run.cancel = &cancel;
  signal(SIGINT, on_interrupt);
  stop_on(unmerge_gram_create(atoms, target, NULL, &run, &gram, &error), &error);
  w.data = coef;
  w.dtype = UNMERGE_F64;
  w.shape[0] = TUNES + 1;
  w.shape[1] = 1;
  w.strides[0] = w.strides[1] = (int64_t)sizeof(double);
  unmerge_report_init(&report, sizeof report);
  stop_on(unmerge_nnls(gram, NULL, &run, &w, &report, &error), &error);
  fprintf(stderr, "\n");

  printf("fine-tune        planted   found\n");
  for (t = 0; t <= TUNES; t++) {
    printf("%-16s %7.3f  %6.4f\n", names[t], planted[t], coef[t]);
    wrong += fabs(coef[t] - planted[t]) > 1e-3;
  }
  printf("explained %.6f, left over %.2e; relative gap %.1e, violation %.1e, %s\n", report.r2, sqrt(report.rss / report.yy),
         report.relative_gap, report.violation, unmerge_outcome_name(report.outcome));
  wrong += report.outcome != UNMERGE_CONVERGED || report.r2 < 0.999;

  /* The same per module, from the same Gram: the data is not read again. */
  printf("\nmodule            law  medicine    code  poetry\n");
  for (m = 0; m < MODULES; m++) {
    const int64_t block = m;
    const char *name = NULL;
    unmerge_gram *one = NULL;
    stop_on(unmerge_gram_subset(gram, NULL, 0, &block, 1, &one, &error), &error);
    stop_on(unmerge_gram_block(gram, block, &name, NULL, NULL, &error), &error);
    stop_on(unmerge_nnls(one, NULL, NULL, &w, NULL, &error), &error);
    printf("%-16s %5.3f  %8.3f  %6.3f  %6.3f\n", name, coef[0], coef[1], coef[2], coef[3]);
    for (t = 0; t <= TUNES; t++) wrong += fabs(coef[t] - planted[t]) > 5e-3;
    unmerge_gram_destroy(one);
  }

  unmerge_gram_destroy(gram);
  unmerge_operator_destroy(target);
  unmerge_operator_destroy(atoms);
  for (m = 0; m < MODULES; m++) {
    free(base[m]), free(merged[m]), free(lora_a[m]), free(lora_b[m]);
    for (t = 0; t < TUNES; t++) free(tune[t][m]);
  }
  if (wrong) fprintf(stderr, "%d answers are not as planted\n", wrong);
  return wrong != 0;
}
