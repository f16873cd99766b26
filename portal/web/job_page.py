"""All that a job's page shows, gathered once, so that its template only lays it out."""

from dataclasses import dataclass
from datetime import datetime

from portal.applications.definition import Application
from portal.applications.parameters import ChoiceParameter
from portal.jobs import mail_words, words
from portal.jobs.access import Viewer
from portal.jobs.job_files import file_size, read_tail
from portal.jobs.models import JobInput
from portal.jobs.retention import shown_date
from portal.jobs.sizes import size_in_words
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord
from portal.jobs.view import Output
from portal.web.context import web
from portal.web.job_state import ERROR_OUTPUT, OUTPUT, job_state
from portal.web.pages import TONES, duration
from portal.web.results_template import render_results
from portal.web.scheduler_status import SchedulerStatus, scheduler_status
from portal.web.timeline import Bar, draw_timeline

_TAIL_BYTES = 8 * 1024
_TAIL_LINES = 60
_LONG_VALUE = 40
_LONG_ANSWER = 24


@dataclass(frozen=True)
class Fact:
    """One input, or one thing that was asked for."""

    label: str
    text: str

    @property
    def is_long(self) -> bool:
        """Whether it needs a line of its own."""
        return len(self.text) > _LONG_VALUE


@dataclass(frozen=True)
class Tail:
    """The last lines of what the program wrote, safe to be shown."""

    title: str
    path: str
    text: str
    is_error: bool


@dataclass(frozen=True)
class JobPage:
    """A job as its page shows it."""

    record: JobRecord
    title: str
    application_title: str
    application_is_there: bool
    word: str
    tone: str
    sentence: str
    answer: str
    scheduler_says: str
    """What is recorded of its end, in the scheduler's own words; empty where there is nothing more to say."""
    expected_start_at: datetime | None
    advice: str
    warning: str
    mail: str
    """What has become of the mail about it; empty while none is owed."""
    mail_is_in_trouble: bool
    bars: list[Bar]
    facts: list[Fact]
    """The inputs, and what the job may use at most."""
    tails: list[Tail]
    outputs: list[Output]
    results: str
    may_cancel: bool
    may_delete: bool
    kept_until: datetime | None
    """When it is deleted by itself, where that is so."""
    may_run_again: bool
    scheduler: SchedulerStatus
    tag: str
    """What the page's script tells the portal that it shows already."""

    @property
    def is_settled(self) -> bool:
        """Whether the page stays as it is: the job has ended, and nobody has asked that it run again or be deleted."""
        job = self.record.job
        return job.state.is_final and job.resubmit_asked_at is None and job.delete_asked_at is None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.record.job.state.is_final

    @property
    def running_since(self) -> datetime | None:
        """When its program began, while it is at work."""
        return self.record.job.started_at if self.record.job.state is JobState.RUNNING else None

    @property
    def answer_is_long(self) -> bool:
        """Whether it is too long for the largest type."""
        return len(self.answer) > _LONG_ANSWER


def build_job_page(record: JobRecord, viewer: Viewer) -> JobPage:
    """Everything for the page of a job that this viewer may see. Raises StorageError."""
    application = web().jobs.application_of(record)
    outputs = web().jobs.outputs(record)
    job, scheduler = record.job, scheduler_status()
    answer = (record.result.answer if record.result and job.state is JobState.SUCCEEDED else None) or ""
    return JobPage(
        record=record,
        title=words.title(record),
        application_title=application.title if application else job.application,
        application_is_there=application is not None,
        word=words.state_word(record),
        tone=TONES[job.state],
        sentence="The answer is" if answer else sentence_beside_badge(words.standing(record)),
        answer=answer,
        scheduler_says=_scheduler_says(record),
        expected_start_at=words.expected_start(record),
        advice=words.advice(record),
        warning=(record.result.warning if record.result else None) or "",
        mail=mail_words.newest_sentence(record, web().clock.now_utc()),
        mail_is_in_trouble=mail_words.is_in_trouble(record),
        bars=draw_timeline(record, web().clock.now_utc()),
        facts=[_input_fact(record, row, application) for row in record.inputs] + _resource_facts(record),
        tails=_tails(record),
        outputs=[output for output in outputs if output.size_bytes or output.path not in (OUTPUT, ERROR_OUTPUT)],
        results=render_results(application, record, outputs),
        may_cancel=_may_cancel(record, viewer),
        may_delete=job.state.is_final and viewer.may_change(job, web().keys),
        kept_until=shown_date(job, purges=web().settings.limits.purge_expired),
        may_run_again=application is not None and _may_run_again(record, viewer),
        scheduler=scheduler,
        tag=job_state(record, scheduler).tag,
    )


