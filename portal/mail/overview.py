"""The outbox as an administrator looks at it: what waits, what was refused, what went wrong."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from portal.database import Database
from portal.jobs.models import MailOutbox

MOST_ROWS = 100


@dataclass(frozen=True)
class OutboxOverview:
    """The outbox in three lists, each at most MOST_ROWS long, with how many there are in all."""

    waiting: list[MailOutbox]
    """Oldest first."""
    waiting_count: int
    refused: list[MailOutbox]
    """Newest first: the mail server said that it will never take them."""
    refused_count: int
    sent: list[MailOutbox]
    """Newest first."""
    sent_count: int


def outbox_overview(database: Database) -> OutboxOverview:
    """The outbox as it is now. Raises StorageError."""
    waits = (MailOutbox.sent_at.is_(None), MailOutbox.refused_at.is_(None))
    was_refused, was_sent = (MailOutbox.refused_at.is_not(None),), (MailOutbox.sent_at.is_not(None),)
    with database.reading() as session:
        return OutboxOverview(
            waiting=_rows(session, waits, MailOutbox.created_at),
            waiting_count=_count(session, waits),
            refused=_rows(session, was_refused, MailOutbox.refused_at.desc()),
            refused_count=_count(session, was_refused),
            sent=_rows(session, was_sent, MailOutbox.sent_at.desc()),
            sent_count=_count(session, was_sent),
        )


def _rows(session: Session, conditions: tuple[ColumnElement[bool], ...], order: object) -> list[MailOutbox]:
    query = select(MailOutbox).where(*conditions).order_by(order).limit(MOST_ROWS)  # type: ignore[arg-type]
    return list(session.scalars(query))


def _count(session: Session, conditions: tuple[ColumnElement[bool], ...]) -> int:
    return session.scalar(select(func.count()).select_from(MailOutbox).where(*conditions)) or 0
