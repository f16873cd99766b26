"""The simulation catches what it is there for: a portal with one safeguard less breaks a promise soon."""

import pytest

from tests.simulation.history import play
from tests.simulation.mutants import MUTANTS, Mutant

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(900)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught_within_its_number_of_histories(mutant: Mutant) -> None:
    with mutant.patched():
        assert any(play(seed).violations for seed in range(1, mutant.seeds + 1))
