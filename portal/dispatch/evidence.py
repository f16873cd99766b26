"""What an attempt's `work/` says: the claim, the status file, the heart. All of it is hostile, and may lag behind."""

import os
import socket
from dataclasses import dataclass

import structlog

from portal.clock import Clock, utc_text
from portal.dispatch.context import Dispatch
from portal.jobs.directory import AttemptDirectory
from portal.jobs.job_files import read_job_file
from portal.jobs.models import Attempt
from portal.node import claim as claims
from portal.node import heartbeat, status_file
from portal.node.claim import Claim
from portal.node.status_file import StatusFile

log = structlog.get_logger()

_MAX_HEARTBEAT_BYTES = 64


@dataclass(frozen=True)
class NodeEvidence:
    """What lies in `work/`."""

    claim: Claim | None
    status: StatusFile | None

    @property
    def tells_the_end(self) -> bool:
        """Whether the status file says how the program ended."""
        return self.status is not None and self.status.succeeded is not None


def gather_evidence(dispatch: Dispatch, attempt: Attempt, *, has_ended: bool = False) -> NodeEvidence | None:
    """What the node wrote, as it is now; None where it is still on its way here: nothing may be concluded.

    `has_ended` says that the scheduler knows of the end, whatever the status file says. Raises NodesUnreachableError,
    and OSError where this machine's disk refuses.
    """
    directory = dispatch.attempt_directory(attempt)
    if not dispatch.nodes.bring(directory, everything=has_ended):
        return None
    return read_evidence(directory, attempt)


def read_evidence(directory: AttemptDirectory, attempt: Attempt) -> NodeEvidence:
    """The claim and the status file, each None where it is missing, unreadable, or not of this attempt."""
    _list_folder(directory)
    claim = _read_claim(directory, attempt)
    return NodeEvidence(claim, _read_status(directory, attempt))


def take_claim(dispatch: Dispatch, attempt: Attempt) -> bool:
    """Take the right to start the attempt away from any late wrapper. True where it is the dispatcher's now.

    A claim that a dispatcher took before counts as taken. Raises OSError where that could not be written down, and
    NodesUnreachableError.
    """
    own = Claim(
        by="dispatcher",
        scheduler_id=attempt.scheduler_id,
        name=attempt.scheduler_name,
        host=socket.gethostname(),
        pid=os.getpid(),
        at=utc_text(dispatch.now()),
    )
    if dispatch.nodes.take_claim(dispatch.attempt_directory(attempt), own):
        return True
    evidence = gather_evidence(dispatch, attempt)
    return evidence is not None and evidence.claim is not None and evidence.claim.by == "dispatcher"


class Hearts:
    """The wrappers' heartbeat counters as this process has seen them, on its own monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    def has_stopped(self, directory: AttemptDirectory, attempt: Attempt, silence_seconds: float) -> bool:
        """True once the counter was seen to stand still for `silence_seconds`; False at the first look."""
        counter = read_job_file(directory.work, heartbeat.FILE_NAME, _MAX_HEARTBEAT_BYTES)
        now_seconds = self._clock.monotonic_seconds()
        known = self._seen.get(attempt.scheduler_name)
        if known is None or known[0] != counter:
            self._seen[attempt.scheduler_name] = (counter, now_seconds)
            return False
        return now_seconds - known[1] >= silence_seconds

    def forget(self, attempt: Attempt) -> None:
        """Drop what is known of an attempt that has ended."""
        self._seen.pop(attempt.scheduler_name, None)


def _list_folder(directory: AttemptDirectory) -> None:
    """Network file systems cache that a file is missing; reading the folder makes them look again."""
    try:
        os.listdir(directory.work)  # noqa: PTH208  # only the call matters
    except OSError as error:
        log.warning("an attempt's folder cannot be listed", path=str(directory.work), error=str(error))


def _read_claim(directory: AttemptDirectory, attempt: Attempt) -> Claim | None:
    data = read_job_file(directory.work, claims.FILE_NAME, claims.MAX_BYTES)
    if data is None:
        if not os.path.lexists(directory.work / claims.FILE_NAME):
            return None
        # A link, too large, or with a second name because its wrapper was killed while it took it.
        return _spoilt_claim(attempt, ValueError("it may not be read"))
    try:
        claim = claims.parse(data)
    except ValueError as error:
        return _spoilt_claim(attempt, error)
    return claim if claim.name == attempt.scheduler_name else _spoilt_claim(attempt, ValueError("another's name"))


def _spoilt_claim(attempt: Attempt, error: ValueError) -> Claim:
    """A claim that cannot be understood still says that something was started here."""
    log.warning("a claim is not right", name=attempt.scheduler_name, error=str(error))
    return Claim("wrapper", attempt.scheduler_id or "unknown", attempt.scheduler_name, "unknown", 1, "unknown")


def _read_status(directory: AttemptDirectory, attempt: Attempt) -> StatusFile | None:
    data = read_job_file(directory.work, status_file.FILE_NAME, status_file.MAX_BYTES)
    if data is None:
        return None
    try:
        status = status_file.parse(data)
    except ValueError as error:
        log.warning("a status file is not right", name=attempt.scheduler_name, error=str(error))
        return None
    return status if (status.job_id, status.attempt) == (attempt.job_id, attempt.number) else None
