"""The compute client: takes jobs from the embedded scheduler's queue and runs their scripts on this machine.

It holds a lease by beating a heart in the database. Each script gets the read end of a pipe whose only writer is
this process: when the client dies, by whatever means, the wrapper sees the pipe close and ends every descendant.
A client that cannot reach the database for `FENCE_SECONDS` ends its programs itself, before its lease can run out
and the jobs can start elsewhere.

A row of `job_running` that bears our name and has no work was taken, and nothing was started: the answer to the
commit was lost, or this machine was short of something. It goes back to the queue.
"""

import errno
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from portal.clock import Clock
from portal.database import Database
from portal.errors import StorageError
from portal.node.descendants import become_subreaper
from portal.schedulers.base import SchedulerState
from portal.schedulers.local import end_job, forget_lease, put_back, take_next
from portal.schedulers.local_tables import ClientLease, QueuedJob, RunningJob
from portal.schedulers.orphans import children_of_this_process, end_orphans
from portal.schedulers.work import Cause, End, Work, end_of, start_script

log = structlog.get_logger()

LOOK_SECONDS = 0.25
"""How often the client looks for work, for wishes to cancel, and for what has ended."""
BEAT_SECONDS = 2.0
FENCE_SECONDS = 8.0
RECORD_SECONDS = 10.0
"""How long a client that was stopped tries to write down ends in a database that does not answer."""
SHORTAGE_SECONDS = 5.0
"""How long nothing is taken after this machine had too little of something to start a script."""

_SHORTAGES = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
)
"""They say nothing about the job: it waits until somebody can start it."""


