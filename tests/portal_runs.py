"""A whole portal without its pages: the services, a dispatcher in a thread, and compute clients as processes."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portal.app import Parts, build_dispatcher, build_parts
from portal.jobs.acceptance import Submission
from portal.jobs.models import MailOutbox
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord
from portal.settings import MailSection, PortalSection, SchedulerSection, Settings
from tests.compute_clients import Witness
from tests.waiting import wait_until

EMAIL = "ann@example.org"
APPLICATION = "witness"


class PortalRun:
    """A portal in `folder` with one application, whose program appends `start FOLDER PID WRAPPER-PID` to a witness."""

    def __init__(self, folder: Path, program: str, policy: str = "") -> None:
        self.folder = folder
        self.witness = Witness(folder / "witness")
        self._write_application(program, policy)
        settings = Settings(
            portal=PortalSection(
                jobs_dir=folder / "jobs",
                database_url=f"sqlite:///{folder / 'portal.db'}",
                templates_dir=folder / "templates",
            ),
            scheduler=SchedulerSection(poll_seconds=0.2, grace_seconds=0.5),
            mail=MailSection(folder=folder / "mail"),
        )
        self.parts: Parts = build_parts(settings)

    def _write_application(self, program: str, policy: str) -> None:
        application = self.folder / "templates" / APPLICATION
        application.mkdir(parents=True)
        (application / "application.toml").write_text(
            f'title = "Witness"\n[[parameters]]\nname = "x"\ntype = "integer"\nlabel = "X"\n[policy]\n{policy}\n'
        )
        head = f'witness="{self.witness.path}"\necho start "$PWD" $$ $PPID >> "$witness"\n'
        (application / "program.sh.j2").write_text(f"{head}{program}\n")

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """A dispatcher at work."""
        stop = threading.Event()
        thread = threading.Thread(target=build_dispatcher(self.parts).run, args=(stop,), name="dispatcher")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def submit(self, x: int = 1) -> str:
        """A job; its id."""
        return self.parts.jobs.submit(Submission(APPLICATION, {"x": str(x)}, EMAIL)).job_id

    def record(self, job_id: str) -> JobRecord:
        """All that the database knows of a job."""
        return self.parts.jobs.record(job_id)

    def wait_for_state(self, job_id: str, state: JobState, seconds: float = 40) -> JobRecord:
        """The job, once it is in this state."""
        wait_until(lambda: self.record(job_id).job.state is state, seconds, f"job {job_id} to be {state}")
        return self.record(job_id)

    def attempt_folder(self, job_id: str, number: int) -> str:
        """Where an attempt's program runs."""
        return str(self.parts.folder.job(job_id).attempt(number).work)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `portal` with the settings of this portal."""
        settings = self.parts.settings
        environment = os.environ | {
            "PORTAL_PORTAL__JOBS_DIR": str(settings.portal.jobs_dir),
            "PORTAL_PORTAL__DATABASE_URL": settings.portal.database_url,
            "PORTAL_PORTAL__TEMPLATES_DIR": str(settings.portal.templates_dir),
        }
        command = [sys.executable, "-P", "-m", "portal", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start_by_hand(self, job_id: str, number: int) -> None:
        """Start the batch script of an attempt once more, as a scheduler might, and wait for its end."""
        files = self.parts.folder.job(job_id).attempt(number)
        subprocess.run([str(files.job_script)], cwd=files.work, timeout=60, check=False, capture_output=True)

    def mails(self) -> list[Path]:
        """What has gone out."""
        return sorted((self.folder / "mail").rglob("*.eml"))

    def owed_mails(self) -> int:
        """How many messages were ever owed."""
        with self.parts.database.reading() as session:
            return session.query(MailOutbox).count()
