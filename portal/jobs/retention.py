"""How long a job is kept: its application says so in days, and the visitor is told the date when it ends."""

from datetime import datetime, timedelta

from portal.applications.definition import Application
from portal.jobs.models import Job


def kept_until_after(ended_at: datetime, application: Application | None) -> datetime | None:
    """When a job that ends now is deleted; None where nobody says so, and it is kept until somebody deletes it."""
    if application is None:
        return None
    return ended_at + timedelta(days=application.policy.retention_days)


def shown_date(job: Job, *, purges: bool) -> datetime | None:
    """When the job is deleted by itself, for its visitor; None where it is not, or has not ended."""
    return job.kept_until if purges and job.state.is_final else None
