"""A PostgreSQL server of its own for a test, on a socket in a temporary folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Its address for `portal.database_url`; the server and its data are gone at the end."""
    programs = _programs()
    # A short path: a socket's may have at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="portal-pg-"))
    data = folder / "data"
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        _run(programs, folder, "initdb", "-D", str(data), "-A", "trust", "-U", "portal", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        _run(programs, folder, "pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            _run(programs, folder, "createdb", "-h", str(folder), "-U", "portal", "portal")
            yield f"postgresql+psycopg://portal@/portal?host={folder}"
        finally:
            _run(programs, folder, "pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Debian keeps the server's programs in a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("Debian's package postgresql is not installed")
    return found[-1].parent


def _run(programs: Path, folder: Path, name: str, *arguments: str) -> None:
    # The server refuses to run as root.
    account = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    subprocess.run(
        [str(programs / name), *arguments],
        cwd=folder,
        user=account,
        group=account,
        extra_groups=[] if account else None,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=60,
    )
