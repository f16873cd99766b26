"""From a job's record to what a message says of one of its attempts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import inspect

from portal.errors import DefinitionError, NotFoundError
from portal.jobs import words
from portal.jobs.job_files import read_tail
from portal.jobs.keys import Keys, Purpose
from portal.jobs.models import Job
from portal.jobs.retention import shown_date
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord
from portal.jobs.view import results_url
from portal.mail.message import MailFacts, Outcome
from portal.settings import Settings

ERROR_OUTPUT = "err_output.txt"
_ERROR_TAIL_BYTES = 8 * 1024
_ERROR_MAX_LINES = 20

_SEEMED_LOST = "Failed: the computer that it was given seemed to be gone, and nobody knew how the program had ended."
_CORRECTION_FOLLOWS = "It has been heard of again since: how it really ended is told apart from this."


def mail_domain(settings: Settings) -> str:
    """The domain in this portal's Message-IDs: the host of `portal.base_url`."""
    return urlsplit(settings.portal.base_url).hostname or "portal"


@dataclass(frozen=True)
class Site:
    """What all messages of one portal have in common."""

    settings: Settings
    keys: Keys
    application_title: Callable[[str], str]
    """From an application's name to its title; NotFoundError or DefinitionError where it has gone since."""

    def facts(
        self,
        record: JobRecord,
        attempt_number: int,
        outcome: Outcome,
        *,
        message_id: str,
        now: datetime,
        work: Path,
        corrected_since: bool = False,
    ) -> MailFacts:
        """What is to be said of one outcome of one attempt, whatever has become of the job since."""
        seen = _as_of(record, attempt_number, outcome)
        has_succeeded = seen.job.state is JobState.SUCCEEDED
        return replace(
            self._frame(seen, outcome, message_id, now),
            has_succeeded=has_succeeded,
            summary=_SEEMED_LOST if corrected_since else words.summary(seen),
            advice=_CORRECTION_FOLLOWS if corrected_since else _advice(seen, record.job),
            ended_utc=seen.attempt.ended_at,
            run_seconds=_run_seconds(seen),
            kept_until_utc=shown_date(record.job, purges=self.settings.limits.purge_expired),
            answer=seen.result.answer if seen.result and has_succeeded else None,
            warning=seen.result.warning if seen.result and not corrected_since else None,
            scheduler_facts="" if corrected_since else words.scheduler_facts(seen),
            error_text=_error_text(work) if seen.job.state is JobState.FAILED else "",
        )

    def facts_before_the_end(
        self, record: JobRecord, message_id: str, now: datetime, retention_days: int | None
    ) -> MailFacts:
        """A success as it can be told before the program has started: that it is done, and where to look."""
        kept_days = retention_days if self.settings.limits.purge_expired else None
        return replace(self._frame(record, Outcome.SUCCEEDED, message_id, now), kept_days=kept_days)

    def _frame(self, record: JobRecord, outcome: Outcome, message_id: str, now: datetime) -> MailFacts:
        job = record.job
        key = self.keys.key(Purpose.VIEW, job.job_id, job.key_generation)
        base_url = self.settings.portal.base_url
        return MailFacts(
            message_id=message_id,
            date=now,
            recipient=job.email,
            sender=self.settings.from_address,
            site_name=self.settings.portal.site_name,
            job_id=job.job_id,
            title=words.title(record),
            application_title=self._title(job.application),
            outcome=outcome,
            has_succeeded=True,
            summary="Your job is done.",
            link=f"{results_url(base_url, job.job_id)}?key={key}",
            created_utc=job.created_at,
        )

    def _title(self, application: str) -> str:
        try:
            return self.application_title(application)
        except (NotFoundError, DefinitionError):
            return application


def _as_of(record: JobRecord, attempt_number: int, outcome: Outcome) -> JobRecord:
    """The record as if this attempt were the one that counts and had this outcome: a newer one may be under way."""
    attempt = next(row for row in record.attempts if row.number == attempt_number)
    columns = {column.key: getattr(record.job, column.key) for column in inspect(Job).column_attrs}
    state = attempt.state if outcome is Outcome.CORRECTED else JobState(outcome.value)
    columns |= {
        "state": state,
        "failure_reason": attempt.failure_reason if state is JobState.FAILED else None,
        "attempt_number": attempt_number,
    }
    result = record.result if record.result and record.result.attempt_number == attempt_number else None
    return replace(record, job=Job(**columns), result=result)


def _advice(seen: JobRecord, job: Job) -> str:
    if job.attempt_number > seen.job.attempt_number:
        return f"It has gone in again since, as attempt {job.attempt_number}: another mail says what came of that."
    return words.advice(seen)


def _run_seconds(seen: JobRecord) -> float | None:
    if seen.result and seen.result.wall_seconds is not None:
        return seen.result.wall_seconds
    return words.seconds_between(seen.attempt.started_at, seen.attempt.ended_at)


def _error_text(work: Path) -> str:
    lines = words.visible(read_tail(work, ERROR_OUTPUT, _ERROR_TAIL_BYTES)).rstrip().split("\n")
    return "\n".join(lines[-_ERROR_MAX_LINES:])
