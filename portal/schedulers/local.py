"""The embedded scheduler, seen from the dispatcher: a queue in the portal's own database.

Names are unique over queue, running and history, so that handing a script in twice is handing it in once, and a
lost answer does no harm. Compute clients (`portal.schedulers.client`) take the jobs.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from portal.clock import Clock
from portal.database import Database
from portal.errors import SchedulerError, StorageError
from portal.schedulers.base import (
    Absent,
    Capabilities,
    FindAnswer,
    Found,
    Handle,
    Health,
    InDoubt,
    JobSpec,
    Observation,
    Scheduler,
    SchedulerState,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from portal.schedulers.local_tables import ClientLease, EndedJob, QueuedJob, RunningJob

log = structlog.get_logger()

LEASE_SECONDS = 12.0
"""How long a client's heart may stand still before what it had taken counts as ended by a node failure.

Longer than `client.FENCE_SECONDS`, after which a client that cannot reach the database ends its programs itself.
"""

_CHUNK = 500  # SQLite bounds the variables of one statement
_NO_LEASE = -1
"""The heartbeats of a client that is not on the list."""

_TABLES: tuple[type[QueuedJob | RunningJob | EndedJob], ...] = (QueuedJob, RunningJob, EndedJob)


class LocalScheduler(Scheduler):
    """The queue of one machine, or of several that share a PostgreSQL database and the jobs folder."""

    kind = "local"
    capabilities = Capabilities(
        has_accounting=True,
        sees_node_failures=True,
        enforces_time_limit=True,
        enforces_memory=False,
        can_exclude_nodes=False,
        lost_call_seconds=0,
    )

    def __init__(self, database: Database, clock: Clock, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._hearts: dict[str, tuple[int, float]] = {}

    def submit(self, specs: Sequence[JobSpec]) -> list[SubmitAnswer]:
        """Queue them in one transaction; a name that is known already keeps its id."""
        now = self._clock.now_utc()
        try:
            with self._database.writing() as session:
                return [Submitted(Handle(str(_queue_once(session, spec, now)), spec.name)) for spec in specs]
        except (StorageError, IntegrityError) as error:  # the latter: a twin of this dispatcher was faster
            return [InDoubt(str(error)) for _ in specs]

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What queue, running and history say. Leases that have run out are ended first."""
        try:
            self._end_dead_leases()
            with self._database.reading() as session:
                known = dict(_observations(session, [number for handle in handles if (number := _queue_id(handle))]))
        except StorageError as error:
            raise SchedulerError("The portal's own queue does not answer.", log_detail=str(error)) from error
        absent = Observation(SchedulerState.NOT_FOUND)
        answers = {}
        for handle in handles:
            name, observation = known.get(_queue_id(handle), ("", absent))
            answers[handle] = observation if name == handle.name else absent
        return answers

    def cancel(self, handles: Collection[Handle]) -> None:
        """Waiting jobs leave the queue at once; running ones are ended by their client."""
        now = self._clock.now_utc()
        try:
            with self._database.writing() as session:
                for handle in handles:
                    _cancel(session, handle, now)
        except StorageError as error:
            raise SchedulerError("The portal's own queue does not answer.", log_detail=str(error)) from error

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        """Look the names up in all three tables."""
        try:
            with self._database.reading() as session:
                return {name: _find(session, name) for name in names}
        except StorageError as error:
            return {name: Unknown(str(error)) for name in names}

    def health(self) -> Health:
        """Whether the database answers, and whether anybody works."""
        try:
            with self._database.reading() as session:
                waiting = session.scalar(select(func.count()).select_from(QueuedJob)) or 0
                running = session.scalar(select(func.count()).select_from(RunningJob)) or 0
                slots = session.scalars(select(ClientLease.slots)).all()
        except StorageError as error:
            return Health(ok=False, detail=error.visitor_message)
        if not slots:
            return Health(True, "No compute client is at work, so jobs wait.", running, waiting)
        detail = f"{len(slots)} compute client{'s' if len(slots) > 1 else ''} with {sum(slots)} slots"
        return Health(True, detail, running, waiting)

    def forget_elsewhere(self, jobs_dir: Path) -> list[str]:
        """A copy of the database that was restored elsewhere must not start scripts in the folder that it came from."""
        with self._database.writing() as session:
            rows = session.execute(select(QueuedJob.queue_id, QueuedJob.name, QueuedJob.script)).all()
            foreign = {row[0]: row[1] for row in rows if not Path(row[2]).is_relative_to(jobs_dir)}
            for queue_id in foreign:
                session.execute(delete(QueuedJob).where(QueuedJob.queue_id == queue_id))
        return list(foreign.values())

    def forget_ended(self, before: datetime, needed: Collection[str]) -> int:
        """Drop rows of the history. A name that is needed is one that may still be looked up or handed in again."""
        with self._database.reading() as session:
            old = session.execute(select(EndedJob.queue_id, EndedJob.name).where(EndedJob.ended_at < before)).all()
        doomed = [row[0] for row in old if row[1] not in needed]
        for start in range(0, len(doomed), _CHUNK):
            with self._database.writing() as session:
                session.execute(delete(EndedJob).where(EndedJob.queue_id.in_(doomed[start : start + _CHUNK])))
        return len(doomed)

    def _end_dead_leases(self) -> None:
        """A client whose heart has stood still for the length of a lease is dead, and its program died with it."""
        now_seconds = self._clock.monotonic_seconds()
        with self._database.reading() as session:
            # A job without a lease should not be; if it is, it must come to an end all the same.
            beats = dict.fromkeys(session.scalars(select(RunningJob.client_id).distinct()), _NO_LEASE)
            beats |= {row.client_id: row.heartbeats for row in session.scalars(select(ClientLease))}
        self._hearts = {
            client_id: known if (known := self._hearts.get(client_id)) and known[0] == count else (count, now_seconds)
            for client_id, count in beats.items()
        }
        dead = [
            client_id for client_id, (_, since) in self._hearts.items() if now_seconds - since >= self._lease_seconds
        ]
        if dead:
            with self._database.writing() as session:
                for client_id in dead:
                    self._end_lease(session, client_id)

    def _end_lease(self, session: Session, client_id: str) -> None:
        """End it with all that was taken under it, unless the client has beaten its heart since."""
        lease = session.get(ClientLease, client_id, with_for_update=True)
        if (lease.heartbeats if lease else _NO_LEASE) != self._hearts[client_id][0]:
            return
        if lease is not None:
            session.delete(lease)
        log.warning("a compute client is gone", client_id=client_id, node=lease.node if lease else None)
        jobs = session.scalars(select(RunningJob).where(RunningJob.client_id == client_id).with_for_update())
        for job in jobs.all():
            state = SchedulerState.CANCELLED if job.cancel_asked else SchedulerState.NODE_FAILURE
            end_job(session, job, state, self._clock.now_utc(), reason="its compute client stopped answering")


