"""One costly thing for several processes that test: who comes first starts it, and who leaves last takes it away."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def shared(folder: Path, name: str, start: Callable[[], T], remove: Callable[[T], object]) -> Iterator[T]:
    """What `start` answers, for all processes that call this with the same folder and name.

    Who uses it is counted by shared locks, which the kernel gives back for a process that was killed.
    """
    gate = folder / f"{name}-gate"
    with (folder / f"{name}-users").open("w") as users:
        with locked(gate):
            thing = start()
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield thing
        finally:
            with locked(gate):
                if _is_last(users.fileno()):
                    remove(thing)


def _is_last(users: int) -> bool:
    fcntl.flock(users, fcntl.LOCK_UN)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Alone among all processes that ask for the same file."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
