"""`python -m tests.simulation.run --seeds 1000`: play many histories, or one of them with its trace."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests.simulation.history import Outcome, play

CHUNK = 20


def play_briefly(seed: int) -> Outcome:
    """As `play`, without the trace, which is long."""
    outcome = play(seed)
    return Outcome(
        seed, outcome.violations, [], outcome.digest, outcome.faults, outcome.jobs, outcome.simulated_seconds
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories, from --first on")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happened")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return show(play(chosen.seed), with_trace=chosen.trace)
    return play_many(range(chosen.first, chosen.first + chosen.seeds), chosen.processes)


def show(outcome: Outcome, *, with_trace: bool) -> int:
    """Print one history; the exit code."""
    if with_trace:
        print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: {outcome.jobs} jobs, {outcome.simulated_seconds:.0f} simulated seconds")
    print("faults:", ", ".join(f"{kind} {number}" for kind, number in sorted(outcome.faults.items())) or "none")
    print("digest:", outcome.digest)
    for violation in outcome.violations:
        print("BROKEN:", violation)
    return 1 if outcome.violations else 0


def play_many(seeds: range, processes: int) -> int:
    """Print the table; the exit code."""
    began = time.monotonic()
    faults: Counter[str] = Counter()
    jobs = 0
    simulated_seconds = 0.0
    failed: list[Outcome] = []
    with multiprocessing.Pool(processes) as pool:
        for outcome in pool.imap(play_briefly, seeds, CHUNK):
            faults += outcome.faults
            jobs += outcome.jobs
            simulated_seconds += outcome.simulated_seconds
            if outcome.violations:
                failed.append(outcome)
    seconds = time.monotonic() - began
    for kind, number in sorted(faults.items()):
        print(f"{number:9d}  {kind}")
    print(
        f"{len(seeds)} histories, {jobs} jobs, {faults.total()} faults, {simulated_seconds / 3600:.0f} simulated "
        f"hours in {seconds:.1f} seconds ({1000 * seconds * processes / len(seeds):.0f} ms each)"
    )
    if not failed:
        print("No promise was broken.")
        return 0
    first = failed[0]
    print(f"{len(failed)} histories broke a promise: seeds {', '.join(str(one.seed) for one in failed[:20])}")
    print(f"The first, seed {first.seed}:")
    for violation in first.violations:
        print(f"  {violation}")
    print(f"Replay it: .venv/bin/python -m tests.simulation.run --seed {first.seed} --trace")
    return 1


if __name__ == "__main__":
    sys.exit(main())
