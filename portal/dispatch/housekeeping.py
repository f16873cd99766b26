"""Once a day: what nobody can need any more goes, so that nothing grows for ever.

Sessions that have expired, the embedded scheduler's history, and the wrapper's versions of portals before this one.
"""

import re
from collections.abc import Iterator
from datetime import timedelta

import structlog
from sqlalchemy import select

from portal.dispatch.context import Dispatch
from portal.jobs.models import Attempt
from portal.jobs.node_files import NODE_FOLDER, remove_unused_versions
from portal.jobs.states import FINAL_STATES
from portal.people.sessions import forget_expired

log = structlog.get_logger()

KEPT = timedelta(days=30)
"""Longer than any late word of a node is waited for, or a wrapper that was thought dead runs on."""
_VERSION = re.compile(rf"/{re.escape(NODE_FOLDER)}/([^/'\"\s]+)/")


def keep_house(dispatch: Dispatch) -> None:
    """Remove what is of no use. Raises StorageError or OSError: the rest goes the next day."""
    dispatch.leadership.require()
    with dispatch.leadership.writing() as session:
        forget_expired(session, dispatch.now())
    active = _active(dispatch)
    before = dispatch.now() - KEPT
    forgotten = dispatch.scheduler.forget_ended(before, {attempt.scheduler_name for attempt in active})
    needed = set(_versions(dispatch, active))
    removed = remove_unused_versions(dispatch.folder.root, needed, before.timestamp())
    if forgotten or removed:
        log.info("housekeeping", history_rows=forgotten, node_versions=removed)


def _active(dispatch: Dispatch) -> list[Attempt]:
    with dispatch.database.reading() as session:
        return list(session.scalars(select(Attempt).where(Attempt.state.not_in(FINAL_STATES))))


def _versions(dispatch: Dispatch, active: list[Attempt]) -> Iterator[str]:
    """The versions of the node's files that scripts name which may still start. Raises OSError."""
    for attempt in active:
        try:
            script = dispatch.attempt_directory(attempt).job_script.read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            continue  # it is yet to be written, for the current version
        yield from _VERSION.findall(script)
