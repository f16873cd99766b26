"""Starting the program: its environment, built from nothing, and its process."""

import os
import pwd
import resource
import subprocess
from typing import Dict, List, Mapping, Tuple

from .attempt_config import AttemptConfig
from .output_files import OutputFiles

SCRIPT_NAME = "program.sh"

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_SCHEDULER_PREFIXES = ("SLURM_", "SGE_", "PBS_")
_SCHEDULER_NAMES = frozenset(
    (
        "JOB_ID",
        "NSLOTS",
        "PE_HOSTFILE",
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "GPU_DEVICE_ORDINAL",
        "OMP_NUM_THREADS",
    )
)
# A token for Slurm's REST interface. sbatch passes every SLURM_* variable on, so it could come from the
# portal.
_WITHHELD = frozenset(("SLURM_JWT",))


class LaunchError(Exception):
    """The program could not be started; the message is one short sentence."""

    def __init__(self, cause: Exception) -> None:
        reason = str(cause)
        if isinstance(cause, OSError) and cause.strerror:
            reason = ": ".join(str(part) for part in (cause.filename, cause.strerror) if part)
        super().__init__("The program could not be started: {}.".format(reason))


def build_environment(config: AttemptConfig, outer: Mapping[str, str], temporary: str) -> Dict[str, str]:
    """The program's whole environment.

    `outer` is the wrapper's own, from which only what the scheduler set and what the application lists are
    taken; what it lists wins over everything else. `temporary` becomes TMPDIR.
    """
    user, home = _account(outer)
    environment = {
        "PATH": "{}:{}".format(config.bin_dir, _SYSTEM_PATH),
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "LANG": "C.UTF-8",
        "TMPDIR": temporary,
    }
    environment.update((name, value) for name, value in outer.items() if _is_the_schedulers(name))
    environment.update((name, outer[name]) for name in config.environment if name in outer)
    return environment


def start_program(
    command: List[str], work_dir: str, environment: Mapping[str, str], output: OutputFiles
) -> "subprocess.Popen[bytes]":
    """Start it in `work_dir`, in a session and process group of its own, without input or core dumps.

    LaunchError where that was not possible; nothing runs then. The caller reaps the process and sets
    `returncode`.
    """
    # In this process, for the program to inherit: code that runs between fork and exec is best avoided.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return subprocess.Popen(
            command,
            cwd=work_dir,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output.stdout,
            stderr=output.stderr,
            close_fds=True,
            restore_signals=True,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise LaunchError(error) from error


def _account(outer: Mapping[str, str]) -> Tuple[str, str]:
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        # A node that does not know the account by name.
        return outer.get("USER") or str(os.getuid()), outer.get("HOME") or "/"
    return entry.pw_name, entry.pw_dir


def _is_the_schedulers(name: str) -> bool:
    if name in _WITHHELD:
        return False
    return name.startswith(_SCHEDULER_PREFIXES) or name in _SCHEDULER_NAMES
