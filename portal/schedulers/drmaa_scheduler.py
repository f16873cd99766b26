"""A cluster through its DRMAA library: Grid Engine, Slurm by slurm-drmaa, or another one.

The library submits and cancels, which takes it a millisecond. What became of a job is told by the system's own queue
and accounting (`drmaa_records`): one call for all jobs where `jobStatus` needs one for each, with the name beside the
id, and with how a job ended. Where those commands do not answer, or are not known for this system, `jobStatus` says
what is alive (`drmaa_status`); how a job ended is never taken from it: it calls a failed job done.

Jobs run as the account that the dispatcher runs as.
"""

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from portal.errors import DefinitionError, SchedulerError
from portal.schedulers.base import (
    Capabilities,
    Deferred,
    FindAnswer,
    Handle,
    Health,
    InDoubt,
    JobSpec,
    Observation,
    Rejected,
    Scheduler,
    SchedulerState,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from portal.schedulers.commands import NO_ANSWER
from portal.schedulers.drmaa_native import Drms, check_files, drms_of, native_specification
from portal.schedulers.drmaa_records import Records, remember
from portal.schedulers.drmaa_session import CALL_SECONDS, DrmaaSession, NoSuchJobError, Template
from portal.schedulers.drmaa_status import LibraryRecords

log = structlog.get_logger()

OUTPUT_FILE = "scheduler.out"
"""In the job's working directory: what the wrapper itself had to say."""
RESERVED_EXIT_CODES = (99, 100)
"""Grid Engine runs a script that exits with 99 again, whatever `-r` says, and takes 100 for an error of its own
(qsub(1), EXIT STATUS). Slurm has no such codes; there the wrapper says 1 for them, too."""
LIBRARY_SECONDS = 60.0
"""How long a request may be on its way after the library has given it up, or a call of it hangs."""

RecordsOf = Callable[[], Records]


class DrmaaScheduler(Scheduler):
    """One cluster, through one session of this process."""

    kind = "drmaa"
    reserved_exit_codes = RESERVED_EXIT_CODES

    def __init__(
        self,
        session: DrmaaSession,
        records: Mapping[Drms, RecordsOf],
        added_native: str = "",
        parallel_environment: str | None = None,
    ) -> None:
        self._session = session
        self._records_of = records
        self._added_native = added_native
        self._parallel_environment = parallel_environment
        self._system = ""
        self._origin = ""
        self._drms: Drms | None = None
        self._records: Records | None = None
        self._terminated: dict[Handle, None] = {}
        """Whose end this process has asked for."""
        self.capabilities = Capabilities(
            has_accounting=True,
            # Grid Engine goes on to call a job running whose node is gone, until that comes back.
            sees_node_failures=False,
            enforces_time_limit=True,
            enforces_memory=True,
            can_exclude_nodes=True,
            lost_call_seconds=CALL_SECONDS + LIBRARY_SECONDS,
        )

    def submit(self, specs: Sequence[JobSpec]) -> list[SubmitAnswer]:
        """One after the other. After one in doubt the others are put off: the cluster is not there."""
        try:
            drms = self._find_system()
        except SchedulerError as error:
            log.warning("nothing could be submitted", error=str(error))
            return [Deferred(error.visitor_message) for _ in specs]
        answers: list[SubmitAnswer] = []
        for spec in specs:
            if answers and isinstance(answers[-1], InDoubt):
                break
            answers.append(self._submit(drms, spec))
        return answers + [Deferred(NO_ANSWER) for _ in specs[len(answers) :]]

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What queue and accounting say, or else the library. Raises SchedulerError where nothing could be asked."""
        if not handles:
            return {}
        records = self._ask()
        try:
            answers = records.observe(handles)
        except SchedulerError as error:
            if self._drms is Drms.OTHER:
                raise
            answers = self._alive_by_library(handles)
            log.warning("the cluster's own commands do not answer, its library does", error=str(error))
        return {handle: _as_cancelled(seen) if handle in self._terminated else seen for handle, seen in answers.items()}

    def cancel(self, handles: Collection[Handle]) -> None:
        """End those that are in the queue under this id and this name: ids are given again.

        Raises SchedulerError where one was not heard; the others are cancelled all the same.
        """
        alive = [handle for handle, seen in self._ask().observe(handles).items() if seen.state.is_alive]
        problems = [problem for handle in alive if (problem := self._terminate(handle))]
        if problems:
            detail = f"{len(problems)} of {len(alive)} were not cancelled: {problems[0]}"
            raise SchedulerError(NO_ANSWER, log_detail=detail)

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        """Look the names up in the queue and in accounting."""
        if not names:
            return {}
        try:
            return self._ask().find(names)
        except SchedulerError as error:
            return {name: Unknown(str(error)) for name in names}

    def health(self) -> Health:
        """Whether there is a session, and the queue answers."""
        try:
            health = self._ask().health()
        except SchedulerError as error:
            log.warning("the cluster does not answer", error=str(error))
            return Health(ok=False, detail=error.visitor_message, log_detail=error.log_detail)
        if not health.ok:
            return health
        return Health(True, f"{self._system} by {self._origin}", health.running, health.waiting)

    def directives(self, spec: JobSpec) -> list[str]:
        """None: what the job asks for is in its native specification. Raises DefinitionError where that cannot be."""
        if self._drms is not None:
            self._native(self._drms, spec)
        return []

    def close(self) -> None:
        """Leave the session."""
        if self._records is not None:
            self._records.close()
        self._session.close()

    def _alive_by_library(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What lives, by `jobStatus`. Of the others nothing is known: ends are told by the system's own commands.

        Raises SchedulerError where the library does not answer, either.
        """
        seen = LibraryRecords(self._session).observe(handles)
        unknown = Observation(SchedulerState.UNKNOWN, reason="the cluster's own commands do not answer")
        return {handle: one if one.state.is_alive else unknown for handle, one in seen.items()}

    def _submit(self, drms: Drms, spec: JobSpec) -> SubmitAnswer:
        try:
            check_files(drms, spec.working_dir, spec.script.read_bytes())
            native = self._native(drms, spec)
        except DefinitionError as error:
            return Rejected(error.visitor_message)
        except OSError as error:
            return Deferred(f"its script cannot be read: {error.strerror}")
        output = spec.working_dir / OUTPUT_FILE
        answer = self._session.submit(Template(spec.name, spec.script, spec.working_dir, output, native))
        return Submitted(Handle(answer, spec.name)) if isinstance(answer, str) else answer

    def _native(self, drms: Drms, spec: JobSpec) -> str:
        return native_specification(drms, spec, self._added_native, self._parallel_environment)

    def _terminate(self, handle: Handle) -> str:
        """Empty, or why it was not heard."""
        try:
            self._session.terminate(handle.scheduler_id)
            remember(self._terminated, handle, None)
        except NoSuchJobError:
            return ""  # it has ended meanwhile
        except SchedulerError as error:
            return str(error)
        return ""

    def _ask(self) -> Records:
        """Whom to ask what became of jobs. Raises SchedulerError where the library cannot be had."""
        drms = self._find_system()
        if self._records is None:
            self._records = self._records_of[drms]()
        return self._records

    def _find_system(self) -> Drms:
        """Once it is known it stays: its commands answer whether or not there is a session."""
        if self._drms is None:
            self._system = self._session.system()
            self._origin = self._session.origin()
            self._drms = drms_of(self._system)
            if self._drms is Drms.OTHER:
                self.capabilities = replace(
                    self.capabilities,
                    has_accounting=False,
                    enforces_memory=False,
                    can_exclude_nodes=False,
                )
        return self._drms


def _as_cancelled(observation: Observation) -> Observation:
    """The same, of a job whose end was asked for: Grid Engine's accounting does not tell qdel's SIGKILL from others."""
    if observation.state is SchedulerState.FAILED and observation.signal == signal.SIGKILL:
        return replace(observation, state=SchedulerState.CANCELLED)
    return observation
