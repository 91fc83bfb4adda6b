"""Runs on the source host of a rehearsal: rounds, freeze, dump under the veil, last round, restore at the target.

`python3 rehearsal_source.py VE TARGET_ADDRESS PORT METHOD ROUNDS`; prints one line of JSON. The VE on the source is
killed once the target says that it runs, thawed otherwise.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from agents.transfer.memory import streams, veil
from agents.transfer.memory.port import Method
from agents.transfer.memory.source import SourceSession

IMAGES = Path("/dev/shm/rehearsal")


def main() -> None:
    ve, address, port, method, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    init = int(json.loads(Path(f"/run/crun/{ve}/status").read_text())["pid"])
    group = Path("/sys/fs/cgroup") / Path(f"/proc/{init}/cgroup").read_text().split("::")[1].strip().lstrip("/")
    group = group if (group / "cgroup.procs").exists() else Path(f"/sys/fs/cgroup/migrator/{ve}")
    memory = socket.create_connection((address, port))
    memory.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def processes() -> list[int]:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]

    session = SourceSession(
        init,
        processes,
        streams.writer(memory.fileno()),
        streams.reader(memory.fileno()),
        method=Method(method),
        shadow_cap_bytes=2 << 30,
    )
    told = []
    for _ in range(rounds):
        stats = session.round()
        told.append(
            {"pages": stats.pages, "wire": stats.wire_bytes, "s": round(stats.duration_s, 3), "notes": stats.notes}
        )
        time.sleep(0.2)
    runner = veil.Runner()
    shutil.rmtree(IMAGES, ignore_errors=True)
    IMAGES.mkdir()
    control = socket.create_connection((address, port))

    began = time.perf_counter()
    times: dict[str, float] = {}

    def mark(name: str) -> None:
        times[name] = round(time.perf_counter() - began, 4)

    (group / "cgroup.freeze").write_text("1")
    while "frozen 1" not in (group / "cgroup.events").read_text():
        pass
    mark("frozen")
    look = session.last_look()
    mark("look")
    veils = [veil.cover(process, Path("/dev/shm"))[0] for process in look.processes]
    mark("cover")
    dump = runner.run(
        ["crun", "--cgroup-manager=cgroupfs", "checkpoint", "--leave-running", f"--image-path={IMAGES}",
         "--manage-cgroups-mode=ignore", "--file-locks", ve],
        veils,
        veil.environment((4, 1)),
    )  # fmt: skip
    last = session.send_last(look)
    mark("sealed")
    assert dump.stdout is not None
    output = dump.stdout.read()
    status = dump.wait()
    mark("dumped")
    pages = sum(path.stat().st_size for path in IMAGES.glob("pages-*.img"))
    with (
        socket.create_connection((address, port)) as files,
        files.makefile("wb") as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        archive.add(IMAGES, "images")
        archive.add(f"/var/lib/migrator/ve/{ve}/rootfs/data", "data")
    mark("images copied")
    control.sendall(b"restore\n")
    with control.makefile("rb") as said:
        answer = said.readline().strip().decode()
    mark("answer")
    session.undo()
    for one in veils:
        os.unlink(one.path)
    if answer == "running":
        subprocess.run(
            ["crun", "--cgroup-manager=cgroupfs", "delete", "-f", ve], check=False, stdout=subprocess.DEVNULL
        )
    (group / "cgroup.freeze").exists() and (group / "cgroup.freeze").write_text("0")
    print(
        json.dumps(
            {
                "rounds": told,
                "changed": look.changed_bytes,
                "last": last.pages,
                "last_s": last.duration_s,
                "dump": status,
                "output": output.decode()[-300:],
                "pages_image": pages,
                "times": times,
                "answer": answer,
                "content": sum(0 for _ in ()),
            }
        )
    )


main()
