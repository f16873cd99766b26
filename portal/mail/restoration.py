"""The rows of the outbox from an attempt's files: what has gone out, and what is owed still."""

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from portal.clock import parse_utc_text
from portal.jobs.directory import AttemptDirectory
from portal.jobs.models import Attempt, Job, MailOutbox
from portal.mail.message import Outcome, message_id


def restore_mail(
    session: Session,
    job: Job,
    attempt: Attempt,
    files: AttemptDirectory,
    verdict: dict[str, Any] | None,
    domain: str,
) -> None:
    """Let the outbox say of one attempt what `mail.sent` and `verdict.json` say.

    What the portal sent has its row again, so that it is not sent twice and counts towards the caps. What is owed
    goes out unless the sender finds a note of it. An attempt that another one followed by itself owes nothing.
    """
    at = attempt.ended_at or job.created_at
    sent = _sent(files)
    owed = None
    if verdict is not None and (verdict.get("next_attempt") is None or verdict.get("told") is True):
        owed = Outcome.CORRECTED if verdict.get("outcome") == Outcome.CORRECTED else Outcome(attempt.state.value)
    for outcome in Outcome:
        # It may have gone out while the portal had another name.
        mail_id = message_id(job.job_id, attempt.number, outcome, domain)
        mail_id, sent_at = sent.get(_local_part(mail_id), (mail_id, None))
        was_sent = _local_part(mail_id) in sent
        row = session.scalar(
            select(MailOutbox).where(
                MailOutbox.job_id == job.job_id,
                MailOutbox.attempt_number == attempt.number,
                MailOutbox.outcome == outcome.value,
            )
        )
        if row is None and (was_sent or outcome is owed):
            row = MailOutbox(
                job_id=job.job_id,
                attempt_number=attempt.number,
                outcome=outcome.value,
                recipient=job.email,
                message_id=mail_id,
                created_at=at,
                next_try_at=at,
                tries=0,
            )
            session.add(row)
        if row is not None and row.sent_at is None and was_sent:
            row.sent_at = sent_at or at


def _sent(files: AttemptDirectory) -> dict[str, tuple[str, datetime | None]]:
    """The Message-IDs in `mail.sent`, each with the time before it; by the part that no other name changes."""
    try:
        lines = files.mail_sent.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    found: dict[str, tuple[str, datetime | None]] = {}
    for line in lines:
        time, *ids = line.split() or [""]
        found.update({_local_part(one): (one, _moment(time)) for one in (time, *ids)})
    return found


def _local_part(mail_id: str) -> str:
    return mail_id.partition("@")[0]


def _moment(text: str) -> datetime | None:
    try:
        return parse_utc_text(text)
    except ValueError:
        return None
