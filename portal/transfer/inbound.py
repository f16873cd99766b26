"""What a job wrote on the nodes, brought into this machine's `attempts/N/work/`.

The claim, the heartbeat and the word that the program has started come at once. The results come file by file, each
whole, and after the last of them the status file that tells of the end: whoever reads it here has the results as well.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import structlog
from paramiko.sftp_client import SFTPClient

from portal.jobs.directory import FILE_MODE, WORK_FOLDER_MODE, AttemptDirectory, make_folder
from portal.jobs.job_files import MAX_DEPTH
from portal.jobs.sizes import size_in_words
from portal.node import claim as claims
from portal.node import heartbeat, status_file
from portal.node.attempt_config import read_attempt_config
from portal.node.durable import write_durably
from portal.node.output_files import STDERR_NAME, STDOUT_NAME
from portal.transfer.remote_files import fetch_file, is_regular, put_in_place, read_small

log = structlog.get_logger()

MOST_FILES = 10_000
_MIB = 1024 * 1024
_MOST_HEARTBEAT_BYTES = 64
_FIRST = (STDOUT_NAME, STDERR_NAME, "scheduler.out")
_MARKERS = ("SUCCESS", "ERROR")
_MOST_NAMED = 5
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
    """What lies in the nodes' `work/`."""

    files: list[RemoteFile]
    is_whole: bool
    """False where there was more than is looked at."""


def bring_attempt(
    sftp: SFTPClient,
    remote_work: PurePosixPath,
    attempt: AttemptDirectory,
    most_mib: int,
    deadline: float,
    *,
    everything: bool,
) -> bool:
    """Mirror one attempt, as `NodeFolders.bring` says; what it raises of OSError may be either machine's."""
    small = {
        claims.FILE_NAME: claims.MAX_BYTES,
        heartbeat.FILE_NAME: _MOST_HEARTBEAT_BYTES,
        status_file.FILE_NAME: status_file.MAX_BYTES,
    }
    # The status file first: what it tells of was on the disk before it.
    read = {name: read_small(sftp, remote_work / name, most) for name, most in reversed(small.items())}
    ends = _tells_the_end(read[status_file.FILE_NAME])
    if everything or ends:
        listing = list_results(sftp, remote_work, small)
        if not everything and not any(file.path in _MARKERS for file in listing.files):
            return False  # the wrapper writes its marker in this very moment
        if not _bring_results(sftp, remote_work, attempt, listing, most_mib * _MIB, deadline):
            return False
    for name in small:
        _write_if_new(attempt.work / name, read[name])
    return True


def list_results(sftp: SFTPClient, work: PurePosixPath, without: Iterable[str]) -> Listing:
    """All regular files below `work`, but for the names `without` at its top; an empty listing where it is missing."""
    files: list[RemoteFile] = []
    left_out = frozenset(without)
    folders = [("", 1)]
    is_whole = True
    while folders:
        folder, depth = folders.pop(0)
        for name, file in _entries(sftp, work, folder):
            if file is not None and name not in left_out:
                files.append(file)
            elif file is None and depth < MAX_DEPTH:
                folders.append((name, depth + 1))
            elif file is None:
                is_whole = False
            if len(files) + len(folders) > MOST_FILES:
                return Listing(files[:MOST_FILES], is_whole=False)
    return Listing(files, is_whole)


def _entries(sftp: SFTPClient, work: PurePosixPath, folder: str) -> Iterator[tuple[str, RemoteFile | None]]:
    """The relative path of each file (and the file) and of each folder (and None) in a folder; links are neither."""
    try:
        for facts in sftp.listdir_iter(str(work / folder), read_aheads=5):
            name = facts.filename
            # A server that is not what it should be must not name a place outside.
            if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
                continue
            path = f"{folder}/{name}" if folder else name
            if is_regular(facts):
                yield path, RemoteFile(path, facts.st_size or 0, facts.st_mtime or 0)
            elif facts.st_mode is not None and facts.st_mode & 0o170000 == 0o040000:
                yield path, None
    except FileNotFoundError:
        return


