"""Whose child a process is, and giving up on those that cannot be ended."""

import time

import pytest

from portal.node import descendants as module
from portal.node.descendants import end_descendants, parent_in_stat


@pytest.mark.parametrize(
    ("stat", "parent"),
    [
        (b"17 (sh) S 16 17 17 0", 16),
        (b"17 (a) S 1 (b) R 16 17 17 0", 16),
        (b"17 (\xff\n) x) Z 16 17", 16),
        (b"", None),
        (b"17 (sh", None),
        (b"17 (sh) S", None),
    ],
)
def test_a_process_may_have_any_name(stat: bytes, parent: int | None) -> None:
    assert parent_in_stat(stat) == parent


def test_a_process_that_cannot_be_ended_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "descendants", lambda pid: [2**30])
    monkeypatch.setattr(module, "reap_all", dict)
    before = time.monotonic()
    assert not end_descendants(0.05)
    assert time.monotonic() - before < 5
