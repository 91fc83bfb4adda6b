"""A VE's payload: a process tree that holds one of each kind of thing a checkpoint must carry, and checks them itself.

Rule: every exhibit is something that another kernel has to be told of (a descriptor, a queue, a lock, a timer, a place in
the tree); its check notices loss, doubling and standing still, and leaves it as it was, so that it can be asked again.

TCP port 7000 (IPv4 and IPv6), one line each way:
    check      -> JSON {"exhibits": how many were checked, "broken": [sentences], "count": ticks}
    add N      -> "N TIMES": TIMES is how often this connection has asked, so that nothing can be lost or done twice
Ticks of a thread, one a millisecond, stand in /dev/shm/count as eight bytes, little endian, for whoever looks from outside.
Process 1 of the VE; `--modules` prints the files of Python's library that it needs, for whoever builds the VE.
"""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

PORT = 7000
UNREAD = bytes(range(256)) * 20
ANSWER_LIMIT_S = 10.0
BLOCK_BYTES = 1 << 20
Check = Callable[[], None]
FRESH_OS: Any = os
"""Python 3.13 has timer descriptors; the checkers look with an older one's eyes."""


class Collection:
    """The exhibits of one process."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.checks: list[tuple[str, Check]] = []

    def add(self, name: str, check: Check) -> None:
        """One more; its check raises when it is not as it was."""
        self.checks.append((name, check))

    def broken(self) -> list[str]:
        """What is not as it was, in words."""
        found = []
        for name, check in self.checks:
            try:
                check()
            except Exception as error:  # every way of being wrong is to be told
                found.append(f"{self.process}: {name}: {type(error).__name__} {error}")
        return found


def expect(what: str, seen: object, wanted: object) -> None:
    """Raises ValueError unless the two are equal."""
    if seen != wanted:
        raise ValueError(f"{what} is {seen!r:.80}, was {wanted!r:.80}")


def wait_for(what: str, true: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Raises TimeoutError unless it becomes true."""
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.001)


# --- exhibits -------------------------------------------------------------------------------------


def add_threads(here: Collection) -> None:
    """Threads that count go on counting; each has its own memory and name."""
    counts = [0, 0, 0]
    names = [threading.current_thread().name] * 3

    def count(index: int) -> None:
        names[index] = f"counter-{index}"
        while True:
            counts[index] += 1
            time.sleep(0.002 * (index + 1))

    for index in range(3):
        threading.Thread(target=count, args=(index,), daemon=True).start()

    def check() -> None:
        before = list(counts)
        wait_for(
            f"threads count on from {before}", lambda: all(now > old for now, old in zip(counts, before, strict=True))
        )

    here.add("threads", check)


def add_queue(here: Collection, name: str, send: int, receive: int) -> None:
    """Bytes that were written and not read yet are still there, once, in order."""
    os.write(send, UNREAD)

    def check() -> None:
        waiting = struct.unpack("i", fcntl.ioctl(receive, termios.FIONREAD, b"\0" * 4))[0]
        expect("bytes waiting", waiting, len(UNREAD))
        got = b""
        while len(got) < len(UNREAD):
            got += os.read(receive, len(UNREAD))
        expect("bytes", got, UNREAD)
        os.write(send, UNREAD)

    here.add(name, check)


def add_messages(here: Collection, name: str, kind: socket.SocketKind) -> None:
    """Messages waiting in a socket pair keep their borders."""
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    messages = [b"one", b"two" * 100, b"3"]

    def check() -> None:
        expect("messages", [right.recv(4096, socket.MSG_DONTWAIT) for _ in messages], messages)
        for message in messages:
            left.send(message)

    for message in messages:
        left.send(message)
    here.add(name, check)


def add_timers(here: Collection) -> None:
    """An interval timer with its signal, and a timer descriptor, go on firing; a far one keeps its distance."""
    fired = [0]

    def hear(*_: object) -> None:
        fired[0] += 1

    signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    near = FRESH_OS.timerfd_create(time.CLOCK_MONOTONIC, flags=FRESH_OS.TFD_NONBLOCK)
    FRESH_OS.timerfd_settime(near, initial=0.005, interval=0.005)
    far = FRESH_OS.timerfd_create(time.CLOCK_MONOTONIC, flags=FRESH_OS.TFD_NONBLOCK)
    FRESH_OS.timerfd_settime(far, initial=100_000)
    ends_s = time.monotonic() + 100_000

    def check() -> None:
        before = fired[0]
        wait_for("the interval timer fires", lambda: fired[0] > before + 2)
        with contextlib.suppress(BlockingIOError):
            os.read(near, 8)
        expect("descriptors ready within a second", select.select([near], [], [], 1.0)[0], [near])
        # What is left is kept, so that each blackout puts the end off by as long as it takes to restore.
        moved_s = time.monotonic() + FRESH_OS.timerfd_gettime(far)[0] - ends_s
        expect("the far timer's end, within minutes", -1 < moved_s < 300, True)

    here.add("timers", check)


