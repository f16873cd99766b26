"""The administrator's list of jobs: filter, tick, confirm, run again."""

from dataclasses import dataclass, replace

from flask import Blueprint, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from portal.errors import InvalidInputError
from portal.jobs import words
from portal.jobs.ids import is_job_id
from portal.jobs.resubmission import ManyAsked
from portal.jobs.selection import JobFilter
from portal.jobs.states import FAILURE_WORDS, FailureReason, JobState
from portal.jobs.store import JobRecord
from portal.jobs.wish import changes_in_words
from portal.web.changes import CHANGE_FIELDS, attempt_number, changes_from_form
from portal.web.context import web
from portal.web.job_filter import STATES, TypedFilter, cursor_text, parse_cursor
from portal.web.job_page import sentence_beside_badge, took
from portal.web.pages import TONES, render_page
from portal.web.visitors import browser_viewer

blueprint = Blueprint("admin_jobs", __name__, url_prefix="/admin/jobs")

PAGE_ROWS = 100
MOST_AT_ONCE = 1000
"""One request writes so many files; more is for `portal resubmit`."""
_SHOWN_TO_CONFIRM = 20


@dataclass(frozen=True)
class Row:
    """One line of the list."""

    record: JobRecord
    application_title: str
    word: str
    tone: str
    sentence: str
    can_run_again: bool

    @property
    def value(self) -> str:
        """What its tick sends: the job, and the attempt that is seen here."""
        return f"{self.record.job.job_id}:{self.record.job.attempt_number}"


@blueprint.get("")
def listing() -> ResponseReturnValue:
    """Jobs by filter, newest first, a page at a time."""
    return _listing(TypedFilter.of(request.args), {})


@blueprint.post("/confirm")
def confirm() -> ResponseReturnValue:
    """Say how many jobs would run again, which, and how; nothing has happened yet."""
    typed = TypedFilter.of_query(request.form.get("filter", ""))
    try:
        changed = changes_from_form()
        chosen, count = _chosen(typed)
    except InvalidInputError as error:
        return _listing(typed, error.field_errors), 422
    if not chosen:
        return _listing(typed, {"jobs": "Please tick the jobs that are to run again."}), 422
    records = web().jobs.records([job_id for job_id, _ in chosen[:_SHOWN_TO_CONFIRM]])
    return render_page(
        "admin_confirm.html",
        rows=[_row(record, typed) for record in records],
        chosen=" ".join(f"{job_id}:{number}" for job_id, number in chosen),
        chosen_count=len(chosen),
        left_out=count - len(chosen),
        changes_words=changes_in_words(changed.memory_mib, changed.time_limit_minutes, changed.exclude_nodes),
        fields={name: request.form.get(name, "") for name in CHANGE_FIELDS},
        filter=typed,
    )


@blueprint.post("/resubmit")
def resubmit() -> ResponseReturnValue:
    """Ask that the jobs run again; the list comes next, and says what came of it."""
    typed = TypedFilter.of_query(request.form.get("filter", ""))
    jobs = _parse_jobs(request.form.get("jobs", "").split())[:MOST_AT_ONCE]
    report = web().resubmission.ask_many(browser_viewer(), jobs, changes_from_form(), unfinished=typed.is_of_unfinished)
    for sentence in _report_words(report):
        flash(sentence)
    return redirect(f"{url_for('admin_jobs.listing')}?{typed.as_query()}", 303)


def _listing(typed: TypedFilter, problems: dict[str, str]) -> str:
    try:
        wanted = typed.parse(web().clock.now_utc())
    except InvalidInputError as error:
        return _render_listing(typed, [], {**problems, **error.field_errors}, count=0, following=None)
    # One more than is shown tells whether there is another page.
    chosen = web().jobs.choose(wanted, PAGE_ROWS + 1, parse_cursor(request.args.get("cursor", "")))
    records = web().jobs.records([job.job_id for job in chosen[:PAGE_ROWS]])
    last = chosen[PAGE_ROWS - 1] if len(chosen) > PAGE_ROWS else None
    following = cursor_text(last.created_at, last.job_id) if last else None
    rows = [_row(record, typed) for record in records]
    return _render_listing(typed, rows, problems, count=web().jobs.count(wanted), following=following)


