"""Tests against a real Slurm: its fixtures, and what it looked like when a test failed."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.slurm_cluster import SlurmCluster, slurm, slurm_session

__all__ = ["slurm", "slurm_session"]

# A test may have to wait for another worker's, and for the cluster to come up.
_TIMEOUT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """More time than other tests get."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put nodes, queue, accounting and logs under a failure."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("slurm")
    if report.failed and isinstance(cluster, SlurmCluster):
        report.sections.append(("The Slurm cluster", cluster.diagnostics()))
    return report
