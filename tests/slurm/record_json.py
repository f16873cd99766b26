"""Records the answers to the portal's two questions, as text and as JSON at the same moment.

    deploy/slurm/cluster.sh up
    .venv/bin/python -m tests.slurm.record_json            # about two minutes
    deploy/slurm/cluster.sh down --purge

They go into tests/data/slurm/<version>/. A newer Slurm also writes the JSON of the few versions before it
(`--json=v0.0.40` is that of 23.11): of a few jobs.
On a cluster that has had other jobs of portal-jobs before, they are recorded as well: take a new one.
"""

import time
from datetime import UTC, datetime

from portal.schedulers import slurm_calls
from tests.slurm.record_outputs import (
    SEPARATOR,
    cluster,
    prepare,
    record,
    run,
    submit,
    version,
    wait_for_state,
    write_table,
)

OLDER_FORMS = ("v0.0.40", "v0.0.41", "v0.0.43", "v0.0.44")
"""Of 23.11, 24.05, 25.05 and 25.11. v0.0.42 is 24.11's and v0.0.45 is 26.05's, which were recorded as such."""
OF_OLDER_FORMS = ("completed", "exit-code-7", "signal-11", "cancelled-by-owner", "held-by-user", "completing")


def _ended_jobs() -> None:
    limit = submit("time-limit", "sleep 600", "--time=1", "--nodelist=node1")
    submit("completed", "exit 0")
    failed = submit("exit-code-7", "exit 7")
    submit("signal-11", "kill -SEGV $$")
    submit("launch-failed", "exit 0", "--output=/nonexistent/folder/file")
    submit("array", "exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    wait_for_state(failed, "FAILED")
    submit("dependency-never-satisfied", "true", f"--dependency=afterok:{failed}")
    _cancelled_jobs()
    dead = submit("node-failed", "sleep 600", "--no-requeue", "--nodelist=node3")
    wait_for_state(dead, "RUNNING")
    cluster("kill-node", "node3", "--now")
    wait_for_state(dead, "NODE_FAIL")
    cluster("revive-node", "node3")
    wait_for_state(limit, "TIMEOUT", seconds=150)


def _cancelled_jobs() -> None:
    by_owner = submit("cancelled-by-owner", "sleep 600")
    by_root = submit("cancelled-by-root", "sleep 600")
    pending = submit("cancelled-while-pending", "sleep 600", "--begin=now+1hour")
    wait_for_state(by_owner, "RUNNING")
    wait_for_state(by_root, "RUNNING")
    run("scancel", by_owner, pending)
    run("scancel", by_root, account="root")
    wait_for_state(by_root, "CANCELLED")


def _jobs_at_work() -> str:
    """The answer is one that is deaf to SIGTERM: cancelled, it is COMPLETING for KillWait seconds."""
    running = submit("running", "sleep 600", "--nodelist=node1")
    suspended = submit("suspended", "sleep 600", "--nodelist=node2")
    deaf = submit("completing", "trap '' TERM; sleep 600; sleep 600", "--nodelist=node2")
    for job in (running, suspended, deaf):
        wait_for_state(job, "RUNNING")
    run("scontrol", "suspend", suspended, account="root")
    submit("held-by-user", "true", "--hold")
    submit("waits-for-time", "true", "--begin=now+1hour")
    submit("waits-for-resources", "true", "--nodes=3", "--exclusive")
    submit("array-waiting", "sleep 600", "--array=0-3%1", "--nodelist=node1")
    return deaf


def _record_older_forms(name: str, call: list[str]) -> None:
    """In those that this version writes."""
    for form in OLDER_FORMS:
        asked = [*slurm_calls.as_json(call)[:-1], f"--json={form}"]
        if run(*asked).stdout:  # of a form that it does not know, it writes nothing and exits with 0
            record(f"{name}-{form}", "some of them, in the form of an older version", *asked)


def record_pairs(deaf: str) -> None:
    """Queue and accounting, as text and as JSON, while that job is completing."""
    names = [f"portal-word-{word}-1" for word in OF_OLDER_FORMS]
    queue = slurm_calls.queue_call(SEPARATOR)
    [of_names] = slurm_calls.queue_by_name_calls(names, SEPARATOR)
    run("scancel", deaf)
    wait_for_state(deaf, "COMPLETING")
    record("pair-queue", "jobs in many states, as the portal asks", *queue)
    record("pair-queue-json", "the same at the same moment, in JSON", *slurm_calls.as_json(queue))
    _record_older_forms("pair-queue-json", of_names)
    wait_for_state(deaf, "CANCELLED")


def record_accounting(begin: datetime) -> None:
    """What accounting has of all that were submitted since."""
    names = [f"portal-word-{word}-1" for word in OF_OLDER_FORMS]
    of_ids = ["sacct", *slurm_calls.accounting_by_name_calls(["x"], begin, SEPARATOR)[0][1:-1]]
    record("pair-accounting", "all of them in accounting", *of_ids)
    record("pair-accounting-json", "the same, in JSON", *slurm_calls.as_json(of_ids))
    [of_names] = slurm_calls.accounting_by_name_calls(names, begin, SEPARATOR)
    _record_older_forms("pair-accounting-json", of_names)
    [of_nobody] = slurm_calls.accounting_by_name_calls(["portal-word-nobody-1"], begin, SEPARATOR)
    record("sacct-json-by-unknown-name", "a name that no job has, in JSON", *slurm_calls.as_json(of_nobody))


def record_daemons_down(begin: datetime) -> None:
    """The JSON of no answer."""
    queue = slurm_calls.as_json(slurm_calls.queue_call(SEPARATOR))
    [accounting] = slurm_calls.accounting_by_name_calls(["portal-word-completed-1"], begin, SEPARATOR)
    cluster("stop-daemon", "ctld")
    record("squeue-json-controller-down", "slurmctld is down", *queue)
    cluster("start-daemon", "ctld")
    cluster("stop-daemon", "dbd")
    record("sacct-json-dbd-down", "slurmdbd is down", *slurm_calls.as_json(accounting))
    cluster("start-daemon", "dbd")


def main() -> None:
    """Record, then write the table."""
    prepare()
    begin = datetime.now(UTC)
    _ended_jobs()
    record_pairs(_jobs_at_work())
    time.sleep(8)  # accounting lags behind
    record_accounting(begin)
    record_daemons_down(begin)
    run("scancel", "--user=portal-jobs", account="root")
    write_table(version())


if __name__ == "__main__":
    main()
