"""The compute client: takes jobs from the embedded scheduler's queue and runs their scripts on this machine.

It holds a lease by beating a heart in the database. Each script gets the read end of a pipe whose only writer is
this process: when the client dies, by whatever means, the wrapper sees the pipe close and ends every descendant.
A client that cannot reach the database for `FENCE_SECONDS` ends its programs itself, before its lease can run out
and the jobs can start elsewhere.
"""

import os
import secrets
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import IO

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from portal.clock import Clock
from portal.database import Database
from portal.errors import StorageError
from portal.node.descendants import become_subreaper
from portal.schedulers.base import SchedulerState
from portal.schedulers.local import end_job, forget_lease
from portal.schedulers.local_tables import ClientLease, QueuedJob, RunningJob
from portal.schedulers.orphans import end_orphans

log = structlog.get_logger()

LOOK_SECONDS = 0.25
"""How often the client looks for work, for wishes to cancel, and for what has ended."""
BEAT_SECONDS = 2.0
FENCE_SECONDS = 8.0
TERM_SECONDS = 5.0
"""What a program gets between SIGTERM and its end, at the time limit or when it is cancelled."""
WRAPPER_SECONDS = 3.0
"""What a wrapper gets to end its descendants after its pipe was closed, before it is killed itself."""

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ")
_SCHEDULER_OUTPUT = "scheduler.out"


class Cause(Enum):
    """Why the client itself ends a program."""

    CANCELLED = auto()
    TIME_LIMIT = auto()
    STOPPING = auto()
    LEASE_LOST = auto()


@dataclass
class Work:
    """One script that runs."""

    queue_id: int
    name: str
    process: subprocess.Popen[bytes]
    lifeline: IO[bytes] | None
    """The write end of the pipe; closing it ends the program and all its descendants."""
    deadline_seconds: float
    """Its time limit, on the boot clock."""
    cause: Cause | None = None
    term_seconds: float | None = None
    """When it was told to end."""
    cut_seconds: float | None = None
    """When its pipe was closed."""

    def tell(self, cause: Cause) -> None:
        """Ask the program to end, once."""
        if self.cause is None:
            self.cause = cause
            self.term_seconds = boot_seconds()
            self.process.send_signal(signal.SIGTERM)

    def cut(self, cause: Cause) -> None:
        """End the program and all its descendants now."""
        self.cause = self.cause or cause
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None
            self.cut_seconds = boot_seconds()


