"""What the tests of a whole portal look at."""

from portal.jobs.store import JobRecord
from tests.contract.sites import Site


def markers(site: Site, job_id: str) -> list[str]:
    """What the job directory shows of the end, to whom looks with `ls`."""
    return [name for name in ("SUCCESS", "ERROR") if (site.directory(job_id).path / name).exists()]


def what_is_known(record: JobRecord) -> list[object]:
    """All of a job that a scheduler's silence must not change."""
    return [record.job.state, len(record.events), [(a.number, a.state, a.end_seen_at) for a in record.attempts]]
