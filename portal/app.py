"""Wiring: builds the portal's parts from its settings, and the web application from the parts."""

import os
import pwd
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from portal.applications.catalog import Catalog
from portal.clock import Clock, SystemClock
from portal.database import Database
from portal.dispatch.adoption import Adoption
from portal.dispatch.context import Dispatch
from portal.dispatch.dispatcher import Dispatcher
from portal.dispatch.leadership import Leadership
from portal.dispatch.reindexing import Reindexing
from portal.errors import SettingsError
from portal.jobs.acceptance import Acceptance
from portal.jobs.directory import JobsFolder
from portal.jobs.keys import Keys, load_or_make_secret
from portal.jobs.node_files import NodeFiles, current_helper, install_node_files
from portal.jobs.resubmission import Resubmission
from portal.jobs.service import JobService
from portal.jobs.store import has_jobs
from portal.mail.outbox import OutboxSender, mail_domain
from portal.mail.transport import transport_from_settings
from portal.people.sign_in import People
from portal.schedulers.base import Scheduler
from portal.schedulers.commands import LocalRunner
from portal.schedulers.helper import LOCAL_CALL_SECONDS, Helper
from portal.schedulers.local import LocalScheduler
from portal.schedulers.slurm_scheduler import SlurmScheduler
from portal.settings import SchedulerSection, Settings, SshSection
from portal.shipped import shipped_dir
from portal.transfer.folders import NodeFolders, SharedFolders
from portal.web.context import Web
from portal.web.misses import Misses
from portal.web.site import make_site

if TYPE_CHECKING:
    from portal.schedulers.ssh import SshConnection


@dataclass(frozen=True)
class Parts:
    """What every process of the portal is made of."""

    settings: Settings
    clock: Clock
    database: Database
    folder: JobsFolder
    catalog: Catalog
    keys: Keys
    jobs: JobService
    resubmission: Resubmission
    people: People


def build_parts(settings: Settings, clock: Clock | None = None) -> Parts:
    """The parts, with the database migrated, and the jobs folder and the secret made where they are missing.

    Raises SettingsError or StorageError, in one line for the administrator.
    """
    clock = clock or SystemClock()
    keys = Keys(load_or_make_secret(settings.secret_key_file))
    database = Database(settings.portal.database_url)
    database.upgrade()
    folder = JobsFolder(settings.portal.jobs_dir)
    _refuse_an_empty_folder(database, folder)
    folder.prepare()
    catalog = Catalog.load(settings.portal.templates_dir, site_facts(settings))
    base_url = settings.portal.base_url
    acceptance = Acceptance(database, folder, catalog, clock, settings.limits, base_url)
    service = JobService(acceptance, database, folder, catalog, keys, clock, base_url)
    resubmission = Resubmission(service, clock, settings)
    return Parts(settings, clock, database, folder, catalog, keys, service, resubmission, People(database, clock))


def create_app(settings: Settings, parts: Parts | None = None) -> Flask:
    """The web application, over `parts` where they are built already. Raises SettingsError or StorageError."""
    parts = parts or build_parts(settings)
    misses = Misses(settings.limits.misses_per_minute_per_ip)
    return make_site(Web(settings, parts.clock, parts.keys, parts.jobs, parts.resubmission, parts.people, misses))


def _refuse_an_empty_folder(database: Database, folder: JobsFolder) -> None:
    """A folder that is not mounted must not be replaced by an empty one, into which jobs would then go."""
    if folder.is_prepared():
        return
    with database.reading() as session:
        if has_jobs(session):
            raise SettingsError(
                f"portal.jobs_dir: {folder.root} has no file .instance, though the database knows jobs: is it mounted?"
            )


@dataclass(frozen=True)
class Cluster:
    """Where jobs run: who starts them, and where their files are."""

    scheduler: Scheduler
    nodes: NodeFolders

    def close(self) -> None:
        """Let go of connections; harmless when called twice."""
        self.nodes.close()
        self.scheduler.close()


def build_cluster(parts: Parts) -> Cluster:
    """What `scheduler.kind` names, with the node's files put into the jobs folder. Nothing is connected to yet.

    Raises StorageError.
    """
    node_files = install_node_files(parts.settings.portal.jobs_dir, [shipped_dir("bin")])
    if parts.settings.scheduler.kind == "slurm-ssh":
        return _ssh_cluster(parts, node_files)
    if parts.settings.scheduler.kind == "slurm":
        folders = SharedFolders(parts.folder, node_files, _local_helper(parts).empty)
        return Cluster(build_scheduler(parts), folders)
    return Cluster(build_scheduler(parts), SharedFolders(parts.folder, node_files))


def build_scheduler(parts: Parts) -> Scheduler:
    """The backend that `scheduler.kind` names, alone. Nothing is asked and nothing is connected to yet."""
    settings = parts.settings.scheduler
    if settings.kind == "local":
        return LocalScheduler(parts.database, parts.clock)
    if settings.kind == "drmaa":
        return _drmaa_scheduler(parts)
    if settings.kind == "slurm":
        return _slurm_here(parts)
    return SlurmScheduler(_ssh_helper(parts, _ssh_connection(settings.ssh)), parts.clock, kind=settings.kind)


def _slurm_here(parts: Parts) -> SlurmScheduler:
    return SlurmScheduler(_local_helper(parts), parts.clock)