def add_clocks(here: Collection) -> None:
    """The monotonic and the boot clock never go back, nor leap ahead of the calendar by more than seconds."""
    clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
    last = {clock: (time.clock_gettime(clock), time.time()) for clock in clocks}

    def check() -> None:
        for clock, (value_s, calendar_s) in last.items():
            now_s, today_s = time.clock_gettime(clock), time.time()
            if not 0 <= now_s - value_s <= today_s - calendar_s + 5:
                raise ValueError(f"clock {clock} went by {now_s - value_s} s in {today_s - calendar_s} s")
            last[clock] = (now_s, today_s)

    here.add("clocks", check)


def add_locks(here: Collection) -> None:
    """A file locked by flock stays locked; here by the process itself on another descriptor."""
    held = os.open("/data/flocked", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)

    def check() -> None:
        other = os.open("/data/flocked", os.O_RDWR)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(other)
        raise ValueError("the lock is not held any more")

    here.add("flock", check)


def hold_record_lock() -> None:
    """A POSIX lock on the middle of a file, for as long as this process lives; `add_record_lock` checks from another."""
    held = os.open("/data/recorded", os.O_RDWR | os.O_CREAT)
    os.write(held, b"x" * 100)
    fcntl.lockf(held, fcntl.LOCK_EX, 10, 20)


def add_record_lock(here: Collection) -> None:
    """Bytes 20 to 29 are locked by another process, and only those."""
    other = os.open("/data/recorded", os.O_RDWR)

    def check() -> None:
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        fcntl.lockf(other, fcntl.LOCK_UN, 10, 0)
        try:
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 25)
        except OSError:
            return
        raise ValueError("the lock is not held any more")

    here.add("record lock", check)


def add_file(here: Collection, name: str, path: str, *, deleted: bool = False) -> None:
    """An open file keeps its content and place, also one whose name is gone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
    os.write(descriptor, UNREAD)
    if deleted:
        os.unlink(path)
    length = [len(UNREAD)]

    def check() -> None:
        expect("links", os.fstat(descriptor).st_nlink, 0 if deleted else 1)
        expect("size", os.fstat(descriptor).st_size, length[0])
        expect("place", os.lseek(descriptor, 0, os.SEEK_CUR), length[0])
        expect("content", os.pread(descriptor, len(UNREAD), 0), UNREAD)
        length[0] += os.write(descriptor, b"more")

    here.add(name, check)


def add_memory_file(here: Collection) -> None:
    """A file that is only memory keeps its content."""
    descriptor = os.memfd_create("exhibit")
    os.write(descriptor, UNREAD)
    here.add("memfd", lambda: expect("content", os.pread(descriptor, 9999, 0), UNREAD))


def add_event(here: Collection) -> None:
    """An event counter keeps its number, and a poll set what it watches."""
    event = os.eventfd(7, os.EFD_NONBLOCK)
    polled = select.epoll()
    polled.register(event, select.EPOLLIN)

    def check() -> None:
        expect("poll set", polled.poll(1.0), [(event, select.EPOLLIN)])
        expect("number", os.eventfd_read(event), 7)
        os.eventfd_write(event, 7)

    here.add("eventfd and epoll", check)


def add_fifo(here: Collection) -> None:
    """A named pipe keeps what is in it."""
    os.mkfifo("/run/fifo")
    descriptor = os.open("/run/fifo", os.O_RDWR)
    add_queue(here, "fifo", descriptor, descriptor)


def add_signals(here: Collection) -> None:
    """A blocked signal that waits goes on waiting; dispositions stay."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR2)

    def check() -> None:
        expect("waiting signals", signal.SIGUSR2 in signal.sigpending(), True)
        expect("mask", signal.pthread_sigmask(signal.SIG_BLOCK, set()), {signal.SIGUSR2})
        expect("disposition", signal.getsignal(signal.SIGUSR1), signal.SIG_IGN)

    here.add("signals", check)


def add_memory(here: Collection) -> None:
    """Private memory, and a file mapped privately and changed, keep their bytes."""
    block = mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(os.urandom(BLOCK_BYTES))
    with open("/data/mapped", "w+b") as file:
        file.write(b"\0" * 8192)
        file.flush()
        changed = mmap.mmap(file.fileno(), 8192, flags=mmap.MAP_PRIVATE)
    changed[4000:4100] = b"c" * 100
    digest = hashlib.sha256(block).digest()

    def check() -> None:
        expect("private memory", hashlib.sha256(block).digest(), digest)
        expect("changed page", bytes(changed[4000:4100]), b"c" * 100)

    here.add("memory", check)


