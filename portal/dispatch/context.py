"""What every part of the dispatcher works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from portal.applications.catalog import Catalog
from portal.clock import Clock
from portal.database import Database
from portal.dispatch.leadership import Leadership
from portal.jobs.directory import AttemptDirectory, JobsFolder
from portal.jobs.keys import Keys
from portal.jobs.models import Attempt
from portal.jobs.service import JobService
from portal.schedulers.base import Handle, Scheduler
from portal.settings import Settings
from portal.transfer.folders import NodeFolders


@dataclass(frozen=True)
class Dispatch:
    """The parts of one dispatcher. All writes to the database go through `leadership.writing`."""

    settings: Settings
    clock: Clock
    database: Database
    folder: JobsFolder
    catalog: Catalog
    keys: Keys
    jobs: JobService
    leadership: Leadership
    scheduler: Scheduler
    nodes: NodeFolders
    """The jobs folder as the compute nodes have it."""
    site: Mapping[str, object]
    """What applications' templates may use of the site."""

    @property
    def grace_seconds(self) -> float:
        return self.settings.scheduler.grace_seconds

    @property
    def heartbeat_seconds(self) -> float:
        """How often wrappers beat: several times within a grace period, so that silence means something."""
        return max(0.5, min(30.0, self.grace_seconds / 6))

    def now(self) -> datetime:
        return self.clock.now_utc()

    def attempt_directory(self, attempt: Attempt) -> AttemptDirectory:
        return self.folder.job(attempt.job_id).attempt(attempt.number)


def handle_of(attempt: Attempt) -> Handle | None:
    """How the scheduler knows the attempt; None while it has no id."""
    if attempt.scheduler_id is None:
        return None
    return Handle(attempt.scheduler_id, attempt.scheduler_name, attempt.cluster)
