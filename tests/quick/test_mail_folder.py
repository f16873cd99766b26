"""Mail in a folder: written whole, once per Message-ID, and read again for the page /mail."""

import os
import stat
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from portal.errors import MailError, NotFoundError
from portal.mail.mailbox import list_messages, read_message
from portal.mail.message import parse_message
from portal.mail.transport import (
    FolderTransport,
    SmtpTransport,
    file_name,
    transport_from_settings,
)
from portal.settings import MailSection, Settings


def letter(number: int = 1, text: str = "Done.\nhttps://portal.example.org/jobs/tcfnctbq?key=abc\n") -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "portal@example.org"
    message["To"] = "ann@example.org"
    message["Subject"] = f"Message {number}"
    message["Date"] = "Tue, 24 Nov 2026 06:00:00 +0000"
    message["Message-ID"] = f"<tcfnctbq.{number}.succeeded@example.org>"
    message.set_content(text, cte="quoted-printable")
    return message


def test_a_message_becomes_one_file_and_a_repeat_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mail"
    transport = FolderTransport(folder)
    transport.send(letter())
    transport.send(letter())
    [file] = folder.iterdir()
    assert file.name == "tcfnctbq.1.succeeded@example.org.eml"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert parse_message(file.read_bytes())["Subject"] == "Message 1"


def test_a_folder_that_cannot_be_made_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file is in the way")
    with pytest.raises(MailError, match="mail folder") as caught:
        FolderTransport(tmp_path / "mail").send(letter())
    assert not caught.value.permanent


@pytest.mark.parametrize(
    "message_id", ["", "<>", "<../../etc/passwd>", "<.hidden@x>", "<a/b@x>", "<ä@x>", "<" + "a" * 400 + ">"]
)
def test_no_message_id_leads_out_of_the_folder(tmp_path: Path, message_id: str) -> None:
    name = file_name(message_id)
    assert name == Path(name).name
    assert not name.startswith((".", "-"))
    assert name.endswith(".eml")
    assert len(name) < 200
    assert name != file_name(message_id + "b")


def test_the_newest_message_is_shown_first(tmp_path: Path) -> None:
    transport = FolderTransport(tmp_path)
    for number in (1, 2, 3):
        transport.send(letter(number))
        os.utime(tmp_path / f"tcfnctbq.{number}.succeeded@example.org.eml", ns=(number, number))
    shown = list_messages(tmp_path, 2)
    assert [mail.subject for mail in shown] == ["Message 3", "Message 2"]
    [first, _] = shown
    assert (first.to, first.links) == ("ann@example.org", ("https://portal.example.org/jobs/tcfnctbq?key=abc",))
    assert first.text.startswith("Done.\n")
    assert first.date is not None
    assert read_message(tmp_path, first.name) == first


def test_there_is_no_mail_where_there_is_no_folder(tmp_path: Path) -> None:
    assert list_messages(tmp_path / "mail", 10) == []


def test_junk_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    FolderTransport(tmp_path).send(letter())
    (tmp_path / "empty.eml").write_bytes(b"")
    (tmp_path / "noise.eml").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "charset.eml").write_bytes(b"Subject: x\nContent-Type: text/plain; charset=nonsense\n\n\xff\xfe")
    (tmp_path / "notes.txt").write_text("not mail")
    (tmp_path / ".half.eml").write_bytes(b"Subject: half")
    (tmp_path / "folder.eml").mkdir()
    (tmp_path / "link.eml").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo.eml")
    subjects = [mail.subject for mail in list_messages(tmp_path, 10)]
    assert "Message 1" in subjects
    assert set(subjects) <= {"Message 1", "x"}


@pytest.mark.parametrize(
    "name",
    ["missing.eml", "../secret.eml", "/etc/passwd", ".half.eml", "notes.txt", "link.eml", "fifo.eml", "a\0.eml", ""],
)
def test_only_plain_messages_in_the_folder_are_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mail"
    folder.mkdir()
    (tmp_path / "secret.eml").write_bytes(letter().as_bytes())
    (folder / ".half.eml").write_bytes(letter().as_bytes())
    (folder / "notes.txt").write_bytes(letter().as_bytes())
    (folder / "link.eml").symlink_to(tmp_path / "secret.eml")
    os.mkfifo(folder / "fifo.eml")
    with pytest.raises(NotFoundError):
        read_message(folder, name)


def test_control_characters_in_a_message_are_shown_not_sent(tmp_path: Path) -> None:
    (tmp_path / "evil.eml").write_bytes(b"Subject: =?utf-8?q?a=1B=0D=0Ab?=\n\nred \x1b[31m text\n")
    shown = read_message(tmp_path, "evil.eml")
    assert shown.subject == "a\\x1b\\x0d\\x0ab"
    assert shown.text == "red \\x1b[31m text\n"


def test_a_message_with_letters_beyond_ascii_in_its_headers(tmp_path: Path) -> None:
    (tmp_path / "utf8.eml").write_bytes("To: jürgen@bücher.example\nSubject: Grüße\n\nHallo\n".encode())
    shown = read_message(tmp_path, "utf8.eml")
    assert (shown.to, shown.subject) == ("jürgen@bücher.example", "Grüße")


def test_the_settings_choose_the_way_out(tmp_path: Path) -> None:
    in_folder = transport_from_settings(Settings(mail=MailSection(folder=tmp_path)))
    assert isinstance(in_folder, FolderTransport)
    assert in_folder.folder == tmp_path
    assert isinstance(transport_from_settings(Settings(mail=MailSection(transport="smtp"))), SmtpTransport)


def test_a_password_that_cannot_be_read_is_a_matter_for_later(tmp_path: Path) -> None:
    missing = tmp_path / "password"
    transport = SmtpTransport("127.0.0.1", 1, timeout_seconds=1, user="portal", password_file=missing)
    for content in (None, "\n", "Köln\n"):
        if content is not None:
            missing.write_text(content, "utf-8")
        with pytest.raises(MailError, match="smtp_password_file") as caught:
            transport.send(letter())
        assert not caught.value.permanent


def test_a_message_for_nobody_is_refused_for_good() -> None:
    message = EmailMessage()
    message["From"] = "portal@example.org"
    with pytest.raises(MailError, match="no recipient") as caught:
        SmtpTransport("127.0.0.1", 1, timeout_seconds=1).send(message)
    assert caught.value.permanent
