"""Mail through a real SMTP server that refuses, sleeps, goes away and comes back."""

import email.policy
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from aiosmtpd.smtp import Session as SmtpSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy.orm import Session

from portal.errors import MailError, StorageError
from portal.mail.message import parse_message
from portal.mail.outbox import OutboxSender
from portal.mail.transport import SmtpTransport, transport_from_settings
from portal.settings import MailSection
from tests.mail_bench import Bench, plain_text

pytestmark = pytest.mark.daemon


class Postmaster:
    """What the server keeps, and what it answers."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.were_encrypted: list[bool] = []
        self.to_sender = self.to_recipient = self.to_data = "250 OK"

    async def handle_MAIL(
        self, server: SMTP, session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self.to_sender

    async def handle_RCPT(
        self, server: SMTP, session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.to_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, server: SMTP, session: SmtpSession, envelope: Envelope) -> str:
        if self.to_data.startswith("250"):
            self.envelopes.append(envelope)
            self.were_encrypted.append(session.ssl is not None)
        return self.to_data

    def messages(self) -> list[EmailMessage]:
        return [parse_message(content(envelope)) for envelope in self.envelopes]


def content(envelope: Envelope) -> bytes:
    data = envelope.content
    assert isinstance(data, bytes)
    return data


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(postmaster: Postmaster, port: int, **options: Any) -> Iterator[None]:
    controller = Controller(postmaster, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield
    finally:
        controller.stop()


@pytest.fixture
def postmaster() -> Postmaster:
    return Postmaster()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def bench(tmp_path: Path, port: int) -> Iterator[Bench]:
    section = MailSection(transport="smtp", smtp_host="127.0.0.1", smtp_port=port, smtp_timeout_seconds=5)
    bench = Bench(tmp_path, section)
    yield bench
    bench.close()


@pytest.fixture
def sender(bench: Bench) -> OutboxSender:
    return bench.sender(transport_from_settings(bench.settings))


def letter(to: str = "ann@example.org") -> EmailMessage:
    message = EmailMessage(policy=email.policy.SMTP if to.isascii() else email.policy.SMTPUTF8)
    message["From"] = "portal@example.org"
    message["To"] = to
    message["Subject"] = "Done"
    message["Message-ID"] = "<tcfnctbq.1.succeeded@example.org>"
    message.set_content("Line one\n.a line that begins with a dot\n", cte="quoted-printable")
    return message


def test_a_message_arrives_whole(bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int) -> None:
    job_id = bench.done_job()
    with serving(postmaster, port):
        assert sender.send_due() == 1
    [envelope] = postmaster.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("portal@portal.example.org", ["ann@example.org"])
    assert content(envelope) == bench.attempt(job_id).mail.read_bytes()
    assert "Done: the answer is 4." in plain_text(postmaster.messages()[0])


@pytest.mark.parametrize("stage", ["to_recipient", "to_data"])
def test_a_refusal_for_good_is_never_tried_again(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int, stage: str
) -> None:
    bench.done_job()
    setattr(postmaster, stage, "550 5.1.1 no such mailbox")
    with serving(postmaster, port):
        assert sender.send_due() == 0
        assert bench.row().refused_at == bench.clock.now
        assert "550 5.1.1 no such mailbox" in str(bench.row().last_error)
        setattr(postmaster, stage, "250 OK")
        bench.clock.turn(86400)
        assert sender.send_due() == 0
    assert postmaster.envelopes == []


@pytest.mark.parametrize(
    ("stage", "answer", "tries"),
    [
        ("to_recipient", "451 4.7.1 greylisted", 1),
        ("to_recipient", "530 5.7.0 authentication required", 0),
        ("to_data", "452 4.3.1 no space", 1),
        ("to_sender", "550 5.7.1 you may not send from here", 0),
    ],
)
def test_a_refusal_for_now_is_tried_again(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int, stage: str, answer: str, tries: int
) -> None:
    bench.done_job()
    setattr(postmaster, stage, answer)
    with serving(postmaster, port):
        assert sender.send_due() == 0
        assert (bench.row().refused_at, bench.row().tries) == (None, tries)
        assert answer in str(bench.row().last_error)
        setattr(postmaster, stage, "250 OK")
        bench.clock.turn(10)
        assert sender.send_due() == 1
    assert len(postmaster.envelopes) == 1


def test_one_refused_address_does_not_hold_up_another(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int
) -> None:
    bench.done_job(email="jürgen@bücher.example")
    bench.done_job(email="bob@example.org")
    with serving(postmaster, port, enable_SMTPUTF8=False):
        assert sender.send_due() == 1
    assert postmaster.envelopes[0].rcpt_tos == ["bob@example.org"]


def test_down_and_back_exactly_one_message_arrives(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int
) -> None:
    bench.done_job()
    for _ in range(3):
        assert sender.send_due() == 0
        bench.clock.turn(3600)
    assert bench.row().tries == 0
    assert "does not answer" in str(bench.row().last_error)
    with serving(postmaster, port):
        assert (sender.send_due(), sender.send_due()) == (1, 0)
    [message] = postmaster.messages()
    assert message["Message-ID"] == bench.row().message_id


@contextmanager
def mute_server(port: int, greeting: bytes, hangs_up: bool = False) -> Iterator[None]:
    """Takes one connection, greets, and never says another word."""
    done = threading.Event()

    def converse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(greeting)
            if not hangs_up:
                done.wait(30)

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=converse)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(10)


@pytest.mark.parametrize("greeting", [b"", b"220 slow.example.org\r\n"], ids=["never greets", "greets and sleeps"])
def test_a_server_that_does_not_answer_is_left_and_the_mail_goes_out_later(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int, greeting: bytes
) -> None:
    bench.done_job()
    impatient = SmtpTransport("127.0.0.1", port, timeout_seconds=0.3)
    with mute_server(port, greeting):
        assert bench.sender(impatient).send_due() == 0
    assert bench.row().refused_at is None
    assert "does not answer" in str(bench.row().last_error)
    bench.clock.turn(10)
    with serving(postmaster, port):
        assert sender.send_due() == 1
    assert postmaster.messages()[0]["Message-ID"] == bench.row().message_id


def test_a_server_that_hangs_up_is_tried_again(bench: Bench, sender: OutboxSender, port: int) -> None:
    bench.done_job()
    with mute_server(port, b"220 hello\r\n", hangs_up=True):
        assert sender.send_due() == 0
    assert (bench.row().refused_at, bench.row().tries) == (None, 0)
    assert "does not answer" in str(bench.row().last_error)


def test_down_for_a_day_with_a_hundred_outcomes_each_person_hears_once(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int
) -> None:
    people = ("ann@example.org", "bob@example.org", "eve@example.org")
    jobs: dict[str, list[str]] = {person: [] for person in people}
    for number in range(100):
        person = people[number % 3]
        jobs[person].append(bench.done_job(email=person))
        assert sender.send_due() == 0
        bench.clock.turn(864)
    with serving(postmaster, port):
        assert (sender.send_due(), sender.send_due()) == (3, 0)
    assert sorted(envelope.rcpt_tos for envelope in postmaster.envelopes) == [[person] for person in people]
    for message in postmaster.messages():
        expected = jobs[message["To"].addresses[0].addr_spec]
        assert re.findall("^([a-z]{8})  8, 2", plain_text(message), re.MULTILINE) == expected
    assert all(row.sent_at for row in bench.rows())


def test_a_lost_reply_to_a_digest_repeats_the_same_message_with_the_same_members(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int
) -> None:
    bench.done_job()
    bench.done_job()
    assert sender.send_due() == 0
    bench.clock.turn(600)
    with taking_without_an_answer(port) as taken:
        assert sender.send_due() == 0
    bench.done_job()
    bench.clock.turn(600)
    with serving(postmaster, port):
        assert (sender.send_due(), sender.send_due()) == (2, 0)
    digest, later = postmaster.messages()
    assert [content(postmaster.envelopes[0])] == taken
    assert str(digest["Message-ID"]).startswith("<digest.")
    assert later["Message-ID"] == bench.rows()[2].message_id


@contextmanager
def taking_without_an_answer(port: int) -> Iterator[list[bytes]]:
    """A server that takes one message whole, and hangs up before it says so."""
    taken: list[bytes] = []

    def converse() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as wire:
            wire.write(b"220 hello\r\n")
            wire.flush()
            while not wire.readline().upper().startswith(b"DATA"):
                wire.write(b"250 OK\r\n")
                wire.flush()
            wire.write(b"354 go on\r\n")
            wire.flush()
            lines = []
            while (line := wire.readline()) != b".\r\n":
                lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
            taken.append(b"".join(lines))

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=converse)
        thread.start()
        yield taken
        thread.join(10)


class CommitFails:
    """In place of `Database.writing`: everything is done, and then the commit fails."""

    def __init__(self, writing: AbstractContextManager[Session]) -> None:
        self.writing = writing

    def __enter__(self) -> Session:
        return self.writing.__enter__()

    def __exit__(self, *details: object) -> None:
        error = StorageError("The database is away.")
        self.writing.__exit__(StorageError, error, None)
        raise error


@pytest.mark.parametrize("note_survives", [True, False])
def test_a_crash_between_sending_and_commit_repeats_the_same_message_id_at_most(
    bench: Bench,
    sender: OutboxSender,
    postmaster: Postmaster,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    note_survives: bool,
) -> None:
    attempt = bench.attempt(bench.done_job())
    writing = bench.database.writing
    with serving(postmaster, port):
        with monkeypatch.context() as broken:
            broken.setattr(bench.database, "writing", lambda: CommitFails(writing()))
            with pytest.raises(StorageError):
                sender.send_due()
        assert bench.row().sent_at is None
        if not note_survives:
            attempt.mail_sent.unlink()
        assert (sender.send_due(), sender.send_due()) == (1, 0)
    assert len(postmaster.envelopes) == (1 if note_survives else 2)
    assert len({content(envelope) for envelope in postmaster.envelopes}) == 1
    assert postmaster.messages()[0]["Message-ID"] == bench.row().message_id


def test_an_address_beyond_ascii_goes_out_by_smtputf8(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int
) -> None:
    bench.done_job(email="jürgen@bücher.example")
    with serving(postmaster, port, enable_SMTPUTF8=True):
        assert sender.send_due() == 1
    [envelope] = postmaster.envelopes
    assert envelope.rcpt_tos == ["jürgen@bücher.example"]
    assert "SMTPUTF8" in envelope.mail_options
    assert postmaster.messages()[0]["To"].addresses[0].addr_spec == "jürgen@bücher.example"


def test_an_address_beyond_ascii_is_refused_where_the_server_cannot_take_it(
    bench: Bench, sender: OutboxSender, postmaster: Postmaster, port: int
) -> None:
    bench.done_job(email="jürgen@bücher.example")
    with serving(postmaster, port, enable_SMTPUTF8=False):
        assert sender.send_due() == 0
    assert bench.row().refused_at == bench.clock.now
    assert "letters beyond ASCII" in str(bench.row().last_error)
    assert "SMTPUTF8" in str(bench.row().last_error)


def test_a_domain_or_a_name_beyond_ascii_needs_no_smtputf8(tmp_path: Path, postmaster: Postmaster, port: int) -> None:
    bench = Bench(tmp_path, MailSection(transport="smtp", smtp_host="127.0.0.1", smtp_port=port))
    portal = bench.settings.portal.model_copy(update={"site_name": "Portal für Köln"})
    bench.settings = bench.settings.model_copy(update={"portal": portal})
    bench.done_job(email="ann@bücher.example")
    with serving(postmaster, port, enable_SMTPUTF8=False):
        assert bench.sender(transport_from_settings(bench.settings)).send_due() == 1
    [envelope] = postmaster.envelopes
    assert envelope.rcpt_tos == ["ann@xn--bcher-kva.example"]
    assert content(envelope).isascii()
    [message] = postmaster.messages()
    assert message["From"].addresses[0].display_name == "Portal für Köln"
    bench.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a certificate that nobody but this module trusts, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


def patient(port: int, **options: Any) -> SmtpTransport:
    return SmtpTransport("127.0.0.1", port, timeout_seconds=10, **options)


def test_starttls_with_a_trusted_certificate_encrypts(
    postmaster: Postmaster, port: int, server_tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with serving(postmaster, port, tls_context=server_tls, require_starttls=True):
        patient(port, starttls=True, tls_context=trusting).send(letter())
    assert postmaster.were_encrypted == [True]


def test_starttls_with_a_certificate_that_nobody_vouches_for_sends_nothing(
    postmaster: Postmaster, port: int, server_tls: ssl.SSLContext
) -> None:
    with (
        serving(postmaster, port, tls_context=server_tls),
        pytest.raises(MailError, match=r"securely.*CERTIFICATE_VERIFY_FAILED") as caught,
    ):
        patient(port, starttls=True).send(letter())
    assert not caught.value.permanent
    assert postmaster.envelopes == []


def test_starttls_that_is_not_offered_sends_nothing_in_the_clear(postmaster: Postmaster, port: int) -> None:
    with serving(postmaster, port), pytest.raises(MailError, match="STARTTLS") as caught:
        patient(port, starttls=True).send(letter())
    assert not caught.value.permanent
    assert postmaster.envelopes == []


def test_a_login_with_the_password_of_the_moment(
    postmaster: Postmaster,
    port: int,
    tmp_path: Path,
    server_tls: ssl.SSLContext,
    certificate: tuple[Path, Path],
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    transport = patient(port, starttls=True, tls_context=trusting, user="portal", password_file=password)

    def authenticate(
        server: SMTP, session: SmtpSession, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        return AuthResult(success=data == LoginPassword(login=b"portal", password=b"right"), handled=False)

    with serving(postmaster, port, tls_context=server_tls, authenticator=authenticate, auth_required=True):
        with pytest.raises(MailError, match="535") as caught:
            transport.send(letter())
        assert not caught.value.permanent
        password.write_text("right\n")
        transport.send(letter())
    assert len(postmaster.envelopes) == 1


def test_a_line_that_begins_with_a_dot_arrives_as_it_was(postmaster: Postmaster, port: int) -> None:
    with serving(postmaster, port):
        patient(port).send(letter())
    assert b"\r\n.a line that begins with a dot\r\n" in content(postmaster.envelopes[0])
