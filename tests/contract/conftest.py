"""One site per test, of the kind that the test is run for."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.clusters import pytest_runtest_makereport
from tests.contract.sites import ApartSite, DrmaaSite, LocalSite, Site, SlurmSite, SshSite
from tests.cut_wire import Wire, wire_to
from tests.drmaa.cell import GridEngineCell, cell, cell_session
from tests.slurm_cluster import SlurmCluster, own_cluster, slurm, slurm_session

__all__ = ["cell", "cell_session", "pytest_runtest_makereport", "slurm", "slurm_session"]

_SITES: dict[str, Callable[[Path, SlurmCluster], Site]] = {
    "slurm": SlurmSite,
    "slurm-ssh": SshSite,
    "slurm-ssh-apart": ApartSite,
}

SiteT = TypeVar("SiteT", bound=Site)


@contextmanager
def _closing(site: SiteT) -> Iterator[SiteT]:
    try:
        yield site
    finally:
        site.close()


@contextmanager
def _open_folder(cluster: SlurmCluster | GridEngineCell) -> Iterator[Path]:
    """A folder that the accounts of a real site can reach: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=cluster.home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A portal on the scheduler of `request.param`."""
    if request.param == "local":
        with _closing(LocalSite(tmp_path)) as local:
            yield local
        return
    if request.param == "drmaa":
        cell: GridEngineCell = request.getfixturevalue("cell")
        with _open_folder(cell) as folder, _closing(DrmaaSite(folder, cell)) as drmaa:
            yield drmaa
        return
    cluster: SlurmCluster = request.getfixturevalue("slurm")
    with _open_folder(cluster) as folder, _closing(_SITES[request.param](folder, cluster)) as site:
        yield site


@pytest.fixture
def slow_sites() -> Iterator[list[Site]]:
    """A portal of each kind of Slurm, on a cluster of their own: what takes so long shall not keep others waiting."""
    with own_cluster("alone", "--nodes", "1") as cluster, ExitStack() as stack:
        yield [
            stack.enter_context(_closing(make(stack.enter_context(_open_folder(cluster)), cluster)))
            for make in _SITES.values()
        ]


@pytest.fixture
def wire(slurm: SlurmCluster) -> Iterator[Wire]:
    """The wire to the cluster's sshd."""
    with wire_to(slurm.ssh_port) as wire:
        yield wire


@pytest.fixture
def apart_site(slurm: SlurmCluster, wire: Wire) -> Iterator[ApartSite]:
    """A portal that shares no files with the cluster, and whose connection goes over `wire`."""
    with _open_folder(slurm) as folder, _closing(ApartSite(folder, slurm, wire.port)) as site:
        yield site


@pytest.fixture
def wired_site(slurm: SlurmCluster, wire: Wire) -> Iterator[SshSite]:
    """A portal whose connection goes over `wire`."""
    with _open_folder(slurm) as folder, _closing(SshSite(folder, slurm, wire.port)) as site:
        yield site
