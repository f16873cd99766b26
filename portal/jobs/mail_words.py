"""What the portal says of the mail about a job: sent, waiting, or refused."""

from datetime import datetime, timedelta

from portal.jobs.models import MailOutbox
from portal.jobs.store import JobRecord
from portal.jobs.words import visible

_AT_ONCE = timedelta(minutes=1)
"""How long a message may take without being called late."""


def newest_sentence(record: JobRecord, now: datetime) -> str:
    """What has become of the message about the attempt that counts; empty while none is owed."""
    row = _newest(record)
    return "" if row is None else sentence(row, now)


def is_in_trouble(record: JobRecord) -> bool:
    """Whether that message will never arrive."""
    row = _newest(record)
    return row is not None and row.refused_at is not None


def sentence(row: MailOutbox, now: datetime) -> str:
    """What has become of one message, in one or two sentences."""
    recipient = visible(row.recipient)
    if row.sent_at is not None:
        with_others = ", together with news of other jobs" if row.digest_id else ""
        return f"Mail to {recipient} was sent at {_time(row.sent_at)}{with_others}."
    if row.refused_at is not None:
        return (
            f"The mail server does not take the mail to {recipient}, and it is not tried again. Is the address right? "
            "All that the mail would say is on this page."
        )
    if row.last_error is not None:
        return f"The mail to {recipient} could not be sent yet, and is tried again{_when(row, now)}."
    if max(row.created_at, row.next_try_at) + _AT_ONCE < now or row.next_try_at > now + _AT_ONCE:
        return (
            f"The mail to {recipient} has not been sent yet; it waits for the mail server or a limit{_when(row, now)}."
        )
    return f"The mail to {recipient} is about to be sent."


def _newest(record: JobRecord) -> MailOutbox | None:
    rows = [row for row in record.mails if row.attempt_number == record.job.attempt_number]
    return rows[-1] if rows else None


def _when(row: MailOutbox, now: datetime) -> str:
    return f" (not before {_time(row.next_try_at)})" if row.next_try_at > now else ""


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
