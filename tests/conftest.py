"""What holds for all tests: a clean environment, and nothing left out in silence."""

import logging
import os
from collections.abc import Iterator

import pytest
import structlog

for _name in [name for name in os.environ if name.startswith("PORTAL_")]:
    # Whoever runs the tests may run a portal with settings of its own.
    del os.environ[_name]


@pytest.fixture(autouse=True)
def put_back_logging() -> Iterator[None]:
    """A command sets the log up for its whole process: undo that for the tests that follow."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


_SHARED = {"slurm_session": "slurm", "cell_session": "grid-engine"}
"""Fixtures of which the session has one: tests that use it wait for each other, so one worker may as well run all."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group them, before pytest-xdist looks at the groups."""
    for item in items:
        for fixture, group in _SHARED.items():
            if fixture in getattr(item, "fixturenames", ()) and item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Without groups all workers would stand and wait for the same cluster, and nobody would see why."""
    if not session.config.getoption("loadgroup", default=False):
        return
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group") is not None]
    if any("@" not in item.nodeid for item in grouped):
        raise pytest.UsageError("this pytest-xdist does not form its groups with this pytest")


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """With CI=true a test that was left out is a failure. (The summary says what was left out, and why: -ra.)"""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    left_out = reporter.stats.get("skipped", []) if reporter is not None else []
    if _is_ci() and left_out and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so, where it counts."""
    left_out = terminalreporter.stats.get("skipped", [])
    if _is_ci() and left_out:
        terminalreporter.write_line(f"{len(left_out)} left out, which counts as failed since CI is set", red=True)
