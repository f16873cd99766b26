"""Who may sign in, and the links with which they do: good for one use within a quarter of an hour.

Only a link's hash is stored. It acts on a POST alone, since mail scanners and messengers fetch the links that they
see. Unknown, used and expired links, and those of a disabled person, are told apart by nobody.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, delete, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from portal.clock import Clock
from portal.database import Base, Database, UtcDateTime
from portal.errors import ConflictError, NotFoundError
from portal.people.persons import Person, list_people
from portal.people.sessions import end_sessions_of, open_signed_in_session

LINK_LIFETIME = timedelta(minutes=15)
_MAX_TOKEN_CHARACTERS = 100


class SignInLink(Base):
    """One link that was handed out."""

    __tablename__ = "sign_in_links"

    link_hash: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of the token in the link, as hex digits."""
    person: Mapped[str] = mapped_column(ForeignKey("people.email", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class Added:
    """What came of adding a person."""

    is_new: bool
    was_promoted: bool


class People:
    """The services over the people of one portal. Addresses come in their canonical form."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self._clock = clock

    def add(self, email: str, *, is_administrator: bool) -> Added:
        """Make sure that there is this person; one who is there becomes an administrator where that is asked for.

        Nobody loses a role by it. Raises ConflictError for one who was disabled.
        """
        with self.database.writing() as session:
            person = session.get(Person, email)
            if person is None:
                now = self._clock.now_utc()
                session.add(Person(email=email, is_administrator=is_administrator, created_at=now))
                return Added(is_new=True, was_promoted=False)
            _require_enabled(person)
            promoted = is_administrator and not person.is_administrator
            person.is_administrator = person.is_administrator or is_administrator
            return Added(is_new=False, was_promoted=promoted)

    def list(self) -> list[Person]:
        """Everybody, by address."""
        with self.database.reading() as session:
            return list_people(session)

    def disable(self, email: str) -> None:
        """Let this person sign in no more, and end their sessions and links. Raises NotFoundError."""
        with self.database.writing() as session:
            person = _get(session, email)
            person.disabled_at = person.disabled_at or self._clock.now_utc()
            end_sessions_of(session, email)
            session.execute(delete(SignInLink).where(SignInLink.person == email))

    def enable(self, email: str) -> None:
        """Let this person sign in again. Raises NotFoundError."""
        with self.database.writing() as session:
            _get(session, email).disabled_at = None

    def new_link_token(self, email: str) -> str:
        """The token of a new sign-in link. Raises NotFoundError, and ConflictError for one who was disabled."""
        token = secrets.token_urlsafe(24)
        now = self._clock.now_utc()
        with self.database.writing() as session:
            _require_enabled(_get(session, email))
            session.execute(delete(SignInLink).where(SignInLink.expires_at <= now))
            link = SignInLink(link_hash=_hash(token), person=email, created_at=now, expires_at=now + LINK_LIFETIME)
            session.add(link)
        return token

    def sign_in(self, token: str) -> str:
        """Use a link up: the key of a new session that is signed in as its person. Raises NotFoundError."""
        now = self._clock.now_utc()
        with self.database.writing() as session:
            # One statement, so that of two that come at once one finds it used.
            email = session.scalar(
                update(SignInLink)
                .where(
                    SignInLink.link_hash == _hash(token[:_MAX_TOKEN_CHARACTERS]),
                    SignInLink.used_at.is_(None),
                    SignInLink.expires_at > now,
                )
                .values(used_at=now)
                .returning(SignInLink.person)
            )
            person = session.get(Person, email) if email is not None else None
            if person is None or person.disabled_at is not None:
                raise NotFoundError(
                    "This sign-in link does not work: a link is good for one use, within 15 minutes. "
                    "Please ask for a new one."
                )
            return open_signed_in_session(session, person.email, now)

    def sign_out_everywhere(self, email: str) -> None:
        """End all sessions of this person."""
        with self.database.writing() as session:
            end_sessions_of(session, email)


def sign_in_url(base_url: str, token: str) -> str:
    """The address of a sign-in link: of the portal's own settings, never of a request. A query is not logged."""
    return f"{base_url}/sign-in?link={token}"


def _get(session: Session, email: str) -> Person:
    person = session.get(Person, email)
    if person is None:
        raise NotFoundError(f"There is nobody with the address {email} here; `portal user list` shows who there is.")
    return person


def _require_enabled(person: Person) -> None:
    if person.disabled_at is not None:
        raise ConflictError(f"{person.email} was disabled; `portal user enable {person.email}` undoes that.")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
