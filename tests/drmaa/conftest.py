"""Tests against a real Grid Engine: its fixtures, and what it looked like when a test failed."""

from pathlib import Path

import pytest

from tests.clusters import pytest_runtest_makereport
from tests.drmaa.cell import USES_CELL, cell, cell_session

__all__ = ["cell", "cell_session", "pytest_runtest_makereport"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """More time than other tests get, and one worker for all that share the cell."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "cell" in getattr(item, "fixturenames", ()):
            for mark in USES_CELL:
                item.add_marker(mark)
