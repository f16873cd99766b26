"""The outbox: what is owed to visitors, and the sender that empties it.

A message is owed from the transaction that records the outcome, so that no crash can forget it. It is sent in this
order: `mail.eml` on disk, the transport, `mail.sent` on disk, the commit. A crash between any two of them leads at
worst to the very same message again, with the same Message-ID.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session, aliased

from portal.clock import Clock, utc_text
from portal.database import Database
from portal.errors import MailError, StaleEpochError, StorageError
from portal.jobs.directory import FILE_MODE, AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.job_files import read_job_file
from portal.jobs.keys import Keys
from portal.jobs.models import Job, MailOutbox
from portal.jobs.store import JobRecord, load_record
from portal.mail.facts import Site
from portal.mail.facts import mail_domain as mail_domain
from portal.mail.message import Outcome, build_message, message_id, one_line, parse_message
from portal.mail.transport import Transport
from portal.node.durable import write_durably
from portal.settings import Settings

log = structlog.get_logger()

BATCH = 50
FIRST_RETRY_SECONDS = 10
LAST_RETRY_SECONDS = 3600

_NODE_NOTE = "mail.sent"
_NOTE_MAX_BYTES = 64 * 1024
_ERROR_MAX_CHARACTERS = 500
_CAP_PERIOD = timedelta(hours=1)


def owe_mail(session: Session, job: Job, outcome: str, now: datetime, domain: str, not_before: datetime) -> None:
    """Put the message about this outcome of the job's current attempt into the outbox, unless it is there.

    `outcome` is succeeded, failed, cancelled or corrected (ValueError otherwise). It goes out at `not_before`.
    """
    kind = Outcome(str(outcome))
    known = exists().where(
        MailOutbox.job_id == job.job_id,
        MailOutbox.attempt_number == job.attempt_number,
        MailOutbox.outcome == kind.value,
    )
    if session.scalar(select(known)):
        return
    session.add(
        MailOutbox(
            job_id=job.job_id,
            attempt_number=job.attempt_number,
            outcome=kind.value,
            recipient=job.email,
            message_id=message_id(job.job_id, job.attempt_number, kind, domain),
            created_at=now,
            next_try_at=not_before,
            tries=0,
        )
    )


def prepare_node_mail(
    record: JobRecord,
    directory: JobDirectory,
    settings: Settings,
    keys: Keys,
    clock: Clock,
    application_title: Callable[[str], str],
) -> None:
    """Write the current attempt's `mail.eml` for a node that mails the success itself; one that is there stays.

    It cannot know the answer, so it says that the job is done and where to look. Raises OSError, and ValueError
    where an address is none.
    """
    number = record.job.attempt_number
    mail_id = message_id(record.job.job_id, number, Outcome.SUCCEEDED, mail_domain(settings))
    attempt = directory.attempt(number)
    if _prepared(attempt.mail, mail_id) is not None:
        return
    site = Site(settings, keys, application_title)
    facts = site.facts_before_the_end(record, mail_id, clock.now_utc())
    write_durably(str(attempt.mail), build_message(facts).as_bytes(), FILE_MODE)


@dataclass(frozen=True)
class _Owed:
    """One due row with what is needed to send it."""

    row: MailOutbox
    record: JobRecord
    corrected_since: bool
    """The failure that it tells was corrected before it could be told."""
    held_until: datetime | None
    """When the person's hourly cap lets it out; None where it may go now."""


