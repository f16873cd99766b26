"""What the views work with: one object per application, found again by `web()`."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from portal.clock import Clock
from portal.jobs.keys import Keys
from portal.jobs.resubmission import Resubmission
from portal.jobs.service import JobService
from portal.people.sign_in import People
from portal.settings import Settings
from portal.web.misses import Misses

EXTENSION = "portal"


@dataclass(frozen=True)
class Web:
    """The parts of the portal that pages need. No scheduler is among them."""

    settings: Settings
    clock: Clock
    keys: Keys
    jobs: JobService
    resubmission: Resubmission
    people: People
    misses: Misses


def web() -> Web:
    """The parts of the application that answers the present request."""
    return cast("Web", current_app.extensions[EXTENSION])
