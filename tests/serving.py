"""A `portal serve` of its own for a test, and its family of processes."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tests.waiting import wait_until

_START_SECONDS = 30
_OPENER = build_opener(ProxyHandler({}))  # whatever proxy the environment names

Identity = tuple[int, str]
"""A process: its id, and when it started, so that an id that is used again is not taken for it."""


class Serving:
    """One supervisor with its data in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        slow_div_seconds: float = 0,
        stop_seconds: float = 0.5,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PORTAL_PORTAL__BIND": f"127.0.0.1:{port}",
            "PORTAL_PORTAL__STOP_SECONDS": str(stop_seconds),
            "PORTAL_SCHEDULER__POLL_SECONDS": "0.25",
            "PORTAL_SCHEDULER__GRACE_SECONDS": "1",
            "SLOW_DIV_SECONDS": str(slow_div_seconds),
            **(settings or {}),
        }
        self._output = folder / "address"
        self.log_file = folder / "log"
        with self._output.open("wb") as output, self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "portal", "serve"],
                cwd=folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )

    @property
    def address(self) -> str:
        """Where it serves; empty until it says so."""
        found = re.search(r"http://[^\s,]+", self._output.read_text())
        return found[0] if found else ""

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])

    def wait_until_ready(self) -> None:
        """Return when it says that it serves."""
        wait_until(lambda: self.address or self.process.poll() is not None, _START_SECONDS, "the portal's address")
        assert self.process.poll() is None, self.log_file.read_text()

    def answers(self) -> bool:
        """Whether the web server is well."""
        try:
            with _OPENER.open(f"{self.address}/healthz", timeout=5) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def portal(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run another command of the same portal."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "portal", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def submit(self) -> str:
        """A job of 8 / 2; its id."""
        result = self.portal("submit", "slow_div", "--set=x=8", "--set=y=2", "--email=ann@example.org", "--json")
        assert result.returncode == 0, result.stderr
        return str(json.loads(result.stdout)["job_id"])

    def show(self, job_id: str) -> dict[str, Any]:
        """The REST object of a job."""
        result = self.portal("show", job_id, "--json")
        assert result.returncode == 0, result.stderr
        shown: dict[str, Any] = json.loads(result.stdout)
        return shown

    def state(self, job_id: str) -> str:
        """The job's state, from the database itself: a command for each look would keep the machine busy."""
        with closing(sqlite3.connect(self.folder / "portal.db")) as connection:
            row = connection.execute("SELECT state FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            return str(row[0])

    def wait_for_state(self, job_id: str, state: str, seconds: float = 30) -> dict[str, Any]:
        """The job once it has this state."""
        wait_until(lambda: self.state(job_id) == state, seconds, f"job {job_id} to be {state}")
        return self.show(job_id)

    def child(self, command: str) -> int:
        """The process id of one of the supervisor's children, such as `web`; 0 where it does not run."""
        for pid, parent, arguments in processes():
            if parent == self.process.pid and "portal" in arguments and command in arguments:
                return pid
        return 0

    def family(self, head: int | None = None) -> set[Identity]:
        """The supervisor, or another head, and all its descendants, the programs of jobs included."""
        known = processes()
        found = {head or self.process.pid}
        while more := {pid for pid, parent, _ in known if parent in found} - found:
            found |= more
        return {identity for pid in found if (identity := identify(pid))}

    def kill_everything(self) -> None:
        """Leave nothing behind, whatever happened."""
        family = self.family()
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(is_alive(member) for member in family), 10, "the end of everything")

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def processes() -> list[tuple[int, int, list[str]]]:
    """Every process of this machine: its id, its parent's, and its arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(_stat_fields(folder)[1])
            arguments = (folder / "cmdline").read_text(errors="replace").split("\0")
        except (OSError, IndexError):
            continue  # it has ended in the meantime
        found.append((int(folder.name), parent, arguments))
    return found


def identify(pid: int) -> Identity | None:
    """The process, or None where there is none, or only its exit code is left."""
    try:
        fields = _stat_fields(Path("/proc") / str(pid))
    except OSError:
        return None
    return None if fields[0] == "Z" else (pid, fields[19])


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity[0]) == identity


def _stat_fields(folder: Path) -> list[str]:
    """State, parent and so on: what follows the name, which may hold anything."""
    return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
