"""What the log looks like: one line an event on stderr, `TIME level event key=value …`, in UTC.

Everything goes through here, the web server's and other libraries' logging as well. Values may come from visitors:
control characters are shown as escapes, line breaks too, so that nobody can forge a line or drive a terminal. Keys of
mailed links, and values under names such as `token`, are left out.
"""

import logging
import re
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from portal.clock import SystemClock, utc_text
from portal.jobs.words import visible

_SECRET_NAMES = frozenset({"access_key", "authorization", "cookie", "key", "password", "secret", "secret_key", "token"})
_KEY_IN_ADDRESS = re.compile(r"([?&](?:key|token)=)[^&\s'\"]+")
_QUIET_LIBRARIES = ("alembic", "paramiko")
"""They say at each start what is of no use to an administrator."""


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is stderr at that moment: tests and gunicorn put another in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(level: int = logging.INFO) -> None:
    """Send structlog and the standard library's logging to stderr. Can be called again."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render_event],
    )
    handler = _Stderr()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Stderr)), handler]
    root.setLevel(level)
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def render_event(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """The event as one line; a traceback follows, indented, so that none of its lines looks like an event."""
    moment = utc_text(SystemClock().now_utc())
    level = event.pop("level", "info")
    text = one_line(event.pop("event", ""))
    traceback = event.pop("exception", None)
    pairs = "".join(f" {name}={_value(name, value)}" for name, value in sorted(event.items()))
    line = f"{moment} {level:<7} {text}{pairs}"
    if not traceback:
        return line
    return "\n".join([line, *(f"    {one_line(part)}" for part in str(traceback).split("\n"))])


def one_line(value: object) -> str:
    """`value` in one line that a terminal can be shown, without the keys of links."""
    text = _KEY_IN_ADDRESS.sub(r"\1…", str(value))
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _value(name: str, value: object) -> str:
    if name in _SECRET_NAMES:
        return "…"
    text = one_line(value)
    return text if text and not re.search(r"[\s\"=]", text) else '"' + text.replace('"', '\\"') + '"'
