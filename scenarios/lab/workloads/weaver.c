/* A VE's payload that trusts nobody with its memory: it knows what every page must hold, changes pages and mappings all the time,
 * and checks them all the time.
 *
 * weaver DIRECTORY: when DIRECTORY/ask is there it is removed, everything is checked, and DIRECTORY/answer tells
 * "checked N wrong M". Threads own an arena each, of many mappings side by side with different flags; they write, empty, replace,
 * protect, move and cut them, fork children that check, and start threads that end at once (their stacks lie beside each other).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 3000ul
#define THREADS 4
static atomic_long checked, wrong;
static pthread_rwlock_t quiet = PTHREAD_RWLOCK_INITIALIZER;

struct arena {
	char *base;
	uint64_t stamp[PAGES];	/* what each page holds; 0: zeros */
	uint64_t seed;
};
static struct arena arenas[THREADS];

static uint64_t any(struct arena *a) { a->seed ^= a->seed << 13; a->seed ^= a->seed >> 7; a->seed ^= a->seed << 17; return a->seed; }
static char *at(struct arena *a, size_t page) { return a->base + page * PAGE; }
static void fill(char *where, uint64_t stamp) {
	for (size_t i = 0; i < PAGE / 8; i++) ((volatile uint64_t *)where)[i] = stamp ? stamp + i : 0;
}
static int holds(const char *where, uint64_t stamp) {
	const volatile uint64_t *words = (const volatile uint64_t *)where;
	for (size_t i = 0; i < PAGE / 8; i += 73) if (words[i] != (stamp ? stamp + i : 0)) return 0;
	return words[PAGE / 8 - 1] == (stamp ? stamp + PAGE / 8 - 1 : 0);
}
static void check(struct arena *a, size_t page) {
	checked++;
	if (!holds(at(a, page), a->stamp[page])) wrong++;
}
static void put(struct arena *a, size_t page, uint64_t stamp) { a->stamp[page] = stamp; fill(at(a, page), stamp); }
static void cleared(struct arena *a, size_t page, size_t count) { memset(a->stamp + page, 0, count * sizeof *a->stamp); }

static void anew(struct arena *a, size_t page, size_t count) {
	char *wanted = at(a, page);
	if (mmap(wanted, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != wanted) exit(4);
	cleared(a, page, count);
}
static void child(struct arena *a) {
	pid_t pid = fork();
	if (!pid) {
		for (int i = 0; i < 100; i++) { size_t page = any(a) % PAGES; if (!holds(at(a, page), a->stamp[page])) _exit(1); }
		_exit(0);
	}
	int status = 0;
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status) wrong++;
	checked++;
}
static void *brief(void *word) {
	volatile uint64_t held[600];
	for (size_t i = 0; i < 600; i++) held[i] = (uint64_t)word + i;
	usleep((uint64_t)word % 3000);
	for (size_t i = 0; i < 600; i++) if (held[i] != (uint64_t)word + i) wrong++;
	return 0;
}
static void change(struct arena *a) {
	size_t count = 1 + any(a) % 12, page = any(a) % (PAGES - 16), other = any(a) % (PAGES - 16);
	char *from = at(a, page);
	switch (any(a) % 9) {
	case 0: madvise(from, count * PAGE, MADV_DONTNEED); cleared(a, page, count); return;
	case 1: anew(a, page, count); return;
	case 2: madvise(from, count * PAGE, any(a) % 2 ? MADV_DONTDUMP : MADV_DODUMP); return;
	case 3:
		mprotect(from, count * PAGE, any(a) % 2 ? PROT_READ : PROT_READ | PROT_EXEC);
		for (size_t i = 0; i < count; i++) check(a, page + i);
		mprotect(from, count * PAGE, PROT_READ | PROT_WRITE); return;
	case 4: {	/* moved onto other pages; where it lay is mapped anew. Over several mappings it may fail, both places half empty. */
		if (other < page + count && page < other + count) return;
		int moved = mremap(from, count * PAGE, count * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(a, other)) != MAP_FAILED;
		if (moved) memcpy(a->stamp + other, a->stamp + page, count * sizeof *a->stamp);
		else anew(a, other, count);
		anew(a, page, count); return;
	}
	case 5: if (any(a) % 8 == 0) child(a); return;
	case 6: {
		pthread_t thread;
		if (pthread_create(&thread, 0, brief, (void *)(any(a) >> 8))) { wrong++; return; }
		if (any(a) % 2) pthread_join(thread, 0); else pthread_detach(thread);
		return;
	}
	case 7: {
		size_t size = 1 + any(a) % 200000;
		unsigned char *block = malloc(size), mark = any(a);
		memset(block, mark, size);
		usleep(any(a) % 2000);
		for (size_t i = 0; i < size; i += 997) if (block[i] != mark) wrong++;
		free(block); return;
	}
	default: for (size_t i = 0; i < count; i++) put(a, page + i, any(a) % 10 ? any(a) : 0); return;
	}
}
static void *weave(void *mine) {
	struct arena *a = mine;
	for (;;) {
		pthread_rwlock_rdlock(&quiet);
		for (int i = 0; i < 6; i++) check(a, any(a) % PAGES);
		change(a);
		pthread_rwlock_unlock(&quiet);
		usleep(400);
	}
	return 0;
}
int main(int count, char **word) {
	if (count < 2 || chdir(word[1])) return 2;
	for (int i = 0; i < THREADS; i++) {
		struct arena *a = arenas + i;
		a->seed = getpid() * 88172645463325252ull + 1 + i;
		a->base = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (a->base == MAP_FAILED) return 3;
		for (size_t page = 0; page < PAGES; page++) if (any(a) % 4) put(a, page, any(a));
		for (size_t page = 3; page + 90 < PAGES; page += 20 + any(a) % 60) madvise(at(a, page), (1 + any(a) % 30) * PAGE, MADV_DONTDUMP);
		pthread_t thread;
		if (pthread_create(&thread, 0, weave, a)) return 3;
	}
	for (;; usleep(5000)) {
		if (unlink("ask")) continue;
		pthread_rwlock_wrlock(&quiet);
		for (int i = 0; i < THREADS; i++) for (size_t page = 0; page < PAGES; page++) check(arenas + i, page);
		pthread_rwlock_unlock(&quiet);
		FILE *answer = fopen("answer.new", "w");
		if (!answer) return 5;
		fprintf(answer, "checked %ld wrong %ld\n", checked, wrong);
		if (fclose(answer) || rename("answer.new", "answer")) return 5;
	}
}
