"""The one place that runs things for Slurm: a request for the helper goes in, its answer comes out.

`portal.node.submit` is the helper. Here it runs on this machine; `ssh.py` runs it on a login node.
"""

import os
from collections.abc import Sequence
from typing import Protocol

from portal.errors import SchedulerError
from portal.node.capped_process import TIMED_OUT, TOO_LONG, run_capped
from portal.node.command_environment import environment_of_commands

MOST_ANSWER_BYTES = 64 * 1024 * 1024
"""More than any answer that makes sense: 100,000 jobs in the queue are 20 MiB."""

UNREACHABLE = "The cluster cannot be reached at the moment."
NO_ANSWER = "The scheduler does not answer at the moment."


class NotReachedError(SchedulerError):
    """The helper was certainly not started: nothing was called, and the scheduler has nothing new."""


class Runner(Protocol):
    """What runs the helper once for each request."""

    def run(self, request: bytes, timeout_seconds: float) -> bytes:
        """All that the helper wrote to its standard output, and it exited.

        Raises NotReachedError where the helper was certainly not started, and SchedulerError where that is not so
        and its answer is not there, not whole, or did not come in time.
        """

    def close(self) -> None:
        """Let go of what is open; harmless when called twice. The next `run` opens it again."""


class LocalRunner:
    """The helper as a process of this machine, by way of `scheduler.command_prefix` where it is set."""

    def __init__(self, command: Sequence[str], most_bytes: int = MOST_ANSWER_BYTES) -> None:
        self._command = tuple(command)
        self._most_bytes = most_bytes

    def run(self, request: bytes, timeout_seconds: float) -> bytes:
        # The portal's own variables are none of another account's business.
        environ = environment_of_commands(os.environ)
        try:
            ended = run_capped(self._command, request, environ, "/", timeout_seconds, self._most_bytes)
        except OSError as error:
            detail = f"{self._command[0]} cannot be started: {error.strerror or error}"
            raise NotReachedError(NO_ANSWER, log_detail=detail) from error
        if ended.failure == TIMED_OUT:
            raise SchedulerError(NO_ANSWER, log_detail=f"no answer from the helper in {timeout_seconds:g} s")
        if ended.failure == TOO_LONG:
            raise SchedulerError(NO_ANSWER, log_detail=f"the helper wrote more than {self._most_bytes} bytes")
        if not ended.stdout:
            raise silent_end(ended.exit_code, ended.stderr)
        return ended.stdout

    def close(self) -> None:
        pass


def silent_end(exit_code: int | None, stderr: bytes) -> SchedulerError:
    """The error for a helper that ended and answered nothing."""
    detail = f"the helper ended with {exit_code} and said nothing but: {one_line(stderr) or 'nothing'}"
    # What a shell, env and the like end with where a program cannot be run or is not there; the helper never does.
    never_ran = exit_code in (126, 127)
    return (NotReachedError if never_ran else SchedulerError)(NO_ANSWER, log_detail=detail)


def one_line(output: bytes) -> str:
    """The end of what a program wrote, for a log."""
    return " ".join(output.decode("utf-8", "replace").split())[-500:]
