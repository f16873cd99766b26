"""Reading what a job wrote, which is hostile.

A path is opened component by component, following no link; only a regular file with one name, owned by the portal's
account or by the one that the wrapper ran as, is read, and never past the size that it had when it was opened.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portal.errors import NotFoundError

MAX_DEPTH = 16
CLAIM = "claim"
_CHUNK_BYTES = 64 * 1024


@dataclass
class JobFile:
    """An open file of a job, to be closed by whoever asked for it."""

    descriptor: int
    size_bytes: int
    """Its size when it was opened; nothing past it is read."""

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` to the size at opening, a piece at a time; closes the file at the end."""
        try:
            position = start
            while position < self.size_bytes:
                piece = os.pread(self.descriptor, min(_CHUNK_BYTES, self.size_bytes - position), position)
                if not piece:
                    return
                position += len(piece)
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Close it; harmless when called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def open_job_file(work: Path, relative: str) -> JobFile:
    """Open `relative` inside an attempt's `work/`. Raises NotFoundError for anything that may not be read."""
    parts = relative.split("/")
    if "\0" in relative or len(parts) > MAX_DEPTH or any(part in ("", ".", "..") for part in parts):
        raise _not_found()
    try:
        folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _not_found() from error
    try:
        owners = _trusted_owners(folder)
        for part in parts[:-1]:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return _open_regular(folder, parts[-1], owners)
    except OSError as error:
        raise _not_found() from error
    finally:
        os.close(folder)


def read_job_file(work: Path, relative: str, max_bytes: int) -> bytes | None:
    """The whole file, or None where it is not there, may not be read, or is larger than `max_bytes`."""
    try:
        file = open_job_file(work, relative)
    except NotFoundError:
        return None
    if file.size_bytes > max_bytes:
        file.close()
        return None
    return b"".join(file.chunks())


def read_tail(work: Path, relative: str, max_bytes: int) -> str:
    """The last `max_bytes` of a text file, from a line's beginning where one is near; empty where there is none."""
    try:
        file = open_job_file(work, relative)
    except NotFoundError:
        return ""
    start = max(0, file.size_bytes - max_bytes)
    text = b"".join(file.chunks(start)).decode("utf-8", "replace")
    return text.partition("\n")[2] if start and "\n" in text[:-1] else text


def file_size(work: Path, relative: str) -> int | None:
    """The size in bytes of a file that may be read, else None."""
    try:
        file = open_job_file(work, relative)
    except NotFoundError:
        return None
    file.close()
    return file.size_bytes


def _open_regular(folder: int, name: str, owners: set[int]) -> JobFile:
    # O_NONBLOCK: a FIFO that a job left would otherwise hold the reader for ever.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_uid not in owners:
        os.close(descriptor)
        raise _not_found()
    return JobFile(descriptor, facts.st_size)


def _trusted_owners(work: int) -> set[int]:
    """The portal's account, and the one that made the claim, if there is one."""
    owners = {os.geteuid()}
    try:
        facts = os.stat(CLAIM, dir_fd=work, follow_symlinks=False)
    except FileNotFoundError:
        return owners
    if stat.S_ISREG(facts.st_mode):
        owners.add(facts.st_uid)
    return owners


def _not_found() -> NotFoundError:
    return NotFoundError("There is no such file.")
