"""The oldest Python of the machine that nodes may have, for what runs there."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

OLDEST = (3, 6)
_ASK = "import sys; print(*sys.version_info[:3])"


@functools.cache
def oldest_python() -> tuple[Path, tuple[int, ...]]:
    """Its path and version, under pyenv or on PATH; skips the test where there is none."""
    versions = {python: _version(python) for python in _candidates()}
    usable = {python: version for python, version in versions.items() if version and version >= OLDEST}
    if not usable:
        pytest.skip("needs a Python from 3.6 to 3.12, under pyenv or on PATH")
    oldest = min(usable, key=lambda python: usable[python])
    return oldest, usable[oldest]


def _candidates() -> Iterator[Path]:
    pyenv = shutil.which("pyenv")
    if pyenv:
        root = subprocess.run([pyenv, "root"], check=False, stdout=subprocess.PIPE, text=True).stdout.strip()
        yield from Path(root).glob("versions/*/bin/python")
    for minor in range(6, 13):
        found = shutil.which(f"python3.{minor}")
        if found:
            yield Path(found)


def _version(python: Path) -> tuple[int, ...] | None:
    """What it says itself; None where it does not run (a shim of pyenv may name a version not in use)."""
    answer = subprocess.run([python, "-c", _ASK], check=False, capture_output=True, text=True)
    return tuple(int(part) for part in answer.stdout.split()) if answer.returncode == 0 else None
