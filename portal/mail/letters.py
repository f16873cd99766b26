"""The files of one message: `mail.eml`, made before it is handed over, and `mail.sent`, written after.

A `mail.eml` that is there may have gone out: the very same bytes go out again, and never as part of a digest. So it
is removed where a try certainly failed before the server had the message.
"""

from dataclasses import replace
from pathlib import Path

import structlog

from portal.clock import Clock, utc_text
from portal.jobs.directory import FILE_MODE, AttemptDirectory, JobsFolder
from portal.jobs.job_files import read_job_file
from portal.jobs.models import MailOutbox
from portal.mail.facts import Site
from portal.mail.ledger import Owed
from portal.mail.message import MailFacts, Outcome, build_message, parse_message
from portal.node.durable import write_durably

log = structlog.get_logger()

_NODE_NOTE = "mail.sent"
_NOTE_MAX_BYTES = 64 * 1024


class Letters:
    """Makes and finds the files of messages."""

    def __init__(self, folder: JobsFolder, site: Site, clock: Clock) -> None:
        self._folder = folder
        self._site = site
        self._clock = clock

    def may_be_mailed_by_node(self, row: MailOutbox) -> bool:
        """Whether the node may have sent it, or may yet, under its own Message-ID."""
        return self._site.settings.mail.sent_by == "node" and row.outcome == Outcome.SUCCEEDED

    def was_sent(self, row: MailOutbox, digest_id: str | None = None) -> bool:
        """Whether somebody says that it went out, in this digest: a sender before its crash, or the node."""
        attempt = self._attempt(row)
        if (digest_id or row.message_id) in read(attempt.mail_sent).decode("utf-8", "replace").split():
            return True
        return self.may_be_mailed_by_node(row) and read_job_file(attempt.work, _NODE_NOTE, _NOTE_MAX_BYTES) is not None

    def prepared(self, row: MailOutbox) -> bytes | None:
        """The message of an earlier try that may have gone out."""
        return prepared(self._file(row), row.message_id)

    def prepare(self, owed: Owed) -> bytes:
        """Make the message and its file. Raises OSError, and ValueError where the address is none."""
        data = build_message(self.facts(owed)).as_bytes()
        write_durably(str(self._file(owed.row)), data, FILE_MODE)
        return data

    def withdraw(self, row: MailOutbox) -> None:
        """It certainly has not gone out: the next try may be another message. Left where it cannot be removed."""
        if self.may_be_mailed_by_node(row):
            return
        try:
            self._file(row).unlink(missing_ok=True)
        except OSError as error:
            log.warning("mail.eml could not be removed", error=str(error), job_id=row.job_id)

    def facts(self, owed: Owed) -> MailFacts:
        """What is to be said."""
        facts = self._site.facts(
            owed.record,
            owed.row.attempt_number,
            Outcome(owed.row.outcome),
            message_id=owed.row.message_id,
            now=self._clock.now_utc(),
            work=self._attempt(owed.row).work,
            corrected_since=owed.corrected_since,
        )
        return replace(facts, recipient=owed.row.recipient)

    def note_sent(self, row: MailOutbox, digest_id: str | None = None) -> None:
        """Write the line of `mail.sent`, unless it is there. A failure is logged only: it has gone out all the same."""
        attempt = self._attempt(row)
        words = [row.message_id] if digest_id is None else [row.message_id, "in", digest_id]
        line = f"{utc_text(self._clock.now_utc())} {' '.join(words)}\n"
        try:
            written = read(attempt.mail_sent)
            # An attempt can have two members in one digest: a failure and its correction.
            if not set(" ".join(words).encode().split()) <= set(written.split()):
                write_durably(str(attempt.mail_sent), written + line.encode(), FILE_MODE)
        except OSError as error:
            log.warning("mail.sent could not be written", error=str(error), job_id=row.job_id)

    def _file(self, row: MailOutbox) -> Path:
        """`mail.eml`; where nodes mail, only a success's: one that was thought dead may yet send what lies there."""
        attempt = self._attempt(row)
        if self._site.settings.mail.sent_by == "node" and row.outcome != Outcome.SUCCEEDED:
            return attempt.mail.with_name(f"mail-{row.outcome}.eml")
        return attempt.mail

    def _attempt(self, row: MailOutbox) -> AttemptDirectory:
        return self._folder.job(row.job_id).attempt(row.attempt_number)


def prepared(file: Path, mail_id: str) -> bytes | None:
    """The bytes of the file where it is this very message: a repeat must not differ from what may have gone out."""
    data = read(file)
    return data if data and parse_message(data)["Message-ID"] == mail_id else None


def read(file: Path) -> bytes:
    """The file's bytes; none where there is no file."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
