"""The web server: gunicorn, embedded, with the portal's application loaded in each worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn import glogging
from gunicorn.app.base import BaseApplication

from portal.lifeline import follow_lifeline_after_fork
from portal.privileges import UMASK

WORKERS = 2
"""One that is killed or hangs leaves another that answers; pages are short and wait for the database at most."""
THREADS = 32
"""They mostly wait: for a slow visitor's download, or for SQLite, which writes one at a time. A public portal needs a
proxy before it that takes in requests and answers whole."""
REQUEST_SECONDS = 60
"""A worker whose main loop is silent for so long is replaced; its threads may take longer over a download."""
STOP_SECONDS = 10
"""What requests under way get when the server stops."""
KEEPALIVE_SECONDS = 5
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  # the workers' heartbeat files: a slow disk must not look like a hang

_OPTIONS: dict[str, Any] = {
    "worker_class": "gthread",
    "workers": WORKERS,
    "threads": THREADS,
    "timeout": REQUEST_SECONDS,
    "graceful_timeout": STOP_SECONDS,
    "keepalive": KEEPALIVE_SECONDS,
    "worker_tmp_dir": str(_MEMORY_FOLDER) if _MEMORY_FOLDER.is_dir() else None,
    # gunicorn would otherwise set it to 0.
    "umask": UMASK,
    # The portal logs its requests itself, without the keys in their queries.
    "accesslog": None,
    "errorlog": None,
    "loglevel": "warning",
    # Nobody's X-Forwarded-… or SCRIPT_NAME header is believed here: links come from portal.base_url.
    "forwarded_allow_ips": "",
    "forwarder_headers": "",
    # A socket in the home folder through which the server can be steered; nothing here uses it.
    "control_socket_disable": True,
}


class _Logger(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's messages go where all others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.propagate = True


class WebServer(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn around the application that `make_application` builds, after the fork, once in each worker.

    Built earlier, the workers would share the connections of one database engine.
    """

    def __init__(self, listener_fd: int, make_application: Callable[[], Flask]) -> None:
        self._listener_fd = listener_fd
        self._make_application = make_application
        super().__init__()

    def load_config(self) -> None:
        options = _OPTIONS | {
            "bind": f"fd://{self._listener_fd}",
            "logger_class": _Logger,
            "post_fork": _after_fork,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._make_application()


def serve_web(listener_fd: int, make_application: Callable[[], Flask]) -> None:
    """Answer requests on this listening socket until SIGTERM, then let those under way end. Leaves by SystemExit.

    The descriptor is gunicorn's from now on: nobody else may close it.
    """
    WebServer(listener_fd, make_application).run()


def _after_fork(_arbiter: object, _worker: object) -> None:
    follow_lifeline_after_fork()
