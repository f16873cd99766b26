"""The web server's listening socket.

`portal serve` opens it and hands it to its web process, so that it stays open while that process is started anew:
visitors then wait a moment instead of being refused.
"""

import errno
import socket
import time

from portal.errors import PortalError

RETRY_SECONDS = 10.0
"""How long a port in use is tried again: the web server of a portal that was just killed needs a moment to end."""
_PAUSE_SECONDS = 0.1
_BACKLOG = 128


def open_listener(host: str, port: int, retry_seconds: float = RETRY_SECONDS) -> socket.socket:
    """A socket that listens there; port 0 means any free one. It is not inherited unless it is passed on by name.

    Raises PortalError, one line, where the address cannot be used.
    """
    deadline_seconds = time.monotonic() + retry_seconds
    while True:
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PortalError(f"portal.bind: cannot listen on {address(host, port)}: {error.strerror}") from error
            if time.monotonic() >= deadline_seconds:
                raise PortalError(
                    f"portal.bind: {address(host, port)} is in use by another program; "
                    "stop that one, or set portal.bind (PORTAL_PORTAL__BIND) to another port"
                ) from error
        time.sleep(_PAUSE_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _name, place = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections that a predecessor closed linger for a minute and would keep the port; a live listener still does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def address(host: str, port: int) -> str:
    """`HOST:PORT`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
