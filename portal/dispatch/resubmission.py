"""Carrying out the wish that a job run again.

The claim of the old attempt is taken first, so that a late start of it exits, and what the scheduler may still have
of it is cancelled. A job that had not ended when it was asked for runs again only where the scheduler answers, does
not have it, and its program, if it ever began, is seen to have stopped.
"""

from collections.abc import Mapping

import structlog
from sqlalchemy import select

from portal.clock import Clock
from portal.dispatch.context import Dispatch, handle_of
from portal.dispatch.decide import Ended
from portal.dispatch.evidence import Hearts, gather_evidence, take_claim
from portal.dispatch.isolation import kept_apart
from portal.dispatch.next_attempt import attempt_after_wish, go_on_with
from portal.dispatch.polling import correct
from portal.dispatch.publication import publish_end, withdraw_markers
from portal.dispatch.records import read_record, write_verdict
from portal.errors import SchedulerError
from portal.jobs.changes import forget_resubmit_wish
from portal.jobs.models import Attempt, Job, JobResult
from portal.jobs.states import CORRECTABLE_REASONS, RESUBMITTABLE_REASONS, FailureReason, JobState
from portal.jobs.store import Change, add_event
from portal.jobs.wish import ResubmitWish
from portal.schedulers.base import Found, Handle, Observation, SchedulerState, Unknown

log = structlog.get_logger()

BATCH = 100
"""Wishes that are looked at in one turn; between two turns everything else gets its own."""
LOOK_AGAIN_SECONDS = 5.0
"""When a wish that cannot be carried out yet is looked at again."""

_Asked = tuple[Job, Attempt, ResubmitWish]


