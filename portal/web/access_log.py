"""One line of the log per request; never its query, which may hold a key."""

from urllib.parse import quote

import structlog
from flask import Flask, Response, g, request

from portal.clock import Clock

log = structlog.get_logger("portal.web")


def install_access_log(app: Flask, clock: Clock) -> None:
    """Log method, path, status and milliseconds once the answer is ready."""

    @app.before_request
    def note_start() -> None:
        g.started_seconds = clock.monotonic_seconds()

    @app.after_request
    def log_request(response: Response) -> Response:
        started = g.get("started_seconds", clock.monotonic_seconds())
        log.info(
            "request",
            method=request.method,
            path=quote(request.path),  # what is decoded may hold terminal control characters
            status=response.status_code,
            milliseconds=round(1000 * (clock.monotonic_seconds() - started), 1),
        )
        return response
