"""What the mail about a job says. Pure: the same facts are the same message.

Headers and addresses are made by `email.message` only, never by joining strings, and whatever people or programs
wrote is shown with its control characters visible, so that no value can become a header, a link or markup.
"""

import email.parser
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from email_validator import EmailNotValidError, validate_email
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from portal.jobs.words import visible

ERROR_TEXT_MAX_CHARACTERS = 4000
"""How much of a program's error text a message carries, from its end."""
_DISPLAY_NAME_MAX_CHARACTERS = 60
_DOMAIN_MAX_CHARACTERS = 100


class Outcome(StrEnum):
    """What a message tells; each is told once for an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CORRECTED = "corrected"
    """A failure was announced, and a late status file says how it really ended."""


@dataclass(frozen=True)
class MailFacts:
    """All that a message about one attempt says. Texts may hold anything; they are made safe when it is built."""

    message_id: str
    date: datetime
    recipient: str
    sender: str
    site_name: str
    job_id: str
    title: str
    """The inputs in a few words."""
    application_title: str
    outcome: Outcome
    has_succeeded: bool
    """For a correction, too: how it stands now."""
    summary: str
    """One sentence, such as `Done: the answer is 4.`"""
    link: str
    """The job's page, with the key that lets whoever holds the mail look."""
    created_utc: datetime
    ended_utc: datetime | None = None
    run_seconds: float | None = None
    kept_until_utc: datetime | None = None
    """When the job and its files are deleted, where the portal does that."""
    kept_days: int | None = None
    """The same, of a message that is written before anybody knows when the job will have ended."""
    answer: str | None = None
    warning: str | None = None
    advice: str = ""
    """What it means for the reader and what comes next."""
    scheduler_facts: str = ""
    """What the scheduler recorded of a failure, in its own words."""
    error_text: str = ""
    """The last lines that the program wrote to its error output."""


_WORDS = {Outcome.SUCCEEDED: "Done", Outcome.FAILED: "Failed", Outcome.CANCELLED: "Cancelled"}

_PAGE_SENTENCES = {
    Outcome.SUCCEEDED: "The results, and their files to download, are on the job's page:",
    Outcome.FAILED: "All its output, and what happened when, is on the job's page:",
    Outcome.CANCELLED: "Nothing more will run. What there is stays on the job's page:",
    Outcome.CORRECTED: "What is known now is on the job's page:",
}

_FOLDED_AT_ONCE = re.compile(rb"^([!-9;-~]+:)[ \t]*\r?\n[ \t]+", re.MULTILINE)

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def message_id(job_id: str, attempt_number: int, outcome: str, domain: str) -> str:
    """`<tcfnctbq.1.succeeded@portal.example.org>`: the same for the same key, and different for another one."""
    return f"<{job_id}.{attempt_number}.{outcome}@{safe_domain(domain)}>"


def safe_domain(domain: str) -> str:
    """What of a domain can stand in a Message-ID."""
    return re.sub(r"[^a-z0-9.-]+|\.{2,}", "-", domain.lower())[:_DOMAIN_MAX_CHARACTERS].strip(".-") or "portal"


def build_message(facts: MailFacts) -> EmailMessage:
    """The message: plain text with an HTML alternative, both quoted-printable.

    Its policy is SMTPUTF8 where an address cannot be written in ASCII, else SMTP. Raises ValueError for something
    that is not an address.
    """
    subject = f"[{facts.site_name}] {word(facts)}: {facts.title} (job {facts.job_id})"
    return addressed(facts, subject, facts.message_id, facts.date, "outcome", job_context(facts))