class Resubmissions:
    """Opens the attempts that people asked for, and remembers when it last tried."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hearts = Hearts(clock)
        self._tried: dict[str, float] = {}

    def carry_out(self, dispatch: Dispatch) -> int:
        """Look at the wishes that are due; how many were looked at."""
        pending = _pending(dispatch)
        names = {attempt.scheduler_name for _, attempt, _ in pending}
        self._tried = {name: at for name, at in self._tried.items() if name in names}
        due = [asked for asked in pending if self._is_due(asked[1])][:BATCH]
        if not due:
            return 0
        dispatch.leadership.require()
        observations = _observe(dispatch, due)
        dispatch.nodes.begin_round()
        for job, attempt, wish in due:
            if dispatch.nodes.round_is_over():
                break
            self._tried[attempt.scheduler_name] = self._clock.monotonic_seconds()
            with kept_apart(attempt.scheduler_name):
                self._carry_out(dispatch, job, attempt, wish, observations)
        return len(due)

    def _is_due(self, attempt: Attempt) -> bool:
        tried_seconds = self._tried.get(attempt.scheduler_name)
        return tried_seconds is None or self._clock.monotonic_seconds() - tried_seconds >= LOOK_AGAIN_SECONDS

    def _carry_out(
        self,
        dispatch: Dispatch,
        job: Job,
        attempt: Attempt,
        wish: ResubmitWish,
        observations: Mapping[Handle, Observation],
    ) -> None:
        if wish.after_attempt != attempt.number:
            _drop(dispatch, job, wish, None)
        elif job.state.is_final:
            _run_again(dispatch, job, attempt, wish)
        elif job.cancel_asked_at is not None:
            _drop(dispatch, job, wish, "its cancellation was asked for since")
        elif job.state is JobState.ACCEPTED:
            _change_unsubmitted(dispatch, job, wish)
        elif (handle := handle_of(attempt)) is None:
            _settle_in_doubt(dispatch, job, attempt, wish)
        else:
            unknown = Observation(SchedulerState.UNKNOWN)
            self._settle_submitted(dispatch, job, attempt, wish, observations.get(handle, unknown))

    def _settle_submitted(
        self, dispatch: Dispatch, job: Job, attempt: Attempt, wish: ResubmitWish, seen: Observation
    ) -> None:
        """Run again what the scheduler had, once it says that it has it no more, and nothing else says how it ended."""
        if seen.state.is_alive:
            _drop(dispatch, job, wish, f"it is alive in the scheduler ({seen.raw_state or seen.state.name})")
            return
        if seen.state.is_final:
            return  # polling tells the end, and by its reason this is judged
        grace_is_over = attempt.end_seen_at is not None and (
            (dispatch.now() - attempt.end_seen_at).total_seconds() >= dispatch.grace_seconds
        )
        if seen.state is SchedulerState.UNKNOWN or not grace_is_over:
            return
        evidence = gather_evidence(dispatch, attempt, has_ended=True)
        if evidence is None or evidence.tells_the_end:
            return  # polling tells the end
        files = dispatch.attempt_directory(attempt)
        was_started = evidence.claim is not None and evidence.claim.by == "wrapper"
        if was_started and not self._hearts.has_stopped(files, attempt, dispatch.grace_seconds):
            return
        _replace(dispatch, job, attempt, wish, was_started=was_started)
        self._hearts.forget(attempt)


def _pending(dispatch: Dispatch) -> list[_Asked]:
    with dispatch.database.reading() as session:
        rows = session.execute(
            select(Job, Attempt)
            .join(Attempt, (Attempt.job_id == Job.job_id) & (Attempt.number == Job.attempt_number))
            .where(Job.resubmit_asked_at.is_not(None), Job.delete_asked_at.is_(None))
            .order_by(Job.resubmit_asked_at, Job.job_id)
        ).all()
    pending = []
    for job, attempt in rows:
        wish = ResubmitWish.from_json(job.resubmit_wish)
        if wish is not None:
            pending.append((job, attempt, wish))
    return pending


def _observe(dispatch: Dispatch, due: list[_Asked]) -> Mapping[Handle, Observation]:
    """What the scheduler says of those that have not ended; empty where it does not answer."""
    handles = [handle for job, attempt, _ in due if not job.state.is_final and (handle := handle_of(attempt))]
    try:
        return dispatch.scheduler.observe(handles) if handles else {}
    except SchedulerError as error:
        log.warning("the scheduler was not heard of jobs that are to run again", error=str(error))
        return {}


def _run_again(dispatch: Dispatch, job: Job, attempt: Attempt, wish: ResubmitWish) -> None:
    """Open a new attempt of a job that has ended."""
    if job.state is JobState.SUCCEEDED and wish.from_state is not JobState.SUCCEEDED:
        _drop(dispatch, job, wish, "it has succeeded since")
        return
    if wish.unfinished and job.failure_reason not in RESUBMITTABLE_REASONS:
        _drop(dispatch, job, wish, "it has ended by itself since")
        return
    may_be_corrected = job.failure_reason in CORRECTABLE_REASONS
    if may_be_corrected and correct(dispatch, job, attempt):
        return  # the next look judges by what it really was
    if not _put_out_of_the_way(dispatch, attempt, may_be_alive=job.failure_reason in RESUBMITTABLE_REASONS):
        return
    following = attempt_after_wish(dispatch, attempt, wish)
    files = dispatch.attempt_directory(attempt)
    verdict = read_record(files.verdict)
    if verdict is not None:
        # Unlike an attempt that the policy replaces, this one has been told of, or is going to be.
        promised = {"next_attempt": following.number, "next_excluded_nodes": following.excluded_nodes, "told": True}
        write_verdict(files, {**verdict, **promised}, dispatch.leadership)
    # A wrapper writes how the program ended and then looks at the verdict; here it is the other way round.
    if may_be_corrected and correct(dispatch, job, attempt):
        return
    withdraw_markers(dispatch.folder.job(job.job_id))
    with dispatch.leadership.writing() as session:
        row = session.get_one(Job, job.job_id, with_for_update=True)
        if row.resubmit_asked_at is None or row.attempt_number != attempt.number or not row.state.is_final:
            return
        if row.delete_asked_at is not None:
            return  # in this very moment
        # What the next attempt is going to bring must not stand beside what this one brought.
        result = session.get(JobResult, job.job_id)
        if result is not None:
            session.delete(result)
        go_on_with(session, row, following, Change(dispatch.now(), "wish", _words(wish), wish.by), wish)
    log.info("job runs again", job_id=job.job_id, attempt=following.number, by=wish.by)


def _put_out_of_the_way(dispatch: Dispatch, attempt: Attempt, *, may_be_alive: bool) -> bool:
    """Make sure that the old attempt starts no more, and cancel it where the scheduler may still have it.

    False where the scheduler did not hear that: then it is tried again. Raises OSError and NodesUnreachableError.
    """
    dispatch.attempt_directory(attempt).make()
    # Where a wrapper has it, the program has started; what it still writes stays in its own attempt.
    take_claim(dispatch, attempt)
    handle = handle_of(attempt)
    return handle is None or not may_be_alive or _cancel(dispatch, [handle])


def _cancel(dispatch: Dispatch, handles: list[Handle]) -> bool:
    try:
        dispatch.scheduler.cancel(handles)
    except SchedulerError as error:
        log.warning("an attempt that is to be replaced was not cancelled", error=str(error))
        return False
    return True


def _change_unsubmitted(dispatch: Dispatch, job: Job, wish: ResubmitWish) -> None:
    """It was never handed in, or certainly came back: it needs no new attempt, and goes in as it is now asked for."""
    excludes = dispatch.scheduler.capabilities.can_exclude_nodes
    with dispatch.leadership.writing() as session:
        row = session.get_one(Job, job.job_id)
        attempt = session.get_one(Attempt, (job.job_id, row.attempt_number))
        if row.state is not JobState.ACCEPTED or attempt.number != wish.after_attempt:
            return
        row.resources = dict(wish.resources)
        if excludes:
            attempt.excluded_nodes = list(dict.fromkeys([*attempt.excluded_nodes, *wish.excluded_nodes]))
        attempt.next_try_at = None
        row.resubmit_asked_at = row.resubmit_wish = None
        detail = f"{_words(wish)} It had not gone in yet, and goes in as the same attempt."
        add_event(session, row, row.state, Change(dispatch.now(), "wish", detail, wish.by))


def _settle_in_doubt(dispatch: Dispatch, job: Job, attempt: Attempt, wish: ResubmitWish) -> None:
    """Whether the scheduler has it is not known. Where its name can be looked up, that decides it, elsewhere.

    Where the scheduler answers, and cannot say it, the free claim decides: without it the old attempt cannot start.
    """
    answer = dispatch.scheduler.find([attempt.scheduler_name])[attempt.scheduler_name]
    if isinstance(answer, Unknown) and dispatch.scheduler.health().ok:
        _replace(dispatch, job, attempt, wish, was_started=False)


def _replace(dispatch: Dispatch, job: Job, attempt: Attempt, wish: ResubmitWish, *, was_started: bool) -> None:
    """End the old attempt, which nobody knows anything of, and open the new one in the same transaction."""
    dispatch.leadership.require()
    dispatch.attempt_directory(attempt).make()
    if not was_started and not take_claim(dispatch, attempt):
        return  # a wrapper took it in this very moment: it lives
    handle = handle_of(attempt)
    if handle is not None and not _cancel(dispatch, [handle]):
        return
    ended = Ended(
        JobState.FAILED,
        "wish",
        f"The scheduler does not have it, and nobody knows what became of it. {_words(wish)}",
        FailureReason.LOST,
        by=wish.by,
        never_started=not was_started,
    )
    publish_end(dispatch, job, attempt, ended, wish=wish)
    found = dispatch.scheduler.find([attempt.scheduler_name])[attempt.scheduler_name]
    if isinstance(found, Found):
        _cancel(dispatch, list(found.handles))


def _drop(dispatch: Dispatch, job: Job, wish: ResubmitWish, why: str | None) -> None:
    """Forget a wish that is spent; with a reason, the job's history says that nothing was done."""
    dispatch.leadership.require()
    forget_resubmit_wish(dispatch.folder.job(job.job_id), wish)
    with dispatch.leadership.writing() as session:
        row = session.get_one(Job, job.job_id)
        if row.resubmit_wish != wish.as_json():
            return
        row.resubmit_asked_at = row.resubmit_wish = None
        row.version += 1
        if why is not None:
            detail = f"It was asked that it run again, which was not done: {why}."
            add_event(session, row, row.state, Change(dispatch.now(), "wish", detail, wish.by))


def _words(wish: ResubmitWish) -> str:
    how = wish.in_words()
    return f"It was asked that it run again{f', {how}' if how else ''}."
