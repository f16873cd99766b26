"""A dispatcher that is killed around its calls of a real Slurm: the job is in Slurm once, and starts once."""

import pytest

from tests.crash.slurm_run import SlurmWorkshop, fixed_sample
from tests.slurm_cluster import USES_SLURM

pytestmark = [pytest.mark.daemon, *USES_SLURM]


def test_a_dispatcher_killed_around_a_submission_to_slurm(slurm_workshop: SlurmWorkshop) -> None:
    orders = fixed_sample(slurm_workshop.record())
    found = slurm_workshop.kill_at_all(orders, at_once=len(orders))
    assert not "\n\n".join(one.problem for one in found if one.problem)
    assert not [str(one.order) for one in found if not one.was_reached]
