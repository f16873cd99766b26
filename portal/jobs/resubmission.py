"""Asking that jobs run again. What is asked for is written down; the dispatcher opens the new attempts.

What may run again: a job that has ended, by whoever may change it, and one that has not ended, by an administrator who
says `unfinished`. A job that the scheduler still has is never run again: only the dispatcher can tell, so it decides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from portal.applications.definition import Application
from portal.applications.sections import MOST_MIB, MOST_MINUTES
from portal.clock import Clock
from portal.errors import ConflictError, ForbiddenError, InvalidInputError, PortalError, StorageError
from portal.jobs import changes
from portal.jobs.access import Viewer
from portal.jobs.directory import storage_error
from portal.jobs.limits import check_limits
from portal.jobs.models import Job
from portal.jobs.service import JobService
from portal.jobs.states import WORDS
from portal.jobs.store import JobRecord
from portal.jobs.wish import ResubmitWish
from portal.settings import Settings

_MOST_NODES = 200
_CHUNK = 200


@dataclass(frozen=True)
class Changes:
    """What is to be different the next time; None is as before."""

    memory_mib: int | None = None
    time_limit_minutes: int | None = None
    exclude_nodes: tuple[str, ...] = ()


@dataclass
class ManyAsked:
    """What came of asking for many jobs at once."""

    asked: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    """Asked for before, and not yet carried out, or carried out already."""
    refused: dict[str, PortalError] = field(default_factory=dict)
    """Why not, by job."""


class Resubmission:
    """The service; it works on the same data as the job service."""

    def __init__(self, jobs: JobService, clock: Clock, settings: Settings) -> None:
        self._jobs = jobs
        self._clock = clock
        self._limits = settings.limits
        self.can_exclude_nodes = settings.scheduler.kind != "local"

    def ask(
        self,
        viewer: Viewer,
        job_id: str,
        changed: Changes | None = None,
        *,
        after_attempt: int | None = None,
        unfinished: bool = False,
    ) -> bool:
        """Record the wish that a job run again. True where it is new: a wish that stands is one.

        `after_attempt` is the attempt that whoever asks has seen: where another counts by now, this is the second
        click. Raises NotFoundError, ForbiddenError for somebody who may only look, ConflictError where the job
        cannot run again now, InvalidInputError, TooManyRequestsError and StorageError.
        """
        wish = self._wish(viewer, job_id, changed or Changes(), after_attempt, unfinished=unfinished)
        if wish is None:
            return False
        self._store([(job_id, wish)], report := ManyAsked())
        if job_id in report.refused:
            raise report.refused[job_id]
        return True

    def ask_many(
        self,
        viewer: Viewer,
        jobs: Iterable[tuple[str, int | None]],
        changed: Changes | None = None,
        *,
        unfinished: bool = False,
        dry_run: bool = False,
    ) -> ManyAsked:
        """The same for many jobs, each with the attempt that was seen; what cannot be does not hold up the others.

        A dry run records nothing. Raises InvalidInputError where what is to be different can be meant for none, and
        StorageError where the disk or the database fails: what was asked for before that stays asked for.
        """
        report = ManyAsked()
        wishes: list[tuple[str, ResubmitWish]] = []
        for job_id, after_attempt in dict(jobs).items():
            try:
                wish = self._wish(viewer, job_id, changed or Changes(), after_attempt, unfinished=unfinished)
            except (StorageError, InvalidInputError):
                raise
            except PortalError as error:
                report.refused[job_id] = error
                continue
            if wish is None:
                report.already.append(job_id)
            else:
                wishes.append((job_id, wish))
        for start in range(0, len(wishes), _CHUNK):
            chunk = wishes[start : start + _CHUNK]
            stored = chunk if dry_run else self._store(chunk, report)
            report.asked += [job_id for job_id, _ in stored]
        return report

    def _wish(
        self, viewer: Viewer, job_id: str, changed: Changes, after_attempt: int | None, *, unfinished: bool
    ) -> ResubmitWish | None:
        """The wish to be recorded; None where it was before."""
        record = self._jobs.record_for(viewer, job_id)
        job = record.job
        if not viewer.may_change(job, self._jobs.keys):
            raise ForbiddenError("This link shows the job; only who sent it in may run it again.")
        if job.resubmit_asked_at is not None or (after_attempt is not None and after_attempt < job.attempt_number):
            return None
        _check_state(viewer, job, unfinished=unfinished)
        application = self._jobs.application_of(record)
        if application is None:
            raise ConflictError("This job's application is not there any more, or broken, so it cannot run again.")
        if not viewer.is_administrator:
            with self._jobs.database.reading() as session:
                check_limits(session, job.owner, self._limits, self._clock.now_utc())
        return self._new_wish(viewer, record, changed, application, unfinished=unfinished)

    def _new_wish(
        self, viewer: Viewer, record: JobRecord, changed: Changes, application: Application, *, unfinished: bool
    ) -> ResubmitWish:
        asked = {
            name: value
            for name, value in (
                ("memory_mib", changed.memory_mib),
                ("time_limit_minutes", changed.time_limit_minutes),
            )
            if value is not None
        }
        self._check(viewer, record.job, asked, changed.exclude_nodes, application)
        return ResubmitWish(
            after_attempt=record.job.attempt_number,
            asked_at=self._clock.now_utc(),
            by=viewer.name_for(record.job),
            from_state=record.job.state,
            resources={**record.job.resources, **asked},
            changed=tuple(name for name, value in asked.items() if record.job.resources.get(name) != value),
            excluded_nodes=tuple(dict.fromkeys(changed.exclude_nodes)),
            unfinished=unfinished,
        )

    def _check(
        self, viewer: Viewer, job: Job, asked: dict[str, int], nodes: Sequence[str], application: Application
    ) -> None:
        """Raise InvalidInputError where what is to be different is more than this viewer may ask for."""
        mistakes = {}
        for name, value in asked.items():
            most = _most(viewer, job, name, application)
            if not 1 <= value <= most:
                mistakes[name] = f"{_LABELS[name]}: should be from 1 to {most:,} {_UNITS[name]}."
        if nodes and not viewer.is_administrator:
            mistakes["exclude_node"] = "Nodes to avoid: only an administrator can name them."
        elif nodes and not self.can_exclude_nodes:
            mistakes["exclude_node"] = "Nodes to avoid: the portal's own queue cannot leave nodes out."
        elif len(nodes) > _MOST_NODES:
            mistakes["exclude_node"] = f"Nodes to avoid: at most {_MOST_NODES} can be named."
        if mistakes:
            raise InvalidInputError(mistakes)

    def _store(
        self, wishes: Sequence[tuple[str, ResubmitWish]], report: ManyAsked
    ) -> Sequence[tuple[str, ResubmitWish]]:
        """On disk first, then in one commit; those that could be written down, the others are refused in `report`.

        Raises StorageError.
        """
        written = []
        for job_id, wish in wishes:
            try:
                changes.note_resubmit_wish(self._jobs.folder.job(job_id), wish)
                written.append((job_id, wish))
            except OSError as error:
                report.refused[job_id] = _not_written_down(self._jobs.folder.root, error)
        with self._jobs.database.writing() as session:
            for job_id, wish in written:
                job = session.get(Job, job_id)
                if job is None or job.resubmit_asked_at is not None or job.attempt_number != wish.after_attempt:
                    continue  # somebody else was faster
                if not job.state.is_final and not wish.unfinished:
                    continue  # it was corrected just now
                job.resubmit_asked_at = wish.asked_at
                job.resubmit_wish = wish.as_json()
                job.version += 1
        return written


def _not_written_down(root: Path, error: OSError) -> StorageError:
    return StorageError(
        "The portal cannot write to the job's directory, so the job does not run again. Please try again later.",
        log_detail=storage_error(root, error).log_detail,
    )


def _check_state(viewer: Viewer, job: Job, *, unfinished: bool) -> None:
    if job.state.is_final:
        if unfinished:
            raise ConflictError("This job has ended.")
        return
    if not unfinished:
        raise ConflictError(
            f"This job has not ended: it is {WORDS[job.state].lower()}. It can run again once it has ended."
        )
    if not viewer.is_administrator:
        raise ForbiddenError("Only an administrator can run a job again that has not ended.")
    if job.cancel_asked_at is not None:
        raise ConflictError("This job's cancellation has been asked for.")


def _most(viewer: Viewer, job: Job, name: str, application: Application) -> int:
    """How much this viewer may ask for: administrators what can be meant at all, others what the application allows."""
    if viewer.is_administrator:
        return {"memory_mib": MOST_MIB, "time_limit_minutes": MOST_MINUTES}[name]
    usual, most = getattr(application.resources, name), getattr(application.resources, f"{name}_max")
    return max(int(most or usual), int(job.resources.get(name, 0)))


_LABELS = {"memory_mib": "Memory", "time_limit_minutes": "Time limit"}
_UNITS = {"memory_mib": "MiB", "time_limit_minutes": "minutes"}