class ComputeClient:
    """One client process with a number of slots."""

    def __init__(self, database: Database, clock: Clock, *, node: str, slots: int, stop_seconds: float) -> None:
        self._database = database
        self._clock = clock
        self._node = node
        self._slots = slots
        self._stop_seconds = stop_seconds
        # A lease runs on while a laptop is shut, unless its observer is on the same laptop, as with SQLite.
        self._time_id = time.CLOCK_MONOTONIC if database.is_sqlite else time.CLOCK_BOOTTIME
        self._client_id = ""
        self._works: list[Work] = []
        self._lock = threading.Lock()  # the fence thread looks at _works and _last_beat_seconds
        self._last_beat_seconds = self._now_seconds()
        self._next_beat_seconds = 0.0
        self._next_take_seconds = 0.0
        self._spared: set[int] = set()
        """Children of this process that are not ours to end, or cannot be ended."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then take nothing more, and give what runs `stop_seconds` to end by itself."""
        self._spared = children_of_this_process()
        if not become_subreaper():
            log.warning("what a killed wrapper leaves behind cannot be ended on this system")
        ended = threading.Event()
        fence = threading.Thread(target=self._fence, args=(ended,), name="fence", daemon=True)
        fence.start()
        log.info("compute client at work", node=self._node, slots=self._slots)
        while not stop.is_set():
            self._turn(stop)
            stop.wait(LOOK_SECONDS)
        self._finish(stop)
        ended.set()
        fence.join()
        log.info("compute client stopped", node=self._node)

    def _now_seconds(self) -> float:
        return time.clock_gettime(self._time_id)

    def _finish(self, stop: threading.Event) -> None:
        give_up_seconds = self._now_seconds() + self._stop_seconds
        while self._works:
            if self._now_seconds() >= give_up_seconds:
                self._cut_all(Cause.STOPPING)
            self._turn(stop)
            if self._now_seconds() >= give_up_seconds + RECORD_SECONDS and all(w.has_ended() for w in self._works):
                break
            time.sleep(LOOK_SECONDS if self._works else 0)
        try:
            with self._database.writing() as session:
                self._put_back(session, self._own_rows(session))
                forget_lease(session, self._client_id)
        except StorageError as error:
            log.warning("the lease could not be given back; it runs out by itself", error=str(error))

    def _turn(self, stop: threading.Event) -> None:
        """One look at everything. A database that fails is tried again the next time."""
        hears = self._try(self._hear)
        with self._lock:
            for work in self._works:
                work.press(self._now_seconds())
        self._settle_ended()
        if hears:
            self._try(partial(self._take_jobs, stop))

    def _try(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except StorageError as error:
            log.warning("the queue does not answer", error=str(error))
            return False
        return True

    def _hear(self) -> None:
        self._beat_if_due()
        self._hear_wishes()

    def _beat_if_due(self) -> None:
        started_seconds = self._now_seconds()
        if started_seconds < self._next_beat_seconds:
            return
        with self._database.writing() as session:
            if not self._renew_lease(session):
                self._cut_all(Cause.LEASE_LOST)
                self._register(session)
        self._note_beat(started_seconds)

    def _renew_lease(self, session: Session) -> bool:
        """Beat. False where the lease has gone; where not, nobody ends it before this transaction ends."""
        beaten = session.execute(
            update(ClientLease)
            .where(ClientLease.client_id == self._client_id)
            .values(heartbeats=ClientLease.heartbeats + 1)
            .returning(ClientLease.client_id)
        )
        return beaten.first() is not None

    def _register(self, session: Session) -> None:
        self._client_id = secrets.token_hex(8)
        started_at = self._clock.now_utc()
        session.add(ClientLease(client_id=self._client_id, node=self._node, slots=self._slots, started_at=started_at))

    def _note_beat(self, started_seconds: float) -> None:
        """From the start of the transaction: the lease began at its commit, at the earliest then."""
        with self._lock:
            self._last_beat_seconds = started_seconds
        self._next_beat_seconds = started_seconds + BEAT_SECONDS

    def _hear_wishes(self) -> None:
        """Cancel what is to be cancelled, end what is not ours any more, and give back what was never started."""
        with self._database.reading() as session:
            rows = {row.queue_id: row for row in self._own_rows(session)}
        now_seconds = self._now_seconds()
        with self._lock:
            for work in self._works:
                row = rows.pop(work.queue_id, None)
                if row is None:
                    work.cut(Cause.LEASE_LOST, now_seconds)
                elif row.cancel_asked:
                    work.tell(Cause.CANCELLED, now_seconds)
        if rows:
            with self._database.writing() as session:
                self._put_back(session, [row for row in self._own_rows(session) if row.queue_id in rows])

    def _own_rows(self, session: Session) -> list[RunningJob]:
        return list(session.scalars(select(RunningJob).where(RunningJob.client_id == self._client_id)))

    def _put_back(self, session: Session, rows: list[RunningJob]) -> None:
        at_work = {work.queue_id for work in self._works}
        for row in rows:
            if row.queue_id not in at_work:
                log.warning("a job that was taken and not started goes back", name=row.name, queue_id=row.queue_id)
                put_back(session, row, self._clock.now_utc())

    def _take_jobs(self, stop: threading.Event) -> None:
        while not stop.is_set() and len(self._works) < self._slots and self._now_seconds() >= self._next_take_seconds:
            job = self._take_one()
            if job is None:
                return
            self._start(job)

    def _take_one(self) -> RunningJob | None:
        """Move the oldest waiting job to `job_running`: the transaction is what makes it ours and nobody else's."""
        with self._database.reading() as session:
            if session.scalar(select(QueuedJob.queue_id).limit(1)) is None:
                return None
        started_seconds = self._now_seconds()
        with self._database.writing() as session:
            if not self._renew_lease(session):
                return None
            job = take_next(session, self._client_id, self._node, self._clock.now_utc())
        self._note_beat(started_seconds)
        return job

    def _start(self, job: RunningJob) -> None:
        try:
            process, lifeline = start_script(Path(job.script), Path(job.working_dir), str(job.queue_id))
        except OSError as error:
            self._record_no_start(job, error)
            return
        deadline_seconds = self._now_seconds() + job.time_limit_minutes * 60
        with self._lock:
            self._works.append(Work(job.queue_id, job.name, process, lifeline, deadline_seconds))
        log.info("job started", name=job.name, queue_id=job.queue_id)

    def _record_no_start(self, job: RunningJob, error: OSError) -> None:
        """The job has failed; where this machine is short of something, it goes back at the next turn instead."""
        log.warning("a script could not be started", name=job.name, error=str(error))
        if error.errno in _SHORTAGES:
            self._next_take_seconds = self._now_seconds() + SHORTAGE_SECONDS
            return
        self._record_end(job.queue_id, End(SchedulerState.FAILED, f"it could not be started: {error.strerror}"))

    def _settle_ended(self) -> None:
        """Write down what has ended. What cannot be written down stays, and is tried again."""
        ended = [work for work in self._works if work.has_ended()]
        if not ended:
            return
        for work in ended:
            work.close()
        self._end_orphans(ended)
        for work in ended:
            end = end_of(work)
            try:
                self._record_end(work.queue_id, end)
            except StorageError as error:
                log.warning("an end could not be written down yet", name=work.name, error=str(error))
                return
            with self._lock:
                self._works.remove(work)
            log.info("job ended", name=work.name, state=end.state.value, reason=end.reason, exit_code=end.exit_code)

    def _end_orphans(self, ended: list[Work]) -> None:
        """A wrapper that was killed leaves its descendants to us, their next subreaper."""
        alive = {work.process.pid for work in self._works if not work.has_ended()}
        orphans = end_orphans(alive | self._spared)
        if orphans.ended:
            names = [work.name for work in ended]
            log.warning("what a wrapper had left running was ended", names=names, pids=sorted(orphans.ended))
            for work in ended:
                work.left_orphans = True
        if orphans.stuck:
            log.error("processes of a job could not be ended", pids=sorted(orphans.stuck))
            self._spared |= orphans.stuck

    def _record_end(self, queue_id: int, end: End) -> None:
        """Unless the lease on it has gone: then somebody else has written how it ended."""
        with self._database.writing() as session:
            own = RunningJob.queue_id == queue_id, RunningJob.client_id == self._client_id
            job = session.scalar(select(RunningJob).where(*own).with_for_update())
            if job is not None:
                end_job(
                    session,
                    job,
                    end.state,
                    self._clock.now_utc(),
                    reason=end.reason,
                    exit_code=end.exit_code,
                    signal=end.signal,
                    ended_by_portal=end.by_portal,
                )

    def _cut_all(self, cause: Cause) -> None:
        with self._lock:
            for work in self._works:
                work.cut(cause, self._now_seconds())

    def _fence(self, ended: threading.Event) -> None:
        """End everything when the heart could not be beaten for too long, even while the main thread hangs."""
        while not ended.wait(LOOK_SECONDS):
            with self._lock:
                now_seconds = self._now_seconds()
                if now_seconds - self._last_beat_seconds >= FENCE_SECONDS:
                    for work in self._works:
                        work.cut(Cause.LEASE_LOST, now_seconds)
                        work.press(now_seconds)
