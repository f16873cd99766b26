"""What is known of jobs where the system's own commands are of no use: the library's word, one job after the other.

`jobStatus` says whether a job is alive or gone (GFD.133, section 3.3.4). How it ended is never taken from it, and a
name cannot be looked up at all.
"""

from collections.abc import Collection

import structlog

from portal.errors import SchedulerError
from portal.schedulers.base import FindAnswer, Handle, Health, Observation, SchedulerState, Unknown
from portal.schedulers.drmaa_session import DrmaaSession, NoSuchJobError

log = structlog.get_logger()

_ALIVE = {
    "queued_active": SchedulerState.PENDING,
    "system_on_hold": SchedulerState.HELD,
    "user_on_hold": SchedulerState.HELD,
    "user_system_on_hold": SchedulerState.HELD,
    "running": SchedulerState.RUNNING,
    "system_suspended": SchedulerState.SUSPENDED,
    "user_suspended": SchedulerState.SUSPENDED,
    "user_system_suspended": SchedulerState.SUSPENDED,
}
_GONE = frozenset({"done", "failed"})
"""Nothing more than that: slurm-drmaa calls done what vanished, and Grid Engine's library what exited with 4."""


class LibraryRecords:
    """`Records` by `jobStatus`. There is no accounting: that a job is gone does not say how it ended."""

    def __init__(self, session: DrmaaSession) -> None:
        self._session = session

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """The library's word for each. Raises SchedulerError where it has none for any of them."""
        answers: dict[Handle, Observation] = {}
        problem: SchedulerError | None = None
        for handle in handles:
            if problem is not None:  # the others would be asked in vain, and each for as long
                answers[handle] = Observation(SchedulerState.UNKNOWN, reason="the library does not answer")
                continue
            try:
                answers[handle] = _observation(self._session.status(handle.scheduler_id))
            except NoSuchJobError:
                answers[handle] = Observation(SchedulerState.NOT_FOUND)
            except SchedulerError as error:
                if not answers:
                    raise
                log.warning("the DRMAA library stopped answering", error=str(error))
                problem = error
                answers[handle] = Observation(SchedulerState.UNKNOWN, reason="the library does not answer")
        return answers

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        """DRMAA has no question for a name."""
        return dict.fromkeys(names, Unknown("a DRMAA library cannot look a job's name up", for_ever=True))

    def health(self) -> Health:
        """That there is a session is known to whoever asks."""
        return Health(True, "")

    def close(self) -> None:
        """The session is not its own."""


def _observation(word: str) -> Observation:
    if word in _ALIVE:
        return Observation(_ALIVE[word], raw_state=word)
    if word in _GONE:
        return Observation(SchedulerState.NOT_FOUND, raw_state=word, reason="it has left the queue")
    return Observation(SchedulerState.UNKNOWN, raw_state=word)
