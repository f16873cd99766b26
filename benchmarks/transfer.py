"""Files to a cluster apart and back, against OpenSSH's own sftp, in one run: `python -m benchmarks.transfer [--mib N]`.

Both go to the same sshd of this machine (as root, with Debian's openssh-server), the portal's over one connection. What
is small costs the ways there and back, and what is large the bytes.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.embedded import measure
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.node_files import install_node_files, submit_archive
from portal.schedulers.helper import Helper
from portal.schedulers.ssh import SshConnection, SshRunner
from portal.transfer import sftp_folders
from portal.transfer.session import SftpSession
from portal.transfer.sftp_folders import SftpFolders
from tests.sshd import USER, Sshd
from tests.wrapper_attempts import Attempt

_MIB = 1024 * 1024
_LETTERS = "bcdfghjkmn"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=100, help="of the one large result")
    mib = parser.parse_args().mib
    # Nothing else waits here.
    sftp_folders.ROUND_SECONDS = sftp_folders.TURN_SECONDS = 3600.0
    with tempfile.TemporaryDirectory(prefix="portal-benchmark-") as name:
        folder = Path(name)
        sshd = Sshd(folder)
        helper = folder / "there" / ".node" / "current" / "submit.pyz"
        helper.parent.mkdir(parents=True)
        helper.write_bytes(submit_archive())
        sshd.force(f"exec /usr/bin/python3 -I {helper}")
        sshd.start()
        connection = SshConnection(sshd.target)
        try:
            rows = _measure_all(folder, sshd, connection, mib)
        finally:
            connection.close()
            sshd.stop()
    print(f"{'':34}{'portal':>10}{'sftp':>10}{'ratio':>8}")
    for what, portal, peer in rows:
        print(f"{what:34}{1000 * portal:>7.1f} ms{1000 * peer:>7.1f} ms{portal / peer:>8.2f}")


def _measure_all(folder: Path, sshd: Sshd, connection: SshConnection, mib: int) -> list[tuple[str, float, float]]:
    jobs, there = JobsFolder(folder / "jobs"), folder / "there"
    jobs.root.mkdir()
    node_files = install_node_files(jobs.root, [])
    helper = Helper(SshRunner(connection, "helper"), there, 60)
    folders = SftpFolders(SftpSession(connection, 60), helper, there, node_files, 10 * mib)
    folders.begin_round()
    pairs = [_make_job(jobs, f"tcfnctb{letter}") for letter in _LETTERS]
    many = measure(lambda: folders.send(pairs)) / len(pairs)
    peer_many = measure(lambda: _sftp(sshd, _batch(pairs, folder / "peer"))) / len(pairs)

    _job, attempt = pairs[0]
    big = there / attempt.path.relative_to(jobs.root) / "work" / "hits.tsv"
    big.write_bytes(os.urandom(mib * _MIB))
    one = measure(lambda: folders.bring(attempt, everything=True))
    peer_one = measure(lambda: _sftp(sshd, [f"get {big} {folder / 'copy'}"]))
    if (folder / "copy").read_bytes() != (attempt.work / "hits.tsv").read_bytes():
        raise SystemExit("the two copies differ")
    folders.close()
    return [
        (f"one of {len(pairs)} job directories, sent", many, peer_many),
        (f"{mib} MiB of results, brought", one, peer_one),
    ]


def _make_job(jobs: JobsFolder, job_id: str) -> tuple[JobDirectory, AttemptDirectory]:
    job = jobs.job(job_id)
    attempt = job.attempt(1)
    Attempt(job.path, "x" * 1000, outputs=["hits.tsv"])
    job.inputs.mkdir()
    (job.inputs / "query").write_bytes(os.urandom(20_000))
    attempt.job_script.write_text("x" * 1000)
    return job, attempt


def _batch(pairs: list[tuple[JobDirectory, AttemptDirectory]], peer: Path) -> list[str]:
    """The same folders and files, in a single session."""
    lines = [f"mkdir {peer}"]
    for job, attempt in pairs:
        top = peer / job.path.name
        folders = (top, top / "inputs", top / "attempts", top / "attempts/1", top / "attempts/1/work")
        lines += [f"mkdir {folder}" for folder in folders]
        lines.append(f"put {job.inputs / 'query'} {top / 'inputs'}")
        lines += [
            f"put {file} {top / 'attempts/1'}" for file in (attempt.config, attempt.program_script, attempt.job_script)
        ]
    return lines


def _sftp(sshd: Sshd, commands: list[str]) -> None:
    options = [f"-P{sshd.port}", f"-i{sshd.user_key}", f"-oUserKnownHostsFile={sshd.known_hosts}", "-oBatchMode=yes"]
    subprocess.run(
        ["sftp", "-q", "-b", "-", *options, f"{USER}@127.0.0.1"],
        input="\n".join(commands).encode(),
        check=True,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
