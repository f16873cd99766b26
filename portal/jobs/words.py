"""What the portal says of a job in plain sentences: the same on pages, in mail, in the API and on the command line."""

import unicodedata
from datetime import datetime

from portal.jobs.models import Attempt
from portal.jobs.states import FAILURE_WORDS, WORDS, FailureReason, JobState
from portal.jobs.store import JobRecord

_FAILURE_SENTENCES: dict[FailureReason, str] = {
    FailureReason.TIME_LIMIT: "the program was stopped at its time limit of {minutes} minutes",
    FailureReason.OUT_OF_MEMORY: "the program needed more than the {memory} MiB of memory that it was given",
    FailureReason.NODE_FAILURE: "the computer that it ran on went away",
    FailureReason.PREEMPTED: "it had to make room for other work",
    FailureReason.LAUNCH_FAILED: "it ended before the program could be started",
    FailureReason.REJECTED: "the scheduler does not take it",
    FailureReason.LOST: "nobody knows how it ended: the scheduler has lost it, and the program left no word",
}

_NOT_THE_INPUTS = frozenset(FailureReason) - {FailureReason.PROGRAM_ERROR, FailureReason.TIME_LIMIT}


def state_word(record: JobRecord) -> str:
    """One or two words for a badge: Waiting, Running, Done, Out of memory, …"""
    job = record.job
    if job.state is JobState.FAILED and job.failure_reason not in (None, FailureReason.PROGRAM_ERROR):
        return FAILURE_WORDS[job.failure_reason]
    return WORDS[job.state]


def summary(record: JobRecord) -> str:
    """One sentence of where the job stands, such as `Done: the answer is 4.`"""
    return _SUMMARIES[record.job.state](record)


def advice(record: JobRecord) -> str:
    """What it means for the visitor and what comes next, in one or two sentences; empty where nothing is to be said."""
    job = record.job
    if not job.state.is_final:
        if job.cancel_asked_at is not None:
            return "Its cancellation has been asked for."
        minutes = job.resources.get("time_limit_minutes")
        limit = f" It is stopped after {minutes} minutes." if job.state is JobState.RUNNING and minutes else ""
        return f"You may close this page: a mail follows.{limit}"
    if job.state is JobState.FAILED:
        if job.failure_reason in _NOT_THE_INPUTS:
            return "Nothing is wrong with your inputs."
        return "What the program wrote may say why."
    return ""


def title(record: JobRecord) -> str:
    """The inputs in a few words, as the job's name: `8, 2` reads better than an id. At most 60 characters."""
    shown = [row.filename or row.text for row in record.inputs if row.kind != "longtext" and row.text]
    text = ", ".join(shown) or record.job.job_id
    return text if len(text) <= 60 else text[:59] + "…"


def cancelled_by_words(who: str | None, owner: str) -> str:
    """Who cancelled, for a sentence."""
    if who is None:
        return "an operator of the cluster"
    return "you" if who in (owner, "visitor") else who


def visible(text: str) -> str:
    """`text` with control and other unprintable characters shown as escapes, safe for a terminal, a log or a mail."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character)[0] != "C"
        else f"\\x{ord(character):02x}"
        if ord(character) < 256
        else f"\\u{ord(character):04x}"
        for character in text
    )


def _accepted(record: JobRecord) -> str:
    if record.attempt.reason:
        return f"Accepted: it waits ({record.attempt.reason.rstrip('.')})."
    if record.job.attempt_number > 1:
        return f"Accepted: it goes in again, as attempt {record.job.attempt_number}."
    return "Accepted: it is on its way to the scheduler."


def _queued(record: JobRecord) -> str:
    reason = record.attempt.reason
    return f"Waiting: {reason}." if reason else "Waiting: it is in the queue and starts when there is room."


def _running(record: JobRecord) -> str:
    node = record.attempt.node
    return f"Running on {node}." if node else "Running."


def _succeeded(record: JobRecord) -> str:
    answer = record.result.answer if record.result else None
    return f"Done: the answer is {answer}." if answer is not None else "Done: the program succeeded."


def _failed(record: JobRecord) -> str:
    job = record.job
    if job.failure_reason is FailureReason.PROGRAM_ERROR or job.failure_reason is None:
        return f"Failed: {_program_error(record.attempt)}."
    sentence = _FAILURE_SENTENCES[job.failure_reason].format(
        minutes=job.resources.get("time_limit_minutes"), memory=job.resources.get("memory_mib")
    )
    held = ", and an administrator decides whether it runs again" if job.failure_reason in _HELD else ""
    return f"Failed: {sentence}{held}."


_HELD = frozenset({FailureReason.NODE_FAILURE, FailureReason.PREEMPTED, FailureReason.LAUNCH_FAILED})


def _program_error(attempt: Attempt) -> str:
    if attempt.signal is not None:
        return f"the program was ended by signal {attempt.signal}"
    if attempt.exit_code:
        return f"the program ended with exit code {attempt.exit_code}"
    return (attempt.reason or "the program reported an error").rstrip(".")


def _cancelled(record: JobRecord) -> str:
    who = cancelled_by_words(record.job.cancel_asked_by, record.job.owner)
    return f"Cancelled by {who}."


_SUMMARIES = {
    JobState.ACCEPTED: _accepted,
    JobState.SUBMITTING: _accepted,
    JobState.QUEUED: _queued,
    JobState.RUNNING: _running,
    JobState.SUCCEEDED: _succeeded,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
}


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from `start` to `end`, or None where one is missing."""
    return (end - start).total_seconds() if start and end else None