class OutboxSender:
    """Empties the outbox. One is active at a time, in the dispatcher's process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        folder: JobsFolder,
        keys: Keys,
        clock: Clock,
        transport: Transport,
        application_title: Callable[[str], str],
        guard: Callable[[Session], None] | None = None,
    ) -> None:
        """`guard` is called in each transaction and raises StaleEpochError once a newer dispatcher has taken over."""
        self._settings = settings
        self._database = database
        self._folder = folder
        self._clock = clock
        self._transport = transport
        self._site = Site(settings, keys, application_title)
        self._guard = guard or _no_guard

    def run(self, stop: threading.Event, wake_seconds: float) -> None:
        """Send what falls due until `stop` is set, or a newer dispatcher has taken over.

        Whatever fails is logged and tried again after `wake_seconds`: mail must not end because the database was
        away for a while.
        """
        while not stop.is_set():
            try:
                if self.send_due(stop):
                    continue
            except StaleEpochError:
                log.warning("a newer dispatcher sends the mail now")
                return
            except StorageError as error:
                log.warning("the outbox cannot be read or written", error=str(error))
            except Exception:
                log.exception("the outbox failed")
            stop.wait(wake_seconds)

    def send_due(self, stop: threading.Event | None = None) -> int:
        """Take a batch of the rows that are due, oldest first; how many were handed over and committed as sent.

        What fails is put off or refused in its row and does not hold up the others. Raises StorageError where the
        database fails and StaleEpochError from the guard; a message that was handed over just before is then not
        sent again, because `mail.sent` says so.
        """
        handed_over = 0
        for mail_id in self._due():
            if stop is not None and stop.is_set():
                break
            handed_over += self._settle(mail_id)
        return handed_over

    def _due(self) -> list[int]:
        earlier = aliased(MailOutbox)
        # One job's messages keep their order: a correction must not come before what it corrects.
        waits_for_another = exists().where(
            earlier.job_id == MailOutbox.job_id,
            earlier.mail_id < MailOutbox.mail_id,
            earlier.sent_at.is_(None),
            earlier.refused_at.is_(None),
        )
        query = (
            select(MailOutbox.mail_id)
            .where(
                MailOutbox.sent_at.is_(None),
                MailOutbox.refused_at.is_(None),
                MailOutbox.next_try_at <= self._clock.now_utc(),
                ~waits_for_another,
            )
            .order_by(MailOutbox.mail_id)
            .limit(BATCH)
        )
        with self._database.reading() as session:
            return list(session.scalars(query))

    def _settle(self, mail_id: int) -> bool:
        """Bring one row forward; True where it is sent."""
        owed = self._load(mail_id)
        if owed is None:
            return False
        try:
            sent = self._was_sent(owed) or self._send(owed)
        except (StaleEpochError, StorageError):
            raise
        except MailError as error:
            self._note_failure(owed, str(error), permanent=error.permanent)
            return False
        except OSError as error:
            self._note_failure(owed, f"{error.strerror}: {error.filename}", permanent=False)
            return False
        except Exception as error:
            # A mistake of ours that one message brings to light must not hold up everybody else's.
            log.exception("a message could not be made", **_names(owed.row))
            self._note_failure(owed, f"{type(error).__name__}: {error}", permanent=False)
            return False
        if sent:
            self._commit_sent(owed.row)
        elif owed.held_until is not None:
            self._hold(owed, owed.held_until)
        return sent

    def _load(self, mail_id: int) -> _Owed | None:
        """The row with its job; None where it has been deleted or settled since the batch was taken."""
        now = self._clock.now_utc()
        with self._database.reading() as session:
            self._guard(session)
            row = session.get(MailOutbox, mail_id)
            record = load_record(session, row.job_id) if row else None
            if row is None or record is None or row.sent_at or row.refused_at or row.next_try_at > now:
                return None
            return _Owed(row, record, _corrected_since(session, row), self._held_until(session, record, now))

    def _held_until(self, session: Session, record: JobRecord, now: datetime) -> datetime | None:
        cap = self._settings.limits.mails_per_hour_per_person
        nth_newest = session.scalar(
            select(MailOutbox.sent_at)
            .join(Job, Job.job_id == MailOutbox.job_id)
            .where(Job.owner == record.job.owner, MailOutbox.sent_at > now - _CAP_PERIOD)
            .order_by(MailOutbox.sent_at.desc())
            .offset(cap - 1)
            .limit(1)
        )
        return nth_newest + _CAP_PERIOD if nth_newest else None

    def _was_sent(self, owed: _Owed) -> bool:
        """Whether somebody says that it went out: a sender before its crash, or the node."""
        attempt = self._attempt(owed.row)
        if owed.row.message_id in _read(attempt.mail_sent).decode("utf-8", "replace").split():
            return True
        told_by_node = self._settings.mail.sent_by == "node" and owed.row.outcome == Outcome.SUCCEEDED
        return told_by_node and read_job_file(attempt.work, _NODE_NOTE, _NOTE_MAX_BYTES) is not None

    def _send(self, owed: _Owed) -> bool:
        """Hand it over, unless the cap holds it. Raises MailError and OSError, before it has gone out."""
        if owed.held_until is not None:
            return False
        attempt = self._attempt(owed.row)
        file = self._file(owed.row, attempt)
        data = _prepared(file, owed.row.message_id)
        if data is None:
            data = self._render(owed, attempt)
            write_durably(str(file), data, FILE_MODE)
        self._require()
        self._transport.send(parse_message(data))
        self._note_sent(owed.row, attempt)
        return True

    def _require(self) -> None:
        """Raise StaleEpochError where a newer dispatcher is: it may have sent this already, and in other words."""
        with self._database.reading() as session:
            self._guard(session)

    def _file(self, row: MailOutbox, attempt: AttemptDirectory) -> Path:
        """`mail.eml`; where nodes mail, only a success's: one that was thought dead may yet send what lies there."""
        if self._settings.mail.sent_by == "node" and row.outcome != Outcome.SUCCEEDED:
            return attempt.mail.with_name(f"mail-{row.outcome}.eml")
        return attempt.mail

    def _render(self, owed: _Owed, attempt: AttemptDirectory) -> bytes:
        facts = self._site.facts(
            owed.record,
            owed.row.attempt_number,
            Outcome(owed.row.outcome),
            message_id=owed.row.message_id,
            now=self._clock.now_utc(),
            work=attempt.work,
            corrected_since=owed.corrected_since,
        )
        return build_message(replace(facts, recipient=owed.row.recipient)).as_bytes()

    def _note_sent(self, row: MailOutbox, attempt: AttemptDirectory) -> None:
        line = f"{utc_text(self._clock.now_utc())} {row.message_id}\n"
        try:
            write_durably(str(attempt.mail_sent), _read(attempt.mail_sent) + line.encode(), FILE_MODE)
        except OSError as error:
            # It has gone out all the same, and the row is about to say so.
            log.warning("mail.sent could not be written", error=str(error), **_names(row))

    def _commit_sent(self, row: MailOutbox) -> None:
        self._update(row, sent_at=self._clock.now_utc(), last_error=None)
        log.info("mail sent", **_names(row))

    def _note_failure(self, owed: _Owed, reason: str, *, permanent: bool) -> None:
        row, now = owed.row, self._clock.now_utc()
        shown = one_line(reason)[:_ERROR_MAX_CHARACTERS]
        tries = row.tries + 1
        if permanent:
            self._update(row, tries=tries, last_error=shown, refused_at=now)
            log.error("mail refused for good", error=shown, **_names(row))
            return
        next_try_at = now + timedelta(seconds=back_off_seconds(tries))
        self._update(row, tries=tries, last_error=shown, next_try_at=next_try_at)
        log.warning("mail not sent yet", error=shown, next_try_at=utc_text(next_try_at), **_names(row))

    def _hold(self, owed: _Owed, until: datetime) -> None:
        """Put off all that is due to this person, in one go, so that it stays in order and out of the next batches."""
        of_this_person = select(Job.job_id).where(Job.owner == owed.record.job.owner)
        with self._database.writing() as session:
            self._guard(session)
            session.execute(
                update(MailOutbox)
                .where(
                    MailOutbox.job_id.in_(of_this_person),
                    MailOutbox.sent_at.is_(None),
                    MailOutbox.refused_at.is_(None),
                    MailOutbox.next_try_at < until,
                )
                .values(next_try_at=until)
            )
        log.info("mail held: limits.mails_per_hour_per_person", until=utc_text(until), **_names(owed.row))

    def _update(self, row: MailOutbox, **values: object) -> None:
        with self._database.writing() as session:
            self._guard(session)
            session.execute(update(MailOutbox).where(MailOutbox.mail_id == row.mail_id).values(**values))

    def _attempt(self, row: MailOutbox) -> AttemptDirectory:
        return self._folder.job(row.job_id).attempt(row.attempt_number)


def _no_guard(_session: Session) -> None:
    """For a sender that nobody can take over from."""


def back_off_seconds(tries: int) -> int:
    """How long to wait after so many failures: 10 s, 20 s, 40 s … at most an hour."""
    doublings = min(tries - 1, 16)
    return min(FIRST_RETRY_SECONDS << doublings, LAST_RETRY_SECONDS)


def _corrected_since(session: Session, row: MailOutbox) -> bool:
    if row.outcome != Outcome.FAILED:
        return False
    correction = exists().where(
        MailOutbox.job_id == row.job_id,
        MailOutbox.attempt_number == row.attempt_number,
        # A node's own word of a success is the correction where nodes mail.
        MailOutbox.outcome.in_((Outcome.CORRECTED.value, Outcome.SUCCEEDED.value)),
    )
    return bool(session.scalar(select(correction)))


def _prepared(file: Path, mail_id: str) -> bytes | None:
    """The bytes of the file where it is this very message: a repeat must not differ from what may have gone out."""
    data = _read(file)
    return data if data and parse_message(data)["Message-ID"] == mail_id else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _names(row: MailOutbox) -> dict[str, object]:
    return {"job_id": row.job_id, "attempt": row.attempt_number, "outcome": row.outcome}
