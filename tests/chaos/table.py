"""What a run of chaos has come to: counted from what was seen from outside, and from what the portal says."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

EXPLAINED = ("node_failure", "lost", "launch_failed", "preempted")
"""Why a job may fail where nodes, daemons and processes are killed."""


@dataclass(frozen=True)
class Owed:
    """One outcome that the portal owes a mail for."""

    message_id: str
    digest_id: str | None = None


@dataclass(frozen=True)
class JobFacts:
    """All that is known of one job that was accepted."""

    job_id: str
    what: str
    """What its program was to do: succeed or fail."""
    state: str = ""
    """As the portal has it; empty where it does not know the job."""
    failure_reason: str = ""
    attempts: int = 1
    starts: Counter[int] = field(default_factory=Counter)
    """How often each attempt's program started, by what it wrote itself."""
    markers: frozenset[str] = frozenset()
    """SUCCESS and ERROR in its directory."""
    published: int = 0
    """How many ends its history has that nothing followed but a correction."""
    corrections: int = 0
    owed: Sequence[Owed] = ()
    received: frozenset[str] = frozenset()
    """The Message-IDs of all mail about it that the mail server took."""

    @property
    def is_final(self) -> bool:
        """Whether the portal says how it ended."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Line:
    """One line of the table; `jobs` are those to look at where it should be empty and is not."""

    name: str
    number: int
    must_be_none: bool = False
    jobs: Sequence[str] = ()


def count(jobs: Iterable[JobFacts]) -> list[Line]:
    """The table."""
    jobs = list(jobs)
    failed = [job for job in jobs if job.state == "failed"]
    by_itself = [job for job in failed if _failed_by_itself(job)]
    explained = Counter(job.failure_reason for job in failed if job.failure_reason in EXPLAINED)
    return [
        Line("accepted", len(jobs)),
        Line("succeeded", sum(job.state == "succeeded" for job in jobs)),
        Line("failed as its program was to", len(by_itself)),
        Line("failed by an injected fault", explained.total()),
        *(Line(f"  {reason}", number) for reason, number in sorted(explained.items())),
        Line("went in again after a fault", sum(job.attempts > 1 for job in jobs)),
        _none("forgotten (accepted and never final)", (job for job in jobs if not job.is_final)),
        _none("failed for no injected reason", (job for job in failed if not _is_explained(job))),
        _none("said to have ended as its program did not", (job for job in jobs if not _is_true(job))),
        _none(
            "attempts that started the program twice", (job for job in jobs if max(job.starts.values(), default=0) > 1)
        ),
        _none("jobs with two published results", filter(_is_published_twice, jobs)),
        _none("outcomes without a mail", (job for job in jobs if job.is_final and _lacks_mail(job))),
        _none("outcomes with two Message-IDs", (job for job in jobs if _is_told_twice(job))),
    ]


def as_text(lines: Iterable[Line]) -> str:
    """The table for people."""
    rows = [f"{line.name:<45} {line.number:>6}{_remark(line)}" for line in lines]
    return "\n".join(rows)


def is_good(lines: Iterable[Line]) -> bool:
    """Whether all that must be none is none, and some jobs were accepted at all."""
    lines = list(lines)
    return lines[0].number > 0 and not any(line.must_be_none and line.number for line in lines)


def _remark(line: Line) -> str:
    if not line.must_be_none:
        return ""
    return f"  BROKEN: {' '.join(line.jobs[:20])}" if line.number else "  ok"


def _none(name: str, jobs: Iterable[JobFacts]) -> Line:
    found = [job.job_id for job in jobs]
    return Line(name, len(found), must_be_none=True, jobs=found)


def _failed_by_itself(job: JobFacts) -> bool:
    return job.what == "fail" and job.failure_reason == "program_error"


def _is_explained(job: JobFacts) -> bool:
    return job.failure_reason in EXPLAINED or _failed_by_itself(job)


def _is_true(job: JobFacts) -> bool:
    """A job that succeeded ran a program that was to succeed, and that has started."""
    return job.state != "succeeded" or (job.what == "succeed" and job.starts.total() > 0)


def _is_published_twice(job: JobFacts) -> bool:
    expected = {"succeeded": {"SUCCESS"}, "failed": {"ERROR"}, "cancelled": {"ERROR"}}.get(job.state, set())
    return job.published - job.corrections > 1 or (job.is_final and job.markers != expected)


def _lacks_mail(job: JobFacts) -> bool:
    return not job.owed or any((owed.digest_id or owed.message_id) not in job.received for owed in job.owed)


def _is_told_twice(job: JobFacts) -> bool:
    """More messages than outcomes: each Message-ID that the server took must be the one of an outcome."""
    return bool(job.received - {owed.digest_id or owed.message_id for owed in job.owed})
