"""Directories without a row: adopted where they are whole, swept where they never became jobs.

A web process that died between `config.ini` and its commit leaves such a directory; so does a database that was
restored from an older copy.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from portal.clock import Clock
from portal.database import Database
from portal.dispatch.restoration import Portal, insert_with_attempts
from portal.errors import StorageError
from portal.jobs.directory import JobDirectory, JobsFolder
from portal.jobs.job_config import JobConfig, read_job_config
from portal.jobs.models import Job
from portal.jobs.service import JobService
from portal.jobs.store import find_by_token

log = structlog.get_logger()

ADOPTION_SECONDS = 600.0
"""How old a directory's `config.ini` must be before the dispatcher takes it up: its web process may still be at it."""
SWEEP_SECONDS = 86_400.0
"""How old a directory without a `config.ini` must be before it is removed."""
_CHUNK = 500


@dataclass
class AdoptionReport:
    """What was found."""

    adopted: int = 0
    swept: int = 0
    unreadable: int = 0
    """Left alone: not the folder owner's, or not to be understood."""
    renewed: int = 0
    """Jobs of whom the files knew more than the database did."""
    forgotten: int = 0
    """Jobs of the database whose directories are gone."""
    problems: list[str] = field(default_factory=list, compare=False)
    """One line for each that is unreadable."""
    compared: bool = field(default=False, compare=False)
    """Whether the jobs that the database knows were looked at, too."""

    def leave_alone(self, directory: JobDirectory, error: Exception) -> None:
        """Count one that cannot be read, and say why."""
        self.unreadable += 1
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self.problems.append(f"{directory.path}: {detail.removeprefix(f'{directory.path}/')}")


class Adoption:
    """Takes up directories; one for the dispatcher, one for `portal reindex`."""

    def __init__(
        self, database: Database, folder: JobsFolder, jobs: JobService, clock: Clock, mail_domain: str
    ) -> None:
        self._database = database
        self._folder = folder
        self._jobs = jobs
        self._clock = clock
        self._mail_domain = mail_domain

    def adopt_orphans(self, older_than_seconds: float) -> AdoptionReport:
        """Take up every whole directory that has no row and is old enough; `portal reindex` passes 0.

        A directory that is not the folder owner's, or cannot be read, is counted, logged, and left alone. Raises
        StorageError where folder or database fail.
        """
        report = AdoptionReport()
        for directory in self._without_row():
            try:
                self._look_at(directory, older_than_seconds, report)
            except StorageError:
                raise
            except Exception as error:
                # Whatever it is that one directory holds, the others are taken up.
                report.leave_alone(directory, error)
        return report

    def _without_row(self) -> Iterator[JobDirectory]:
        ids = list(self._folder.job_ids())
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            with self._database.reading() as session:
                known = set(session.scalars(select(Job.job_id).where(Job.job_id.in_(chunk))))
            yield from (self._folder.job(job_id) for job_id in chunk if job_id not in known)

    def _look_at(self, directory: JobDirectory, older_than_seconds: float, report: AdoptionReport) -> None:
        owner = self._folder.root.stat().st_uid
        facts = directory.path.lstat()
        if facts.st_uid != owner:
            raise ValueError("it does not belong to the jobs folder's owner")
        now_seconds = self._clock.now_utc().timestamp()
        config_facts = _lstat(directory.config)
        if config_facts is None:
            if now_seconds - facts.st_mtime >= SWEEP_SECONDS:
                self._folder.sweep(directory)
                report.swept += 1
            return
        if not stat.S_ISREG(config_facts.st_mode) or config_facts.st_uid != owner:
            raise ValueError("its config.ini is not a file of the jobs folder's owner")
        if now_seconds - config_facts.st_mtime < older_than_seconds:
            return
        config = read_job_config(directory.config)
        if config.job_id != directory.job_id:
            raise ValueError("its config.ini names another job")
        if self._adopt(directory, config):
            report.adopted += 1
        else:
            report.swept += 1

    def _adopt(self, directory: JobDirectory, config: JobConfig) -> bool:
        """True where the directory has its row now; False where its form had become another job: it was swept."""
        application = self._jobs.application_of_job(config.application)
        self._folder.link_for_owner(config.owner, config.job_id)
        instance = self._folder.instance()
        try:
            with self._database.writing() as session:
                portal = Portal(instance, self._mail_domain)
                insert_with_attempts(session, directory, config, application, portal)
        except IntegrityError as error:
            with self._database.reading() as session:
                twin = find_by_token(session, config.token)
                has_row = session.get(Job, config.job_id) is not None
            if has_row:
                return True  # its own web process, or another adoption, was faster
            if twin is None:
                raise ValueError("a row of another job stands in its way") from error
            self._folder.unlink_for_owner(config.owner, config.job_id)
            self._folder.sweep(directory)
            log.info("a repeated submission was swept", job_id=config.job_id, kept=twin.job_id)
            return False
        log.info("job directory adopted", job_id=config.job_id)
        return True


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