def add_self(here: Collection) -> None:
    """Identity: process ids, group, session, working directory, mask, limits, niceness, user."""

    def identity() -> tuple[object, ...]:
        mask = os.umask(0)
        os.umask(mask)
        limits = (resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE))
        ids = (os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0), os.getresuid(), os.getresgid(), os.getgroups())
        return (*ids, os.getcwd(), mask, limits, os.nice(0))

    was = identity()
    here.add("identity", lambda: expect("identity", identity(), was))


def add_zombie(here: Collection) -> None:
    """A child that has ended and was not waited for can still be waited for."""
    pid = os.fork()
    if not pid:
        os._exit(7)

    def check() -> None:
        with open(f"/proc/{pid}/stat") as file:
            expect("state", file.read().split()[2], "Z")
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        expect("exit status", ended and ended.si_status, 7)

    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    here.add("zombie", check)


def add_shared(here: Collection, shared: mmap.mmap) -> None:
    """Memory shared by processes stays shared: another one counts in it."""

    def check() -> None:
        before = bytes(shared[:8])
        wait_for("the other process counts in shared memory", lambda: bytes(shared[:8]) != before)

    here.add("shared memory", check)


def count_in(shared: mmap.mmap) -> None:
    """The other side of it."""
    value = 0
    while True:
        value += 1
        shared[:8] = struct.pack("<Q", value)
        time.sleep(0.001)


def add_talk(here: Collection, name: str, connection: socket.socket) -> None:
    """A stream to another process answers, in order, what is asked."""
    number = [0]

    def check() -> None:
        number[0] += 1
        word = f"{name} {number[0]}\n".encode()
        connection.settimeout(5)
        connection.sendall(word)
        got = b""
        while len(got) < len(word):
            got += connection.recv(1000)
        expect("echo", got, word)

    here.add(name, check)


def echo(connection: socket.socket) -> None:
    """The other end of a talk, in a thread of its own."""
    while data := connection.recv(1000):
        connection.sendall(data)


def in_thread(work: Callable[..., None], *words: object) -> None:
    """Run it beside everything else."""
    threading.Thread(target=work, args=words, daemon=True).start()


# --- the processes --------------------------------------------------------------------------------


def serve_checks(here: Collection, asked: socket.socket) -> None:
    """Main loop of every process but the first: answer each question with what is broken."""
    while asked.recv(1):
        answer = json.dumps([len(here.checks), here.broken()]).encode()
        asked.sendall(struct.pack("!I", len(answer)) + answer)
    os._exit(0)


def spawn(name: str, fill: Callable[[Collection], None]) -> socket.socket:
    """Fork a process that fills its own collection and then answers; where to ask it."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        theirs_ready = ours.recv(1)
        expect(f"{name} at the start", theirs_ready, b"r")
        return ours
    try:
        ours.close()
        here = Collection(name)
        add_self(here)
        fill(here)
        if broken := here.broken():
            print(broken, file=sys.stderr, flush=True)
        theirs.sendall(b"r")
        serve_checks(here, theirs)
    finally:
        os._exit(1)


def ask(connection: socket.socket) -> tuple[int, list[str]]:
    """One process's answer."""
    connection.settimeout(ANSWER_LIMIT_S)
    connection.sendall(b"?")
    head = _exactly(connection, 4)
    count, broken = json.loads(_exactly(connection, struct.unpack("!I", head)[0]))
    return count, broken


