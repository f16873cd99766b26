"""Removing job directories for good, whatever a job left in them: no link is followed, nothing outside is touched.

A directory is put away under another name first (`JobsFolder.put_away`), so that a removal that was cut off goes on
later and nobody takes up what is left.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from portal.jobs.directory import AttemptDirectory, JobDirectory
from portal.node.deletion import empty_folder, open_below
from portal.node.durable import fsync_folder


def remove_put_away(path: Path, empty_as_jobs: Callable[[Sequence[Path]], None] | None, seconds: float) -> None:
    """Remove a directory that was put away; one that has gone is no error.

    What this account may not delete in a `work/` folder, `empty_as_jobs` deletes. Raises OSError where something is
    left (TimeoutError after `seconds`: the next call goes on from there) and what `empty_as_jobs` raises.
    """
    deadline = time.monotonic() + seconds
    directory = JobDirectory(path)
    # The folders of jobs first, as long as their paths are what the helper expects.
    denied = [work for work in _work_folders(directory) if not _empty(path.parent, work, deadline)]
    if denied:
        if empty_as_jobs is None:
            raise PermissionError(errno.EACCES, "there are files of another account", str(denied[0]))
        empty_as_jobs(denied)
    _remove(path, deadline)


def _work_folders(directory: JobDirectory) -> list[Path]:
    try:
        return [AttemptDirectory(directory.attempts / str(number)).work for number in directory.attempt_numbers()]
    except OSError:
        return []  # no folder: it goes with the rest


def _empty(root: Path, work: Path, deadline: float) -> bool:
    """Empty one `work/`; False where this account may not. What is no real folder there goes with the rest."""
    try:
        descriptor = open_below(str(root), str(work.relative_to(root)))
    except PermissionError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return True
        raise
    try:
        empty_folder(descriptor, deadline)
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove(path: Path, deadline: float) -> None:
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        descriptor = open_below(str(path.parent), path.name)
        try:
            empty_folder(descriptor, deadline)
        finally:
            os.close(descriptor)
        path.rmdir()
    else:
        path.unlink()
    fsync_folder(str(path.parent))
