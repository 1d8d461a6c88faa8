/* Attribution: six LoRA adapters, and a checkpoint merged from two of them. Which are inside, how much, how sure, merged how?
 *
 *     cc attribute.c $(pkg-config --cflags --libs unmerge) -lm && ./a.out
 *
 * The checkpoint is made by unmerge_merge from a recipe, as a merging tool would store it in bfloat16; then the recipe is
 * forgotten and found again from the stored values. Ends with 0 when it is.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unmerge.h>

enum { MODULES = 6, ROWS = 96, COLS = 128, RANK = 4, TUNES = 6 };

static void stop_on(unmerge_status status, const unmerge_error *error) {
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", unmerge_status_name(status), error->message);
    exit(1);
  }
}

static float noise(float size) {
  static uint32_t state = 2468;
  float sum = 0;
  int i;
  for (i = 0; i < 4; i++) {
    state = state * 1664525u + 1013904223u;
    sum += (float)(state >> 8) / 16777216.0f - 0.5f;
  }
  return size * 1.7320508f * sum; /* standard deviation: size */
}

static uint16_t bfloat16(float x) { /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static unmerge_view matrix(void *data, int32_t dtype, int64_t rows, int64_t cols) {
  const int64_t item = dtype == UNMERGE_BF16 ? 2 : 4;
  unmerge_view v = {0};
  v.data = data;
  v.dtype = dtype;
  v.shape[0] = rows;
  v.shape[1] = cols;
  v.strides[0] = cols * item;
  v.strides[1] = item;
  return v;
}

static uint16_t base[MODULES][ROWS * COLS], merged[MODULES][ROWS * COLS];
static float lora_b[MODULES][TUNES][ROWS * RANK], lora_a[MODULES][TUNES][RANK * COLS], out[ROWS * COLS];

int main(void) {
  static const char *const names[TUNES] = {"law", "medicine", "code", "poetry", "chess", "news"};
  static const double planted[TUNES] = {0.6, 0, 0.4, 0, 0, 0};
  unmerge_operator *atoms = NULL, *below = NULL, *target = NULL;
  unmerge_attribution *found = NULL;
  unmerge_recipe recipe;
  unmerge_attribution_info info;
  unmerge_attributed_atom atom[TUNES];
  unmerge_error error;
  char name[32];
  int m, t, i, wrong = 0;

  for (m = 0; m < MODULES; m++) {
    for (i = 0; i < ROWS * COLS; i++) base[m][i] = bfloat16(noise(0.05f));
    for (t = 0; t < TUNES; t++) {
      for (i = 0; i < ROWS * RANK; i++) lora_b[m][t][i] = noise(0.02f);
      for (i = 0; i < RANK * COLS; i++) lora_a[m][t][i] = noise(0.05f);
    }
  }

  stop_on(unmerge_operator_create(&atoms, &error), &error);
  stop_on(unmerge_operator_create(&below, &error), &error);
  stop_on(unmerge_operator_create(&target, &error), &error);
  for (t = 0; t < TUNES; t++) stop_on(unmerge_operator_add_column(atoms, names[t], NULL, &error), &error);
  stop_on(unmerge_operator_add_column(below, "base", NULL, &error), &error);
  stop_on(unmerge_operator_add_column(target, "merged", NULL, &error), &error);
  for (m = 0; m < MODULES; m++) {
    unmerge_view b = matrix(base[m], UNMERGE_BF16, ROWS, COLS), y = matrix(merged[m], UNMERGE_BF16, ROWS, COLS);
    sprintf(name, "layers.%d.v_proj", m);
    stop_on(unmerge_operator_add_module(atoms, name, ROWS, COLS, NULL, &error), &error);
    stop_on(unmerge_operator_add_module(below, name, ROWS, COLS, NULL, &error), &error);
    stop_on(unmerge_operator_add_module(target, name, ROWS, COLS, NULL, &error), &error);
    stop_on(unmerge_operator_set_dense(below, m, 0, &b, NULL, 1.0, &error), &error);
    stop_on(unmerge_operator_set_dense(target, m, 0, &y, &b, 1.0, &error), &error);
    for (t = 0; t < TUNES; t++) {
      unmerge_view factor_b = matrix(lora_b[m][t], UNMERGE_F32, ROWS, RANK);
      unmerge_view factor_a = matrix(lora_a[m][t], UNMERGE_F32, RANK, COLS);
      stop_on(unmerge_operator_set_lora(atoms, m, t, &factor_b, &factor_a, 2.0, &error), &error);
    }
  }

  /* What a tool would store: `linear` in bfloat16. */
  unmerge_recipe_init(&recipe, sizeof recipe);
  recipe.method = UNMERGE_MERGE_LINEAR;
  recipe.dtype = UNMERGE_BF16;
  recipe.weights = planted;
  for (m = 0; m < MODULES; m++) {
    unmerge_view o = matrix(out, UNMERGE_F32, ROWS, COLS);
    stop_on(unmerge_merge(atoms, below, &recipe, NULL, m, &o, &error), &error);
    for (i = 0; i < ROWS * COLS; i++) merged[m][i] = bfloat16(out[i]); /* exact: out is rounded already */
  }

  /* The question. */
  stop_on(unmerge_attribute(atoms, target, NULL, NULL, &found, &error), &error);
  unmerge_attribution_info_init(&info, sizeof info);
  stop_on(unmerge_attribution_get_info(found, &info, &error), &error);
  unmerge_attributed_atom_init(&atom[0], sizeof atom[0]);
  stop_on(unmerge_attribution_atoms(found, atom, &error), &error);

  printf("fine-tune   weight        interval   q-value  evidence\n");
  for (t = 0; t < TUNES; t++) {
    printf("%-9s %8.4f", names[t], atom[t].weight);
    if (atom[t].present) printf("  %.4f .. %.4f", atom[t].low, atom[t].high);
    else printf("         not found");
    printf("  %8.1e  %8.3g\n", atom[t].q_value, atom[t].evidence);
    wrong += atom[t].present != (planted[t] != 0);
    wrong += atom[t].present && fabs(atom[t].weight - planted[t]) > 1e-3;
  }
  printf("merged by %s; anything missing: %s; %lld of %lld stored values predicted, chance %.1f %%\n",
         unmerge_merge_name(info.method), info.complete ? "no" : "yes", (long long)info.equal, (long long)info.compared,
         100 * info.chance);
  wrong += !info.complete || !(info.flags & UNMERGE_ATTRIBUTION_PROVED);

  unmerge_attribution_destroy(found);
  unmerge_operator_destroy(target);
  unmerge_operator_destroy(below);
  unmerge_operator_destroy(atoms);
  if (wrong) fprintf(stderr, "%d answers are not as planted\n", wrong);
  return wrong != 0;
}
