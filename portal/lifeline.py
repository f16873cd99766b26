"""The pipe that ends the processes of `portal serve` together with it, however it ended.

The supervisor holds the only writing end and never writes. Each child reads; the end of file says that the supervisor
is gone, and the child exits at once, without any clean-up: that is a kill -9, which everything has to survive anyway.
The reading end is closed on exec, so that no program of a job ever holds it, and it is inherited by fork, so that the
workers of the web server can follow it as well.
"""

import os
import threading
from dataclasses import dataclass

LIFELINE_VARIABLE = "PORTAL_SERVE_LIFELINE_FD"
EXIT_CODE = 70
"""What a child ends with when its supervisor is gone; nobody is left to read it but a test."""

# One per process. Workers of the web server inherit the number by fork, and start a thread of their own.
_followed: int | None = None


@dataclass(frozen=True)
class Lifeline:
    """Both ends, as the supervisor has them."""

    read_fd: int
    write_fd: int

    def environment(self) -> dict[str, str]:
        """What tells a child of its reading end, which must be passed on under the same number."""
        return {LIFELINE_VARIABLE: str(self.read_fd)}


def make_lifeline() -> Lifeline:
    """A new pipe, neither end of which is inherited unless it is passed on by name."""
    read_fd, write_fd = os.pipe()
    return Lifeline(read_fd, write_fd)


def follow_lifeline_from_environment() -> None:
    """End this process when its supervisor ends; nothing where it has none. To be called once, early.

    The variable is taken out of the environment and the pipe is closed on exec: neither goes to grandchildren.
    """
    global _followed
    number = os.environ.pop(LIFELINE_VARIABLE, None)
    if number is None:
        return
    _followed = int(number)
    os.set_inheritable(_followed, False)
    follow_lifeline_after_fork()


def follow_lifeline_after_fork() -> None:
    """As the parent does, where it follows one: a fork takes the pipe along, and leaves the thread behind."""
    if _followed is not None:
        threading.Thread(target=_exit_at_end, args=(_followed,), name="lifeline", daemon=True).start()


def lifeline_to_hand_on() -> dict[str, str]:
    """What tells this process of its lifeline once more, after it has replaced itself by `exec`; empty without one."""
    if _followed is None:
        return {}
    os.set_inheritable(_followed, True)
    return {LIFELINE_VARIABLE: str(_followed)}


def _exit_at_end(read_fd: int) -> None:
    while os.read(read_fd, 1):
        pass
    os._exit(EXIT_CODE)