def _render_listing(
    typed: TypedFilter, rows: list[Row], problems: dict[str, str], *, count: int, following: str | None
) -> str:
    return render_page(
        "admin_jobs.html",
        filter=typed,
        rows=rows,
        count=count,
        following=following,
        problems=problems,
        states={name: label for name, (label, _) in STATES.items()},
        failures={reason.value: FAILURE_WORDS[reason] for reason in FailureReason},
        applications=_applications(typed),
        fields={name: request.form.get(name, "") for name in CHANGE_FIELDS},
        can_exclude_nodes=web().resubmission.can_exclude_nodes,
        most_at_once=MOST_AT_ONCE,
    )


def _applications(typed: TypedFilter) -> list[tuple[str, str]]:
    """Names and titles; one that is filtered by stays to be chosen, also where it has been taken away."""
    titles = {name: application.title for name, application in web().jobs.catalog.applications.items()}
    named = typed.texts.get("application")
    return sorted({**({named: named} if named else {}), **titles}.items())


def _row(record: JobRecord, typed: TypedFilter) -> Row:
    job = record.job
    application = web().jobs.application_of(record)
    return Row(
        record=record,
        application_title=application.title if application else job.application,
        word=words.state_word(record),
        tone=TONES[job.state],
        sentence=_what_happened(record),
        can_run_again=job.resubmit_asked_at is None and job.state.is_final is not typed.is_of_unfinished,
    )


def _what_happened(record: JobRecord) -> str:
    """In a few words beside the badge: where, and after how long; of what has not failed, where it stands."""
    if record.job.state is not JobState.FAILED:
        return sentence_beside_badge(words.standing(record))
    where = f"on {record.attempt.node}" if record.attempt.node else ""
    ran = took(record, web().clock.now_utc())
    return " ".join(part for part in (where, f"after {ran}" if ran else "before it started") if part)


def _chosen(typed: TypedFilter) -> tuple[list[tuple[str, int]], int]:
    """The jobs that were ticked, or all that are as the filter says, at most MOST_AT_ONCE; and how many there are."""
    if request.form.get("all") != "yes":
        ticked = _parse_jobs(request.form.getlist("jobs"))
        return ticked[:MOST_AT_ONCE], len(ticked)
    wanted: JobFilter = typed.parse(web().clock.now_utc())
    if typed.state == "any":
        # Successes run again only where somebody ticks them.
        wanted = replace(wanted, states=(JobState.FAILED,))
    found = web().jobs.choose(wanted, MOST_AT_ONCE)
    return [(job.job_id, job.attempt_number) for job in found], web().jobs.count(wanted)


def _parse_jobs(values: list[str]) -> list[tuple[str, int]]:
    """`tcfnctbq:1` as a job and its attempt; what is none is left out."""
    pairs = [(job_id, attempt_number(number)) for job_id, _, number in (value.partition(":") for value in values)]
    return [(job_id, number) for job_id, number in pairs if is_job_id(job_id) and number is not None]


def _report_words(report: ManyAsked) -> list[str]:
    sentences = []
    if report.asked:
        goes = "1 job runs" if len(report.asked) == 1 else f"{len(report.asked)} jobs run"
        sentences.append(f"{goes} again.")
    if report.already:
        sentences.append(f"{len(report.already)} had been asked for already.")
    if report.refused:
        first, error = next(iter(report.refused.items()))
        sentences.append(f"{len(report.refused)} cannot run again; {first}: {error.visitor_message}")
    return sentences or ["Nothing was asked for."]
