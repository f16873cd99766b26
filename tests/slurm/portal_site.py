"""A whole portal on a cluster, with applications of the test's own, whose pages are read as a visitor reads them."""

import html
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flask.testing import FlaskClient

from portal.app import create_app
from portal.jobs.acceptance import Submission
from portal.jobs.access import Viewer
from portal.jobs.keys import Purpose
from tests.contract.sites import EMAIL, SlurmSite
from tests.slurm_cluster import JOBS_ACCOUNT, SlurmCluster
from tests.waiting import wait_until

PLAIN = {"app": "memory_mib = 60"}
"""One application that asks for nothing special."""

_DEFINITION = """
title = "{name}"
[[parameters]]
name = "what"
type = "choice"
label = "What"
choices = ["succeed", "wait", "need_much", "need_much_in_part"]
[resources]
{resources}
[policy]
on_node_failure = "hold"
out_of_memory = "{out_of_memory}"
[answer]
file = "output.txt"
pattern = 'The answer is: (\\d+)'
"""
_PROGRAM = """
echo start "$PWD" >> '{witness}'
need_much() {{ /usr/bin/python3 -c 'import time; x = b"1" * 400_000_000; time.sleep(60)'; }}
case "$input_what" in
    wait) exec sleep 300 ;;
    need_much) need_much || exit ;;
    need_much_in_part) need_much ;;
esac
echo 'The answer is: 4'
"""


@contextmanager
def open_folder(cluster: SlurmCluster) -> Iterator[Path]:
    """One for a site, which the accounts of a real one can reach: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=cluster.home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class PortalSite(SlurmSite):
    """The portal."""

    def __init__(
        self,
        folder: Path,
        cluster: SlurmCluster,
        applications: Mapping[str, str] = PLAIN,
        settings: Mapping[str, object] | None = None,
        jobs_dir: Path | None = None,
    ) -> None:
        """`applications`: the lines of each one's [resources]; `settings`: what else stands in [scheduler].

        The one called `strict` fails where anything ran out of memory. The cluster's jobs folder is used unless there
        is another.
        """
        self._applications = applications
        self._more_settings = settings or {}
        self._own_jobs_dir = jobs_dir
        self.sent: dict[str, str] = {}
        """The last job of each application."""
        super().__init__(folder, cluster)

    def _place_jobs(self, folder: Path) -> Path:
        if self._own_jobs_dir is None:
            return super()._place_jobs(folder)
        self._own_jobs_dir.mkdir()
        shutil.chown(self._own_jobs_dir, "portal", JOBS_ACCOUNT)
        self._own_jobs_dir.chmod(0o2750)
        return self._own_jobs_dir

    def _write_application(self) -> None:
        for name, resources in self._applications.items():
            application = self.folder / "templates" / name
            application.mkdir(parents=True)
            definition = _DEFINITION.format(
                name=name, resources=resources, out_of_memory="fail" if name == "strict" else "warn"
            )
            (application / "application.toml").write_text(definition)
            (application / "program.sh.j2").write_text(_PROGRAM.format(witness=self.witness.path))

    def _connect(self) -> None:
        conf = f"SLURM_CONF={self.cluster.environment['SLURM_CONF']}"
        prefix = ["sudo", "-n", "-u", JOBS_ACCOUNT, "env", conf]
        self.open({"command_prefix": prefix, "node_python": "/usr/bin/python3", **self._more_settings})
        with self.as_portal():
            self._app = create_app(self.parts.settings, self.parts)

    def send_in(self, application: str, what: str = "wait") -> str:
        """A job; its id."""
        submission = Submission(application, {"what": what}, EMAIL, session_id="ann")
        with self.as_portal():
            self.sent[application] = self.parts.jobs.submit(submission).job_id
        return self.sent[application]

    def cancel_as_owner(self, job_id: str) -> None:
        """As who sent it in does, on its page."""
        with self.as_portal():
            self.parts.jobs.ask_cancel(Viewer(session_id="ann"), job_id)

    def scheduler_id(self, job_id: str) -> str:
        """Its id in Slurm, once Slurm has it."""
        wait_until(lambda: self.record(job_id).attempt.scheduler_id, 30, f"job {job_id} in Slurm")
        return str(self.record(job_id).attempt.scheduler_id)

    def operate(self, *command: str) -> None:
        """What an operator of the cluster types, as root."""
        done = self.cluster.run(*command, account="root")
        assert done.returncode == 0, done.stderr

    def page(self, job_id: str) -> list[str]:
        """Its page, for who has the mailed link: each piece of text."""
        job = self.record(job_id).job
        with self.as_portal():
            key = self.parts.keys.key(Purpose.VIEW, job_id, job.key_generation)
            browser: FlaskClient = self._app.test_client()
            answer = browser.get(f"/jobs/{job_id}?key={key}", follow_redirects=True).get_data(as_text=True)
        return [html.unescape(text) for text in re.split(r"\s*<[^>]*>\s*", answer) if text]

    def wait_for_page(self, job_id: str, *texts: str, seconds: float = 60) -> list[str]:
        """The page, once all these texts stand on it; AssertionError that shows it after so many seconds."""
        seen: list[str] = []

        def is_there() -> bool:
            seen[:] = self.page(job_id)
            return set(texts) <= set(seen)

        try:
            wait_until(is_there, seconds, f"{texts} on the page of {job_id}")
        except AssertionError as error:
            page = "\n".join(seen)
            raise AssertionError(f"{error}\n{page}\n{self.log()[-3000:]}") from None
        return seen
