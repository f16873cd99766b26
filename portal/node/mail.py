"""Sending the mail of a success from the node, where the site wants it so."""

import contextlib
import os
import re
import smtplib
from email.parser import BytesHeaderParser

from .attempt_config import MailConfig
from .durable import write_durably
from .strict_json import printable
from .times import utc_now_text

MESSAGE_NAME = "mail.eml"
SENT_NAME = "mail.sent"

_LINE_END = re.compile(rb"\r\n|\r|\n")


class NotSentError(Exception):
    """The mail did not go out, or there is no note that it did; the message is one line."""


def send_mail(mail: MailConfig, attempt_dir: str, work_dir: str) -> None:
    """Hand `mail.eml` to the mail server, then write `work/mail.sent`: one line, time and Message-ID.

    NotSentError where either failed. The portal sends what has no `mail.sent`, with the same Message-ID, so
    that a failure costs nothing but time, and a failure between the two a repetition that mail programs
    recognise.
    """
    try:
        with open(os.path.join(attempt_dir, MESSAGE_NAME), "rb") as file:
            message = file.read()
        server = smtplib.SMTP(mail.smtp_host, mail.smtp_port, timeout=mail.timeout_seconds)
        with contextlib.closing(server):
            server.sendmail(mail.from_address, [mail.to], _LINE_END.sub(b"\r\n", message))
            _write_note(work_dir, message)
            # The server has the message: whether it says goodbye changes nothing.
            with contextlib.suppress(OSError):
                server.quit()
    except (OSError, ValueError) as error:
        # smtplib's own errors are OSErrors; an address beyond ASCII is a ValueError.
        reason = printable(str(error), 500)
        raise NotSentError("the mail was not sent from this node: {}".format(reason)) from error


def _write_note(work_dir: str, message: bytes) -> None:
    note = "{} {}\n".format(utc_now_text(), _message_id(message))
    write_durably(os.path.join(work_dir, SENT_NAME), note.encode("utf-8"))


def _message_id(message: bytes) -> str:
    header = BytesHeaderParser().parsebytes(message).get("Message-ID", "")
    return printable(str(header).strip(), 998)
