"""The two ways in which a message leaves the portal: into a folder, or to an SMTP server."""

import contextlib
import hashlib
import re
import smtplib
import ssl
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from typing import NamedTuple, Protocol

from portal.errors import MailError
from portal.jobs.words import visible
from portal.node.durable import write_durably
from portal.settings import Settings

FOLDER_MODE = 0o750
FILE_MODE = 0o640

_NAME_MAX_CHARACTERS = 150
_LOGIN_CODES = frozenset({530, 534, 535, 538})
"""The server wants another login: a matter of our settings, which says nothing of the message (RFC 4954)."""

_OF_THE_MESSAGE = frozenset({452, 552, 553, 555})
"""Said of a sender, these are about this message's size or options; others are about us."""
_CLOSING = 421


class Transport(Protocol):
    """A way out."""

    def send(self, message: EmailMessage) -> None:
        """Hand the message over; at return somebody else answers for it.

        Raises MailError where that failed: `permanent` where trying again is in vain, `server_is_away` where no other
        message would fare better, and `was_not_taken` where that is certain. Else it may in fact have gone out, with
        the answer lost on the way: its Message-ID tells the repeat.
        """
        ...


class FolderTransport:
    """Writes each message as one `.eml` file into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, message: EmailMessage) -> None:
        """Write it, whole and on the disk at return; the same Message-ID again leaves one file. Raises MailError."""
        path = self.folder / file_name(str(message["Message-ID"] or ""))
        try:
            self._make_folder()
            write_durably(str(path), _outgoing(message).data, FILE_MODE)
        except OSError as error:
            raise MailError(
                "The mail folder cannot be written.",
                log_detail=f"{self.folder}: {error.strerror or error}",
                server_is_away=not path.exists(),
                was_not_taken=not path.exists(),
            ) from error

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(FOLDER_MODE)


def file_name(message_id: str) -> str:
    """The file of a message: its id where that makes a plain name, else as much of it as does, and a digest."""
    bare = message_id.strip().removeprefix("<").removesuffix(">")
    safe = re.sub("[^A-Za-z0-9@_+.-]", "_", bare)[:_NAME_MAX_CHARACTERS].lstrip(".-")
    if safe != bare or not safe:
        safe = f"{safe}-{hashlib.sha256(message_id.encode('utf-8', 'replace')).hexdigest()[:16]}".lstrip("-")
    return f"{safe}.eml"


class SmtpTransport:
    """Hands each message to an SMTP server, over a connection of its own."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout_seconds: float,
        starttls: bool = False,
        user: str | None = None,
        password_file: Path | None = None,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout_seconds` bounds the connection and each answer; `tls_context` replaces the system's certificates."""
        self._host = host
        self._port = port
        self._timeout_seconds = timeout_seconds
        self._starttls = starttls
        self._user = user
        self._password_file = password_file
        self._tls_context = tls_context

    def send(self, message: EmailMessage) -> None:
        """Hand the message over. Raises MailError.

        Permanent are a recipient or a content that the server refuses with 5xx, and an address beyond ASCII that it
        cannot take. All else is temporary, wrong settings included, since those can be put right;
        what goes wrong before the message is offered is no fault of it, and the server counts as away.
        """
        outgoing = _outgoing(message)
        if not (outgoing.sender and outgoing.recipients):
            raise MailError("The message has no sender or no recipient.", permanent=True, was_not_taken=True)
        password = self._password()
        in_conversation = False
        try:
            server = smtplib.SMTP(self._host, self._port, timeout=self._timeout_seconds)
            with contextlib.closing(server):
                self._prepare(server, password)
                in_conversation = True
                _hand_over(server, outgoing)
                # The server has the message: whether it says goodbye changes nothing.
                with contextlib.suppress(OSError):
                    server.quit()
        except OSError as error:  # smtplib's own errors are OSErrors
            raise _mail_error(error, f"{self._host}:{self._port}", in_conversation=in_conversation) from error

    def _prepare(self, server: smtplib.SMTP, password: str | None) -> None:
        server.ehlo_or_helo_if_needed()
        if self._starttls:
            server.starttls(context=self._tls_context or ssl.create_default_context())
            server.ehlo_or_helo_if_needed()
        if self._user is not None and password is not None:
            server.login(self._user, password)

    def _password(self) -> str | None:
        """Read each time, so that a new password needs no restart."""
        if self._user is None or self._password_file is None:
            return None
        try:
            password = self._password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise MailError(
                "The mail server's password cannot be read.",
                log_detail=f"mail.smtp_password_file: {error}",
                server_is_away=True,
                was_not_taken=True,
            ) from error
        if not password or not (password + self._user).isascii():
            raise MailError(
                "The mail server's password cannot be used.",
                log_detail=f"mail.smtp_password_file: {self._password_file} should hold a password in ASCII, "
                "and mail.smtp_user should be ASCII",
                server_is_away=True,
                was_not_taken=True,
            )
        return password


def transport_from_settings(settings: Settings) -> Transport:
    """The way out that the settings name. Nothing is opened or made yet."""
    mail = settings.mail
    if mail.transport == "folder":
        return FolderTransport(mail.folder)
    return SmtpTransport(
        mail.smtp_host,
        mail.smtp_port,
        timeout_seconds=mail.smtp_timeout_seconds,
        starttls=mail.starttls,
        user=mail.smtp_user,
        password_file=mail.smtp_password_file,
    )


class _Outgoing(NamedTuple):
    sender: str
    recipients: list[str]
    needs_utf8: bool
    data: bytes


def _outgoing(message: EmailMessage) -> _Outgoing:
    senders, recipients = _addresses(message, "From"), _addresses(message, "To")
    needs_utf8 = not "".join(senders + recipients).isascii()
    data = message.as_bytes(policy=SMTPUTF8 if needs_utf8 else SMTP)
    return _Outgoing(senders[0] if senders else "", recipients, needs_utf8, data)


def _addresses(message: EmailMessage, header: str) -> list[str]:
    found = message[header]
    return [address.addr_spec for address in found.addresses] if found is not None else []


def _hand_over(server: smtplib.SMTP, outgoing: _Outgoing) -> None:
    options = []
    if outgoing.needs_utf8:
        if not server.has_extn("smtputf8"):
            raise MailError(
                "The mail server cannot send to or from an address with letters beyond ASCII.",
                log_detail="it does not offer SMTPUTF8",
                permanent=True,
                was_not_taken=True,
            )
        options = ["SMTPUTF8", "BODY=8BITMIME"]
    server.sendmail(outgoing.sender, outgoing.recipients, outgoing.data, mail_options=options)


def _mail_error(error: OSError, server: str, *, in_conversation: bool) -> MailError:
    """What a failure means for this message and for others, and one line of what the server said.

    `in_conversation`: the server had been asked to take the message, so that it may have, where no answer came.
    """
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, text = next(iter(error.recipients.values()))
        return _refusal("The mail server does not take the address.", server, code, text)
    if isinstance(error, smtplib.SMTPDataError):
        return _refusal("The mail server does not take the message.", server, error.smtp_code, error.smtp_error)
    if isinstance(error, smtplib.SMTPSenderRefused) and error.smtp_code in _OF_THE_MESSAGE:
        sentence = "The mail server does not take the message."
        return _refusal(sentence, server, error.smtp_code, error.smtp_error, can_be_permanent=False)
    if isinstance(error, smtplib.SMTPResponseException):
        detail = _said(server, error.smtp_code, error.smtp_error)
        return MailError(
            "The mail server refuses to work for us.", log_detail=detail, server_is_away=True, was_not_taken=True
        )
    if isinstance(error, ssl.SSLError):
        sentence = "The mail server cannot be reached securely."
    elif isinstance(error, smtplib.SMTPNotSupportedError):
        sentence = "The mail server lacks what the settings ask for."
    else:
        sentence = "The mail server does not answer."
    return MailError(
        sentence,
        log_detail=f"{server}: {visible(str(error))}",
        server_is_away=not in_conversation,
        was_not_taken=not in_conversation,
    )


def _refusal(sentence: str, server: str, code: int, text: bytes | str, *, can_be_permanent: bool = True) -> MailError:
    is_ours = code in _LOGIN_CODES
    return MailError(
        sentence,
        log_detail=_said(server, code, text),
        permanent=can_be_permanent and 500 <= code < 600 and not is_ours,
        server_is_away=is_ours or code == _CLOSING,
        was_not_taken=True,
    )


def _said(server: str, code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{server}: {code} {visible(' '.join(words.split()))[:300]}"
