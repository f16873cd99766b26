"""The environment of the scheduler's commands: built from nothing, the same wherever they are called from."""

import os
import pwd
from typing import Dict, Mapping, Tuple

_USUAL_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/slurm/bin", "/usr/local/slurm/bin", "/usr/slurm/bin")


def environment_of_commands(environ: Mapping[str, str]) -> Dict[str, str]:
    """What a command gets where this process has `environ`.

    No `SBATCH_*` (they override the script's own lines), no `SLURM_*` (they change formats and clusters) but
    SLURM_CONF; times in UTC and messages in English.
    """
    user, home = _account()
    clean = {
        "PATH": _path(environ.get("PATH", "")),
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "TZ": "UTC",
        "LC_ALL": "C",
    }
    if environ.get("SLURM_CONF"):
        clean["SLURM_CONF"] = environ["SLURM_CONF"]
    return clean


def _account() -> Tuple[str, str]:
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return str(os.geteuid()), "/"
    return entry.pw_name, entry.pw_dir


def _path(own: str) -> str:
    """The account's own folders, as far as they are absolute, then those where Slurm usually lies."""
    folders = []
    for folder in own.split(":") + list(_USUAL_FOLDERS):
        if os.path.isabs(folder) and folder not in folders:
            folders.append(folder)
    return ":".join(folders)
