"""The commands that go on until they are stopped: serve, web, dispatcher, client."""

import os
import socket
import sys
from functools import partial

import click

from portal.commands.context import CommandContext, pass_context
from portal.errors import SettingsError
from portal.listening import address, open_listener
from portal.settings import PortalSection, Settings, is_loopback
from portal.signal_pipe import stop_on_signals

# What only one of these commands needs is imported by it: the others start faster, and hold less memory.


@click.command()
@pass_context
def serve(context: CommandContext) -> None:
    """Run it all on one machine.

    Web server and dispatcher, and for the embedded scheduler one compute client, until Ctrl-C or SIGTERM; what dies is
    started again.
    """
    from portal.serve import ChildCommand, Supervisor, announce_when_ready

    parts = context.daemon_parts()
    parts.database.close()
    settings = parts.settings
    listener = open_listener(settings.bind_host, settings.bind_port)
    port = int(listener.getsockname()[1])
    base_url = _base_url(settings, port)
    # So that the processes agree on it, and a link in a mail leads here.
    os.environ["PORTAL_PORTAL__BASE_URL"] = base_url
    here = f"http://{address(settings.bind_host, port)}"
    for_people = "" if base_url == here else f", for people at {base_url}"
    announce_when_ready(
        settings.bind_host,
        port,
        base_url,
        partial(print, f"Portal on {here}{for_people} (Ctrl-C stops it)", flush=True),
    )
    commands = [
        ChildCommand("web", ("web", "--fd", str(listener.fileno())), (listener.fileno(),)),
        ChildCommand("dispatcher", ("dispatcher",)),
    ]
    if settings.scheduler.kind == "local":
        commands.append(ChildCommand("client", ("client",)))
    supervisor = Supervisor(
        commands, context.options(), stop_seconds=settings.portal.stop_seconds, stopped_last="dispatcher"
    )
    sys.exit(supervisor.run())


def _base_url(settings: Settings, port: int) -> str:
    """The setting; where it is left at its default, and only this machine is served, what really is listened on."""
    if is_loopback(settings.bind_host) and settings.portal.base_url == PortalSection().base_url:
        return f"http://{address(settings.bind_host, port)}"
    return settings.portal.base_url


@click.command()
@click.option("--fd", type=int, hidden=True, help="A listening socket to use, from `portal serve`.")
@pass_context
def web(context: CommandContext, fd: int | None) -> None:
    """Run the web server."""
    from portal.app import create_app
    from portal.webserver import serve_web

    parts = context.daemon_parts()
    parts.database.close()
    if fd is None:
        fd = open_listener(parts.settings.bind_host, parts.settings.bind_port).detach()
    serve_web(fd, partial(create_app, parts.settings))


@click.command()
@pass_context
def dispatcher(context: CommandContext) -> None:
    """Run the dispatcher.

    It hands jobs to the scheduler, watches them and sends mail. One is active at a time; another one waits.
    """
    from portal.app import build_dispatcher

    context.make_room_for_library()
    build_dispatcher(context.daemon_parts()).run(stop_on_signals())


@click.command()
@click.option(
    "--slots", type=click.IntRange(1), help="How many jobs it runs at a time; by default as many as there are CPUs."
)
@pass_context
def client(context: CommandContext, slots: int | None) -> None:
    """Run a compute client.

    It takes jobs from the queue of the embedded scheduler, and runs them on this machine.
    """
    from portal.schedulers.client import ComputeClient

    kind = context.settings.scheduler.kind
    if kind != "local":
        raise SettingsError(f"portal client serves scheduler.kind 'local' only; this portal's is {kind!r}")
    parts = context.daemon_parts()
    compute_client = ComputeClient(
        parts.database,
        parts.clock,
        node=socket.gethostname(),
        slots=slots or os.cpu_count() or 1,
        stop_seconds=parts.settings.portal.stop_seconds,
    )
    compute_client.run(stop_on_signals())
