"""An attempt's folder as the portal makes it, and the wrapper run in it: for the tests of `portal/node`."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from portal.node import status_file
from portal.node.status_file import StatusFile

REPOSITORY = Path(__file__).parent.parent
TIMEOUT_SECONDS = 30


@dataclass
class Attempt:
    """`attempts/1/` under `job_dir`, with a `program.sh` and what its `config.ini` says."""

    job_dir: Path
    program: str
    number: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    mail: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True)
        (self.folder / "program.sh").write_text(self.program)
        self.config.write_text(self.config_text())

    @property
    def folder(self) -> Path:
        return self.job_dir / "attempts" / str(self.number)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def config(self) -> Path:
        return self.folder / "config.ini"

    @property
    def output(self) -> str:
        return (self.work / "output.txt").read_text()

    @property
    def markers(self) -> list[str]:
        return [name for name in ("SUCCESS", "ERROR") if (self.work / name).exists()]

    def config_text(self) -> str:
        attempt = {
            "number": str(self.number),
            "scheduler_name": "portal-abcd-tcfnctbq-1",
            "shell": "/bin/sh",
            "success_rule": "exit_code",
            "heartbeat_seconds": "0.05",
            "environment": "",
            "bin_dir": "/nowhere/bin",
            "reserved_exit_codes": "",
            **self.settings,
        }
        sections: dict[str, Mapping[str, str]] = {
            "settings": {"job_id": "tcfnctbq", "email": "ann@example.org", "token": "t"},
            "inputs": {"x": "100% of [it]"},
            "attempt": attempt,
            "outputs": {str(number): path for number, path in enumerate(self.outputs, start=1)},
        }
        if self.mail:
            sections["mail"] = self.mail
        return "\n".join(_section(name, values) for name, values in sections.items())

    def command(self) -> list[str]:
        return [sys.executable, "-m", "portal.node", str(self.config)]

    def start(
        self,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> "subprocess.Popen[str]":
        """The wrapper, running; stdin, stdout and stderr are not the test's own."""
        return subprocess.Popen(
            command or self.command(),
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            text=True,
        )

    def run(
        self, environment: Mapping[str, str] | None = None, command: Sequence[str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """The wrapper, when it has ended."""
        with self.start(environment, command) as process:
            stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def status(self) -> StatusFile:
        """What `status.json` says now."""
        return status_file.parse((self.work / status_file.FILE_NAME).read_bytes())


def _section(name: str, values: Mapping[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def is_alive(pid: int) -> bool:
    """True while there is such a process that has not ended; a zombie has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
