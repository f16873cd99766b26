"""Slurm, by its own commands: one round trip a verb, whatever the number of jobs.

The queue (`squeue -t all`) is asked first: it knows what is alive, and for MinJobAge (five minutes, as a rule) what has
ended. Accounting (`sacct`) is asked for those that it does not know any more. An error of either is never an end.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from portal.clock import Clock
from portal.errors import SchedulerError
from portal.node.submit import BUSY
from portal.schedulers import slurm_calls, slurm_directives, slurm_json
from portal.schedulers.base import (
    Absent,
    Capabilities,
    Deferred,
    FindAnswer,
    Found,
    Handle,
    Health,
    InDoubt,
    JobSpec,
    Observation,
    Scheduler,
    SchedulerState,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from portal.schedulers.commands import NO_ANSWER, NotReachedError
from portal.schedulers.helper import AT_ONCE, CERTAINLY_WITHOUT_EFFECT, Helper, Result
from portal.schedulers.slurm_parse import (
    NotUnderstoodError,
    Row,
    accounting_rows,
    has_no_accounting,
    is_gone,
    is_up,
    latest,
    queue_rows,
    submitted_id,
    version_of,
)
from portal.schedulers.slurm_words import own_words, refusal_of

log = structlog.get_logger()

FIND_DAYS = 30
"""How far back accounting is searched for a name: slurmdbd has no index of names."""
CONTROLLER_SECONDS = 30.0
"""How long slurmctld may still work on a request after sbatch, which sent it, is gone."""
ACCOUNTING_LAG_SECONDS = 300.0
"""How long accounting may call a job alive that the queue does not know any more: its end is on the way.

