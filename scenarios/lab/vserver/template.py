"""Guest templates for the emulated util-vserver: a tarball with a shell, a few of the host's programs and one service.

Rule: what is in a template is what is on the host; a guest made of it is a real root that real processes run in.
"""

import io
import shlex
import tarfile
from dataclasses import dataclass

from scenarios.lab.hosts import Host

TEMPLATES = "/vservers/.templates"
BUSY = ("sh", "cat", "ls", "sleep", "mkdir", "rm", "touch", "hostname", "ps", "sed", "id", "dd", "sync")
RC = """#!/bin/sh
# Both run levels of a guest: 3 starts the service, 6 ends it.
case $1 in
6) exec /etc/service stop ;;
*) exec /etc/service start ;;
esac
"""
INIT = """#!/bin/sh
# For guests of style `plain`: the service below an init that SIGINT ends.
trap '/etc/service stop; exit 0' INT
/etc/service start
while :; do sleep 0.1; done
"""
COUNTER = """#!/bin/sh
# One process that counts, and ends when it is told to.
case $1 in
start) (trap 'rm -f /service.pid; exit 0' TERM; n=0
        while :; do n=$((n + 1)); echo $n > /service.count; sleep 0.1; done) < /dev/null > /dev/null 2>&1 &
       echo $! > /service.pid ;;
stop)  kill $(cat /service.pid) && while [ -e /service.pid ]; do sleep 0.02; done ;;
esac
"""
REDIS = """#!/bin/sh
# A redis server that answers on the addresses in /etc/redis.bind and keeps what it acknowledged.
case $1 in
start) exec redis-server --bind $(cat /etc/redis.bind) --port 6379 --daemonize yes --pidfile /service.pid \\
            --protected-mode no --dir /data --save '' --appendonly yes --appendfsync always --logfile /data/log ;;
stop)  kill $(cat /service.pid) && while [ -e /service.pid ]; do sleep 0.02; done ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Template:
    """What a guest is made of."""

    name: str
    service: str
    programs: tuple[str, ...] = BUSY
    directories: tuple[str, ...] = ("tmp", "data", "proc", "dev", "var/run", "var/lock", "mnt", "srv")

    @property
    def path(self) -> str:
        """Where it lies on a host."""
        return f"{TEMPLATES}/{self.name}.tar"


SMALL = Template("small", COUNTER)
SERVER = Template("redis", REDIS, (*BUSY, "redis-server"))


def make(host: Host, template: Template = SMALL) -> str:
    """Put a template's tarball on the host; its path there."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        for directory in template.directories:
            _add(out, tarfile.DIRTYPE, directory, mode=0o1777 if directory == "tmp" else 0o755)
        for link, target in (("bin", "usr/bin"), ("sbin", "usr/sbin")):
            _add(out, tarfile.SYMTYPE, link, target=target)
        files = {"etc/init.d/rc": RC, "usr/sbin/init": INIT, "etc/service": template.service}
        for path, text in files.items():
            _add(out, tarfile.REGTYPE, path, text.encode(), mode=0o755)
        _add(out, tarfile.REGTYPE, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        for path in _closure(host, template.programs):
            _add(out, tarfile.REGTYPE, path.lstrip("/"), host.path(path).read_bytes(), mode=0o755)
    place = host.path(template.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(archive.getvalue())
    return template.path


def _add(
    out: tarfile.TarFile, kind: bytes, path: str, content: bytes = b"", *, mode: int = 0o644, target: str = ""
) -> None:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(content), target
    out.addfile(info, io.BytesIO(content))


def _closure(host: Host, programs: tuple[str, ...]) -> list[str]:
    """The programs' files and the libraries they name."""
    script = (
        f"for p in {shlex.join(programs)}; do f=$(type -P $p) || {{ echo no $p >&2; exit 1; }}; echo $f; "
        "ldd $f 2>/dev/null | grep -o '/[^ ]*'; done | sort -u"
    )
    return host.run("bash", "-o", "pipefail", "-c", script).stdout.split()
