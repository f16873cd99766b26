"""Running one command within a time and a size, whatever it does."""

import os
import selectors
import signal
import subprocess
import time
from typing import IO, Mapping, NamedTuple, Optional, Sequence

_CHUNK = 65536
_MOST_STDERR_BYTES = 65536
_KILL_SECONDS = 5.0

TIMED_OUT = "timed_out"
TOO_LONG = "too_long"
GIVEN_UP = "given_up"


class Finished(NamedTuple):
    """How a command ended. Where `failure` is set, what it wrote is not its whole answer."""

    exit_code: Optional[int]
    """None where it was ended by us; the negative number of the signal where another ended it."""
    stdout: bytes
    stderr: bytes
    """Its first 64 KiB: it is for people."""
    failure: Optional[str]
    """None, `timed_out`, `too_long` or `given_up`."""
    seconds: float
    """From just before its start until it was seen to be dead."""


def run_capped(
    command: Sequence[str],
    data: bytes,
    environ: Optional[Mapping[str, str]],
    cwd: str,
    timeout_seconds: float,
    most_bytes: int,
    give_up_on: bytes = b"",
) -> Finished:
    """Run a command with `data` as its standard input, in a process group of its own.

    At the time-out, where it writes more than `most_bytes`, and once it complains of `give_up_on` on standard error,
    the whole group is killed. What cannot be killed (another account's, by way of sudo) is left behind. OSError where
    the command cannot be started.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if environ is None else dict(environ),
        cwd=cwd,
        start_new_session=True,
    )
    exchange = _Exchange(process, data, most_bytes, give_up_on)
    failure = TIMED_OUT
    try:
        failure = exchange.run(deadline)
        if not failure:
            failure = _wait(process, deadline)
    finally:
        if failure:
            _kill_group(process)
        exchange.close()
    exit_code = None if failure else process.returncode
    seconds = time.monotonic() - began
    return Finished(exit_code, bytes(exchange.stdout), bytes(exchange.stderr), failure or None, seconds)


class _Exchange:
    """Feeding and reading a process through its three pipes at once."""

    def __init__(self, process: "subprocess.Popen[bytes]", data: bytes, most_bytes: int, give_up_on: bytes) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._data = memoryview(data)
        self._most_bytes = most_bytes
        self._give_up_on = give_up_on
        self._selector = selectors.DefaultSelector()
        self._stdin, self._stdout, self._stderr = (
            _not_blocking(pipe) for pipe in (process.stdin, process.stdout, process.stderr)
        )
        self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._stderr, selectors.EVENT_READ)

    def run(self, deadline: float) -> str:
        """Until both outputs are at their end: empty, or the failure."""
        while self._selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return TIMED_OUT
            for key, _ in self._selector.select(left):
                pipe = key.fileobj
                if pipe is self._stdin:
                    self._write()
                elif pipe is self._stdout:
                    self._read(self._stdout, self.stdout)
                else:
                    self._read(self._stderr, self.stderr)
                    del self.stderr[_MOST_STDERR_BYTES:]
            if len(self.stdout) > self._most_bytes:
                return TOO_LONG
            if self._give_up_on and self._give_up_on in self.stderr:
                return GIVEN_UP
        return ""

    def close(self) -> None:
        self._selector.close()
        for pipe in (self._stdin, self._stdout, self._stderr):
            try:
                pipe.close()
            except OSError:
                pass

    def _write(self) -> None:
        try:
            written = os.write(self._stdin.fileno(), self._data[:_CHUNK]) if self._data else 0
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It does not want to know more; what it says will show why.
            self._data = self._data[:0]
            written = 0
        self._data = self._data[written:]
        if not self._data:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def _read(self, pipe: IO[bytes], into: bytearray) -> None:
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return
        if chunk:
            into.extend(chunk)
        else:
            self._selector.unregister(pipe)


def _not_blocking(pipe: Optional[IO[bytes]]) -> IO[bytes]:
    if pipe is None:
        raise ValueError("all three pipes are asked for")
    os.set_blocking(pipe.fileno(), False)
    return pipe


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> str:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    return ""


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        # It has not been waited for, so the id is still its own.
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        pass
