"""A wrapper on its node: the real functions of `portal.node.wrapper`, one after the other, with time between them.

Only what is the machine's is simulated: the program itself, signals, and the moment in which everything is killed. The
ledger says what really happened, whatever the portal comes to believe.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from portal.node import wrapper
from portal.node.heartbeat import Heart
from portal.node.outcome import Ending
from portal.schedulers.base import SchedulerState
from tests.simulation.cluster import Cluster, ClusterJob, Run
from tests.simulation.disk import Disk
from tests.simulation.world import Killed, Process, World

S = SchedulerState
Step = Callable[[], None]
BEAT_SECONDS = 5.0
TIME_LIMIT_SECONDS = 50.0
"""As the cluster enforces it in here."""


@dataclass
class ProgramRun:
    """One start of the program of an attempt."""

    job_id: str
    attempt: int
    scheduler_id: str
    started_at: float
    answer: int
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None


@dataclass
class Ledger:
    """The truth about programs."""

    runs: list[ProgramRun] = field(default_factory=list)

    def of(self, job_id: str, attempt: int) -> list[ProgramRun]:
        return [run for run in self.runs if (run.job_id, run.attempt) == (job_id, attempt)]


class _Signals:
    """What the wrapper asks of its pipe of signals."""

    got_sigterm = False

    def drain(self) -> list[int]:
        return []


class WrapperRun(Run):
    """One start of one job script."""

    def __init__(self, world: World, disk: Disk, ledger: Ledger, cluster: Cluster, job: ClusterJob, node: str,
                 is_the_jobs: bool) -> None:  # fmt: skip
        super().__init__(job, node, is_the_jobs=is_the_jobs)
        self._world = world
        self._disk = disk
        self._ledger = ledger
        self._cluster = cluster
        self._process = Process(f"wrapper of {job.name} on {node}", on_node=True)
        self._signals = _Signals()
        self._attempt: wrapper.Attempt | None = None
        self._program: ProgramRun | None = None
        if world.faults.strikes("wrapper killed"):
            self._process.dies_at = world.luck("wrapper killed").randint(1, 14)
            self._process.dies_after_step = world.luck("wrapper killed").random() < 0.5

    # What the cluster does to it

    def terminate(self) -> None:
        """SIGTERM to the wrapper, which passes it on."""
        if not self.is_alive:
            return
        self._signals.got_sigterm = True
        if self.is_cut_off or self._program is None:
            return
        way = self._world.luck("sigterm").random()
        if way < 0.6:
            self._later(self._world.between("dies of it", 0.1, 3), lambda: self._program_ends(None, 15))
        elif way < 0.75:
            self._later(self._world.between("dies of it", 0.1, 3), lambda: self._program_ends(0, None))
        # else it does not listen

    def kill(self) -> None:
        super().kill()
        self._process.is_dead = True
        if self._program is not None and self._program.ended_at is None:
            self._program.ended_at, self._program.signal = self._world.seconds, 9

    # What it does

    def begin(self) -> None:
        """The wrapper opens its attempt and takes the claim."""
        self._do(self._open)

    def _open(self) -> None:
        config = self._node_path(self.job.spec.working_dir.parent / "config.ini")
        attempt = wrapper._open_attempt([str(config)], {"PORTAL_SCHEDULER_ID": str(self.job.scheduler_id)})
        self._attempt = attempt._replace(host=self.node, pid=4711)
        wrapper._take_claim(self._attempt)
        self._world.say(f"{self._process.name} has the claim")
        self._later(self._world.between("wrapper", 0.05, 1), self._start)

    def _start(self) -> None:
        attempt = self._started_attempt()
        wrapper._write_status(attempt, wrapper._started(attempt))
        answer = len(self._ledger.runs) + 1000
        program = ProgramRun(
            attempt.config.job_id, attempt.config.number, attempt.scheduler_id, self._world.seconds, answer
        )
        self._ledger.runs.append(program)
        self._program = program
        self._world.say(f"PROGRAM STARTS {self.job.name} as {attempt.scheduler_id} on {self.node}")
        self._heart = Heart(attempt.work_dir, BEAT_SECONDS)
        self._beat()
        if self._signals.got_sigterm:
            self._later(0.1, lambda: self._program_ends(None, 15))
        self._live()

    def _live(self) -> None:
        """How the program spends its life, and how that ends."""
        faults, between = self._world.faults, self._world.between
        seconds = between("program", 1, 40)
        cluster, job = self._cluster, self.job
        if faults.strikes("time limit"):
            seconds = 10 * TIME_LIMIT_SECONDS
        if self.is_the_jobs:
            self._world.after(TIME_LIMIT_SECONDS, "limit", lambda: cluster.end_by(job, S.TIME_LIMIT))
            if faults.strikes("preempted"):
                self._world.after(between("fate", 0, seconds), "preempt", lambda: cluster.end_by(job, S.PREEMPTED))
            if faults.strikes("cancelled by an operator"):
                self._world.after(between("fate", 0, seconds), "scancel", lambda: cluster.cancel(job, "operator"))
            if faults.strikes("ended by the portal's shutdown"):
                self._world.after(between("fate", 0, seconds), "shutdown", self._shut_down)
            if faults.strikes("out of memory"):
                self._world.after(between("fate", 0, seconds), "memory", self._run_out_of_memory)
            if faults.strikes("node died"):
                self._node_fails(between("fate", 0, seconds), comes_back=False)
            elif faults.strikes("node came back with a zombie"):
                self._node_fails(between("fate", 0, seconds), comes_back=True)
        exit_code = self._world.luck("exit code").choice((1, 7, 99)) if faults.strikes("program failed") else 0
        self._later(seconds, lambda: self._program_ends(exit_code, None))

    def _node_fails(self, seconds: float, *, comes_back: bool) -> None:
        def fail() -> None:
            if self.is_alive:
                self._cluster.node_fails(self.node, comes_back=comes_back)

        self._world.after(seconds, "node fails", fail)

    def _shut_down(self) -> None:
        if self.is_alive and self.job.ended_at is None and self.job.cause is None:
            self.job.ended_by_portal = True
            self._cluster.end_by(self.job, S.PREEMPTED)

    def _run_out_of_memory(self) -> None:
        if self.is_alive and not self.is_cut_off and self.job.cause is None:
            self.job.cause = S.OUT_OF_MEMORY
            self.kill()
            self._cluster.ended(self, signal=9)

    def _beat(self) -> None:
        program = self._program
        if not self.is_alive or program is None or program.ended_at is not None:
            return
        if not self.is_cut_off:
            with self._world.acting(None):
                self._heart._next = 0.0
                self._heart.beat_if_due()
                self._disk.appear(Path(self._started_attempt().work_dir) / "heartbeat")
        self._world.after(BEAT_SECONDS, "beat", self._beat)

    def _program_ends(self, exit_code: int | None, signal: int | None) -> None:
        program = self._program
        if program is None or program.ended_at is not None:
            return
        program.ended_at, program.exit_code, program.signal = self._world.seconds, exit_code, signal
        self._world.say(f"PROGRAM ENDS {self.job.name}: exit code {exit_code}, signal {signal}")
        work = Path(self._started_attempt().work_dir)
        with self._world.acting(None):
            (work / "output.txt").write_text(f"The answer is: {program.answer}\n" if exit_code == 0 else "nothing\n")
            (work / "err_output.txt").write_text("" if exit_code == 0 else "something went wrong\n")
        with self._world.acting(self._process):
            self._disk.appear(work / "output.txt")
            self._disk.appear(work / "err_output.txt")
        self._later(self._world.between("wrapper", 0.02, 1), lambda: self._finish(program))

    def _finish(self, program: ProgramRun) -> None:
        run = wrapper.Run(Ending(program.exit_code, program.signal), None, False, program.ended_at or 0.0)
        exit_code = wrapper._finish(self._started_attempt(), run, self._signals)  # type: ignore[arg-type]
        self._exit(exit_code)

    def _exit(self, exit_code: int) -> None:
        self.is_alive = False
        self._world.after(
            self._world.between("exit", 0.1, 2), "ended", lambda: self._cluster.ended(self, exit_code=exit_code)
        )

    # How its steps are taken

    def _later(self, seconds: float, step: Step) -> None:
        self._world.after(seconds, "wrapper", lambda: self._do(step))

    def _do(self, step: Step) -> None:
        """Take a step, now or when its node is reached again; what goes wrong ends the wrapper as it really does."""
        if not self.is_alive:
            return
        if self.is_cut_off:
            self.waiting.append(lambda: self._do(step))
            return
        try:
            with self._world.acting(self._process):
                step()
        except Killed:
            self.kill()
            self._world.after(0.5, "ended", lambda: self._cluster.ended(self, signal=9))
        except wrapper._StopError as stop:
            self._world.say(f"{self._process.name}: {self._shown(str(stop))}")
            self._exit(stop.exit_code)
        except OSError as error:
            self._world.say(f"{self._process.name} cannot write: {error.strerror}")
            self._exit(wrapper.EXIT_CANNOT_WRITE)

    def _started_attempt(self) -> wrapper.Attempt:
        assert self._attempt is not None
        return self._attempt

    def _node_path(self, path: Path) -> Path:
        if path.is_relative_to(self._disk.portal_root):
            return self._disk.node_root / path.relative_to(self._disk.portal_root)
        return path

    def _shown(self, text: str) -> str:
        return text.replace(str(self._disk.node_root), "")
