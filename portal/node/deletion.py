"""Emptying a folder that somebody hostile filled: no link is followed, and no depth is too deep."""

import errno
import os
import stat
import time

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_below(root: str, path: str) -> int:
    """A descriptor of the folder `path` below the folder `root`, opened step by step without following links.

    OSError where a step is missing, a link or no folder.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in path.split("/"):
        try:
            below = os.open(name, _FOLDER_FLAGS, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def empty_folder(descriptor: int, deadline: float) -> None:
    """Delete all that is in an open folder, and not the folder; OSError where something cannot be deleted.

    What lies in a folder further down is moved up into this one first, so that neither the length of a path nor
    the number of open files is ever a limit. `deadline`, on the monotonic clock, ends it with TimeoutError.
    """
    names = os.listdir(descriptor)
    while names:
        for name in names:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "there is too much to delete")
            _delete(descriptor, name)
        names = os.listdir(descriptor)


def _delete(top: int, name: str) -> None:
    try:
        facts = os.stat(name, dir_fd=top, follow_symlinks=False)
        if not stat.S_ISDIR(facts.st_mode):
            os.unlink(name, dir_fd=top)
            return
        _flatten(top, name)
        os.rmdir(name, dir_fd=top)
    except FileNotFoundError:
        pass


def _flatten(top: int, name: str) -> None:
    folder = _open_folder(top, name)
    try:
        for inner in os.listdir(folder):
            if stat.S_ISDIR(os.stat(inner, dir_fd=folder, follow_symlinks=False).st_mode):
                # Moving a folder changes its `..`, for which it must be writable itself.
                os.close(_open_folder(folder, inner))
                os.rename(inner, ".{}".format(os.urandom(12).hex()), src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)


def _open_folder(parent: int, name: str) -> int:
    """Open a folder of ours, whatever its mode was; it can be written to then."""
    try:
        descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except PermissionError:
        _let_in(parent, name)
        descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    try:
        if _mount_of(descriptor) != _mount_of(parent):
            raise OSError(errno.EXDEV, "another file system is mounted there", name)
        os.fchmod(descriptor, 0o700)
    except PermissionError:
        # Another account's. It may be writable for the group all the same.
        pass
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _let_in(parent: int, name: str) -> None:
    """Let its owner into a folder; a link that has taken its place meanwhile is not followed."""
    held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # There is no chmod of such a descriptor itself, and none of a name that does not follow links.
        os.chmod("/proc/self/fd/{}".format(held), 0o700)
    finally:
        os.close(held)


def _mount_of(descriptor: int) -> str:
    """What tells one mount from another, also where a part of the same file system is mounted once more."""
    with open("/proc/self/fdinfo/{}".format(descriptor)) as facts:
        for line in facts:
            if line.startswith("mnt_id:"):
                return line
    return ""
