"""Checkpoint images from the source's RAM to the target's, with a checksum for each file.

Format of the stream: per file a line of JSON {"name", "bytes"}, then the bytes; an empty line ends it; the receiver
answers one line of JSON, name -> SHA-256. Rule: the receiver takes plain file names only, into one directory.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from migrator.wire.faults import FaultCode, fault_error

CHUNK_BYTES = 1 << 20


def send(directory: Path, stream: IO[bytes], moved: Callable[[int], None]) -> dict[str, str]:
    """Write every file of `directory` to the stream; name -> SHA-256 of what was sent. `moved` is told of bytes."""
    manifest = {}
    for path in sorted(directory.iterdir()):
        if not path.is_file():
            continue
        size = path.stat().st_size
        stream.write(json.dumps({"name": path.name, "bytes": size}).encode() + b"\n")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)
                digest.update(chunk)
                moved(len(chunk))
        manifest[path.name] = digest.hexdigest()
    stream.write(b"\n")
    stream.flush()
    return manifest


def receive(directory: Path, stream: IO[bytes]) -> dict[str, str]:
    """Write what comes to `directory`; name -> SHA-256 of what came. Raises FaultError(CORRUPT) on a short stream."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    manifest = {}
    while line := stream.readline().strip():
        head = json.loads(line)
        name = plain(str(head["name"]))
        manifest[name] = _receive_file(directory / name, int(head["bytes"]), stream)
    return manifest


def plain(name: str) -> str:
    """The name, if it is one of a file in the directory itself. Raises FaultError(BAD_REQUEST)."""
    if "/" in name or name.startswith("."):
        raise fault_error(FaultCode.BAD_REQUEST, f"{name!r} is no name of an image")
    return name


def _receive_file(path: Path, size: int, stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size:
            chunk = stream.read(min(size, CHUNK_BYTES))
            if not chunk:
                raise fault_error(FaultCode.CORRUPT, f"the stream ended {size} bytes before the end of {path.name}")
            file.write(chunk)
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def verify(directory: Path, manifest: dict[str, str]) -> None:
    """Raises FaultError(CORRUPT) unless `directory` holds exactly what the manifest names, byte for byte."""
    present = {path.name for path in directory.iterdir() if path.is_file()} if directory.is_dir() else set()
    if missing := sorted(set(manifest) - present):
        raise fault_error(FaultCode.CORRUPT, f"images are missing: {', '.join(missing)}", step="check the images")
    for name, expected in manifest.items():
        with (directory / name).open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            raise fault_error(FaultCode.CORRUPT, f"image {name} is not what was sent", step="check the images")
