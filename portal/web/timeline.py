"""The line of time of a job: one bar for each try, waiting and running to one scale."""

from dataclasses import dataclass
from datetime import datetime

from portal.jobs.models import Attempt
from portal.jobs.states import FAILURE_WORDS, WORDS, JobState
from portal.jobs.store import JobRecord
from portal.jobs.words import resubmitter_words
from portal.web.pages import TONES, duration

WIDTH = 1000.0
"""The length of the longest bar, in the units of the drawing."""

_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth")
_LEAST = 8.0
_CAP = 14.0
_ROOM_TO_GROW = 0.85
"""Of the width, for bars of a job that goes on."""


@dataclass(frozen=True)
class Segment:
    """A piece of a bar."""

    x: float
    width: float
    tone: str


@dataclass(frozen=True)
class Bar:
    """One try."""

    label: str
    segments: tuple[Segment, ...]
    words: str
    """What the bar shows, in words: `waited 1 min 29 s, ran 18 s`."""
    asked: str = ""
    """Why there is this try, where it is not the first: who asked for it."""
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class _Spans:
    waited_seconds: float
    ran_seconds: float | None

    @property
    def total_seconds(self) -> float:
        return self.waited_seconds + (self.ran_seconds or 0.0)


def draw_timeline(record: JobRecord, now: datetime) -> list[Bar]:
    """The bars of all tries, first to last."""
    spans = [_spans(attempt, now) for attempt in record.attempts]
    longest = max((span.total_seconds for span in spans), default=0.0) or 1.0
    usable = WIDTH * (1.0 if record.job.state.is_final else _ROOM_TO_GROW)
    return [
        Bar(
            _label(attempt),
            _segments(attempt, span, (usable - _CAP) / longest),
            _words(attempt, span),
            _asked(record, attempt),
            attempt.started_at,
            attempt.ended_at,
        )
        for attempt, span in zip(record.attempts, spans, strict=True)
    ]


def _asked(record: JobRecord, attempt: Attempt) -> str:
    """By the event that opened the try; empty for the first one, which the visitor sent in."""
    if attempt.number == 1:
        return ""
    opening = next(
        (
            event
            for event in record.events
            if event.attempt_number == attempt.number and event.to_state is JobState.ACCEPTED
        ),
        None,
    )
    if opening is None or opening.source != "wish":
        return "opened by the portal"
    return f"asked for by {resubmitter_words(opening.by, record.job.owner)}"


def _spans(attempt: Attempt, now: datetime) -> _Spans:
    """How long it waited and ran; clocks of nodes may differ, so that nothing is ever less than no time."""
    end = attempt.ended_at or now
    if attempt.started_at is None:
        return _Spans(max(0.0, (end - attempt.created_at).total_seconds()), None)
    return _Spans(
        max(0.0, (attempt.started_at - attempt.created_at).total_seconds()),
        max(0.0, (end - attempt.started_at).total_seconds()),
    )


def _segments(attempt: Attempt, spans: _Spans, per_second: float) -> tuple[Segment, ...]:
    waited = Segment(0.0, round(max(_LEAST, spans.waited_seconds * per_second), 1), "wait")
    segments = [waited]
    if spans.ran_seconds is not None:
        segments.append(Segment(waited.width, round(max(_LEAST, spans.ran_seconds * per_second), 1), "run"))
    if attempt.state.is_final:
        end = segments[-1].x + segments[-1].width
        segments.append(Segment(round(min(end, WIDTH - _CAP), 1), _CAP, TONES[attempt.state]))
    return tuple(segments)


def _label(attempt: Attempt) -> str:
    number = attempt.number
    name = f"{_ORDINALS[number - 1]} try" if number <= len(_ORDINALS) else f"Try {number}"
    return f"{name}, {attempt.node}" if attempt.node else name


def _words(attempt: Attempt, spans: _Spans) -> str:
    waited = f"waited {duration(spans.waited_seconds)}"
    parts = [waited] if spans.ran_seconds is None else [waited, f"ran {duration(spans.ran_seconds)}"]
    if attempt.state.is_final:
        reason = attempt.failure_reason
        parts.append((FAILURE_WORDS[reason] if reason else WORDS[attempt.state]).lower())
    elif attempt.state is not JobState.RUNNING:
        parts = [f"waiting for {duration(spans.waited_seconds)}"]
    else:
        parts[-1] = f"running for {duration(spans.ran_seconds or 0.0)}"
    return ", ".join(parts)
