"""Slurm's words: every state of its documentation, the reasons why jobs wait, the errors of sbatch.

States: squeue(1) and sacct(1) of 22.05 to 26.05, "JOB STATE CODES", and the flags of newer ones' `--json` (`slurm.h`,
`JOB_STATE_FLAGS`). Reasons: squeue(1), "JOB REASON CODES". Errors: the texts of `slurm_errno.c`, as sbatch prints them.
"""

import re
from collections.abc import Sequence

import structlog

from portal.schedulers.base import Deferred, InDoubt, Rejected, SchedulerState

log = structlog.get_logger()

STATES: dict[str, SchedulerState] = {
    "BOOT_FAIL": SchedulerState.NODE_FAILURE,
    "CANCELLED": SchedulerState.CANCELLED,
    "COMPLETED": SchedulerState.COMPLETED,
    # Nodes are given and not ready (booting): the script has not begun.
    "CONFIGURING": SchedulerState.PENDING,
    "COMPLETING": SchedulerState.COMPLETING,
    "DEADLINE": SchedulerState.TIME_LIMIT,
    "FAILED": SchedulerState.FAILED,
    "NODE_FAIL": SchedulerState.NODE_FAILURE,
    "OUT_OF_MEMORY": SchedulerState.OUT_OF_MEMORY,
    "PENDING": SchedulerState.PENDING,
    "PREEMPTED": SchedulerState.PREEMPTED,
    "RUNNING": SchedulerState.RUNNING,
    "RESV_DEL_HOLD": SchedulerState.HELD,
    "REQUEUE_FED": SchedulerState.PENDING,
    "REQUEUE_HOLD": SchedulerState.HELD,
    "REQUEUED": SchedulerState.PENDING,
    "RESIZING": SchedulerState.RUNNING,
    # Another cluster of the federation runs it: this one can say nothing more of it.
    "REVOKED": SchedulerState.UNKNOWN,
    "SIGNALING": SchedulerState.RUNNING,
    # Requeued and held, so that somebody looks at it.
    "SPECIAL_EXIT": SchedulerState.HELD,
    "STAGE_OUT": SchedulerState.COMPLETING,
    "STOPPED": SchedulerState.SUSPENDED,
    "SUSPENDED": SchedulerState.SUSPENDED,
    "TIMEOUT": SchedulerState.TIME_LIMIT,
}
"""Every state word, and what it means to the portal."""

FLAGS_WITHOUT_MEANING = frozenset({"LAUNCH_FAILED", "UPDATE_DB", "RECONFIG_FAIL", "POWER_UP_NODE", "EXPEDITING"})
"""Flags that stand beside a state in `--json` and change nothing of it."""

_FLAGS = (
    "COMPLETING", "STAGE_OUT", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT",
    "STOPPED", "REVOKED", "RESV_DEL_HOLD", "SIGNALING",
)  # fmt: skip
"""The flags that stand for the state where only one word is shown, the strongest first: as squeue's text has it."""

_HELD_REASONS = re.compile(r"JobHeld(User|Admin)|launch failed requeued held|JobHoldMaxRequeue|.*requeued held")
_NEVER_RUNS = frozenset({"DependencyNeverSatisfied", "BadConstraints"})
_EMPTY = frozenset({"", "None", "NONE", "(null)", "N/A"})
_REASONS: tuple[tuple[str, str], ...] = (
    ("Resources|Nodes required for job are DOWN.*|WaitingForScheduling", "it waits for free nodes"),
    ("Priority", "other jobs have priority"),
    ("Dependency", "it waits for another job"),
    ("DependencyNeverSatisfied", "it waits for another job that will never end as it should"),
    ("BeginTime", "it is not to start yet"),
    ("Cleaning|Prolog", "its node is being prepared"),
    ("JobHeldUser", "it is held by the portal's own account on the cluster"),
    ("JobHeldAdmin|JobHoldMaxRequeue|.*requeued held", "it is held by an administrator of the cluster"),
    ("BadConstraints", "no node of the cluster can ever run it"),
    ("InvalidAccount", "the account that is charged is not valid"),
    ("InvalidQOS", "its quality of service is not valid"),
    ("Licenses", "it waits for a licence"),
    ("Reservation.*|Maintenance", "it waits for a reservation of the cluster"),
    ("ReqNodeNotAvail.*|NodeDown|FrontEndDown|.*NotAvail", "the nodes that it needs are not available"),
    ("PartitionDown|PartitionInactive", "its partition is closed at the moment"),
    ("PartitionTimeLimit", "its time limit is longer than the partition allows"),
    ("PartitionNodeLimit|PartitionConfig", "it asks for more than the partition has"),
    ("(Assoc|Association|QOS).*PerJob(Limit)?", "it asks for more than a single job may have here"),
    ("AssocMax.*Limit|QOSMax.*Limit", "the portal's account has as many jobs at work as it may"),
    ("Assoc(iation)?.*|QOS.*", "a limit of the portal's account on the cluster is reached"),
    ("JobArrayTaskLimit", "as many of its kind run as may"),
)

_END_REASONS = {
    "BadConstraints": "no node of the cluster can ever run it",
    "DependencyNeverSatisfied": "the job that it waited for did not end as it should",
    "InactiveLimit": "it did nothing for too long",
    "JobLaunchFailure": "it could not be started on its node",
    # 24.11's (`RaisedSignal:53(Real-time signal 19)`): no signal at all, but Slurm's number for a launch that failed.
    "RaisedSignal:53": "it could not be started on its node",
    "SystemFailure": "the cluster had a failure",
}


