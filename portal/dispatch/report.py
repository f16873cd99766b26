"""What a dispatcher found when it took over: for the log, and as a row for the administrator's page.

Nothing is guessed. A job counts once it is known what became of it: seen alive in the scheduler, in again with a new
attempt, ended, or lost. Until then it is still being looked for, and the row says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, select

from portal.dispatch.adoption import AdoptionReport
from portal.dispatch.context import Dispatch
from portal.dispatch.polling import Memory
from portal.jobs.models import Attempt, DispatcherReport, Job
from portal.jobs.states import FINAL_STATES, FailureReason, JobState

log = structlog.get_logger()

KEPT_REPORTS = 50
LONGEST = timedelta(minutes=10)
"""After this what is still not known is left open, and the report is closed."""
_GRACE_PERIODS = 3
_CHUNK = 500


@dataclass
class Findings:
    """What is known so far."""

    alive: int = 0
    """Seen in the scheduler, and gone on with."""
    waiting: int = 0
    """Accepted, and not in the scheduler at the start."""
    resubmitted: int = 0
    lost: int = 0
    ended: int = 0
    """Ended in another way, or found to have ended."""
    open: int = 0
    """Still being looked for."""
    mended: int = 0
    taken_up: int = 0
    """Directories without a row."""
    unreadable: int = 0

    @property
    def adopted(self) -> int:
        return self.alive + self.taken_up

    @property
    def detail(self) -> str:
        """In one line: `12 jobs adopted (11 in the scheduler, 1 found on disk), 2 resubmitted, 1 lost`."""
        jobs = "1 job" if self.adopted == 1 else f"{self.adopted} jobs"
        parts = [
            f"{jobs} adopted ({self.alive} in the scheduler, {self.taken_up} found on disk)",
            f"{self.resubmitted} resubmitted",
            f"{self.lost} lost",
        ]
        more = {
            "had ended": self.ended,
            "waiting to go in": self.waiting,
            "with files mended": self.mended,
            "directories unreadable": self.unreadable,
            "still looked for": self.open,
        }
        return ", ".join(parts + [f"{count} {words}" for words, count in more.items() if count])


@dataclass
class StartReport:
    """The report of one take-over, from its first turn until all is known."""

    began_at: datetime | None = None
    _before: dict[str, tuple[int, JobState]] = field(default_factory=dict)
    """The jobs that were not final: the attempt that counted, and the state."""
    _mended: int = 0
    _taken_up: int = 0
    _unreadable: int = 0
    _written: str | None = None
    _is_closed: bool = False

    def begin(self, dispatch: Dispatch, mended: int) -> None:
        """Remember what there is before anything is done; `mended` says what was not right on disk."""
        with dispatch.database.reading() as session:
            rows = session.execute(
                select(Job.job_id, Job.attempt_number, Job.state).where(Job.state.not_in(FINAL_STATES))
            )
            self._before = {row[0]: (row[1], row[2]) for row in rows}
        self._mended = mended
        self.began_at = dispatch.now()

    def note_adoption(self, report: AdoptionReport) -> None:
        """Count what was taken up from disk; what is unreadable is found again each time."""
        self._taken_up += report.adopted
        self._unreadable = max(self._unreadable, report.unreadable)

    def go_on(self, dispatch: Dispatch, memory: Memory) -> None:
        """Write down what has become known since; nothing more once all is known. Raises StorageError."""
        if self.began_at is None or self._is_closed:
            return
        findings = self._find(dispatch, memory)
        is_late = dispatch.now() - self.began_at > _patience(dispatch)
        if findings.detail != self._written:
            self._store(dispatch, findings)
            self._written = findings.detail
        if not findings.open or is_late:
            self._is_closed = True
            log.info("what was found at the start", epoch=dispatch.leadership.epoch, found=findings.detail)

    def _find(self, dispatch: Dispatch, memory: Memory) -> Findings:
        findings = Findings(mended=self._mended, taken_up=self._taken_up, unreadable=self._unreadable)
        ids = sorted(self._before)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            with dispatch.database.reading() as session:
                rows = session.execute(
                    select(Job, Attempt)
                    .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
                    .where(Job.job_id.in_(chunk))
                ).all()
            found = [(row[0], row[1]) for row in rows]
            self._count(findings, found, memory)
            findings.ended += len(chunk) - len(found)  # deleted meanwhile
        return findings

    def _count(self, findings: Findings, found: Sequence[tuple[Job, Attempt]], memory: Memory) -> None:
        for job, attempt in found:
            seen = memory.seen.get(attempt.scheduler_name)
            number, state = self._before[job.job_id]
            if job.attempt_number > number:
                findings.resubmitted += 1
            elif job.failure_reason is FailureReason.LOST:
                findings.lost += 1
            elif job.state.is_final:
                findings.ended += 1
            elif state is JobState.ACCEPTED or job.state is JobState.ACCEPTED:
                findings.waiting += 1
            elif seen is not None and seen.is_alive:
                findings.alive += 1
            else:
                findings.open += 1

    def _store(self, dispatch: Dispatch, findings: Findings) -> None:
        epoch = dispatch.leadership.epoch
        with dispatch.leadership.writing() as session:
            row = session.scalar(select(DispatcherReport).where(DispatcherReport.epoch == epoch))
            if row is None:
                row = DispatcherReport(epoch=epoch)
                session.add(row)
            row.at = dispatch.now()
            row.mended, row.adopted, row.resubmitted = findings.mended, findings.adopted, findings.resubmitted
            row.lost, row.unreadable, row.detail = findings.lost, findings.unreadable, findings.detail
            session.flush()
            session.execute(delete(DispatcherReport).where(DispatcherReport.row_id <= row.row_id - KEPT_REPORTS))


def _patience(dispatch: Dispatch) -> timedelta:
    lost_call = timedelta(seconds=dispatch.scheduler.capabilities.lost_call_seconds)
    return max(LONGEST, _GRACE_PERIODS * timedelta(seconds=dispatch.grace_seconds) + lost_call)
