"""The durable steps of a process, seen as it takes them: written down, or the moment at which it is killed.

Nothing is listed by hand. File operations come from Python's audit events, fsync and the start of a process from a
wrapper each (they have no event at the right moment), commits from SQLAlchemy's dialect, and calls of the scheduler and
of the mail transport from wrappers around what the process built. A step that somebody adds to the portal is seen here
without a word in the tests.

A step is its kind and its target, in which ids, random names and times are replaced, and how often that came before.
A loop that looks and finds nothing new takes the same steps again and again, as often as time allows: a repeat counts
only where the thread has done something new since.

Standard library only: the wrapper on a compute node is watched by this as well.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

STEPS_FOLDER = "steps"
ORDER = "order.json"
KILLED = "killed"

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REPOSITORY = str(Path(__file__).parents[2])
_PORTAL = f"{_REPOSITORY}/portal/"
_CLERKS = {(f"{_PORTAL}database.py", "writing"), (f"{_PORTAL}dispatch/leadership.py", "writing")}
"""Who commits for others: the step is named after the one that wanted it."""
_RANDOM = (
    (r"(?<=job-)[bcdfghjkmnpqrstvwxyz]{8}\b", "ID"),
    (r"\.[0-9a-f]{12}\.tmp\b", ".*.tmp"),
    (r"(?<=/\.current\.)[0-9a-f]{12}$", "*"),
    (r"(?<=\.node/)\.?[0-9][^/]*-[0-9a-f]{12}(\.\w{8})?(?=/|$)", "VERSION"),
    (r"^/tmp/portal-\w{8}$", "TMP"),
    (r"^data/", ""),
    (r"(?<=^SLURM_CONF=)/.*", "SLURM.CONF"),
    (r"(?<=^mail/)(\.?)[^/]+\.eml", r"\1MESSAGE-ID.eml"),
    (r"(?<=^\.secret_key\.).*", "*"),
)


class Step(NamedTuple):
    """One durable step of one process."""

    role: str
    kind: str
    target: str
    occurrence: int

    def __str__(self) -> str:
        number = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.role}: {self.kind} {self.target}{number}"


class Order(NamedTuple):
    """Where a process is to be killed."""

    step: Step
    moment: str
    """`before` or `after`."""
    signal_number: int = signal.SIGKILL
    """What the process sends itself; SIGSTOP lets it stand still until somebody sends SIGCONT."""

    def __str__(self) -> str:
        return f"{self.moment} {self.step}"

    @property
    def is_in_a_loop(self) -> bool:
        """Whether it may not come, as time has it: a later round of something that is done again and again."""
        return self.step.occurrence > 1 and self.step.kind in ("commit", "scheduler")


def write_order(folder: Path, order: Order) -> None:
    """Whichever process comes to this point first is killed (or stopped) there, once."""
    (folder / ORDER).write_text(json.dumps([*order.step, order.moment, order.signal_number]))


def _read_order(folder: str) -> Order | None:
    try:
        with open(os.path.join(folder, ORDER)) as file:
            *step, moment, number = json.load(file)
    except FileNotFoundError:
        return None
    return Order(Step(*step), moment, number)


class _Own(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.is_ours = False
        self.seen: set[tuple[str, str]] = set()


class Watch:
    """Watches this process from `install` on."""

    def __init__(self, role: str, folder: str) -> None:
        self._role = role
        self._folder = folder
        self._order = _read_order(folder)
        self._own = _Own()
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        steps = os.path.join(folder, STEPS_FOLDER)
        os.makedirs(steps, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._log = os.open(os.path.join(steps, f"{role}.jsonl"), flags, 0o644)

    def install(self) -> None:
        """From here on every step is seen."""
        sys.addaudithook(self._hear)
        os.fsync = self._wrapped("fsync", os.fsync, lambda args: self._path(args[0]))
        subprocess.Popen.__init__ = self._wrapped(  # type: ignore[method-assign]
            "start", subprocess.Popen.__init__, lambda args: self._program(args[1])
        )

    def wrap(self, owner: Any, name: str, kind: str, target: str = "") -> None:
        """A method of `owner` becomes a step of this kind; its target is its name, or `target`."""
        wrapped = self._wrapped(kind, getattr(owner, name), lambda _: target or name)
        setattr(owner, name, wrapped)

    def wrap_commits(self, dialect: Any) -> None:
        """Each COMMIT is a step, named after the function of the portal that wanted it."""
        dialect.do_commit = self._wrapped("commit", dialect.do_commit, lambda _: _wanted_by(sys._getframe(2)))

    def unseen(self, do: Callable[[], None]) -> None:
        """Something of the tests' own."""
        self._own.is_ours = True
        try:
            do()
        finally:
            self._own.is_ours = False

    def _wrapped(self, kind: str, call: Callable[..., Any], target: Callable[[Any], str | None]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            step = None if self._own.is_ours else self._begin(kind, target(args))
            result = call(*args, **more)
            if step is not None and self._is_due(step, "after"):
                self._kill(step)
            return result

        return watched

    def _hear(self, event: str, args: Any) -> None:
        kind = _KINDS.get(event)
        if kind is None or self._own.is_ours:
            return
        step = self._begin(kind, self._target(event, args))
        if step is not None and self._is_due(step, "after"):
            self._kill_soon(step)

    def _kill_soon(self, step: Step) -> None:
        """The operation is over when anything else happens in this thread."""

        def look(frame: FrameType, _event: str, _argument: object) -> None:
            if frame.f_code.co_filename != __file__:
                self._kill(step)

        sys.setprofile(look)

    def _target(self, event: str, args: Any) -> str | None:
        if event == "open":
            path, _, flags = args
            return self._path(path) if isinstance(path, (str, bytes, os.PathLike)) and flags & _WRITES else None
        if event in ("os.rename", "os.link"):
            return f"{self._path(args[0])} -> {self._path(args[1])}"
        return self._path(args[1] if event == "os.symlink" else args[0])

    def _begin(self, kind: str, target: str | None) -> Step | None:
        """The step that begins now; None where it is none, or only a repeat."""
        if target is None or target.startswith(("/dev/", "/proc/")):
            return None
        self._own.is_ours = True
        try:
            step = self._numbered(kind, target)
            if step is not None:
                os.write(self._log, (json.dumps(step) + "\n").encode())
                if self._is_due(step, "before"):
                    self._kill(step)
            return step
        finally:
            self._own.is_ours = False

    def _numbered(self, kind: str, target: str) -> Step | None:
        key = kind, target
        with self._lock:
            if not self._counts[key]:
                self._own.seen.clear()
            elif key in self._own.seen:
                return None
            self._own.seen.add(key)
            self._counts[key] += 1
            return Step(self._role, kind, target, self._counts[key])

    def _is_due(self, step: Step, moment: str) -> bool:
        return self._order is not None and self._order[:2] == (step, moment)

    def _kill(self, step: Step) -> None:
        """As `kill -9` does it, in the middle of everything; nothing where somebody was killed already."""
        sys.setprofile(None)
        self._own.is_ours = True
        try:
            descriptor = os.open(os.path.join(self._folder, KILLED), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            self._own.is_ours = False
            return
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.close(descriptor)
        number = self._order.signal_number if self._order else signal.SIGKILL
        os.kill(os.getpid(), number)
        while number == signal.SIGKILL:
            time.sleep(1)
        self._own.is_ours = False

    def _path(self, path: Any) -> str:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        text = os.path.normpath(os.fsdecode(path))
        text = "." if text == self._folder else text.removeprefix(self._folder + "/")
        for pattern, name in _RANDOM:
            text = re.sub(pattern, name, text)
        return text

    def _program(self, command: Any) -> str:
        return " ".join(self._path(word) for word in ([command] if isinstance(command, str) else command))


_KINDS = {
    "open": "open",
    "os.rename": "rename",
    "os.link": "link",
    "os.symlink": "symlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.remove": "remove",
    "os.chmod": "chmod",
    "os.chown": "chown",
    "os.truncate": "truncate",
    "fcntl.flock": "lock",
}


def _wanted_by(frame: FrameType | None) -> str:
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(_PORTAL) and (file, name) not in _CLERKS:
            return f"{file.removeprefix(_PORTAL).removesuffix('.py').replace('/', '.')}.{name}"
        frame = frame.f_back
    return "elsewhere"
