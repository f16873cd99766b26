"""What a job wrote on the nodes, brought into this machine's `attempts/N/work/`.

The claim, the heartbeat and the word that the program has started come at once. The results come file by file, each
whole, and after the last of them the status file that tells of the end: whoever reads it here has the results as well.
What cannot be had of them (too large, closed, of no name) is left, and told; it holds up nothing.
"""

import errno
import hashlib
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import structlog
from paramiko.sftp_client import SFTPClient

from portal.errors import SchedulerError
from portal.jobs.directory import FILE_MODE, WORK_FOLDER_MODE, AttemptDirectory, make_folder
from portal.node import claim as claims
from portal.node import heartbeat, status_file
from portal.node.attempt_config import read_attempt_config
from portal.node.durable import write_durably
from portal.node.output_files import STDERR_NAME, STDOUT_NAME
from portal.transfer.remote_files import RefusedThereError, fetch_file, put_in_place, read_small
from portal.transfer.shortfall import LeftFile, Shortfall, write_shortfall

log = structlog.get_logger()

EVIDENCE = {
    status_file.FILE_NAME: status_file.MAX_BYTES,
    heartbeat.FILE_NAME: 64,
    claims.FILE_NAME: claims.MAX_BYTES,
}
"""The small files by which it is decided, and how long they may be, in the order in which they are read here.

The status file first: what it tells of was on the disk before it.
"""
MARKERS = ("SUCCESS", "ERROR")
_FIRST = (*MARKERS, STDOUT_NAME, STDERR_NAME, "scheduler.out")
_INCOMING = ".incoming"


@dataclass(frozen=True)
class RemoteFile:
    """A regular file in the nodes' `work/`."""

    path: str
    """Relative, with `/`."""
    size_bytes: int
    changed_seconds: int


@dataclass(frozen=True)
class Listing:
    """What lies in the nodes' `work/`, as the helper saw it."""

    files: list[RemoteFile]
    too_many: bool
    too_deep: int
    unreadable: int
    odd_names: int

    @property
    def has_marker(self) -> bool:
        """Whether the wrapper has written its last word."""
        return any(file.path in MARKERS for file in self.files)

    @property
    def is_whole(self) -> bool:
        """Whether what is not listed is not there."""
        return not (self.too_many or self.too_deep or self.unreadable)


