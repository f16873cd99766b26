"""The listing of a folder that a job filled: what is in it, in which order, and where it stops."""

import os
import time
from pathlib import Path

import pytest

from portal.node import listing
from portal.node.listing import Listing, list_files


def listed(folder: Path, first: tuple[str, ...] = (), without: tuple[str, ...] = (), seconds: float = 60) -> Listing:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return list_files(descriptor, first, without, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def test_what_was_named_comes_first_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/hits.tsv", "z"):
        (tmp_path / name).write_text(name)
    found = listed(tmp_path, ("deep/hits.tsv", "missing", "z", "../a", "deep"))
    assert [file[0] for file in found.files] == ["deep/hits.tsv", "z", "a"]
    assert [file[1] for file in found.files] == [13, 1, 1]
    assert not found.too_many


def test_names_that_are_left_out_are_so_whatever_they_are(tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "file").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "claim").touch()
    found = listed(tmp_path, ("claim/file",), ("claim",))
    assert [file[0] for file in found.files] == ["deep/claim"]


def test_links_are_neither_listed_nor_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(outside)
    (work / "file").symlink_to(outside / "secret")
    assert listed(work, ("link/secret", "file")).files == []


@pytest.mark.parametrize("limit", ["MOST_FILES", "MOST_ENTRIES"])
def test_there_is_an_end_to_it_and_the_named_ones_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(listing, limit, 5)
    for number in range(20):
        (tmp_path / f"file{number:02}").touch()
    found = listed(tmp_path, ("file19",))
    assert found.too_many
    assert found.files[0][0] == "file19"
    assert len(found.files) <= 6


def test_links_count_among_what_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_ENTRIES", 5)
    for number in range(20):
        (tmp_path / f"link{number}").symlink_to("nowhere")
    assert listed(tmp_path).too_many


def test_time_is_a_limit_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert listed(tmp_path, seconds=-1).too_many


def test_a_name_that_is_no_text_is_counted_and_not_listed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).touch()
    (tmp_path / "café").touch()
    found = listed(tmp_path)
    assert ([file[0] for file in found.files], found.odd_names) == (["café"], 1)
