/* A VE that knows what its memory must hold, and never stops changing it.
 *
 * witness DIRECTORY MIB PAGES_PER_S CHILDREN
 *
 * Each process owns MIB of pages. Page i holds words made from (process, i, version of i), and the versions are
 * kept in another mapping. Every millisecond some pages, in scattered order, are checked whole and written anew.
 * Ranges are also unmapped and mapped again, emptied (MADV_DONTNEED) and made unreadable for a while;
 * a mapping is moved and resized (mremap).
 * A child is forked now and then that checks a part of what it inherited. A second thread waits in the kernel.
 * DIRECTORY/witness.K: "ticks worst-gap-seconds pages-checked errors forks refused"; any error stays counted.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
static uint64_t *memory, *versions;
static size_t pages;
static uint64_t self;
static long errors, checked, forks, refused;

static uint64_t word(size_t page, size_t at) {
	uint64_t x = (self << 56) ^ (page * 0x9e3779b97f4a7c15ull) ^ (versions[page] << 20) ^ at;
	x ^= x >> 31; x *= 0xbf58476d1ce4e5b9ull; return x ^ (x >> 27);
}
static void fill(size_t page) {
	if (versions[page] % 16 == 3) { memset(memory + page * 512, 0, PAGE); return; }	/* some are zero */
	for (size_t i = 0; i < 512; i++) memory[page * 512 + i] = word(page, i);
}
static void check(size_t page) {
	int bad = 0;
	for (size_t i = 0; i < 512; i++) {
		uint64_t want = versions[page] == 0 || versions[page] % 16 == 3 ? 0 : word(page, i);
		if (memory[page * 512 + i] != want) bad = 1;
	}
	errors += bad; checked++;
}
static void *waiter(void *unused) { (void)unused; for (;;) { struct timespec t = { 3600, 0 }; nanosleep(&t, 0); } return 0; }
static uint64_t seed = 88172645463325252ull;
static uint64_t random64(void) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return seed; }

/* A mapping of its own, moved and resized as realloc does; its pages all hold their number and the chunk's version. */
#define CHUNK 64
static uint64_t *chunk, chunk_version;
static void move_chunk(void) {
	static size_t size;
	if (!chunk) {
		size = CHUNK;
		chunk = mmap(0, size * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	} else {
		for (size_t i = 0; i < CHUNK; i++) if (chunk[i * 512 + 7] != (chunk_version << 20 | i)) errors++;
		size_t wanted = size == CHUNK ? 2 * CHUNK : CHUNK;
		char *aside = mmap(0, (wanted + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		void *moved = mremap(chunk, size * PAGE, wanted * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, aside + PAGE);
		if (moved == MAP_FAILED) { refused++; munmap(aside, (wanted + 2) * PAGE); return; }
		munmap(aside, PAGE); munmap(aside + (wanted + 1) * PAGE, PAGE);
		chunk = moved; size = wanted;
		if (random64() % 2) return;	/* moved and not written: a stale copy would show */
	}
	chunk_version++;
	for (size_t i = 0; i < CHUNK; i++) chunk[i * 512 + 7] = chunk_version << 20 | i;
}
static void churn(long tick) {
	size_t span = 16, page = random64() % (pages - span);
	char *at = (char *)(memory + page * 512);
	switch (tick % 4) {
	case 0: madvise(at, span * PAGE, MADV_DONTNEED); break;
	case 1: mmap(at, span * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
	case 2: move_chunk(); return;
	case 3: mprotect(at, span * PAGE, PROT_NONE); usleep(300); mprotect(at, span * PAGE, PROT_READ | PROT_WRITE); return;
	}
	for (size_t i = 0; i < span; i++) versions[page + i] = 0;
}
static void spawn(void) {
	pid_t child = fork();
	if (child == 0) {
		errors = 0;
		for (int i = 0; i < 200; i++) check(random64() % pages);
		_exit(errors ? 1 : 0);
	}
	int status; waitpid(child, &status, 0);
	if (status) errors++;
	forks++;
}
static void live(const char *directory, int number, double rate, int churning) {
	char path[200]; snprintf(path, sizeof path, "%s/witness.%d", directory, number);
	int out = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
	pthread_t thread; pthread_create(&thread, 0, waiter, 0);
	for (size_t i = 0; i < pages; i++) { versions[i] = 1; fill(i); }
	struct timespec now, last; clock_gettime(CLOCK_REALTIME, &last);
	double worst = 0, owed = 0;
	for (long tick = 1;; tick++) {
		usleep(1000);
		clock_gettime(CLOCK_REALTIME, &now);
		double gap = now.tv_sec - last.tv_sec + (now.tv_nsec - last.tv_nsec) / 1e9;
		last = now;
		if (gap > worst && tick > 50) worst = gap;
		owed += rate * (gap > 0.05 ? 0.05 : gap);
		for (; owed >= 1; owed--) { size_t page = random64() % pages; check(page); versions[page]++; fill(page); }
		if (churning && tick % 7 == 0) churn(tick / 7);
		if (churning && tick % 101 == 0) spawn();
		if (tick % 100 == 0) {
			char line[200]; memset(line, ' ', sizeof line);
			int n = snprintf(line, sizeof line, "%ld %.4f %ld %ld %ld %ld", tick, worst, checked, errors, forks, refused);
			line[n] = ' '; line[99] = '\n'; pwrite(out, line, 100, 0);
		}
		if (tick % 1000 == 0) for (size_t i = 0; i < pages && churning; i++) check(i);
	}
}
int main(int count, char **word_) {
	if (count < 5) return 2;
	pages = strtoul(word_[2], 0, 10) * 256;
	memory = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	versions = mmap(0, pages * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int children = atoi(word_[4]);
	for (int i = 1; i <= children; i++) if (fork() == 0) { self = i; seed += i; live(word_[1], i, atof(word_[3]), count > 5); }
	live(word_[1], 0, atof(word_[3]), count > 5);
}