def take_next(session: Session, client_id: str, node: str, now: datetime) -> RunningJob | None:
    """Move the job that has waited longest to those that run, in the caller's transaction; None where none waits."""
    queued = session.scalar(select(QueuedJob).order_by(QueuedJob.queue_id).limit(1).with_for_update(skip_locked=True))
    if queued is None:
        return None
    running = RunningJob(**_common(queued), client_id=client_id, node=node, started_at=now, cancel_asked=False)
    session.delete(queued)
    session.add(running)
    return running


def put_back(session: Session, job: RunningJob, now: datetime) -> None:
    """Return a job whose script was certainly never started to the queue, under its id, in the caller's transaction."""
    if job.cancel_asked:
        end_job(session, job, SchedulerState.CANCELLED, now)
        return
    session.add(QueuedJob(**_common(job)))
    session.delete(job)


def end_job(
    session: Session,
    job: QueuedJob | RunningJob,
    state: SchedulerState,
    now: datetime,
    *,
    reason: str | None = None,
    exit_code: int | None = None,
    signal: int | None = None,
    ended_by_portal: bool = False,
) -> None:
    """Move a job into the history, in the caller's transaction."""
    running = job if isinstance(job, RunningJob) else None
    session.add(
        EndedJob(
            **_common(job),
            state=state,
            exit_code=exit_code,
            signal=signal,
            node=running.node if running else None,
            reason=reason,
            started_at=running.started_at if running else None,
            ended_at=now,
            ended_by_portal=ended_by_portal,
        )
    )
    session.delete(job)


