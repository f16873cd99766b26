"""A cluster that shares no file system with the portal: job directories go over by SFTP, and results come back."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import structlog

from portal.errors import SchedulerError
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.ids import is_job_id
from portal.jobs.node_files import NodeFiles, current_helper
from portal.node import claim as claims
from portal.node.claim import Claim
from portal.transfer.folders import Delivery, NodeFolders, Sent
from portal.transfer.inbound import bring_attempt, shortfall_of
from portal.transfer.outbound import programs_there, send_attempt, send_programs
from portal.transfer.remote_files import create_exclusively, look
from portal.transfer.removal import remove_job
from portal.transfer.session import SftpSession

log = structlog.get_logger()

ROUND_SECONDS = 10.0
"""How long one round of sending or bringing may take, whatever there is to carry: everything else waits meanwhile."""
TURN_SECONDS = 2.0
"""How long one attempt may take of it, as long as others wait."""
_CLAIM_MODE = 0o640
_PREFIX = "job-"


class SftpFolders(NodeFolders):
    """The jobs folder `root` on the cluster. For one thread."""

    def __init__(
        self,
        session: SftpSession,
        root: Path,
        local_files: NodeFiles,
        most_mib: int,
        empty: Callable[[Sequence[Path]], None],
    ) -> None:
        """`empty` has the helper delete what is in `work/` folders, however deep and whatever it is."""
        self._session = session
        self._root = PurePosixPath(root)
        self._local_files = local_files
        self._most_mib = most_mib
        self._empty = empty
        self._round_ends = 0.0
        self.folder = JobsFolder(root)
        self.node_files = programs_there(root, local_files)

    def begin_round(self) -> None:
        """`ROUND_SECONDS` from now on."""
        self._round_ends = time.monotonic() + ROUND_SECONDS

    def send(self, attempts: Sequence[tuple[JobDirectory, AttemptDirectory]]) -> list[Sent]:
        """One after the other, until the round's time is over."""
        try:
            with self._session.client() as sftp:
                send_programs(sftp, self._root, self._local_files)
        except OSError as error:
            return [Sent(Delivery.REFUSED, f"{self._root} cannot be written: {error}") for _ in attempts]
        return [self._send(job, attempt) for job, attempt in attempts]

    def _send(self, job: JobDirectory, attempt: AttemptDirectory) -> Sent:
        if time.monotonic() > self._round_ends:
            return Sent(Delivery.NOT_YET)
        try:
            with self._session.client() as sftp:
                return Sent(send_attempt(sftp, self._root, job, attempt, self._turn_ends()))
        except OSError as error:
            return Sent(Delivery.REFUSED, str(error))

    def bring(self, attempt: AttemptDirectory, *, everything: bool) -> bool:
        """As long as the round's time lasts."""
        if time.monotonic() > self._round_ends:
            return False
        with self._session.client() as sftp:
            return bring_attempt(
                sftp,
                self._there(attempt) / attempt.work.name,
                attempt,
                self._most_mib,
                self._turn_ends(),
                everything=everything,
            )

    def take_claim(self, attempt: AttemptDirectory, claim: Claim) -> bool:
        """There, where the wrapper looks for it, and then here. One that was never sent can be started by nobody."""
        work = self._there(attempt) / attempt.work.name
        with self._session.client() as sftp:
            is_taken = look(sftp, work) is None or create_exclusively(
                sftp, work / claims.FILE_NAME, claims.encode(claim), _CLAIM_MODE
            )
        if is_taken:
            claims.take(str(attempt.work), claim)
        return is_taken

    def shortfall(self, attempt: AttemptDirectory) -> str | None:
        """By what was written down when the results were brought."""
        return shortfall_of(attempt)

    def kept_jobs(self) -> list[str]:
        """By the names of the folders there."""
        with self._session.client() as sftp:
            names = sftp.listdir(str(self._root))
        return [name.removeprefix(_PREFIX) for name in names if is_job_id(name.removeprefix(_PREFIX))]

    def remove(self, job: JobDirectory) -> None:
        """`work/` by the helper, which is fit for whatever a job left there; the rest is the portal's own."""
        with self._session.client() as sftp:
            remove_job(sftp, self._root / job.path.name, self._empty)

    def check(self) -> str:
        """Whether the jobs folder there can be written, and the helper is where it should be."""
        helper = current_helper(Path(self._root))
        try:
            with self._session.client() as sftp:
                send_programs(sftp, self._root, self._local_files)
                if look(sftp, PurePosixPath(helper)) is None:
                    raise SchedulerError(f"the administrator of the cluster has to install {helper} first")
        except OSError as error:
            problem = f"scheduler.ssh.remote_jobs_dir: {self._root} cannot be written over SFTP: {error}"
            raise SchedulerError(problem) from error
        return (
            f"job directories go to {self._root} on the cluster by SFTP, results up to {self._most_mib} MiB come back"
        )

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _there(self, attempt: AttemptDirectory) -> PurePosixPath:
        job = attempt.path.parent.parent
        return self._root / job.name / attempt.path.parent.name / attempt.path.name

    def _turn_ends(self) -> float:
        return min(self._round_ends, time.monotonic() + TURN_SECONDS)
