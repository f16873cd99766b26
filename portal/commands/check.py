"""`portal check`: whether this portal can work, one line a part, with what to do about it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import click

from portal.app import Parts, build_cluster, build_scheduler
from portal.applications.definition import Application
from portal.clock import SystemClock
from portal.commands import scheduler_checks, site_checks
from portal.commands.context import CommandContext, pass_context
from portal.commands.jobs import as_json_option, wait_until_final
from portal.commands.output import say_json, say_table
from portal.errors import PortalError
from portal.jobs import words
from portal.jobs.acceptance import Submission
from portal.jobs.states import JobState
from portal.jobs.store import read_health
from portal.jobs.stuck import find_stuck

_RECENT_SECONDS = 30.0
_STUCK_SHOWN = 3
_WAIT_IN_QUEUE_SECONDS = 300.0
"""How long `--job` waits beyond the time limit of the job itself."""


class Verdict(StrEnum):
    """What came of looking at one part."""

    OK = "ok"
    WARNING = "warning"
    """It works, and somebody should know of it."""
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One line."""

    name: str
    verdict: Verdict
    detail: str


@click.command()
@click.option("--job", "with_job", is_flag=True, help="Also run a real job through.")
@as_json_option
@pass_context
def check(context: CommandContext, with_job: bool, as_json: bool) -> None:
    """Say what works and what does not.

    One line a part; exit 1 if one of them is broken.
    """
    context.make_room_for_library()
    findings = list(_findings(context, with_job))
    if as_json:
        say_json([{"name": f.name, "state": f.verdict.value, "detail": f.detail} for f in findings])
    else:
        say_table([(f.name, "BROKEN" if f.verdict is Verdict.BROKEN else f.verdict, f.detail) for f in findings])
    if any(finding.verdict is Verdict.BROKEN for finding in findings):
        raise click.exceptions.Exit(1)


def _findings(context: CommandContext, with_job: bool) -> Iterator[Finding]:
    settings = context.settings
    where = str(context.settings_file) if context.settings_file else "the built-in defaults, and PORTAL_ variables"
    yield Finding("settings", Verdict.OK, where)
    before_parts = [
        _finding("applications", lambda: site_checks.applications(settings)),
        _finding("disk", lambda: site_checks.disk(settings)),
        _finding("accounts", lambda: site_checks.accounts(settings)),
        _finding("secret", lambda: site_checks.secret(settings)),
        _finding("database", lambda: site_checks.database(settings)),
        _finding("mail", lambda: site_checks.mail(settings)),
    ]
    yield from before_parts
    if not site_checks.is_set_up(settings) or any(finding.verdict is Verdict.BROKEN for finding in before_parts):
        yield Finding("scheduler", Verdict.WARNING, "not asked: first the lines above, or the first start")
        return
    yield from _of_running_portal(context.parts, with_job)


def _finding(name: str, look: Callable[[], site_checks.Seen]) -> Finding:
    """What `look` saw; a PortalError is what is broken."""
    try:
        seen = look()
    except PortalError as error:
        return Finding(name, Verdict.BROKEN, str(error))
    return Finding(name, Verdict.WARNING if seen.is_warning else Verdict.OK, seen.detail)


def _of_running_portal(parts: Parts, with_job: bool) -> Iterator[Finding]:
    with contextlib.closing(build_scheduler(parts)) as scheduler:
        answers = _finding("scheduler", lambda: scheduler_checks.answers(parts, scheduler))
        yield answers
        if answers.verdict is Verdict.OK and scheduler.can_say_what_it_refuses:
            yield _finding("resources", lambda: scheduler_checks.would_take(parts, scheduler))
    if parts.settings.shares_no_files:
        with contextlib.closing(build_cluster(parts)) as cluster:
            yield _finding("files", lambda: scheduler_checks.files(cluster.nodes))
    dispatcher = _dispatcher(parts)
    yield dispatcher
    yield _finding("stuck", lambda: _stuck(parts))
    if with_job and dispatcher.verdict is Verdict.OK:
        yield _finding("job", lambda: _run_a_job(parts))
    elif with_job:
        yield Finding("job", Verdict.BROKEN, "not tried, since no dispatcher is at work: `portal serve` runs one")


def _dispatcher(parts: Parts) -> Finding:
    with parts.database.reading() as session:
        health = read_health(session)
    if health is None:
        return Finding("dispatcher", Verdict.WARNING, "none has ever run here")
    age_seconds = (SystemClock().now_utc() - health.asked_at).total_seconds()
    if age_seconds > max(_RECENT_SECONDS, 3 * parts.settings.scheduler.poll_seconds):
        return Finding(
            "dispatcher", Verdict.WARNING, f"it last asked the scheduler {age_seconds:.0f} s ago: is it running?"
        )
    return Finding("dispatcher", Verdict.OK, f"it asked the scheduler {age_seconds:.0f} s ago")


def _stuck(parts: Parts) -> site_checks.Seen:
    """What waits for longer than it should. A warning: the portal itself works, and goes on trying."""
    settings = parts.settings
    with parts.database.reading() as session:
        found = find_stuck(session, parts.clock.now_utc(), settings.scheduler.grace_seconds, settings.limits)
    if not found:
        return site_checks.Seen("nothing waits for longer than it should")
    first = "; ".join(f"{one.job_id}: {one.sentence.rstrip('.')}" for one in found[:_STUCK_SHOWN])
    more = (
        f"; and {len(found) - _STUCK_SHOWN} more, see {parts.jobs.base_url}/admin/" if len(found) > _STUCK_SHOWN else ""
    )
    return site_checks.Seen(f"{len(found)} wait for longer than they should: {first}{more}", is_warning=True)


def _run_a_job(parts: Parts) -> site_checks.Seen:
    """Submit the first application's first example, and wait. Raises PortalError where it does not succeed."""
    application, inputs = _first_example(parts)
    started_seconds = time.monotonic()
    submission = Submission(application.name, inputs, parts.settings.from_address, is_limited=False)
    job_id = parts.jobs.submit(submission).job_id
    limit_seconds = application.resources.time_limit_minutes * 60 + _WAIT_IN_QUEUE_SECONDS
    record = wait_until_final(parts, job_id, limit_seconds)
    took = f"{application.name} {job_id}, {time.monotonic() - started_seconds:.0f} s: {words.summary(record)}"
    if record.job.state is not JobState.SUCCEEDED:
        raise PortalError(took)
    return site_checks.Seen(took)


def _first_example(parts: Parts) -> tuple[Application, dict[str, object]]:
    for application in parts.catalog.applications.values():
        for example in application.examples.values():
            return application, dict(example.inputs)
    raise PortalError("no application has an example that could be run")
