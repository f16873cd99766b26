"""Browser sessions as rows on the server.

The browser holds random keys in its signed cookie; the database holds only their hashes. There are two kinds. One
that is nobody's gets its row when it first sends something in, so that visitors who only look leave nothing behind.
One that is signed in as a person is made at the sign-in, with a key that nobody can have known before.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from portal.database import Base, Database, UtcDateTime
from portal.people.persons import Person

LIFETIME = timedelta(days=365)
SIGNED_IN_LIFETIME = timedelta(days=7)
"""A week, whatever is done with it: a forgotten browser must not be an administrator for ever."""


class BrowserSession(Base):
    """One browser that has sent in a job, or is signed in."""

    __tablename__ = "sessions"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of the key in the cookie, as hex digits."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    person: Mapped[str | None] = mapped_column(index=True)
    """The canonical address of the person who is signed in; None where nobody is."""


@dataclass(frozen=True)
class SignedIn:
    """Who is signed in, as this request has proved."""

    email: str
    is_administrator: bool
    session_id: str
    since: datetime


def new_session_key() -> str:
    """A fresh random key for a cookie."""
    return secrets.token_urlsafe(16)


def session_id_of(key: str) -> str:
    """The id under which the database knows the session of this key."""
    return hashlib.sha256(key.encode()).hexdigest()


def remember_session(session: Session, session_id: str, now: datetime) -> None:
    """Make sure that the session has a row, and that it lasts from now; one that is signed in ends when it ends."""
    row = session.get(BrowserSession, session_id)
    if row is None:
        session.add(BrowserSession(session_id=session_id, created_at=now, expires_at=now + LIFETIME))
    elif row.person is None:
        row.expires_at = now + LIFETIME


def is_live(session: Session, session_id: str, now: datetime) -> bool:
    """Whether there is such a session that is nobody's, and it has not expired."""
    row = session.get(BrowserSession, session_id)
    return row is not None and row.person is None and row.expires_at > now


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


def open_signed_in_session(session: Session, person: str, now: datetime) -> str:
    """A new session that is signed in as this person; its key, for the cookie."""
    key = new_session_key()
    session.add(
        BrowserSession(
            session_id=session_id_of(key), created_at=now, expires_at=now + SIGNED_IN_LIFETIME, person=person
        )
    )
    return key


def signed_in(database: Database, key: str, now: datetime) -> SignedIn | None:
    """Who is signed in with this key; None where nobody is, it has expired, or the person was disabled."""
    session_id = session_id_of(key)
    with database.reading() as session:
        found = session.execute(
            select(BrowserSession, Person)
            .join(Person, Person.email == BrowserSession.person)
            .where(BrowserSession.session_id == session_id)
        ).first()
    if found is None:
        return None
    row, person = found
    if row.expires_at <= now or person.disabled_at is not None:
        return None
    return SignedIn(person.email, person.is_administrator, session_id, row.created_at)


def count_sessions(database: Database, person: str, now: datetime) -> int:
    """In how many browsers this person is signed in."""
    with database.reading() as session:
        query = select(func.count()).select_from(BrowserSession)
        return session.scalar(query.where(BrowserSession.person == person, BrowserSession.expires_at > now)) or 0


def end_session(database: Database, session_id: str) -> None:
    """Sign this one browser out; harmless when done twice."""
    with database.writing() as session:
        session.execute(delete(BrowserSession).where(BrowserSession.session_id == session_id))


def end_sessions_of(session: Session, person: str) -> None:
    """Sign this person out everywhere."""
    session.execute(delete(BrowserSession).where(BrowserSession.person == person))
