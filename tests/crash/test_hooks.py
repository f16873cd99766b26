"""The eyes of the crash tests: what a process does is seen without being listed, and it is killed where it was told."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.hooks import Order, Step, write_order
from tests.crash.nursery import Nursery
from tests.crash.run import CrashRun
from tests.wrapper_attempts import REPOSITORY

pytestmark = pytest.mark.daemon

# What somebody might add to the portal tomorrow.
_PROGRAM = """
import os, shutil, subprocess, sys
from pathlib import Path
from tests.crash.hooks import Watch
folder = Path(sys.argv[1])
Watch("web", str(folder)).install()
(folder / "new").mkdir()
(folder / "new" / "file").write_text("one")
(folder / "new" / "file").rename(folder / "new" / "other")
(folder / "new" / "link").symlink_to("other")
os.link(folder / "new" / "other", folder / "new" / "hard")
with (folder / "new" / "other").open() as file:
    os.fsync(file.fileno())
for _ in range(3):
    (folder / "new" / "other").chmod(0o600)
    (folder / "new" / "hard").unlink(missing_ok=True)
shutil.rmtree(folder / "new")
subprocess.run(["true"], check=True)
"""

_REMOVED_WITH_THE_FOLDER = (("remove", "other"), ("remove", "link"))
"""In the order in which the file system lists them."""


def run_program(folder: Path, order: Order | None = None) -> int:
    """The program above in this folder; how it ended."""
    folder.mkdir()
    if order is not None:
        write_order(folder, order)
    return subprocess.run([sys.executable, "-c", _PROGRAM, str(folder)], cwd=REPOSITORY, check=False).returncode


def steps(folder: Path) -> list[Step]:
    """What was seen of it."""
    nursery: Nursery = None  # type: ignore[assignment]  # nothing is started
    return CrashRun(folder, folder, nursery).steps()["web"]


def test_whatever_a_process_changes_is_seen_without_being_listed(tmp_path: Path) -> None:
    assert run_program(tmp_path / "run") == 0
    seen = [step for step in steps(tmp_path / "run") if step[1:3] not in _REMOVED_WITH_THE_FOLDER]
    assert [(step.kind, step.target) for step in seen] == [
        ("mkdir", "new"),
        ("open", "new/file"),
        ("rename", "new/file -> new/other"),
        ("symlink", "new/link"),
        ("link", "new/other -> new/hard"),
        ("fsync", "new/other"),
        ("chmod", "new/other"),
        ("remove", "new/hard"),
        ("chmod", "new/other"),  # since something new was done; the rounds that follow do nothing new
        ("rmdir", "new"),
        ("start", "true"),
    ]
    assert [step.occurrence for step in seen if step.kind == "chmod"] == [1, 2]


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (Step("web", "mkdir", "new", 1), [], ["new"]),
        (Step("web", "open", "new/file", 1), ["new"], ["new", "new/file"]),
        (Step("web", "rename", "new/file -> new/other", 1), ["new", "new/file"], ["new", "new/other"]),
        (Step("web", "rmdir", "new", 1), ["new"], []),
    ],
)
def test_it_is_killed_before_or_after_the_step(tmp_path: Path, step: Step, before: list[str], after: list[str]) -> None:
    for moment, expected in (("before", before), ("after", after)):
        folder = tmp_path / moment
        assert run_program(folder, Order(step, moment)) == -signal.SIGKILL
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert [path for path in left if path.startswith("new")] == expected


def test_it_is_killed_once(tmp_path: Path) -> None:
    """What is started again goes on past the point."""
    order = Order(Step("web", "start", "true", 1), "before")
    folder = tmp_path / "run"
    assert run_program(folder, order) == -signal.SIGKILL
    again = subprocess.run([sys.executable, "-c", _PROGRAM, str(folder)], cwd=REPOSITORY, check=False)
    assert again.returncode == 0
