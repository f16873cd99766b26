"""The node's own mail: to a real SMTP server, after a success only, and never in the way of the job."""

import email
import socket
from collections.abc import Iterator
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from portal.clock import parse_utc_text
from tests.wrapper_attempts import Attempt

pytestmark = pytest.mark.daemon

MESSAGE = b"""From: portal@example.org
To: ann@example.org
Subject: Job tcfnctbq is done
Message-ID: <tcfnctbq.1.succeeded@example.org>

Line one
.a line that begins with a dot
http://example.org/jobs/tcfnctbq
"""


class Mailbox:
    """Keeps what arrives; answers with `answer`."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return self.answer


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port(mailbox: Mailbox) -> Iterator[int]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller.port
    controller.stop()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def attempt_with_mail(job_dir: Path, program: str, port: int) -> Attempt:
    mail = {
        "smtp_host": "127.0.0.1",
        "smtp_port": str(port),
        "from_address": "portal@example.org",
        "to": "ann@example.org",
        "timeout_seconds": "5",
    }
    attempt = Attempt(job_dir, program, mail=mail)
    (attempt.folder / "mail.eml").write_bytes(MESSAGE)
    return attempt


def test_a_success_is_mailed_and_the_note_names_the_message(tmp_path: Path, mailbox: Mailbox, port: int) -> None:
    attempt = attempt_with_mail(tmp_path, "true\n", port)
    ended = attempt.run()
    assert (ended.returncode, ended.stderr) == (0, "")
    [envelope] = mailbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("portal@example.org", ["ann@example.org"])
    assert isinstance(envelope.content, bytes)
    message = email.message_from_bytes(envelope.content, policy=default)
    assert message["Subject"] == "Job tcfnctbq is done"
    assert message.get_content().splitlines()[1] == ".a line that begins with a dot"
    when, message_id = (attempt.work / "mail.sent").read_text().split()
    parse_utc_text(when)
    assert message_id == "<tcfnctbq.1.succeeded@example.org>"


def test_only_a_success_is_mailed(tmp_path: Path, mailbox: Mailbox, port: int) -> None:
    attempt = attempt_with_mail(tmp_path, "exit 1\n", port)
    assert attempt.run().returncode == 1
    assert mailbox.envelopes == []
    assert not (attempt.work / "mail.sent").exists()


def test_an_attempt_that_was_overtaken_keeps_silent(tmp_path: Path, mailbox: Mailbox, port: int) -> None:
    attempt = attempt_with_mail(tmp_path, "true\n", port)
    Attempt(tmp_path, "true\n", number=2)
    assert attempt.run().returncode == 0
    assert mailbox.envelopes == []


@pytest.mark.parametrize(
    ("verdict", "mails"),
    [
        ('{"state": "FAILED", "next_attempt": 2}', 0),
        ('{"state": "FAILED", "next_attempt": null}', 1),
        ('{"state": "FAIL', 1),
        ("[2]", 1),
    ],
)
def test_one_that_the_portal_gave_up_in_favour_of_another_keeps_silent(
    tmp_path: Path, mailbox: Mailbox, port: int, verdict: str, mails: int
) -> None:
    attempt = attempt_with_mail(tmp_path, "true\n", port)
    (attempt.folder / "verdict.json").write_text(verdict)
    assert attempt.run().returncode == 0
    assert len(mailbox.envelopes) == mails


def test_a_server_that_refuses_does_not_spoil_the_job(tmp_path: Path, mailbox: Mailbox, port: int) -> None:
    mailbox.answer = "554 no\x1b[31m thanks"
    attempt = attempt_with_mail(tmp_path, "true\n", port)
    ended = attempt.run()
    assert ended.returncode == 0
    assert ended.stderr.startswith("portal wrapper: the mail was not sent from this node: ")
    assert (ended.stderr.count("\n"), "\x1b" in ended.stderr) == (1, False)
    assert attempt.markers == ["SUCCESS"]
    assert not (attempt.work / "mail.sent").exists()


@pytest.mark.parametrize("missing", ["server", "message"])
def test_no_server_or_no_message_does_not_spoil_the_job(tmp_path: Path, missing: str) -> None:
    attempt = attempt_with_mail(tmp_path, "true\n", free_port())
    if missing == "message":
        (attempt.folder / "mail.eml").unlink()
    ended = attempt.run()
    assert ended.returncode == 0
    assert ended.stderr.count("\n") == 1
    assert attempt.markers == ["SUCCESS"]
    assert not (attempt.work / "mail.sent").exists()
