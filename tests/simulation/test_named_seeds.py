"""The histories that once broke a promise."""

from pathlib import Path

import pytest

from tests.simulation.history import play
from tests.simulation.named_seeds import NAMED_SEEDS, NamedSeed

pytestmark = pytest.mark.daemon


@pytest.mark.parametrize("named", NAMED_SEEDS, ids=lambda named: named.name)
def test_what_was_found_once_is_not_found_again(named: NamedSeed) -> None:
    assert play(named.seed).violations == []


@pytest.mark.parametrize("named", NAMED_SEEDS, ids=lambda named: named.name)
def test_each_find_is_held_by_a_test_of_its_own(named: NamedSeed) -> None:
    file, _, test = named.held_by.partition("::")
    assert f"def {test}(" in (Path(__file__).parents[2] / file).read_text()
