"""What files lie in a folder that somebody hostile filled: names, sizes and times, within limits of number and time."""

import os
import stat
import time
from typing import Dict, List, Optional, Sequence, Set, Tuple  # noqa: F401 - some stand in comments only

MOST_FILES = 10000
MOST_ENTRIES = 100000
"""Looked at, whatever they are: links and pipes cost time, too."""
MOST_DEPTH = 16
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Listed = Tuple[str, int, int]
"""Path relative to the folder, size in bytes, time of its last change in whole seconds."""


class Listing:
    """What was found. Links, pipes and the like are not: they are nobody's results."""

    def __init__(self) -> None:
        self.files = []  # type: List[Listed]
        self.too_many = False
        """There are more than are listed."""
        self.too_deep = 0
        """Folders that were not looked into, since they lie too deep."""
        self.unreadable = 0
        """Folders that cannot be read."""
        self.odd_names = 0
        """Files and folders whose name is no text."""

    def as_fields(self) -> Dict[str, object]:
        return {
            "files": [list(file) for file in self.files],
            "too_many": self.too_many,
            "too_deep": self.too_deep,
            "unreadable": self.unreadable,
            "odd_names": self.odd_names,
        }


def list_files(folder: int, first: Sequence[str], without: Sequence[str], deadline: float) -> Listing:
    """The regular files below an open folder: those named in `first` before all others, and then as they come.

    `without` are names at its top that are left out, whatever they are. Where `deadline`, on the monotonic clock, comes
    first, there are too many. OSError where the folder itself cannot be read.
    """
    walk = _Walk(folder, without, deadline)
    walk.take_named(first)
    walk.look_into("", 1)
    while walk.pending and not walk.listing.too_many:
        path, depth = walk.pending.pop(0)
        try:
            walk.look_into(path, depth)
        except OSError:
            walk.listing.unreadable += 1
    return walk.listing


class _Walk:
    def __init__(self, top: int, without: Sequence[str], deadline: float) -> None:
        self.listing = Listing()
        self.pending = []  # type: List[Tuple[str, int]]
        self._top = top
        self._without = without
        self._deadline = deadline
        self._named = set()  # type: Set[str]
        self._entries = 0

    def take_named(self, paths: Sequence[str]) -> None:
        for path in paths:
            file = _named(self._top, path)
            if file is not None and path.split("/")[0] not in self._without and path not in self._named:
                self._named.add(path)
                self.listing.files.append(file)

    def look_into(self, path: str, depth: int) -> None:
        for name, facts in _entries(self._top, path):
            self._entries += 1
            if self._is_too_much():
                self.listing.too_many = True
                return
            if path or name not in self._without:
                self._take("{}/{}".format(path, name) if path else name, facts, depth)

    def _is_too_much(self) -> bool:
        is_full = self._entries > MOST_ENTRIES or len(self.listing.files) >= MOST_FILES
        return is_full or time.monotonic() > self._deadline

    def _take(self, path: str, facts: os.stat_result, depth: int) -> None:
        is_folder = stat.S_ISDIR(facts.st_mode)
        if not is_folder and not stat.S_ISREG(facts.st_mode):
            return
        text = _text(path)
        if text is None:
            self.listing.odd_names += 1
        elif not is_folder:
            if path not in self._named:
                self.listing.files.append((text, facts.st_size, int(facts.st_mtime)))
        elif depth >= MOST_DEPTH:
            self.listing.too_deep += 1
        else:
            self.pending.append((path, depth + 1))


def _entries(top: int, path: str) -> List[Tuple[str, os.stat_result]]:
    descriptor = _open_folder(top, path)
    try:
        found = []
        for name in os.listdir(descriptor)[: MOST_ENTRIES + 1]:
            try:
                found.append((name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)))
            except OSError:
                continue  # it has gone meanwhile
        return found
    finally:
        os.close(descriptor)


def _named(top: int, path: str) -> Optional[Listed]:
    folder, _, name = path.rpartition("/")
    try:
        descriptor = _open_folder(top, folder)
        try:
            facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    text = _text(path)
    return (text, facts.st_size, int(facts.st_mtime)) if text is not None and stat.S_ISREG(facts.st_mode) else None


def _open_folder(top: int, path: str) -> int:
    """Step by step, so that no link is followed."""
    descriptor = os.dup(top)
    for name in path.split("/") if path else []:
        try:
            below = os.open(name, _FOLDER_FLAGS, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _text(path: str) -> Optional[str]:
    """The path as text; None where it is none. Python 3.6 takes file names for ASCII in a C locale."""
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeError:
        return None
