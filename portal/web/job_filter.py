"""The filter of the administrator's list of jobs: as it is typed, as the services take it, and as a command."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

from portal.clock import parse_utc_text
from portal.errors import InvalidInputError
from portal.jobs.quantities import parse_moment, parse_node
from portal.jobs.selection import UNFINISHED, Cursor, JobFilter
from portal.jobs.states import FailureReason, JobState

FIELDS = ("state", "failure", "node", "application", "owner", "since", "until")
STATES: dict[str, tuple[str, tuple[JobState, ...]]] = {
    "failed": ("Failed", (JobState.FAILED,)),
    "cancelled": ("Cancelled", (JobState.CANCELLED,)),
    "unfinished": ("Not ended", UNFINISHED),
    "succeeded": ("Done", (JobState.SUCCEEDED,)),
    "any": ("Any", ()),
}
"""What can be chosen; the first is what an administrator looks for."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class TypedFilter:
    """What stands in the fields."""

    texts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "TypedFilter":
        """The filter's fields of all that came, without the empty ones."""
        # No database keeps a NUL in a text, so that nothing has one.
        texts = {name: given.get(name, "").replace("\0", "").strip() for name in FIELDS}
        return cls({name: text for name, text in texts.items() if text})

    @classmethod
    def of_query(cls, query: str) -> "TypedFilter":
        """What `as_query` gave."""
        return cls.of(dict(parse_qsl(query)))

    @property
    def state(self) -> str:
        """The chosen state, if it is one."""
        chosen = self.texts.get("state", "")
        return chosen if chosen in STATES else next(iter(STATES))

    @property
    def is_of_unfinished(self) -> bool:
        """Whether it is about jobs that have not ended."""
        return self.state == "unfinished"

    def as_query(self) -> str:
        """For an address."""
        return urlencode(self.texts)

    def as_command(self) -> str:
        """`portal resubmit` with the same filter, to be copied; empty where the command has no such filter."""
        is_about_failures = self.state in ("failed", "cancelled")
        if not is_about_failures and (not self.is_of_unfinished or "failure" in self.texts):
            return ""
        words = ["portal", "resubmit"]
        if self.is_of_unfinished:
            words.append("--unfinished")
        elif self.state != "failed" or set(self.texts) <= {"state"}:
            words += ["--state", self.state]
        for name in FIELDS[1:]:
            if name in self.texts:
                words += [f"--{name}", self.texts[name]]
        return shlex.join(words)

    def parse(self, now: datetime) -> JobFilter:
        """The filter. Raises InvalidInputError, which names each field that is wrong and says what would be right."""
        mistakes: dict[str, str] = {}

        def read(name: str, parse: Callable[[str], _T]) -> _T | None:
            text = self.texts.get(name)
            if text is None:
                return None
            try:
                return parse(text)
            except ValueError as error:
                mistakes[name] = f"{name.capitalize()}: {error}."
                return None

        read("state", _state)
        wanted = JobFilter(
            states=STATES[self.state][1],
            failure=read("failure", _failure),
            node=read("node", parse_node),
            application=self.texts.get("application"),
            owner=self.texts.get("owner", "").lower() or None,
            since=read("since", lambda text: parse_moment(text, now)),
            until=read("until", lambda text: parse_moment(text, now)),
        )
        if mistakes:
            raise InvalidInputError(mistakes)
        return wanted


def _state(text: str) -> str:
    if text not in STATES:
        raise ValueError(f"{text!r} should be one of {', '.join(STATES)}")
    return text


def _failure(text: str) -> FailureReason:
    try:
        return FailureReason(text)
    except ValueError:
        raise ValueError(f"{text!r} should be one of {', '.join(FailureReason)}") from None


def cursor_text(created_at: datetime, job_id: str) -> str:
    """Where a page ends, for the address of the next one."""
    return f"{created_at.replace(tzinfo=None).isoformat(timespec='microseconds')}Z,{job_id}"


def parse_cursor(text: str) -> Cursor | None:
    """What `cursor_text` gave; None for anything else, which is the first page."""
    moment, _, job_id = text.partition(",")
    try:
        return Cursor(parse_utc_text(moment), job_id) if job_id else None
    except ValueError:
        return None
