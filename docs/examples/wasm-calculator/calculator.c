/* What the device calculator@1.0 does, as a WebAssembly image: integer arithmetic.
 *
 * Numbers are 64-bit and wrap around; those of the Python device have no bounds.
 * `malloc` is what the host calls to hand over text.
 */

#define EXPORT(name) __attribute__((export_name(name)))

typedef long long number;

static char heap[65536];
static unsigned long used;

EXPORT("malloc") void *malloc(unsigned long size) {
    if (size > sizeof heap - used) __builtin_trap();
    char *found = heap + used;
    used += (size + 15) & ~15ul;
    return found;
}

EXPORT("add") number add(number a, number b) { return a + b; }

EXPORT("multiply") number multiply(number a, number b) { return a * b; }

/* How many calls this image has answered: state that lives in memory and goes into snapshots. */
static number calls;

EXPORT("count") number count(void) { return ++calls; }
