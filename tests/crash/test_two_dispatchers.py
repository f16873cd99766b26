"""Two dispatchers at once, real processes: the lock is lost in the middle of a submission, and the epoch decides."""

import signal
from pathlib import Path

import pytest

from tests.crash import invariants
from tests.crash.hooks import Order, Step
from tests.crash.overtaking import overtake
from tests.crash.points import Workshop
from tests.crash.run import CrashRun

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(300)]

IN_THE_MIDDLE = [
    ("before", "scheduler", "submit"),
    ("after", "scheduler", "submit"),
]


@pytest.mark.parametrize(("moment", "kind", "target"), IN_THE_MIDDLE)
def test_the_one_that_was_overtaken_changes_nothing_and_the_job_starts_once(
    workshop: Workshop, tmp_path: Path, moment: str, kind: str, target: str
) -> None:
    order = Order(Step("dispatcher", kind, target, 1), moment, signal.SIGSTOP)
    run = CrashRun(tmp_path / "run", workshop.shared, workshop.nursery, order, accepted=workshop.accepted_job())
    with run.killing_what_is_left():
        code = overtake(run, run.folder / "portal.db.dispatcher.lock", run.is_handed_in)
        assert code == 1, run.log()
        assert "Another dispatcher has taken over" in run.log()
        run.wait_for_the_end()
    invariants.check(run)
    assert len(run.handed_over()) == 1
