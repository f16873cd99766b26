"""What the pages say of the scheduler. They never ask it: the dispatcher writes down what it last heard."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from portal.jobs.store import read_health
from portal.web.context import web

_SHORTEST_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class SchedulerStatus:
    """One reading of the scheduler's health."""

    kind: Literal["answering", "silent", "unattended", "unknown"]
    """silent: asked, and no answer. unattended: the dispatcher has stopped asking. unknown: it has never run."""
    since: datetime | None = None
    """When it last answered; where it is silent, since when."""
    running: int | None = None
    waiting: int | None = None
    problem: str = ""
    """What is wrong, in a plain sentence, where it is silent and more is known than that."""
    accounting_silent_since: datetime | None = None
    """Where it answers and its accounting, which was needed, does not: since when."""

    @property
    def is_trouble(self) -> bool:
        """Whether pages of jobs should say so at the top."""
        return self.kind in ("silent", "unattended")


def scheduler_status() -> SchedulerStatus:
    """What is known now. Raises StorageError."""
    with web().jobs.database.reading() as session:
        health = read_health(session)
    if health is None:
        return SchedulerStatus("unknown")
    patience = max(_SHORTEST_SILENCE_SECONDS, 10 * web().settings.scheduler.poll_seconds)
    if web().clock.now_utc() - health.asked_at > timedelta(seconds=patience):
        return SchedulerStatus("unattended", health.asked_at, health.running, health.waiting)
    if health.silent_since is not None:
        problem = "" if "does not answer at the moment" in health.detail else health.detail
        return SchedulerStatus("silent", health.silent_since, health.running, health.waiting, problem)
    return SchedulerStatus(
        "answering",
        health.answered_at,
        health.running,
        health.waiting,
        accounting_silent_since=health.accounting_silent_since,
    )
