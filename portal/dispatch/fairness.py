"""Whose job goes in next. To the scheduler all jobs are one user's, so the portal itself has to be fair.

Slurm's queue is first come, first served within one user: what is in it already stays ahead of the next visitor. So
everybody has little in it that waits, and the last places are kept for those who have nothing there.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARE = 4
"""A person may have up to so many times as many jobs in the scheduler as there are places left.

One alone gets four fifths of all places, two get four ninths each, and however many they are, some are left: the
dynamic threshold by which switches share a buffer among their ports.
"""


@dataclass(frozen=True)
class Held:
    """What a person has in the scheduler."""

    all_jobs: int = 0
    waiting: int = 0
    """Of them, those that have not started."""


def choose(
    candidates: Sequence[tuple[str, str]],
    held: Mapping[str, Held],
    most_in_scheduler: int,
    most_waiting: int,
    batch: int,
) -> list[str]:
    """The names of those that go in now, in their order: always the next of whoever has least in the scheduler.

    `candidates` are (owner, name), each owner's in the order in which they shall go in; of two owners with as much, the
    one whose candidate comes first is first. At most `batch` are chosen.
    """
    left = most_in_scheduler - sum(one.all_jobs for one in held.values())
    queues: dict[str, list[tuple[int, str]]] = {}
    for place, (owner, name) in enumerate(candidates):
        queues.setdefault(owner, []).append((place, name))
    turns = []
    for owner, queue in queues.items():
        has = held.get(owner, Held())
        turns.append((has.all_jobs, queue[0][0], owner, has.waiting, 0))
    heapq.heapify(turns)
    chosen: list[str] = []
    while turns and left > 0 and len(chosen) < batch:
        has_jobs, _, owner, has_waiting, number = heapq.heappop(turns)
        if has_jobs >= SHARE * left or has_waiting >= most_waiting:
            continue
        queue = queues[owner]
        chosen.append(queue[number][1])
        left -= 1
        if number + 1 < len(queue):
            heapq.heappush(turns, (has_jobs + 1, queue[number + 1][0], owner, has_waiting + 1, number + 1))
    return chosen
