"""One simulated world: its time, what is going to happen in it, its luck, and the trace of what happened.

Nothing here runs beside anything else. What happens at once in the real world is cut into steps, and whoever waits
(for a scheduler's answer, or because its machine stands still) lets the steps of the others that fall due go first.
"""

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.simulation.faults import Faults

START = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)


class Killed(BaseException):
    """A process was killed at this instruction: nothing that it meant to do after it happens."""

    def __init__(self, process: "Process") -> None:
        super().__init__(process.name)
        self.process = process


@dataclass(eq=False)
class Process:
    """Something that can be killed, or stand still, at each of its durable steps."""

    name: str
    on_node: bool = False
    """It runs on a compute node: the faults of the portal's machine do not concern it."""
    steps: int = 0
    dies_at: int | None = None
    """The step at which it is killed."""
    dies_after_step: bool = False
    """Whether that step still takes effect."""
    pauses_at: int | None = None
    """The step before which its machine stands still for a while."""
    is_dead: bool = False
    in_turn: bool = False
    stood_still: bool = False
    """In this turn."""


@dataclass
class World:
    """Time, events, luck and trace of one history."""

    seed: int
    faults: Faults = field(init=False)
    seconds: float = 0.0
    process: Process | None = None
    """Who acts at the moment; None where it is the world itself, which nothing can stop."""
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    when_paused: Callable[[Process], None] | None = None

    def __post_init__(self) -> None:
        self._streams: dict[str, random.Random] = {}
        self.faults = Faults(self.luck)
        self._events: list[tuple[float, int, str, Callable[[], None]]] = []
        self._numbers = 0

    # Luck

    def luck(self, what: str) -> random.Random:
        """The random numbers for one purpose: drawing more for one changes nothing for the others."""
        if what not in self._streams:
            self._streams[what] = random.Random(f"{self.seed}/{what}")
        return self._streams[what]

    def between(self, what: str, least: float, most: float) -> float:
        return round(self.luck(what).uniform(least, most), 3)

    # Time: `portal.clock.Clock`

    def now_utc(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic_seconds(self) -> float:
        return 1000.0 + self.seconds

    def after(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self._numbers += 1
        heapq.heappush(self._events, (round(self.seconds + seconds, 3), self._numbers, name, action))

    def advance(self, seconds: float) -> None:
        """Let time go by, and everything that falls due happen. Whoever waits may call this."""
        until = round(self.seconds + seconds, 3)
        while self._events and self._events[0][0] <= until:
            at, _, _, action = heapq.heappop(self._events)
            self.seconds = max(self.seconds, at)
            with self.acting(None):
                action()
        self.seconds = max(self.seconds, until)

    # Processes

    @contextmanager
    def acting(self, process: Process | None) -> Iterator[None]:
        """What is done inside is done by this process."""
        before, self.process = self.process, process
        try:
            yield
        finally:
            self.process = before

    def before_step(self, what: str, *, may_pause: bool = True) -> None:
        """A durable step of the acting process is about to be taken. Raises Killed.

        Not `may_pause`: it holds the database's lock, so that nobody else could do anything meanwhile.
        """
        process = self.process
        if process is None:
            return
        if process.is_dead:
            raise Killed(process)
        process.steps += 1
        if may_pause and process.pauses_at is not None and process.steps >= process.pauses_at and self.when_paused:
            process.pauses_at = None
            self.say(f"{process.name} stands still before step {process.steps}: {what}")
            self.when_paused(process)
            if process.is_dead:
                raise Killed(process)
        if process.steps == process.dies_at and not process.dies_after_step:
            self._kill(process, f"before step {process.steps}: {what}")

    def after_step(self, what: str) -> None:
        """The step has taken effect. Raises Killed."""
        process = self.process
        if process is None:
            return
        if process.is_dead:
            raise Killed(process)
        if process.dies_at is not None and process.steps >= process.dies_at:
            self._kill(process, f"after step {process.steps}: {what}")

    def _kill(self, process: Process, when: str) -> None:
        process.is_dead = True
        self.faults.note("process killed on a node" if process.on_node else "portal process killed")
        self.say(f"{process.name} is killed {when}")
        raise Killed(process)

    # What is written down

    def say(self, line: str) -> None:
        self.trace.append(f"{self.seconds:9.3f} {line}")

    def violate(self, what: str) -> None:
        """A promise is broken."""
        self.violations.append(what)
        self.say(f"VIOLATION {what}")

    def digest(self) -> str:
        """The same for two histories in which the same happened at the same time."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()
