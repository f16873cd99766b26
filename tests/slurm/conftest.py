"""Tests against a real Slurm: its fixtures, and what it looked like when a test failed."""

from pathlib import Path

import pytest

from tests.clusters import pytest_runtest_makereport
from tests.slurm_cluster import (
    USES_SLURM,
    slurm,
    slurm_session,
)

__all__ = ["pytest_runtest_makereport", "slurm", "slurm_session"]

# With a cluster of its own, which has to come up first.
_TIMEOUT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """More time than other tests get, and one worker for all that share the cluster."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if "slurm" in getattr(item, "fixturenames", ()):
            for mark in USES_SLURM:
                item.add_marker(mark)
        else:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS))
        if "site" in getattr(item, "fixturenames", ()):
            # A module's own cluster and portal: one worker, so that they are made once.
            item.add_marker(pytest.mark.xdist_group(f"slurm-{item.path.stem}"))
