"""Two dispatchers at once: the first stands still in the middle of a submission while the second takes over.

The lock is lost, as a network file system may lose it: its file is taken away, and the second makes another.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.crash.hooks import KILLED
from tests.crash.run import LIMIT_SECONDS, CrashRun
from tests.waiting import wait_until


def overtake(run: CrashRun, lock: Path, is_done: Callable[[], object]) -> int:
    """Start the first, let the second take over while it stands still, and wake it once `is_done`.

    Returns how the first ended. The second still runs, and what is left of `run` can be waited for.
    """
    run.prepare()
    first = run.start("dispatcher")
    assert run.wait_until_stopped() == first
    lock.unlink()
    run.start("dispatcher")
    wait_until(is_done, LIMIT_SECONDS, "the second to hand it in")
    assert (run.folder / KILLED).exists()
    os.kill(first, signal.SIGCONT)
    wait_until(lambda: run.nursery.ended(first) is not None, LIMIT_SECONDS, "the first to give up")
    code = run.nursery.ended(first)
    assert code is not None
    return code