def _exactly(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        data = connection.recv(length - len(got))
        if not data:
            raise EOFError("a process of the tree has ended")
        got += data
    return got


class Tree:
    """Process 1 and what it made."""

    def __init__(self) -> None:
        self.here = Collection("init")
        self.others: list[socket.socket] = []
        self.between = Between()
        self.count = mmap.mmap(-1, 8)
        self._turn = threading.Lock()

    def build(self) -> None:
        """Everything, children first so that they have no threads."""
        shared = mmap.mmap(-1, 4096, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self.others = [
            spawn("holder", lambda here: fill_holder(here, shared)),
            spawn("speaker", lambda here: fill_speaker(here, self.between)),
        ]
        add_self(self.here)
        add_zombie(self.here)
        add_shared(self.here, shared)
        add_record_lock(self.here)
        add_threads(self.here)
        add_clocks(self.here)
        for name, connection in self.between.connections():
            add_talk(self.here, name, connection)
        add_queue(self.here, "tcp queue", *self.between.unread())
        self._count()

    def _count(self) -> None:
        descriptor = os.open("/dev/shm/count", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, b"\0" * 8)
        self.count = mmap.mmap(descriptor, 8)
        in_thread(count_in, self.count)

    def check(self) -> str:
        """All processes' answers in one."""
        with self._turn:
            counts, broken = [len(self.here.checks)], self.here.broken()
            for each in self.others:
                try:
                    count, found = ask(each)
                    counts.append(count)
                    broken += found
                except (OSError, EOFError) as error:
                    broken.append(f"a process does not answer: {error}")
        ticks = struct.unpack("<Q", self.count[:8])[0]
        return json.dumps({"exhibits": sum(counts), "broken": broken, "count": ticks})

    def converse(self, connection: socket.socket) -> None:
        """One client, to its end."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = 0
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                verb, *words = line.split()
                times += verb == "add"
                lines.write((f"{words[0]} {times}" if verb == "add" else self.check()) + "\n")
                lines.flush()


class Between:
    """Connections between process 1 and the speaker, in every family."""

    def __init__(self) -> None:
        self.listeners = {
            "tcp over IPv4": _listen(socket.AF_INET, ("127.0.0.1", 7001)),
            "tcp over IPv6": _listen(socket.AF_INET6, ("::1", 7001)),
            "unix": _listen(socket.AF_UNIX, "/run/tree.sock"),
        }
        self.queue = _listen(socket.AF_INET, ("127.0.0.1", 7002))
        self._queued: list[socket.socket] = []

    def serve(self) -> None:
        """The speaker's side: echo on every connection that comes."""
        for listener in self.listeners.values():
            in_thread(self._accept, listener)

    @staticmethod
    def _accept(listener: socket.socket) -> None:
        while True:
            in_thread(echo, listener.accept()[0])

    def connections(self) -> Iterator[tuple[str, socket.socket]]:
        """Process 1's side; the listeners stay open here as well, as after any fork."""
        for name, listener in self.listeners.items():
            yield name, _connect(listener)

    def unread(self) -> tuple[int, int]:
        """A connection within one process: (end to write to, end to read from)."""
        sender = _connect(self.queue)
        self._queued = [sender, self.queue.accept()[0]]
        return self._queued[0].fileno(), self._queued[1].fileno()


def _listen(family: socket.AddressFamily, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(16)
    return listener


def _connect(listener: socket.socket) -> socket.socket:
    connection = socket.socket(listener.family, socket.SOCK_STREAM)
    connection.connect(listener.getsockname())
    return connection


def fill_holder(here: Collection, shared: mmap.mmap) -> None:
    """A process that holds files, locks, queues and timers, and has a child in a session of its own."""
    os.umask(0o027)
    os.chdir("/data")
    os.nice(3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    here.checks.clear()
    add_self(here)
    child = spawn("grandchild", fill_grandchild)
    hold_record_lock()
    add_locks(here)
    add_file(here, "file", "/data/plain")
    add_file(here, "deleted file", "/data/deleted", deleted=True)
    add_file(here, "file on tmpfs", "/run/plain")
    add_file(here, "deleted file on tmpfs", "/dev/shm/deleted", deleted=True)
    add_memory_file(here)
    add_queue(here, "pipe", *reversed(os.pipe()))
    add_fifo(here)
    add_event(here)
    add_memory(here)
    add_signals(here)
    add_timers(here)
    here.add("grandchild", lambda: expect("broken", ask(child)[1], []))
    in_thread(count_in, shared)


def fill_grandchild(here: Collection) -> None:
    """The leader of a session, an ordinary user, with threads and a pipe to itself."""
    os.setsid()
    os.setgroups([100, 101])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    here.checks.clear()
    add_self(here)
    add_threads(here)
    back, forth = os.pipe(), os.pipe()

    def pass_on() -> None:
        while data := os.read(forth[0], 100):
            os.write(back[1], data)

    def check() -> None:
        os.write(forth[1], b"around")
        expect("what comes back", os.read(back[0], 100), b"around")

    in_thread(pass_on)
    here.add("thread blocked on a pipe", check)


def fill_speaker(here: Collection, between: Between) -> None:
    """A process at the other end of connections, with message sockets of its own."""
    between.serve()
    left, right = socket.socketpair()
    add_queue(here, "unix stream", left.detach(), right.detach())
    add_messages(here, "unix datagrams", socket.SOCK_DGRAM)
    add_messages(here, "unix sequenced packets", socket.SOCK_SEQPACKET)
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 7003))

    def check() -> None:
        bound.sendto(b"to myself", ("127.0.0.1", 7003))
        bound.settimeout(5)
        expect("datagram", bound.recv(100), b"to myself")

    here.add("udp", check)


def main() -> None:
    """Build everything, then serve for ever."""
    if sys.argv[1:] == ["--modules"]:
        files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        print(json.dumps(sorted(file for file in files if file and file != __file__)))
        return
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    tree = Tree()
    tree.build()
    while True:
        in_thread(tree.converse, listener.accept()[0])


if __name__ == "__main__":
    main()
