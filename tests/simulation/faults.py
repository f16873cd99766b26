"""What goes wrong: drawn from the seed. Each history has its own mixture, so that rare combinations come up often."""

import random
from collections import Counter
from collections.abc import Callable

RATES: dict[str, float] = {
    # What the scheduler's clients see
    "submission got in, reply lost": 0.15,
    "submission did not get in, reply lost": 0.12,
    "submission gets in late, reply lost": 0.15,
    "submission put off": 0.1,
    "submission refused": 0.08,
    "slow scheduler call": 0.3,
    "question failed": 0.15,
    "cancellation not heard": 0.2,
    "cancellation heard, reply lost": 0.2,
    # What happens in the cluster
    "controller lost its last seconds": 0.15,
    "scheduler outage": 0.6,
    "outage after a lost reply": 0.4,
    "accounting outage": 0.6,
    "job started twice": 0.15,
    "forgotten job starts": 0.6,
    "job can never run": 0.06,
    "launch failed": 0.08,
    "node died": 0.15,
    "node came back with a zombie": 0.2,
    "preempted": 0.12,
    "time limit": 0.1,
    "out of memory": 0.08,
    "cancelled by an operator": 0.06,
    "ended by the portal's shutdown": 0.08,
    "wrapper killed": 0.08,
    "program failed": 0.15,
    # The portal's own machines
    "dispatcher killed": 0.7,
    "dispatcher stands still": 0.8,
    "lock lost": 0.7,
    "web process killed": 0.25,
    "commit failed": 0.02,
    "commit done, reply lost": 0.02,
    "write error": 0.01,
    "disk full": 0.6,
    "disk read-only": 0.5,
    "files lag behind": 0.7,
    "portal stopped in order": 0.5,
    # Mail
    "mail server out": 0.6,
    "mail put off by the server": 0.15,
    "mail taken, reply lost": 0.2,
    "mail refused for good": 0.08,
    # People
    "cancellation wished": 0.2,
    "form sent twice": 0.2,
}
"""How likely each is where there is an occasion, in a history that has this fault at all."""

_SHARES = (0.25, 0.5, 0.8)
"""How many kinds of them a history has: few, half, or most."""


class Faults:
    """Which of them this history has, and how often they have struck."""

    def __init__(self, luck: Callable[[str], random.Random]) -> None:
        self._luck = luck
        self.counts: Counter[str] = Counter()
        self.are_on = True
        choice = luck("faults")
        self.certain: set[str] = set()
        """Those that strike whenever they can: for tests that want exactly this."""
        share = choice.choice(_SHARES)
        self.enabled = {kind for kind in RATES if choice.random() < share}

    def strikes(self, kind: str, rate: float | None = None) -> bool:
        """Whether it strikes now; counted where it does."""
        if not self.are_on or kind not in self.enabled:
            return False
        if kind not in self.certain and self._luck(kind).random() >= (RATES[kind] if rate is None else rate):
            return False
        self.note(kind)
        return True

    def note(self, kind: str) -> None:
        self.counts[kind] += 1
