"""What the dispatcher asks of a scheduler: five verbs over many jobs at once.

A backend answers what it saw and never guesses: "I could not ask" is `SchedulerError` (for a whole call) or
`UNKNOWN` (for one job), and is never dressed up as an end.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class SchedulerState(StrEnum):
    """What a backend saw of one job."""

    PENDING = "pending"
    """It waits in the queue."""
    HELD = "held"
    """It waits, and will not start until somebody releases it."""
    RUNNING = "running"
    """Its script has been started on a node."""
    SUSPENDED = "suspended"
    """It was started and stands still; it will go on."""
    COMPLETING = "completing"
    """Its script has ended and the scheduler is still tidying up: no final word yet."""
    COMPLETED = "completed"
    """The script ended with exit code 0."""
    FAILED = "failed"
    """The script ended otherwise, for no reason that the scheduler names."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    TIME_LIMIT = "time_limit"
    """The scheduler ended it at its time limit."""
    OUT_OF_MEMORY = "out_of_memory"
    """The scheduler ended it for its memory."""
    NODE_FAILURE = "node_failure"
    """Its node went away."""
    PREEMPTED = "preempted"
    """It was ended to make room."""
    NOT_FOUND = "not_found"
    """A query that succeeded, and accounting where there is one, do not know it."""
    UNKNOWN = "unknown"
    """No answer, or one that is not understood. Nothing may be concluded."""

    @property
    def is_final(self) -> bool:
        """True where the scheduler says that the job has ended."""
        return self in FINAL_SCHEDULER_STATES

    @property
    def is_alive(self) -> bool:
        """True where the scheduler says that it has the job and the job has not ended."""
        return self in ALIVE_SCHEDULER_STATES


FINAL_SCHEDULER_STATES = frozenset(
    {
        SchedulerState.COMPLETED,
        SchedulerState.FAILED,
        SchedulerState.CANCELLED,
        SchedulerState.TIME_LIMIT,
        SchedulerState.OUT_OF_MEMORY,
        SchedulerState.NODE_FAILURE,
        SchedulerState.PREEMPTED,
    }
)
ALIVE_SCHEDULER_STATES = frozenset(
    {
        SchedulerState.PENDING,
        SchedulerState.HELD,
        SchedulerState.RUNNING,
        SchedulerState.SUSPENDED,
        SchedulerState.COMPLETING,
    }
)


@dataclass(frozen=True)
class JobSpec:
    """One script to be run. Everything else about it stands in the script itself."""

    name: str
    """Unique scheduler job name; identifies the submission even where its answer is lost."""
    script: Path
    """The batch script, absolute."""
    working_dir: Path
    """Where it starts, absolute; the scheduler's own output goes into a file there."""
    time_limit_minutes: int
    memory_mib: int
    cpus: int
    exclude_nodes: tuple[str, ...] = ()
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None


@dataclass(frozen=True)
class Handle:
    """One job as the scheduler knows it. Ids are reused after a controller's loss: id and name must agree."""

    scheduler_id: str
    name: str
    cluster: str = ""


@dataclass(frozen=True)
class Submitted:
    """The scheduler has it."""

    handle: Handle


@dataclass(frozen=True)
class Rejected:
    """The scheduler refuses it for good, in its own words; it certainly does not have it."""

    reason: str


@dataclass(frozen=True)
class Deferred:
    """The scheduler does not take it now (a limit, a full queue, no answer at all) and certainly does not have it."""

    reason: str


@dataclass(frozen=True)
class InDoubt:
    """It cannot be told whether the scheduler has it: look the name up before anything else."""

    reason: str


SubmitAnswer = Submitted | Rejected | Deferred | InDoubt


