"""How a program ended, whether that is a success, and what to tell the scheduler."""

import os
from typing import Container, NamedTuple, Optional

CANNOT_START = 127
"""The exit code of a program that could not be started, as a shell has it."""


class Ending(NamedTuple):
    """Exactly one of the two is set."""

    exit_code: Optional[int]
    signal: Optional[int]


def ending_of(wait_status: int) -> Ending:
    """What the kernel's wait status of a process that has ended says."""
    if os.WIFSIGNALED(wait_status):
        return Ending(None, os.WTERMSIG(wait_status))
    return Ending(os.WEXITSTATUS(wait_status), None)


def failure_of(rule: str, ending: Ending, wrote_to_stderr: bool, got_sigterm: bool) -> Optional[str]:
    """One sentence that says why the rule for success was not met; None where it was.

    A signal is a failure under every rule, and so is an exit code other than 0 of a program that was told to
    stop: the rule `no_stderr` is for programs whose exit code means nothing, not for calling half a result a
    whole one.
    """
    if ending.signal is not None:
        return "The program was ended by signal {}.".format(ending.signal)
    if ending.exit_code != 0 and (rule != "no_stderr" or got_sigterm):
        return "The program ended with exit code {}.".format(ending.exit_code)
    if rule != "exit_code" and wrote_to_stderr:
        return "The program wrote to its standard error."
    return None


def wrapper_exit_code(ending: Ending, reserved: Container[int]) -> int:
    """The exit code to end with: the program's own, 128 + its signal, or 1 where that is `reserved`."""
    if ending.signal is not None:
        code = 128 + ending.signal
    else:
        code = CANNOT_START if ending.exit_code is None else ending.exit_code
    return 1 if code in reserved else code
