"""A dispatcher that is killed around its calls of a real Slurm: the job is in Slurm once, and starts once."""

from collections.abc import Iterator

import pytest

from tests.crash.slurm_run import SlurmWorkshop, fixed_sample
from tests.slurm_cluster import USES_SLURM, SlurmCluster

pytestmark = [pytest.mark.daemon, *USES_SLURM]


@pytest.fixture
def slurm_workshop(slurm: SlurmCluster) -> Iterator[SlurmWorkshop]:
    """Runs on the session's cluster."""
    workshop = SlurmWorkshop(slurm)
    yield workshop
    workshop.close()


def test_a_dispatcher_killed_around_a_submission_to_slurm(slurm_workshop: SlurmWorkshop) -> None:
    orders = fixed_sample(slurm_workshop.record())
    found = slurm_workshop.kill_at_all(orders, at_once=len(orders))
    assert not "\n\n".join(one.problem for one in found if one.problem)
    assert not [str(one.order) for one in found if not one.was_reached]
