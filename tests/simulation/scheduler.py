"""The simulated scheduler: the five verbs as a client of the cluster has them, with everything that befalls a call."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from portal.errors import SchedulerError
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
    Rejected,
    Scheduler,
    SchedulerState,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from tests.simulation.cluster import Cluster, ClusterJob
from tests.simulation.world import START, World

LOST_CALL_SECONDS = 20.0
"""How long after the call a submission may still take effect."""
LONGEST_CALL_SECONDS = 10.0
GHOST_SECONDS = 60.0
"""How long accounting may call a job alive that the queue does not know, before that counts as unknown to both."""

S = SchedulerState


class SimulatedScheduler(Scheduler):
    """One dispatcher's way to the cluster."""

    kind = "simulated"
    capabilities = Capabilities(
        has_accounting=True,
        sees_node_failures=True,
        enforces_time_limit=True,
        enforces_memory=True,
        can_exclude_nodes=True,
        lost_call_seconds=LOST_CALL_SECONDS,
    )

    def __init__(self, world: World, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster

    def submit(self, specs: Sequence[JobSpec]) -> list[SubmitAnswer]:
        self._world.before_step("submit")
        answers = [self._submit(spec) for spec in specs]
        is_lost = any(isinstance(answer, InDoubt) for answer in answers)
        if is_lost and self._world.faults.strikes("outage after a lost reply"):
            self._cluster.fall_silent(self._world.between("silent", 20, 90))
        self._take_time()
        self._world.after_step("submit")
        for spec, answer in zip(specs, answers, strict=True):
            self._world.say(f"submit {spec.name}: {answer}")
        return answers

    def _submit(self, spec: JobSpec) -> SubmitAnswer:
        faults = self._world.faults
        if self._cluster.controller_is_out:
            if self._world.luck("outage").random() < 0.5:
                return Deferred("The scheduler cannot be reached.")
            return InDoubt("the call timed out")
        if faults.strikes("submission refused"):
            return Rejected("invalid partition specified")
        if faults.strikes("submission put off"):
            return Deferred("too many jobs")
        if faults.strikes("submission did not get in, reply lost"):
            return InDoubt("the connection broke")
        if faults.strikes("submission gets in late, reply lost"):
            late_seconds = self._world.between("late", 0, LOST_CALL_SECONDS)
            had_stood_still = self._caller_stood_still()
            self._world.after(late_seconds, "late submission", lambda: self._arrive(spec, had_stood_still))
            return InDoubt("the call timed out")
        job = self._cluster.take_in(spec, had_stood_still=self._caller_stood_still())
        if faults.strikes("submission got in, reply lost"):
            return InDoubt("the connection broke")
        return Submitted(_handle(job))

    def _arrive(self, spec: JobSpec, had_stood_still: bool) -> None:
        if not self._cluster.controller_is_out:
            self._cluster.take_in(spec, had_stood_still=had_stood_still)

    def _caller_stood_still(self) -> bool:
        return self._world.process is not None and self._world.process.stood_still

    def observe(self, handles: Collection[Handle]) -> dict[Handle, Observation]:
        self._world.before_step("observe")
        self._fail_sometimes("observe")
        answers = {handle: self._observation(handle) for handle in handles}
        self._take_time()
        self._world.after_step("observe")
        for handle, seen in answers.items():
            self._world.say(f"observe {handle.name} ({handle.scheduler_id}): {seen.state.value}")
        return answers

    def _observation(self, handle: Handle) -> Observation:
        job = self._cluster.find(handle.scheduler_id, handle.name)
        if job is not None and self._cluster.is_in_queue(job):
            return self._seen(job)
        if self._cluster.accounting_is_out:
            return Observation(S.UNKNOWN, reason="accounting does not answer")
        now = self._world.seconds
        if job is None or now < job.in_accounting_from:
            return Observation(S.NOT_FOUND)
        if not job.is_forgotten and now >= job.end_in_accounting_from:
            return self._seen(job)
        # Accounting has not heard of its end: it is on its way, or will never come.
        job.told_unknown_since = job.told_unknown_since or now
        if now - job.told_unknown_since < GHOST_SECONDS:
            return Observation(S.UNKNOWN, "RUNNING", reason="accounting has not heard of its end yet")
        return Observation(S.NOT_FOUND, "RUNNING", reason="the queue does not have it")

    def _seen(self, job: ClusterJob) -> Observation:
        return Observation(
            job.state,
            job.state.name,
            exit_code=job.exit_code,
            signal=job.signal,
            node=job.node,
            reason="can never run" if job.never_runs else None,
            cancelled_by=job.cancelled_by,
            started_at=_moment(job.started_at),
            ended_at=_moment(job.ended_at),
            ended_by_portal=job.ended_by_portal and job.state is S.PREEMPTED,
            never_runs=job.never_runs and job.state is S.PENDING,
        )

    def cancel(self, handles: Collection[Handle]) -> None:
        self._world.before_step("cancel")
        if self._world.faults.strikes("cancellation not heard"):
            self._world.say("cancel: not heard")
            raise SchedulerError("The scheduler does not answer.")
        self._fail_sometimes("cancel", rate=0.0)
        for handle in handles:
            self._world.say(f"cancel {handle.name} ({handle.scheduler_id})")
            self._cluster.wished.add(handle.name)
            job = self._cluster.find(handle.scheduler_id, handle.name)
            if job is not None:
                self._cluster.cancel(job, by=None)
        self._take_time()
        self._world.after_step("cancel")
        if self._world.faults.strikes("cancellation heard, reply lost"):
            raise SchedulerError("The scheduler does not answer.")

    def find(self, names: Collection[str]) -> dict[str, FindAnswer]:
        self._world.before_step("find")
        answers = {name: self._find(name) for name in names}
        self._take_time()
        self._world.after_step("find")
        for name, answer in answers.items():
            self._world.say(f"find {name}: {answer}")
        return answers

    def _find(self, name: str) -> FindAnswer:
        if self._cluster.controller_is_out or self._world.faults.strikes("question failed"):
            return Unknown("no answer")
        now = self._world.seconds
        named = [job for job in self._cluster.jobs if job.name == name]
        found = [job for job in named if self._cluster.is_in_queue(job)]
        if not self._cluster.accounting_is_out:
            found += [job for job in named if job not in found and now >= job.in_accounting_from]
        if found:
            ids = {job.scheduler_id for job in found}
            return Found(tuple(Handle(str(number), name) for number in sorted(ids)))
        return Unknown("accounting does not answer") if self._cluster.accounting_is_out else Absent()

    def health(self) -> Health:
        self._world.before_step("health")
        if self._cluster.controller_is_out:
            return Health(ok=False, detail="The scheduler does not answer.")
        return Health(True, "simulated", 0, 0, accounting_ok=not self._cluster.accounting_is_out)

    def _fail_sometimes(self, verb: str, rate: float | None = None) -> None:
        if self._cluster.controller_is_out or self._world.faults.strikes("question failed", rate):
            self._world.say(f"{verb}: no answer")
            raise SchedulerError("The scheduler does not answer.")

    def _take_time(self) -> None:
        """The answer is on its way: what it says may be out of date when it arrives."""
        seconds = 0.02
        if self._world.faults.strikes("slow scheduler call"):
            seconds = self._world.between("call", 0.1, LONGEST_CALL_SECONDS)
        self._world.advance(seconds)


def _handle(job: ClusterJob) -> Handle:
    return Handle(str(job.scheduler_id), job.name)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else START + timedelta(seconds=seconds)