def state_of(word: str) -> SchedulerState:
    """What a state word means; UNKNOWN, with a warning, for one that is not in the documentation."""
    state = STATES.get(word)
    if state is None:
        log.warning("Slurm has a word for a state that the portal does not know", word=word[:100])
        return SchedulerState.UNKNOWN
    return state


def word_of(words: Sequence[str]) -> str:
    """The one word that Slurm's text has for a state and its flags, as `--json` lists them; `""` for none.

    A word that is not in the documentation comes before all: it might change what the others mean.
    """
    for word in words:
        if word not in STATES and word not in FLAGS_WITHOUT_MEANING:
            return word
    told = [word for word in words if word in STATES]
    return next((flag for flag in _FLAGS if flag in told), told[0] if told else "")


def is_held(reason: str) -> bool:
    """Whether a pending job with this reason waits for somebody to release it."""
    return _HELD_REASONS.fullmatch(reason) is not None


def never_runs(reason: str) -> bool:
    """Whether a pending job with this reason can never start."""
    return reason in _NEVER_RUNS


def why_it_waits(reason: str) -> str | None:
    """Slurm's reason in plain words, with its own word in brackets; None where it says nothing.

    Some carry more (`ReqNodeNotAvail, UnavailableNodes:node1`): that is kept.
    """
    reason = reason.strip()
    if reason in _EMPTY:
        return None
    for pattern, words in _REASONS:
        if re.fullmatch(pattern, reason):
            return f"{words} ({reason})"
    return reason


def why_it_ended(reason: str) -> str | None:
    """The same for a job that ended: only what neither its state nor its exit code says as well.

    The others are why it waited before, or repeat the state (`NonZeroExitCode`, `TimeLimit`, `NodeDown`).
    """
    reason = reason.strip().partition("(")[0]
    words = _END_REASONS.get(reason)
    return f"{words} ({reason})" if words else None


_PERMANENT = re.compile(
    "|".join(
        (
            r"invalid partition specified",
            r"Invalid partition name specified",
            r"No partition specified or system default partition",
            r"User's group not permitted to use this partition",
            r"Requested nodes not in this partition",
            r"More processors requested than permitted",
            r"Node count specification invalid",
            r"CPU count specification invalid",
            r"Task count specification invalid",
            r"Pathname of a file, directory or other parameter too long",
            r"Requested node configuration is not available",
            r"Memory specification can not be satisfied",
            r"Memory required by task is not available",
            r"Invalid account or account/partition combination specified",
            r"Invalid qos specification",
            r"Invalid wckey specification",
            r"Requested time limit is invalid",
            r"Time limit specification required, but not provided",
            r"Job size specification needs to be provided",
            r"Invalid generic resource \(gres\) specification",
            r"Duplicate generic resource \(gres\) specification",
            r"Invalid GRES specification",
            r"Invalid Trackable RESource \(TRES\) specification",
            r"Invalid node name specified",
            r"Invalid feature specification",
            r"Job dependency problem",
            r"Access denied to requested reservation",
            r"Requested reservation is invalid",
            r"Access/permission denied",
            r"Invalid user id",
            r"Invalid --[a-z-]+ specification",
            r"unrecognized option",
            r"This does not look like a batch script",
            r"Batch script is empty",
            r"Batch script contains DOS line breaks",
            r"(Assoc|QOS)[A-Za-z]*PerJob(Limit)?",
        )
    )
)
"""Refusals for good: the same script will never be taken."""

_TRANSIENT = re.compile(
    "|".join(
        (
            r"Job violates accounting/QOS policy",
            r"Requested account has breached requested QOS usage threshold",
            r"Unable to create job record, try again",
            r"Resource temporarily unavailable",
            r"MaxJobCount limit reached",
            r"Requested partition configuration not available now",
            r"Required partition not available",
            r"Required node not available",
            r"Requested operation is presently disabled",
            r"Requested reservation (is in use|not usable now)",
            r"Job can not start due to maintenance reservation",
            r"I/O error writing script/environment to file",
            r"Slurm backup controller in standby mode",
            r"Controller is in standby mode",
            r"DB index is being set",
            # All of these before anything was sent.
            r"Unable to contact slurm controller \(connect failure\)",
            r"Unable to process configuration file",
            r"[Cc]ould not establish a configuration source",
            r"Unable to open file",
        )
    )
)
"""Refusals for now: a limit, a full queue, or a controller that was never reached."""


_AMBIGUOUS = re.compile(
    r"Socket timed out|Zero Bytes were transmitted|\((send|receive|shutdown) failure\)|[Aa]uthentication"
)
"""The controller may have taken the job before this happened."""


def refusal_of(stderr: str) -> Rejected | Deferred | InDoubt:
    """What it means that sbatch did not exit with 0, from what it wrote.

    A time-out, a lost answer or a failed authentication (which may be the answer's) leaves it open whether the
    controller has the job; so does every message that is not known here.
    """
    words = own_words(stderr)
    if _AMBIGUOUS.search(stderr):
        return InDoubt(words)
    if _PERMANENT.search(stderr):
        return Rejected(words)
    if _TRANSIENT.search(stderr):
        return Deferred(words)
    return InDoubt(words)


def own_words(stderr: str) -> str:
    """What sbatch wrote, in one line, without its own name before each."""
    own_name = re.compile(r"^sbatch: (error: |fatal: )?(Batch job submission failed: |allocation failure: )?")
    kept = [line for text in stderr.splitlines() if (line := own_name.sub("", text).strip())]
    return "; ".join(kept)[:500] or "sbatch failed and did not say why"
