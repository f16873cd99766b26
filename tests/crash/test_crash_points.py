"""Whatever process is killed by SIGKILL, and at whatever step: nothing is lost, nothing runs twice, one mail goes out.

The steps are recorded. Here a process is killed at a sample of them, by the rule of `points.sample`; `make crash` kills
at all of them.
"""

import pytest

from tests.crash.points import UNSEEN, Recording, Workshop, all_points, kill_at_all, sample
from tests.crash.run import ROLES

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(300)]

CHUNKS = 12
"""So many tests, for pytest-xdist to spread."""
AT_ONCE = 3


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_killed_at_a_step_and_started_again(workshop: Workshop, recording: Recording, chunk: int) -> None:
    found = list(kill_at_all(workshop, sample(recording)[chunk::CHUNKS], AT_ONCE))
    assert found
    assert not "\n\n".join(one.problem for one in found if one.problem)
    assert not [str(one.order) for one in found if not one.was_reached and not one.order.is_in_a_loop]


def test_the_steps_of_every_process_are_recorded(recording: Recording) -> None:
    kinds = {role: {step.kind for step in recording.steps if step.role == role} for role in ROLES}
    files = {"open", "rename", "mkdir", "chmod", "fsync"}
    assert kinds["web"] >= {*files, "symlink", "commit"}
    assert kinds["dispatcher"] >= {*files, "symlink", "commit", "scheduler", "mail", "lock"}
    assert kinds["client"] >= {"open", "commit", "start"}
    assert kinds["wrapper"] >= {*files, "link", "start"}


def test_two_runs_take_the_same_steps(recording: Recording) -> None:
    """But for loops, whose rounds are a matter of time: a name that was not replaced would show here."""
    assert {step.kind for step in recording.sometimes} <= {"commit", "scheduler", "open"}
    assert len(recording.sometimes) <= 6


def test_the_sample_has_each_state_between_two_changes_once(recording: Recording) -> None:
    orders = sample(recording)
    assert set(orders) < set(all_points(recording))
    for role in ROLES:
        changes = [step for step in recording.steps if step.role == role and step.kind not in UNSEEN]
        states = [changes.index(order.step) + (order.moment == "after") for order in orders if order.step.role == role]
        assert states == list(range(len(changes) + 1))
