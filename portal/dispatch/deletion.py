"""Carrying out deletions: a job's directory is put away, then its links and rows go, then its files, at leisure.

A crash at any point leaves either the wish, with which it begins again, or a directory that was put away, which is
removed whatever the database says: nobody takes it up again.
"""

from collections.abc import Sequence
from pathlib import Path

import structlog
from sqlalchemy import delete, select, update

from portal.dispatch.context import Dispatch
from portal.dispatch.isolation import kept_apart
from portal.errors import StorageError
from portal.jobs.job_config import read_job_config
from portal.jobs.models import Job
from portal.jobs.removal import remove_put_away
from portal.jobs.retention import kept_until_after
from portal.jobs.states import FINAL_STATES

log = structlog.get_logger()

BATCH = 100
REMOVAL_SECONDS = 5.0
"""How long the removal of one directory may keep everything else waiting; the next turn goes on with it."""
LOOK_SECONDS = 60.0
"""How often the jobs folder is looked through for what a predecessor left."""
RETRY_SECONDS = 600.0
"""When a directory that could not be removed is tried again."""
BY_RETENTION = "portal"


class Deletion:
    """What one dispatcher process remembers of it; a restart tries everything once more."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}
        self._next_look = 0.0

    def carry_out(self, dispatch: Dispatch) -> int:
        """Let jobs be gone whose end was asked for, and remove what was put away; how many jobs have gone."""
        wished = self._wished(dispatch)
        gone = 0
        if wished:
            _require_folder(dispatch)
            dispatch.leadership.require()
        for job_id, owner in wished:
            with kept_apart(job_id):
                _let_go(dispatch, job_id, owner)
                gone += 1
        if gone or dispatch.clock.monotonic_seconds() >= self._next_look:
            self._remove_put_away(dispatch)
        return gone

    def expire(self, dispatch: Dispatch) -> int:
        """Ask for the end of the jobs whose time is over; how many it was. At most a batch: the rest follows."""
        self._give_dates(dispatch)
        if not dispatch.settings.limits.purge_expired:
            return 0
        dispatch.leadership.require()
        count = dispatch.jobs.delete_expired(dispatch.jobs.expired(limit=BATCH), by=BY_RETENTION)
        if count:
            log.info("jobs have been kept for as long as their applications say, and are deleted", jobs=count)
        return count

    def _wished(self, dispatch: Dispatch) -> Sequence[tuple[str, str]]:
        with dispatch.database.reading() as session:
            rows = session.execute(
                select(Job.job_id, Job.owner)
                .where(Job.delete_asked_at.is_not(None), Job.state.in_(FINAL_STATES))
                .order_by(Job.delete_asked_at)
                .limit(BATCH)
            )
            return [(row[0], row[1]) for row in rows]

    def _remove_put_away(self, dispatch: Dispatch) -> None:
        now_seconds = dispatch.clock.monotonic_seconds()
        ids = dispatch.folder.put_away_ids()
        self._next_look = now_seconds + LOOK_SECONDS
        self._not_before = {job_id: at for job_id, at in self._not_before.items() if job_id in ids}
        due = [job_id for job_id in ids if self._not_before.get(job_id, now_seconds) <= now_seconds]
        if not due:
            return
        dispatch.leadership.require()
        dispatch.nodes.begin_round()
        # Where one cannot be removed, or the cluster not be reached, it is tried again later.
        self._not_before.update(dict.fromkeys(due, now_seconds + RETRY_SECONDS))
        for place, job_id in enumerate(due):
            with kept_apart(f"deletion of {job_id}"):
                if not self._remove(dispatch, job_id):
                    self._not_before.update(dict.fromkeys(due[place:], now_seconds))
                    self._next_look = now_seconds
                    return

    def _remove(self, dispatch: Dispatch, job_id: str) -> bool:
        """Remove one directory with the nodes' copy of it. False where the time was over; raises what kept it."""
        path = dispatch.folder.put_away_path(job_id)
        if path.lstat().st_uid != dispatch.folder.root.stat().st_uid:
            raise PermissionError(f"{path} does not belong to the jobs folder's owner")
        directory = dispatch.folder.job(job_id)
        if not directory.path.exists():
            _unlink(dispatch, job_id, path)
            if dispatch.nodes.has_copies:
                if dispatch.nodes.round_is_over():
                    return False
                dispatch.nodes.remove(directory)
        try:
            remove_put_away(path, dispatch.nodes.empty_as_jobs, REMOVAL_SECONDS)
        except TimeoutError:
            return False
        log.info("a job's files were deleted", job_id=job_id)
        return True

    def _give_dates(self, dispatch: Dispatch) -> None:
        """Jobs that ended while nobody knew their application are kept for its whole time from now on."""
        with dispatch.database.reading() as session:
            names = session.scalars(
                select(Job.application).where(Job.state.in_(FINAL_STATES), Job.kept_until.is_(None)).distinct()
            ).all()
        for name in names:
            kept_until = kept_until_after(dispatch.now(), dispatch.jobs.application_of_job(name))
            if kept_until is None:
                continue
            with dispatch.leadership.writing() as session:
                session.execute(
                    update(Job)
                    .where(Job.application == name, Job.state.in_(FINAL_STATES), Job.kept_until.is_(None))
                    .values(kept_until=kept_until)
                )


def _let_go(dispatch: Dispatch, job_id: str, owner: str) -> None:
    """Put the directory away, then take out link and rows. Doing it again changes nothing."""
    if dispatch.folder.job(job_id).path.is_dir():
        dispatch.folder.put_away(job_id)
    dispatch.folder.unlink_for_owner(owner, job_id)
    with dispatch.leadership.writing() as session:
        # Attempts, inputs, history, result and mail go with it.
        session.execute(delete(Job).where(Job.job_id == job_id, Job.delete_asked_at.is_not(None)))
    log.info("a job was deleted", job_id=job_id)


def _unlink(dispatch: Dispatch, job_id: str, path: Path) -> None:
    """The link of its owner, by the files alone: a database that knew the owner may be lost."""
    try:
        owner = read_job_config(path / "config.ini").owner
    except (OSError, ValueError):
        return
    dispatch.folder.unlink_for_owner(owner, job_id)


def _require_folder(dispatch: Dispatch) -> None:
    """A folder that is not mounted must not pass for one from which everything has gone."""
    if not dispatch.folder.is_prepared():
        raise StorageError("The jobs folder is not there.", log_detail=str(dispatch.folder.root))
