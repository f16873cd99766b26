"""The `portal` command: its options, its commands, its exit codes, and nothing else.

0 done, 1 failed, 2 wrong usage or wrong settings. What the portal can explain is one line on stderr, never a
traceback.
"""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from portal.commands.check import check
from portal.commands.context import CommandContext
from portal.commands.daemons import client, dispatcher, serve, web
from portal.commands.deletion import delete, purge
from portal.commands.jobs import cancel, list_jobs, show, submit
from portal.commands.output import complain
from portal.commands.recovery import backup, reindex
from portal.commands.resubmit import resubmit
from portal.commands.user import user
from portal.errors import InvalidInputError, PortalError, SettingsError
from portal.lifeline import follow_lifeline_from_environment
from portal.privileges import UMASK


class PortalGroup(click.Group):
    """Commands whose errors are explained in one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InvalidInputError as error:
            for name, message in error.field_errors.items():
                complain(message if message.lower().startswith(name) else f"{name}: {message}")
            raise click.exceptions.Exit(1) from error
        except PortalError as error:
            complain(str(error))
            raise click.exceptions.Exit(2 if isinstance(error, SettingsError) else 1) from error


@click.group(cls=PortalGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The settings; by default $PORTAL_CONFIG, then ./portal.toml, then the built-in defaults.",
)
@click.version_option(version("portal"), message="portal %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Run programs on a cluster for people who never log in to it."""
    ctx.obj = CommandContext(config)


for command in (
    serve,
    web,
    dispatcher,
    client,
    submit,
    list_jobs,
    show,
    cancel,
    resubmit,
    delete,
    purge,
    reindex,
    backup,
    user,
    check,
):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    os.umask(UMASK)
    follow_lifeline_from_environment()
    cli(prog_name="portal")
