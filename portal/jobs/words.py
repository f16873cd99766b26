"""What the portal says of a job in plain sentences: the same on pages, in mail, in the API and on the command line."""

import unicodedata
from datetime import datetime

from portal.jobs.models import Attempt
from portal.jobs.states import FAILURE_WORDS, WORDS, FailureReason, JobState
from portal.jobs.store import JobRecord

_FAILURE_SENTENCES: dict[FailureReason, str] = {
    FailureReason.TIME_LIMIT: "the program was stopped at its time limit of {minutes} minutes",
    FailureReason.OUT_OF_MEMORY: "the program needed more than the {memory} MiB of memory that it was given",
    FailureReason.NODE_FAILURE: "the computer that it was given went away",
    FailureReason.PREEMPTED: "it had to make room for other work",
    FailureReason.LAUNCH_FAILED: "it ended before the program could be started",
    FailureReason.REJECTED: "the scheduler does not take it",
    FailureReason.LOST: "nobody knows how it ended: the scheduler has lost it, and the program left no word",
}

_SENTENCES_OF_RAW_WORDS = {
    "BOOT_FAIL": "the computer that it was given did not start up",
    "DEADLINE": "the cluster ended it at its deadline",
}
"""Where the scheduler's own word says more than the reason for the failure."""

NODE_WROTE = "The node wrote: "
"""Before what the wrapper says of the program's end, in the evidence."""

_PERHAPS_MEMORY = "; perhaps it needed more than the {memory} MiB of memory that it was given, but nobody recorded why"
"""For a kill whose reason is inferred and not known: without cgroups the scheduler says nothing more."""
_KILLED = 9
_KILLED_IN_A_SHELL = 128 + _KILLED

_NOT_THE_INPUTS = frozenset(FailureReason) - {
    FailureReason.PROGRAM_ERROR,
    FailureReason.TIME_LIMIT,
    FailureReason.OUT_OF_MEMORY,
}


def state_word(record: JobRecord) -> str:
    """One or two words for a badge: Waiting, Running, Done, Out of memory, …"""
    job = record.job
    if job.state is JobState.FAILED and job.failure_reason not in (None, FailureReason.PROGRAM_ERROR):
        return FAILURE_WORDS[job.failure_reason]
    return WORDS[job.state]


def summary(record: JobRecord) -> str:
    """One sentence of where the job stands, such as `Done: the answer is 4.`, with its expected start if it waits."""
    sentence = standing(record)
    expected = expected_start(record)
    if expected is None:
        return sentence
    return f"{sentence.removesuffix('.')}; expected to start at {expected:%Y-%m-%d %H:%M} UTC."


def standing(record: JobRecord) -> str:
    """The summary without the expected start, for where that is shown apart."""
    return _SUMMARIES[record.job.state](record)


def expected_start(record: JobRecord) -> datetime | None:
    """When the scheduler means to start a job that waits."""
    return record.attempt.expected_start_at if record.job.state is JobState.QUEUED else None


def scheduler_title(kind: str) -> str:
    """What the scheduler of this kind is called at the beginning of a sentence."""
    return "Slurm" if kind.startswith("slurm") else "The scheduler"


def scheduler_facts(record: JobRecord) -> str:
    """What is recorded of a job that failed or was cancelled: `NODE_FAIL, node1, job 17`; empty for any other."""
    job, attempt = record.job, record.attempt
    if job.state not in (JobState.FAILED, JobState.CANCELLED) or attempt.scheduler_id is attempt.raw_state is None:
        # Refused at the door: then the scheduler's own words are all that there is.
        return attempt.reason or "" if job.failure_reason is FailureReason.REJECTED else ""
    who = record.events[-1].by if record.events else ""
    facts = [
        attempt.raw_state,
        None if attempt.exit_code is None else f"exit code {attempt.exit_code}",
        f"signal {attempt.signal}" if attempt.signal else None,
        attempt.node,
        f"job {attempt.scheduler_id}" if attempt.scheduler_id else None,
        f"cancelled by {who}" if job.state is JobState.CANCELLED and who.startswith("uid ") else None,
        _reason_of_its_own(record),
    ]
    return visible(", ".join(fact for fact in facts if fact))


def _reason_of_its_own(record: JobRecord) -> str | None:
    """The reason where it is the scheduler's, and neither the program's nor said by the evidence already."""
    reason = record.attempt.reason
    if reason is None or record.job.failure_reason is FailureReason.PROGRAM_ERROR:
        return None
    is_evidence = any(row.detail == reason or row.detail.startswith(f"{NODE_WROTE}{reason}") for row in record.events)
    return None if is_evidence else reason


def advice(record: JobRecord) -> str:
    """What it means for the visitor and what comes next, in one or two sentences; empty where nothing is to be said."""
    job = record.job
    if job.resubmit_asked_at is not None:
        return "It was asked that it run again."
    if not job.state.is_final:
        if job.cancel_asked_at is not None:
            return "Its cancellation has been asked for."
        minutes = job.resources.get("time_limit_minutes")
        limit = f" It is stopped after {minutes} minutes." if job.state is JobState.RUNNING and minutes else ""
        return f"You may close this page: a mail follows.{limit}"
    if job.state is JobState.FAILED:
        if job.failure_reason is FailureReason.OUT_OF_MEMORY:
            return "Larger inputs need more memory."
        if record.attempt.signal == _KILLED:
            return ""  # perhaps for its memory
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
    if who in (owner, "visitor"):
        return "you"
    return "an administrator" if "@" in who or who == "administrator" else who


def resubmitter_words(who: str, owner: str) -> str:
    """Who asked for another attempt, for a sentence: the owner by the address, and an administrator as one."""
    return owner if who == owner else "an administrator"


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
        sentence = _program_error(record.attempt)
    else:
        sentence = _failure_sentence(job.failure_reason, record.attempt)
    sentence = sentence.replace("{minutes}", str(job.resources.get("time_limit_minutes")))
    sentence = sentence.replace("{memory}", str(job.resources.get("memory_mib")))
    held = ", and an administrator decides whether it runs again" if job.failure_reason in _HELD else ""
    return f"Failed: {sentence}{held}."


_HELD = frozenset({FailureReason.NODE_FAILURE, FailureReason.PREEMPTED, FailureReason.LAUNCH_FAILED})


def _failure_sentence(reason: FailureReason, attempt: Attempt) -> str:
    raw_state = attempt.raw_state or ""
    if reason is FailureReason.REJECTED and raw_state:
        why = f": {attempt.reason.rstrip('.')}" if attempt.reason else ""
        return f"it can never run on this cluster{why}"
    if reason is FailureReason.LOST and attempt.signal == _KILLED:
        return f"the program was killed (signal 9) and left no word{_PERHAPS_MEMORY}"
    if reason is FailureReason.LOST and raw_state in ("COMPLETED", "FAILED"):
        return "nobody knows how the program ended: it left no word"
    return _SENTENCES_OF_RAW_WORDS.get(raw_state, _FAILURE_SENTENCES[reason])


def _program_error(attempt: Attempt) -> str:
    if attempt.signal == _KILLED:
        return f"the program was killed (signal 9){_PERHAPS_MEMORY}"
    if attempt.exit_code == _KILLED_IN_A_SHELL:
        return f"the program ended with exit code 137, as after signal 9{_PERHAPS_MEMORY}"
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
