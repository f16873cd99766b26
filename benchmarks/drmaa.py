"""Submitting by DRMAA beside submitting by `qsub`, in one run: `python -m benchmarks.drmaa [--jobs N]`.

Against a real Grid Engine, which it sets up and takes away (root, Debian 12). No job starts meanwhile: the queue is
closed. The bare library is the floor; the backend adds its thread, its template and its native specification.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from portal.clock import SystemClock
from portal.schedulers.base import Handle, JobSpec, Submitted
from portal.schedulers.drmaa_loading import make_room_for_library
from portal.schedulers.drmaa_native import Drms, native_specification
from portal.schedulers.drmaa_records import GridEngineRecords
from portal.schedulers.drmaa_scheduler import DrmaaScheduler
from portal.schedulers.drmaa_session import DrmaaSession
from portal.schedulers.grid_engine_calls import GridEngineCommands

REPOSITORY = Path(__file__).parents[1]
CELL_SCRIPT = REPOSITORY / "deploy" / "grid-engine" / "cell.sh"
ACCOUNT = "portal-cell"
_PORT = 15990


def main() -> None:
    """Print the table. As root it sets the cell up and starts itself again as the jobs' account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    count = parser.parse_args().jobs
    if "SGE_ROOT" in os.environ:
        make_room_for_library()
        print_table(measure_all(count), count)
        return
    with tempfile.TemporaryDirectory(prefix="portal-grid-engine-benchmark-") as folder:
        Path(folder).chmod(0o755)
        cell = {**os.environ, "CELL_HOME": folder, "CELL_PORT": str(_PORT)}
        subprocess.run([str(CELL_SCRIPT), "up"], env=cell, check=True)
        try:
            measure_as_jobs_account(Path(folder), count)
        finally:
            subprocess.run([str(CELL_SCRIPT), "down", "--purge"], env=cell, check=True)


def measure_as_jobs_account(home: Path, count: int) -> None:
    """The measurement, in a process that submits as the jobs' account."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SGE_ROOT": str(home / "root"),
        "SGE_CELL": "default",
        "SGE_QMASTER_PORT": str(_PORT),
        "SGE_EXECD_PORT": str(_PORT + 1),
        "DRMAA_LIBRARY_PATH": "/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0",
    }
    subprocess.run(["qmod", "-d", "all.q"], env=environment, check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-P", "-m", "benchmarks.drmaa", "--jobs", str(count)]
    subprocess.run(
        command, env=environment, cwd=home / "jobs", check=True, user=ACCOUNT, group=ACCOUNT, extra_groups=[]
    )


def measure_all(count: int) -> dict[str, float]:
    """Seconds for `count` jobs, by what was done with them."""
    script = Path("job.sh").absolute()
    script.write_text("#!/bin/sh\nexit 0\n")
    specs = [
        JobSpec(f"portal-benchm-tcfnctbq-{number}", script, script.parent, 5, memory_mib=50, cpus=1)
        for number in range(1, count + 1)
    ]
    session = DrmaaSession()
    records = GridEngineRecords(GridEngineCommands(), SystemClock(), ACCOUNT)
    scheduler = DrmaaScheduler(session, {Drms.GRID_ENGINE: lambda: records})
    handles: list[Handle] = []

    def submit() -> None:
        answers = scheduler.submit(specs)
        handles.extend(answer.handle for answer in answers if isinstance(answer, Submitted))
        if len(handles) != count:
            raise SystemExit(f"not all were taken: {answers}")

    scheduler.health()  # the session is open, as a dispatcher's is
    seconds = {
        "the backend": measure(submit),
        "qsub, one after the other": measure(lambda: qsub(specs)),
        "states of all, by qstat": measure(lambda: scheduler.observe(handles)),
        "states of all, by jobStatus": measure(lambda: [session.status(handle.scheduler_id) for handle in handles]),
    }
    scheduler.close()
    seconds["the bare library"] = submit_bare(specs)
    return seconds


def measure(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def qsub(specs: Sequence[JobSpec]) -> None:
    """The same jobs by Grid Engine's own command."""
    for spec in specs:
        native = native_specification(Drms.GRID_ENGINE, spec).split()
        folder = spec.working_dir
        files = ["-N", spec.name, "-wd", str(folder), "-o", str(folder / "scheduler.out"), "-j", "y"]
        subprocess.run(["qsub", "-terse", *native, *files, str(spec.script)], check=True, stdout=subprocess.DEVNULL)


def submit_bare(specs: Sequence[JobSpec]) -> float:
    """The seconds that the library itself takes, with nothing around it."""
    import drmaa

    with drmaa.Session() as session:
        job = session.createJobTemplate()
        job.remoteCommand = str(specs[0].script)
        job.nativeSpecification = native_specification(Drms.GRID_ENGINE, specs[0])
        return measure(lambda: [session.runJob(job) for _ in specs])


def print_table(seconds: dict[str, float], count: int) -> None:
    """Each line with its ratio to the bare library."""
    floor = seconds["the bare library"]
    print(f"{count} jobs")
    print(f"{'':30}{'per job':>12}{'a second':>10}{'ratio':>8}")
    for name, taken in sorted(seconds.items(), key=lambda item: item[1]):
        print(f"{name:30}{1000 * taken / count:>9.2f} ms{count / taken:>10.0f}{taken / floor:>8.1f}")


if __name__ == "__main__":
    main()
