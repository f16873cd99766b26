"""Records what Grid Engine's commands really print, for the tests of their parsers, into tests/data/grid-engine/.

    .venv/bin/python -m tests.drmaa.record_outputs            # as root, about two minutes; with a cell of its own

Each recording is NAME.out (standard output), NAME.err (standard error; absent where empty) and NAME.json (the command,
its exit code, the situation). All ran as the jobs' account with TZ=UTC LC_ALL=C. A job is named after what becomes of
it.
"""

import json
import signal
import time
from pathlib import Path

from portal.schedulers import grid_engine_calls as calls
from tests.drmaa.cell import ACCOUNT, GridEngineCell, new_cell
from tests.waiting import wait_until

_DATA = Path(__file__).parents[1] / "data" / "grid-engine" / "8.1.9"


class _Recorder:
    def __init__(self, cell: GridEngineCell) -> None:
        self.cell = cell
        self.ids: dict[str, str] = {}

    def submit(self, name: str, script: str, *options: str) -> str:
        """The id of a new job that runs the script."""
        file = self.cell.jobs_dir / f"{name}.sh"
        file.write_text(f"#!/bin/sh\n{script}\n")
        fixed = ["-S", "/bin/sh", "-b", "n", "-r", "n", "-wd", "/", "-o", "/dev/null", "-j", "y"]
        done = self.cell.run("qsub", "-terse", *fixed, "-N", f"portal-record-{name}-1", *options, str(file))
        assert done.returncode == 0, (name, done.stderr)
        self.ids[name] = done.stdout.strip()
        return self.ids[name]

    def record(self, name: str, situation: str, command: list[str]) -> None:
        """Run it and keep what it printed."""
        done = self.cell.run(*command)
        home = str(self.cell.home)
        (_DATA / f"{name}.out").write_text(done.stdout.replace(home, "/cell"))
        if done.stderr:
            (_DATA / f"{name}.err").write_text(done.stderr.replace(home, "/cell"))
        about = {"command": command, "exit_code": done.returncode, "situation": situation, "ids": self.ids}
        (_DATA / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
        print(f"{name}: exit {done.returncode}, {len(done.stdout)} + {len(done.stderr)} bytes")

    def wait_for(self, name: str, *letters: str, seconds: float = 60) -> None:
        """Until the job is in one of these states; "" is for one that has left the queue."""
        job = self.ids[name]
        wait_until(lambda: self.cell.queue().get(job, "") in letters, seconds, f"{name} in {letters}")


def main() -> None:
    """Record everything."""
    _DATA.mkdir(parents=True, exist_ok=True)
    cell = new_cell("recording")
    cell.up()
    cell.make_jobs_dir()
    try:
        _record(_Recorder(cell))
    finally:
        cell.remove()


def _record(recorder: _Recorder) -> None:
    queue = calls.queue_call(ACCOUNT)
    recorder.record("qstat-empty", "no job in the queue", queue)
    recorder.record("qacct-nothing-yet", "an empty accounting file", calls.accounting_call("999999"))
    _ends(recorder)
    _limits(recorder)
    _node_crash(recorder)
    _queue(recorder)
    recorder.record("qstat", "jobs in many states", queue)
    recorder.record("qacct", "all these jobs in accounting", ["qacct", "-j", "portal-record-*"])
    one = recorder.ids["exit-3"]
    recorder.record("qacct-one", "one job, by its id", calls.accounting_call(one))
    recorder.record("qacct-by-name", "one job, by its name", calls.accounting_by_name_call("portal-record-exit-3-1"))
    recorder.record("qacct-unknown-id", "an unknown id", calls.accounting_call("999999"))
    recorder.record("qacct-unknown-name", "an unknown name", calls.accounting_by_name_call("portal-record-none-1"))
    recorder.cell.stop_daemon("execd")
    recorder.cell.run("qdel", recorder.ids["running"])
    recorder.record("qstat-deleting", "a running job is to be deleted, and its host does not answer", queue)
    recorder.cell.start_daemon("execd")
    recorder.cell.stop_daemon("qmaster")
    recorder.record("qstat-qmaster-down", "the qmaster is down", queue)
    recorder.record("qacct-qmaster-down", "the qmaster is down, the file is there", calls.accounting_call(one))
    accounting = recorder.cell.home / "root" / "default" / "common" / "accounting"
    whole = accounting.read_text()
    accounting.write_text("broken\n" + whole)
    recorder.record("qacct-broken-line", "a line of the file is broken", calls.accounting_call(one))
    accounting.unlink()
    recorder.record("qacct-no-file", "this host has no accounting file", calls.accounting_call(one))
    accounting.write_text(whole)
    recorder.cell.start_daemon("qmaster")
    recorder.cell.end_all()


def _ends(recorder: _Recorder) -> None:
    scripts = {
        "exit-0": "exit 0",
        "exit-3": "exit 3",
        "exit-137": "exit 137",
        "signal-9": "kill -KILL $$",
        "signal-11": "kill -SEGV $$",
        "exit-99": "exit 99",
        "exit-100": "exit 100",
        "deleted": "exec sleep 300",
    }
    for name, script in scripts.items():
        recorder.submit(name, script)
    recorder.submit("no-folder", ":", "-wd", "/nowhere")
    recorder.submit("no-output", ":", "-o", "/nowhere/output")
    for name in ("exit-100", "no-folder", "no-output"):
        recorder.wait_for(name, "Eqw")
    recorder.wait_for("deleted", "r")
    recorder.cell.run("qdel", recorder.ids["deleted"])
    recorder.wait_for("deleted", "")
    # It comes back until somebody ends that.
    recorder.wait_for("exit-99", "Rq", "Rr")
    recorder.cell.run("qdel", recorder.ids["exit-99"])
    recorder.wait_for("exit-99", "")


def _limits(recorder: _Recorder) -> None:
    program = "import time; x = b'1' * 60_000_000; time.sleep(60)"
    two = f'/usr/bin/python3 -c "{program}" & /usr/bin/python3 -c "{program}" & wait'
    recorder.submit("time-limit", "sleep 300", "-l", "h_rt=2")
    recorder.submit("memory-limit", two, "-l", "h_rt=300,h_vmem=100M")
    recorder.submit("cpu-limit", "while :; do :; done", "-l", "h_cpu=2,h_rt=300")
    for name in ("time-limit", "memory-limit", "cpu-limit"):
        recorder.wait_for(name, "")


def _node_crash(recorder: _Recorder) -> None:
    recorder.submit("node-crash", "exec sleep 300")
    recorder.wait_for("node-crash", "r")
    recorder.cell.stop_daemon("execd", signal.SIGKILL)
    recorder.cell.kill_jobs()
    recorder.cell.start_daemon("execd")
    # An execd that was started anew looks after its old jobs each minute.
    recorder.wait_for("node-crash", "", seconds=150)


def _queue(recorder: _Recorder) -> None:
    recorder.submit("running", "exec sleep 300")
    recorder.submit("suspended", "exec sleep 300")
    recorder.submit("held", ":", "-h")
    recorder.submit("waits-for-job", ":", "-hold_jid", recorder.ids["running"])
    recorder.submit("waits-for-slots", ":", "-pe", "smp", "6")
    for name in ("running", "suspended"):
        recorder.wait_for(name, "r")
    recorder.cell.run("qmod", "-sj", recorder.ids["suspended"])
    recorder.wait_for("suspended", "s")
    # A name that XML has to spell.
    recorder.submit("a<&b", ":", "-h")
    time.sleep(2)  # accounting is written


if __name__ == "__main__":
    main()
