"""The commands about jobs: submit, jobs, show, cancel. They act as an administrator."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from portal.app import Parts
from portal.applications.parameters import Upload
from portal.clock import utc_text
from portal.commands.context import CommandContext, pass_context
from portal.commands.output import complain, say, say_json, say_table
from portal.errors import PortalError, StorageError
from portal.jobs import mail_words, words
from portal.jobs.acceptance import Submission
from portal.jobs.access import Viewer
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord
from portal.jobs.view import rest_object, results_url

ADMINISTRATOR = Viewer(is_administrator=True)
_POLL_SECONDS = 0.5

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")


class NamedValue(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, separator, rest = str(value).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} should be NAME=VALUE", param, ctx)
        return name, rest


@click.command()
@click.argument("application")
@click.option("--set", "texts", type=NamedValue(), multiple=True, help="The value of an input. Can be repeated.")
@click.option("--file", "files", type=NamedValue(), metavar="NAME=PATH", multiple=True, help="An input from a file.")
@click.option("--email", required=True, help="Where the mail goes.")
@click.option("--wait", is_flag=True, help="Wait until it has ended; exit 1 unless it succeeded.")
@as_json_option
@pass_context
def submit(
    context: CommandContext,
    application: str,
    texts: Sequence[tuple[str, str]],
    files: Sequence[tuple[str, str]],
    email: str,
    wait: bool,
    as_json: bool,
) -> None:
    """Send in a job of APPLICATION."""
    parts = context.parts
    inputs = _inputs(parts, application, texts, files)
    job_id = parts.jobs.submit(Submission(application, inputs, email, is_limited=False)).job_id
    if not wait:
        record = parts.jobs.record(job_id)
    else:
        if not as_json:
            say(f"Job {job_id} is accepted: {results_url(parts.jobs.base_url, job_id)}")
        record = wait_until_final(parts, job_id)
    if as_json:
        say_json(_rest(parts, record))
    elif wait:
        say(words.summary(record))
    else:
        say(f"Job {job_id} is accepted: {results_url(parts.jobs.base_url, job_id)}")
    if wait and record.job.state is not JobState.SUCCEEDED:
        raise click.exceptions.Exit(1)


def _inputs(
    parts: Parts, application: str, texts: Sequence[tuple[str, str]], files: Sequence[tuple[str, str]]
) -> dict[str, object]:
    """The inputs as a form would give them: long text comes from a file as text, a file as an upload."""
    kinds = {parameter.name: parameter.type for parameter in parts.catalog.get(application).parameters}
    inputs: dict[str, object] = dict(texts)
    for name, path in files:
        inputs[name] = _long_text(path) if kinds.get(name) == "longtext" else Upload(Path(path).name, _content(path))
    if len(inputs) < len(texts) + len(files):
        raise click.UsageError("each input can be given once")
    return inputs


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--file: {path} cannot be read: {error.strerror}") from error


def _long_text(path: str) -> str:
    try:
        return _content(path).decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--file: {path} should be UTF-8 text") from error


def wait_until_final(parts: Parts, job_id: str, seconds: float | None = None) -> JobRecord:
    """The job once it has ended, or as it is after so many seconds. Raises PortalError on Ctrl-C: the job goes on."""
    deadline_seconds = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            record = _look(parts, job_id)
            is_late = deadline_seconds is not None and time.monotonic() >= deadline_seconds
            if record is not None and (record.job.state.is_final or is_late):
                return record
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt as error:
        raise PortalError(
            f"not waiting any more; job {job_id} goes on, and `portal show {job_id}` tells how it is"
        ) from error


def _look(parts: Parts, job_id: str) -> JobRecord | None:
    try:
        return parts.jobs.record(job_id)
    except StorageError as error:
        complain(f"{error}; still waiting for job {job_id}")
        return None


@click.command(name="jobs")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@as_json_option
@pass_context
def list_jobs(context: CommandContext, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    parts = context.parts
    records = parts.jobs.newest(limit)
    if as_json:
        say_json([_rest(parts, record) for record in records])
    elif not records:
        say("No jobs yet.")
    else:
        head = ("JOB", "STATE", "APPLICATION", "INPUTS", "OWNER", "CREATED")
        say_table([head, *(_row(record) for record in records)])


def _row(record: JobRecord) -> tuple[str, ...]:
    job = record.job
    return (
        job.job_id,
        words.state_word(record),
        job.application,
        words.title(record),
        job.owner,
        utc_text(job.created_at),
    )


@click.command()
@click.argument("job_id", metavar="ID")
@as_json_option
@pass_context
def show(context: CommandContext, job_id: str, as_json: bool) -> None:
    """Show a job, its attempts, and how its state is known."""
    parts = context.parts
    record = parts.jobs.record_for(ADMINISTRATOR, job_id)
    if as_json:
        say_json(_rest(parts, record))
    else:
        _show(parts, record)


def _show(parts: Parts, record: JobRecord) -> None:
    job = record.job
    say(f"Job {job.job_id}: {words.summary(record)}")
    facts = [
        ("application", job.application),
        ("owner", job.owner),
        *((f"input {row.name}", row.filename or row.text) for row in record.inputs),
        ("created", utc_text(job.created_at)),
        *(("started", utc_text(moment)) for moment in [job.started_at] if moment),
        *(("ended", utc_text(moment)) for moment in [job.ended_at] if moment),
        ("page", results_url(parts.jobs.base_url, job.job_id)),
        ("folder", str(parts.folder.job(job.job_id).path)),
    ]
    say_table([("", *fact) for fact in facts])
    say("How its state is known:")
    say_table(
        [
            ("", utc_text(event.at), event.to_state.value, event.source, f"{event.detail} ({event.by})")
            for event in record.events
        ]
    )
    if record.mails:
        say("Mail:")
        now = parts.clock.now_utc()
        say_table([("", row.outcome, mail_words.sentence(row, now), row.last_error or "") for row in record.mails])
    outputs = parts.jobs.outputs(record)
    if outputs:
        say("Files:")
        say_table([("", output.path, f"{output.size_bytes} bytes", output.title) for output in outputs])


@click.command()
@click.argument("job_ids", metavar="ID…", nargs=-1, required=True)
@as_json_option
@pass_context
def cancel(context: CommandContext, job_ids: Sequence[str], as_json: bool) -> None:
    """Ask for the end of jobs. The dispatcher carries it out."""
    parts = context.parts
    records = []
    for job_id in dict.fromkeys(job_ids):
        try:
            records.append(parts.jobs.ask_cancel(ADMINISTRATOR, job_id))
        except PortalError as error:
            complain(f"{job_id}: {error}")
        else:
            if not as_json:
                say(f"Job {job_id}: cancellation asked for.")
    if as_json:
        say_json([_rest(parts, record) for record in records])
    if len(records) < len(dict.fromkeys(job_ids)):
        raise click.exceptions.Exit(1)


def _rest(parts: Parts, record: JobRecord) -> dict[str, Any]:
    return rest_object(record, parts.jobs.outputs(record), parts.jobs.base_url)
