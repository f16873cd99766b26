"""The points at which processes are killed: from recordings, and by rules; and many of them side by side."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from tests.crash import invariants
from tests.crash.files import write_shared_files
from tests.crash.hooks import Order, Step
from tests.crash.nursery import Nursery
from tests.crash.run import ROLES, Accepted, CrashRun

MOMENTS = ("before", "after")
TRIES = 3
"""A step of a loop may come or not, as time has it: such a run is right as well, and is done again."""
UNSEEN = ("fsync", "chmod", "lock")


@dataclass(frozen=True)
class Recording:
    """The steps of two runs that nobody disturbed."""

    steps: tuple[Step, ...]
    """Those that both took, process by process, in their order."""
    sometimes: tuple[Step, ...]
    """Those that only one of them took: how often a loop comes round is a matter of time."""

    def to_json(self) -> str:
        return json.dumps([self.steps, self.sometimes])

    @staticmethod
    def from_json(text: str) -> "Recording":
        steps, sometimes = json.loads(text)
        return Recording(tuple(Step(*one) for one in steps), tuple(Step(*one) for one in sometimes))


class Workshop:
    """A folder for runs, and the process that forks theirs."""

    def __init__(self, folder: Path, nursery: Nursery | None = None) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir()
        write_shared_files(self.shared, sys.executable)
        self.nursery = nursery or Nursery(self.shared)
        self._lock = Lock()
        self._accepted: Accepted | None = None

    def record(self) -> Recording:
        """Two undisturbed runs, each of which is right."""
        runs = [CrashRun(self.folder / f"recording-{number}", self.shared, self.nursery) for number in (1, 2)]
        for run in runs:
            run.go()
            invariants.check(run)
        first, second = (run.steps() for run in runs)
        steps = [step for role in ROLES for step in first[role] if step in second[role]]
        sometimes = [step for role in ROLES for step in {*first[role]} ^ {*second[role]}]
        return Recording(tuple(steps), tuple(sorted(sometimes)))

    def kill_at(self, order: Order, name: str) -> bool:
        """A run that is killed there and comes right; False where it never came to that point."""
        # After a kill between two steps the disk is the same, whether it came after the one or before the other: so
        # that each state sees a visitor who sends the form again at once, and one who comes back later.
        repeats_at_once = order.moment == "before"
        accepted = None if order.step.role == "web" else self.accepted_job()
        run = CrashRun(self.folder / name, self.shared, self.nursery, order, repeats_at_once, accepted)
        run.go()
        try:
            invariants.check(run)
        except AssertionError as error:
            raise AssertionError(f"{order}: {error}\n{run.facts()}\n{run.log()[-4000:]}") from error
        shutil.rmtree(run.folder)
        return run.was_reached

    def accepted_job(self) -> Accepted:
        """What all runs begin with in which something else than the web server is killed."""
        with self._lock:
            if self._accepted is None:
                self._accepted = CrashRun(self.folder / "accepted", self.shared, self.nursery).accept_only()
            return self._accepted

    def close(self) -> None:
        """End the process; what it started has ended."""
        self.nursery.close()


def all_points(recording: Recording) -> list[Order]:
    """Before and after each step."""
    return [Order(step, moment) for step in recording.steps for moment in MOMENTS]


def sample(recording: Recording) -> list[Order]:
    """Each state that a process leaves behind between two changes, once: before the one change, or after the other.

    fsync, chmod and locks change nothing that a kill leaves behind (a power cut is another matter), and after a change
    all is as it is before the next. Turn by turn, so that both moments come.
    """
    orders = []
    for role in ROLES:
        changes = [step for step in recording.steps if step.role == role and step.kind not in UNSEEN]
        for number, (last, step) in enumerate(zip([None, *changes], [*changes, None], strict=True)):
            if step is None or (last is not None and number % 2):
                assert last is not None
                orders.append(Order(last, "after"))
            else:
                orders.append(Order(step, "before"))
    return orders


@dataclass(frozen=True)
class Found:
    """What came of one kill."""

    order: Order
    was_reached: bool
    problem: str = ""
    """Which promise was broken; empty where none was."""


def kill_at_all(workshop: Workshop, orders: Sequence[Order], at_once: int) -> Iterator[Found]:
    """Each order with what came of it, some runs side by side: they mostly wait."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda pair: _kill_at(workshop, *pair), enumerate(orders))


def _kill_at(workshop: Workshop, number: int, order: Order) -> Found:
    try:
        for attempt in range(TRIES):
            if workshop.kill_at(order, f"{os.getpid()}-{number}-{attempt}"):
                return Found(order, was_reached=True)
    except AssertionError as error:
        return Found(order, was_reached=True, problem=str(error))
    return Found(order, was_reached=False)
