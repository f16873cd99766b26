"""The portal of a run of chaos: web server, dispatcher and mail server as processes, jobs on Slurm over SSH."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

from sqlalchemy import select

from portal.jobs.models import Job, JobEvent, MailOutbox
from portal.jobs.store import JobRecord, load_records
from tests.chaos.mail_server import received
from tests.chaos.plan import Submission
from tests.chaos.table import JobFacts, Owed
from tests.contract.sites import SshSite
from tests.slurm_cluster import SlurmCluster

POLICIES = ("resubmit", "hold")
_DEFINITION = """
title = "Chaos"
[[parameters]]
name = "what"
type = "choice"
label = "What"
choices = ["succeed", "fail"]
[[parameters]]
name = "seconds"
type = "integer"
label = "Seconds"
[resources]
time_limit_minutes = 5
memory_mib = 50
[answer]
file = "output.txt"
pattern = 'The answer is: (\\d+)'
[policy]
on_node_failure = "{policy}"
max_attempts = 3
"""
_PROGRAM = """
echo start "$PWD" >> '{witness}'
sleep "$input_seconds"
[ "$input_what" = succeed ] || exit 7
echo 'The answer is: 4'
"""


class ChaosSite(SshSite):
    """One portal whose every process can be killed."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.web_port, self.mail_port = free_port(), free_port()
        self.mail_folder = folder / "received"
        self.mail_folder.mkdir()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        super().__init__(folder, cluster)

    def _write_application(self) -> None:
        for policy in POLICIES:
            application = self.folder / "templates" / f"chaos_{policy}"
            application.mkdir(parents=True)
            (application / "application.toml").write_text(_DEFINITION.format(policy=policy))
            (application / "program.sh.j2").write_text(_PROGRAM.format(witness=self.witness.path))

    def _environment(self) -> dict[str, str]:
        address = f"127.0.0.1:{self.web_port}"
        return super()._environment() | {
            "PORTAL_PORTAL__BIND": address,
            "PORTAL_PORTAL__BASE_URL": f"http://{address}",
            "PORTAL_MAIL__TRANSPORT": "smtp",
            "PORTAL_MAIL__SMTP_HOST": "127.0.0.1",
            "PORTAL_MAIL__SMTP_PORT": str(self.mail_port),
            "PORTAL_MAIL__SMTP_TIMEOUT_SECONDS": "5",
            "PORTAL_LIMITS__MAILS_PER_HOUR": "100000",
        }

    def start_process(self, name: str) -> None:
        """Start `web`, `dispatcher` or `smtp`, unless it runs."""
        process = self._processes.get(name)
        if process is not None and process.poll() is None:
            return
        if name == "smtp":
            command = [sys.executable, "-m", "tests.chaos.mail_server", str(self.mail_port), str(self.mail_folder)]
            directory = str(Path(__file__).parents[2])
        else:
            short_waits = str(Path(__file__).parents[1] / "contract" / "short_waits.py")
            command = [*self.command, sys.executable, "-P", short_waits, "--config", str(self._config), name]
            directory = "/"
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=directory, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill_process(self, name: str) -> None:
        """SIGKILL, at whatever instruction it is."""
        process = self._processes[name]
        process.kill()
        process.wait()

    def has_ended(self, name: str) -> bool:
        """Whether the process is not there."""
        return self._processes[name].poll() is not None

    def send_in(self, submission: Submission) -> str | None:
        """The id of the job once the web server says that it is accepted; None where nobody said so."""
        inputs = {"what": submission.what, "seconds": submission.run_seconds}
        application = f"chaos_{submission.on_node_failure}"
        body = {"application": application, "inputs": inputs, "email": submission.email}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web_port}/api/v1/jobs",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Idempotency-Key": submission.key},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return str(json.loads(answer.read())["job_id"])
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500:
                    raise AssertionError(f"refused: {error.code} {error.read()[:500]!r}") from error
            return None
        except (OSError, ValueError):  # ValueError: half an answer
            return None

    def is_settled(self, job_ids: list[str]) -> str:
        """What is still missing, in words; empty where all of these are final and all mail has left."""
        with self.as_portal(), self.parts.database.reading() as session:
            states = Counter(session.scalars(select(Job.state)).all())
            unsent = len(session.scalars(select(MailOutbox.mail_id).where(MailOutbox.sent_at.is_(None))).all())
        open_states = {state.value: number for state, number in states.items() if not state.is_final}
        missing = len(job_ids) - states.total()
        parts = [f"{number} {name}" for name, number in open_states.items()]
        parts += [f"{unsent} mails not sent"] if unsent else []
        parts += [f"{missing} unknown"] if missing > 0 else []
        return ", ".join(parts)

    def facts(self, accepted: dict[str, Submission]) -> list[JobFacts]:
        """What is known of each accepted job."""
        starts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for work, number in self.witness.starts().items():
            parts = Path(work).parts
            starts[parts[-4].removeprefix("job-")][int(parts[-2])] += number
        mail = received(self.mail_folder)
        with self.as_portal(), self.parts.database.reading() as session:
            records = {record.job.job_id: record for record in load_records(session, list(accepted))}
        return [
            self._facts(job_id, submission, records.get(job_id), starts[job_id], frozenset(mail.get(job_id, ())))
            for job_id, submission in accepted.items()
        ]

    def _facts(
        self,
        job_id: str,
        submission: Submission,
        record: JobRecord | None,
        starts: Counter[int],
        received: frozenset[str],
    ) -> JobFacts:
        if record is None:
            return JobFacts(job_id, submission.what, starts=starts, received=received)
        job = record.job
        folder = self.directory(job_id).path
        return JobFacts(
            job_id=job_id,
            what=submission.what,
            state=job.state.value,
            failure_reason=job.failure_reason.value if job.failure_reason else "",
            attempts=len(record.attempts),
            starts=starts,
            markers=frozenset(name for name in ("SUCCESS", "ERROR") if os.path.lexists(folder / name)),
            published=_published(list(record.events)),
            corrections=sum(row.outcome == "corrected" for row in record.mails),
            owed=[Owed(row.message_id, row.digest_id) for row in record.mails],
            received=received,
        )

    def close(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        super().close()


def _published(events: list[JobEvent]) -> int:
    return sum(event.to_state.is_final and event.from_state is not event.to_state for event in events)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
