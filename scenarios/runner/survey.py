"""What is on a lab host now, as lines that can be compared with those of another moment.

Rule: runs inside the host with nothing but Python's standard library, changes nothing, and lists everything of a kind;
what every migration leaves on purpose (who has which VE, logs, the agent itself) is named in LEFT_OUT and nowhere else.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

WALKED = (
    "/etc/vz", "/vz", "/var/lib/vzctl", "/etc/vservers", "/vservers", "/var/cache/vservers", "/run/vservers",
    "/run/vshelper", "/etc/migrator", "/var/lib/migrator", "/run/migrator", "/root", "/srv", "/data", "/var/lock",
)  # fmt: skip
LEFT_OUT = re.compile(
    r"/vz/template|/var/lib/migrator/(agent|records|(keys|permitted|arriving|ve|openvz|vserver)$)|/run/migrator/"
    r"|/root/\.(ssh$|ssh/\.migrator\.lock|cache|local)|\.defaults/context\.next|/var/lock/vserver\.[A-Za-z0-9.]+$"
    r"|/etc/vz/lab-|__pycache__|/etc/vz/conf/[0-9]+\.[a-z]+\.destroyed|/var/lib/vzctl/[a-z]+$"
)
"""Records of who has a VE, logs, the agent's own, empty directories that are made once, lock files that tools leave, and
what `vzctl destroy` keeps of a configuration."""
GROUPS = ("vz-*", "vserver/*", "migrator/*")


def lines() -> Iterator[str]:
    """Everything."""
    yield from (f"file {path}" for top in WALKED for path in walked(top) if not LEFT_OUT.search(path))
    yield from (f"mount {line.split()[1]} {line.split()[2]}" for line in text("/proc/mounts").splitlines())
    yield from (f"address {line}" for line in addresses())
    yield from (f"link {name}" for name in sorted(os.listdir("/sys/class/net")))
    for version in ("-4", "-6"):
        yield from (f"route {line.strip()}" for line in said("ip", version, "route") if not line.startswith("fe80:"))
        yield from (f"rule {line.strip()}" for line in said("ip", version, "rule"))
        yield from (f"proxy {line.strip()}" for line in said("ip", version, "neigh", "show", "proxy"))
    yield from (f"filter {line.strip()}" for line in said("nft", "-s", "list", "ruleset"))
    yield from (f"group {path}" for shape in GROUPS for path in groups(shape))
    yield from (f"key {line.split()[-1]}" for line in text("/root/.ssh/authorized_keys").splitlines() if line.strip())


def groups(shape: str) -> list[Path]:
    """Control groups of VEs."""
    return [path for path in sorted(Path("/sys/fs/cgroup").glob(shape)) if path.is_dir()]


def walked(top: str) -> Iterator[str]:
    """Every path below a directory."""
    for directory, names, files in os.walk(top):
        names.sort()
        yield from (f"{directory}/{name}" for name in [*names, *sorted(files)])


def addresses() -> Iterator[str]:
    """DEVICE ADDRESS/PREFIX of all but link-local ones."""
    for line in said("ip", "-o", "address", "show"):
        words = line.split()
        if "link" not in words:
            yield f"{words[1]} {words[3]}"


def text(path: str) -> str:
    """A file's text; empty when it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def said(*words: str) -> list[str]:
    """A program's output; none when there is no such program."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    print(json.dumps([line.encode(errors="replace").decode() for line in lines()]))
