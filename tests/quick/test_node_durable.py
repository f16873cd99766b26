"""Files are whole or absent, have the modes that were asked for, and leave no rubbish beside them."""

import os
import stat
import threading
from pathlib import Path

import pytest

from portal.node import durable, output_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_and_mode_do_not_depend_on_what_was_there_or_on_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a long old content")
    before = os.umask(0o777)
    try:
        durable.write_durably(path, b"new", 0o750)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "status.json").symlink_to("precious")
    durable.write_durably(tmp_path / "status.json", b"{}")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "status.json").is_symlink()


def test_after_a_failure_the_old_content_is_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_durably(path, b"new")
    with pytest.raises(OSError, match="No space"):
        durable.create_exclusively(tmp_path / "other", b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "SUCCESS").mkdir()
    with pytest.raises(OSError):
        durable.write_durably(tmp_path / "SUCCESS", b"")
    assert names(tmp_path) == ["SUCCESS"]


def test_of_many_who_create_one_wins_and_all_see_its_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    together = threading.Barrier(16)
    results: list[tuple[int, bool, bytes]] = []

    def create(number: int) -> None:
        together.wait()
        won = durable.create_exclusively(path, f"number {number}".encode())
        results.append((number, won, path.read_bytes()))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [number for number, won, _ in results if won]
    assert {content for _, _, content in results} == {f"number {winner}".encode()}
    assert names(tmp_path) == ["claim"]


def test_an_answer_that_nfs_lost_does_not_lose_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_and_lose_the_answer(source: str, target: str) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    assert durable.create_exclusively(tmp_path / "claim", b"mine")


def test_fsync_file_refuses_links_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    durable.fsync_file(tmp_path / "file")
    for name in ("link", "missing"):
        with pytest.raises(OSError):
            durable.fsync_file(tmp_path / name)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder with one good output, and with what a program might leave to get at other files."""
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "hits.tsv").write_text("hits")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (folder / "out").symlink_to("../outside")
    (folder / "link").symlink_to("sub/hits.tsv")
    os.mkfifo(folder / "fifo")
    return folder


def test_a_declared_output_is_made_durable(work: Path) -> None:
    assert output_files.fsync_output(str(work), "sub/hits.tsv")


@pytest.mark.parametrize("path", ["missing", "missing/x", "out/secret", "link", "fifo", "sub", "link/x"])
def test_what_is_not_a_regular_file_within_the_work_folder_is_left_alone(work: Path, path: str) -> None:
    assert not output_files.fsync_output(str(work), path)


def test_an_output_that_does_not_get_to_the_disk_is_an_error(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        output_files.fsync_output(str(work), "sub/hits.tsv")
