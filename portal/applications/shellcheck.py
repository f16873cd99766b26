"""shellcheck, where it is installed: it knows the shell better than our own checks do."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath

TIMEOUT_SECONDS = 10
_DIALECTS = {"ash": "dash"}
# A variable that is never assigned: ours are assigned in the lines that the portal writes before the program.
_EXCLUDED = "SC2154"


@dataclass(frozen=True)
class Comment:
    """One of shellcheck's comments; `level` is error, warning, info or style."""

    line: int
    code: int
    level: str
    message: str


def shellcheck(script: str, shell: str) -> list[Comment]:
    """What shellcheck says about `script`; nothing where it is not installed or does not answer in ten seconds.

    Our own checks do without it, so its absence makes the lint weaker and breaks nothing.
    """
    name = PurePosixPath(shell).name
    arguments = ["shellcheck", "--norc", "--format=json", f"--exclude={_EXCLUDED}"]
    arguments += [f"--shell={_DIALECTS.get(name, name)}", "-"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            arguments, input=script.encode(), capture_output=True, timeout=TIMEOUT_SECONDS, env=environment, check=False
        )
        comments = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return []
    return [Comment(one["line"], one["code"], one["level"], one["message"]) for one in comments]
