"""A scheduler that answers what the test has told it to, and keeps what it was asked."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from portal.errors import SchedulerError
from portal.schedulers.base import (
    Absent,
    Capabilities,
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

CAPABILITIES = Capabilities(
    has_accounting=True,
    sees_node_failures=True,
    enforces_time_limit=True,
    enforces_memory=True,
    can_exclude_nodes=True,
    lost_call_seconds=30,
)


@dataclass(frozen=True)
class Lost:
    """The answer to a submission is lost; `is_in` says whether the job got into the scheduler all the same."""

    is_in: bool


@dataclass
class Call:
    """One call that was made."""

    verb: str
    names: list[str]


@dataclass
class ScriptedScheduler(Scheduler):
    """Takes everything in unless `submit_answers` has another answer for a name; knows what `observe_as` was told."""

    capabilities: Capabilities = CAPABILITIES
    kind: str = "scripted"
    calls: list[Call] = field(default_factory=list)
    specs: list[JobSpec] = field(default_factory=list)
    """All that was ever handed in, in order."""
    cancelled: list[Handle] = field(default_factory=list)
    jobs: dict[Handle, Observation] = field(default_factory=dict)
    """What is in queue and accounting."""
    submit_answers: dict[str, list[SubmitAnswer | Lost]] = field(default_factory=dict)
    """By name: what the next submissions are answered; then it takes the job in."""
    find_answers: dict[str, FindAnswer] = field(default_factory=dict)
    """By name, instead of what `jobs` says."""
    is_out: bool = False
    accounting_is_out: bool = False
    """Nothing can be asked."""
    when_submitting: Callable[[], None] | None = None
    """Called once, when a batch has got in and before it is answered: to die, or to be overtaken."""
    last_id: int = 100

    def submit(self, specs: Sequence[JobSpec]) -> list[SubmitAnswer]:
        self._note("submit", [spec.name for spec in specs])
        self.specs += specs
        answers = [self._take_in(spec) for spec in specs]
        if self.when_submitting is not None:
            hook, self.when_submitting = self.when_submitting, None
            hook()
        return answers

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        self._note("observe", [handle.name for handle in handles])
        self._answer_or_raise()
        return {handle: self.jobs.get(handle, Observation(SchedulerState.NOT_FOUND)) for handle in handles}

    def cancel(self, handles: Collection[Handle]) -> None:
        self._note("cancel", [handle.name for handle in handles])
        self._answer_or_raise()
        self.cancelled += handles

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        self._note("find", list(names))
        return {name: self._find(name) for name in names}

    def health(self) -> Health:
        detail = "scripted" if not self.is_out else "no route to host"
        return Health(not self.is_out, detail, running=1, waiting=2, accounting_ok=not self.accounting_is_out)

    def put_in(self, name: str) -> Handle:
        """Let the scheduler have a job of this name, once more."""
        self.last_id += 1
        handle = Handle(str(self.last_id), name)
        self.jobs[handle] = Observation(SchedulerState.PENDING, "PENDING")
        return handle

    def see(self, name: str, state: SchedulerState, raw_state: str = "", **facts: object) -> None:
        """From now on this is what is seen of all jobs of this name."""
        observation = replace(Observation(state, raw_state or state.name), **facts)  # type: ignore[arg-type]
        for handle in self.handles(name):
            self.jobs[handle] = observation

    def forget(self, name: str) -> None:
        """Neither queue nor accounting know the name any more."""
        for handle in self.handles(name):
            del self.jobs[handle]

    def handles(self, name: str) -> list[Handle]:
        return [handle for handle in self.jobs if handle.name == name]

    def asked(self, verb: str) -> list[list[str]]:
        """The names of each call of this verb."""
        return [call.names for call in self.calls if call.verb == verb]

    def submitted_names(self) -> list[str]:
        """The names of all that was handed in, in order."""
        return [spec.name for spec in self.specs]

    def _take_in(self, spec: JobSpec) -> SubmitAnswer:
        scripted = self.submit_answers.get(spec.name)
        answer = scripted.pop(0) if scripted else Lost(is_in=True) if self.is_out else None
        if answer is None:
            return Submitted(self.put_in(spec.name))
        if isinstance(answer, Lost):
            if answer.is_in:
                self.put_in(spec.name)
            return InDoubt("the connection broke")
        return answer

    def _find(self, name: str) -> FindAnswer:
        if name in self.find_answers:
            return self.find_answers[name]
        if self.is_out:
            return Unknown("no answer")
        handles = self.handles(name)
        return Found(tuple(handles)) if handles else Absent()

    def _answer_or_raise(self) -> None:
        if self.is_out:
            raise SchedulerError("The scheduler does not answer.")

    def _note(self, verb: str, names: list[str]) -> None:
        self.calls.append(Call(verb, names))
