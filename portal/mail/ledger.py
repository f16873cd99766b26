"""The rows of the outbox: what is due, whom a limit holds up, and what became of a message."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from portal.clock import Clock
from portal.database import Database
from portal.jobs.models import Job, MailOutbox
from portal.jobs.store import JobRecord, load_record, load_records
from portal.mail.message import Outcome
from portal.settings import LimitsSection

BATCH = 50
DIGEST_MAX_MEMBERS = 1000
"""Of one digest; what is more becomes another one."""
HELD_UP_SECONDS = 60
"""What has been owed for longer was held up by something."""
FIRST_RETRY_SECONDS = 10
LAST_RETRY_SECONDS = 3600
GIVE_UP_TRIES = 128
"""Five days of back-off (RFC 5321, 4.5.4.1, asks for four or five at least)."""

_CAP_PERIOD = timedelta(hours=1)


@dataclass(frozen=True)
class Owed:
    """One row of the outbox with what is needed to send it. Detached: do not change."""

    row: MailOutbox
    record: JobRecord
    corrected_since: bool
    """The failure that it tells was corrected before it could be told."""


class Ledger:
    """Reads and writes the outbox. Every method raises StorageError; what writes, StaleEpochError from the guard."""

    def __init__(
        self, database: Database, clock: Clock, limits: LimitsSection, guard: Callable[[Session], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._guard = guard

    def due(self) -> list[int]:
        """A batch of the rows that are due, oldest first."""
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
            .where(*_is_owed(), MailOutbox.next_try_at <= self._clock.now_utc(), ~waits_for_another)
            .order_by(MailOutbox.mail_id)
            .limit(BATCH)
        )
        with self._database.reading() as session:
            return list(session.scalars(query))

    def require(self) -> None:
        """Raise StaleEpochError where a newer dispatcher is: it may have sent the same already, in other words."""
        with self._database.reading() as session:
            self._guard(session)

    def load(self, mail_id: int) -> Owed | None:
        """The row with its job; None where it has been deleted or settled since the batch was taken."""
        with self._database.reading() as session:
            self._guard(session)
            row = session.get(MailOutbox, mail_id)
            record = load_record(session, row.job_id) if row else None
            if row is None or record is None or row.sent_at or row.refused_at:
                return None
            return (
                None if row.next_try_at > self._clock.now_utc() else Owed(row, record, _corrected_since(session, row))
            )

    def held_up_with(self, owed: Owed) -> list[Owed]:
        """All that is due to this person at this address and is in no digest, oldest first, if any of it was held up.

        Empty where all of it is fresh: mail goes out at once, each outcome by itself.
        """
        now = self._clock.now_utc()
        due = (*_is_owed(), *self._same_person(owed), MailOutbox.next_try_at <= now, MailOutbox.digest_id.is_(None))
        is_held_up = or_(MailOutbox.tries > 0, MailOutbox.created_at < now - timedelta(seconds=HELD_UP_SECONDS))
        with self._database.reading() as session:
            if session.scalar(select(MailOutbox.mail_id).where(*due, is_held_up).limit(1)) is None:
                return []
            query = select(MailOutbox).where(*due).order_by(MailOutbox.mail_id).limit(DIGEST_MAX_MEMBERS)
            return _with_jobs(session, list(session.scalars(query)))

    def of_the_digest(self, digest_id: str) -> list[Owed]:
        """The members of a digest that are still owed, oldest first."""
        query = select(MailOutbox).where(*_is_owed(), MailOutbox.digest_id == digest_id).order_by(MailOutbox.mail_id)
        with self._database.reading() as session:
            return _with_jobs(session, list(session.scalars(query)))

    def next_retry(self, owed: Owed) -> datetime | None:
        """When other mail to this person that the server did not take is tried again; None where there is none."""
        query = select(func.min(MailOutbox.next_try_at)).where(
            *_is_owed(),
            *self._same_person(owed),
            MailOutbox.tries > 0,
            MailOutbox.next_try_at > self._clock.now_utc(),
        )
        with self._database.reading() as session:
            return session.scalar(query)

    def _same_person(self, owed: Owed) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        of_this_person = select(Job.job_id).where(Job.owner == owed.record.job.owner)
        return MailOutbox.job_id.in_(of_this_person), MailOutbox.recipient == owed.row.recipient

    def held_until(self, owner: str | None = None) -> datetime | None:
        """When a limit lets the next message out: this person's, or without one everybody's; None for now.

        A digest counts as one message.
        """
        limits = self._limits
        cap = limits.mails_per_hour if owner is None else limits.mails_per_hour_per_person
        message = func.coalesce(MailOutbox.digest_id, MailOutbox.message_id)
        sent_at = func.max(MailOutbox.sent_at)
        query = select(sent_at).where(MailOutbox.sent_at > self._clock.now_utc() - _CAP_PERIOD)
        if owner is not None:
            query = query.join(Job, Job.job_id == MailOutbox.job_id).where(Job.owner == owner)
        query = query.group_by(message).order_by(sent_at.desc()).offset(cap - 1).limit(1)
        with self._database.reading() as session:
            nth_newest = session.scalar(query)
        return nth_newest + _CAP_PERIOD if nth_newest else None

    def hold(self, owner: str, until: datetime) -> None:
        """Put off all that is due to this person, in one go, so that it stays together and out of the next batches."""
        of_this_person = select(Job.job_id).where(Job.owner == owner)
        self._update(
            MailOutbox.job_id.in_(of_this_person), *_is_owed(), MailOutbox.next_try_at < until, next_try_at=until
        )

    def note_sent(self, rows: Sequence[MailOutbox]) -> None:
        """They have gone out."""
        self._update(_is_one_of(rows), sent_at=self._clock.now_utc(), last_error=None)

    def note_refused(self, rows: Sequence[MailOutbox], error: str) -> None:
        """They are never tried again."""
        self._update(
            _is_one_of(rows),
            *_is_owed(),
            tries=MailOutbox.tries + 1,
            last_error=error,
            refused_at=self._clock.now_utc(),
        )

    def note_failed(self, rows: Sequence[MailOutbox], error: str, next_try_at: datetime) -> None:
        """The server did not take them this time."""
        self._update(_is_one_of(rows), tries=MailOutbox.tries + 1, last_error=error, next_try_at=next_try_at)

    def note_silence(self, rows: Sequence[MailOutbox], error: str) -> None:
        """The server was not there, which says nothing of them: they stay due, and it is no try."""
        self._update(_is_one_of(rows), last_error=error)

    def put_into_digest(self, message_ids: Sequence[str], digest_id: str) -> int:
        """Make these members of the digest, where they are owed and in none; how many are."""
        return self._update(
            MailOutbox.message_id.in_(message_ids), *_is_owed(), MailOutbox.digest_id.is_(None), digest_id=digest_id
        )

    def dissolve(self, digest_id: str) -> None:
        """Its members are in no digest any more."""
        self._update(MailOutbox.digest_id == digest_id, *_is_owed(), digest_id=None)

    def with_message_ids(self, message_ids: Sequence[str]) -> list[MailOutbox]:
        """The rows of these messages that there are."""
        with self._database.reading() as session:
            return list(session.scalars(select(MailOutbox).where(MailOutbox.message_id.in_(message_ids))))

    def _update(self, *conditions: ColumnElement[bool], **values: object) -> int:
        with self._database.writing() as session:
            self._guard(session)
            done = session.execute(update(MailOutbox).where(*conditions).values(**values))
            return int(done.rowcount)  # type: ignore[attr-defined]


def back_off_seconds(tries: int) -> int:
    """How long to wait after so many failures: 10 s, 20 s, 40 s … at most an hour."""
    doublings = min(tries - 1, 16)
    return min(FIRST_RETRY_SECONDS << doublings, LAST_RETRY_SECONDS)


def _with_jobs(session: Session, rows: Sequence[MailOutbox]) -> list[Owed]:
    records = load_records(session, list(dict.fromkeys(row.job_id for row in rows)))
    by_id = {record.job.job_id: record for record in records}
    return [Owed(row, by_id[row.job_id], _corrected_since(session, row)) for row in rows if row.job_id in by_id]


def _is_owed() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return MailOutbox.sent_at.is_(None), MailOutbox.refused_at.is_(None)


def _is_one_of(rows: Sequence[MailOutbox]) -> ColumnElement[bool]:
    return MailOutbox.mail_id.in_([row.mail_id for row in rows])


def _corrected_since(session: Session, row: MailOutbox) -> bool:
    if row.outcome != Outcome.FAILED:
        return False
    correction = exists().where(
        MailOutbox.job_id == row.job_id,
        MailOutbox.attempt_number == row.attempt_number,
        # Where nodes mail, a node's own word of success is the correction.
        MailOutbox.outcome.in_((Outcome.CORRECTED.value, Outcome.SUCCEEDED.value)),
    )
    return bool(session.scalar(select(correction)))
