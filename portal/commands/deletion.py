"""The commands that let jobs be gone: delete and purge. The dispatcher removes the files."""

import sys
from collections.abc import Sequence

import click

from portal.clock import utc_text
from portal.commands.context import CommandContext, pass_context
from portal.commands.jobs import ADMINISTRATOR, as_json_option
from portal.commands.output import complain, say, say_json, say_table
from portal.errors import PortalError
from portal.jobs.deletion import Expired


@click.command()
@click.argument("job_ids", metavar="ID…", nargs=-1, required=True)
@as_json_option
@pass_context
def delete(context: CommandContext, job_ids: Sequence[str], as_json: bool) -> None:
    """Delete jobs that have ended, with their files.

    Nobody finds them from now on. The dispatcher removes their rows and files, here and on the cluster.
    """
    jobs = context.parts.jobs
    asked_for = list(dict.fromkeys(job_ids))
    deleted = []
    for job_id in asked_for:
        try:
            jobs.ask_delete(ADMINISTRATOR, job_id)
        except PortalError as error:
            complain(f"{job_id}: {error}")
        else:
            deleted.append(job_id)
            if not as_json:
                say(f"Job {job_id} is deleted; the dispatcher removes its files.")
    if as_json:
        say_json({"deleted": deleted})
    if len(deleted) < len(asked_for):
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@pass_context
def purge(context: CommandContext, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete the jobs that have been kept for as long as their applications say (`retention_days`).

    With `limits.purge_expired`, which is the default, the dispatcher does the same by itself.
    """
    jobs = context.parts.jobs
    expired = jobs.expired()
    if not as_json:
        _show(expired)
    count = 0
    if expired and not dry_run:
        _confirm(len(expired), yes=yes)
        count = jobs.delete_expired(expired, by="administrator")
    if as_json:
        say_json({"expired": [_as_data(job) for job in expired], "deleted": count})
    elif count:
        say(f"{_jobs(count)} deleted; the dispatcher removes the files.")


def _confirm(count: int, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal, --yes or --dry-run is needed")
    click.confirm(f"Delete {_jobs(count)} with all files?", abort=True, err=True)


def _show(expired: Sequence[Expired]) -> None:
    if not expired:
        say("No job has been kept for longer than its application says.")
        return
    head = ("JOB", "APPLICATION", "OWNER", "KEPT UNTIL")
    say_table([head, *((job.job_id, job.application, job.owner, utc_text(job.kept_until)) for job in expired)])


def _as_data(job: Expired) -> dict[str, str]:
    return {
        "job_id": job.job_id,
        "application": job.application,
        "owner": job.owner,
        "kept_until": utc_text(job.kept_until),
    }


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
