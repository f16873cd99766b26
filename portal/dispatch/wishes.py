"""Carrying out what people asked for: cancellations."""

import structlog
from sqlalchemy import select

from portal.clock import Clock
from portal.dispatch.context import Dispatch, handle_of
from portal.dispatch.decide import Ended
from portal.dispatch.publication import publish_end
from portal.errors import SchedulerError
from portal.jobs.models import Attempt, Job
from portal.jobs.states import FINAL_STATES, JobState

log = structlog.get_logger()

ASK_AGAIN_SECONDS = 30.0
"""When a scheduler that was asked to cancel a job, and still has it, is asked again."""


class Wishes:
    """Cancels, and remembers which jobs it has asked the scheduler about."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[str, float] = {}

    def carry_out(self, dispatch: Dispatch) -> int:
        """Cancel what is to be cancelled; how many wishes were acted upon.

        A job that was never handed in ends at once. One in the scheduler is cancelled there, and ends by the
        scheduler's word like any other; one whose submission is in doubt waits until that is settled.
        """
        with dispatch.database.reading() as session:
            rows = session.execute(
                select(Job, Attempt)
                .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
                .where(Job.cancel_asked_at.is_not(None), Job.state.not_in(FINAL_STATES))
            ).all()
        wished = [(row[0], row[1]) for row in rows]
        for job, attempt in wished:
            if job.state is JobState.ACCEPTED:
                self._end_unsubmitted(dispatch, job, attempt)
        names = {attempt.scheduler_name for _, attempt in wished}
        self._asked = {name: at for name, at in self._asked.items() if name in names}
        self._cancel(dispatch, [attempt for job, attempt in wished if job.state is not JobState.ACCEPTED])
        return len(wished)

    def _end_unsubmitted(self, dispatch: Dispatch, job: Job, attempt: Attempt) -> None:
        detail = "Cancelled before it was handed to the scheduler."
        by = job.cancel_asked_by or "portal"
        try:
            dispatch.attempt_directory(attempt).make()
            publish_end(
                dispatch,
                job,
                attempt,
                Ended(JobState.CANCELLED, "wish", detail, by=by, never_started=True),
                reason=detail,
            )
        except OSError as error:
            log.warning("a cancellation cannot be written yet", job_id=job.job_id, error=str(error))

    def _cancel(self, dispatch: Dispatch, attempts: list[Attempt]) -> None:
        now_seconds = self._clock.monotonic_seconds()
        due = [
            attempt
            for attempt in attempts
            if now_seconds - self._asked.get(attempt.scheduler_name, -ASK_AGAIN_SECONDS) >= ASK_AGAIN_SECONDS
        ]
        handles = {attempt.scheduler_name: handle for attempt in due if (handle := handle_of(attempt)) is not None}
        if not handles:
            return
        try:
            dispatch.scheduler.cancel(list(handles.values()))
        except SchedulerError as error:
            log.warning("the scheduler did not hear a cancellation", error=str(error))
            return
        self._asked.update(dict.fromkeys(handles, now_seconds))