After that it is what a controller that lost its state left behind, which accounting calls running for ever.
"""

_WAITING = (SchedulerState.PENDING, SchedulerState.HELD)


class SlurmScheduler(Scheduler):
    """One cluster, through the helper, which runs on this machine or on a login node."""

    can_say_what_it_refuses = True

    def __init__(self, helper: Helper, clock: Clock, kind: str = "slurm") -> None:
        self.kind = kind
        self._helper = helper
        self._clock = clock
        self._version: str | None = None
        self._counts: tuple[int | None, int | None] = (None, None)
        self._accounting_ok = True
        """False where the last look needed accounting, and it did not answer."""
        self._not_understood: set[str] = set()
        """The commands whose text was not understood, so that the log says it once."""
        self._ghosts: dict[Handle, float] = {}
        """Since when (monotonic) the queue lacks what accounting calls alive."""
        self.capabilities = Capabilities(
            has_accounting=True,  # until sacct says that there is none
            sees_node_failures=True,
            enforces_time_limit=True,
            enforces_memory=True,
            can_exclude_nodes=True,
            lost_call_seconds=helper.longest_seconds + CONTROLLER_SECONDS,
        )

    def directives(self, spec: JobSpec) -> list[str]:
        """The `#SBATCH` lines. Raises SiteError for a value that does not fit into one."""
        return slurm_directives.directives(spec)

    def submit(self, specs: Sequence[JobSpec]) -> list[SubmitAnswer]:
        """One sbatch a script, a few at a time, in one round trip."""
        if not specs:
            return []
        try:
            results = self._helper.call([slurm_calls.submit_call(spec) for spec in specs], AT_ONCE)
        except NotReachedError as error:
            log.warning("nothing could be submitted", error=str(error))
            return [Deferred(error.visitor_message) for _ in specs]
        except SchedulerError as error:
            return [InDoubt(str(error)) for _ in specs]
        return [_submit_answer(spec, result) for spec, result in zip(specs, results, strict=True)]

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What the queue says, and accounting of those that left it. Raises SchedulerError where squeue failed.

        Where only sacct failed, the jobs for which it was needed are UNKNOWN.
        """
        rows = self._queue()
        seen = {handle: latest(rows.get(handle.scheduler_id, ()), handle) for handle in handles}
        answers = {handle: row.observation for handle, row in seen.items() if row is not None}
        missing = [handle for handle in handles if handle not in answers]
        self._accounting_ok = True
        # The queue does not say who cancelled a job; accounting does.
        cancelled = [handle for handle, found in answers.items() if found.state is SchedulerState.CANCELLED]
        if missing or cancelled:
            try:
                kept = self._accounting([*missing, *cancelled])
            except SchedulerError as error:
                log.warning("accounting does not answer", error=str(error))
                self._accounting_ok = False
                silent = Observation(SchedulerState.UNKNOWN, reason="accounting does not answer")
                return answers | dict.fromkeys(missing, silent)
            answers |= {handle: self._left_the_queue(handle, latest(kept, handle)) for handle in missing}
            answers |= {handle: _told_by_whom(answers[handle], latest(kept, handle)) for handle in cancelled}
        self._ghosts = {handle: since for handle, since in self._ghosts.items() if handle in missing}
        return answers

    def cancel(self, handles: Collection[Handle]) -> None:
        """One scancel a job, which ends the id only where it still has the name.

        Raises SchedulerError where one was not heard; the others are cancelled all the same.
        """
        calls = [slurm_calls.cancel_call(handle) for handle in handles if slurm_calls.is_id(handle.scheduler_id)]
        if not calls:
            return
        results = self._helper.call(calls, AT_ONCE)
        problems = [
            result.problem
            for result in results
            if not result.is_good and not (result.failure is None and is_gone(result.stderr))
        ]
        if problems:
            detail = f"{len(problems)} of {len(results)} were not cancelled; scancel: {problems[0]}"
            raise SchedulerError(NO_ANSWER, log_detail=detail)

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        """Look the names up in the queue and in accounting, as far back as FIND_DAYS, in one round trip."""
        if not names:
            return {}
        separator = slurm_calls.new_separator()
        since = self._clock.now_utc() - timedelta(days=FIND_DAYS)
        try:
            of_queue = slurm_calls.queue_by_name_calls(names, separator)
            of_accounting = slurm_calls.accounting_by_name_calls(names, since, separator)
            results = self._helper.call([*of_queue, *of_accounting])
        except SchedulerError as error:
            return {name: Unknown(str(error)) for name in names}
        rows: list[Row] = []
        problem = None
        for read, calls, answers in (
            (self._queue_rows, of_queue, results[: len(of_queue)]),
            (self._accounting_rows, of_accounting, results[len(of_queue) :]),
        ):
            try:
                rows += read(calls, answers, separator)
            except SchedulerError as error:
                problem = str(error)
        if problem is None and not self.capabilities.has_accounting:
            problem = "this cluster keeps no accounting"
        return {name: _find_answer(name, rows, problem) for name in names}

    def health(self) -> Health:
        """Ping the controller; the counts are those of the last look at the queue."""
        calls = [slurm_calls.ping_call(), *([] if self._version else [slurm_calls.version_call()])]
        try:
            ping, *version = self._helper.call(calls)
        except SchedulerError as error:
            log.warning("the cluster does not answer", error=str(error))
            return Health(ok=False, detail=error.visitor_message, log_detail=error.log_detail)
        if version and version[0].is_good:
            self._version = version_of(version[0].stdout)
        if not (ping.is_good and is_up(ping.stdout)):
            log.warning("slurmctld does not answer", problem=ping.problem, said=ping.stdout[:500])
            said = ping.problem if not ping.is_good else " ".join(ping.stdout.split())[:200]
            return Health(ok=False, detail="Slurm's controller does not answer.", log_detail=said)
        running, waiting = self._counts
        detail = f"Slurm {self._version or ''}".strip()
        return Health(True, detail, running, waiting, accounting_ok=self._accounting_ok)

    def refusals(self, specs: Sequence[JobSpec]) -> list[str | None]:
        """What `sbatch --test-only` says of each. Raises SchedulerError."""
        results = self._helper.call([slurm_calls.trial_call(spec) for spec in specs], AT_ONCE)
        return [None if result.is_good else _why_not(result) for result in results]

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._helper.close()

    def _queue(self) -> dict[str, list[Row]]:
        """All jobs that the controller knows, by id. Raises SchedulerError."""
        separator = slurm_calls.new_separator()
        calls = [slurm_calls.queue_call(separator)]
        rows = self._queue_rows(calls, self._helper.call(calls), separator)
        alive = [row.observation.state for row in rows if row.observation.state.is_alive]
        waiting = sum(state in _WAITING for state in alive)
        self._counts = len(alive) - waiting, waiting
        by_id: dict[str, list[Row]] = {}
        for row in rows:
            by_id.setdefault(row.scheduler_id, []).append(row)
        return by_id

    def _accounting(self, handles: Collection[Handle]) -> list[Row]:
        """All that accounting has of them; nothing where the cluster keeps none. Raises SchedulerError."""
        separator = slurm_calls.new_separator()
        calls = slurm_calls.accounting_calls(handles, separator)
        return self._accounting_rows(calls, self._helper.call(calls), separator) if calls else []

    def _queue_rows(self, calls: Sequence[slurm_calls.Call], results: Sequence[Result], separator: str) -> list[Row]:
        try:
            return [row for result in results for row in queue_rows(_output(result, "squeue"), separator)]
        except NotUnderstoodError as error:
            return self._in_json("squeue", calls, slurm_json.queue_rows, error)

    def _accounting_rows(
        self, calls: Sequence[slurm_calls.Call], results: Sequence[Result], separator: str
    ) -> list[Row]:
        if any(result.failure is None and has_no_accounting(result.stderr) for result in results):
            self.capabilities = replace(self.capabilities, has_accounting=False)
            return []
        try:
            return [row for result in results for row in accounting_rows(_output(result, "sacct"), separator)]
        except NotUnderstoodError as error:
            return self._in_json("sacct", calls, slurm_json.accounting_rows, error)

    def _in_json(
        self,
        command: str,
        calls: Sequence[slurm_calls.Call],
        read: Callable[[str], list[Row]],
        error: NotUnderstoodError,
    ) -> list[Row]:
        """The same question once more: a version whose text has another form says in JSON what is what.

        Raises SchedulerError.
        """
        if command not in self._not_understood:
            self._not_understood.add(command)
            log.warning("the text of Slurm's answer is not understood: asking for JSON", error=str(error))
        results = self._helper.call([slurm_calls.as_json(call) for call in calls])
        return [row for result in results for row in read(_output(result, f"{command} --json"))]

    def _left_the_queue(self, handle: Handle, row: Row | None) -> Observation:
        """What is to be said of a job that the queue does not know, from what accounting has."""
        if row is None:
            return Observation(SchedulerState.NOT_FOUND)
        observation = row.observation
        lost = observation.state is SchedulerState.CANCELLED and observation.cancelled_by is None
        if lost and not observation.never_runs:
            # Seen with 22.05 and 24.11: a person's is `CANCELLED by <uid>`. This is how a controller that starts
            # without its old state closes the books of what it does not know any more, whether or not that still runs.
            # (26.05 leaves them open: RUNNING for ever.)
            return replace(observation, state=SchedulerState.NOT_FOUND, reason="the controller lost it")
        if observation.state.is_final:
            return observation
        now_seconds = self._clock.monotonic_seconds()
        since_seconds = self._ghosts.setdefault(handle, now_seconds)
        raw_state = observation.raw_state
        if now_seconds - since_seconds < ACCOUNTING_LAG_SECONDS:
            return Observation(SchedulerState.UNKNOWN, raw_state, reason="accounting has not heard of its end yet")
        reason = f"the queue does not have it, and accounting calls it {raw_state} for ever"
        return Observation(SchedulerState.NOT_FOUND, raw_state, reason=reason)


