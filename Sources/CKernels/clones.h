// One binary for every x86-64: a function marked CLONES is compiled three times and chosen at load time.
#ifndef CLONES_H
#define CLONES_H

// Thread sanitizer and function multi-versioning do not go together (the resolver runs before the runtime is up).
#if defined(__x86_64__) && defined(__has_feature)
#if !__has_feature(thread_sanitizer) && !__has_feature(address_sanitizer)
#define CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif
#endif
#ifndef CLONES
#define CLONES
#endif

#endif