@dataclass(frozen=True)
class Observation:
    """What the scheduler said of one job, with its raw words."""

    state: SchedulerState
    raw_state: str = ""
    """The scheduler's own word, such as `NODE_FAIL`."""
    exit_code: int | None = None
    signal: int | None = None
    node: str | None = None
    reason: str | None = None
    """The scheduler's own explanation: why it waits, or why it ended."""
    cancelled_by: str | None = None
    """Who cancelled it, where the scheduler says so."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by_portal: bool = False
    """The portal's own shutdown took it away: it is due a new attempt that does not count."""
    expected_start_at: datetime | None = None
    """When the scheduler means to start one that waits; it changes its mind often."""
    never_runs: bool = False
    """The scheduler says that it can never start, or ended it for that: it counts as refused."""


@dataclass(frozen=True)
class Found:
    """The name is known, in the queue or in accounting."""

    handles: tuple[Handle, ...]


@dataclass(frozen=True)
class Absent:
    """Queue and accounting were both asked, both answered, and neither has the name."""


@dataclass(frozen=True)
class Unknown:
    """It could not be told."""

    reason: str
    for_ever: bool = False
    """No look-up is ever going to say more: this scheduler has no question for a name."""


FindAnswer = Found | Absent | Unknown


@dataclass(frozen=True)
class Health:
    """Whether the scheduler answers, and how busy it is with the portal's jobs."""

    ok: bool
    detail: str
    """One line that anybody may read: its version and name, or what is wrong."""
    running: int | None = None
    waiting: int | None = None
    log_detail: str = ""
    """What is wrong more exactly, for administrators."""
    accounting_ok: bool = True
    """False where accounting was needed at the last look, and did not answer."""


@dataclass(frozen=True)
class Capabilities:
    """What may be asked of this backend; the contract suite and `decide` read it."""

    has_accounting: bool
    """Ended jobs can be looked up after they left the queue, so that "absent" is an answer."""
    sees_node_failures: bool
    enforces_time_limit: bool
    enforces_memory: bool
    can_exclude_nodes: bool
    lost_call_seconds: float
    """How long a submission whose answer was lost may still take effect: before that, "absent" is no answer."""


class Scheduler(ABC):
    """A place that runs scripts. Every verb takes many jobs, and none of them sleeps or retries."""

    capabilities: Capabilities
    kind: str
    can_say_what_it_refuses = False
    """Whether `refusals` says more than nothing."""
    reserved_exit_codes: tuple[int, ...] = ()
    """Those of a script that mean something to the scheduler: a wrapper must not end with them."""

    @abstractmethod
    def submit(self, specs: Sequence[JobSpec]) -> list[SubmitAnswer]:
        """Hand scripts in; one answer a spec, in order. Never raises for what befell a single one."""

    @abstractmethod
    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What is known of each; every handle is answered. Raises SchedulerError where nothing could be asked."""

    @abstractmethod
    def cancel(self, handles: Collection[Handle]) -> None:
        """Ask for their end. One that is already gone is no error. Raises SchedulerError where it was not heard."""

    @abstractmethod
    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        """Look names up in the queue and in accounting; every name is answered. Never raises."""

    @abstractmethod
    def health(self) -> Health:
        """Ask for a sign of life. Never raises."""

    def directives(self, spec: JobSpec) -> list[str]:  # noqa: ARG002  # most backends need none
        """The lines that a batch script of this spec carries for the scheduler. Raises SiteError."""
        return []

    def refusals(self, specs: Sequence[JobSpec]) -> list[str | None]:
        """Why it would not take each, in its own words, or None; nothing is handed in. Raises SchedulerError."""
        return [None for _ in specs]

    def forget_ended(self, before: datetime, needed: Collection[str]) -> int:  # noqa: ARG002  # others keep their own
        """Drop what the portal itself keeps of jobs that ended before then, but for these names; how many it was."""
        return 0

    def forget_elsewhere(self, jobs_dir: Path) -> list[str]:  # noqa: ARG002  # others keep no queue in our database
        """Drop what waits in the portal's own queue and lies in another jobs folder; the names. For a restored copy."""
        return []

    def close(self) -> None:  # noqa: B027  # most backends hold nothing
        """Let go of connections and sessions; harmless when called twice."""
