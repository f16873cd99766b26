"""The commands against loss: backup and reindex."""

from pathlib import Path
from typing import Any

import click

from portal.app import Parts, build_reindexing
from portal.commands.context import CommandContext, pass_context
from portal.commands.jobs import as_json_option
from portal.commands.output import complain, say, say_json
from portal.database import Database
from portal.dispatch.adoption import AdoptionReport
from portal.errors import PortalError
from portal.node.durable import write_durably


@click.command()
@as_json_option
@pass_context
def reindex(context: CommandContext, as_json: bool) -> None:
    """Build the database again from the job directories, where it is empty or an older copy.

    Directories that it does not know are taken up. What the files of known jobs tell that is newer is taken up too,
    and jobs whose directories are gone are forgotten: both only while no dispatcher is at work.
    """
    report = build_reindexing(context.parts).run()
    if as_json:
        say_json(_as_data(report))
    else:
        say(
            f"{report.adopted} taken up, {report.renewed} renewed, {report.forgotten} forgotten, "
            f"{report.swept} leftovers removed, {report.unreadable} unreadable"
        )
        if not report.compared:
            say("A dispatcher is at work: the jobs that the database knows were left to it.")
        for problem in report.problems:
            complain(problem)
    if report.unreadable:
        raise click.exceptions.Exit(1)


def _as_data(report: AdoptionReport) -> dict[str, Any]:
    return {
        "adopted": report.adopted,
        "renewed": report.renewed,
        "forgotten": report.forgotten,
        "swept": report.swept,
        "unreadable": report.unreadable,
        "problems": report.problems,
        "compared": report.compared,
    }


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@as_json_option
@pass_context
def backup(context: CommandContext, directory: Path, as_json: bool) -> None:
    """Copy the database and the secret key into DIRECTORY, while the portal is at work.

    The first half of a backup: copy the jobs folder next, in this order.
    """
    # Whatever is missing would be made when the parts are built, and be copied as if it were the portal's.
    missing = [file for file in (_sqlite_file(context), context.settings.secret_key_file) if file and not file.exists()]
    if missing:
        raise PortalError(f"there is no {missing[0]} to be copied: is this the portal's settings file?")
    parts = context.parts
    if not parts.database.is_sqlite:
        raise PortalError("the database is not SQLite: copy it with pg_dump, the secret key and then the jobs folder")
    copied = _copy(parts, directory)
    if as_json:
        say_json({"files": [str(file) for file in copied], "copy_next": str(parts.folder.root)})
        return
    for file in copied:
        say(f"Written: {file}")
    say(f"Now copy the jobs folder: {parts.folder.root}")


def _sqlite_file(context: CommandContext) -> Path | None:
    return Database(context.settings.portal.database_url).sqlite_file


def _copy(parts: Parts, directory: Path) -> list[Path]:
    database, secret = directory / "portal.db", directory / "secret_key"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts.database.copy_to(database)
        write_durably(secret, parts.settings.secret_key_file.read_bytes(), 0o600)
    except OSError as error:
        raise PortalError(f"{directory} cannot be written: {error.strerror}") from error
    return [database, secret]
