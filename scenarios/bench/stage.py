"""The lab in which all ways are measured: two hosts, the program, a template of the VE's files, and warm connections.

Rule: whatever a person would have prepared before a move is prepared before the clock starts, for every way alike. A
lab that a killed bench left is removed by the next of the same name; two at once are refused.
"""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from scenarios.bench.workload import BenchError, Workload
from scenarios.lab import bundles, fleet
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import HostSpec, Topology

MEMORY_MB = 16_000
"""Each host's limit: it is set so that its memory is counted, and high enough for a VE of 4 GiB with its images."""
TEMPLATE = Path("/var/lib/migrator/bench-files")
"""On the file system on which bundles lie."""
ADDRESS = 100
SSH_CONFIG = """Host *
 StrictHostKeyChecking no
 UserKnownHostsFile /dev/null
 LogLevel ERROR
 ControlMaster auto
 ControlPersist 24h
 ControlPath /run/bench-%C
 Ciphers aes128-gcm@openssh.com
"""
"""For the peers: the cipher is the one that migrator chooses, and the connection is open before the move."""
FILL = """
import os, pathlib, sys
where, count, size = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    directory = where / f"d{number // 500:04d}"
    if number % 500 == 0:
        directory.mkdir(parents=True)
    (directory / f"f{number:06d}").write_bytes(os.urandom(size))
"""
LIST = """
import hashlib, os, sys
total = hashlib.sha256()
for directory, directories, files in os.walk(sys.argv[1]):
    directories.sort()
    if os.path.basename(directory) == "hot":
        continue
    for name in sorted(files):
        path = os.path.join(directory, name)
        about = os.lstat(path)
        total.update(f"{path[len(sys.argv[1]):]} {about.st_size} {about.st_mode}".encode())
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
print(total.hexdigest())
"""


class Stage:
    """A lab that is up and made ready. Used as the source `alpha` and the target `beta`."""

    def __init__(self, name: str, program: Path, packages: Sequence[str] = (), rate: str = "1gbit") -> None:
        self._program = program
        specs = tuple(HostSpec(host, memory_mb=MEMORY_MB, packages=tuple(packages)) for host in ("alpha", "beta"))
        self._topology = Topology(name, specs, rate=rate)
        self._numbers = count(1)
        self._template: tuple[int, int] = (0, 0)
        self._digest = ""
        self.generation = 0
        """Rises whenever the lab is made anew: what a way installed on its hosts is gone then."""

    @classmethod
    @contextlib.contextmanager
    def up(cls, name: str, program: Path, packages: Sequence[str] = (), rate: str = "1gbit") -> Iterator["Stage"]:
        """Bring it up, and take it down in the end. Raises BenchError when another bench holds the name."""
        with (Path(tempfile.gettempdir()) / f"migrator-bench-{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BenchError(f"another bench is using the lab {name}; wait for it, or give --lab NAME") from None
            stage = cls(name, program, packages, rate)
            try:
                stage.renew()
                yield stage
            finally:
                fleet.down(name)

    def renew(self) -> None:
        """A fresh lab, whatever state the last one is in."""
        self.lab = Lab.up(self._topology)
        self.source, self.target = self.lab.host("alpha"), self.lab.host("beta")
        self._template, self.generation = (0, 0), self.generation + 1
        for host in self.lab.hosts:
            shutil.copy(self._program, host.path("/usr/local/bin/pages"))
        self._open_ssh()
        for host in self.lab.hosts:
            self.migrator("host", "add", host.name)

    def _open_ssh(self) -> None:
        """The source's root may log in on the target, and a connection for that stands."""
        make = "mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && cat /root/.ssh/*.pub"
        public = self.source.run("sh", "-c", make).stdout
        self.target.run("sh", "-c", "mkdir -p -m 700 /root/.ssh && cat >> /root/.ssh/authorized_keys", text=public)
        self.source.path("/root/.ssh/config").write_text(SSH_CONFIG)
        self.source.run("ssh", "-fN", f"root@{self.target.address}")

    def migrator(self, *words: str, limit_s: float = 300) -> str:
        """Run the program of this checkout; its standard output. Raises BenchError with its error output."""
        command = CommandLine(self.lab.inventory, self.lab.directory / "journal.db")
        done = command.attempt(*words, limit_s=limit_s)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise BenchError(f"migrator {' '.join(words)} ended with {done.returncode}: {said}")
        return done.stdout

    # --- the VE ----------------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id that no VE of this lab had before."""
        return f"pages{next(self._numbers)}"

    def make_bundle(self, ve: str, workload: Workload, runtime: str) -> None:
        """The VE, stopped, on the source."""
        self._make_template(workload)
        words = ["python3", "-", ve, runtime, *self.lab.ve_addresses(ADDRESS), workload.argv()[0], "--"]
        self.source.run(*words, *workload.argv(), text=Path(bundles.__file__).read_text())
        self.source.run("cp", "-a", str(TEMPLATE), f"{bundles.BUNDLES}/{ve}/rootfs/files", limit_s=600)

    def _make_template(self, workload: Workload) -> None:
        wanted = (workload.files, workload.files_mb)
        if self._template == wanted:
            return
        size = workload.files_mb * 1_000_000 // max(1, workload.files)
        self.source.run("rm", "-rf", str(TEMPLATE))
        self.source.run("mkdir", "-p", f"{TEMPLATE}/hot")
        self.source.run("python3", "-c", FILL, str(TEMPLATE), str(workload.files), str(size), limit_s=600)
        self._template, self._digest = wanted, self.digest(self.source, str(TEMPLATE))

    def digest(self, host: Host, directory: str) -> str:
        """A hash over names, sizes, modes and contents of a VE's files, those that it rewrites left out."""
        return host.run("python3", "-c", LIST, directory, limit_s=600).stdout.strip()

    def files_are_right(self, directory: str) -> bool:
        """Whether the files at the target are the template's."""
        return self.digest(self.target, directory) == self._digest
