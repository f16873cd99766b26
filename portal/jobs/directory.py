"""The jobs folder: the one place that names its files.

    jobs/
      .instance  .node/  .mail/
      job-tcfnctbq/  config.ini  job.json  inputs/  attempts/N/{…, work/}  output.txt  SUCCESS | ERROR
      user-ann@example.org/job-tcfnctbq -> ../job-tcfnctbq

What lies in `attempts/N/` is the portal's; only `attempts/N/work/` belongs to the job. Modes are set by `chmod`, not
left to the umask: 2750 for the portal's folders, so that the group that jobs run in can read and not write, and
2770 for `work/`.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portal.errors import StorageError
from portal.jobs.ids import ALPHABET, is_job_id, new_job_id
from portal.node.durable import create_exclusively, fsync_folder

PORTAL_FOLDER_MODE = 0o2750
WORK_FOLDER_MODE = 0o2770
DIGESTS_FOLDER_MODE = 0o700
FILE_MODE = 0o640

_JOB_PREFIX = "job-"
_DELETED_PREFIX = ".deleted-"
_USER_FOLDER_MAX_CHARACTERS = 200
_ID_TRIES = 100
_LINK_TRIES = 10


@dataclass(frozen=True)
class AttemptDirectory:
    """The files of one attempt."""

    path: Path

    @property
    def work(self) -> Path:
        """Where the job runs and writes; everything in it is hostile."""
        return self.path / "work"

    @property
    def config(self) -> Path:
        return self.path / "config.ini"

    @property
    def job_script(self) -> Path:
        """The batch script as submitted."""
        return self.path / "job.sh"

    @property
    def program_script(self) -> Path:
        """What the wrapper runs."""
        return self.path / "program.sh"

    @property
    def submission(self) -> Path:
        """What the database knows of the submission, written before it."""
        return self.path / "submission.json"

    @property
    def verdict(self) -> Path:
        """How it ended and how that is known, written before the commit that says so."""
        return self.path / "verdict.json"

    @property
    def results(self) -> Path:
        """What of the results was brought from a cluster that shares no file system, and what was not."""
        return self.path / "results.json"

    @property
    def mail(self) -> Path:
        """The message of this attempt's outcome, whole."""
        return self.path / "mail.eml"

    @property
    def mail_sent(self) -> Path:
        """Says that the message went out, and when."""
        return self.path / "mail.sent"

    def make(self) -> None:
        """Make the folder and its `work/`, with their modes; what is there already stays. Raises OSError."""
        for folder, mode in (
            (self.path.parent, PORTAL_FOLDER_MODE),
            (self.path, PORTAL_FOLDER_MODE),
            (self.work, WORK_FOLDER_MODE),
        ):
            make_folder(folder, mode)


@dataclass(frozen=True)
class JobDirectory:
    """The files of one job."""

    path: Path

    @property
    def job_id(self) -> str:
        return self.path.name.removeprefix(_JOB_PREFIX)

    @property
    def config(self) -> Path:
        """The commit point of a submission: with it the directory is a job."""
        return self.path / "config.ini"

    @property
    def changes(self) -> Path:
        """What changes after acceptance: owner, key generation, wishes."""
        return self.path / "job.json"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    def attempt(self, number: int) -> AttemptDirectory:
        return AttemptDirectory(self.attempts / str(number))

    def attempt_numbers(self) -> list[int]:
        """The numbers of the attempts that have a folder, lowest first; empty where there is none."""
        try:
            names = [entry.name for entry in self.attempts.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]{0,5}", name))


