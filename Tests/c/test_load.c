/* The library is loaded, used and let go of again and again: memory stays, and so do the host's signal handlers.
 * test_load <libunmerge.so.1> */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unmerge.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static int failures = 0;
#define CHECK(condition)                                                                                                       \
  do {                                                                                                                         \
    if (!(condition)) {                                                                                                        \
      failures++;                                                                                                              \
      printf("%s:%d: %s is false\n", __FILE__, __LINE__, #condition);                                                          \
    }                                                                                                                          \
  } while (0)

static long resident_pages(void) {
  long pages = 0, resident = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f == NULL || fscanf(f, "%ld %ld", &pages, &resident) != 2) return 0;
  fclose(f);
  return resident;
}

static void (*handler_of(int number))(int) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  return sigaction(number, NULL, &action) == 0 ? action.sa_handler : SIG_ERR;
}

typedef unmerge_status (*from_matrix)(const unmerge_view *, unmerge_operator **, unmerge_error *);
typedef unmerge_status (*create)(const unmerge_operator *, const unmerge_operator *, const unmerge_gram_options *, const unmerge_run *,
                                 unmerge_gram **, unmerge_error *);
typedef unmerge_status (*nnls)(const unmerge_gram *, const unmerge_nnls_options *, const unmerge_run *, const unmerge_view *,
                               unmerge_report *, unmerge_error *);
typedef void (*destroy)(void *);

static void *symbol(void *library, const char *name) {
  void *s = dlsym(library, name);
  if (s == NULL) {
    printf("%s is not exported\n", name);
    exit(1);
  }
  return s;
}

#define FUNCTION(type, variable, name)                                                                                         \
  type variable;                                                                                                               \
  do {                                                                                                                         \
    void *s_ = symbol(library, name);                                                                                          \
    memcpy(&variable, &s_, sizeof s_);                                                                                         \
  } while (0)

static void use(void *library) {
  FUNCTION(from_matrix, matrix, "unmerge_operator_from_matrix");
  FUNCTION(create, gram_create, "unmerge_gram_create");
  FUNCTION(nnls, solve, "unmerge_nnls");
  FUNCTION(destroy, gram_destroy, "unmerge_gram_destroy");
  FUNCTION(destroy, operator_destroy, "unmerge_operator_destroy");
  double a[8] = {1, 0, 0, 1, 1, 1, 2, 0}, y[4] = {1, 2, 3, 2}, w[2] = {0, 0};
  unmerge_view av, yv, wv;
  memset(&av, 0, sizeof av);
  av.data = a, av.dtype = UNMERGE_F64, av.shape[0] = 4, av.shape[1] = 2, av.strides[0] = 16, av.strides[1] = 8;
  yv = av, yv.data = y, yv.shape[1] = 1, yv.strides[0] = 8;
  wv = yv, wv.data = w, wv.shape[0] = 2;
  unmerge_operator *ao = NULL, *yo = NULL;
  unmerge_gram *g = NULL;
  unmerge_error e;
  CHECK(matrix(&av, &ao, &e) == UNMERGE_OK);
  CHECK(matrix(&yv, &yo, &e) == UNMERGE_OK);
  CHECK(gram_create(ao, yo, NULL, NULL, &g, &e) == UNMERGE_OK);
  CHECK(solve(g, NULL, NULL, &wv, NULL, &e) == UNMERGE_OK);
  CHECK(w[0] > 0.999999 && w[0] < 1.000001 && w[1] > 1.999999 && w[1] < 2.000001);
  gram_destroy(g), operator_destroy(ao), operator_destroy(yo);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    printf("usage: test_load <libunmerge.so.1>\n");
    return 2;
  }
  void (*before[65])(int);
  for (int s = 1; s < 65; s++) before[s] = handler_of(s);
  char *locale = strdup(setlocale(LC_ALL, NULL));

  long early = 0;
  for (int i = 0; i < 300; i++) {
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
      printf("%s\n", dlerror());
      return 1;
    }
    use(library);
    CHECK(dlclose(library) == 0);
    if (i == 99) early = resident_pages();
  }
  CHECK(SANITIZED || resident_pages() - early < 64);

  for (int s = 1; s < 65; s++) CHECK(handler_of(s) == before[s]);
  CHECK(strcmp(locale, setlocale(LC_ALL, NULL)) == 0);
  free(locale);
  printf("%s\n", failures == 0 ? "300 times loaded and let go" : "FAILED");
  return failures != 0;
}
