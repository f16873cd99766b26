"""A portal just large enough to owe mail: a database, a jobs folder, a clock that tests turn, and no dispatcher."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from portal.database import Database
from portal.errors import NotFoundError
from portal.jobs.directory import AttemptDirectory, JobsFolder
from portal.jobs.ids import new_job_id
from portal.jobs.job_config import JobConfig
from portal.jobs.keys import Keys
from portal.jobs.models import Job, JobResult, MailOutbox
from portal.jobs.rows import insert_job
from portal.jobs.states import FailureReason, JobState
from portal.jobs.store import Change, JobRecord, change_state, load_record
from portal.mail.outbox import OutboxSender, mail_domain, owe_mail
from portal.mail.transport import Transport
from portal.settings import LimitsSection, MailSection, PortalSection, Settings

START = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)


class FakeClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = START

    def now_utc(self) -> datetime:
        return self.now

    def monotonic_seconds(self) -> float:
        return (self.now - START).total_seconds()

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class KeptMail:
    """A transport that keeps what it is given; `refusal` is raised instead where there is one."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.refusal: Exception | None = None

    def send(self, message: EmailMessage) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.messages.append(message)

    def ids(self) -> list[str]:
        return [str(message["Message-ID"]) for message in self.messages]

    def texts(self) -> list[str]:
        return [plain_text(message) for message in self.messages]


class Bench:
    """Accepts jobs, ends them, and owes the mail, as the service and the dispatcher do."""

    def __init__(
        self,
        tmp_path: Path,
        mail: MailSection | None = None,
        mails_per_hour: int = 60,
        for_everybody: int = 1000,
        database_url: str | None = None,
    ) -> None:
        self.settings = Settings(
            portal=PortalSection(base_url="https://portal.example.org", site_name="Portal"),
            mail=mail or MailSection(folder=tmp_path / "mail"),
            limits=LimitsSection(mails_per_hour_per_person=mails_per_hour, mails_per_hour=for_everybody),
        )
        self.clock = FakeClock()
        self.database = Database(database_url or f"sqlite:///{tmp_path}/portal.db")
        self.database.upgrade()
        self.folder = JobsFolder(tmp_path / "jobs")
        self.folder.prepare()
        self.keys = Keys(b"s" * 32)
        self.titles = {"slow_div": "Slow division"}

    def close(self) -> None:
        self.database.close()

    def sender(self, transport: Transport, guard: Callable[[Session], None] | None = None) -> OutboxSender:
        return OutboxSender(
            self.settings,
            self.database,
            self.folder,
            self.keys,
            self.clock,
            transport,
            self.title,
            guard,
        )

    def title(self, application: str) -> str:
        if application not in self.titles:
            raise NotFoundError("There is no such application.")
        return self.titles[application]

    def running_job(self, email: str = "ann@example.org") -> str:
        """A job whose first attempt runs, with its directory."""
        job_id = new_job_id()
        config = JobConfig(
            job_id=job_id,
            email=email,
            owner=email.lower(),
            results_url=f"https://portal.example.org/jobs/{job_id}",
            application="slow_div",
            token=f"token-{job_id}",
            created_at=self.clock.now,
            inputs={"x": "8", "y": "2"},
            resources={"time_limit_minutes": "5", "memory_mib": "256"},
        )
        self.folder.job(job_id).path.mkdir()
        self.attempt(job_id).make()
        with self.database.writing() as session:
            insert_job(session, config, None, "abcdef", source="form")
        for state in (JobState.SUBMITTING, JobState.RUNNING):
            self.move(job_id, state)
        return job_id

    def move(
        self, job_id: str, state: JobState, reason: FailureReason | None = None, answer: str | None = None
    ) -> None:
        """Bring the job into a state, without owing anything."""
        with self.database.writing() as session:
            record = load_record(session, job_id)
            assert record is not None
            change = Change(self.clock.now, "status_file", "as the test has it")
            change_state(session, record.job, record.attempt, state, change, reason)
            if answer is not None:
                session.add(JobResult(job_id=job_id, attempt_number=1, answer=answer, wall_seconds=3.0))

    def owe(self, job_id: str, outcome: str, not_before_seconds: float = 0) -> None:
        with self.database.writing() as session:
            job = session.get(Job, job_id)
            assert job is not None
            not_before = self.clock.now + timedelta(seconds=not_before_seconds)
            owe_mail(session, job, outcome, self.clock.now, mail_domain(self.settings), not_before)

    def done_job(self, email: str = "ann@example.org") -> str:
        """A job that came to 4, and whose mail is owed."""
        job_id = self.running_job(email)
        self.move(job_id, JobState.SUCCEEDED, answer="4")
        self.owe(job_id, "succeeded")
        return job_id

    def attempt(self, job_id: str, number: int = 1) -> AttemptDirectory:
        return self.folder.job(job_id).attempt(number)

    def record(self, job_id: str) -> JobRecord:
        with self.database.reading() as session:
            record = load_record(session, job_id)
        assert record is not None
        return record

    def rows(self) -> list[MailOutbox]:
        with self.database.reading() as session:
            return list(session.scalars(select(MailOutbox).order_by(MailOutbox.mail_id)))

    def row(self) -> MailOutbox:
        [row] = self.rows()
        return row


def plain_text(message: EmailMessage) -> str:
    """The plain text of a message."""
    return _body(message, "plain")


def html_text(message: EmailMessage) -> str:
    """The HTML of a message."""
    return _body(message, "html")


def _body(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")
