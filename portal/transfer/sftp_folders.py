"""A cluster that shares no file system with the portal: job directories go over by SFTP, and results come back."""

import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import structlog
from paramiko.sftp_client import SFTPClient

from portal.errors import SchedulerError
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.node_files import NodeFiles, current_helper
from portal.node import claim as claims
from portal.node import status_file
from portal.node.claim import Claim
from portal.schedulers.commands import NotReachedError
from portal.transfer.folders import FILES_UNREACHABLE, Delivery, NodeFolders, NodesUnreachableError, Sent
from portal.transfer.inbound import (
    EVIDENCE,
    Listing,
    bring_results,
    first_paths,
    parse_listing,
    read_evidence_there,
    tells_the_end,
    write_evidence_here,
)
from portal.transfer.outbound import programs_there, send_attempt, send_programs
from portal.transfer.remote_files import create_exclusively, look
from portal.transfer.removal import remove_job
from portal.transfer.session import SftpSession
from portal.transfer.shortfall import shortfall_in_words

log = structlog.get_logger()

ROUND_SECONDS = 10.0
"""How long one round of sending or bringing may take, whatever there is to carry: everything else waits meanwhile."""
TURN_SECONDS = 2.0
"""How long one attempt may take of it, as long as others wait."""
MARKER_SECONDS = 5.0
"""How long the marker may come after the status file that tells of the end. A node may die in between."""
_CLAIM_MODE = 0o640
_MIB = 1024 * 1024


class HelperThere(Protocol):
    """What the helper on the cluster does for files: it is fit for whatever a job left."""

    def empty(self, folders: Sequence[Path]) -> None: ...
    def list_files(self, folder: Path, first: Sequence[str], without: Sequence[str]) -> dict[str, Any] | None: ...


class SftpFolders(NodeFolders):
    """The jobs folder `root` on the cluster. For one thread."""

    has_copies = True

    def __init__(
        self, session: SftpSession, helper: HelperThere, root: Path, local_files: NodeFiles, most_mib: int
    ) -> None:
        self._session = session
        self._helper = helper
        self._root = PurePosixPath(root)
        self._local_files = local_files
        self._most_mib = most_mib
        self._round_ends = 0.0
        self._helper_there = PurePosixPath(current_helper(root))
        self._unmarked: dict[Path, float] = {}
        """Since when (monotonic) an end is known whose marker is missing."""
        self.folder = JobsFolder(root)
        self.node_files = programs_there(root, local_files)

    def begin_round(self) -> None:
        """`ROUND_SECONDS` from now on."""
        self._round_ends = time.monotonic() + ROUND_SECONDS

    def round_is_over(self) -> bool:
        """By the monotonic clock."""
        return time.monotonic() > self._round_ends

    def send(self, attempts: Sequence[tuple[JobDirectory, AttemptDirectory]]) -> list[Sent]:
        """One after the other, until the round's time is over."""
        try:
            with self._session.client() as sftp:
                send_programs(sftp, self._root, self._local_files)
        except OSError as error:
            return [Sent(Delivery.REFUSED, f"{self._root} cannot be written: {error}") for _ in attempts]
        return [self._send(job, attempt) for job, attempt in attempts]

    def _send(self, job: JobDirectory, attempt: AttemptDirectory) -> Sent:
        if self.round_is_over():
            return Sent(Delivery.NOT_YET)
        try:
            with self._session.client() as sftp:
                return Sent(send_attempt(sftp, self._root, job, attempt, self._turn_ends()))
        except OSError as error:
            return Sent(Delivery.REFUSED, str(error))

    def bring(self, attempt: AttemptDirectory, *, everything: bool) -> bool:
        """As long as the round's time lasts."""
        if self.round_is_over():
            return False
        work = self._there(attempt) / attempt.work.name
        with self._session.client() as sftp:
            read = read_evidence_there(sftp, work)
            if (everything or tells_the_end(read[status_file.FILE_NAME])) and not self._bring_results(
                sftp, work, attempt, everything=everything
            ):
                return False
        write_evidence_here(attempt, read)
        self._unmarked.pop(attempt.path, None)
        return True

    def _bring_results(
        self, sftp: SFTPClient, work: PurePosixPath, attempt: AttemptDirectory, *, everything: bool
    ) -> bool:
        listing = self._list(work, attempt)
        if listing is None:
            self._require_root(sftp)
            return True  # it was never sent, or has been tidied up
        if not everything and not listing.has_marker and not self._has_waited_for_marker(attempt):
            return False  # the wrapper writes its marker in this very moment
        # From here on: what it takes to look shall leave time to carry.
        ends = self._turn_ends()
        return bring_results(sftp, work, attempt, listing, self._most_mib * _MIB, ends)

    def _list(self, work: PurePosixPath, attempt: AttemptDirectory) -> Listing | None:
        try:
            fields = self._helper.list_files(Path(work), first_paths(attempt), list(EVIDENCE))
        except NotReachedError as error:
            raise NodesUnreachableError(FILES_UNREACHABLE, log_detail=error.log_detail) from error
        return None if fields is None else parse_listing(fields)

    def _has_waited_for_marker(self, attempt: AttemptDirectory) -> bool:
        now_seconds = time.monotonic()
        return now_seconds - self._unmarked.setdefault(attempt.path, now_seconds) >= MARKER_SECONDS

    def take_claim(self, attempt: AttemptDirectory, claim: Claim) -> bool:
        """There, where the wrapper looks for it, and then here."""
        # The script is written here before anything is sent.
        if not attempt.job_script.exists():
            return claims.take(str(attempt.work), claim)
        work = self._there(attempt) / attempt.work.name
        with self._session.client() as sftp:
            if look(sftp, work) is None:
                self._require_root(sftp)
                is_taken = True
            else:
                is_taken = create_exclusively(sftp, work / claims.FILE_NAME, claims.encode(claim), _CLAIM_MODE)
        if is_taken:
            claims.take(str(attempt.work), claim)
        return is_taken

    def _require_root(self, sftp: SFTPClient) -> None:
        """A folder that is not mounted there just now must not pass for one in which nothing is."""
        if look(sftp, self._helper_there) is None:
            detail = f"{self._root} does not have the helper: is it mounted?"
            raise NodesUnreachableError(FILES_UNREACHABLE, log_detail=detail)

    def shortfall(self, attempt: AttemptDirectory) -> str | None:
        """By what was written down when the results were brought."""
        return shortfall_in_words(attempt)

    def remove(self, job: JobDirectory) -> None:
        """`work/` by the helper, which is fit for whatever a job left there; the rest is the portal's own."""
        with self._session.client() as sftp:
            remove_job(sftp, self._root / job.path.name, self._helper.empty)

    def check(self) -> str:
        """Whether the jobs folder there can be written, and the helper is where it should be."""
        try:
            with self._session.client() as sftp:
                send_programs(sftp, self._root, self._local_files)
                if look(sftp, self._helper_there) is None:
                    raise SchedulerError(f"the administrator of the cluster has to install {self._helper_there} first")
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
