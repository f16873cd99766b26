"""The jobs folder as the compute nodes have it: what the dispatcher asks of it, whether or not it is shared.

Evidence and results are always read from this machine's `attempts/N/work/`. Where the nodes write somewhere else,
`bring` makes that folder a mirror of theirs; what says how the program ended comes last.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from portal.errors import SchedulerError
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.node_files import NodeFiles
from portal.node import claim as claims
from portal.node.claim import Claim

FILES_UNREACHABLE = "The cluster's files cannot be reached at the moment."


class NodesUnreachableError(SchedulerError):
    """There is no way to the nodes' files now. Nothing may be concluded, and nobody else's turn would fare better."""


class Delivery(StrEnum):
    """What became of an attempt that was to be sent to the nodes."""

    THERE = "there"
    """The nodes have all of it."""
    NOT_YET = "not_yet"
    """The time of this round was over; the next one goes on from there."""
    CLAIMED = "claimed"
    """It has been started there already, by somebody's hand."""
    REFUSED = "refused"
    """It cannot be written there."""


@dataclass(frozen=True)
class Sent:
    """The answer for one attempt."""

    delivery: Delivery
    problem: str = ""
    """Why it was refused, for the log."""


class NodeFolders(ABC):
    """The jobs folder on the nodes."""

    folder: JobsFolder
    """Its paths as scripts, the scheduler and the nodes have them."""
    node_files: NodeFiles
    """The wrapper and the programs, by their paths there."""
    empty_as_jobs: Callable[[Sequence[Path]], None] | None = None
    """Empties `work/` folders on this machine as the account that jobs run as; None where that is the portal's own."""

    def begin_round(self) -> None:  # noqa: B027  # where nothing is copied there is nothing to limit
        """From now on a round's time runs, after which `send` and `bring` put off what takes longer."""

    def round_is_over(self) -> bool:
        """Whether that time is over: whoever has not had a turn is first in the next round."""
        return False

    @abstractmethod
    def send(self, attempts: Sequence[tuple[JobDirectory, AttemptDirectory]]) -> list[Sent]:
        """Bring what the portal wrote for these attempts to the nodes; one answer each, in order.

        Doing it again changes nothing. Raises NodesUnreachableError; what has been sent stays.
        """

    @abstractmethod
    def bring(self, attempt: AttemptDirectory, *, everything: bool) -> bool:
        """Let this machine's `work/` say what the nodes' says; False where not all of it is here yet: ask again.

        The claim, the status file and the heartbeat always; the results, and only then the status file, once that tells
        of the program's end, or with `everything`. Raises NodesUnreachableError, and OSError where this machine's disk
        refuses; what has come so far is kept, and the next call goes on from there.
        """

    @abstractmethod
    def take_claim(self, attempt: AttemptDirectory, claim: Claim) -> bool:
        """Take the right to start the attempt, where nodes look for it; False where somebody has it already.

        One that was never sent can be started by nobody, and is claimed here alone. Raises NodesUnreachableError or
        OSError where it cannot be said.
        """

    def shortfall(self, attempt: AttemptDirectory) -> str | None:  # noqa: ARG002  # nothing is missing of what is shared
        """What of the results was not brought here and why, in a sentence for the visitor; None where all is here."""
        return None

    @property
    def has_copies(self) -> bool:
        """Whether the nodes have copies of job directories, which are to be removed one day."""
        return False

    def remove(self, job: JobDirectory) -> None:  # noqa: B027  # the only copy is never removed from here
        """Remove the nodes' copy of a job; none is no error. Raises NodesUnreachableError, or PortalError or OSError
        where something is left.
        """

    def check(self) -> str:
        """What is well, in a line for `portal check`. Raises PortalError with what is wrong."""
        return "shared with the nodes"

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Let go of connections; harmless when called twice."""


class SharedFolders(NodeFolders):
    """One file system for all: nodes see what the portal writes, and the other way round."""

    def __init__(
        self,
        folder: JobsFolder,
        node_files: NodeFiles,
        empty_as_jobs: Callable[[Sequence[Path]], None] | None = None,
    ) -> None:
        self.folder = folder
        self.node_files = node_files
        self.empty_as_jobs = empty_as_jobs

    def send(self, attempts: Sequence[tuple[JobDirectory, AttemptDirectory]]) -> list[Sent]:
        """They are there."""
        return [Sent(Delivery.THERE) for _ in attempts]

    def bring(self, attempt: AttemptDirectory, *, everything: bool) -> bool:  # noqa: ARG002
        """It is here."""
        return True

    def take_claim(self, attempt: AttemptDirectory, claim: Claim) -> bool:
        """In the folder itself."""
        return claims.take(str(attempt.work), claim)
