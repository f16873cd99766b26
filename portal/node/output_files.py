"""The files that the program's output goes to, and bringing what it left behind to the disk."""

import contextlib
import errno
import os
import stat
from typing import Optional

from .durable import fsync_open_folder

STDOUT_NAME = "output.txt"
STDERR_NAME = "err_output.txt"

# Exclusive: the claim makes this the first start, so whatever is there already is not the program's output.
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM)


class OutputFiles:
    """`output.txt` and `err_output.txt`, open for writing as long as the program runs.

    The wrapper asks its own descriptors, not the names, which the program can give to something else.
    """

    def __init__(self, work_dir: str) -> None:
        """OSError where one of them exists or cannot be made."""
        self.stdout = _create(work_dir, STDOUT_NAME)
        try:
            self.stderr = _create(work_dir, STDERR_NAME)
        except OSError:
            os.close(self.stdout)
            raise

    def wrote_to_stderr(self) -> bool:
        """True where there is something in `err_output.txt`."""
        return os.fstat(self.stderr).st_size > 0

    def fsync(self) -> None:
        """Bring both to the disk; OSError where that failed."""
        os.fsync(self.stdout)
        os.fsync(self.stderr)


def fsync_output(work_dir: str, relative: str) -> bool:
    """Bring one declared output to the disk; links are not followed, so this cannot leave `work_dir`.

    False where there is no such regular file that can be opened, which is for the results page to say.
    OSError where there is one and it did not get to the disk.
    """
    *folders, name = relative.split("/")
    with contextlib.ExitStack() as opened:
        descriptors = []
        within = None  # type: Optional[int]
        for folder in [work_dir] + folders:
            within = _open(opened, folder, _FOLDER_FLAGS, within)
            if within is None:
                return False
            descriptors.append(within)
        file = _open(opened, name, _FILE_FLAGS, within)
        if file is None or not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        os.fsync(file)
        for descriptor in reversed(descriptors):
            fsync_open_folder(descriptor)
    return True


def _create(work_dir: str, name: str) -> int:
    descriptor = os.open(os.path.join(work_dir, name), _NEW_FILE_FLAGS, 0o640)
    os.fchmod(descriptor, 0o640)
    return descriptor


def _open(opened: contextlib.ExitStack, name: str, flags: int, within: Optional[int]) -> Optional[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=within)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    opened.callback(os.close, descriptor)
    return descriptor
