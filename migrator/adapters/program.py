"""Builds the agent's program: one file with everything in it; a host needs Python and nothing else.

Rule: the same sources make the same bytes, and the file is named by their hash.
"""

import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

import agents
import migrator

DEPENDENCIES = (
    "attrs",
    "cattrs",
    "idna",
    "msgpack",
    "outcome",
    "pyroute2",
    "sniffio",
    "sortedcontainers",
    "structlog",
    "trio",
    "typing_extensions",
)
EPOCH = (2020, 1, 1, 0, 0, 0)
MAIN = "from agents.__main__ import main\nmain()\n"


def build() -> tuple[str, bytes]:
    """(name, content) of the program file."""
    members = dict(sorted(_members()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    data = b"#!/usr/bin/env python3\n" + buffer.getvalue()
    return f"migrator-agent-{hashlib.sha256(data).hexdigest()[:16]}.pyz", data


def _members() -> list[tuple[str, bytes]]:
    ours = [("__main__.py", MAIN.encode())]
    ours += _tree(Path(agents.__file__).parent, "agents")
    package = Path(migrator.__file__).parent
    ours += [("migrator/__init__.py", (package / "__init__.py").read_bytes())]
    ours += _tree(package / "wire", "migrator/wire")
    for dependency in DEPENDENCIES:
        for file in importlib.metadata.distribution(dependency).files or ():
            if file.suffix == ".py" and ".." not in file.parts and "tests" not in file.parts:
                ours.append((str(file), Path(str(file.locate())).read_bytes()))
    return ours


def _tree(directory: Path, name: str) -> list[tuple[str, bytes]]:
    return [(f"{name}/{path.relative_to(directory)}", path.read_bytes()) for path in directory.rglob("*.py")]
