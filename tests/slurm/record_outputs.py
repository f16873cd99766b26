"""Records what Slurm's commands really print, for the tests of their parsers, into tests/data/slurm/<version>/.

    CLUSTER_EXTRA_CONF=$'PreemptType=preempt/partition_prio\nPreemptMode=CANCEL' deploy/slurm/cluster.sh up
    .venv/bin/python -m tests.slurm.record_outputs            # about three minutes
    deploy/slurm/cluster.sh down --purge

With a cluster that was brought up with --cgroup, `record_outputs cgroup`: what only cgroups make (OUT_OF_MEMORY).
With CLUSTER_EXTRA_CONF=MaxJobCount=3, `record_outputs full`: sbatch where slurmctld takes no more jobs (two minutes).

Each recording is NAME.out (standard output), NAME.err (standard error; absent where empty) and NAME.json (the command,
its exit code, the situation). All ran as `portal-jobs` with TZ=UTC LC_ALL=C. A job is named after what becomes of it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from portal.schedulers import slurm_calls
from tests.waiting import wait_until

DATA = Path(__file__).parents[1] / "data" / "slurm"
_CLUSTER = Path(__file__).parents[2] / "deploy" / "slurm" / "cluster.sh"

SEPARATOR = "|recorded|"
"""Of the portal's own queries, which take another one each time."""
QUEUE_FORMAT = "%i|%F|%K|%j|%T|%r|%N|%S|%B|%Q|%u"
SACCT_FIELDS = (
    "JobID,JobName%200,State%60,ExitCode,DerivedExitCode,NodeList%100,Submit,Start,End,Reason%100,Comment%200"
)


@cache
def _environment() -> dict[str, str]:
    exported = subprocess.run(
        ["/bin/sh", "-c", 'eval "$("$1" env)"; env', "sh", str(_CLUSTER)], capture_output=True, text=True, check=True
    ).stdout
    wanted = dict(line.split("=", 1) for line in exported.splitlines() if line.startswith(("SLURM_CONF=", "CLUSTER_")))
    return wanted | {"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C"}


@cache
def version() -> str:
    return run("sbatch", "--version").stdout.decode().split()[1]


def run(*command: str, account: str = "portal-jobs") -> subprocess.CompletedProcess[bytes]:
    if account != "root":
        command = ("setpriv", "--reuid", account, "--regid", "portal-jobs", "--clear-groups", *command)
    return subprocess.run(
        command, env=_environment(), cwd=jobs_folder(), stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )


def jobs_folder() -> Path:
    """Where the scripts and their output lie."""
    return Path(_environment()["CLUSTER_JOBS_DIR"]) / "recording"


def cluster(*arguments: str) -> None:
    subprocess.run([str(_CLUSTER), *arguments], env=os.environ | _environment(), check=True, stdin=subprocess.DEVNULL)


def record(name: str, situation: str, *command: str) -> bytes:
    """Run it as portal-jobs and keep what it printed; answers its standard output."""
    folder = DATA / version()
    started = time.monotonic()
    done = run(*command)
    seconds = time.monotonic() - started
    (folder / f"{name}.out").write_bytes(done.stdout)
    if done.stderr:
        (folder / f"{name}.err").write_bytes(done.stderr)
    about = {
        "command": list(command),
        "exit_code": done.returncode,
        "seconds": round(seconds, 1),
        "situation": situation,
    }
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"{name}: exit {done.returncode}, {seconds:.1f} s, {len(done.stdout)} + {len(done.stderr)} bytes")
    return done.stdout


def submit(name: str, script: str, *options: str, interpreter: str = "/bin/sh") -> str:
    """The id of a new job of portal-jobs."""
    file = jobs_folder() / f"{name}.sh"
    file.write_text(f"#!{interpreter}\n{script}\n")
    named = f"--job-name=portal-word-{name}-1"
    done = run("sbatch", "--parsable", named, "--comment=recorded", "--output=scheduler.out", *options, str(file))
    assert done.returncode == 0, (name, done.stderr)
    return done.stdout.decode().strip()


def _state(job: str) -> str:
    return run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %r").stdout.decode().strip()


def wait_for_state(job: str, *states: str, seconds: float = 30) -> None:
    wait_until(lambda: _state(job).startswith(states), seconds, f"job {job} in {states}, it is {_state(job)}")


def _queue(name: str, situation: str, *options: str) -> None:
    record(name, situation, "squeue", "-h", "-a", "-t", "all", *options, "-o", QUEUE_FORMAT)


