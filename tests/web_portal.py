"""A portal for tests of its pages: real folders, a real database, Flask's test client, and jobs in any state."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from portal.app import Parts, build_parts, create_app
from portal.jobs.acceptance import Submission
from portal.jobs.models import Attempt, Job, JobResult, SchedulerHealth
from portal.jobs.rows import scheduler_name
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import Change, change_state
from portal.settings import LimitsSection, MailSection, PortalSection, SchedulerSection, Settings
from portal.shipped import shipped_dir

EMAIL = "ann@example.org"
START = datetime(2026, 11, 24, 6, 0, 0, tzinfo=UTC)

EVERYTHING = """
title = "Everything <b>at once</b>"
description = "Has a parameter of every type."
submit_label = "Try"
[[parameters]]
name = "count"
type = "integer"
label = "Count"
minimum = 1
maximum = 10
default = 3
group = "Numbers"
[[parameters]]
name = "ratio"
type = "number"
label = "Ratio"
unit = "mm"
default = 0.5
group = "Numbers"
[[parameters]]
name = "title"
type = "text"
label = "Title"
required = false
max_length = 80
[[parameters]]
name = "sequence"
type = "longtext"
label = "Sequence"
help = "FASTA, please."
[[parameters]]
name = "database"
type = "choice"
label = "Database"
choices = ["small", { value = "large", label = "The <large> one" }]
default = "small"
[[parameters]]
name = "strict"
type = "boolean"
label = "Be strict"
default = true
[[parameters]]
name = "query"
type = "file"
label = "Query file"
required = false
maximum_mib = 1
[[outputs]]
path = "hits.tsv"
title = "Hit table"
kind = "table"
[[outputs]]
path = "out/plot.svg"
title = "Plot"
kind = "image"
"""


class HandClock:
    """A clock whose hands are turned by the test."""

    def __init__(self) -> None:
        self.now = START

    def now_utc(self) -> datetime:
        return self.now

    def monotonic_seconds(self) -> float:
        return (self.now - START).total_seconds()

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class WebPortal:
    """One portal and one browser."""

    parts: Parts
    app: Flask
    clock: HandClock
    browser: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        self.browser = self.app.test_client()

    def form_fields(self, application: str = "slow_div", browser: FlaskClient | None = None) -> dict[str, str]:
        """The hidden fields of a fresh form."""
        page = (browser or self.browser).get(f"/applications/{application}").get_data(as_text=True)
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))

    def send(
        self, fields: Mapping[str, Any], application: str = "slow_div", browser: FlaskClient | None = None
    ) -> TestResponse:
        """Fill in the form and send it, as a browser does. A field of None is left out."""
        data = {"email": EMAIL, **self.form_fields(application, browser), **fields}
        return (browser or self.browser).post(
            f"/applications/{application}/jobs", data={k: v for k, v in data.items() if v is not None}
        )

    def send_division(self, x: object = "8", y: object = "2", **more: Any) -> TestResponse:
        return self.send({"x": x, "y": y, **more})

    def job(self, x: str = "8", y: str = "2") -> str:
        """A job that the browser has sent in; its id."""
        response = self.send_division(x, y)
        assert response.status_code == 303, response.get_data(as_text=True)
        return str(response.location).rpartition("/")[2]

    def foreign_job(self) -> str:
        """A job that nobody's browser has sent in; its id."""
        return self.parts.jobs.submit(Submission("slow_div", {"x": "8", "y": "2"}, EMAIL)).job_id

    def move(
        self,
        job_id: str,
        *states: JobState,
        reason: FailureReason | None = None,
        detail: str = "The node wrote it.",
        answer: str | None = None,
        **attempt_values: Any,
    ) -> None:
        """Take the job through `states`, each a little later, as the dispatcher would."""
        with self.parts.database.writing() as session:
            job = session.get_one(Job, job_id)
            attempt = session.get_one(Attempt, (job_id, job.attempt_number))
            for state in states:
                self.clock.advance(3)
                change = Change(self.clock.now, "scheduler", detail)
                change_state(session, job, attempt, state, change, reason if state is JobState.FAILED else None)
            for name, value in attempt_values.items():
                setattr(attempt, name, value)
            if states[-1] is JobState.SUCCEEDED:
                session.add(JobResult(job_id=job_id, attempt_number=job.attempt_number, answer=answer))

    def run_again(self, job_id: str) -> None:
        """Open another attempt, as the dispatcher does after a node failure."""
        with self.parts.database.writing() as session:
            job = session.get_one(Job, job_id)
            old = session.get_one(Attempt, (job_id, job.attempt_number))
            old.state, old.failure_reason, old.ended_at = JobState.FAILED, FailureReason.NODE_FAILURE, self.clock.now
            job.attempt_number += 1
            name = scheduler_name(self.parts.folder.instance(), job_id, job.attempt_number)
            session.add(
                Attempt(
                    job_id=job_id,
                    number=job.attempt_number,
                    state=JobState.ACCEPTED,
                    scheduler_name=name,
                    created_at=self.clock.now,
                )
            )
            job.state = JobState.ACCEPTED
            job.version += 1

    def work(self, job_id: str, attempt: int = 1) -> Path:
        """The working directory of an attempt, made if need be."""
        directory = self.parts.folder.job(job_id).attempt(attempt)
        directory.make()
        return directory.work

    def hear_from_scheduler(
        self,
        *,
        silent_since: datetime | None = None,
        accounting_silent_since: datetime | None = None,
        running: int = 14,
        waiting: int = 6,
    ) -> None:
        """What a dispatcher would have written down just now."""
        with self.parts.database.writing() as session:
            session.merge(
                SchedulerHealth(
                    row_id=1,
                    asked_at=self.clock.now,
                    answered_at=silent_since or self.clock.now,
                    silent_since=silent_since,
                    accounting_silent_since=accounting_silent_since,
                    detail="",
                    running=running,
                    waiting=waiting,
                )
            )

    def job_folders(self) -> list[str]:
        """What lies in the jobs folder for people's jobs: nothing, where nothing was taken in."""
        return sorted(path.name for path in self.parts.folder.root.iterdir() if not path.name.startswith("."))


