"""The outbox: what is owed to visitors, and the sender that empties it.

A message is owed from the transaction that records the outcome, so that no crash can forget it. It is sent in this
order: `mail.eml` on disk, the transport, `mail.sent` on disk, the commit. A digest, which is what mail to one person
becomes that was held up, in this one: the list of its members on disk, the commit that binds them to it, the message on
disk, the transport, `mail.sent` of each member, the commit. A crash between any two steps leads at worst to the very
same message again, with the same Message-ID.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from portal.clock import Clock, utc_text
from portal.database import Database
from portal.errors import MailError, StaleEpochError, StorageError
from portal.jobs.directory import FILE_MODE, JobDirectory, JobsFolder
from portal.jobs.keys import Keys
from portal.jobs.models import Job, MailOutbox
from portal.jobs.store import JobRecord
from portal.mail.facts import Site
from portal.mail.facts import mail_domain as mail_domain
from portal.mail.ledger import BATCH as BATCH
from portal.mail.ledger import GIVE_UP_TRIES, Ledger, Owed
from portal.mail.ledger import back_off_seconds as back_off_seconds
from portal.mail.letters import prepared
from portal.mail.message import Outcome, build_message, message_id, one_line, parse_message
from portal.mail.parcels import Parcel, Parcels, names_of
from portal.mail.transport import Transport
from portal.node.durable import write_durably
from portal.settings import Settings

log = structlog.get_logger()

SILENT_SERVER_MAX_SECONDS = 300
"""How long at most nothing is tried after a server was found away."""
_ERROR_MAX_CHARACTERS = 500


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
    retention_days: int | None = None,
) -> None:
    """Write the current attempt's `mail.eml` for a node that mails the success itself; one that is there stays.

    It cannot know the answer, so it says that the job is done and where to look. Raises OSError, and ValueError
    where an address is none.
    """
    number = record.job.attempt_number
    mail_id = message_id(record.job.job_id, number, Outcome.SUCCEEDED, mail_domain(settings))
    attempt = directory.attempt(number)
    if prepared(attempt.mail, mail_id) is not None:
        return
    site = Site(settings, keys, application_title)
    facts = site.facts_before_the_end(record, mail_id, clock.now_utc(), retention_days)
    write_durably(str(attempt.mail), build_message(facts).as_bytes(), FILE_MODE)


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
        self._clock = clock
        self._transport = transport
        self._ledger = Ledger(database, clock, settings.limits, guard or _no_guard)
        self._parcels = Parcels(folder, Site(settings, keys, application_title), clock, self._ledger)
        self._silences = 0
        self._silent_until_seconds = float("-inf")

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
        """Take a batch of the rows that are due, oldest first; how many messages were handed over and committed.

        What fails is put off or refused in its row and does not hold up the others; a server that is away is left
        alone for a while. Raises StorageError where the database fails and StaleEpochError from the guard; a message
        that was handed over just before is then not sent again, because `mail.sent` says so.
        """
        if self._server_is_silent():
            return 0
        self._parcels.recover()
        handed_over = 0
        for mail_id in self._ledger.due():
            if (
                (stop is not None and stop.is_set())
                or self._server_is_silent()
                or self._ledger.held_until() is not None
            ):
                break
            handed_over += self._settle(mail_id)
        return handed_over

    def _server_is_silent(self) -> bool:
        return self._clock.monotonic_seconds() < self._silent_until_seconds

    def _settle(self, mail_id: int) -> bool:
        """Bring one row forward, and with it the others of its digest; True where it is sent."""
        owed = self._ledger.load(mail_id)
        if owed is None:
            return False
        try:
            return self._settle_loaded(owed)
        except OSError as error:
            self._note_failure([owed], f"{error.strerror}: {error.filename}")
        except (StorageError, StaleEpochError):
            raise
        except Exception as error:
            # A mistake of ours that one message brings to light must not hold up everybody else's.
            log.exception("a message could not be made", **names_of(owed.row))
            self._note_failure([owed], f"{type(error).__name__}: {error}")
        return False

    def _settle_loaded(self, owed: Owed) -> bool:
        sent = self._parcels.already_sent(owed)
        if sent is not None:
            self._parcels.finish(sent)
            return True
        held_until = self._ledger.held_until(owed.record.job.owner)
        if held_until is not None:
            self._ledger.hold(owed.record.job.owner, held_until)
            log.info("mail held: limits.mails_per_hour_per_person", until=utc_text(held_until), **names_of(owed.row))
            return False
        parcel = self._parcels.make(owed)
        self._ledger.require()
        return self._hand_over(parcel)

    def _hand_over(self, parcel: Parcel) -> bool:
        try:
            self._transport.send(parse_message(parcel.data))
        except MailError as error:
            if not error.server_is_away:
                self._silences = 0
            self._note_mail_error(parcel, error)
            # After a commit of ours, which a newer dispatcher would have refused: the files are not its own then.
            if parcel.is_new and error.was_not_taken and not error.permanent:
                self._parcels.withdraw(parcel)
            return False
        except Exception as error:
            log.exception("a message could not be handed over", **parcel.names)
            self._note_failure(parcel.members, f"{type(error).__name__}: {error}")
            return False
        self._silences = 0
        self._parcels.finish(parcel)
        return True

    def _note_mail_error(self, parcel: Parcel, error: MailError) -> None:
        shown = _shown(str(error))
        if error.permanent:
            self._ledger.note_refused(parcel.rows, shown)
            self._parcels.forget(parcel)
            log.error("mail refused for good", error=shown, **parcel.names)
        elif error.server_is_away:
            self._ledger.note_silence(parcel.rows, shown)
            self._silences += 1
            seconds = min(back_off_seconds(self._silences), SILENT_SERVER_MAX_SECONDS)
            self._silent_until_seconds = self._clock.monotonic_seconds() + seconds
            log.warning("the mail server is away", error=shown, next_try_seconds=seconds, **parcel.names)
        else:
            self._note_failure(parcel.members, str(error))

    def _note_failure(self, members: Sequence[Owed], reason: str) -> None:
        shown = _shown(reason)
        rows = [owed.row for owed in members]
        given_up = [row for row in rows if row.tries + 1 >= GIVE_UP_TRIES]
        if given_up:
            self._ledger.note_refused(given_up, _shown(f"Given up after {GIVE_UP_TRIES} tries: {reason}"))
            log.error("mail given up", error=shown, messages=len(given_up), **names_of(given_up[0]))
        kept = [row for row in rows if row not in given_up]
        if kept:
            next_try_at = self._next_try(members)
            self._ledger.note_failed(kept, shown, next_try_at)
            log.warning("mail not sent yet", error=shown, next_try_at=utc_text(next_try_at), **names_of(kept[0]))

    def _next_try(self, members: Sequence[Owed]) -> datetime:
        """After its back-off; what is fresh joins what the same person waits for already, to become one digest."""
        tries = max(owed.row.tries for owed in members)
        joined = self._ledger.next_retry(members[0]) if tries == 0 else None
        return joined or self._clock.now_utc() + timedelta(seconds=back_off_seconds(tries + 1))


def _no_guard(_session: Session) -> None:
    """For a sender that nobody can take over from."""


def _shown(reason: str) -> str:
    return one_line(reason)[:_ERROR_MAX_CHARACTERS]
