"""`make crash`: kills at every recorded step, on the embedded queue and on a real Slurm, and prints what came of it.

With `--write` the table goes into docs/crash-tests.md as well. Exit code 1 where a promise was broken.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.hooks import Order
from tests.crash.points import MOMENTS, Found, Workshop, all_points, kill_at_all
from tests.crash.run import ROLES
from tests.crash.slurm_run import SlurmWorkshop
from tests.slurm_cluster import own_cluster

PAGE = Path(__file__).parents[2] / "docs" / "crash-tests.md"
_BEGIN, _END = "<!-- measured on {}: begin -->\n", "<!-- measured on {}: end -->\n"
_LOCAL_AT_ONCE = 6
_SLURM_AT_ONCE = 12


@dataclass(frozen=True)
class Campaign:
    """All kills on one scheduler."""

    scheduler: str
    found: Sequence[Found]
    seconds: float


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/crash-tests.md")
    parser.add_argument("--only", choices=["local", "slurm"], help="one scheduler alone")
    arguments = parser.parse_args()
    campaigns = []
    if arguments.only != "slurm":
        campaigns.append(_local())
    if arguments.only != "local":
        if os.geteuid() == 0:
            campaigns.append(_slurm())
        else:
            print("Left out: a real Slurm needs root.", flush=True)
    for campaign in campaigns:
        text = "\n".join(report(campaign)) + "\n"
        print(text, flush=True)
        if arguments.write:
            _write(campaign.scheduler, text)
    broken = [one for campaign in campaigns for one in campaign.found if one.problem]
    for one in broken:
        print(one.problem, file=sys.stderr)
    return 1 if broken else 0


def _local() -> Campaign:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as folder:
        workshop = Workshop(Path(folder))
        try:
            orders = all_points(workshop.record())
            print(f"local: {len(orders)} points", flush=True)
            found = _counted(kill_at_all(workshop, orders, _LOCAL_AT_ONCE))
        finally:
            workshop.close()
    return Campaign("local", found, time.monotonic() - began)


def _slurm() -> Campaign:
    began = time.monotonic()
    with own_cluster("crash") as cluster:
        workshop = SlurmWorkshop(cluster)
        try:
            orders = all_points(workshop.record())
            print(f"slurm: {len(orders)} points", flush=True)
            found = _counted(workshop.kill_at_all(orders, _SLURM_AT_ONCE))
        finally:
            workshop.close()
    return Campaign("slurm", found, time.monotonic() - began)


def _counted(found: Iterable[Found]) -> list[Found]:
    all_found = []
    for one in found:
        all_found.append(one)
        if one.problem or not one.was_reached:
            print(f"{one.order}: {one.problem.splitlines()[0] if one.problem else 'not reached'}", flush=True)
        if len(all_found) % 50 == 0:
            print(f"… {len(all_found)}", flush=True)
    return all_found


def _write(scheduler: str, text: str) -> None:
    """Put the tables into their place in the page."""
    begin, end = _BEGIN.format(scheduler), _END.format(scheduler)
    head, found, rest = PAGE.read_text().partition(begin)
    assert found, f"{PAGE} has no line {begin}"
    PAGE.write_text(head + begin + text + end + rest.partition(end)[2])


def report(campaign: Campaign) -> list[str]:
    """The lines of the tables."""
    lines = [
        "| process | steps | points | killed | not reached | a promise broken |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for role in ROLES:
        found = [one for one in campaign.found if one.order.step.role == role]
        if found:
            lines.append(f"| {role} | " + " | ".join(map(str, _numbers(found))) + " |")
    lines += ["", f"That took {campaign.seconds:.0f} seconds.", ""]
    lines += ["| process | step | killed before | killed after |", "|---|---|---|---|"]
    return lines + _rows(campaign.found)


def _numbers(found: Sequence[Found]) -> tuple[int, ...]:
    reached = sum(one.was_reached for one in found)
    steps = len({one.order.step for one in found})
    return steps, len(found), reached, len(found) - reached, sum(bool(one.problem) for one in found)


def _rows(found: Sequence[Found]) -> list[str]:
    words = {one.order: _word(one) for one in found}
    steps = dict.fromkeys(one.order.step for one in found)
    rows = []
    for step in steps:
        before, after = (words[Order(step, moment)] for moment in MOMENTS)
        name = str(step).partition(": ")[2]
        rows.append(f"| {step.role} | `{name}` | {before} | {after} |")
    return rows


def _word(found: Found) -> str:
    if found.problem:
        return "**broken**"
    return "right" if found.was_reached else "not reached"


if __name__ == "__main__":
    sys.exit(main())
