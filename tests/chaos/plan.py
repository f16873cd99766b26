"""What is killed, when, and for how long: drawn from a seed, so that the same seed is the same plan."""

import random
from dataclasses import dataclass

NODES = ("node1", "node2", "node3")


@dataclass(frozen=True)
class Target:
    """Something that can be killed and started again."""

    name: str
    mean_pause_seconds: float
    """How long it is left in peace, on average."""
    longest_outage_seconds: float


TARGETS = (
    Target("web", 40, 6),
    Target("dispatcher", 25, 8),
    Target("node", 45, 25),
    Target("ctld", 60, 12),
    Target("dbd", 60, 20),
    Target("sshd", 50, 12),
    Target("smtp", 40, 30),
)


@dataclass(frozen=True)
class Fault:
    """One kill, and the start after it."""

    at_seconds: float
    target: str
    outage_seconds: float
    node: str = ""
    """Which node dies."""
    slurm_is_told: bool = False
    """Whether slurmctld hears of the node's death at once, or finds out by its silence."""


def plan_faults(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run of so many seconds, in order. Each target is up again when its next fault comes."""
    faults = []
    for target in TARGETS:
        # One source for each target: a new target leaves the plans of the others as they were.
        source = random.Random(f"{seed} {target.name}")
        at_seconds = source.expovariate(1 / target.mean_pause_seconds)
        while at_seconds < seconds:
            outage_seconds = source.uniform(0.5, target.longest_outage_seconds)
            is_node = target.name == "node"
            node, told = (source.choice(NODES), source.random() < 0.5) if is_node else ("", False)
            faults.append(Fault(round(at_seconds, 1), target.name, round(outage_seconds, 1), node, told))
            at_seconds += outage_seconds + source.expovariate(1 / target.mean_pause_seconds)
    return sorted(faults, key=lambda fault: fault.at_seconds)


@dataclass(frozen=True)
class Submission:
    """One job that somebody sends in."""

    at_seconds: float
    key: str
    """The Idempotency-Key: the same job however often it has to be sent."""
    email: str
    on_node_failure: str
    """What the application's policy says: resubmit or hold."""
    what: str
    run_seconds: int


def plan_submissions(seed: int, seconds: float, jobs_per_second: float) -> list[Submission]:
    """The jobs of the run, in order: nine in ten are to succeed, one in ten fails by itself.

    A quarter is held, and not run again, where its node dies.
    """
    source = random.Random(f"{seed} submissions")
    submissions: list[Submission] = []
    at_seconds = 0.0
    while (at_seconds := at_seconds + source.expovariate(jobs_per_second)) < seconds:
        submissions.append(
            Submission(
                at_seconds=round(at_seconds, 2),
                key=f"chaos-{seed}-submission-{len(submissions):06d}",
                email=f"person{source.randrange(5)}@example.org",
                on_node_failure="hold" if source.random() < 0.25 else "resubmit",
                what="fail" if source.random() < 0.1 else "succeed",
                run_seconds=source.choice((0, 1, 2, 5, 15)),
            )
        )
    return submissions
