"""A status file such as the wrapper writes, for tests to change what they are about."""

from portal.node.status_file import SCHEMA, StatusFile

STARTED = StatusFile(
    schema=SCHEMA,
    job_id="tcfnctbq",
    attempt=1,
    phase="started",
    scheduler_id="17",
    restart_count=0,
    host="node1",
    pid=4711,
    started_at="2026-11-24T05:50:00Z",
    ended_at=None,
    exit_code=None,
    signal=None,
    wall_seconds=None,
    peak_memory_mib=None,
    got_sigterm=False,
    succeeded=None,
    failure=None,
)
