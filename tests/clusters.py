"""What tests of any real cluster share: where it lives, who shares it, and what is said of it under a failure."""

import os
import tempfile
import zlib
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import pytest

from deploy.demo import free_base


@runtime_checkable
class Diagnosed(Protocol):
    """A cluster that can say what it looks like."""

    kind: str

    def diagnostics(self) -> str: ...


def home_with_ports(prefix: str, name: str, bases: Sequence[int], offsets: Collection[int]) -> tuple[Path, int]:
    """A home for a cluster, and the base of its ports, on none of which anybody listens now.

    The same name gives the same two, as long as the home is there.
    """
    # Not in pytest's folder: that is closed to other accounts, who have to read the cluster's files.
    home = Path(tempfile.gettempdir()) / f"{prefix}-{name}"
    port_file = home / "port"
    if port_file.exists():
        return home, int(port_file.read_text())
    home.mkdir()
    home.chmod(0o755)
    # From another place for each name: two that begin at the same time would find the same ports free.
    first = zlib.crc32(name.encode()) % len(bases)
    port = free_base([*bases[first:], *bases[:first]], offsets)
    port_file.write_text(str(port))
    return home, port


def name_for(folder: Path) -> str:
    """The name of the cluster that all processes share that test in this folder."""
    return f"{zlib.crc32(bytes(folder)):08x}"


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole session: each of pytest-xdist's workers has one in it."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put nodes, queue, accounting and logs under a failure. For a conftest."""
    report = yield
    if report.failed:
        for cluster in clusters_of(item):
            report.sections.append((cluster.kind, cluster.diagnostics()))
    return report


def clusters_of(item: object) -> list[Diagnosed]:
    """Those that the test was given, by themselves or as a part of a whole portal; each once."""
    found: dict[int, Diagnosed] = {}
    for used in getattr(item, "funcargs", {}).values():
        for thing in (used, getattr(used, "cluster", None), getattr(used, "cell", None)):
            if isinstance(thing, Diagnosed):
                found[id(thing)] = thing
    return list(found.values())
