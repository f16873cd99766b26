"""How much one person may send in: the settings' limits, each with a sentence that says when it ends."""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from portal.clock import utc_text
from portal.errors import TooManyRequestsError
from portal.jobs.models import Job
from portal.jobs.states import FINAL_STATES
from portal.settings import LimitsSection

_HOUR = timedelta(hours=1)


def check_limits(session: Session, owner: str, limits: LimitsSection, now: datetime) -> None:
    """Raise TooManyRequestsError where this person has as many jobs as the site allows."""
    active = session.scalar(
        select(func.count()).select_from(Job).where(Job.owner == owner, Job.state.not_in(FINAL_STATES))
    )
    if (active or 0) >= limits.active_jobs_per_person:
        raise TooManyRequestsError(
            f"{owner} has {active} jobs that wait or run, and {limits.active_jobs_per_person} at a time are allowed. "
            "Please send in the next one when one of them has ended."
        )
    most = limits.jobs_per_hour_per_person
    nth_newest = session.scalar(
        select(Job.created_at)
        .where(Job.owner == owner, Job.created_at > now - _HOUR)
        .order_by(Job.created_at.desc())
        .offset(most - 1)
        .limit(1)
    )
    if nth_newest is not None:
        raise TooManyRequestsError(
            f"{owner} has sent in {most} jobs within an hour, which is as many as are allowed. "
            f"The next one can go in from {utc_text(nth_newest + _HOUR)} on."
        )
