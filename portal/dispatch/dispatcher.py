"""The dispatcher's loop: submit, look, decide, cancel, adopt; mail goes out in a thread of its own.

Its first act is to mend the files that a predecessor left, and it looks at them again from time to time. The rest of
its first turn is a turn like any other: whatever was left half-done is in the database or on disk, and each step starts
from there.
"""

import threading
from collections.abc import Callable

import structlog

from portal.dispatch.adoption import ADOPTION_SECONDS, Adoption
from portal.dispatch.context import Dispatch
from portal.dispatch.deletion import Deletion
from portal.dispatch.doubts import resolve_doubts
from portal.dispatch.evidence import Hearts
from portal.dispatch.housekeeping import keep_house
from portal.dispatch.polling import Memory, correct_late, poll
from portal.dispatch.reconciliation import RECONCILED_AGAIN_SECONDS, reconcile
from portal.dispatch.report import StartReport
from portal.dispatch.resubmission import Resubmissions
from portal.dispatch.submission import submit_accepted
from portal.dispatch.tidying import Tidying
from portal.dispatch.wishes import Wishes
from portal.errors import PortalError, StaleEpochError
from portal.mail.outbox import OutboxSender

log = structlog.get_logger()

LOOK_SECONDS = 0.5
"""How often the database is looked at for what was accepted or asked for."""
HOUSEKEEPING_EVERY_SECONDS = 86_400.0
ADOPT_EVERY_SECONDS = 60.0
MAIL_STOP_SECONDS = 5.0
"""What a message under way gets at a stop. One that is cut off goes out again, with the same Message-ID."""
CORRECT_EVERY_SECONDS = 30.0
TIDY_EVERY_SECONDS = 600.0
EXPIRE_EVERY_SECONDS = 600.0
"""How often jobs are looked for that have been kept for as long as their applications say."""
RECONCILE_EVERY_SECONDS = 600.0
"""How often files are compared with the database: a predecessor may wake up late and take one more step."""


class Dispatcher:
    """One dispatcher process. `run` waits its turn, and returns when it is stopped or another has taken over."""

    def __init__(self, dispatch: Dispatch, adoption: Adoption, sender: OutboxSender) -> None:
        self._dispatch = dispatch
        self._adoption = adoption
        self._sender = sender
        self._memory = Memory(Hearts(dispatch.clock))
        self._wishes = Wishes(dispatch.clock)
        self._resubmissions = Resubmissions(dispatch.clock)
        self._tidying = Tidying()
        self._deletion = Deletion()
        self._report = StartReport()
        self._due_seconds: dict[str, float] = {}
        self._is_reconciled = False

    def run(self, stop: threading.Event) -> None:
        """Dispatch until `stop` is set. Raises StaleEpochError where a newer dispatcher has taken over."""
        leadership = self._dispatch.leadership
        if not leadership.take(stop):
            return
        log.info("dispatching", epoch=leadership.epoch, scheduler=self._dispatch.scheduler.kind)
        mail_stop = threading.Event()
        mail = threading.Thread(target=self._sender.run, args=(mail_stop, LOOK_SECONDS), name="mail", daemon=True)
        mail.start()
        try:
            while not stop.is_set():
                self.turn()
                stop.wait(LOOK_SECONDS)
        finally:
            mail_stop.set()
            mail.join(MAIL_STOP_SECONDS)
            self._dispatch.nodes.close()
            self._dispatch.scheduler.close()
            leadership.release()
            log.info("dispatcher stopped", epoch=leadership.epoch)

    def turn(self) -> None:
        """One look at everything that is due. What fails is logged and tried again; nothing is given up."""
        dispatch = self._dispatch
        if self._is_reconciled:
            self._every(RECONCILE_EVERY_SECONDS, "reconciliation", self._reconcile_again)
        else:
            self._try("reconciliation", self._reconcile)
        self._try("wishes", lambda: self._wishes.carry_out(dispatch))
        self._try("resubmissions", lambda: self._resubmissions.carry_out(dispatch))
        self._try("doubts", lambda: resolve_doubts(dispatch, self._memory))
        self._try("submission", lambda: submit_accepted(dispatch))
        self._every(dispatch.settings.scheduler.poll_seconds, "poll", lambda: poll(dispatch, self._memory))
        self._every(CORRECT_EVERY_SECONDS, "correction", lambda: correct_late(dispatch, self._memory))
        self._every(ADOPT_EVERY_SECONDS, "adoption", self._adopt)
        self._try("report", lambda: self._report.go_on(dispatch, self._memory))
        self._try("deletion", lambda: self._deletion.carry_out(dispatch))
        self._every(EXPIRE_EVERY_SECONDS, "retention", lambda: self._deletion.expire(dispatch))
        self._every(HOUSEKEEPING_EVERY_SECONDS, "housekeeping", lambda: keep_house(dispatch))
        self._every(TIDY_EVERY_SECONDS, "tidying", lambda: self._tidying.tidy(dispatch))

    def _reconcile(self) -> None:
        mended = reconcile(self._dispatch)
        self._report.begin(self._dispatch, mended)
        self._is_reconciled = True
        self._due_seconds["reconciliation"] = self._dispatch.clock.monotonic_seconds() + RECONCILE_EVERY_SECONDS
        if mended:
            log.info("files that a predecessor left were mended", mended=mended)

    def _reconcile_again(self) -> None:
        """A predecessor that stood still while it was overtaken finishes the step that it was at before it notices."""
        if mended := reconcile(self._dispatch, ended_within_seconds=RECONCILED_AGAIN_SECONDS):
            log.warning("files that are not as the database says were mended", mended=mended)

    def _adopt(self) -> None:
        report = self._adoption.adopt_orphans(ADOPTION_SECONDS)
        self._report.note_adoption(report)
        for problem in report.problems:
            log.warning("a job directory cannot be taken up", problem=problem)
        if report.adopted or report.swept:
            log.info("directories without a row", adopted=report.adopted, swept=report.swept)

    def _every(self, seconds: float, name: str, step: Callable[[], object]) -> None:
        now_seconds = self._dispatch.clock.monotonic_seconds()
        if now_seconds >= self._due_seconds.get(name, 0):
            self._due_seconds[name] = now_seconds + seconds
            self._try(name, step)

    def _try(self, name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except StaleEpochError:
            raise
        except (PortalError, OSError) as error:
            log.warning("a step failed and will be tried again", step=name, error=str(error))
        except Exception:
            log.exception("a step failed unexpectedly and will be tried again", step=name)
