/*
 * The first process of a VE that is measured: random private memory rewritten at a set rate, an appended log, small files
 * rewritten in turn, children with memory of their own. It keeps account of the holes in its own clock and can check
 * every page, file and log line it ever wrote.
 *
 * Rule: it judges moves, so it knows nothing of them. What a page must hold follows from two numbers, its index and how
 * many pages were written in all; a page that is wrong, old or another's is found. Gaps are taken on CLOCK_REALTIME:
 * a monotonic clock may be restored to where it was, and would hide the hole.
 *
 * Usage: pages MEMORY_MIB DIRTY_BYTES_PER_S PROCESSES HOT_FILES WORK   (WORK 1: a second thread works flat out)
 * Asked by a file /data/ask holding one word, it answers with one line of JSON in /data/answer:
 *   state   what it counted so far        reset   the same, then forgets its gaps
 *   verify  the same after checking everything; the time of the check is no gap
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / 8)
#define TICK_NS 1000000
#define GAPS 64
#define GAP_NOTED_US 5000
#define CHILD_PAGES 64
#define CATCH_UP_LIMIT_US 20000 /* after a hole it goes on at its rate, it does not catch up */
#define LOG_EVERY_US 100000
#define ASKED_EVERY_TICKS 10
#define HOT_BYTES 2048
#define UNIT_BYTES 65536

struct gap {
    int64_t from_us, until_us;
};

static uint64_t *memory;
static uint64_t page_count, written; /* pages in all; page writes in all, the first filling included */
static int64_t dirty_bytes_per_s;
static struct gap gaps[GAPS];
static uint64_t ticks, children_wrong;
static int processes, hot_files, children_pipe[2];
static uint64_t hot_writes;
static int log_file;
static uint64_t log_bytes, log_hash = 1469598103934665603ULL;
static _Atomic uint64_t work_units, work_cpu_us, work_sum;

