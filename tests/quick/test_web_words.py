"""The small pure functions behind the pages."""

import pytest

from portal.jobs.sizes import size_in_words
from portal.web.hosts import host_name
from portal.web.job_page import sentence_beside_badge
from portal.web.pages import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (18.4, "18 s"),
        (60, "1 min"),
        (89, "1 min 29 s"),
        (7200, "2 h"),
        (7860, "2 h 11 min"),
        (90061, "1 d 1 h"),
        (86401, "1 d"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (256 * 1024**2, "256 MiB"),
        (5 * 1024**4, "5120 GiB"),
    ],
)
def test_sizes(size: int, words: str) -> None:
    assert size_in_words(size) == words


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        ("Done: the program succeeded.", "The program succeeded."),
        ("Failed: it ended: badly.", "It ended: badly."),
        ("Running on node1.", "Running on node1."),
        ("Cancelled by you.", "Cancelled by you."),
        ("Running on x: y.", "Running on x: y."),
    ],
)
def test_sentence_beside_the_badge(summary: str, sentence: str) -> None:
    assert sentence_beside_badge(summary) == sentence


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("A.B", "a.b"), ("", ""), ("[", ""), ("a@b", "b")],
)
def test_host_names(host: str, name: str) -> None:
    assert host_name(host) == name
