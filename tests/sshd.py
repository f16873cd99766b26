"""A real sshd of this account's own, on a free port of loopback."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.schedulers.ssh import SshTarget
from tests.waiting import wait_until

SSHD = "/usr/sbin/sshd"
USER = pwd.getpwuid(os.geteuid()).pw_name


def make_key(file: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return file


class Sshd:
    """One sshd on a free port of loopback, for this account, with a forced command that the test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "sshd.log"
        self.script = folder / "forced"
        self.host_key = make_key(folder / "host_key")
        self.user_key = make_key(folder / "user_key")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.known_hosts = folder / "known_hosts"
        self.trust(self.host_key)
        self.force("cat")
        public = (folder / "user_key.pub").read_text()
        (folder / "authorized_keys").write_text(f'restrict,command="exec {self.script}" {public}')
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> SshTarget:
        return SshTarget("127.0.0.1", self.port, USER, self.user_key, self.known_hosts, 5)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def trust(self, key: Path) -> None:
        """Let known_hosts have this key for this server."""
        kind, public = key.with_suffix(".pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")

    def force(self, script: str) -> None:
        self.script.write_text(f"#!/bin/sh\n{script}\n")
        self.script.chmod(0o755)

    def start(self) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\nUseDNS no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxSessions 20\n"
            "MaxStartups 100\nSubsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            # sshd insists on it; systemd would make it.
            Path("/run/sshd").mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            # -D -e: in the foreground, and its log to standard error.
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._answers, 10, "sshd")

    def stop(self) -> None:
        """End the listener; connections that are open live on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def logins(self) -> int:
        return self.log.read_text(errors="replace").count("Accepted publickey")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    if not Path(SSHD).exists() or not shutil.which("ssh-keygen"):
        pytest.skip("needs Debian's openssh-server")
    server = Sshd(tmp_path)
    server.start()
    yield server
    server.stop()