def _bring_results(
    sftp: SFTPClient,
    remote_work: PurePosixPath,
    attempt: AttemptDirectory,
    listing: Listing,
    most_bytes: int,
    deadline: float,
) -> bool:
    chosen, left = choose(listing.files, _declared(attempt), most_bytes)
    incoming = attempt.path / _INCOMING
    for file in chosen:
        if not _bring_file(sftp, remote_work, attempt, incoming, file, deadline):
            return False
    write_durably(str(attempt.results), _report(chosen, left, most_bytes, listing.is_whole), FILE_MODE)
    shutil.rmtree(incoming, ignore_errors=True)
    return True


def choose(
    files: list[RemoteFile], declared: Iterable[str], most_bytes: int
) -> tuple[list[RemoteFile], list[RemoteFile]]:
    """What is brought and what is left of it: the output and the declared files first, and then by name.

    A file is brought whole or not at all; one that does not fit makes no room for none of those after it.
    """
    order = {path: number for number, path in enumerate((*_MARKERS, *_FIRST, *declared))}
    chosen, left, total = [], [], 0
    for file in sorted(files, key=lambda file: (order.get(file.path, len(order)), file.path)):
        if total + file.size_bytes <= most_bytes:
            chosen.append(file)
            total += file.size_bytes
        else:
            left.append(file)
    return chosen, left


def _declared(attempt: AttemptDirectory) -> tuple[str, ...]:
    try:
        return read_attempt_config(str(attempt.config)).outputs
    except (OSError, ValueError) as error:
        log.warning("an attempt's config.ini cannot be read", path=str(attempt.config), error=str(error))
        return ()


def _bring_file(
    sftp: SFTPClient,
    remote_work: PurePosixPath,
    attempt: AttemptDirectory,
    incoming: Path,
    file: RemoteFile,
    deadline: float,
) -> bool:
    final = attempt.work / file.path
    if _is_here(final, file):
        return True
    make_folder(incoming, WORK_FOLDER_MODE)
    # The name says which file and which state of it: a part of an older one is never gone on with.
    state = f"{file.path}\0{file.size_bytes}\0{file.changed_seconds}"
    part = incoming / hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    if not fetch_file(sftp, remote_work / file.path, file.size_bytes, file.changed_seconds, part, deadline):
        return False
    part.chmod(FILE_MODE)
    _make_way(attempt.work, file.path)
    put_in_place(part, final)
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


def _write_if_new(file: Path, data: bytes | None) -> None:
    if data is None:
        return  # what was seen once stays, though the cluster may have tidied up
    try:
        if file.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    write_durably(str(file), data, FILE_MODE)


def _tells_the_end(data: bytes | None) -> bool:
    if data is None:
        return False
    try:
        return status_file.parse(data).succeeded is not None
    except ValueError:
        return False  # whoever reads it here says that it is not right


def _report(chosen: list[RemoteFile], left: list[RemoteFile], most_bytes: int, is_whole: bool) -> bytes:
    report = {
        "brought_files": len(chosen),
        "brought_bytes": sum(file.size_bytes for file in chosen),
        "left_files": len(left),
        "left_bytes": sum(file.size_bytes for file in left),
        "left": [[file.path, file.size_bytes] for file in left[:_MOST_NAMED]],
        "most_mib": most_bytes // _MIB,
        "is_whole": is_whole,
    }
    return (json.dumps(report, indent=1) + "\n").encode()


def shortfall_of(attempt: AttemptDirectory) -> str | None:
    """What of the results stayed on the cluster, in sentences for the visitor; None where nothing is known to have."""
    try:
        report: dict[str, Any] = json.loads(attempt.results.read_bytes())
        return _in_words(report)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("a report of results cannot be read", path=str(attempt.results), error=str(error))
        return None


def _in_words(report: dict[str, Any]) -> str | None:
    sentences = []
    if report["left_files"]:
        named = [f"{name} ({size_in_words(size)})" for name, size in report["left"]]
        more = report["left_files"] - len(named)
        names = ", ".join([*named, *([f"and {more} more"] if more else [])])
        count = "One file" if report["left_files"] == 1 else f"{report['left_files']} files"
        most = size_in_words(report["most_mib"] * _MIB)
        sentences.append(
            f"{count} ({size_in_words(report['left_bytes'])}) stayed on the cluster, since at most {most} of a job's "
            f"results are brought here: {names}."
        )
    if not report["is_whole"]:
        sentences.append(f"The job left more than {MOST_FILES:,} files; the others stayed on the cluster.")
    return " ".join(sentences) or None
