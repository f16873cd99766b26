"""One workshop for each worker, and one recording for all of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import pytest_runtest_makereport
from tests.crash.points import Recording, Workshop
from tests.crash.slurm_run import SlurmWorkshop
from tests.sharing import locked
from tests.slurm_cluster import SlurmCluster, slurm, slurm_session

__all__ = ["pytest_runtest_makereport", "slurm", "slurm_session"]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The runs of this worker."""
    workshop = Workshop(tmp_path_factory.mktemp("crash"))
    yield workshop
    workshop.close()


@pytest.fixture(scope="session")
def recording(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The steps of undisturbed runs; all workers kill at the same points, or some would be left out."""
    base = tmp_path_factory.getbasetemp()
    # Each worker has a folder in the session's.
    file = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "crash-recording.json"
    with locked(Path(f"{file}.lock")):
        if not file.exists():
            file.write_text(workshop.record().to_json())
    return Recording.from_json(file.read_text())


@pytest.fixture
def slurm_workshop(slurm: SlurmCluster) -> Iterator[SlurmWorkshop]:
    """Runs on the session's cluster."""
    workshop = SlurmWorkshop(slurm)
    yield workshop
    workshop.close()
