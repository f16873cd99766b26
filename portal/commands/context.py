"""What every command starts from: the settings, the right account, the log, and the portal's parts."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from portal.app import Parts, build_parts
from portal.lifeline import lifeline_to_hand_on
from portal.logging_setup import configure_logging
from portal.privileges import work_as_owner_of_jobs
from portal.schedulers.drmaa_loading import make_room_for_library
from portal.settings import DEFAULT_FILE, Settings, load_settings


@dataclass
class CommandContext:
    """One run of the command. Whatever is asked for first is made first; `--help` needs nothing."""

    given_file: Path | None
    """`--config`."""

    @cached_property
    def settings_file(self) -> Path | None:
        """The settings file in use, absolute; None where the defaults are."""
        chosen = self.given_file or _path_or_none(os.environ.get("PORTAL_CONFIG"))
        if chosen is None and Path(DEFAULT_FILE).exists():
            chosen = Path(DEFAULT_FILE)
        return chosen.absolute() if chosen else None

    @cached_property
    def settings(self) -> Settings:
        """The settings; from here on this process is the jobs folder's owner. Raises PortalError."""
        settings = load_settings(self.settings_file)
        work_as_owner_of_jobs(settings, self.settings_file)
        return settings

    @cached_property
    def parts(self) -> Parts:
        """The parts, for a command that talks to its user: its log holds what is wrong only. Raises PortalError."""
        settings = self.settings
        configure_logging(logging.WARNING)
        parts = build_parts(settings)
        click.get_current_context().call_on_close(parts.database.close)
        return parts

    def daemon_parts(self) -> Parts:
        """The parts of a process that goes on, which logs what it does. Raises PortalError."""
        settings = self.settings
        configure_logging(logging.INFO)
        return build_parts(settings)

    def make_room_for_library(self) -> None:
        """Where the scheduler is reached by a DRMAA library: start this command once more, with room for it.

        Before anything is opened.
        """
        if self.settings.scheduler.kind == "drmaa":
            make_room_for_library(execute=_start_again)

    def options(self) -> list[str]:
        """The options with which another process of the portal comes to the same settings."""
        return ["--config", str(self.settings_file)] if self.settings_file else []


def _start_again(program: str, arguments: list[str], environ: Mapping[str, str]) -> None:
    os.execve(program, arguments, {**environ, **lifeline_to_hand_on()})  # noqa: S606  # no shell is meant


def _path_or_none(text: str | None) -> Path | None:
    return Path(text) if text else None


pass_context = click.make_pass_decorator(CommandContext)
