"""Which account a command works as: that of the jobs folder's owner, or none.

A command that root types would otherwise leave files that the portal's own account cannot change afterwards.
"""

import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from sqlalchemy import make_url

from portal.errors import PortalError
from portal.settings import Settings

UMASK = 0o027
_PACKAGE = Path(__file__).resolve().parent


def work_as_owner_of_jobs(settings: Settings, settings_file: Path | None) -> None:
    """Become the account that the jobs folder belongs to, where root asks; before anything is written.

    A folder that does not exist yet will belong to whoever makes it. Raises PortalError, one line, where this
    account is neither its owner nor root, or where its owner could not use what the portal needs.
    """
    owner = _owner(settings.portal.jobs_dir)
    if owner is None or owner.st_uid == os.geteuid():
        return
    name = _name(owner.st_uid)
    if os.geteuid() != 0:
        raise PortalError(
            f"{settings.portal.jobs_dir} belongs to {name}, and you are {_name(os.geteuid())}: "
            f"run this command as {name}, or as root, which then works as {name}"
        )
    _become(owner.st_uid, owner.st_gid)
    for path, problem in _unusable(settings, settings_file):
        raise PortalError(
            f"{path} cannot be {problem} by {name}, to whom {settings.portal.jobs_dir} belongs and as whom a command "
            "of root's works; nothing was done"
        )


def _owner(folder: Path) -> os.stat_result | None:
    try:
        return folder.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PortalError(f"portal.jobs_dir: {folder} cannot be looked at: {error.strerror}") from error


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _become(uid: int, folder_gid: int) -> None:
    """Change to the account for good, groups first: afterwards the right to do so is gone."""
    home = "/"
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        os.setgroups([folder_gid])
        os.setgid(folder_gid)
    else:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        home = entry.pw_dir
        os.environ |= {"USER": entry.pw_name, "LOGNAME": entry.pw_name}
    os.setuid(uid)
    os.environ["HOME"] = home
    if not os.access(".", os.X_OK):  # root's own folder, say: gunicorn, for one, insists on one that it can enter
        os.chdir("/")


def _unusable(settings: Settings, settings_file: Path | None) -> Iterator[tuple[Path, str]]:
    """What the account that we are now cannot use, and what it cannot do with it."""
    # Python loads some of its modules, and of the libraries', when they are needed for the first time.
    python = [Path(sys.executable), Path(os.__file__), Path(sqlalchemy.__file__), _PACKAGE]
    to_read = [*python, settings_file, settings.portal.templates_dir, settings.mail.smtp_password_file]
    to_write = [settings.portal.jobs_dir, *_database_files(settings), *_mail_folder(settings)]
    secret = settings.secret_key_file
    (to_read if os.path.lexists(secret) else to_write).append(secret)
    for path in to_read:
        if path is not None and not _may(path, os.R_OK):
            yield path, "read"
    for path in to_write:
        if not _may(_existing(path), os.R_OK | os.W_OK):
            yield path, "written"


def _may(path: Path, mode: int) -> bool:
    # os.path, not Path: where a folder above is closed to us, Path.is_dir raises.
    return os.access(path, mode | (os.X_OK if os.path.isdir(path) else 0))  # noqa: PTH112


def _database_files(settings: Settings) -> list[Path]:
    url = make_url(settings.portal.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return []
    file = Path(url.database)
    beside = [file.with_name(file.name + ending) for ending in ("-wal", "-shm", ".migrate.lock", ".dispatcher.lock")]
    return [file.parent, file, *beside]


def _mail_folder(settings: Settings) -> list[Path]:
    return [settings.mail.folder] if settings.mail.transport == "folder" else []


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there: where it would be made."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
