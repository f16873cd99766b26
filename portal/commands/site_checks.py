"""What `portal check` looks at before anything of the portal runs. Nothing is made and nothing is changed.

Each look returns what it saw, or raises PortalError with what is broken.
"""

import contextlib
import os
import pwd
import shlex
import shutil
import smtplib
import stat
from dataclasses import dataclass
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError

from portal.app import site_facts
from portal.applications.catalog import Catalog
from portal.database import Database
from portal.errors import PortalError
from portal.jobs.keys import load_or_make_secret
from portal.schedulers.slurm_directives import BAD_FOLDER, can_work_in
from portal.settings import Settings

_MIB = 1024 * 1024
_LITTLE_SPACE_MIB = 1024
_NO_SPACE_MIB = 16
_AT_FIRST_START = "is made at the first start"
_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


@dataclass(frozen=True)
class Seen:
    """What a look saw."""

    detail: str
    is_warning: bool = False


def is_set_up(settings: Settings) -> bool:
    """Whether the portal has been started here before, so that its parts can be built without making anything."""
    file = Database(settings.portal.database_url).sqlite_file
    return settings.portal.jobs_dir.is_dir() and settings.secret_key_file.exists() and (file is None or file.exists())


def applications(settings: Settings) -> Seen:
    """Each application, loaded and checked."""
    catalog = Catalog.load(settings.portal.templates_dir, site_facts(settings))
    if catalog.broken:
        raise PortalError("; ".join(str(error) for error in catalog.broken.values()))
    if not catalog.applications:
        raise PortalError(f"portal.templates_dir: {settings.portal.templates_dir} has no application")
    warnings = [str(finding) for findings in catalog.warnings.values() for finding in findings]
    return Seen("; ".join([", ".join(catalog.applications), *warnings]), is_warning=bool(warnings))


def disk(settings: Settings) -> Seen:
    """The jobs folder and the space on its disk."""
    folder = settings.portal.jobs_dir
    _check_folder_of_nodes(settings)
    if not folder.exists():
        return Seen(f"{folder} {_creatable(folder)}")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PortalError(f"{folder} is not a folder that {_me()} can read and write")
    free_mib = shutil.disk_usage(folder).free // _MIB
    facts = f"{folder} of {_name(folder.stat().st_uid)}, {free_mib:,} MiB free"
    if free_mib < _NO_SPACE_MIB:
        raise PortalError(f"{facts}: no room for jobs")
    if not folder.stat().st_mode & stat.S_ISGID:
        problem = f"{facts}; its group is not passed on: chmod g+s {folder}"
        if _jobs_account(settings) is not None:
            raise PortalError(problem)
        return Seen(problem, is_warning=True)
    return Seen(facts, is_warning=free_mib < _LITTLE_SPACE_MIB)


def _check_folder_of_nodes(settings: Settings) -> None:
    """Raise PortalError where no job could run in the jobs folder, as the nodes have it."""
    if not settings.scheduler.kind.startswith("slurm"):
        return
    name, folder = "portal.jobs_dir", settings.portal.jobs_dir
    if settings.scheduler.kind == "slurm-ssh" and settings.scheduler.ssh.remote_jobs_dir is not None:
        name, folder = "scheduler.ssh.remote_jobs_dir", settings.scheduler.ssh.remote_jobs_dir
    if not can_work_in(folder):
        raise PortalError(f"{name}: {folder}: {BAD_FOLDER}")


def accounts(settings: Settings) -> Seen:
    """Who runs the jobs."""
    folder = settings.portal.jobs_dir
    name = _name(folder.stat().st_uid) if folder.exists() else _me()
    jobs_account = _jobs_account(settings)
    if jobs_account is not None:
        return Seen(f"two accounts: {name} runs the portal, and jobs run as {jobs_account}")
    return Seen(
        f"one account, {name}, does both: it runs the portal and the jobs, so a job can reach the portal's files"
    )


def _jobs_account(settings: Settings) -> str | None:
    """Who runs the jobs, for a sentence; None where it is the portal's own account."""
    scheduler = settings.scheduler
    if scheduler.kind == "slurm-ssh":
        folder = settings.portal.jobs_dir
        own = _name(folder.stat().st_uid) if folder.exists() else _me()
        return f"{scheduler.ssh.user} on {scheduler.ssh.host}" if scheduler.ssh.user != own else None
    if scheduler.kind == "slurm" and scheduler.command_prefix:
        return f"the account that `{shlex.join(scheduler.command_prefix)}` leads to"
    return None


def secret(settings: Settings) -> Seen:
    """The file of the portal's secret."""
    file = settings.secret_key_file
    if not file.exists():
        return Seen(f"{file} {_creatable(file)}")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise PortalError(f"{file} has mode {mode:04o}, so that others can read it: chmod 600 {file}")
    load_or_make_secret(file)
    return Seen(f"{file}, mode {mode:04o}")


def database(settings: Settings) -> Seen:
    """Whether it answers, and whether its tables are this version's."""
    database = Database(settings.portal.database_url)
    file = database.sqlite_file
    if file is not None and not file.exists():
        return Seen(f"{file} {_creatable(file)}")
    place = str(file) if file else database.engine.url.render_as_string(hide_password=True)
    try:
        with database.engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        raise PortalError(f"{place}: {getattr(error, 'orig', None) or error}") from error
    finally:
        database.close()
    head = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    if revision != head:
        return Seen(f"{place}: at revision {revision}; the next start brings it to {head}", is_warning=True)
    return Seen(f"{place}: at revision {revision}")


def mail(settings: Settings) -> Seen:
    """Whether mail can leave the portal."""
    if settings.mail.transport == "smtp":
        return _smtp(settings)
    folder = settings.mail.folder
    if not folder.exists():
        return Seen(f"folder {folder} {_creatable(folder)}")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PortalError(f"mail.folder: {folder} is not a folder that {_me()} can write")
    return Seen(f"folder {folder}")


def _smtp(settings: Settings) -> Seen:
    mail = settings.mail
    server = f"{mail.smtp_host}:{mail.smtp_port}"
    password = mail.smtp_password_file
    if password is not None and not os.access(password, os.R_OK):
        raise PortalError(f"mail.smtp_password_file: {password} cannot be read by {_me()}")
    try:
        connection = smtplib.SMTP(mail.smtp_host, mail.smtp_port, timeout=mail.smtp_timeout_seconds)
        with contextlib.closing(connection):
            code, _ = connection.ehlo()
            offers_tls = connection.has_extn("starttls")
    except OSError as error:  # smtplib's own errors are OSErrors
        raise PortalError(f"{server} does not answer: {error}") from error
    if not 200 <= code < 300:
        raise PortalError(f"{server} answers EHLO with {code}")
    if mail.starttls and not offers_tls:
        raise PortalError(f"mail.starttls: {server} does not offer STARTTLS")
    return Seen(f"{server} answers")


def _creatable(path: Path) -> str:
    """What is not there yet is made at the first start; raises PortalError where that would fail."""
    above = next(folder for folder in path.parents if os.path.lexists(folder))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PortalError(f"{path} is missing, and {above} cannot be written by {_me()}")
    return _AT_FIRST_START


def _me() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
