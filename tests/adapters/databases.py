"""Databases for the journal's contract: a SQLite file, and a PostgreSQL server of the test run's own.

Rule: the server runs as an ordinary user in a temporary directory, listens on a socket there and on no port, and is gone
afterwards.
"""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USERS = ("postgres", "nobody")
"""Who may run the server when the tests run as root, which it refuses to do."""


def _programs() -> Path:
    """Where initdb and pg_ctl are; skips where they are not."""
    found = [Path(each).parent for each in sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    if (at := shutil.which("initdb")) is not None:
        found.append(Path(at).resolve().parent)
    if not found:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    return found[0]


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {each.pw_name for each in pwd.getpwall()}
    return next(name for name in USERS if name in names)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a database on a fresh server."""
    pytest.importorskip("psycopg", reason="pip install 'migrator[postgres]'")
    programs, user = _programs(), _user()
    with tempfile.TemporaryDirectory(prefix="migrator-pg-") as top:
        if user is not None:
            shutil.chown(top, user)

        def run(*words: str) -> None:
            done = subprocess.run(words, user=user, cwd=top, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

        data, log = f"{top}/data", f"{top}/log"
        run(f"{programs}/initdb", "-D", data, "-A", "trust", "-U", "migrator", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-c listen_addresses='' -c unix_socket_directories={top} -c fsync=off"
        # Its output goes to a file: a server that keeps our pipe open would never let `run` return.
        run(f"{programs}/pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql+psycopg://migrator@/postgres?host={top}"
        finally:
            run(f"{programs}/pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
