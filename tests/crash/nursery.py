"""A process that has imported the portal and forks the portal's processes: starting one takes no second then.

`python nursery.py` reads requests from its standard input, one line of JSON each, and answers each with one:
`["start", role, folder]` with a process id, `["end", pid]` with how it ended (as `subprocess` counts) or null.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

LOG = "log"


class Nursery:
    """The process, as tests have it. Several threads may ask."""

    def __init__(self, shared: Path, command: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """`shared` holds the applications; `command` is put before, so that it runs as another account."""
        self._lock = Lock()
        self._codes: dict[int, int] = {}
        self._process = subprocess.Popen(
            [*command, sys.executable, "-P", str(Path(__file__)), str(shared)],
            cwd="/",
            env={**os.environ, **(environment or {}), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, role: str, folder: Path) -> int:
        """A new process of this role, watched, for the portal in `folder`; its id."""
        return int(self._ask("start", role, str(folder)))

    def ended(self, pid: int) -> int | None:
        """How it ended, as `subprocess` counts; None while it runs."""
        if pid not in self._codes:
            answer = self._ask("end", pid)
            if answer is None:
                return None
            self._codes[pid] = int(answer)
        return self._codes[pid]

    def _ask(self, *request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it; what it started must have ended."""
        with self._process:
            self._process.communicate()


def _start(role: str, folder: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _be(role, folder)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _be(role: str, folder: str) -> None:
    """Become a process of its own, and that role. Returns when that has ended."""
    os.setsid()
    os.chdir(folder)
    log = os.open(f"{folder}/{LOG}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.close(log)
    os.close(null)
    os.environ["CRASH_FOLDER"] = folder
    os.environ["PORTAL_CONFIG"] = f"{folder}/portal.toml"
    from tests.crash import roles

    roles.run(role, Path(folder))


def _end(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def main() -> None:
    """Answer until the input ends."""
    from tests.crash import roles

    # Everything that takes time and leaves no trace is done once, here.
    roles.warm_up(Path(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    alive: set[int] = set()
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        if word == "start":
            answer: int | None = _start(*arguments)
            alive |= {answer} if answer is not None else set()
        else:
            answer = _end(*arguments)
            alive -= {*arguments} if answer is not None else set()
        print(json.dumps(answer), flush=True)
    # Whoever asked was interrupted: nothing is left running.
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