def boot_seconds() -> float:
    """Seconds since the machine started, sleep included: a lease runs on while a laptop is shut."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ComputeClient:
    """One client process with a number of slots."""

    def __init__(self, database: Database, clock: Clock, *, node: str, slots: int, stop_seconds: float) -> None:
        self._database = database
        self._clock = clock
        self._node = node
        self._slots = slots
        self._stop_seconds = stop_seconds
        self._client_id = ""
        self._works: list[Work] = []
        self._lock = threading.Lock()  # the fence thread looks at _works and _last_beat_seconds
        self._last_beat_seconds = boot_seconds()
        self._next_beat_seconds = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then take nothing more, and give what runs `stop_seconds` to end by itself."""
        become_subreaper()
        ended = threading.Event()
        fence = threading.Thread(target=self._fence, args=(ended,), name="fence", daemon=True)
        fence.start()
        log.info("compute client at work", node=self._node, slots=self._slots)
        while not stop.is_set():
            self._turn(takes_jobs=True)
            stop.wait(LOOK_SECONDS)
        self._finish()
        ended.set()
        fence.join()
        log.info("compute client stopped", node=self._node)

    def _finish(self) -> None:
        give_up_seconds = boot_seconds() + self._stop_seconds
        while self._works:
            if boot_seconds() >= give_up_seconds:
                self._cut_all(Cause.STOPPING)
            self._turn(takes_jobs=False)
            time.sleep(LOOK_SECONDS if self._works else 0)
        try:
            with self._database.writing() as session:
                forget_lease(session, self._client_id)
        except StorageError as error:
            log.warning("the lease could not be given back; it runs out by itself", error=str(error))

    def _turn(self, *, takes_jobs: bool) -> None:
        """One look at everything. A database that fails is tried again the next time."""
        try:
            self._beat_if_due()
            self._hear_wishes()
            if takes_jobs:
                self._take_jobs()
        except StorageError as error:
            log.warning("the queue does not answer", error=str(error))
        self._keep_limits()
        self._settle_ended()

    def _beat_if_due(self) -> None:
        if boot_seconds() < self._next_beat_seconds:
            return
        started_seconds = boot_seconds()
        with self._database.writing() as session:
            known = session.execute(
                update(ClientLease)
                .where(ClientLease.client_id == self._client_id)
                .values(heartbeats=ClientLease.heartbeats + 1)
                .returning(ClientLease.client_id)
            ).all()
            if not known:
                self._cut_all(Cause.LEASE_LOST)
                self._client_id = secrets.token_hex(8)
                session.add(
                    ClientLease(
                        client_id=self._client_id,
                        node=self._node,
                        slots=self._slots,
                        started_at=self._clock.now_utc(),
                    )
                )
        with self._lock:
            self._last_beat_seconds = started_seconds
        self._next_beat_seconds = started_seconds + BEAT_SECONDS

    def _take_jobs(self) -> None:
        while len(self._works) < self._slots:
            job = self._take_one()
            if job is None:
                return
            self._start(job)

    def _take_one(self) -> RunningJob | None:
        """Move the oldest waiting job to `job_running`: the transaction is what makes it ours and nobody else's."""
        with self._database.reading() as session:
            if session.scalar(select(QueuedJob.queue_id).limit(1)) is None:
                return None
        with self._database.writing() as session:
            if session.get(ClientLease, self._client_id) is None:
                return None
            queued = session.scalar(
                select(QueuedJob).order_by(QueuedJob.queue_id).limit(1).with_for_update(skip_locked=True)
            )
            if queued is None:
                return None
            running = RunningJob(
                queue_id=queued.queue_id,
                name=queued.name,
                script=queued.script,
                working_dir=queued.working_dir,
                time_limit_minutes=queued.time_limit_minutes,
                queued_at=queued.queued_at,
                client_id=self._client_id,
                node=self._node,
                started_at=self._clock.now_utc(),
            )
            session.delete(queued)
            session.add(running)
            return running

    def _start(self, job: RunningJob) -> None:
        try:
            process, lifeline = start_script(Path(job.script), Path(job.working_dir), str(job.queue_id))
        except OSError as error:
            log.warning("a script could not be started", name=job.name, error=str(error))
            self._record_end(job.queue_id, SchedulerState.FAILED, reason=f"it could not be started: {error.strerror}")
            return
        deadline_seconds = boot_seconds() + job.time_limit_minutes * 60
        with self._lock:
            self._works.append(Work(job.queue_id, job.name, process, lifeline, deadline_seconds))
        log.info("job started", name=job.name, queue_id=job.queue_id)

    def _hear_wishes(self) -> None:
        if not self._works:
            return
        with self._database.reading() as session:
            rows = session.execute(
                select(RunningJob.queue_id, RunningJob.cancel_asked).where(RunningJob.client_id == self._client_id)
            ).all()
        wishes = dict(row.tuple() for row in rows)
        for work in self._works:
            if work.queue_id not in wishes:
                work.cut(Cause.LEASE_LOST)
            elif wishes[work.queue_id]:
                work.tell(Cause.CANCELLED)

    def _keep_limits(self) -> None:
        now_seconds = boot_seconds()
        for work in self._works:
            if now_seconds >= work.deadline_seconds:
                work.tell(Cause.TIME_LIMIT)
            if work.term_seconds is not None and now_seconds - work.term_seconds >= TERM_SECONDS:
                work.cut(work.cause or Cause.TIME_LIMIT)
            if work.cut_seconds is not None and now_seconds - work.cut_seconds >= WRAPPER_SECONDS:
                work.process.kill()

    def _settle_ended(self) -> None:
        """Write down what has ended. One that cannot be written down stays, and is tried again."""
        for work in list(self._works):
            if work.process.poll() is None:
                continue
            if work.lifeline is not None:
                work.lifeline.close()
            # A wrapper that was killed leaves its descendants to us, their next subreaper.
            end_orphans({other.process.pid for other in self._works if other.process.returncode is None})
            state, reason = _end_of(work)
            code = work.process.returncode
            try:
                self._record_end(
                    work.queue_id,
                    state,
                    reason=reason,
                    exit_code=code if code >= 0 else None,
                    signal_number=-code if code < 0 else None,
                    ended_by_portal=work.cause is Cause.STOPPING,
                )
            except StorageError as error:
                log.warning("an end could not be written down yet", name=work.name, error=str(error))
                continue
            with self._lock:
                self._works.remove(work)
            log.info("job ended", name=work.name, state=state.value, exit_code=code)

    def _record_end(
        self,
        queue_id: int,
        state: SchedulerState,
        *,
        reason: str | None,
        exit_code: int | None = None,
        signal_number: int | None = None,
        ended_by_portal: bool = False,
    ) -> None:
        with self._database.writing() as session:
            job = _own_job(session, queue_id, self._client_id)
            if job is not None:
                end_job(
                    session,
                    job,
                    state,
                    self._clock.now_utc(),
                    reason=reason,
                    exit_code=exit_code,
                    signal=signal_number,
                    ended_by_portal=ended_by_portal,
                )

    def _cut_all(self, cause: Cause) -> None:
        with self._lock:
            for work in self._works:
                work.cut(cause)

    def _fence(self, ended: threading.Event) -> None:
        """End everything when the heart could not be beaten for too long, even while the main thread hangs."""
        while not ended.wait(LOOK_SECONDS):
            with self._lock:
                silent_seconds = boot_seconds() - self._last_beat_seconds
                if silent_seconds >= FENCE_SECONDS:
                    for work in self._works:
                        work.cut(Cause.LEASE_LOST)


