// The child of a fork has another thread id, and Swift's runtime does not notice (seen in 6.3): it asks for the id once per
// thread, keeps it, and writes it into the lock below swift_once, a futex that the kernel hands on when two threads meet there.
// In the child that lock then names a thread of another process; the kernel neither waits for it nor opens it, and both threads
// ask for ever. Two that need the metadata of a type for the first time are enough: the library's own, or two of the host's.
//
// So the id is forgotten. The variable is a local of an inline function of the runtime: every file that includes the function
// has a weak definition, of which the linker keeps one. This is another. A runtime in a library of its own has its own, hidden
// one, which this does not reach (what is shipped has it inside, by -static-stdlib); a runtime without one leaves this unused.
#if defined(__linux__)
#include <pthread.h>

extern __thread int runtime_thread_id __asm__("_ZZN5swift14threading_impl5linux13ulock_get_tidEvE3tid");
__attribute__((weak, visibility("hidden"))) __thread int runtime_thread_id = 0;

static void forget_thread_id(void) { runtime_thread_id = 0; }

// Loading the library is enough to have been in the runtime, so this comes before any call.
__attribute__((constructor)) static void forget_thread_id_after_fork(void) { pthread_atfork(0, 0, forget_thread_id); }
#endif
