"""One script that a compute client runs: its process, its lifeline, and how it is made to end."""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import IO

from portal.node.descendants import descendants
from portal.node.wrapper import EXIT_LIFELINE_LOST
from portal.schedulers.base import SchedulerState

TERM_SECONDS = 5.0
"""What a program gets between SIGTERM and its end, at the time limit or when it is cancelled."""
WRAPPER_SECONDS = 3.0
"""What a wrapper gets to end its descendants after its pipe was closed, before all of them are killed."""

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ")
_SCHEDULER_OUTPUT = "scheduler.out"


class Cause(Enum):
    """Why the client itself ends a program."""

    CANCELLED = auto()
    TIME_LIMIT = auto()
    STOPPING = auto()
    LEASE_LOST = auto()


@dataclass
class Work:
    """One script that runs. What has ended by itself keeps its own end, whatever the client wants of it afterwards."""

    queue_id: int
    name: str
    process: subprocess.Popen[bytes]
    lifeline: IO[bytes] | None
    """The write end of the pipe; closing it ends the program and all its descendants."""
    deadline_seconds: float
    """Its time limit, on the client's clock, as are all seconds here."""
    cause: Cause | None = None
    term_seconds: float | None = None
    """When it was told to end."""
    cut_seconds: float | None = None
    """When its pipe was closed."""
    left_orphans: bool = False
    """What it had started outlived it, and was ended by the client."""

    def has_ended(self) -> bool:
        """Whether its process has ended; from then on it has an exit code."""
        return self.process.poll() is not None

    def tell(self, cause: Cause, now_seconds: float) -> None:
        """Ask the program to end, once."""
        if self.cause is None and not self.has_ended():
            self.cause = cause
            self.term_seconds = now_seconds
            self.process.send_signal(signal.SIGTERM)

    def cut(self, cause: Cause, now_seconds: float) -> None:
        """End the program and all its descendants now. Nothing happens the second time."""
        if self.lifeline is not None and not self.has_ended():
            self.cause = self.cause or cause
            self.cut_seconds = now_seconds
            self.close()

    def press(self, now_seconds: float) -> None:
        """Do what is due: its time limit, and the next step where it did not heed the last one."""
        if now_seconds >= self.deadline_seconds:
            self.tell(Cause.TIME_LIMIT, now_seconds)
        if self.term_seconds is not None and now_seconds - self.term_seconds >= TERM_SECONDS:
            self.cut(Cause.TIME_LIMIT, now_seconds)
        if self.cut_seconds is not None and now_seconds - self.cut_seconds >= WRAPPER_SECONDS:
            self._kill()

    def close(self) -> None:
        """Close the pipe."""
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None

    def _kill(self) -> None:
        """Kill the wrapper, which is stuck or was stopped, and what it should have ended."""
        if self.has_ended():
            return
        # The wrapper first: it must not see its descendants end, and then end as if by itself.
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class End:
    """How a script ended, in the scheduler's words."""

    state: SchedulerState
    reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None

    @property
    def by_portal(self) -> bool:
        """The portal's own shutdown took it away."""
        return self.state is SchedulerState.PREEMPTED


def end_of(work: Work) -> End:
    """How work whose process has ended came to its end."""
    code = work.process.returncode
    state, reason = _state_and_reason(work, code)
    return End(state, reason, code if code >= 0 else None, -code if code < 0 else None)


def _state_and_reason(work: Work, code: int) -> tuple[SchedulerState, str | None]:
    if work.cause is Cause.TIME_LIMIT:
        return SchedulerState.TIME_LIMIT, "its time limit was reached"
    if work.cause is Cause.CANCELLED:
        return SchedulerState.CANCELLED, None
    if code == 0:
        return SchedulerState.COMPLETED, None
    # Other codes are the program's own: it came to its end while its pipe was being closed.
    if code < 0 or code == EXIT_LIFELINE_LOST:
        if work.cause is Cause.STOPPING:
            return SchedulerState.PREEMPTED, "the portal was stopped while it ran"
        if work.cause is Cause.LEASE_LOST:
            return SchedulerState.NODE_FAILURE, "its compute client lost touch with the queue"
    if code < 0:
        return SchedulerState.FAILED, _killed(-code, left_orphans=work.left_orphans)
    return SchedulerState.FAILED, None


def _killed(number: int, *, left_orphans: bool) -> str:
    died = f"it died by signal {number}"
    return f"{died}, and the compute client ended what it had left running" if left_orphans else died


def start_script(script: Path, working_dir: Path, scheduler_id: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a batch script in its folder; its own output goes to `scheduler.out` there.

    Returns the process and the write end of its lifeline. Raises OSError where it cannot be started.
    """
    read_end, write_end = os.pipe()  # neither is inherited by any other child
    try:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"LANG": "C.UTF-8", "PORTAL_SCHEDULER_ID": scheduler_id, "PORTAL_LIFELINE_FD": str(read_end)}
        with (working_dir / _SCHEDULER_OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", str(script)],
                cwd=working_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[read_end],
                start_new_session=True,
            )
    except OSError:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return process, os.fdopen(write_end, "wb", buffering=0)