def _scheduler_says(record: JobRecord) -> str:
    recorded = words.scheduler_facts(record)
    return f"{words.scheduler_title(web().settings.scheduler.kind)} says: {recorded}" if recorded else ""


def sentence_beside_badge(summary: str) -> str:
    """The summary without the word that stands in the badge above it: `Done: the …` becomes `The …`."""
    word, colon, rest = summary.partition(": ")
    if not colon or " " in word:
        return summary
    return rest[:1].upper() + rest[1:]


def took(record: JobRecord, now: datetime) -> str:
    """How long the program has run, or ran; empty where it has not begun."""
    seconds = words.seconds_between(record.job.started_at, record.job.ended_at or now)
    return "" if seconds is None else duration(seconds)


def _may_cancel(record: JobRecord, viewer: Viewer) -> bool:
    job = record.job
    return not job.state.is_final and job.cancel_asked_at is None and viewer.may_change(job, web().keys)


def _may_run_again(record: JobRecord, viewer: Viewer) -> bool:
    """Whether the page offers it. Of a success it does not: the same inputs lead to the same answer."""
    job = record.job
    has_failed = job.state in (JobState.FAILED, JobState.CANCELLED)
    return has_failed and job.resubmit_asked_at is None and viewer.may_change(job, web().keys)


def _input_fact(record: JobRecord, row: JobInput, application: Application | None) -> Fact:
    parameter = next((p for p in application.parameters if p.name == row.name), None) if application else None
    label = parameter.label if parameter else row.name
    if row.kind in ("file", "longtext"):
        size = file_size(web().jobs.folder.job(record.job.job_id).inputs, row.name)
        text = row.filename or "text"
        return Fact(label, text if size is None else f"{text}, {size_in_words(size)}")
    if row.kind == "boolean":
        return Fact(label, "yes" if row.text == "true" else "no")
    if isinstance(parameter, ChoiceParameter):
        labels = {choice.value: choice.label for choice in parameter.choices}
        return Fact(label, labels.get(row.text, row.text))
    unit = getattr(parameter, "unit", "")
    return Fact(label, f"{row.text} {unit}" if unit else row.text)


def _resource_facts(record: JobRecord) -> list[Fact]:
    asked = record.job.resources
    minutes, memory, cpus = (asked.get(name) for name in ("time_limit_minutes", "memory_mib", "cpus"))
    facts = []
    if isinstance(minutes, int):
        facts.append(Fact("Time limit", duration(60 * minutes)))
    if isinstance(memory, int):
        facts.append(Fact("Memory", size_in_words(memory * 1024 * 1024)))
    if isinstance(cpus, int) and cpus > 1:
        facts.append(Fact("Processors", str(cpus)))
    return facts


def _tails(record: JobRecord) -> list[Tail]:
    """The error text first where the job failed: it is what people look for then."""
    state = record.job.state
    so_far = "" if state.is_final else " so far"
    error_title = "The program's error text" if state is JobState.FAILED else f"Error output{so_far}"
    output_title = f"Output{so_far}" if so_far else "Last lines of the output"
    tails = [_tail(record, ERROR_OUTPUT, error_title), _tail(record, OUTPUT, output_title)]
    shown = [tail for tail in tails if tail.text]
    return shown if state is JobState.FAILED else shown[::-1]


def _tail(record: JobRecord, path: str, title: str) -> Tail:
    work = web().jobs.folder.job(record.job.job_id).attempt(record.job.attempt_number).work
    lines = read_tail(work, path, _TAIL_BYTES).rstrip("\n").splitlines()[-_TAIL_LINES:]
    return Tail(title, path, words.visible("\n".join(lines)), is_error=path == ERROR_OUTPUT)
