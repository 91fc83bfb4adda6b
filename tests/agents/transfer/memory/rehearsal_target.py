"""Runs on the target host of a rehearsal: receives memory over TCP, restores lazily, says when it was filled.

`python3 rehearsal_target.py VE PORT MODE` (MODE lazy or eager); prints one line of JSON at the end.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

from agents.transfer.memory import images, streams
from agents.transfer.memory.lazy import LazyServer
from agents.transfer.memory.store import PageStore

IMAGES = Path("/dev/shm/rehearsal")


def receive_files(connection: socket.socket, ve: str) -> None:
    """The small images, and the files the VE has open."""
    shutil.rmtree(IMAGES, ignore_errors=True)
    with connection, connection.makefile("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall("/dev/shm/rehearsal-files", filter="fully_trusted")
    os.rename("/dev/shm/rehearsal-files/images", IMAGES)
    shutil.copytree("/dev/shm/rehearsal-files/data", f"/var/lib/migrator/ve/{ve}/rootfs/data", dirs_exist_ok=True)
    shutil.rmtree("/dev/shm/rehearsal-files")


def main() -> None:
    ve, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    listener = socket.create_server(("", port))
    print("listening", flush=True)
    memory, _ = listener.accept()
    store = PageStore(
        streams.reader(memory.fileno()), streams.writer(memory.fileno()), cap_bytes=int(sys.argv[4]) << 20
    )
    sealed = store.receive()
    control, _ = listener.accept()
    files, _ = listener.accept()
    receive_files(files, ve)
    with control.makefile("rb") as said:
        assert said.readline() == b"restore\n"
    began = time.perf_counter()
    spaces = store.spaces()
    held = store.held_bytes
    options = ["--image-path=" + str(IMAGES), "--work-path=" + str(IMAGES), "--manage-cgroups-mode=ignore"]
    config = IMAGES / "criu.conf"
    config.write_text("lazy-pages\n" if mode == "lazy" else "")
    filled: list[object] = []
    if mode == "lazy":
        server = LazyServer(IMAGES, IMAGES, spaces)
        thread = threading.Thread(target=lambda: filled.append(server.serve()), daemon=True)
        thread.start()
    else:
        images.compose(IMAGES, spaces)
        store.close()
    ready = time.perf_counter()
    done = subprocess.run(
        ["crun", "--cgroup-manager=cgroupfs", "restore", "-d", *options, "--file-locks", ve],
        cwd=f"/var/lib/migrator/ve/{ve}",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "CRIU_CONFIG_FILE": str(config)},
        check=False,
    )
    running = time.perf_counter()
    control.sendall(b"running\n" if done.returncode == 0 else b"failed\n")
    if mode == "lazy" and done.returncode == 0:
        thread.join(120)
        server.release()
        store.close()
    print(
        json.dumps(
            {
                "sealed": sealed,
                "restore_status": done.returncode,
                "prepare_s": round(ready - began, 4),
                "restore_s": round(running - ready, 4),
                "filled_s": round(time.perf_counter() - running, 4),
                "filled": [str(one) for one in filled],
                "wire_bytes": store.wire_bytes,
                "held_bytes": held,
            }
        ),
        flush=True,
    )


main()
