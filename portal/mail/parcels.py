"""What goes out as one message: about one outcome, or a digest of what was held up for one person."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from portal.clock import Clock
from portal.jobs.directory import JobsFolder
from portal.jobs.models import MailOutbox
from portal.mail.digest import build_digest
from portal.mail.digest import digest_id as digest_id_of
from portal.mail.digest_files import DigestFiles
from portal.mail.facts import Site, mail_domain
from portal.mail.ledger import Ledger, Owed
from portal.mail.letters import Letters

log = structlog.get_logger()


@dataclass(frozen=True)
class Parcel:
    """One message with the rows that it settles."""

    members: Sequence[Owed]
    digest_id: str | None
    data: bytes = b""
    is_new: bool = False
    """Whether nobody can have handed it over yet: a failure that is certain then undoes it."""

    @property
    def rows(self) -> list[MailOutbox]:
        """Those of the members."""
        return [owed.row for owed in self.members]

    @property
    def names(self) -> dict[str, object]:
        """For the log."""
        if self.digest_id is not None:
            return {"digest": self.digest_id, "members": len(self.members)}
        return names_of(self.members[0].row)


class Parcels:
    """Makes parcels, and takes the steps around handing them over.

    Methods raise OSError, StorageError and StaleEpochError; what a failure leaves is found by the next sender.
    """

    def __init__(self, folder: JobsFolder, site: Site, clock: Clock, ledger: Ledger) -> None:
        self._letters = Letters(folder, site, clock)
        self._digests = DigestFiles(folder)
        self._domain = mail_domain(site.settings)
        self._clock = clock
        self._ledger = ledger

    def recover(self) -> None:
        """Take up the digests that a predecessor left."""
        self._digests.recover(self._ledger)

    def already_sent(self, owed: Owed) -> Parcel | None:
        """The parcel of this row, where a sender before its crash, or the node, has noted that it went out."""
        digest_id = owed.row.digest_id
        if digest_id is None:
            return Parcel([owed], None) if self._letters.was_sent(owed.row) else None
        members = self._ledger.of_the_digest(digest_id)
        # It is noted with all members after it has gone out, so one that says so speaks for the others.
        was_sent = any(self._letters.was_sent(member.row, digest_id) for member in members)
        return Parcel(members, digest_id) if was_sent else None

    def make(self, owed: Owed) -> Parcel:
        """What this row goes out in, with all on disk and in the database that makes a repeat the same.

        Raises ValueError, too, where the address is none.
        """
        if owed.row.digest_id is not None:
            return self._repeated_digest(owed.row.digest_id)
        data = self._letters.prepared(owed.row)
        if data is not None:
            return Parcel([owed], None, data)
        members = self._digest_members(owed)
        if len(members) > 1 and any(member.row.mail_id == owed.row.mail_id for member in members):
            return self._new_digest(members)
        return Parcel([owed], None, self._letters.prepare(owed), is_new=True)

    def withdraw(self, parcel: Parcel) -> None:
        """It has certainly not gone out: what comes until the next try may go out with it."""
        if parcel.digest_id is None:
            self._letters.withdraw(parcel.rows[0])
        else:
            self._ledger.dissolve(parcel.digest_id)
            self._digests.remove(parcel.digest_id)

    def finish(self, parcel: Parcel) -> None:
        """It has gone out: on disk first, then in the database."""
        for row in parcel.rows:
            self._letters.note_sent(row, parcel.digest_id)
        self._ledger.note_sent(parcel.rows)
        self.forget(parcel)
        log.info("mail sent", **parcel.names)

    def forget(self, parcel: Parcel) -> None:
        """It is settled, so that its digest is no longer needed."""
        if parcel.digest_id is not None:
            self._digests.remove(parcel.digest_id)

    def _digest_members(self, owed: Owed) -> list[Owed]:
        """What may go out in one message with this row.

        Nothing that has gone out by itself, or may have, and no message that has to follow such a one of its job.
        """
        members: list[Owed] = []
        apart: set[str] = set()
        for other in self._ledger.held_up_with(owed):
            if other.row.job_id in apart or self._goes_alone(other):
                apart.add(other.row.job_id)
            else:
                members.append(other)
        return members

    def _goes_alone(self, owed: Owed) -> bool:
        letters, row = self._letters, owed.row
        try:
            letters.facts(owed)
            return letters.may_be_mailed_by_node(row) or letters.prepared(row) is not None or letters.was_sent(row)
        except Exception:
            # One that cannot be told must not take the others with it; its own turn says why.
            return True

    def _new_digest(self, members: Sequence[Owed]) -> Parcel:
        rows = [owed.row for owed in members]
        message_ids = [row.message_id for row in rows]
        digest_id = digest_id_of(message_ids, self._domain)
        data = self._render(members, digest_id)
        self._digests.write_members(digest_id, rows)
        self._ledger.put_into_digest(message_ids, digest_id)
        self._digests.write_message(digest_id, data)
        return Parcel(members, digest_id, data, is_new=True)

    def _repeated_digest(self, digest_id: str) -> Parcel:
        members = self._ledger.of_the_digest(digest_id)
        data = self._digests.message(digest_id)
        if data is None:
            data = self._render(members, digest_id)
            self._digests.write_message(digest_id, data)
        return Parcel(members, digest_id, data)

    def _render(self, members: Sequence[Owed], digest_id: str) -> bytes:
        return build_digest(
            [self._letters.facts(owed) for owed in members], digest_id, self._clock.now_utc()
        ).as_bytes()


def names_of(row: MailOutbox) -> dict[str, object]:
    """What the log calls a row."""
    return {"job_id": row.job_id, "attempt": row.attempt_number, "outcome": row.outcome}
