"""People: addresses that somebody has vouched for, and who of them may administer the portal."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from portal.database import Base, UtcDateTime


class Person(Base):
    """One person. A visitor who has only typed an address is none."""

    __tablename__ = "people"

    email: Mapped[str] = mapped_column(primary_key=True)
    """The address in its canonical form, as `jobs.owner` has it."""
    is_administrator: Mapped[bool]
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when this person may not sign in; None where they may."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


def list_people(session: Session) -> list[Person]:
    """Everybody, by address."""
    return list(session.scalars(select(Person).order_by(Person.email)))
