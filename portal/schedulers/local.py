"""The embedded scheduler, seen from the dispatcher: a queue in the portal's own database.

Names are unique over queue, running and history, so that handing a script in twice is handing it in once, and a
lost answer does no harm. Compute clients (`portal.schedulers.client`) take the jobs.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
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

LEASE_SECONDS = 12.0
"""How long a client's heart may stand still before what it had taken counts as ended by a node failure.

Longer than `client.FENCE_SECONDS`, after which a client that cannot reach the database ends its programs itself.
"""

_CHUNK = 500  # SQLite bounds the variables of one statement

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
        except StorageError as error:
            return [InDoubt(str(error)) for _ in specs]

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What queue, running and history say. Leases that have run out are ended first."""
        try:
            self._end_dead_leases()
            with self._database.reading() as session:
                known = dict(_observations(session, [int(handle.scheduler_id) for handle in handles]))
        except StorageError as error:
            raise SchedulerError("The portal's own queue does not answer.", log_detail=str(error)) from error
        absent = ("", Observation(SchedulerState.NOT_FOUND))
        answers = {}
        for handle in handles:
            name, observation = known.get(int(handle.scheduler_id), absent)
            answers[handle] = observation if name == handle.name else absent[1]
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
            return Health(ok=False, detail=str(error))
        if not slots:
            return Health(True, "No compute client is at work, so jobs wait.", running, waiting)
        detail = f"{len(slots)} compute client{'s' if len(slots) > 1 else ''} with {sum(slots)} slots"
        return Health(True, detail, running, waiting)

    def _end_dead_leases(self) -> None:
        """A client whose heart has stood still for the length of a lease is dead, and its program died with it."""
        now_seconds = self._clock.monotonic_seconds()
        with self._database.reading() as session:
            beats = {row.client_id: row.heartbeats for row in session.scalars(select(ClientLease))}
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
        lease = session.get(ClientLease, client_id)
        if lease is None or lease.heartbeats != self._hearts[client_id][0]:
            return
        session.delete(lease)
        for job in session.scalars(select(RunningJob).where(RunningJob.client_id == client_id)).all():
            end_job(
                session,
                job,
                SchedulerState.NODE_FAILURE,
                self._clock.now_utc(),
                reason="its compute client stopped answering",
            )


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
            queue_id=job.queue_id,
            name=job.name,
            script=job.script,
            working_dir=job.working_dir,
            time_limit_minutes=job.time_limit_minutes,
            queued_at=job.queued_at,
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
    queue_id = int(handle.scheduler_id)
    queued = session.get(QueuedJob, queue_id)
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
