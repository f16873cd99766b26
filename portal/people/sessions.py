"""Browser sessions as rows on the server.

The browser holds a random session key in its signed cookie; the database holds only the key's hash. A row is made
when a session first sends something in, so that visitors who only look leave nothing behind.
"""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from portal.database import Base, Database, UtcDateTime

LIFETIME = timedelta(days=365)


class BrowserSession(Base):
    """One browser that has sent in a job."""

    __tablename__ = "sessions"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of the key in the cookie, as hex digits."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


def new_session_key() -> str:
    """A fresh random key for a cookie."""
    return secrets.token_urlsafe(16)


def session_id_of(key: str) -> str:
    """The id under which the database knows the session of this key."""
    return hashlib.sha256(key.encode()).hexdigest()


def remember_session(session: Session, session_id: str, now: datetime) -> None:
    """Make sure that the session has a row, and that it lasts from now."""
    row = session.get(BrowserSession, session_id)
    if row is None:
        session.add(BrowserSession(session_id=session_id, created_at=now, expires_at=now + LIFETIME))
    else:
        row.expires_at = now + LIFETIME


def is_live(session: Session, session_id: str, now: datetime) -> bool:
    """Whether there is such a session and it has not expired."""
    row = session.get(BrowserSession, session_id)
    return row is not None and row.expires_at > now


def live_session_id(database: Database, key: str, now: datetime) -> str | None:
    """The id of the session that this key opens, or None where it has none or it has expired."""
    session_id = session_id_of(key)
    with database.reading() as session:
        return session_id if is_live(session, session_id, now) else None


def keep_session(database: Database, session_id: str, now: datetime) -> None:
    """Make sure that the session has a row that lasts from now, in a transaction of its own."""
    with database.writing() as session:
        remember_session(session, session_id, now)


def forget_expired(session: Session, now: datetime) -> None:
    """Drop the sessions that let nobody in any more."""
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now))