def _history(name: str, situation: str, since: str, *options: str) -> None:
    record(name, situation, "sacct", "-X", "-P", "-n", "-D", "-S", since, *options, f"--format={SACCT_FIELDS}")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


def _finished_jobs() -> Callable[[], None]:
    """Jobs that end in every way that Slurm has; the answer waits for the slow ones."""
    time_limit = submit("time-limit", "sleep 600", "--time=1", "--nodelist=node1")
    # It wants a whole node that the job before it is on until after the deadline.
    wait_for_state(time_limit, "RUNNING")
    deadline = submit("deadline", "true", "--nodelist=node1", "--exclusive", "--time=1", "--deadline=now+70seconds")
    submit("completed", "exit 0")
    failed = submit("exit-code-7", "exit 7")
    submit("signal-11", "kill -SEGV $$")
    submit("signal-9-from-outside", "kill -KILL $$")
    submit("launch-failed", "exit 0", "--output=/nonexistent/folder/file")
    submit("interpreter-missing", "exit 0", interpreter="/nonexistent/sh")
    submit("over-memory", "python3 -c \"x = b'1' * 400000000; import time; time.sleep(60)\"", "--mem=50M")
    submit("array", "exit $SLURM_ARRAY_TASK_ID", "--array=0-3")
    wait_for_state(failed, "FAILED")
    submit("dependency-never-satisfied", "true", f"--dependency=afterok:{failed}")
    killed = submit("dependency-killed", "true", f"--dependency=afterok:{failed}", "--kill-on-invalid-dep=yes")
    _cancelled_jobs()
    _node_failures()
    _preempted_job()
    _requeued_job()

    def wait() -> None:
        wait_for_state(time_limit, "TIMEOUT", seconds=150)
        wait_for_state(deadline, "DEADLINE", seconds=150)
        wait_for_state(killed, "CANCELLED", seconds=60)

    return wait


def _cancelled_jobs() -> None:
    by_owner = submit("cancelled-by-owner", "sleep 600")
    by_root = submit("cancelled-by-root", "sleep 600")
    pending = submit("cancelled-while-pending", "sleep 600", "--begin=now+1hour")
    held = submit("cancelled-while-held", "sleep 600", "--hold")
    one_of_array = submit("cancelled-one-of-array", "sleep 600", "--array=0-2", "--begin=now+1hour")
    wait_for_state(by_owner, "RUNNING")
    wait_for_state(by_root, "RUNNING")
    record("scancel-running", "a running job, by its owner", "scancel", by_owner)
    run("scancel", by_root, account="root")
    record("scancel-pending", "a pending and a held job, by their owner", "scancel", pending, held)
    record("scancel-array-element", "one pending element of an array", "scancel", f"{one_of_array}_1")
    wait_for_state(by_owner, "CANCELLED")
    record("scancel-finished", "a job that has been cancelled already", "scancel", by_owner)


def _node_failures() -> None:
    once = submit("node-failed", "sleep 600", "--no-requeue", "--nodelist=node3")
    again = submit("node-failed-requeued", "sleep 5", "--requeue", "--nodelist=node3")
    wait_for_state(once, "RUNNING")
    wait_for_state(again, "RUNNING")
    cluster("kill-node", "node3", "--now")
    wait_for_state(once, "NODE_FAIL")
    _queue("squeue-node-failed", "node3 is dead: a job without --requeue and one with it", "-j", f"{once},{again}")
    record("sinfo-node-down", "node3 is down", "sinfo", "-N", "-h", "-o", "%N|%T|%E")
    cluster("revive-node", "node3")
    wait_for_state(again, "COMPLETED", seconds=150)


def _preempted_job() -> None:
    low = submit("preempted", "sleep 600", "--nodelist=node2", "--exclusive")
    wait_for_state(low, "RUNNING")
    high = submit("preempting", "sleep 2", "--partition=short", "--nodelist=node2", "--exclusive")
    wait_for_state(low, "PREEMPTED", seconds=60)
    wait_for_state(high, "COMPLETED", seconds=60)


def _requeued_job() -> None:
    job = submit("requeued", "sleep 600", "--requeue")
    wait_for_state(job, "RUNNING")
    run("scontrol", "requeue", job, account="root")
    wait_for_state(job, "PENDING")
    _queue("squeue-requeued", "a job that was requeued and waits for its second run", "-j", job)
    wait_for_state(job, "RUNNING", seconds=60)
    run("scancel", job)
    wait_for_state(job, "CANCELLED")


