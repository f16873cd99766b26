"""The simulation's own test: versions of the portal with one safeguard taken out, each of which it has to catch.

A mutant patches the portal's real code for as long as it lives. `SEEDS` of each says within how many histories, counted
from seed 1, one breaks a promise.
"""

import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from email.message import EmailMessage
from typing import Any
from unittest import mock

from portal.dispatch import answers, dispatcher, doubts, evidence, polling, publication, submission
from portal.dispatch.context import Dispatch
from portal.dispatch.decide import AttemptFacts, Verdict
from portal.dispatch.decide import decide as really_decide
from portal.dispatch.leadership import Leadership
from portal.dispatch.submission import Prepared
from portal.errors import SchedulerError
from portal.jobs.directory import AttemptDirectory
from portal.jobs.models import Attempt, Job
from portal.mail import outbox
from portal.mail.message import build_message
from portal.node import claim as claims
from portal.node.claim import Claim
from portal.node.status_file import StatusFile
from portal.schedulers.base import (
    Absent,
    FindAnswer,
    Handle,
    InDoubt,
    Observation,
    SchedulerState,
    SubmitAnswer,
    Unknown,
)
from tests.simulation.scheduler import SimulatedScheduler

Patch = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Mutant:
    """One safeguard less."""

    name: str
    patched: Patch
    seeds: int


def _replaced(where: Any, name: str, value: Any) -> Patch:
    return lambda: mock.patch.object(where, name, value)


# Attempts


def _without_claim() -> Patch:
    really = claims.take

    def take(work_dir: Any, claim: Claim) -> bool:
        really(work_dir, claim)
        return True

    return _replaced(claims, "take", take)


def _without_grace() -> Patch:
    really = really_decide

    def decide(attempt: AttemptFacts, observation: Observation, status: StatusFile | None, now: datetime) -> Verdict:
        return really(replace(attempt, grace_seconds=0, end_seen_at=now), observation, status, now)

    return _replaced(polling, "decide", decide)


def _old_status_taken_for_new() -> Patch:
    really = evidence._read_status

    def read_status(directory: AttemptDirectory, attempt: Attempt) -> StatusFile | None:
        for number in range(1, attempt.number + 1):
            old = AttemptDirectory(directory.path.with_name(str(number)))
            status = really(old, Attempt(job_id=attempt.job_id, number=number))
            if status is not None and status.succeeded is not None:
                return status._replace(attempt=attempt.number)
        return really(directory, attempt)

    return _replaced(evidence, "_read_status", read_status)


# The scheduler's answers


def _outage_is_absence() -> Patch:
    really = SimulatedScheduler.observe

    def observe(self: SimulatedScheduler, handles: Collection[Handle]) -> dict[Handle, Observation]:
        try:
            answers = really(self, handles)
        except SchedulerError:
            return dict.fromkeys(handles, Observation(SchedulerState.NOT_FOUND))
        absent = Observation(SchedulerState.NOT_FOUND)
        return {h: absent if seen.state is SchedulerState.UNKNOWN else seen for h, seen in answers.items()}

    return _replaced(SimulatedScheduler, "observe", observe)


def _no_answer_is_absence() -> Patch:
    really = doubts._settle

    def settle(dispatch: Dispatch, memory: Any, job: Job, attempt: Attempt, answer: FindAnswer) -> None:
        really(dispatch, memory, job, attempt, Absent() if isinstance(answer, Unknown) else answer)

    return _replaced(doubts, "_settle", settle)


def _retry_without_look_up() -> Patch:
    really = submission._record_answer

    def record_answer(dispatch: Dispatch, ready: Prepared, answer: SubmitAnswer) -> None:
        if isinstance(answer, InDoubt):
            answers.take_back(dispatch, ready.job, ready.attempt)
        else:
            really(dispatch, ready, answer)

    return _replaced(submission, "_record_answer", record_answer)


def _lost_calls_are_over_at_once() -> Patch:
    return _replaced(doubts, "_lost_call_is_over", mock.Mock(return_value=True))


# Dispatchers


def _without_epoch() -> Patch:
    return _replaced(Leadership, "check", lambda *_: None)


def _without_correction() -> Patch:
    return _replaced(dispatcher, "correct_late", lambda *_: 0)


def _markers_after_the_commit() -> Patch:
    """The files are written only where nobody dies after the commit."""
    really = publication._write_files

    @contextmanager
    def patched() -> Iterator[None]:
        late: list[Callable[[], None]] = []
        really_publish = publication.publish_end

        def publish_end(*arguments: Any, **options: Any) -> None:
            late.clear()
            really_publish(*arguments, **options)
            for write in late:
                write()

        with ExitStack() as stack:
            write_later = lambda *given: late.append(lambda: really(*given))  # noqa: E731
            stack.enter_context(mock.patch.object(publication, "_write_files", write_later))
            stack.enter_context(mock.patch.object(polling, "publish_end", publish_end))
            # Whoever takes over would mend them.
            stack.enter_context(mock.patch.object(dispatcher, "reconcile", return_value=0))
            yield

    return patched


# Mail


def _without_one_message_id() -> Patch:
    really = build_message
    numbers = itertools.count()

    def build(facts: Any) -> EmailMessage:
        bare = facts.message_id.strip("<>")
        return really(replace(facts, message_id=f"<{bare}.{next(numbers)}>"))

    return _replaced(outbox, "build_message", build)


def _mail_before_the_outcome() -> Patch:
    """An attempt that is followed by another is told as well."""
    really = publication._open_new_attempt

    def open_new_attempt(dispatch: Dispatch, session: Any, job: Job, *others: Any) -> None:
        now = dispatch.now()
        outbox.owe_mail(session, job, "failed", now, "portal.example.org", now)
        really(dispatch, session, job, *others)

    return _replaced(publication, "_open_new_attempt", open_new_attempt)


MUTANTS = (
    Mutant("without the claim", _without_claim(), 100),
    Mutant("without the grace period", _without_grace(), 100),
    Mutant("an outage is taken for an absence", _outage_is_absence(), 400),
    Mutant("an unanswered look-up is taken for an absence", _no_answer_is_absence(), 400),
    Mutant("no look-up before a retry", _retry_without_look_up(), 100),
    Mutant("absence counts while a lost call may still take effect", _lost_calls_are_over_at_once(), 100),
    Mutant("a zombie that may write: an old attempt's status is the new one's", _old_status_taken_for_new(), 100),
    Mutant("two dispatchers without the epoch", _without_epoch(), 200),
    Mutant("no late correction", _without_correction(), 200),
    Mutant("markers after the commit", _markers_after_the_commit(), 100),
    Mutant("a message without its own Message-ID", _without_one_message_id(), 100),
    Mutant("mail before the last attempt's", _mail_before_the_outcome(), 100),
)