def parse_listing(fields: Mapping[str, Any]) -> Listing:
    """What `portal.node.listing` found. Raises SchedulerError for anything else.

    No path of it leads out of the folder, whoever answered.
    """
    try:
        files = [RemoteFile(str(path), int(size), int(changed)) for path, size, changed in fields["files"]]
        listing = Listing(
            [file for file in files if _is_below(file.path)],
            bool(fields["too_many"]),
            int(fields["too_deep"]),
            int(fields["unreadable"]),
            int(fields["odd_names"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SchedulerError("A job's files cannot be listed.", log_detail=f"not a listing: {error}") from error
    return listing


def _is_below(path: str) -> bool:
    return "\0" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def first_paths(attempt: AttemptDirectory) -> list[str]:
    """What is brought before all else: the output, and the files that the application declares."""
    try:
        declared = read_attempt_config(str(attempt.config)).outputs
    except (OSError, ValueError) as error:
        log.warning("an attempt's config.ini cannot be read", path=str(attempt.config), error=str(error))
        declared = ()
    return [*_FIRST, *declared]


def read_evidence_there(sftp: SFTPClient, work: PurePosixPath) -> dict[str, bytes | None]:
    """The small files by name; None where there is none. OSError only where the session is lost.

    A claim that is there and cannot be read is an empty one: it says that something was started, and no more.
    """
    read: dict[str, bytes | None] = {}
    for name, most_bytes in EVIDENCE.items():
        try:
            read[name] = read_small(sftp, work / name, most_bytes)
        except RefusedThereError:
            read[name] = b"" if name == claims.FILE_NAME else None
    return read


def tells_the_end(status: bytes | None) -> bool:
    """Whether a status file says how the program ended."""
    if status is None:
        return False
    try:
        return status_file.parse(status).succeeded is not None
    except ValueError:
        return False  # whoever reads it here says that it is not right


def write_evidence_here(attempt: AttemptDirectory, read: Mapping[str, bytes | None]) -> None:
    """Let this side's small files say the same; what was seen once stays, though the cluster may have tidied up."""
    for name, data in read.items():
        if data is not None:
            _write_if_new(attempt.work / name, data)


def bring_results(
    sftp: SFTPClient,
    remote_work: PurePosixPath,
    attempt: AttemptDirectory,
    listing: Listing,
    most_bytes: int,
    deadline: float,
) -> bool:
    """Bring what is listed, within `most_bytes`; False where the time is over first, but never without any progress.

    Raises OSError where this machine's disk refuses, or the session is lost.
    """
    chosen, left = choose(listing.files, first_paths(attempt), most_bytes)
    incoming = attempt.path / _INCOMING
    closed = 0
    has_brought = False
    for file in chosen:
        if _is_here(attempt.work / file.path, file):
            continue
        if has_brought and time.monotonic() > deadline:
            return False
        has_brought = True
        try:
            if not _bring_file(sftp, remote_work, attempt, incoming, file, deadline):
                return False
        except RefusedThereError as error:
            log.info("a result cannot be read on the cluster", path=str(attempt.work / file.path), error=str(error))
            closed += 1
    if listing.is_whole:
        _remove_others(attempt.work, {file.path for file in listing.files})
    shutil.rmtree(incoming, ignore_errors=True)
    shortfall = Shortfall(
        left=tuple(LeftFile(file.path, file.size_bytes) for file in left),
        most_bytes=most_bytes,
        too_many=listing.too_many,
        too_deep=listing.too_deep,
        unreadable=listing.unreadable + closed,
        odd_names=listing.odd_names,
    )
    write_shortfall(attempt, shortfall)
    return True


def choose(files: list[RemoteFile], first: Iterable[str], most_bytes: int) -> tuple[list[RemoteFile], list[RemoteFile]]:
    """What is brought and what is left of it: those in `first` before all others, and these by name.

    A file is brought whole or not at all; one that does not fit makes no room for none of those after it.
    """
    order = {path: number for number, path in enumerate(first)}
    chosen, left, total = [], [], 0
    for file in sorted(files, key=lambda file: (order.get(file.path, len(order)), file.path)):
        if total + file.size_bytes <= most_bytes:
            chosen.append(file)
            total += file.size_bytes
        else:
            left.append(file)
    return chosen, left


def _bring_file(
    sftp: SFTPClient,
    remote_work: PurePosixPath,
    attempt: AttemptDirectory,
    incoming: Path,
    file: RemoteFile,
    deadline: float,
) -> bool:
    make_folder(incoming, WORK_FOLDER_MODE)
    # The name says which file and which state of it: a part of an older one is never gone on with.
    state = f"{file.path}\0{file.size_bytes}\0{file.changed_seconds}"
    part = incoming / hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    for other in incoming.iterdir():
        if other != part:
            other.unlink()
    if not fetch_file(sftp, remote_work / file.path, file.size_bytes, file.changed_seconds, part, deadline):
        return False
    part.chmod(FILE_MODE)
    try:
        _make_way(attempt.work, file.path)
        put_in_place(part, attempt.work / file.path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise RefusedThereError(f"{file.path[:50]}… is too long a path here") from error
    return True


def _is_here(final: Path, file: RemoteFile) -> bool:
    try:
        facts = final.lstat()
    except OSError:
        return False
    return (facts.st_size, int(facts.st_mtime)) == (file.size_bytes, file.changed_seconds)


def _make_way(work: Path, path: str) -> None:
    """The folders of a file; what an earlier state of the job's folder left in the place of one is removed."""
    folder = work
    for name in path.split("/")[:-1]:
        folder = folder / name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            folder.unlink()
        make_folder(folder, WORK_FOLDER_MODE)
    final = work / path
    if final.is_dir() and not final.is_symlink():
        shutil.rmtree(final)


def _remove_others(work: Path, known: set[str]) -> None:
    """What an earlier look brought and the job has removed since."""
    for path in sorted(work.rglob("*"), reverse=True):
        relative = path.relative_to(work).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif relative not in known and relative not in EVIDENCE:
            path.unlink()


def _write_if_new(file: Path, data: bytes) -> None:
    try:
        if file.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    write_durably(str(file), data, FILE_MODE)