def _waiting_jobs() -> list[str]:
    """Jobs that wait, each for a reason of its own; the answer is all of them."""
    run("sacctmgr", "-i", "add", "qos", "one_at_a_time", "set", "MaxJobsPerUser=1", "MaxSubmitJobsPerUser=2",
         account="root")  # fmt: skip
    run("sacctmgr", "-i", "modify", "user", "portal-jobs", "set", "qos+=one_at_a_time", account="root")
    time.sleep(1)  # until slurmctld has heard of it
    running = submit("running", "sleep 600", "--nodelist=node1")
    array = submit("array-waiting", "sleep 600", "--array=1-5%2", "--nodelist=node1")
    limited = [submit(f"limited-{n}", "sleep 600", "--qos=one_at_a_time") for n in (1, 2)]
    record(
        "sbatch-too-many-submitted",
        "the QOS allows two submitted jobs at a time, and two there are (a limit that passes)",
        "sbatch", "--parsable", "--qos=one_at_a_time", "running.sh",
    )  # fmt: skip
    suspended = submit("suspended", "sleep 600", "--nodelist=node2")
    for job in (running, limited[0], suspended):
        wait_for_state(job, "RUNNING")
    run("scontrol", "suspend", suspended, account="root")
    # Deaf to SIGTERM, so that it takes KillWait seconds to end.
    deaf = submit("completing", "trap '' TERM; sleep 600; sleep 600", "--nodelist=node2")
    wait_for_state(deaf, "RUNNING")
    admin = submit("held-by-admin", "true", "--begin=now+1hour")
    run("scontrol", "hold", admin, account="root")
    jobs = [
        running, array, *limited, suspended, admin,
        submit("waits-for-time", "true", "--begin=now+1hour"),
        submit("waits-for-job", "true", f"--dependency=afterany:{running}"),
        submit("held-by-user", "true", "--hold"),
        submit("waits-for-resources", "true", "--nodes=3", "--exclusive"),
        submit("waits-for-priority", "true", "--nodes=3", "--exclusive"),
    ]  # fmt: skip
    time.sleep(5)  # the scheduler gives each its reason, and the script sets its trap
    run("scancel", deaf)
    wait_for_state(deaf, "COMPLETING")
    return jobs


def _record_queue(jobs: Sequence[str]) -> None:
    _queue("squeue", "jobs in every state; pending arrays are one line, as are their finished elements not")
    record("portal-queue", "the same, as the portal asks", *slurm_calls.queue_call(SEPARATOR))
    _queue("squeue-r", "the same with -r: each array element on a line of its own", "-r")
    record("scontrol-show-job", "the same jobs, one a line", "scontrol", "show", "job", "-o")
    record("scontrol-show-one-job", "a running job", "scontrol", "show", "job", "-o", jobs[0])
    _queue("squeue-some-ids", "two ids, of which one is unknown", "-j", f"{jobs[0]},999999")
    _queue("squeue-unknown-id", "an unknown id alone", "-j", "999999")
    _queue("squeue-by-name", "one job by its name", "--name=portal-word-running-1")
    _queue("squeue-by-unknown-name", "a name that no job has", "--name=portal-word-nobody-1")
    record("scontrol-show-unknown-job", "an unknown id", "scontrol", "show", "job", "-o", "999999")
    record("scancel-unknown-id", "an unknown id", "scancel", "999999")
    record("scancel-by-unknown-name", "a name that no job has", "scancel", "--name=portal-word-nobody-1")
    other = run("sbatch", "--parsable", "--wrap=sleep 600", account="portal").stdout.decode().strip()
    record("scancel-of-somebody-else", "a job of another account", "scancel", other)
    run("scancel", other, account="root")
    record("sinfo-nodes", "three healthy nodes, one with a suspended job", "sinfo", "-N", "-h", "-o", "%N|%T|%E")
    record("scontrol-ping", "the controller answers", "scontrol", "ping")


