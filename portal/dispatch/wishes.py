"""Carrying out what people asked for: cancellations."""

import structlog
from sqlalchemy import select

from portal.clock import Clock
from portal.dispatch.answers import doubt
from portal.dispatch.context import Dispatch, handle_of
from portal.dispatch.decide import Ended
from portal.dispatch.evidence import take_claim
from portal.dispatch.isolation import kept_apart
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
        names = {attempt.scheduler_name for _, attempt in wished}
        self._asked = {name: at for name, at in self._asked.items() if name in names}
        due = [(job, attempt) for job, attempt in wished if self._is_due(attempt)]
        self._cancel(dispatch, [attempt for job, attempt in due if job.state is not JobState.ACCEPTED])
        self._end_unsubmitted(dispatch, [(job, attempt) for job, attempt in due if job.state is JobState.ACCEPTED])
        return len(due)

    def _end_unsubmitted(self, dispatch: Dispatch, due: list[tuple[Job, Attempt]]) -> None:
        dispatch.nodes.begin_round()
        for job, attempt in due:
            if dispatch.nodes.round_is_over():
                return
            # Before it is tried: one whose folder cannot be written waits like any other.
            self._asked[attempt.scheduler_name] = self._clock.monotonic_seconds()
            with kept_apart(attempt.scheduler_name):
                _end_unsubmitted(dispatch, job, attempt)

    def _is_due(self, attempt: Attempt) -> bool:
        asked_seconds = self._asked.get(attempt.scheduler_name)
        return asked_seconds is None or self._clock.monotonic_seconds() - asked_seconds >= ASK_AGAIN_SECONDS

    def _cancel(self, dispatch: Dispatch, due: list[Attempt]) -> None:
        now_seconds = self._clock.monotonic_seconds()
        handles = {attempt.scheduler_name: handle for attempt in due if (handle := handle_of(attempt)) is not None}
        if not handles:
            return
        try:
            dispatch.scheduler.cancel(list(handles.values()))
        except SchedulerError as error:
            log.warning("the scheduler did not hear a cancellation", error=str(error))
            return
        self._asked.update(dict.fromkeys(handles, now_seconds))


def _end_unsubmitted(dispatch: Dispatch, job: Job, attempt: Attempt) -> None:
    """End what was never handed in, and take its claim, so that no start of it can come late."""
    detail = "Cancelled before it was handed to the scheduler."
    dispatch.leadership.require()
    directory = dispatch.attempt_directory(attempt)
    directory.make()
    if not take_claim(dispatch, attempt):
        doubt(dispatch, job, attempt, "It has been started all the same, and is looked up.")
        return
    ended = Ended(JobState.CANCELLED, "wish", detail, by=job.cancel_asked_by or "portal", never_started=True)
    publish_end(dispatch, job, attempt, ended, reason=detail)