def _common(job: QueuedJob | RunningJob) -> dict[str, Any]:
    """What goes along from table to table."""
    return {
        "queue_id": job.queue_id,
        "name": job.name,
        "script": job.script,
        "working_dir": job.working_dir,
        "time_limit_minutes": job.time_limit_minutes,
        "queued_at": job.queued_at,
    }


def _queue_id(handle: Handle) -> int:
    """Its id as a number; 0, which nothing has, for an id that this scheduler never gave."""
    text = handle.scheduler_id
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _queue_once(session: Session, spec: JobSpec, now: datetime) -> int:
    for table in _TABLES:
        known = session.scalar(select(table.queue_id).where(table.name == spec.name))
        if known is not None:
            return known
    row = QueuedJob(
        name=spec.name,
        script=str(spec.script),
        working_dir=str(spec.working_dir),
        time_limit_minutes=spec.time_limit_minutes,
        queued_at=now,
    )
    session.add(row)
    session.flush()
    return row.queue_id


def _observations(session: Session, ids: list[int]) -> Iterator[tuple[int, tuple[str, Observation]]]:
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        rows: list[QueuedJob | RunningJob | EndedJob] = [
            *session.scalars(select(QueuedJob).where(QueuedJob.queue_id.in_(chunk))),
            *session.scalars(select(RunningJob).where(RunningJob.queue_id.in_(chunk))),
            *session.scalars(select(EndedJob).where(EndedJob.queue_id.in_(chunk))),
        ]
        yield from ((row.queue_id, (row.name, _observation(row))) for row in rows)


def _observation(row: QueuedJob | RunningJob | EndedJob) -> Observation:
    if isinstance(row, QueuedJob):
        return Observation(SchedulerState.PENDING, "QUEUED")
    if isinstance(row, RunningJob):
        return Observation(SchedulerState.RUNNING, "RUNNING", node=row.node, started_at=row.started_at)
    return Observation(
        row.state,
        row.state.name,
        exit_code=row.exit_code,
        signal=row.signal,
        node=row.node,
        reason=row.reason,
        started_at=row.started_at,
        ended_at=row.ended_at,
        ended_by_portal=row.ended_by_portal,
    )


def _cancel(session: Session, handle: Handle, now: datetime) -> None:
    queue_id = _queue_id(handle)
    queued = session.get(QueuedJob, queue_id, with_for_update=True)
    if queued is not None and queued.name == handle.name:
        end_job(session, queued, SchedulerState.CANCELLED, now)
        return
    session.execute(
        update(RunningJob)
        .where(RunningJob.queue_id == queue_id, RunningJob.name == handle.name)
        .values(cancel_asked=True)
    )


def _find(session: Session, name: str) -> FindAnswer:
    for table in _TABLES:
        queue_id = session.scalar(select(table.queue_id).where(table.name == name))
        if queue_id is not None:
            return Found((Handle(str(queue_id), name),))
    return Absent()


def forget_lease(session: Session, client_id: str) -> None:
    """Take a client that stops off the list, in the caller's transaction."""
    session.execute(delete(ClientLease).where(ClientLease.client_id == client_id))
