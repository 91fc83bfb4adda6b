/* A process as CRIU's lazy restore leaves it: its memory is missing, and a userfaultfd over it is with somebody else.
 *
 * restored SOCKET MIB SEED SECONDS: hands its userfaultfd over as CRIU does, says "restored", and for SECONDS works with
 * memory that it never wrote: checks what a page must hold, empties ranges, unmaps, moves, forks, and cuts mappings in
 * two, as many of them lie side by side from the start. In the end it checks everything and prints "checked N wrong M".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define BASE ((char *)0x100000000000ul)
static size_t pages;
static char *where;	/* per page: 0 as it was, 1 emptied or mapped anew, 2 gone or moved away */
static uint64_t seed;
static long wrong, checked;
static uint64_t any(void) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return seed; }
static int is(const char *at, size_t page) {
	const uint64_t *words = (const uint64_t *)at;
	uint64_t want = page * 0x9e3779b97f4a7c15ull + 1;
	return words[0] == want && words[511] == want + 511;
}
static int zero(const char *at) { const uint64_t *words = (const uint64_t *)at; return !words[0] && !words[511]; }
static void check(size_t page) {
	if (where[page] == 2) return;
	checked++;
	if (where[page] ? !zero(BASE + page * PAGE) : !is(BASE + page * PAGE, page)) wrong++;
}
static void hand_over(const char *path) {
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP
		| UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP };
	struct uffdio_register all = { .range = { (uint64_t)BASE, pages * PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &all)) { perror("uffd"); exit(3); }
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	strncpy(name.sun_path, path, sizeof name.sun_path - 1);
	int server = socket(AF_UNIX, SOCK_STREAM, 0), pid = 1, finished = 0x52535446;
	if (connect(server, (struct sockaddr *)&name, sizeof name)) { perror("connect"); exit(3); }
	write(server, &pid, 4);
	char dummy = 0, room[CMSG_SPACE(sizeof uffd)] = { 0 };
	struct iovec one = { &dummy, 1 };
	struct msghdr message = { .msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	rights->cmsg_level = SOL_SOCKET; rights->cmsg_type = SCM_RIGHTS; rights->cmsg_len = CMSG_LEN(sizeof uffd);
	memcpy(CMSG_DATA(rights), &uffd, sizeof uffd);
	sendmsg(server, &message, 0);
	write(server, &finished, 4);
	close(uffd);
	close(server);
}
static void spawn(void) {
	pid_t child = fork();
	if (!child) {
		wrong = 0;
		for (int i = 0; i < 60; i++) check(any() % pages);
		size_t page = any() % (pages - 8);
		if (!where[page]) { madvise(BASE + page * PAGE, PAGE, MADV_DONTNEED); where[page] = 1; check(page); }
		_exit(wrong ? 1 : 0);
	}
	int status;
	waitpid(child, &status, 0);
	if (status) wrong++;
}
/* Only a mapping of its own can have another flag. */
static void cut(size_t page, size_t length) { madvise(BASE + page * PAGE, length * PAGE, MADV_DONTDUMP); }
/* A move of a range that lies over two mappings was refused; Linux may have moved the first of them. */
static void look_again(size_t page) {
	unsigned char in_core;
	for (size_t i = page; i < page + 8; i++) if (mincore(BASE + i * PAGE, PAGE, &in_core)) where[i] = 2;
}
static void change(void) {
	size_t page = any() % (pages - 8);
	for (size_t i = 0; i < 8; i++) if (where[page + i] == 2) return;
	char *at = BASE + page * PAGE;
	switch (any() % 5) {
	case 0: madvise(at, 8 * PAGE, MADV_DONTNEED); memset(where + page, 1, 8); return;
	case 1:
		munmap(at, 8 * PAGE);
		if (mmap(at, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) exit(4);
		memset(where + page, 1, 8); return;
	case 2: {
		char *moved = mremap(at, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + (2 * pages + any() % pages) * PAGE);
		if (moved == MAP_FAILED) { look_again(page); return; }
		for (size_t i = 0; i < 8; i++) {
			checked++;
			if (where[page + i] ? !zero(moved + i * PAGE) : !is(moved + i * PAGE, page + i)) wrong++;
		}
		memset(where + page, 2, 8); return;
	}
	case 3: spawn(); return;
	case 4: cut(page + 1, 1 + any() % 6); return;
	}
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int count, char **word) {
	if (count < 5) return 2;
	pages = strtoul(word[2], 0, 10) * 256;
	seed = strtoull(word[3], 0, 10) * 88172645463325252ull + 1;
	where = calloc(pages, 1);
	if (mmap(BASE, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != BASE) return 3;
	for (size_t page = 5; page + 100 < pages; page += 50 + any() % 100) cut(page, 1 + any() % 40);
	hand_over(word[1]);
	puts("restored"); fflush(stdout);
	for (double end = now() + atof(word[4]); now() < end; ) {
		for (int i = 0; i < 20; i++) check(any() % pages);
		change();
		usleep(200);
	}
	for (size_t page = 0; page < pages; page++) check(page);
	printf("checked %ld wrong %ld\n", checked, wrong);
	return 0;
}
