"""Rendering: what every page needs besides its own data."""

from datetime import datetime
from typing import Any

from flask import Flask, render_template

from portal.jobs.sizes import size_in_words
from portal.jobs.states import JobState
from portal.web.context import web
from portal.web.scheduler_status import scheduler_status
from portal.web.visitors import signed_in_person

TONES = {
    JobState.ACCEPTED: "wait",
    JobState.SUBMITTING: "wait",
    JobState.QUEUED: "wait",
    JobState.RUNNING: "run",
    JobState.SUCCEEDED: "good",
    JobState.FAILED: "bad",
    JobState.CANCELLED: "idle",
}
"""The colour of a state, as a class of the theme."""


def render_page(template: str, **data: Any) -> str:
    """The page, which may use the scheduler's status and how much of results is brought here, if not all.

    Raises StorageError where the database fails.
    """
    if "scheduler" not in data:
        data["scheduler"] = scheduler_status()
    data["person"] = signed_in_person()
    settings = web().settings
    data["results_mib"] = settings.limits.results_mib if settings.shares_no_files else None
    return render_template(template, now=web().clock.now_utc(), **data)


def install_filters(app: Flask) -> None:
    """What the templates use to write times, durations and sizes."""
    app.jinja_env.filters.update(
        utc_clock=lambda moment: moment.strftime("%H:%M:%S"),
        utc_moment=utc_moment,
        duration=duration,
        file_size=size_in_words,
        tone=TONES.__getitem__,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


def utc_moment(moment: datetime) -> str:
    """`24 Nov 2026, 06:00`."""
    return f"{moment.day} {moment.strftime('%b %Y, %H:%M')}"


def duration(seconds: float) -> str:
    """`18 s`, `4 min 20 s`, `2 h 10 min`, `3 d 4 h`: two units at most."""
    whole = max(0, round(seconds))
    units = [("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    first = next((index for index, (_, number) in enumerate(units) if number), 3)
    return " ".join(f"{number} {unit}" for unit, number in units[first : first + 2] if number) or "0 s"
