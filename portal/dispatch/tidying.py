"""The copies of job directories on a cluster that shares no file system: they go when nothing more can come of them."""

from collections import Counter
from datetime import timedelta

import structlog
from sqlalchemy import func, select

from portal.dispatch.context import Dispatch
from portal.dispatch.isolation import kept_apart
from portal.jobs.models import Job, JobEvent
from portal.jobs.states import FINAL_STATES
from portal.transfer.shortfall import KEPT_DAYS

log = structlog.get_logger()

_LOOKED_BACK_DAYS = 60
"""A dispatcher that was away for longer leaves what is older."""
_AT_ONCE = 20
_MOST_TRIES = 3
"""One that cannot be removed must not keep the others from it."""


class Tidying:
    """What one dispatcher process remembers of it; a restart looks at each copy once more."""

    def __init__(self) -> None:
        self._removed: set[str] = set()
        self._tries: Counter[str] = Counter()

    def tidy(self, dispatch: Dispatch) -> int:
        """Remove copies of jobs that ended more than KEPT_DAYS ago, as long as a round lasts; how many were tried.

        By the portal's own clock: what a node says of the time may be anything. Raises NodesUnreachableError.
        """
        if not dispatch.nodes.has_copies:
            return 0
        dispatch.nodes.begin_round()
        tried = 0
        for job_id in self._due(dispatch):
            if dispatch.nodes.round_is_over():
                break
            dispatch.leadership.require()
            tried += 1
            self._tries[job_id] += 1
            with kept_apart(job_id):
                dispatch.nodes.remove(dispatch.folder.job(job_id))
                self._removed.add(job_id)
        return tried

    def _due(self, dispatch: Dispatch) -> list[str]:
        now = dispatch.now()
        last = func.max(JobEvent.at)
        with dispatch.database.reading() as session:
            ended = session.scalars(
                select(Job.job_id)
                .join(JobEvent, JobEvent.job_id == Job.job_id)
                .where(Job.state.in_(FINAL_STATES))
                .group_by(Job.job_id)
                .having(last < now - timedelta(days=KEPT_DAYS), last > now - timedelta(days=_LOOKED_BACK_DAYS))
                .order_by(last)
            ).all()
        due = [job_id for job_id in ended if job_id not in self._removed and self._tries[job_id] < _MOST_TRIES]
        return due[:_AT_ONCE]