def _local_helper(parts: Parts) -> Helper:
    settings, jobs_dir = parts.settings.scheduler, parts.settings.portal.jobs_dir
    runner = LocalRunner([*settings.command_prefix, *_helper_command(settings, jobs_dir)])
    return Helper(runner, jobs_dir, LOCAL_CALL_SECONDS)


def _drmaa_scheduler(parts: Parts) -> Scheduler:
    from portal.schedulers.drmaa_native import Drms
    from portal.schedulers.drmaa_records import GridEngineRecords
    from portal.schedulers.drmaa_scheduler import DrmaaScheduler
    from portal.schedulers.drmaa_session import DrmaaSession
    from portal.schedulers.drmaa_status import LibraryRecords
    from portal.schedulers.grid_engine_calls import GridEngineCommands

    settings = parts.settings.scheduler.drmaa
    account = pwd.getpwuid(os.geteuid()).pw_name
    session = DrmaaSession(settings.library)
    return DrmaaScheduler(
        session,
        {
            Drms.GRID_ENGINE: lambda: GridEngineRecords(GridEngineCommands(), parts.clock, account),
            Drms.SLURM: lambda: _slurm_here(parts),
            Drms.OTHER: lambda: LibraryRecords(session),
        },
        settings.native_specification,
        settings.parallel_environment,
    )


def _ssh_cluster(parts: Parts, node_files: NodeFiles) -> Cluster:
    settings = parts.settings.scheduler
    connection = _ssh_connection(settings.ssh)
    helper = _ssh_helper(parts, connection)
    scheduler = SlurmScheduler(helper, parts.clock, kind=settings.kind)
    if settings.ssh.remote_jobs_dir is None:
        return Cluster(scheduler, SharedFolders(parts.folder, node_files, helper.empty))
    from portal.transfer.session import SftpSession
    from portal.transfer.sftp_folders import SftpFolders

    session = SftpSession(connection, settings.ssh.command_timeout_seconds)
    most_mib = parts.settings.limits.results_mib
    return Cluster(scheduler, SftpFolders(session, helper, settings.ssh.remote_jobs_dir, node_files, most_mib))


def _helper_command(settings: SchedulerSection, jobs_dir: Path) -> list[str]:
    return [settings.node_python, "-I", str(current_helper(jobs_dir))]


def _ssh_helper(parts: Parts, connection: "SshConnection") -> Helper:
    from portal.schedulers.ssh import SshRunner

    settings = parts.settings.scheduler
    jobs_dir = settings.ssh.remote_jobs_dir or parts.settings.portal.jobs_dir
    runner = SshRunner(connection, shlex.join(_helper_command(settings, jobs_dir)))
    return Helper(runner, jobs_dir, settings.ssh.command_timeout_seconds)


def _ssh_connection(ssh: SshSection) -> "SshConnection":
    # Not at the top: it takes a while, and the web server never needs it.
    from portal.schedulers.ssh import SshConnection, SshTarget

    if ssh.host is None or ssh.user is None or ssh.key_file is None or ssh.known_hosts_file is None:
        raise SettingsError("scheduler.ssh: host, user, key_file and known_hosts_file are needed")
    return SshConnection(
        SshTarget(ssh.host, ssh.port, ssh.user, ssh.key_file, ssh.known_hosts_file, ssh.connect_timeout_seconds)
    )


def build_dispatcher(parts: Parts) -> Dispatcher:
    """The dispatcher, with the node's files put into the jobs folder. Raises StorageError."""
    settings = parts.settings
    site = site_facts(settings)
    leadership = Leadership(parts.database, parts.clock)
    cluster = build_cluster(parts)
    dispatch = Dispatch(
        settings=settings,
        clock=parts.clock,
        database=parts.database,
        folder=parts.folder,
        catalog=parts.catalog,
        keys=parts.keys,
        jobs=parts.jobs,
        leadership=leadership,
        scheduler=cluster.scheduler,
        nodes=cluster.nodes,
        site=site,
    )
    return Dispatcher(dispatch, build_adoption(parts), build_outbox_sender(parts, leadership))


def build_adoption(parts: Parts) -> Adoption:
    """What takes up job directories that have no row."""
    return Adoption(parts.database, parts.folder, parts.jobs, parts.clock, mail_domain(parts.settings))


def build_reindexing(parts: Parts) -> Reindexing:
    """What brings the database up to the job directories."""
    leadership = Leadership(parts.database, parts.clock)
    return Reindexing(
        parts.database,
        parts.folder,
        build_adoption(parts),
        leadership,
        build_scheduler(parts),
        mail_domain(parts.settings),
    )


def build_outbox_sender(parts: Parts, leadership: Leadership) -> OutboxSender:
    """The sender of mail, which stops where a newer dispatcher has taken over."""
    return OutboxSender(
        parts.settings,
        parts.database,
        parts.folder,
        parts.keys,
        parts.clock,
        transport_from_settings(parts.settings),
        lambda name: parts.catalog.get(name).title,
        guard=leadership.check,
    )


def site_facts(settings: Settings) -> dict[str, object]:
    """What an application's `program.sh.j2` may use: facts of the site, never a visitor's values."""
    return {"site_name": settings.portal.site_name, "base_url": settings.portal.base_url}
