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
    if verdict is not None and verdict.get("next_attempt") is None:
        owed = Outcome.CORRECTED if verdict.get("outcome") == Outcome.CORRECTED else Outcome(attempt.state.value)
    for outcome in Outcome:
        mail_id = message_id(job.job_id, attempt.number, outcome, domain)
        row = session.scalar(select(MailOutbox).where(MailOutbox.message_id == mail_id))
        if row is None and (mail_id in sent or outcome is owed):
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
        if row is not None and row.sent_at is None and mail_id in sent:
            row.sent_at = sent[mail_id] or at


def _sent(files: AttemptDirectory) -> dict[str, datetime | None]:
    """The Message-IDs in `mail.sent`, each with the time before it."""
    try:
        lines = files.mail_sent.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    found: dict[str, datetime | None] = {}
    for line in lines:
        time, *ids = line.split() or [""]
        found.update(dict.fromkeys([time, *ids], _moment(time)))
    return found


def _moment(text: str) -> datetime | None:
    try:
        return parse_utc_text(text)
    except ValueError:
        return None