def _submit_answer(spec: JobSpec, result: Result) -> SubmitAnswer:
    if result.failure == BUSY:
        return Deferred("The cluster has as many jobs as it takes at the moment.")
    if result.failure in CERTAINLY_WITHOUT_EFFECT:
        return Deferred(f"sbatch could not be called: {result.problem}")
    if result.failure is not None:
        return InDoubt(f"sbatch: {result.problem}")
    if result.exit_code != 0:
        return refusal_of(result.stderr)
    submitted = submitted_id(result.stdout)
    if submitted is None:
        return InDoubt(f"sbatch printed no id: {result.stdout[:200]!r}")
    scheduler_id, cluster = submitted
    return Submitted(Handle(scheduler_id, spec.name, cluster))


def _why_not(result: Result) -> str:
    return result.problem if result.failure is not None else own_words(result.stderr)


def _find_answer(name: str, rows: Sequence[Row], problem: str | None) -> FindAnswer:
    """A name that one of the two knows is found, whatever became of the other."""
    handles = {Handle(row.scheduler_id, name) for row in rows if row.name == name}
    if handles:
        return Found(tuple(sorted(handles, key=lambda handle: (len(handle.scheduler_id), handle.scheduler_id))))
    return Absent() if problem is None else Unknown(problem)


def _told_by_whom(observation: Observation, row: Row | None) -> Observation:
    return replace(observation, cancelled_by=row.observation.cancelled_by) if row is not None else observation


def _output(result: Result, command: str) -> str:
    """What the command printed; SchedulerError where it failed, which is never an answer."""
    if not result.is_good:
        raise SchedulerError(NO_ANSWER, log_detail=f"{command}: {result.problem}")
    return result.stdout
