"""The log: one line an event, that no visitor can forge, and without secrets."""

import logging
import re

import pytest
import structlog

from portal.logging_setup import configure_logging


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_an_event_is_one_line_with_utc_time_and_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    structlog.get_logger().info("job accepted", job_id="tcfnctbq", detail="a b", number=3)
    (line,) = lines(capsys)
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info    job accepted detail="a b" job_id=tcfnctbq number=3', line
    )


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "a\r2026-01-01T00:00:00Z error forged", "\x9b31m", "\u202e"])
def test_control_characters_are_shown_as_escapes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    structlog.get_logger().warning("from outside", value=text)
    logging.getLogger("library").warning("from outside: %s", text)
    shown = lines(capsys)
    assert len(shown) == 2
    assert all(line.isprintable() for line in shown)


def test_a_traceback_follows_indented(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    try:
        raise ValueError("first\n2026-01-01T00:00:00Z error forged")
    except ValueError:
        structlog.get_logger().exception("failed")
    first, *rest = lines(capsys)
    assert first.endswith("error   failed")
    assert "ValueError: first" in "".join(rest)
    assert all(line.startswith("    ") for line in rest)


def test_secrets_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    structlog.get_logger().info("x", token="abcdef", password="abcdef", address="/jobs/1?a=1&key=abcdef")
    logging.getLogger("gunicorn.error").warning("Invalid request line: GET /jobs/1?key=abcdef HTTP/9.9")
    assert "abcdef" not in "".join(lines(capsys))


def test_what_is_below_the_level_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(logging.WARNING)
    structlog.get_logger().info("quiet")
    logging.getLogger("alembic.runtime").info("quiet")
    assert lines(capsys) == []
