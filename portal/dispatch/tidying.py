"""The copies of job directories on a cluster that shares no file system: they go when nothing more can come of them."""

from datetime import timedelta

import structlog
from sqlalchemy import select

from portal.dispatch.context import Dispatch
from portal.dispatch.isolation import kept_apart
from portal.jobs.models import Job
from portal.jobs.states import FINAL_STATES

log = structlog.get_logger()

KEPT_DAYS = 7
"""How long after a job's end its copy stays: as long as a late word from the node may still correct it."""
_AT_ONCE = 20
"""Jobs removed in one turn; everything else waits meanwhile."""
_CHUNK = 500


def tidy_nodes(dispatch: Dispatch) -> int:
    """Remove copies of jobs that ended more than KEPT_DAYS ago; how many. What is none of the portal's stays."""
    kept = sorted(dispatch.nodes.kept_jobs())
    since = dispatch.now() - timedelta(days=KEPT_DAYS)
    removed = 0
    for start in range(0, len(kept), _CHUNK):
        with dispatch.database.reading() as session:
            done = session.scalars(
                select(Job.job_id).where(
                    Job.job_id.in_(kept[start : start + _CHUNK]), Job.state.in_(FINAL_STATES), Job.ended_at < since
                )
            ).all()
        for job_id in done[: _AT_ONCE - removed]:
            with kept_apart(job_id):
                dispatch.leadership.require()
                dispatch.nodes.remove(dispatch.folder.job(job_id))
                removed += 1
        if removed >= _AT_ONCE:
            break
    if removed:
        log.info("copies of old jobs were removed from the cluster", removed=removed)
    return removed