def _record_sbatch() -> None:
    (jobs_folder() / "ok.sh").write_text("#!/bin/sh\nexit 0\n")
    (jobs_folder() / "no-interpreter.sh").write_text("exit 0\n")
    (jobs_folder() / "empty.sh").write_text("")
    refused = {
        "success": ("a job is accepted", ["ok.sh"]),
        "success-array": ("an array is accepted", ["--array=0-2", "ok.sh"]),
        "invalid-partition": ("there is no such partition", ["--partition=nowhere", "ok.sh"]),
        "invalid-account": ("the user is not in this account", ["--account=nobody", "ok.sh"]),
        "unknown-qos": ("there is no such QOS", ["--qos=express", "ok.sh"]),
        "too-much-memory": ("no node has so much memory", ["--mem=1000G", "ok.sh"]),
        "too-many-cpus": ("no node has so many CPUs", ["--cpus-per-task=64", "ok.sh"]),
        "bad-time": ("a time limit that is none", ["--time=soon", "ok.sh"]),
        "too-much-time": ("more time than the partition allows", ["--partition=short", "--time=60", "ok.sh"]),
        "bad-gres": ("no node has such a resource", ["--gres=gpu:1", "ok.sh"]),
        "bad-memory": ("an amount of memory that is none", ["--mem=lots", "ok.sh"]),
        "unknown-node-excluded": ("--exclude of a node that does not exist", ["--exclude=node77", "ok.sh"]),
        "unknown-node-wanted": ("--nodelist of a node that does not exist", ["--nodelist=node77", "ok.sh"]),
        "unknown-option": ("an option that does not exist", ["--quickly", "ok.sh"]),
        "array-too-large": ("an array over MaxArraySize", ["--array=0-100000", "ok.sh"]),
        "bad-dependency": ("a dependency on an unknown job", ["--dependency=afterok:999999", "ok.sh"]),
        "script-missing": ("the script does not exist", ["nowhere.sh"]),
        "script-no-interpreter": ("a script without #!", ["no-interpreter.sh"]),
        "script-empty": ("an empty script", ["empty.sh"]),
    }
    for name, (situation, arguments) in refused.items():
        record(f"sbatch-{name}", situation, "sbatch", "--parsable", *arguments)


def _record_daemons_down(since: str, running: str) -> None:
    _record_controller_down(since, running)
    cluster("stop-daemon", "dbd")
    situation = "slurmdbd is down"
    _history("sacct-dbd-down", situation, since)
    record("sbatch-dbd-down", situation, "sbatch", "--parsable", "ok.sh")
    _queue("squeue-dbd-down", situation, "-j", running)
    cluster("start-daemon", "dbd")
    cluster("stop-daemon", "munge")
    situation = "munged is down"
    record("sbatch-munge-down", situation, "sbatch", "--parsable", "ok.sh")
    _queue("squeue-munge-down", situation)
    _history("sacct-munge-down", situation, since)
    record("scancel-munge-down", situation, "scancel", running)
    record("scontrol-ping-munge-down", situation, "scontrol", "ping")
    cluster("start-daemon", "munge")


def _record_controller_down(since: str, running: str) -> None:
    cluster("stop-daemon", "ctld")
    situation = "slurmctld is down"
    record("sbatch-controller-down", situation, "sbatch", "--parsable", "ok.sh")
    _queue("squeue-controller-down", situation)
    record("scancel-controller-down", situation, "scancel", running)
    record("scontrol-ping-controller-down", situation, "scontrol", "ping")
    record("scontrol-show-job-controller-down", situation, "scontrol", "show", "job", "-o", running)
    record("sinfo-controller-down", situation, "sinfo", "-N", "-h", "-o", "%N|%T|%E")
    _history("sacct-controller-down", f"{situation}: accounting answers all the same", since)
    cluster("start-daemon", "ctld")


