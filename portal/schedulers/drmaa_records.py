"""What is known of jobs that were submitted through DRMAA, from the system's own commands: its queue, its accounting.

DRMAA can say of one job that it is alive, and no more that could be relied on: not how it ended, not under which name
it goes, nothing of a job that ended while no session was open.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

import structlog

from portal.clock import Clock
from portal.errors import SchedulerError
from portal.schedulers import grid_engine_calls as calls
from portal.schedulers.base import (
    Absent,
    FindAnswer,
    Found,
    Handle,
    Health,
    Observation,
    SchedulerState,
    Unknown,
)
from portal.schedulers.commands import NO_ANSWER
from portal.schedulers.grid_engine_calls import GridEngineCommands
from portal.schedulers.grid_engine_parse import Row, accounting_rows, knows_no_such_job, latest, queue_rows
from portal.schedulers.helper import Result

log = structlog.get_logger()

ACCOUNTING_LAG_SECONDS = 30.0
"""How long a job that was alive may be in neither queue nor accounting: the qmaster writes its file every 15 seconds
(`flush_time`, sge_conf(5)), if a site has not said otherwise."""
MOST_LOOKED_UP = 40
"""How many jobs accounting is asked for in one look: each is a call of qacct. The others have their turn later."""
MOST_REMEMBERED = 20_000
"""Jobs of which this process knows more than the system says at the moment."""

_WAITING = (SchedulerState.PENDING, SchedulerState.HELD)


T = TypeVar("T")


def remember(memory: dict[Handle, T], handle: Handle, value: T) -> None:
    """Keep it, and forget what was kept longest ago where that is too much."""
    memory.pop(handle, None)
    memory[handle] = value
    if len(memory) > MOST_REMEMBERED:
        del memory[next(iter(memory))]


class Records(Protocol):
    """As the verbs of `Scheduler` of the same names."""

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]: ...
    def find(self, names: Collection[str]) -> dict[str, FindAnswer]: ...
    def health(self) -> Health: ...
    def close(self) -> None: ...


class GridEngineRecords:
    """`qstat` for what is alive, one call for all jobs; `qacct` for what has left the queue."""

    def __init__(self, commands: GridEngineCommands, clock: Clock, user: str) -> None:
        self._commands = commands
        self._clock = clock
        self._user = user
        self._alive: dict[Handle, float] = {}
        """When (monotonic) the queue was last seen to have it."""
        self._ended: dict[Handle, Observation] = {}
        """Ends that accounting has told: they stay as they are."""
        self._asked_seconds: dict[Handle, float] = {}
        """When (monotonic) accounting was last asked for it in vain."""

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        """What the queue says, and accounting of those that left it. Raises SchedulerError where qstat failed."""
        rows = self._queue()
        now_seconds = self._clock.monotonic_seconds()
        seen = {handle: latest(rows.get(handle.scheduler_id, ()), handle) for handle in handles}
        answers = {handle: row.observation for handle, row in seen.items() if row is not None}
        for handle in answers:
            remember(self._alive, handle, now_seconds)
        answers |= self._left_the_queue([handle for handle in handles if handle not in answers], now_seconds)
        return answers

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        """Look the names up in the queue, then in accounting. Never raises."""
        try:
            queued = [row for rows in self._queue().values() for row in rows]
        except SchedulerError as error:
            return {name: Unknown(str(error)) for name in names}
        try:
            results = self._commands.call([calls.accounting_by_name_call(name) for name in names])
        except SchedulerError as error:
            return {name: Unknown(str(error)) for name in names}
        return {name: _find_answer(name, queued, result) for name, result in zip(names, results, strict=True)}

    def health(self) -> Health:
        """One look at the queue, which the qmaster answers."""
        try:
            states = [row.observation.state for rows in self._queue().values() for row in rows]
        except SchedulerError as error:
            return Health(ok=False, detail=error.visitor_message, log_detail=error.log_detail)
        waiting = sum(state in _WAITING for state in states)
        return Health(True, "", len(states) - waiting, waiting)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _queue(self) -> dict[str, list[Row]]:
        """All of the account's jobs that the qmaster has, by id. Raises SchedulerError."""
        [result] = self._commands.call([calls.queue_call(self._user)])
        if not result.is_good:
            raise SchedulerError(NO_ANSWER, log_detail=f"qstat: {result.problem}")
        by_id: dict[str, list[Row]] = {}
        for row in queue_rows(result.stdout):
            by_id.setdefault(row.scheduler_id, []).append(row)
        return by_id

    def _left_the_queue(self, missing: Sequence[Handle], now_seconds: float) -> dict[Handle, Observation]:
        """What accounting has of them. Where it does not answer, they are UNKNOWN."""
        answers = {handle: self._ended.get(handle, Observation(SchedulerState.NOT_FOUND)) for handle in missing}
        # Ids that Grid Engine never gives (another scheduler's, of before a change of settings): it has none of them.
        asked = [handle for handle in missing if handle not in self._ended and calls.is_id(handle.scheduler_id)]
        # Those that were never asked for come first, then those that have waited longest.
        asked.sort(key=lambda handle: self._asked_seconds.get(handle, float("-inf")))
        later = Observation(SchedulerState.UNKNOWN, reason="accounting is asked for it at one of the next looks")
        answers |= dict.fromkeys(asked[MOST_LOOKED_UP:], later)
        asked = asked[:MOST_LOOKED_UP]
        results = self._commands.call([calls.accounting_call(handle.scheduler_id) for handle in asked])
        for handle, result in zip(asked, results, strict=True):
            answers[handle] = self._from_accounting(handle, result, now_seconds)
            remember(self._asked_seconds, handle, now_seconds)
            if answers[handle].state.is_final:
                remember(self._ended, handle, answers[handle])
        return answers

    def _from_accounting(self, handle: Handle, result: Result, now_seconds: float) -> Observation:
        try:
            row = latest(_rows(result), handle)
        except SchedulerError as error:
            log.warning("accounting does not answer", error=str(error))
            return Observation(SchedulerState.UNKNOWN, reason="accounting does not answer")
        if row is not None and row.has_ended:
            return row.observation
        if now_seconds - self._alive.get(handle, float("-inf")) < ACCOUNTING_LAG_SECONDS:
            return Observation(SchedulerState.UNKNOWN, reason="accounting has not heard of its end yet")
        if row is not None:
            # One that was put back into the queue and taken away from there leaves no word of its end.
            return Observation(SchedulerState.NOT_FOUND, row.observation.raw_state, reason="it left the queue unrun")
        return Observation(SchedulerState.NOT_FOUND)


def _rows(result: Result) -> list[Row]:
    """What accounting has; nothing where it says so. Raises SchedulerError where that is not known.

    No file is no answer, either: it may be there on another host only.
    """
    if result.failure is None and result.exit_code == 1 and knows_no_such_job(result.stderr):
        return []
    if not result.is_good:
        raise SchedulerError(NO_ANSWER, log_detail=f"qacct: {result.problem}")
    return accounting_rows(result.stdout)


def _find_answer(name: str, queued: Iterable[Row], result: Result) -> FindAnswer:
    """A name that one of the two knows is found, whatever became of the other."""
    problem = None
    rows = list(queued)
    try:
        rows += _rows(result)
    except SchedulerError as error:
        problem = str(error)
    ids = {row.scheduler_id for row in rows if row.name == name}
    if not ids:
        return Absent() if problem is None else Unknown(problem)
    return Found(tuple(Handle(scheduler_id, name) for scheduler_id in sorted(ids, key=lambda text: (len(text), text))))
