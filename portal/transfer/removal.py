"""Removing a job's copy on the cluster."""

import stat
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from paramiko.sftp_client import SFTPClient

from portal.transfer.remote_files import look

WORK = "work"
_DEPTH = 4
"""job-…/attempts/N/work: the portal made nothing deeper."""


def remove_job(sftp: SFTPClient, job: PurePosixPath, empty: Callable[[Sequence[Path]], None]) -> None:
    """Remove a job's whole folder; one that is gone is no error. Raises OSError and what `empty` raises."""
    if look(sftp, job) is None:
        return
    attempts = job / "attempts"
    works = [attempts / number / WORK for number in _names(sftp, attempts)]
    empty([Path(work) for work in works if look(sftp, work) is not None])
    _remove(sftp, job, _DEPTH)


def _remove(sftp: SFTPClient, folder: PurePosixPath, depth: int) -> None:
    for name in _names(sftp, folder):
        path = folder / name
        facts = look(sftp, path)
        if facts is None:
            continue
        if stat.S_ISDIR(facts.st_mode or 0) and depth > 1:
            _remove(sftp, path, depth - 1)
        else:
            sftp.remove(str(path))
    sftp.rmdir(str(folder))


def _names(sftp: SFTPClient, folder: PurePosixPath) -> list[str]:
    try:
        return sftp.listdir(str(folder))
    except FileNotFoundError:
        return []
