"""Removing what a hostile job left: all of it goes, and nothing outside its folder is touched."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.jobs.removal import remove_put_away

SECONDS = 20.0
NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody else's folder, which must look the same afterwards."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    (folder / "precious").write_text("precious")
    (folder / "inner" / "more").write_text("more")
    (folder / "inner").chmod(0o750)
    return folder


@pytest.fixture
def doomed(tmp_path: Path) -> Path:
    """A job's directory that was put away."""
    folder = tmp_path / "jobs" / ".deleted-tcfnctbq"
    for number in (1, 2):
        (folder / "attempts" / str(number) / "work").mkdir(parents=True)
        (folder / "attempts" / str(number) / "job.sh").touch()
    (folder / "inputs").mkdir()
    (folder / "config.ini").touch()
    (folder / "SUCCESS").touch()
    (folder / "output.txt").symlink_to("attempts/2/work/output.txt")
    return folder


def picture(folder: Path) -> list[tuple[str, int, int, str]]:
    """All that can be seen of a tree."""
    return [
        (str(path.relative_to(folder)), path.lstat().st_mode, path.lstat().st_nlink, _content(path))
        for path in sorted(folder.rglob("*"))
    ]


def _content(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def links_everywhere(work: Path, outside: Path) -> None:
    (work / "to a folder").symlink_to(outside)
    (work / "to a file").symlink_to(outside / "precious")
    (work / "up").symlink_to("../../../../..")
    (work / "in a circle").symlink_to("in a circle")
    (work / "dangling").symlink_to("/nowhere")
    (work / "deep").mkdir()
    (work / "deep" / "to a folder").symlink_to(outside, target_is_directory=True)


def odd_names(work: Path, _outside: Path) -> None:
    for name in (b"\xff\xfe not utf-8", b"new\nline", b"-rf", b"*", b"a" * 255, "ünïcödé".encode()):
        (Path(os.fsdecode(bytes(os.fsencode(work)) + b"/" + name))).touch()
    (Path(os.fsdecode(bytes(os.fsencode(work)) + b"/\xff folder"))).mkdir()
    (Path(os.fsdecode(bytes(os.fsencode(work)) + b"/\xff folder")) / "x").touch()


def pipes(work: Path, _outside: Path) -> None:
    os.mkfifo(work / "pipe")
    (work / "folder").mkdir()
    os.mkfifo(work / "folder" / "pipe")


def very_deep(work: Path, _outside: Path) -> None:
    """Deeper than any path may be long."""
    descriptor = os.open(work, os.O_RDONLY)
    for _ in range(700):
        os.mkdir("folder", dir_fd=descriptor)
        below = os.open("folder", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def many_files(work: Path, _outside: Path) -> None:
    for number in range(300):
        (work / f"file{number}").touch()


def closed_folders(work: Path, _outside: Path) -> None:
    for mode in (0o000, 0o100, 0o400, 0o500):
        (work / f"{mode:o}" / "inner").mkdir(parents=True)
        (work / f"{mode:o}" / "file").touch()
        (work / f"{mode:o}").chmod(mode)
    (work / "file").touch(mode=0o000)


@pytest.mark.parametrize("leave", [links_everywhere, odd_names, pipes, very_deep, many_files, closed_folders])
def test_whatever_a_job_left_goes(doomed: Path, outside: Path, leave: Callable[[Path, Path], None]) -> None:
    leave(doomed / "attempts" / "1" / "work", outside)
    before = picture(outside)
    remove_put_away(doomed, None, SECONDS)
    assert list(doomed.parent.iterdir()) == []
    assert picture(outside) == before


def test_a_file_with_a_second_name_elsewhere_keeps_that_name(doomed: Path, outside: Path) -> None:
    os.link(outside / "precious", doomed / "attempts" / "1" / "work" / "mine now")
    remove_put_away(doomed, None, SECONDS)
    assert (outside / "precious").read_text() == "precious"


@pytest.mark.parametrize("step", ["", "attempts", "attempts/1", "attempts/1/work", "inputs"])
def test_a_link_in_place_of_any_folder_is_removed_and_not_followed(doomed: Path, outside: Path, step: str) -> None:
    """With one account for portal and jobs, a job can replace its own folders."""
    (outside / "1" / "work").mkdir(parents=True)
    (outside / "1" / "work" / "precious").touch()
    (outside / "work").mkdir()
    (outside / "work" / "precious").touch()
    before = picture(outside)
    path = doomed / step if step else doomed
    path.rename(doomed.parent / "moved")
    path.symlink_to(outside)
    remove_put_away(doomed, None, SECONDS)
    assert not os.path.lexists(doomed)
    assert picture(outside) == before


@pytest.mark.thorough
def test_folders_that_become_links_while_they_are_deleted_lead_nowhere(doomed: Path, outside: Path) -> None:
    """A program that is still at work swaps folders for links as fast as it can."""
    work = doomed / "attempts" / "1" / "work"
    before = picture(outside)
    is_over = threading.Event()

    def swap() -> None:
        turn = 0
        while not is_over.is_set():
            turn += 1
            folder = work / f"folder{turn % 7}"
            try:
                (folder / "inner" / "more").mkdir(parents=True, exist_ok=True)
                folder.rename(work / f"aside{turn}")
                folder.symlink_to(outside)
            except OSError:
                continue

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                remove_put_away(doomed, None, 0.5)
            except OSError:
                continue  # it fills up as fast as it is emptied
    finally:
        is_over.set()
        swapper.join()
    remove_put_away(doomed, None, SECONDS)
    assert not doomed.exists()
    assert picture(outside) == before


def test_one_that_was_cut_off_goes_on(doomed: Path, outside: Path) -> None:
    many_files(doomed / "attempts" / "2" / "work", outside)
    with pytest.raises(TimeoutError):
        remove_put_away(doomed, None, -1)
    assert doomed.exists()
    remove_put_away(doomed, None, SECONDS)
    remove_put_away(doomed, None, SECONDS)
    assert not doomed.exists()


def test_what_this_account_may_not_delete_is_said(doomed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (doomed / "attempts" / "1" / "work" / "file").touch()

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("portal.node.deletion.os.unlink", refuse)
    with pytest.raises(PermissionError, match="another account"):
        remove_put_away(doomed, None, SECONDS)
    assert (doomed / "attempts" / "1" / "work" / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another account")
def test_an_account_without_privileges_gets_into_the_folders_that_it_closed() -> None:
    """Root is never refused; the portal's account is, by its own folders that a job closed."""
    folder = Path(tempfile.mkdtemp(prefix="portal-test-"))
    try:
        doomed = folder / ".deleted-tcfnctbq"
        work = doomed / "attempts" / "1" / "work"
        work.mkdir(parents=True)
        closed_folders(work, folder)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with contextlib.suppress(BaseException):
                remove_put_away(doomed, None, SECONDS)
                os._exit(0)
            os._exit(1)
        _, wait_status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(wait_status) == 0
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def mounted(doomed: Path, outside: Path) -> Iterator[Path]:
    """A part of the same file system, mounted once more where a job left a folder."""
    point = doomed / "attempts" / "1" / "work" / "mounted"
    point.mkdir()
    subprocess.run(["mount", "--bind", outside, point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_what_is_mounted_there_is_not_emptied(doomed: Path, mounted: Path, outside: Path) -> None:
    before = picture(outside)
    with pytest.raises(OSError, match=r"another file system is mounted there|busy"):
        remove_put_away(doomed, None, SECONDS)
    assert picture(outside) == before
    assert (mounted / "precious").exists()
