"""Makes OCI bundles on a lab host: the files of a VE with a real service in it.

Rule: a bundle is what any user of the `oci` engine would make: config.json, rootfs, network.json; nothing is special
about the lab. Runs inside the host with nothing but Python's standard library:
`python3 - ID RUNTIME IPV4 IPV6 PROGRAM... -- ARGUMENT...`; a program `*.py` is put below /srv, with Python itself.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

BUNDLES = Path("/var/lib/migrator/ve")
CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
]  # fmt: skip


def make(ve: str, runtime: str, address: str, address6: str, args: list[str], programs: list[str]) -> None:
    """Write the bundle of one VE: `args` is its first process, `programs` are copied in with all they need."""
    bundle = BUNDLES / ve
    rootfs = bundle / "rootfs"
    for part in ("proc", "sys", "dev", "tmp", "data", "etc", "run"):
        (rootfs / part).mkdir(parents=True, exist_ok=True)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    for program in programs:
        if program.endswith(".py"):
            copy_python(program, rootfs)
        else:
            copy_program(program, rootfs)
    (bundle / "config.json").write_text(json.dumps(config(ve, runtime, args), indent=1))
    number = address.split("/", maxsplit=1)[0].split(".")
    interface = {
        "name": "eth0",
        "mac": "02:" + ":".join(f"{int(part):02x}" for part in number) + ":01",
        "host_name": f"ve-{ve}"[:15],
        "bridge": "br0",
        "mtu": 1500,
        "addresses": [address, address6],
        "routes": [],
    }
    (bundle / "network.json").write_text(json.dumps({"interfaces": [interface]}, indent=1))


def copy_program(program: str, rootfs: Path) -> None:
    """A program and the shared libraries it names, at the same paths."""
    listed = ""
    if not program.endswith(".py"):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    paths = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    for path in [program, *paths]:
        into = rootfs / path.lstrip("/")
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), into)


def copy_python(script: str, rootfs: Path) -> None:
    """A script that knows its modules (`--modules`), those modules, and the interpreter."""
    (rootfs / "srv").mkdir(exist_ok=True)
    shutil.copy(script, rootfs / "srv")
    python = os.path.realpath(sys.executable)
    copy_program(python, rootfs)
    listed = subprocess.run(
        [python, "-I", "-S", script, "--modules"], capture_output=True, text=True, check=True
    ).stdout
    # It finds its library by os.py, and decodes with modules that it names only when it needs them.
    for module in [*json.loads(listed), os.__file__, *map(str, Path(os.__file__).parent.glob("encodings/*.py"))]:
        copy_program(module, rootfs)
    (rootfs / "usr/bin/python3").unlink(missing_ok=True)
    (rootfs / "usr/bin/python3").symlink_to(python)


def config(ve: str, runtime: str, args: list[str]) -> dict[str, object]:
    """The runtime's description: own namespaces, network by name, no terminal, no rlimits."""
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    return {
        "ociVersion": "1.0.0",
        "annotations": {"org.migrator.runtime": runtime},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": ve,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", **tmpfs, "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/shm", **tmpfs, "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/run", **tmpfs, "options": ["nosuid", "nodev", "mode=755"]},
        ],
        "linux": {
            "cgroupsPath": f"/migrator/{ve}",
            "namespaces": [
                {"type": "pid"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
                {"type": "network", "path": f"/run/netns/{ve}"},
            ],
        },
    }


if __name__ == "__main__":
    name, tool, ipv4, ipv6, *rest = sys.argv[1:]
    split = rest.index("--")
    make(name, tool, ipv4, ipv6, rest[split + 1 :], rest[:split])