class JobsFolder:
    """The folder of all jobs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def is_prepared(self) -> bool:
        """Whether the folder is there and has its `.instance`."""
        return self._instance_file.exists()

    def prepare(self) -> None:
        """Make the folder and its `.instance` where they are missing. Raises StorageError."""
        try:
            if not self.root.exists():
                self.root.mkdir(parents=True)
                self.root.chmod(PORTAL_FOLDER_MODE)
            if not self._instance_file.exists():
                word = "".join(secrets.choice(ALPHABET) for _ in range(6))
                create_exclusively(str(self._instance_file), (word + "\n").encode())
        except OSError as error:
            raise storage_error(self.root, error) from error

    @property
    def _instance_file(self) -> Path:
        return self.root / ".instance"

    @property
    def digests(self) -> Path:
        """Digests of mail between their first step and their last; made when there is one."""
        return self.root / ".mail"

    def instance(self) -> str:
        """The random word that names this portal in scheduler job names. Raises StorageError."""
        try:
            return self._instance_file.read_text("ascii").strip()
        except OSError as error:
            raise storage_error(self._instance_file, error) from error

    def job(self, job_id: str) -> JobDirectory:
        """The directory of a job; ValueError where the id has not the form of one, so that no path can hide in it."""
        if not is_job_id(job_id):
            raise ValueError(f"not a job id: {job_id!r}")
        return JobDirectory(self.root / f"{_JOB_PREFIX}{job_id}")

    def claim_new_job(self) -> JobDirectory:
        """A new, empty directory whose name nobody else has: `mkdir` decides.

        Raises StorageError at once for anything but "exists", leaving nothing behind.
        """
        for _ in range(_ID_TRIES):
            directory = self.job(new_job_id())
            try:
                directory.path.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise storage_error(directory.path, error) from error
            try:
                directory.path.chmod(PORTAL_FOLDER_MODE)
                fsync_folder(str(self.root))
            except OSError as error:
                with contextlib.suppress(OSError):
                    directory.path.rmdir()
                raise storage_error(directory.path, error) from error
            return directory
        raise StorageError("No free job id was found. Please try again.", log_detail=f"{_ID_TRIES} ids were taken")

    def job_ids(self) -> Iterator[str]:
        """The ids of all job directories, in no order, whatever is in them. Raises StorageError."""
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise storage_error(self.root, error) from error
        for name in names:
            job_id = name.removeprefix(_JOB_PREFIX)
            if name.startswith(_JOB_PREFIX) and is_job_id(job_id):
                yield job_id

    def link_for_owner(self, owner: str, job_id: str) -> None:
        """Put the job's link into its owner's folder; one that is there is left. Raises OSError."""
        folder = self.root / user_folder_name(owner)
        name = f"{_JOB_PREFIX}{job_id}"
        for _ in range(_LINK_TRIES):
            try:
                make_folder(folder, PORTAL_FOLDER_MODE)
                (folder / name).symlink_to(f"../{name}")
            except FileExistsError:
                return
            except FileNotFoundError:
                continue  # its last link was taken out just now, and the folder with it
            fsync_folder(str(folder))
            return
        raise FileNotFoundError(errno.ENOENT, "the folder goes away again and again", str(folder))

    def unlink_for_owner(self, owner: str, job_id: str) -> None:
        """Take the job's link out of its owner's folder, and the folder if it is empty then."""
        folder = self.root / user_folder_name(owner)
        (folder / f"{_JOB_PREFIX}{job_id}").unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise

    def discard(self, directory: JobDirectory, owner: str) -> None:
        """Remove what a failed submission left: `config.ini` first, so that nobody adopts the rest. Raises OSError."""
        directory.config.unlink(missing_ok=True)
        # Before the directory: once that has gone, its id may be somebody's again.
        self.unlink_for_owner(owner, directory.job_id)
        shutil.rmtree(directory.path)

    def sweep(self, directory: JobDirectory) -> None:
        """Remove a whole directory: renamed first, to a name that nobody adopts. Raises OSError."""
        self.put_away(directory.job_id)
        shutil.rmtree(self.put_away_path(directory.job_id))

    def put_away_path(self, job_id: str) -> Path:
        """Where a job's directory lies while it is being deleted: nobody adopts it there."""
        return self.root / f"{_DELETED_PREFIX}{self.job(job_id).job_id}"

    def put_away(self, job_id: str) -> None:
        """The first step of a deletion, of a directory that is there. Raises OSError."""
        self.job(job_id).path.rename(self.put_away_path(job_id))
        fsync_folder(str(self.root))

    def put_away_ids(self) -> list[str]:
        """The ids of directories whose deletion has begun and has not ended. Raises StorageError."""
        try:
            names = [entry.name for entry in self.root.iterdir() if entry.name.startswith(_DELETED_PREFIX)]
        except OSError as error:
            raise storage_error(self.root, error) from error
        return sorted(job_id for name in names if is_job_id(job_id := name.removeprefix(_DELETED_PREFIX)))


def make_folder(folder: Path, mode: int) -> None:
    """Make one folder with exactly this mode, durably; one of ours that is there gets its mode. Raises OSError."""
    try:
        folder.mkdir()
    except FileExistsError:
        # Whoever made it may have died before this step.
        facts = folder.stat()
        if stat.S_IMODE(facts.st_mode) == mode or facts.st_uid != os.geteuid():
            return
        folder.chmod(mode)
        return
    folder.chmod(mode)
    fsync_folder(str(folder.parent))


def user_folder_name(owner: str) -> str:
    """`user-ann@example.org`: lower case, all but `[a-z0-9@._+-]` percent-encoded, and of bounded length."""
    encoded = "".join(
        character if re.fullmatch("[a-z0-9@._+-]", character) else _percent_encoded(character)
        for character in owner.lower()
    )
    if len(encoded) > _USER_FOLDER_MAX_CHARACTERS:
        digest = hashlib.sha256(encoded.encode()).hexdigest()[:16]
        encoded = f"{encoded[: _USER_FOLDER_MAX_CHARACTERS - 17]}+{digest}"
    return f"user-{encoded}"


def _percent_encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def storage_error(path: Path, error: OSError) -> StorageError:
    """What a visitor is told when the disk refuses, with the path for the log only."""
    return StorageError(
        "The portal cannot write to its disk at the moment, so your job was not taken in. "
        "Nothing was lost; please try again in a few minutes.",
        log_detail=f"{path}: {error.strerror or error}",
    )