def start_script(script: Path, working_dir: Path, scheduler_id: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a batch script in its folder; its own output goes to `scheduler.out` there.

    Returns the process and the write end of its lifeline. Raises OSError where it cannot be started.
    """
    read_end, write_end = os.pipe()  # neither is inherited by any other child
    try:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"LANG": "C.UTF-8", "PORTAL_SCHEDULER_ID": scheduler_id, "PORTAL_LIFELINE_FD": str(read_end)}
        with (working_dir / _SCHEDULER_OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", str(script)],
                cwd=working_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[read_end],
                start_new_session=True,
            )
    except OSError:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return process, os.fdopen(write_end, "wb", buffering=0)


def _own_job(session: Session, queue_id: int, client_id: str) -> RunningJob | None:
    """The row, unless the lease on it has gone: then somebody else has written how it ended."""
    return session.scalar(select(RunningJob).where(RunningJob.queue_id == queue_id, RunningJob.client_id == client_id))


def _end_of(work: Work) -> tuple[SchedulerState, str | None]:
    if work.cause is Cause.TIME_LIMIT:
        return SchedulerState.TIME_LIMIT, "its time limit was reached"
    if work.cause is Cause.CANCELLED:
        return SchedulerState.CANCELLED, None
    if work.process.returncode == 0:
        return SchedulerState.COMPLETED, None
    if work.cause is Cause.STOPPING:
        return SchedulerState.PREEMPTED, "the portal was stopped while it ran"
    if work.cause is Cause.LEASE_LOST:
        return SchedulerState.NODE_FAILURE, "its compute client lost touch with the queue"
    return SchedulerState.FAILED, None
