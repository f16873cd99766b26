"""Files that are whole and on the disk, or not there at all, whenever power or process ends."""

import errno
import os
from typing import Union

AnyPath = Union[str, "os.PathLike[str]"]

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_durably(path: AnyPath, data: bytes, mode: int = 0o640) -> None:
    """Make `path` hold exactly `data`, with these permissions whatever the umask, on the disk at return.

    Written beside, fsynced, renamed: a reader sees the old content or the new, never a part. A link at `path`
    is replaced, not followed. OSError where that was not possible; the old content is then still there,
    except where only the last step (fsync of the folder) failed, after which either may survive a power cut.
    """
    target = os.fspath(path)
    temporary = _write_beside(target, data, mode)
    try:
        os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    fsync_folder(os.path.dirname(target) or ".")


def create_exclusively(path: AnyPath, data: bytes, mode: int = 0o640) -> bool:
    """Create `path` with its whole content at one instant; True for exactly one of any number of callers.

    False where something is there already, which is then left as it was. At a return of True it is on the
    disk. Works on NFS. OSError where it could not be done; after one that came from the very last step (fsync
    of the folder) the file may be there all the same, so that a caller who gives up has at worst blocked the
    name.
    """
    target = os.fspath(path)
    temporary = _write_beside(target, data, mode)
    try:
        created = _link(temporary, target)
    finally:
        _remove(temporary)
    if created:
        fsync_folder(os.path.dirname(target) or ".")
    return created


def fsync_file(path: AnyPath) -> None:
    """Bring a file's content to the disk; OSError where it is missing, a link, unreadable or not written."""
    descriptor = os.open(os.fspath(path), _FILE_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: AnyPath) -> None:
    """Bring the names in a folder to the disk; OSError where that failed."""
    descriptor = os.open(os.fspath(path), _FOLDER_FLAGS)
    try:
        fsync_open_folder(descriptor)
    finally:
        os.close(descriptor)


def fsync_open_folder(descriptor: int) -> None:
    """As `fsync_folder`, for a folder that is open already."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no fsync of a folder; their names are as durable as they ever get.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _write_beside(target: str, data: bytes, mode: int) -> str:
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, ".{}.{}.tmp".format(name, os.urandom(6).hex()))
    descriptor = os.open(temporary, _NEW_FILE_FLAGS, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _link(temporary: str, target: str) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        # An NFS client repeats a request whose answer was lost; the repetition then finds what the first one
        # made.
        return os.stat(temporary).st_nlink == 2
    return True


def _remove(temporary: str) -> None:
    try:
        os.unlink(temporary)
    except OSError:
        pass