def addressed(
    facts: MailFacts, subject: str, message_id: str, date: datetime, template: str, context: dict[str, object]
) -> EmailMessage:
    """A message of this template from and to the addresses of `facts`. Raises ValueError as `build_message` does."""
    sender = _address(facts.sender, _shortened(one_line(facts.site_name), _DISPLAY_NAME_MAX_CHARACTERS))
    recipient = _address(facts.recipient)
    fits_ascii = sender.addr_spec.isascii() and recipient.addr_spec.isascii()
    message = EmailMessage(policy=SMTP if fits_ascii else SMTPUTF8)
    message["From"] = sender
    message["To"] = recipient
    message["Subject"] = _header_text(subject)
    message["Date"] = date
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"
    plain = _templates.get_template(f"{template}.txt.j2").render(context)
    html = _templates.get_template(f"{template}.html.j2").render(context)
    message.set_content(plain, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message


def parse_message(data: bytes) -> EmailMessage:
    """A message from its bytes; whatever is no message gives one with defects, as is usual with mail.

    Written out again, the message of `build_message` is the same to the byte.
    """
    headers = re.split(rb"(?<=\n)\r?\n", data, maxsplit=1)[0]
    # A value that begins on the second line of its header would keep the fold as a space.
    data = _FOLDED_AT_ONCE.sub(rb"\1 ", headers) + data[len(headers) :]
    if headers.isascii():
        return email.parser.BytesParser(EmailMessage, policy=SMTP).parsebytes(data)
    # The parser of bytes mangles UTF-8 in headers; ours have it there only, the bodies being quoted-printable.
    return email.parser.Parser(EmailMessage, policy=SMTPUTF8).parsestr(data.decode("utf-8", "replace"))


def one_line(text: str) -> str:
    """`text` with every control and line-separating character visible, so that it is one line anywhere."""
    return "".join(
        f"\\u{ord(character):04x}"
        if character in "\u2028\u2029"
        else f"\\x{ord(character):02x}"
        if character in "\n\t"
        else visible(character)
        for character in text
    )


def word(facts: MailFacts) -> str:
    """Done, Failed, Cancelled, Correction (done) or Correction (failed)."""
    if facts.outcome is Outcome.CORRECTED:
        return "Correction (done)" if facts.has_succeeded else "Correction (failed)"
    return _WORDS[facts.outcome]


def _address(text: str, display_name: str = "") -> Address:
    """The address for a header: in ASCII where only its domain is not, which every server takes."""
    if not text.isascii():
        try:
            checked = validate_email(text, check_deliverability=False, globally_deliverable=False)
        except EmailNotValidError as error:
            raise ValueError(f"not an email address: {one_line(text)}") from error
        text = checked.ascii_email or checked.normalized
    user, at, domain = text.rpartition("@")
    if not (user and at and domain) or one_line(text) != text:
        raise ValueError(f"not an email address: {one_line(text)}")
    return Address(_without_encoded_words(display_name), user, _domain_or_literal(domain))


def _domain_or_literal(domain: str) -> str:
    """`127.0.0.1` as `[127.0.0.1]`, which is how mail writes a host without a name (RFC 5321, 4.1.3)."""
    try:
        host = ip_address(domain)
    except ValueError:
        return domain
    return f"[IPv6:{host}]" if host.version == 6 else f"[{host}]"


def _header_text(text: str) -> str:
    return _without_encoded_words(one_line(text))


def _without_encoded_words(text: str) -> str:
    # `=?utf-8?q?…?=` in a title would pass as it is, and be decoded by the reader's mail program.
    return text.replace("=?", "= ?")


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def job_context(facts: MailFacts) -> dict[str, object]:
    """What the templates see: texts that are safe in one line, and times in words."""
    return {
        "outcome": facts.outcome.value,
        "heading": f"{word(facts)}: {one_line(facts.title)}",
        "has_succeeded": facts.has_succeeded,
        "site_name": one_line(facts.site_name),
        "job_id": facts.job_id,
        "title": one_line(facts.title),
        "application_title": one_line(facts.application_title),
        "summary": one_line(facts.summary),
        "answer": None if facts.answer is None else one_line(facts.answer),
        "warning": one_line(facts.warning or ""),
        "advice": one_line(facts.advice),
        "scheduler_facts": one_line(facts.scheduler_facts),
        "page_sentence": _PAGE_SENTENCES[facts.outcome],
        "link": one_line(facts.link),
        "error_lines": visible(facts.error_text[-ERROR_TEXT_MAX_CHARACTERS:]).strip("\n").splitlines(),
        "created": _time_words(facts.created_utc),
        "ended": _time_words(facts.ended_utc) if facts.ended_utc else "",
        "kept_until": f"{facts.kept_until_utc.astimezone(UTC):%Y-%m-%d}" if facts.kept_until_utc else "",
        "kept_days": facts.kept_days,
        "ran_for": "" if facts.run_seconds is None else duration_words(facts.run_seconds),
    }


def _time_words(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration_words(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 days 4 h`: two units at most."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"
