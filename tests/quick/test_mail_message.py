"""What a message says, and that nothing that anybody typed or a program wrote becomes a header or markup."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest

from portal.mail.message import MailFacts, Outcome, build_message, duration_words, message_id, parse_message
from tests.mail_bench import html_text, plain_text

LINK = "https://portal.example.org/jobs/tcfnctbq?key=abcdefghijklmnopqrstuvwxyz"
DONE = MailFacts(
    message_id="<tcfnctbq.1.succeeded@portal.example.org>",
    date=datetime(2026, 11, 24, 6, 0, 5, tzinfo=UTC),
    recipient="ann@example.org",
    sender="portal@example.org",
    site_name="Portal",
    job_id="tcfnctbq",
    title="8, 2",
    application_title="Slow division",
    outcome=Outcome.SUCCEEDED,
    has_succeeded=True,
    summary="Done: the answer is 4.",
    link=LINK,
    created_utc=datetime(2026, 11, 24, 6, 0, tzinfo=UTC),
    ended_utc=datetime(2026, 11, 24, 6, 0, 4, tzinfo=UTC),
    run_seconds=3,
    answer="4",
)
FAILED = replace(
    DONE,
    outcome=Outcome.FAILED,
    has_succeeded=False,
    summary="Failed: the program ended with exit code 1.",
    advice="What the program wrote may say why.",
    answer=None,
    error_text="slow_div: y should not be 0\n",
)


def headers(message: EmailMessage) -> list[str]:
    return [name for name, _ in parse_message(message.as_bytes()).items()]


def test_a_success_says_what_came_out_and_where() -> None:
    message = parse_message(build_message(DONE).as_bytes())
    assert message["Subject"] == "[Portal] Done: 8, 2 (job tcfnctbq)"
    assert (message["From"], message["To"]) == ("Portal <portal@example.org>", "ann@example.org")
    assert message["Message-ID"] == DONE.message_id
    assert message["Date"].datetime == DONE.date
    assert message["Auto-Submitted"] == "auto-generated"
    assert plain_text(message).startswith("Done: the answer is 4.\n")
    assert f"\n{LINK}\n" in plain_text(message)
    assert "Ran for:     3.0 s\n" in plain_text(message)
    assert "error output" not in plain_text(message)
    assert re.search(r'font-size:42px[^>]*">4</p>', html_text(message))
    assert f'href="{LINK}"' in html_text(message)


def test_both_texts_are_quoted_printable() -> None:
    parts = list(build_message(DONE).iter_parts())
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    assert {part["Content-Transfer-Encoding"] for part in parts} == {"quoted-printable"}


def test_a_failure_carries_the_programs_error_text() -> None:
    message = build_message(FAILED)
    assert message["Subject"] == "[Portal] Failed: 8, 2 (job tcfnctbq)"
    assert "\n    slow_div: y should not be 0\n" in plain_text(message)
    assert "slow_div: y should not be 0" in html_text(message)


def test_a_cancelled_job_is_said_to_be_cancelled() -> None:
    message = build_message(replace(FAILED, outcome=Outcome.CANCELLED, summary="Cancelled by you.", error_text=""))
    assert message["Subject"] == "[Portal] Cancelled: 8, 2 (job tcfnctbq)"
    assert plain_text(message).startswith("Cancelled by you.\n")


@pytest.mark.parametrize(("facts", "word"), [(DONE, "done"), (FAILED, "failed")])
def test_a_correction_says_that_the_earlier_mail_was_wrong(facts: MailFacts, word: str) -> None:
    message = build_message(replace(facts, outcome=Outcome.CORRECTED))
    assert message["Subject"] == f"[Portal] Correction ({word}): 8, 2 (job tcfnctbq)"
    for text in (plain_text(message), html_text(message)):
        assert "That mail was wrong" in text
        assert "thought dead, and has come back" in text
        assert facts.summary in text


HOSTILE = [
    "8\r\nBcc: eve@example.org",
    "8\nX-Evil: 1\n\nbody",
    "8\x00\x1b[31m\x7f",
    "8\u2028Bcc: eve@example.org\u2029\x85\x0b\x0c\x1c",
    "=?utf-8?q?=0D=0ABcc=3A_eve=40example=2Eorg?=",
    'a", <eve@example.org>, "b',
    "\ud800 half a character",
    "ä ö ü " * 40,
    "x" * 500,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_becomes_a_header_or_another_recipient(value: str) -> None:
    hostile = replace(
        FAILED,
        title=value,
        site_name=value,
        application_title=value,
        summary=value,
        advice=value,
        warning=value,
        error_text=value,
    )
    message = build_message(hostile)
    assert headers(message) == headers(build_message(DONE))
    again = parse_message(message.as_bytes())
    assert [address.addr_spec for address in again["To"].addresses] == ["ann@example.org"]
    assert [address.addr_spec for address in again["From"].addresses] == ["portal@example.org"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", str(again["Subject"]) + plain_text(again))
    assert "tcfnctbq" in again["Subject"]


def test_no_value_becomes_markup_or_a_template() -> None:
    evil = '<script>alert("1")</script>{{ link }}{% raw %}'
    message = build_message(replace(FAILED, title=evil, summary=evil, error_text=evil, answer=evil))
    assert "<script" not in html_text(message)
    assert "&lt;script&gt;" in html_text(message)
    assert evil in plain_text(message)


def test_an_address_and_a_name_beyond_ascii() -> None:
    message = build_message(replace(DONE, recipient="jürgen@bücher.example", site_name="Portal für Köln, Lab 3"))
    data = message.as_bytes()
    assert "jürgen@bücher.example".encode() in data
    again = parse_message(data)
    assert again["To"].addresses[0].addr_spec == "jürgen@bücher.example"
    assert again["From"].addresses[0].display_name == "Portal für Köln, Lab 3"
    assert again["Subject"] == "[Portal für Köln, Lab 3] Done: 8, 2 (job tcfnctbq)"


def test_a_name_beyond_ascii_alone_needs_no_special_server() -> None:
    message = build_message(replace(DONE, recipient="ann@bücher.example", site_name="Köln"))
    assert message.as_bytes().isascii()
    assert message["To"].addresses[0].addr_spec == "ann@xn--bcher-kva.example"
    assert parse_message(message.as_bytes())["From"].addresses[0].display_name == "Köln"


@pytest.mark.parametrize(
    ("host", "literal"), [("127.0.0.1", "[127.0.0.1]"), ("::1", "[IPv6:::1]"), ("localhost", "localhost")]
)
def test_a_host_without_a_name_is_written_as_mail_wants_it(host: str, literal: str) -> None:
    message = parse_message(build_message(replace(DONE, sender=f"portal@{host}")).as_bytes())
    assert message["From"].addresses[0].addr_spec == f"portal@{literal}"


@pytest.mark.parametrize("address", ["", "ann", "@example.org", "ann@", "ann@x.org\r\nBcc: eve@x.org", "ä", "ä@@x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        build_message(replace(DONE, recipient=address))


@pytest.mark.parametrize("site_name", ["Portal", "Köln, Lab 3", "x" * 200, "ä ö ü " * 20])
@pytest.mark.parametrize(
    "recipient", ["ann@example.org", "jürgen@bücher.example", f"{'a' * 60}@{'b' * 60}.{'c' * 60}.org"]
)
def test_a_message_that_is_read_and_written_again_is_the_same_to_the_byte(site_name: str, recipient: str) -> None:
    data = build_message(replace(FAILED, site_name=site_name, recipient=recipient)).as_bytes()
    assert parse_message(data).as_bytes() == data


def test_only_the_end_of_a_long_error_text_is_carried() -> None:
    text = plain_text(build_message(replace(FAILED, error_text="noise\n" * 5000 + "the reason\n")))
    assert "the reason" in text
    assert len(text) < 12_000


def test_a_message_id_is_the_same_for_the_same_key_and_safe() -> None:
    one = message_id("tcfnctbq", 1, "succeeded", "Portal.Example.org")
    assert one == "<tcfnctbq.1.succeeded@portal.example.org>"
    assert one == message_id("tcfnctbq", 1, Outcome.SUCCEEDED, "portal.example.org")
    others = {message_id("tcfnctbq", 2, "succeeded", "x"), message_id("tcfnctbq", 1, "failed", "x")}
    assert len({one, *others}) == 3


@pytest.mark.parametrize("domain", ["::1", "bücher.example", "", "..", "a>\r\nBcc: x", "d" * 300, "127.0.0.1"])
def test_a_message_id_is_safe_whatever_the_domain(domain: str) -> None:
    made = message_id("tcfnctbq", 1, "failed", domain)
    assert re.fullmatch(r"<tcfnctbq\.1\.failed@[a-z0-9]([a-z0-9.-]*[a-z0-9])?>", made)
    message = build_message(replace(DONE, message_id=made))
    assert parse_message(message.as_bytes())["Message-ID"] == made


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0.0 s"), (0.4, "0.4 s"), (12.4, "12 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273600, "3 days 4 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
