"""What is on a lab host now, as lines that can be compared with those of another moment.

Rule: runs inside the host with nothing but Python's standard library (`python3 - GROUP PLACE ROOT`: the VE's cgroup, a
directory that is there while the VE is, and its files), changes nothing, and knows nothing
of what a migration leaves behind: it lists everything of a kind, and what was not there before is found by comparing.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WALKED = (
    "/var/lib/migrator", "/run", "/tmp", "/var/tmp", "/dev/shm", "/root", "/etc/ssh", "/etc/rc2.d", "/var/crash",
    "/vz", "/etc/vz", "/var/lib/vzctl", "/etc/vservers", "/vservers", "/var/cache/vservers", "/var/lib/vserver-emulation",
)  # fmt: skip
NOT_WALKED = ("/rootfs", "/run/sshd", "/run/lock", "/vz/template", "/vz/root/101", "/vservers/.templates")
GROUPS = Path("/sys/fs/cgroup")
OF_VES = ("/migrator/", "/vz-", "/vserver/")
"""Beginnings of VEs' cgroups."""
RECORDS = Path("/var/lib/migrator/records")
SUPERVISOR = re.compile("agent/current install$")
"""The supervisor keeps the words of whoever made it: the installation, or later the boot script."""


def lines(place: str, root: str) -> Iterator[str]:
    """Everything but the VE's own processes, and what the records say."""
    yield from processes()
    yield from (f"mount {line.split()[1]} {line.split()[2]}" for line in text("/proc/mounts").splitlines())
    yield from links()
    yield from (f"route {line}" for line in said("ip", "route") + said("ip", "-6", "route"))
    yield from (f"rule {line}" for line in said("ip", "rule"))
    yield from (f"nft {line.strip()}" for line in said("nft", "list", "ruleset"))
    yield from (f"namespace {entry}" for entry in listed("/run/netns"))
    yield from (f"cgroup {path}" for path in groups())
    yield from (f"key {line.split()[-1]}" for line in text("/root/.ssh/authorized_keys").splitlines())
    yield from (f"socket {line.split()[-1]}" for line in text("/proc/net/unix").splitlines() if "/" in line)
    yield from (f"file {path}" for top in WALKED for path in walked(top, root))
    yield from (f"lock {line.split()[1:5]}" for line in text("/proc/locks").splitlines() if "->" in line)
    autostart = Path(place, "autostart").exists()
    yield from ["autostart on"] if autostart else []


def processes() -> Iterator[str]:
    """Every process outside VEs but this one and those that lead to it."""
    mine = ancestors()
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        group = text(entry / "cgroup").strip().rsplit(":", 1)[-1]
        words = text(entry / "cmdline").replace("\0", " ").strip()
        if int(entry.name) not in mine and not group.startswith(OF_VES) and words:
            yield f"process {SUPERVISOR.sub('agent/current supervise', words)[:200]}"


def ancestors() -> set[int]:
    """This process and those it comes from, process 1 excepted."""
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        pid = int(text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[1])
    return found


def links() -> Iterator[str]:
    """Network interfaces with what they are joined to."""
    for entry in sorted(Path("/sys/class/net").iterdir()):
        master = entry / "master"
        yield f"link {entry.name} {'in ' + master.resolve().name if master.exists() else 'alone'}"


def walked(top: str, root: str) -> Iterator[str]:
    """Every path below a directory, VEs' own files excepted."""
    for directory, names, files in os.walk(top):
        names[:] = sorted(name for name in names if not f"{directory}/{name}".endswith((*NOT_WALKED, root)))
        yield from (f"{directory}/{name}" for name in [*names, *sorted(files)])


def text(path: str | Path) -> str:
    """A file's text; empty when it cannot be read (processes go away)."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def listed(directory: str) -> list[str]:
    """Names in a directory; none when there is no directory."""
    return sorted(os.listdir(directory)) if Path(directory).is_dir() else []


def said(*words: str) -> list[str]:
    """A program's output."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()


def groups() -> list[Path]:
    """The cgroups of VEs; the parents that all of a kind share stay, and belong to nobody."""
    shared = [path for name in ("migrator", "vserver") for path in (GROUPS / name).rglob("*")]
    containers = [path for top in GROUPS.glob("vz-*") for path in [top, *top.rglob("*")]]
    return sorted(path for path in [*shared, *containers] if path.is_dir())


def copy_of(of: str, place: str) -> dict[str, object]:
    """How the VE is here: its processes, and whether they run."""
    group = GROUPS / of
    events = dict(line.split() for line in text(group / "cgroup.events").splitlines())
    inside = [int(word) for path in [group, *group.rglob("*")] for word in text(path / "cgroup.procs").split()]
    return {
        "populated": events.get("populated") == "1",
        "frozen": events.get("frozen") == "1",
        "processes": [text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:80] for pid in inside],
        "bundle": Path(place).is_dir(),
    }


def records() -> dict[str, object]:
    """Every record there is, as it stands on disk."""
    return {path.stem: json.loads(text(path) or "{}") for path in sorted(RECORDS.glob("*.json"))}


if __name__ == "__main__":
    its_group, its_place, its_root = sys.argv[1:]
    found = {"lines": list(lines(its_place, its_root)), "copy": copy_of(its_group, its_place), "records": records()}
    print(json.dumps(found))
