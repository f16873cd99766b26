"""Single files over SFTP: whole or not at all, and gone on with where a cut left them.

What lies on the other side may be a job's: only regular files are opened, and never more is read than was asked for.
"""

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from paramiko.sftp_attr import SFTPAttributes
from paramiko.sftp_client import SFTPClient

from portal.node.durable import fsync_file, fsync_folder

FOLDER_MODE = 0o750
_SENT_BYTES = 32 * 1024
"""What one packet carries to the server: every one has to take so much."""
_ASKED_BYTES = 255 * 1024
"""What is asked for at once: OpenSSH's server gives so much, and another one gives less."""


class RefusedThereError(Exception):
    """The server, which is there, does not let this one file be read or written."""


def is_alive(sftp: SFTPClient) -> bool:
    """Whether the session still is."""
    channel = sftp.get_channel()
    if channel is None or channel.closed:
        return False
    transport = channel.get_transport()
    return transport is not None and transport.is_active()


@contextmanager
def refusals(sftp: SFTPClient) -> Iterator[None]:
    """Errors of the server inside as RefusedThereError; those of a session that is lost stay what they are."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        if not is_alive(sftp):
            raise
        raise RefusedThereError(str(error)) from error


def look(sftp: SFTPClient, path: PurePosixPath) -> SFTPAttributes | None:
    """What lies there, a link as a link; None where nothing does. Raises OSError."""
    try:
        return sftp.lstat(str(path))
    except FileNotFoundError:
        return None


def is_regular(facts: SFTPAttributes) -> bool:
    """Whether it is a regular file, and its size and time are told."""
    has_all = facts.st_mode is not None and facts.st_size is not None and facts.st_mtime is not None
    return has_all and stat.S_ISREG(facts.st_mode or 0)


def make_folder(sftp: SFTPClient, path: PurePosixPath) -> None:
    """Make one folder; one that is there is left. Raises OSError."""
    try:
        sftp.mkdir(str(path), FOLDER_MODE)
    except OSError:
        # SFTP has no word of its own for "exists".
        facts = look(sftp, path)
        if facts is None or not stat.S_ISDIR(facts.st_mode or 0):
            raise


def read_small(sftp: SFTPClient, path: PurePosixPath, most_bytes: int) -> bytes | None:
    """The whole of a regular file; None where nothing is there.

    Raises RefusedThereError for what is there and is something else, longer than that, or closed, and OSError where the
    session is lost.
    """
    with refusals(sftp):
        facts = look(sftp, path)
        if facts is None:
            return None
        if not is_regular(facts):
            raise RefusedThereError(f"{path} is not a regular file")
        try:
            with sftp.open(str(path), "rb") as file:
                data = file.read(most_bytes + 1)
        except FileNotFoundError:
            return None
    if len(data) > most_bytes:
        raise RefusedThereError(f"{path} is longer than {most_bytes} bytes")
    return data


def write_whole(sftp: SFTPClient, path: PurePosixPath, data: bytes, mode: int) -> None:
    """Let `path` hold exactly `data`: written beside, and renamed over what is there. Raises OSError."""
    with _written_beside(sftp, path, data, mode) as beside:
        sftp.posix_rename(str(beside), str(path))


def create_exclusively(sftp: SFTPClient, path: PurePosixPath, data: bytes, mode: int) -> bool:
    """Create `path` with its whole content at one instant; False where something is there already. Raises OSError.

    SFTP's own rename (not `posix_rename`) refuses an existing target; OpenSSH's server does it by link and unlink.
    """
    if look(sftp, path) is not None:
        return False
    try:
        with _written_beside(sftp, path, data, mode) as beside:
            sftp.rename(str(beside), str(path))
    except OSError:
        if look(sftp, path) is None:
            raise
        return False
    return True


@contextmanager
def _written_beside(sftp: SFTPClient, path: PurePosixPath, data: bytes, mode: int) -> Iterator[PurePosixPath]:
    """A new file with this content, to be renamed to `path`; removed where that fails."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with sftp.open(str(beside), "wb") as file:
            for start in range(0, len(data), _SENT_BYTES):
                file.write(data[start : start + _SENT_BYTES])
        sftp.chmod(str(beside), mode)
        yield beside
    except TimeoutError:
        raise  # nobody is there to remove it
    except OSError:
        with suppress(FileNotFoundError):
            sftp.remove(str(beside))
        raise


def send_file(sftp: SFTPClient, local: Path, remote: PurePosixPath, mode: int, deadline: float) -> bool:
    """Bring a file that does not change any more to the other side; False where the time is over first.

    `remote` appears when it is whole, with `local`'s time. What was sent of it lies beside until then, and is gone on
    with. Raises OSError.
    """
    facts = local.stat()
    size, changed = facts.st_size, int(facts.st_mtime)
    known = look(sftp, remote)
    if known is not None and (known.st_size, known.st_mtime) == (size, changed):
        return True
    part = remote.with_name(f".{remote.name}.part")
    begun = look(sftp, part)
    start = begun.st_size or 0 if begun is not None and is_regular(begun) else 0
    start = start if start <= size else 0
    # Not pipelined: paramiko would swallow what the server answers to the last hundred pieces.
    with local.open("rb") as source, sftp.open(str(part), "r+b" if start else "wb") as file:
        source.seek(start)
        file.seek(start)
        while piece := source.read(_SENT_BYTES):
            file.write(piece)
            if time.monotonic() > deadline and source.tell() < size:
                return False
    sftp.chmod(str(part), mode)
    sftp.utime(str(part), (changed, changed))
    sftp.posix_rename(str(part), str(remote))
    return True


def fetch_file(
    sftp: SFTPClient, remote: PurePosixPath, size_bytes: int, changed_seconds: int, part: Path, deadline: float
) -> bool:
    """Bring `size_bytes` of a file into `part`, durably; False where the time is over, or it has become shorter.

    What is in `part` already is taken for the beginning of the same file; a little more comes each time. Raises
    RefusedThereError where it cannot be read there, and OSError for this machine's disk and for a lost session.
    """
    with part.open("ab") as file:
        if file.tell() < size_bytes:
            with refusals(sftp):
                source = sftp.open(str(remote), "rb")
            with source:
                # paramiko would ask for 32 KiB, and wait for the way there and back each time.
                source.MAX_REQUEST_SIZE = _ASKED_BYTES
                source.seek(file.tell())
                while (left := size_bytes - file.tell()) > 0:
                    with refusals(sftp):
                        piece = source.read(min(left, _ASKED_BYTES))
                    if not piece:
                        return False
                    file.write(piece)
                    if time.monotonic() > deadline and left > len(piece):
                        return False
    os.utime(part, (changed_seconds, changed_seconds))
    fsync_file(part)
    return True


def put_in_place(part: Path, final: Path) -> None:
    """Let a whole file appear under its name, durably. Raises OSError."""
    part.replace(final)
    fsync_folder(final.parent)
