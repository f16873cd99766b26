"""The embedded scheduler against its floors, in one run: `python -m benchmarks.embedded [--jobs N]`.

Accepting is compared with the durable steps that it cannot do without, done by themselves; running with the same
scripts started directly, as many at a time, without a queue.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from portal.app import Parts, build_parts
from portal.jobs.acceptance import Submission
from portal.node.durable import fsync_folder, write_durably
from portal.settings import load_settings

SLOTS = 2
_LOOK_SECONDS = 0.1
_MOST_SECONDS = 600


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    count = parser.parse_args().jobs
    os.environ.update(
        {"SLOW_DIV_SECONDS": "0", "PORTAL_SCHEDULER__POLL_SECONDS": "0.25", "PORTAL_MAIL__TRANSPORT": "folder"}
    )
    with tempfile.TemporaryDirectory(prefix="portal-benchmark-", dir=Path.cwd()) as folder:
        os.chdir(folder)
        parts = build_parts(load_settings())
        floor_accept = measure(lambda: accept_floor(Path(folder), count))
        ids: list[str] = []
        accept = measure(lambda: ids.extend(submit(parts, number) for number in range(count)))
        run = measure(lambda: run_all(parts, ids))
        floor_run = measure(lambda: run_floor(parts, ids))
        parts.database.close()
        os.chdir("/")
    print(f"{count} jobs, {SLOTS} at a time")
    print(f"{'':28}{'per job':>10}{'floor':>10}{'ratio':>8}")
    for name, seconds, floor in (("accepting", accept, floor_accept), ("accepted to final", run, floor_run)):
        print(f"{name:28}{1000 * seconds / count:>7.1f} ms{1000 * floor / count:>7.1f} ms{seconds / floor:>8.1f}")


def measure(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def submit(parts: Parts, number: int) -> str:
    """One accepted job; its id."""
    return parts.jobs.submit(Submission("slow_div", {"x": str(number), "y": "2"}, "ann@example.org")).job_id


def accept_floor(folder: Path, count: int) -> None:
    """A directory, a durable file, a durable link, and a durable commit for each."""
    root = folder / "floor"
    root.mkdir()
    with closing(sqlite3.connect(folder / "floor.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY)")
        for number in range(count):
            job = root / str(number)
            job.mkdir()
            write_durably(str(job / "config.ini"), b"x" * 400)
            (root / f"link-{number}").symlink_to(job)
            fsync_folder(str(root))
            database.execute("INSERT INTO jobs VALUES (?)", (number,))


def run_all(parts: Parts, ids: list[str]) -> None:
    """Dispatcher and client, from their start to the last job's end."""
    commands = (["dispatcher"], ["client", "--slots", str(SLOTS)])
    with Path("log").open("wb") as log:
        processes = [
            subprocess.Popen([sys.executable, "-P", "-m", "portal", *command], stdout=log, stderr=log)
            for command in commands
        ]
    try:
        give_up = time.monotonic() + _MOST_SECONDS
        while not all(record.job.state.is_final for record in parts.jobs.newest(len(ids))):
            if time.monotonic() > give_up:
                raise SystemExit("the jobs did not end; see the log")
            time.sleep(_LOOK_SECONDS)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def run_floor(parts: Parts, ids: list[str]) -> None:
    """The same programs under the same wrapper, without a queue: each job's script once more, in a new attempt."""
    scripts = [_copy_of_script(parts, job_id) for job_id in ids]
    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(_run_script, scripts))


def _copy_of_script(parts: Parts, job_id: str) -> Path:
    """A second attempt's files, made by hand, so that its claim is free."""
    directory = parts.folder.job(job_id)
    first, second = directory.attempt(1), directory.attempt(2)
    second.make()
    for source, target in ((first.config, second.config), (first.program_script, second.program_script)):
        target.write_bytes(source.read_bytes())
    text = first.job_script.read_text().replace("/attempts/1/", "/attempts/2/")
    second.job_script.write_text(text)
    return second.job_script


def _run_script(script: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SLOW_DIV_SECONDS": "0"}
    subprocess.run(
        ["/bin/sh", str(script)],
        cwd=script.parent / "work",
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    main()
