/* A program that does one kind of thing to its memory all the time, to be caught in the act.
 *
 * churn MODE SEED FILE: calm (hardly anything), plain, forks, threads, mremap, munmap, dontneed, shared, file, none, guard, stack, huge, exec, locked,
 * free, code. Says "ready" when it has begun. Every mode also writes scattered pages of a private mapping, some with zeros.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 4096ul
static uint64_t seed;
static uint64_t any(void) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return seed; }
static char *map(size_t pages, int prot, int flags) {
	char *at = mmap(0, pages * PAGE, prot, flags | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) { perror("mmap"); exit(3); }
	return at;
}
static char *private(size_t pages) { return map(pages, PROT_READ | PROT_WRITE, MAP_PRIVATE); }
static void scribble(char *at) {
	if (any() % 16 == 0) { memset(at, 0, PAGE); return; }
	for (size_t i = 0; i < PAGE / 8; i++) ((uint64_t *)at)[i] = any();
}
static void some(char *at, size_t pages, int count) { while (count--) scribble(at + any() % pages * PAGE); }
static char *base;
static void *writer(void *mine) {
	uint64_t s = (uint64_t)mine;
	for (;;) { s = s * 6364136223846793005ull + 1; memset(base + (s >> 33) % PAGES * PAGE, s >> 40, PAGE); usleep(50); }
}
static __attribute__((noinline)) int deep(int left) {
	volatile char frame[2 * PAGE];
	for (size_t i = 0; i < sizeof frame; i += 512) frame[i] = any();
	if (!left) { some(base, PAGES, 4); usleep(200); return frame[0]; }
	return deep(left - 1) + frame[511];
}

int main(int count, char **word) {
	if (count < 4) return 2;
	const char *mode = word[1];
	seed = strtoull(word[2], 0, 10) * 88172645463325252ull + 1;
	base = private(PAGES);
	some(base, PAGES, 3000);
	char *aside = private(1024), *extra = 0;
	size_t held = 256;
	if (!strcmp(mode, "threads")) for (uint64_t i = 1; i < 5; i++) { pthread_t t; pthread_create(&t, 0, writer, (void *)(any() | i)); }
	if (!strcmp(mode, "shared")) extra = map(1024, PROT_READ | PROT_WRITE, MAP_SHARED);
	if (!strcmp(mode, "file")) {
		int fd = open(word[3], O_RDWR | O_CREAT, 0600);
		if (fd < 0 || ftruncate(fd, 1024 * PAGE)) return 3;
		extra = mmap(0, 1024 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
		aside = mmap(0, 1024 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	if (!strcmp(mode, "huge")) {
		extra = private(5 * 512);
		extra = (char *)(((uintptr_t)extra + 511 * PAGE) & ~(512 * PAGE - 1));
		madvise(extra, 4 * 512 * PAGE, MADV_HUGEPAGE);
	}
	if (!strcmp(mode, "locked") && mlock(aside, 1024 * PAGE)) return 3;
	if (!strcmp(mode, "code")) mprotect(aside, 1024 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	if (count == 4) { puts("ready"); fflush(stdout); }
	for (long turn = 0;; turn++) {
		if (!strcmp(mode, "calm")) { some(base, PAGES, 2); usleep(20000); continue; }
		some(base, PAGES, 8);
		size_t at = any() % (PAGES - 64), page = any() % (1024 - 64);
		if (!strcmp(mode, "forks")) {
			if (fork() == 0) { some(base, PAGES, 200); for (int i = 0; i < 40; i++) { usleep(1000); some(base, PAGES, 2); } _exit(0); }
			while (waitpid(-1, 0, WNOHANG) > 0);
			usleep(4000);
		} else if (!strcmp(mode, "mremap")) {
			if (!extra) { extra = private(held); some(extra, held, 100); }
			size_t wanted = 64 + any() % 512;
			char *room = map(wanted + 2, PROT_NONE, MAP_PRIVATE);
			char *moved = mremap(extra, held * PAGE, wanted * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + PAGE);
			if (moved == MAP_FAILED) return 4;
			munmap(room, PAGE); munmap(room + (wanted + 1) * PAGE, PAGE);
			extra = moved; held = wanted;
			if (any() % 2) some(extra, held, 8);
		} else if (!strcmp(mode, "munmap")) {
			munmap(aside + page * PAGE, 64 * PAGE);
			some(base, PAGES, 4);
			mmap(aside + page * PAGE, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			some(aside, 1024, 16);
		} else if (!strcmp(mode, "dontneed")) {
			madvise(base + at * PAGE, 64 * PAGE, MADV_DONTNEED);
		} else if (!strcmp(mode, "free")) {
			madvise(base + at * PAGE, 64 * PAGE, any() % 2 ? MADV_FREE : MADV_PAGEOUT);
		} else if (!strcmp(mode, "none")) {
			mprotect(base + at * PAGE, 64 * PAGE, PROT_NONE); usleep(300);
			if (any() % 4) mprotect(base + at * PAGE, 64 * PAGE, PROT_READ | PROT_WRITE);
			else { some(aside, 1024, 4); usleep(300); mprotect(base + at * PAGE, 64 * PAGE, PROT_READ | PROT_WRITE); }
		} else if (!strcmp(mode, "guard")) {	/* MADV_GUARD_INSTALL, MADV_GUARD_REMOVE; older kernels refuse them */
			madvise(aside + page * PAGE, 16 * PAGE, 102); usleep(300);
			if (any() % 2) { madvise(aside + page * PAGE, 16 * PAGE, 103); some(aside + page * PAGE, 16, 4); }
		} else if (!strcmp(mode, "stack")) {
			deep(any() % 200);
		} else if (!strcmp(mode, "huge")) {
			some(extra, 4 * 512, 8);
			if (turn % 50 == 0) madvise(extra + any() % 4 * 512 * PAGE, 512 * PAGE, MADV_DONTNEED);
			if (turn % 50 == 25) memset(extra + any() % 4 * 512 * PAGE, any(), 512 * PAGE);
		} else if (!strcmp(mode, "exec")) {
			usleep(1000);
			char next[32];
			snprintf(next, sizeof next, "%llu", (unsigned long long)(any() >> 20));
			if (turn > 60) execl("/proc/self/exe", "churn", mode, next, word[3], "again", (char *)0);
		} else if (!strcmp(mode, "shared") || !strcmp(mode, "file")) {
			some(extra, 1024, 4); some(aside, 1024, 4);
		} else {
			some(aside, 1024, 4);
		}
		usleep(500);
	}
}