def make_portal(
    folder: Path,
    *,
    templates_dir: Path | None = None,
    portal: Mapping[str, Any] | None = None,
    mail: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> WebPortal:
    """A portal whose data lie in `folder`."""
    settings = Settings(
        portal=PortalSection(
            jobs_dir=folder / "jobs",
            database_url=f"sqlite:///{folder / 'portal.db'}",
            templates_dir=templates_dir or shipped_dir("job_templates"),
            **(portal or {}),
        ),
        mail=MailSection(folder=folder / "mail", **(mail or {})),
        scheduler=SchedulerSection.model_validate(scheduler or {}),
        limits=LimitsSection(**(limits or {})),
    )
    clock = HandClock()
    parts = build_parts(settings, clock)
    return WebPortal(parts, create_app(settings, parts), clock)


def make_everything(folder: Path) -> Path:
    """A templates folder with an application that has a parameter of every type, beside `slow_div`; its path."""
    templates = folder / "templates"
    everything = templates / "everything"
    (everything / "examples").mkdir(parents=True)
    (everything / "application.toml").write_text(EVERYTHING)
    (everything / "program.sh.j2").write_text('cat "$input_sequence"\n')
    (everything / "results.html.j2").write_text('<p class="hits">Hits: {{ answer }} for {{ inputs.title }}</p>\n')
    (everything / "examples" / "short.toml").write_text('title = "Short"\n[inputs]\ncount = 7\nstrict = false\n')
    (templates / "slow_div").symlink_to(shipped_dir("job_templates") / "slow_div")
    return templates
