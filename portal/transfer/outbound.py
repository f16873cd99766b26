"""What the portal wrote for an attempt, sent to the nodes' jobs folder before it is submitted.

    REMOTE/job-tcfnctbq/inputs/…                                      its own pace: 32 MiB are cut, and gone on with
    REMOTE/job-tcfnctbq/attempts/1/  config.ini  program.sh  work/  job.sh          job.sh last
    REMOTE/.programs/<version>/      wrapper.pyz  bin/                               once for each version

`REMOTE/.node/` holds the helper, is the administrator's, and is never written to.
"""

import secrets
from pathlib import Path, PurePosixPath

from paramiko.sftp_client import SFTPClient

from portal.jobs.directory import AttemptDirectory, JobDirectory
from portal.jobs.node_files import BIN, EXECUTABLE_MODE, WRAPPER, NodeFiles
from portal.node import claim as claims
from portal.transfer.folders import Delivery
from portal.transfer.remote_files import look, make_folder, send_file, write_whole

PROGRAMS = ".programs"
_FILE_MODE = 0o640
_SCRIPT_MODE = 0o750


def send_attempt(
    sftp: SFTPClient, root: PurePosixPath, job: JobDirectory, attempt: AttemptDirectory, deadline: float
) -> Delivery:
    """Send one attempt; doing it again changes nothing. Raises OSError where it cannot be written there."""
    there = root / job.path.name
    attempt_there = there / "attempts" / attempt.path.name
    work = attempt_there / attempt.work.name
    if look(sftp, work) is None:
        for folder in (there, attempt_there.parent, attempt_there, work):
            make_folder(sftp, folder)
    elif look(sftp, work / claims.FILE_NAME) is not None:
        return Delivery.CLAIMED
    if not _send_inputs(sftp, there, job, deadline):
        return Delivery.NOT_YET
    for file, mode in (
        (attempt.config, _FILE_MODE),
        (attempt.program_script, _FILE_MODE),
        (attempt.job_script, _SCRIPT_MODE),
    ):
        write_whole(sftp, attempt_there / file.name, file.read_bytes(), mode)
    return Delivery.THERE


def _send_inputs(sftp: SFTPClient, there: PurePosixPath, job: JobDirectory, deadline: float) -> bool:
    files = sorted(job.inputs.iterdir()) if job.inputs.is_dir() else []
    if files:
        make_folder(sftp, there / job.inputs.name)
    return all(send_file(sftp, file, there / job.inputs.name / file.name, _FILE_MODE, deadline) for file in files)


def programs_there(root: Path, local: NodeFiles) -> NodeFiles:
    """The paths that the wrapper and the programs of this version have on the nodes."""
    folder = root / PROGRAMS / local.version
    return NodeFiles(local.version, folder / WRAPPER, folder / BIN, local.submit)


def send_programs(sftp: SFTPClient, root: PurePosixPath, local: NodeFiles) -> None:
    """Put the wrapper and the programs there; a version that is there is left. Raises OSError."""
    final = root / PROGRAMS / local.version
    if look(sftp, final) is not None:
        return
    make_folder(sftp, final.parent)
    beside = final.with_name(f".{final.name}.{secrets.token_hex(6)}")
    make_folder(sftp, beside)
    make_folder(sftp, beside / BIN)
    write_whole(sftp, beside / WRAPPER, local.wrapper.read_bytes(), _FILE_MODE)
    for program in sorted(local.bin_dir.iterdir()):
        write_whole(sftp, beside / BIN / program.name, program.read_bytes(), EXECUTABLE_MODE)
    sftp.rename(str(beside), str(final))