static int64_t clock_us(clockid_t which)
{
    struct timespec now;
    clock_gettime(which, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void die(const char *what)
{
    int status = errno ? errno : 1;
    fprintf(stderr, "pages: %s: %s\n", what, strerror(errno));
    exit(status);
}

/* --- pages ---------------------------------------------------------------------------------------- */

static uint64_t first_word(uint64_t index, uint64_t generation)
{
    uint64_t word = (index + 1) * 0x9E3779B97F4A7C15ULL ^ (generation + 1) * 0xC2B2AE3D27D4EB4FULL;
    return word ? word : 1;
}

static uint64_t next_word(uint64_t word)
{
    word ^= word << 13;
    word ^= word >> 7;
    return word ^ word << 17;
}

static void write_page(uint64_t *page, uint64_t index, uint64_t generation)
{
    uint64_t word = first_word(index, generation);
    for (int at = 0; at < PAGE_WORDS; at++, word = next_word(word))
        page[at] = word;
}

static int page_is(const uint64_t *page, uint64_t index, uint64_t generation)
{
    uint64_t word = first_word(index, generation);
    for (int at = 0; at < PAGE_WORDS; at++, word = next_word(word))
        if (page[at] != word)
            return 0;
    return 1;
}

static uint64_t generation_of(uint64_t index, uint64_t count, uint64_t writes)
{
    return writes / count + (index < writes % count);
}

static void write_next_page(void)
{
    uint64_t index = written % page_count;
    write_page(memory + index * PAGE_WORDS, index, written / page_count + 1);
    written++;
}

static uint64_t count_wrong_pages(int64_t *first)
{
    uint64_t wrong = 0;
    *first = -1;
    for (uint64_t index = 0; index < page_count; index++)
        if (!page_is(memory + index * PAGE_WORDS, index, generation_of(index, page_count, written))) {
            if (!wrong++)
                *first = (int64_t)index;
        }
    return wrong;
}

/* --- files ---------------------------------------------------------------------------------------- */

static uint64_t hashed(uint64_t hash, const char *bytes, size_t count)
{
    for (size_t at = 0; at < count; at++)
        hash = (hash ^ (unsigned char)bytes[at]) * 1099511628211ULL;
    return hash;
}

static void append_log(int64_t now_us)
{
    char line[160];
    int length = snprintf(line, sizeof line, "%lld %llu %llu %llu %llu\n", (long long)now_us,
                          (unsigned long long)ticks, (unsigned long long)written,
                          (unsigned long long)atomic_load(&work_units), (unsigned long long)atomic_load(&work_cpu_us));
    if (write(log_file, line, (size_t)length) != length)
        die("append to the log");
    log_bytes += (uint64_t)length;
    log_hash = hashed(log_hash, line, (size_t)length);
}

/* Whether the log, by its name, is the file that is open, and holds what was appended and nothing else. */
static int log_is_right(void)
{
    struct stat open_one, named;
    char block[65536];
    uint64_t hash = 1469598103934665603ULL, bytes = 0;
    if (fstat(log_file, &open_one) || stat("/data/log", &named) || open_one.st_ino != named.st_ino ||
        open_one.st_dev != named.st_dev)
        return 0;
    int file = open("/data/log", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    for (ssize_t got; (got = read(file, block, sizeof block)) > 0; bytes += (uint64_t)got)
        hash = hashed(hash, block, (size_t)got);
    close(file);
    return bytes == log_bytes && hash == log_hash;
}

static void hot_name(char *name, size_t size, uint64_t number)
{
    snprintf(name, size, "/files/hot/h%05llu", (unsigned long long)number);
}

static void write_hot_file(void)
{
    char name[64];
    uint64_t words[HOT_BYTES / 8], number = hot_writes % (uint64_t)hot_files;
    uint64_t word = first_word(number, hot_writes / (uint64_t)hot_files + 1);
    for (int at = 0; at < HOT_BYTES / 8; at++, word = next_word(word))
        words[at] = word;
    hot_name(name, sizeof name, number);
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0 || write(file, words, sizeof words) != sizeof words)
        die(name);
    close(file);
    hot_writes++;
}

static uint64_t count_wrong_hot_files(void)
{
    uint64_t wrong = 0;
    for (int number = 0; number < hot_files; number++) {
        char name[64];
        uint64_t words[HOT_BYTES / 8 + 1];
        uint64_t word = first_word((uint64_t)number, generation_of((uint64_t)number, (uint64_t)hot_files, hot_writes));
        hot_name(name, sizeof name, (uint64_t)number);
        int file = open(name, O_RDONLY | O_CLOEXEC), good = file >= 0 && read(file, words, sizeof words) == HOT_BYTES;
        for (int at = 0; good && at < HOT_BYTES / 8; at++, word = next_word(word))
            good = words[at] == word;
        if (file >= 0)
            close(file);
        wrong += !good;
    }
    return wrong;
}

/* --- children and work ----------------------------------------------------------------------------- */

/* Rewrites its own pages and checks all of them ten times a second; a byte in the pipe for every wrong page. */
static void be_child(uint64_t number)
{
    uint64_t *own = mmap(NULL, CHILD_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t writes = 0, base = number << 32;
    struct timespec pause = {0, 100 * TICK_NS};
    if (own == MAP_FAILED)
        die("memory of a child");
    for (;; writes++) {
        for (uint64_t index = 0; index < CHILD_PAGES && writes; index++)
            if (!page_is(own + index * PAGE_WORDS, base + index, generation_of(index, CHILD_PAGES, writes)) &&
                write(children_pipe[1], "!", 1) != 1)
                die("tell of a wrong page");
        if (!writes)
            for (; writes < CHILD_PAGES; writes++)
                write_page(own + writes * PAGE_WORDS, base + writes, 1);
        write_page(own + writes % CHILD_PAGES * PAGE_WORDS, base + writes % CHILD_PAGES, writes / CHILD_PAGES + 1);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

/* Flat out: reads its way through the memory, and counts units of a fixed amount of it. */
static void *work(void *unused)
{
    uint64_t at = 0, total = page_count * PAGE_WORDS, sum = 0;
    for (;; at = (at + UNIT_BYTES / 8) % total) {
        for (uint64_t word = 0; word < UNIT_BYTES / 8; word++)
            sum = next_word(sum ^ memory[at + word]);
        atomic_store(&work_sum, sum);
        atomic_fetch_add(&work_units, 1);
        atomic_store(&work_cpu_us, (uint64_t)clock_us(CLOCK_THREAD_CPUTIME_ID));
    }
    return unused;
}

static void start_children(void)
{
    if (pipe2(children_pipe, O_NONBLOCK | O_CLOEXEC))
        die("pipe");
    for (int number = 1; number < processes; number++) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (!child)
            be_child((uint64_t)number);
    }
}

static void hear_children(void)
{
    char said[256];
    ssize_t got;
    while ((got = read(children_pipe[0], said, sizeof said)) > 0)
        children_wrong += (uint64_t)got;
}

/* --- gaps and questions ---------------------------------------------------------------------------- */

static void note_gap(int64_t from_us, int64_t until_us)
{
    struct gap *least = gaps;
    for (struct gap *each = gaps; each < gaps + GAPS; each++)
        if (each->until_us - each->from_us < least->until_us - least->from_us)
            least = each;
    if (until_us - from_us > least->until_us - least->from_us)
        *least = (struct gap){from_us, until_us};
}

static void answer(int verified, uint64_t wrong, int64_t first, uint64_t wrong_files, int log_right)
{
    FILE *out = fopen("/data/answer.new", "w");
    if (!out)
        die("answer");
    fprintf(out, "{\"now_us\":%lld,\"ticks\":%llu,\"pages\":%llu,\"written\":%llu,\"work_units\":%llu,",
            (long long)clock_us(CLOCK_REALTIME), (unsigned long long)ticks, (unsigned long long)page_count,
            (unsigned long long)written, (unsigned long long)atomic_load(&work_units));
    fprintf(out, "\"work_cpu_us\":%llu,\"log_bytes\":%llu,\"hot_writes\":%llu,\"verified\":%s,",
            (unsigned long long)atomic_load(&work_cpu_us), (unsigned long long)log_bytes,
            (unsigned long long)hot_writes, verified ? "true" : "false");
    fprintf(out, "\"wrong_pages\":%llu,\"first_wrong_page\":%lld,\"wrong_files\":%llu,\"log_right\":%s,",
            (unsigned long long)(wrong + children_wrong), (long long)first, (unsigned long long)wrong_files,
            log_right ? "true" : "false");
    fprintf(out, "\"gaps_us\":[");
    const char *comma = "";
    for (struct gap *each = gaps; each < gaps + GAPS; each++)
        if (each->until_us) {
            fprintf(out, "%s[%lld,%lld]", comma, (long long)each->from_us, (long long)each->until_us);
            comma = ",";
        }
    fprintf(out, "]}\n");
    if (fclose(out) || rename("/data/answer.new", "/data/answer"))
        die("answer");
}

/* Whether a question was answered that takes long. */
static int hear_question(void)
{
    char word[16] = "";
    int file = open("/data/ask", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t got = read(file, word, sizeof word - 1);
    close(file);
    unlink("/data/ask");
    int64_t first = -1;
    int verify = got > 0 && !strncmp(word, "verify", 6);
    hear_children();
    if (verify) {
        uint64_t wrong = count_wrong_pages(&first);
        answer(1, wrong, first, count_wrong_hot_files(), log_is_right());
    } else
        answer(0, 0, -1, 0, 1);
    if (!strncmp(word, "reset", 5))
        memset(gaps, 0, sizeof gaps);
    return verify;
}

static void live(void)
{
    int64_t last_us = clock_us(CLOCK_REALTIME), logged_us = 0, owed_bytes = 0, owed_files = 0;
    struct timespec pause = {0, TICK_NS};
    for (;; ticks++) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        int64_t now_us = clock_us(CLOCK_REALTIME), passed_us = now_us - last_us;
        if (passed_us >= GAP_NOTED_US)
            note_gap(last_us, now_us);
        last_us = now_us;
        if (passed_us > CATCH_UP_LIMIT_US)
            passed_us = CATCH_UP_LIMIT_US;
        for (owed_bytes += dirty_bytes_per_s * passed_us / 1000000; owed_bytes >= PAGE_BYTES; owed_bytes -= PAGE_BYTES)
            write_next_page();
        for (owed_files += hot_files * passed_us; owed_files >= 1000000; owed_files -= 1000000)
            write_hot_file();
        if (now_us - logged_us >= LOG_EVERY_US) {
            append_log(now_us);
            logged_us = now_us;
        }
        if (ticks % ASKED_EVERY_TICKS == 0 && hear_question())
            last_us = clock_us(CLOCK_REALTIME);
    }
}

int main(int count, char **words)
{
    pthread_t worker;
    if (count != 6) {
        fprintf(stderr, "usage: pages MEMORY_MIB DIRTY_BYTES_PER_S PROCESSES HOT_FILES WORK\n");
        return 2;
    }
    page_count = (uint64_t)atoll(words[1]) * 256;
    dirty_bytes_per_s = atoll(words[2]);
    processes = atoi(words[3]);
    hot_files = atoi(words[4]);
    start_children();
    mkdir("/data", 0755);
    mkdir("/files", 0755);
    mkdir("/files/hot", 0755);
    log_file = open("/data/log", O_WRONLY | O_CREAT | O_APPEND | O_TRUNC | O_CLOEXEC, 0644);
    memory = mmap(NULL, page_count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (log_file < 0 || memory == MAP_FAILED)
        die("begin");
    while (written < page_count)
        write_next_page();
    for (int number = 0; number < hot_files; number++)
        write_hot_file();
    if (atoi(words[5]) && pthread_create(&worker, NULL, work, NULL))
        die("thread");
    live();
}
