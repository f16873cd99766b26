"""The cluster: a controller with its queue, accounting, and nodes on which wrappers run.

It is modelled after what was measured with Slurm: an ended job leaves the queue after a while and is then known to
accounting alone, which lags; a controller that is killed loses its last seconds and gives the ids out again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from portal.schedulers.base import JobSpec, SchedulerState
from tests.simulation.world import World

IN_QUEUE_SECONDS = 40.0
"""How long an ended job stays in the queue (MinJobAge)."""
LONGEST_ACCOUNTING_LAG_SECONDS = 20.0
KILL_WAIT_SECONDS = 8.0
"""Between SIGTERM and SIGKILL."""
RETRY_START_SECONDS = 7.0
NODES = ("node1", "node2", "node3")

S = SchedulerState
FIRST_ID = 100


@dataclass(eq=False)
class ClusterJob:
    """One job, with all that is true of it."""

    scheduler_id: int
    spec: JobSpec
    submitted_at: float
    state: SchedulerState = S.PENDING
    node: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    cause: SchedulerState | None = None
    """Why it is being ended."""
    cancelled_by: str | None = None
    ended_by_portal: bool = False
    never_runs: bool = False
    is_forgotten: bool = False
    """The controller lost it: neither its queue nor, ever, its end is known."""
    in_accounting_from: float = 0.0
    end_in_accounting_from: float = float("inf")
    told_unknown_since: float | None = None
    runs: list["Run"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.spec.name


class Run:
    """A script on a node, as the cluster sees it; `tests.simulation.nodes` says what it does."""

    def __init__(self, job: ClusterJob, node: str, *, is_the_jobs: bool) -> None:
        self.job = job
        self.node = node
        self.is_the_jobs = is_the_jobs
        """False for a second start of the same job, of whose end nobody hears."""
        self.is_alive = True
        self.is_cut_off = False
        """Its node is out of reach: nothing that it writes arrives."""
        self.was_cut_off = False
        self.waiting: list[Callable[[], None]] = []

    def begin(self) -> None:
        raise NotImplementedError

    def terminate(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """It is gone, with its program."""
        self.is_alive = False

    def come_back(self) -> None:
        """Its node is reached again: what waited to be written is written now."""
        self.is_cut_off = False
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            action()


class Cluster:
    """What is true, whoever can be asked about it."""

    def __init__(self, world: World, make_run: Callable[["Cluster", ClusterJob, str, bool], Run]) -> None:
        self._world = world
        self._make_run = make_run
        self.jobs: list[ClusterJob] = []
        self.next_id = FIRST_ID
        self.controller_is_out = False
        self.accounting_is_out = False
        self.nodes_down: set[str] = set()
        self.starts_nothing = False
        self.took_in: list[tuple[str, bool]] = []
        """Each time that the controller took a name in, and whether its dispatcher had stood still before that call."""
        self.wished: set[str] = set()
        """Names for whose end the portal asked."""

    # The controller

    def take_in(self, spec: JobSpec, *, had_stood_still: bool = False) -> ClusterJob:
        """sbatch has done its work."""
        world = self._world
        job = ClusterJob(self.next_id, spec, world.seconds)
        self.next_id += 1
        job.in_accounting_from = world.seconds + self._lag()
        self.jobs.append(job)
        self.took_in.append((spec.name, had_stood_still))
        world.say(f"cluster: took in {spec.name} as {job.scheduler_id}")
        if world.faults.strikes("controller lost its last seconds"):
            world.after(world.between("lost", 0.5, 20), "loss", lambda: self.lose_last_seconds(25))
        job.never_runs = world.faults.strikes("job can never run")
        if not job.never_runs:
            world.after(world.between("start", 0.5, 15), "start", lambda: self._start(job))
        return job

    def find(self, scheduler_id: str, name: str) -> ClusterJob | None:
        """The one with this id and this name that the controller has or had."""
        fitting = [job for job in self.jobs if str(job.scheduler_id) == scheduler_id and job.name == name]
        return fitting[-1] if fitting else None

    def is_in_queue(self, job: ClusterJob) -> bool:
        if job.is_forgotten:
            return False
        return job.ended_at is None or self._world.seconds - job.ended_at < IN_QUEUE_SECONDS

    def fall_silent(self, seconds: float) -> None:
        """The controller answers nobody for so long."""
        if self.controller_is_out:
            return
        self._world.say("the controller falls silent")
        self.controller_is_out = True
        self._world.after(seconds, "controller", self.answer_again)

    def answer_again(self) -> None:
        self._world.say("the controller answers again")
        self.controller_is_out = False

    def cancel(self, job: ClusterJob, by: str | None) -> None:
        """scancel, by somebody."""
        if job.is_forgotten or job.ended_at is not None:
            return
        job.cancelled_by = by
        if job.state is S.PENDING:
            self._end(job, S.CANCELLED)
        else:
            self.end_by(job, S.CANCELLED)

    def end_by(self, job: ClusterJob, cause: SchedulerState) -> None:
        """SIGTERM now, SIGKILL later, for this reason."""
        if job.ended_at is not None or job.cause is not None or job.is_forgotten:
            return
        job.cause, job.state = cause, S.COMPLETING
        self._world.say(f"cluster: {job.name} is being ended: {cause.value}")
        runs = [run for run in job.runs if run.is_the_jobs and run.is_alive]
        for run in runs:
            run.terminate()
        self._world.after(KILL_WAIT_SECONDS, "kill", lambda: self._kill_rest(job, runs))

    def _kill_rest(self, job: ClusterJob, runs: list[Run]) -> None:
        for run in runs:
            if run.is_alive and not run.is_cut_off:
                run.kill()
        if job.ended_at is None:
            self._end(job, job.cause or S.FAILED, signal=9)

    def lose_last_seconds(self, seconds: float) -> None:
        """SIGKILL of the controller: what it had not saved never was, and its ids are given out again."""
        since = self._world.seconds - seconds
        lost = [job for job in self.jobs if job.submitted_at > since and not job.is_forgotten]
        if not lost:
            return
        self._world.faults.note("jobs that the controller forgot")
        for job in lost:
            job.is_forgotten = True
            if job.state is S.PENDING and self._world.faults.strikes("forgotten job starts"):
                # It was on its way to its node already.
                node = self._world.luck("node").choice(NODES)
                self._world.after(
                    self._world.between("forgotten", 1, 120), "start", partial(self._run, job, node, True)
                )
            self._world.say(f"cluster: the controller forgot {job.name} ({job.scheduler_id}, {job.state.value})")
        self.next_id = min(job.scheduler_id for job in lost)

    # Nodes

    def node_fails(self, node: str, *, comes_back: bool) -> None:
        """The node cannot be reached any more; what runs there is dead, or goes on unseen until it `comes_back`."""
        if node in self.nodes_down:
            return
        world = self._world
        self.nodes_down.add(node)
        world.say(f"cluster: {node} {'is cut off' if comes_back else 'dies'}")
        runs = [run for job in self.jobs for run in job.runs if run.node == node and run.is_alive]
        for run in runs:
            if comes_back:
                run.is_cut_off = run.was_cut_off = True
            else:
                run.kill()
        world.after(world.between("notices", 4, 20), "node failure", lambda: self._notice(node))
        world.after(world.between("node back", 60, 200), "node back", lambda: self._node_back(node, runs))

    def _notice(self, node: str) -> None:
        for job in self.jobs:
            if job.node == node and job.ended_at is None and not job.is_forgotten and job.state is not S.PENDING:
                self._end(job, S.NODE_FAILURE)

    def _node_back(self, node: str, runs: list[Run]) -> None:
        self.nodes_down.discard(node)
        self._world.say(f"cluster: {node} is back")
        for run in runs:
            if run.is_alive and run.is_cut_off:
                if not run.job.is_forgotten and self._world.luck("zombie").random() < 0.3:
                    run.kill()  # the node's own daemon ends what the controller knows as ended
                else:
                    self._world.faults.note("zombie returned")
                    run.come_back()

    def _start(self, job: ClusterJob) -> None:
        if job.ended_at is not None or job.is_forgotten or job.state is not S.PENDING:
            return
        fit = [node for node in NODES if node not in self.nodes_down and node not in job.spec.exclude_nodes]
        if not fit or self.controller_is_out or self.starts_nothing:
            self._world.after(RETRY_START_SECONDS, "start", lambda: self._start(job))
            return
        job.node = self._world.luck("node").choice(fit)
        job.state, job.started_at = S.RUNNING, self._world.seconds
        self._world.say(f"cluster: {job.name} starts on {job.node}")
        if self._world.faults.strikes("launch failed"):
            self._end(job, S.FAILED, exit_code=1)
            return
        self._run(job, job.node, is_the_jobs=True)
        if self._world.faults.strikes("job started twice"):
            other = self._world.luck("node").choice(NODES)
            if other not in self.nodes_down:
                self._world.after(
                    self._world.between("second start", 0, 10), "second start", lambda: self._run(job, other, False)
                )

    def _run(self, job: ClusterJob, node: str, is_the_jobs: bool) -> None:
        if node in self.nodes_down or (is_the_jobs and job.ended_at is not None):
            return
        run = self._make_run(self, job, node, is_the_jobs)
        job.runs.append(run)
        self._world.after(self._world.between("launch", 0.1, 2), "begin", run.begin)

    def ended(self, run: Run, exit_code: int | None = None, signal: int | None = None) -> None:
        """A script has ended on its node."""
        run.is_alive = False
        job = run.job
        if not run.is_the_jobs or job.is_forgotten or job.ended_at is not None or run.is_cut_off:
            return
        self._end(job, job.cause or (S.COMPLETED if exit_code == 0 else S.FAILED), exit_code, signal)

    def _end(
        self, job: ClusterJob, state: SchedulerState, exit_code: int | None = None, signal: int | None = None
    ) -> None:
        job.state, job.exit_code, job.signal = state, exit_code, signal
        job.ended_at = self._world.seconds
        job.end_in_accounting_from = self._world.seconds + self._lag()
        self._world.say(f"cluster: {job.name} ended: {state.value} exit code {exit_code} signal {signal}")

    def _lag(self) -> float:
        return self._world.between("accounting lag", 0, LONGEST_ACCOUNTING_LAG_SECONDS)
