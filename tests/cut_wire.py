"""A wire that can be cut: a TCP port that leads to another one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Wire:
    """Carries connections to a port of this machine, until it is cut; the next ones are carried again.

    Once so many bytes have gone in, it lets no answer out, so that it can be cut while one is awaited; or it is cut by
    itself once so many have been carried one way.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        # Whether the wire is worn is seen and acted upon at once: a late thread must not cut what was connected since.
        self._lock = threading.RLock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._silent_after: int | None = None
        self._break_after: int | None = None
        self._breaks_answers = False
        self.carried_bytes = 0
        """From near to far, of all connections."""
        self.answered_bytes = 0
        """From far to near."""
        threading.Thread(target=self._accept, daemon=True).start()

    def silence_after(self, number_of_bytes: int) -> None:
        """Let no answer out once so many bytes have gone in."""
        self._silent_after = number_of_bytes

    def break_after(self, number_of_bytes: int | None, *, of_answers: bool = False) -> None:
        """Cut the wire once so many more bytes have gone in, or, `of_answers`, have come out; None: never."""
        with self._lock:
            carried = self.answered_bytes if of_answers else self.carried_bytes
            self._breaks_answers = of_answers
            self._break_after = None if number_of_bytes is None else carried + number_of_bytes

    @property
    def is_silent(self) -> bool:
        """Whether answers are held back now."""
        return self._silent_after is not None and self.carried_bytes >= self._silent_after

    @property
    def is_broken(self) -> bool:
        """Whether it was cut by itself since it was last asked to."""
        return self._is_worn()

    def _is_worn(self) -> bool:
        carried = self.answered_bytes if self._breaks_answers else self.carried_bytes
        return self._break_after is not None and carried >= self._break_after

    def cut(self) -> None:
        """Break every connection that is open now, in the middle of whatever it carries; the next ones are whole."""
        with self._lock:
            self._silent_after = None
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._ends.clear()

    def close(self) -> None:
        """Cut, and carry nothing more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:
                    near.close()
                    continue
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._ends += [near, far]
                for source, sink, is_answer in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=(source, sink, is_answer), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not is_answer:
                    self.carried_bytes += len(data)
                elif self.is_silent:
                    continue
                else:
                    self.answered_bytes += len(data)
                with self._lock:
                    if self._is_worn():
                        self.cut()
                sink.sendall(data)
        _close_both(source, sink)


def _close_both(source: socket.socket, sink: socket.socket) -> None:
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()


@contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    """A wire to a port of this machine."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()
