"""`portal resubmit`: jobs run again, by name or by what befell them."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import click

from portal.app import Parts
from portal.clock import SystemClock, utc_text
from portal.commands.context import CommandContext, pass_context
from portal.commands.jobs import ADMINISTRATOR, as_json_option
from portal.commands.output import complain, say, say_json, say_table
from portal.commands.user import Email
from portal.errors import InvalidInputError
from portal.jobs import words
from portal.jobs.quantities import parse_memory_mib, parse_minutes, parse_moment, parse_node
from portal.jobs.resubmission import Changes, ManyAsked
from portal.jobs.selection import UNFINISHED, JobFilter
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import JobRecord
from portal.jobs.wish import changes_in_words

_SHOWN = 20
_STATES = {"failed": (JobState.FAILED,), "cancelled": (JobState.CANCELLED,)}
_NOT_ENOUGH = (
    "name the jobs, or say which: --failure, --node, --application, --owner, --since, --until, --state or --unfinished"
)

_T = TypeVar("_T")


class Parsed(click.ParamType[_T]):
    """A value that a function of `portal.jobs.quantities` reads."""

    def __init__(self, name: str, parse: Callable[[str], _T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _T:
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_moment = Parsed("when", lambda text: parse_moment(text, SystemClock().now_utc()))
_node = Parsed("node", parse_node)


@click.command()
@click.argument("job_ids", metavar="[ID…]", nargs=-1)
@click.option("--failure", type=click.Choice([reason.value for reason in FailureReason]), help="Those that failed so.")
@click.option("--node", type=_node, help="Those whose last attempt was there.")
@click.option("--application", help="Those of this application.")
@click.option("--owner", type=Email(), help="Those of this person.")
@click.option("--since", type=_moment, help="Those that ended since then: 30m, 6h, 1d, 2w ago, or a day or time (UTC).")
@click.option("--until", type=_moment, help="Those that ended before then.")
@click.option("--state", type=click.Choice(list(_STATES)), help="Those that are so; failed unless this is said.")
@click.option("--unfinished", is_flag=True, help="Those that have not ended and that the scheduler does not have.")
@click.option("--memory", type=Parsed("memory", parse_memory_mib), help="With so much memory: 512M, 16G.")
@click.option("--time-limit", type=Parsed("time", parse_minutes), help="With this time limit: 90m, 2h, 1d.")
@click.option("--exclude-node", "exclude_nodes", type=_node, multiple=True, help="Not on this node. Can be repeated.")
@click.option("--dry-run", is_flag=True, help="Only say how many and which.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@pass_context
def resubmit(
    context: CommandContext,
    job_ids: Sequence[str],
    failure: str | None,
    node: str | None,
    application: str | None,
    owner: str | None,
    since: datetime | None,
    until: datetime | None,
    state: str | None,
    unfinished: bool,
    memory: int | None,
    time_limit: int | None,
    exclude_nodes: Sequence[str],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Run jobs again: a new attempt each, with the same inputs.

    Named ones whatever they ended as; by the other choices those that failed. With both, those of the named ones that
    are like that. With --unfinished, those that have not ended, where the scheduler does not have them any more; the
    portal recovers from a restart without it.
    """
    if unfinished and (failure is not None or state is not None):
        raise click.UsageError("--unfinished is about jobs that have not ended: it goes without --failure and --state")
    filters = (failure, node, application, owner, since, until, state)
    has_filter = unfinished or any(value is not None for value in filters)
    if not job_ids and not has_filter:
        raise click.UsageError(_NOT_ENOUGH)
    parts = context.parts
    chosen: list[tuple[str, int | None]] = [(job_id, None) for job_id in job_ids]
    if has_filter:
        wanted = JobFilter(
            states=UNFINISHED if unfinished else _STATES[state or "failed"],
            failure=FailureReason(failure) if failure else None,
            node=node,
            application=application,
            owner=owner,
            since=since,
            until=until,
            job_ids=tuple(job_ids) or None,
        )
        chosen = [(job.job_id, job.attempt_number) for job in parts.jobs.choose(wanted)]
    run = _Run(parts, chosen, Changes(memory, time_limit, tuple(exclude_nodes)), unfinished, as_json)
    where = ", where the scheduler does not have them any more" if unfinished else ""
    if dry_run:
        run.tell(run.ask(dry_run=True), f"would run again{where}")
    elif job_ids or yes or run.is_confirmed():
        run.tell(run.ask(dry_run=False), f"asked to run again{where}")
    else:
        raise click.Abort


@dataclass(frozen=True)
class _Run:
    """One run of the command, once the jobs are chosen."""

    parts: Parts
    chosen: list[tuple[str, int | None]]
    """Each with the attempt that is seen now; None for one that was named."""
    changed: Changes
    unfinished: bool
    as_json: bool

    def ask(self, *, dry_run: bool) -> ManyAsked:
        """Ask for them, or find out what would come of it."""
        try:
            return self.parts.resubmission.ask_many(
                ADMINISTRATOR, self.chosen, self.changed, unfinished=self.unfinished, dry_run=dry_run
            )
        except InvalidInputError as error:
            raise click.UsageError(" ".join(error.field_errors.values())) from error

    def is_confirmed(self) -> bool:
        """Whether the person at the terminal means it; nothing is asked where there is nothing to be done.

        Raises UsageError where nobody can be asked.
        """
        if not self.chosen:
            return True
        if not _is_terminal():
            raise click.UsageError(f"this is about {_jobs(len(self.chosen))}: without a terminal it needs --yes")
        self._show([job_id for job_id, _ in self.chosen], err=True)
        how = changes_in_words(self.changed.memory_mib, self.changed.time_limit_minutes, self.changed.exclude_nodes)
        which = f"{_jobs(len(self.chosen))} again"
        if self.unfinished:
            which = f"those again of {_jobs(len(self.chosen))} that the scheduler does not have any more"
        question = f"Run {which}{f', {how}' if how else ''}?"
        return click.confirm(question, err=True)

    def tell(self, report: ManyAsked, what: str) -> None:
        """Say what came of it. Raises Exit(1) where one of them cannot run again."""
        if self.as_json:
            say_json(
                {
                    "asked": report.asked,
                    "already": report.already,
                    "refused": [{"job_id": job_id, "reason": str(why)} for job_id, why in report.refused.items()],
                }
            )
        else:
            if report.asked:
                say(f"{_jobs(len(report.asked))} {what}:")
                self._show(report.asked)
            for job_id in report.already:
                say(f"Job {job_id}: asked for already.")
            if not self.chosen:
                say("No job is like that.")
        for job_id, error in report.refused.items():
            complain(f"{job_id}: {error}")
        if report.refused:
            raise click.exceptions.Exit(1)

    def _show(self, job_ids: Sequence[str], *, err: bool = False) -> None:
        records = self.parts.jobs.records(job_ids[:_SHOWN])
        say_table([("", *_row(record)) for record in records], err=err)
        if len(job_ids) > _SHOWN:
            say(f"  and {len(job_ids) - _SHOWN} more", err=err)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _row(record: JobRecord) -> tuple[str, ...]:
    job, node = record.job, record.attempt.node or "-"
    when = utc_text(job.ended_at or job.created_at)
    return (job.job_id, words.state_word(record), job.application, job.owner, node, when)
