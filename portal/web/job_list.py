"""The list of somebody's jobs, as its page shows it."""

from dataclasses import dataclass

from portal.jobs import words
from portal.jobs.access import Viewer
from portal.jobs.models import Job
from portal.jobs.store import JobRecord
from portal.web.context import web
from portal.web.job_page import took
from portal.web.pages import TONES

MAX_ROWS = 200
MAX_ANSWER = 40


@dataclass(frozen=True)
class JobRow:
    """One line of the list."""

    job: Job
    title: str
    application_title: str
    word: str
    tone: str
    took: str
    answer: str
    """Its beginning; empty where there is none."""


def build_job_list(viewer: Viewer) -> list[JobRow]:
    """The viewer's own jobs, newest first. Raises StorageError."""
    return [_row(record) for record in web().jobs.newest_of(viewer, MAX_ROWS)]


def _row(record: JobRecord) -> JobRow:
    application = web().jobs.application_of(record)
    answer = (record.result.answer if record.result else None) or ""
    return JobRow(
        job=record.job,
        title=words.title(record),
        application_title=application.title if application else record.job.application,
        word=words.state_word(record),
        tone=TONES[record.job.state],
        took=took(record, web().clock.now_utc()),
        answer=answer if len(answer) <= MAX_ANSWER else answer[: MAX_ANSWER - 1] + "…",
    )
