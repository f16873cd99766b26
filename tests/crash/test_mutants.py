"""The crash tests' own test: a portal that is broken in one place is found out by the kill that such a place is for."""

from pathlib import Path

import pytest

from tests.crash.mutants import MUTANTS, VARIABLE, Mutant
from tests.crash.points import Recording, Workshop, all_points, kill_at_all

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(300)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_portal_is_found_out(
    tmp_path: Path, recording: Recording, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [order for order in all_points(recording) if str(order) == mutant.point]
    assert len(orders) == 1
    monkeypatch.setenv(VARIABLE, mutant.name)
    workshop = Workshop(tmp_path)
    try:
        [found] = kill_at_all(workshop, orders, 1)
    finally:
        workshop.close()
    assert mutant.finding in found.problem, found.problem[:3000]
