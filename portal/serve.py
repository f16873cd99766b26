"""`portal serve`: one web server, one dispatcher and one compute client, for one machine.

The supervisor starts them, starts again what dies, and stops them in order. It does nothing else, so that there is
little that could end it; where it is killed all the same, the lifeline ends the others at once.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import structlog

from portal.lifeline import Lifeline, make_lifeline
from portal.signal_pipe import SignalPipe

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 60.0
"""A child that lived so long starts without a long pause again."""
STOP_MARGIN_SECONDS = 15.0
"""What a child gets to end beyond the time that running programs have: requests and statements under way."""

REPEAT_SECONDS = 1.0
"""Signals that follow the first one so closely are the same wish: `make`, `timeout` and shells pass one on again."""

_PROBE_PAUSE_SECONDS = 0.1
_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class ChildCommand:
    """One of the processes: its name, the portal's command that it runs, and the files that it inherits."""

    name: str
    arguments: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()


class Child:
    """One process that is wanted, and its history."""

    def __init__(self, command: ChildCommand, options: Sequence[str], lifeline: Lifeline) -> None:
        self.name = command.name
        # -P: a file called logging.py in the working directory must not be taken for Python's own.
        self._arguments = [sys.executable, "-P", "-m", "portal", *options, *command.arguments]
        self._pass_fds = (*command.pass_fds, lifeline.read_fd)
        self._environment = lifeline.environment()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_seconds = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self.due_seconds: float | None = 0.0
        """When it is to be started, on the monotonic clock; None while it runs."""

    def start_if_due(self, now_seconds: float) -> None:
        """Start it, where it is time for it. A session of its own keeps Ctrl-C at a terminal for the supervisor."""
        if self.due_seconds is None or now_seconds < self.due_seconds:
            return
        self.due_seconds = None
        self._started_seconds = now_seconds
        try:
            self._process = subprocess.Popen(
                self._arguments,
                pass_fds=self._pass_fds,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:  # no memory, or too many processes: it may be otherwise in a while
            self._try_again_later(now_seconds, None, str(error))
        else:
            log.info("started", process=self.name, pid=self._process.pid)

    def look(self, now_seconds: float) -> None:
        """Notice that it has ended, and say when it is to start again."""
        if self._process is None or self._process.poll() is None:
            return
        if now_seconds - self._started_seconds >= SETTLED_SECONDS:
            self._pause_seconds = FIRST_PAUSE_SECONDS
        self._try_again_later(now_seconds, self._process.pid, _how_it_ended(self._process.returncode))
        self._process = None

    def _try_again_later(self, now_seconds: float, pid: int | None, why: str) -> None:
        log.error(
            "not running; it is started again", process=self.name, pid=pid, why=why, pause_seconds=self._pause_seconds
        )
        self.due_seconds = now_seconds + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def has_ended(self) -> bool:
        """Whether nothing runs any more."""
        return self._process is None or self._process.poll() is not None


class Supervisor:
    """The parent of all."""

    def __init__(
        self,
        commands: Sequence[ChildCommand],
        options: Sequence[str],
        *,
        stop_seconds: float,
        stopped_last: str,
    ) -> None:
        """`options` go before each command; `stopped_last` names the child that is stopped when `client` has ended."""
        self._lifeline = make_lifeline()
        self._children = [Child(command, options, self._lifeline) for command in commands]
        self._last = [child for child in self._children if child.name == stopped_last]
        self._first = [child for child in self._children if child.name != stopped_last]
        self._stop_seconds = stop_seconds
        self._asked_seconds = 0.0

    def run(self) -> int:
        """Work until SIGTERM, SIGINT or SIGHUP; the exit code: 0 where all ended by themselves then."""
        signals = SignalPipe(with_children=True)
        while True:
            now_seconds = time.monotonic()
            for child in self._children:
                child.look(now_seconds)
                child.start_if_due(now_seconds)
            due = [child.due_seconds for child in self._children if child.due_seconds is not None]
            if signals.wait(max(0.0, min(due) - time.monotonic()) if due else None):
                break
        return 0 if self._stop(signals) else 1

    def _stop(self, signals: SignalPipe) -> bool:
        """Stop all in order; False where one had to be killed."""
        log.info("stopping")
        self._asked_seconds = time.monotonic()
        clean = self._end(self._first, self._stop_seconds + STOP_MARGIN_SECONDS, signals)
        # It records how the client's programs ended, and goes last.
        clean = clean and self._end(self._last, STOP_MARGIN_SECONDS, signals)
        if not clean:
            for child in self._children:
                child.send(signal.SIGKILL)
        os.close(self._lifeline.write_fd)  # whoever is left follows it
        log.info("stopped", clean=clean)
        return clean

    def _end(self, children: Sequence[Child], seconds: float, signals: SignalPipe) -> bool:
        """SIGTERM to these, and wait; False where they did not end in time, or somebody asked a second time."""
        for child in children:
            child.send(signal.SIGTERM)
        deadline_seconds = time.monotonic() + seconds
        while not all(child.has_ended() for child in children):
            left_seconds = deadline_seconds - time.monotonic()
            if left_seconds <= 0:
                names = [child.name for child in children if not child.has_ended()]
                log.error("did not end in time, and is killed", processes=", ".join(names))
                return False
            if signals.wait(left_seconds) and time.monotonic() - self._asked_seconds > REPEAT_SECONDS:
                log.warning("asked to stop a second time: everything is killed")
                return False
        return True


def announce_when_ready(host: str, port: int, base_url: str, say: Callable[[], None]) -> None:
    """Call `say` as soon as the web server there answers, from a thread; never, where it does not."""
    arguments = (host, port, urlsplit(base_url).netloc, say)
    threading.Thread(target=_announce, args=arguments, name="announce", daemon=True).start()


def _announce(host: str, port: int, host_header: str, say: Callable[[], None]) -> None:
    while not _answers(host, port, host_header):
        time.sleep(_PROBE_PAUSE_SECONDS)
    say()


def _answers(host: str, port: int, host_header: str) -> bool:
    # What listens on every address is reached on this machine's own.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = HTTPConnection(reachable, port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": host_header})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _how_it_ended(return_code: int) -> str:
    if return_code >= 0:
        return f"exit code {return_code}"
    try:
        return signal.Signals(-return_code).name
    except ValueError:
        return f"signal {-return_code}"