def record_everything() -> None:
    """All but what cgroups make."""
    since, begin = now(), datetime.now(UTC)
    wait_for_slow_ones = _finished_jobs()
    _record_sbatch()
    jobs = _waiting_jobs()
    _record_queue(jobs)
    wait_for_slow_ones()
    time.sleep(8)  # accounting lags behind
    _queue("squeue-later", "a minute or two later, with TIMEOUT and DEADLINE")
    record("scontrol-show-job-later", "the same", "scontrol", "show", "job", "-o")
    _history("sacct", "all these jobs in accounting, every run of each (-D)", since)
    names = [f"portal-word-{file.stem}-1" for file in jobs_folder().glob("*.sh")]
    record("portal-accounting", "the same, as the portal asks for names",
           *slurm_calls.accounting_by_name_calls(names, begin, SEPARATOR)[0])  # fmt: skip
    _history("sacct-by-name", "one job by its name", since, "--name=portal-word-requeued-1")
    _history("sacct-by-unknown-name", "a name that no job has", since, "--name=portal-word-nobody-1")
    _history("sacct-unknown-id", "an id that is unknown", since, "-j", "999999")
    record("sacct-last-run-only", "the same without -D: of a requeued job only the last run",
           "sacct", "-X", "-P", "-n", "-S", since, f"--format={SACCT_FIELDS}")  # fmt: skip
    record("sacct-with-steps", "without -X: a line for each step, too",
           "sacct", "-P", "-n", "-D", "-S", since,
           "--format=JobID,JobIDRaw,State,ExitCode,MaxRSS,ElapsedRaw,Timelimit")  # fmt: skip
    record("sacct-bad-field", "a field that this version does not have",
           "sacct", "-X", "-P", "-n", "-S", since, "--format=JobID,Restarts")  # fmt: skip
    _record_daemons_down(since, jobs[0])
    run("scancel", "--user=portal-jobs", account="root")


def record_cgroup() -> None:
    """With a cluster that was brought up with --cgroup."""
    since, begin = now(), datetime.now(UTC)
    script = "python3 -c \"x = b'1' * 400000000; import time; time.sleep(60)\""
    job = submit("out-of-memory", script, "--mem=50M")
    child = submit("out-of-memory-of-a-child", f"{script}\nexit 0", "--mem=50M")
    for each in (job, child):
        wait_for_state(each, "OUT_OF_MEMORY", "FAILED", "COMPLETED", seconds=60)
    time.sleep(5)  # accounting lags behind
    situation = (
        "with --cgroup: too much memory, by a script that then ends with its status, and by one that ends with 0"
    )
    _queue("squeue-out-of-memory", situation, "-j", f"{job},{child}")
    _history("sacct-out-of-memory", situation, since)
    record("scontrol-show-job-out-of-memory", situation, "scontrol", "show", "job", "-o", job)
    queue = slurm_calls.queue_call(SEPARATOR)
    names = [f"portal-word-{word}-1" for word in ("out-of-memory", "out-of-memory-of-a-child")]
    [accounting] = slurm_calls.accounting_by_name_calls(names, begin, SEPARATOR)
    for name, call in (("queue", queue), ("accounting", accounting)):
        record(f"pair-{name}-out-of-memory", f"{situation}; as the portal asks", *call)
        record(f"pair-{name}-out-of-memory-json", "the same, in JSON", *slurm_calls.as_json(call))


def record_full() -> None:
    """With a cluster that was brought up with MaxJobCount=3."""
    (jobs_folder() / "ok.sh").write_text("#!/bin/sh\nexit 0\n")
    while run("timeout", "1", "sbatch", "--hold", "ok.sh").returncode == 0:
        pass
    record("sbatch-queue-full", "slurmctld has MaxJobCount jobs: sbatch tries again 15 times, which takes two minutes",
           "sbatch", "--parsable", "ok.sh")  # fmt: skip


def write_table(of_version: str) -> None:
    """README.md: what each recording is."""
    folder = DATA / of_version
    rows = []
    for file in sorted(folder.glob("*.json")):
        about = json.loads(file.read_text())
        command = subprocess.list2cmdline(about["command"]).replace("|", "\\|")
        rows.append(
            f"| `{file.stem}` | {about['situation']} | `{command}` | {about['exit_code']} | {about['seconds']} |"
        )
    (folder / "README.md").write_text(
        f"# What Slurm {of_version} printed\n\n"
        "Real output, recorded by `tests/slurm/record_outputs.py` and `tests/slurm/record_json.py` (`pair-…` and\n"
        "`…-json`): `.out` is standard output, `.err` standard error (absent where it was empty), `.json` the same as\n"
        "this table. All as `portal-jobs` with `TZ=UTC LC_ALL=C`.\n\n"
        "| recording | situation | command | exit code | seconds |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )


def prepare() -> None:
    """Make the folders."""
    jobs_folder().mkdir(exist_ok=True)
    subprocess.run(["chown", "portal:portal-jobs", str(jobs_folder())], check=True)
    jobs_folder().chmod(0o2770)
    (DATA / version()).mkdir(parents=True, exist_ok=True)


def main() -> None:
    """Record, then write the table."""
    prepare()
    {"cgroup": record_cgroup, "full": record_full}.get("".join(sys.argv[1:]), record_everything)()
    write_table(version())


if __name__ == "__main__":
    main()
