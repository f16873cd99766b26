"""A few hundred histories, in which everything goes wrong that can, break no promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.history import play

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(600)]

SEEDS = 300
_CHUNK = 30


@pytest.mark.parametrize("first", range(1, SEEDS + 1, _CHUNK))
def test_no_history_breaks_a_promise(first: int) -> None:
    broken = {seed: outcome.violations for seed in range(first, first + _CHUNK) if (outcome := play(seed)).violations}
    assert not broken, f"replay with: python -m tests.simulation.run --seed {min(broken)} --trace"


def test_the_same_seed_is_the_same_history() -> None:
    digests = [play(seed).digest for seed in (1, 2, 3)]
    assert digests == [play(seed).digest for seed in (1, 2, 3)]
    assert len(set(digests)) == 3


def test_another_process_plays_the_same_history() -> None:
    """Whatever the seed of Python's own hashes, and whatever was played before."""
    digest = play(7).digest
    command = [sys.executable, "-m", "tests.simulation.run", "--seed", "7"]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    root = Path(__file__).parents[2]
    said = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False).stdout
    assert f"digest: {digest}\n" in said
