"""Portals that are broken on purpose, each in one place, so that the crash tests show that they would find it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from portal.jobs import acceptance
from portal.mail.outbox import OutboxSender

VARIABLE = "CRASH_MUTANT"


@dataclass(frozen=True)
class Mutant:
    """What is wrong with this portal, and the kill that shows it."""

    name: str
    break_it: Callable[[], None]
    point: str
    """As `str(Order)`."""
    finding: str
    """What the finding says, in part."""


def break_portal() -> None:
    """Break this process as the environment says; nothing where it says nothing."""
    name = os.environ.get(VARIABLE)
    for mutant in MUTANTS:
        if mutant.name == name:
            mutant.break_it()


def _note_before_sending() -> None:
    really = OutboxSender._hand_over

    def hand_over(self: OutboxSender, parcel: Any) -> bool:
        self._parcels.finish(parcel)
        return really(self, parcel)

    mock.patch.object(OutboxSender, "_hand_over", hand_over).start()


def _forget_forms() -> None:
    mock.patch.object(acceptance, "find_by_token", return_value=None).start()


MUTANTS = (
    Mutant("notes a mail before it has gone", _note_before_sending, "before dispatcher: mail send", "handed over: []"),
    Mutant(
        "does not know a form that comes again",
        _forget_forms,
        "after web: commit jobs.acceptance._commit",
        "503",
    ),
)
