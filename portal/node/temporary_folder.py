"""A private folder for the program's temporary files, gone when the wrapper is."""

import os
import shutil
import tempfile
from typing import Mapping


def make_temporary_folder(environ: Mapping[str, str]) -> str:
    """A new folder (0700) under the scheduler's TMPDIR, or /tmp where that is none; may raise OSError."""
    base = environ.get("TMPDIR", "")
    if not os.path.isabs(base) or not os.path.isdir(base):
        base = "/tmp"  # noqa: S108 - the folder made in it is private
    return tempfile.mkdtemp(prefix="portal-", dir=base)


def remove_temporary_folder(path: str) -> None:
    """Remove it with all that is in it, as far as that can be done; raises nothing."""
    for folder, names, _ in os.walk(path):
        # Some programs (Go's module cache) take the right to write from their own folders.
        for name in names:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                _make_writable(inner)
    shutil.rmtree(path, ignore_errors=True)


def _make_writable(folder: str) -> None:
    try:
        os.chmod(folder, 0o700)
    except OSError:
        pass
