"""Which calls of the scheduler's commands the helper makes: a short list, and nothing else whoever asks.

The key of the helper lies on a machine that faces the network. Whoever holds it can submit the scripts that the
portal wrote, ask, and cancel; there is no way from here to another command or another script.
"""

import os
import re
import stat
from typing import Callable, List, Pattern, Sequence

_ID = r"[0-9]{1,10}(_[0-9]{1,10})?"
_NAME = r"[A-Za-z0-9_.+-]{1,200}"
_WORDS = r"[A-Za-z0-9_.:|,%-]{1,2000}"
_TIME = r"[0-9T:-]{1,32}"

_ATTEMPT = r"job-[a-z]{8}/attempts/[1-9][0-9]{0,5}"
_LONGEST_WORD = 131071
"""Linux takes no longer one (MAX_ARG_STRLEN)."""


def _options(*patterns: str) -> Pattern[str]:
    return re.compile("|".join(patterns))


_READ_ONLY = {
    "squeue": _options(
        "--(me|all|noheader|array|states=all|json|version)",
        "--Format={}".format(_WORDS),
        "--name={0}(,{0})*".format(_NAME),
        "--jobs={0}(,{0})*".format(_ID),
    ),
    "sacct": _options(
        "--(noheader|allocations|parsable|duplicates|json|version)",
        "--(delimiter|format)={}".format(_WORDS),
        "--(starttime|endtime)={}".format(_TIME),
        "--name={0}(,{0})*".format(_NAME),
        "--jobs={0}(,{0})*".format(_ID),
    ),
    "scontrol": _options("ping", "--version"),
    "sinfo": _options("--(noheader|version)", "--(format|Format)={}".format(_WORDS)),
}
# Nothing is submitted: Slurm says whether it would take a job that asks for this much.
_TRIAL_OPTION = _options(
    "--(nodes|ntasks)=1",
    "--(partition|account|qos|gres)=[A-Za-z0-9_.:+=,-]{1,200}",
    "--(cpus-per-task|time)=[0-9]{1,10}",
    "--mem=[0-9]{1,12}M",
)
_CANCEL_OPTION = re.compile("--name={}".format(_NAME))
_JOB_ID = re.compile(_ID)
# A job that is being deleted was renamed first.
_WORK_FOLDER = re.compile("(?:{}|{})/work".format(_ATTEMPT, _ATTEMPT.replace("job-", r"\.deleted-", 1)))
_SCRIPT = re.compile(r"({})/job\.sh".format(_ATTEMPT))


class RefusedError(Exception):
    """It is not on the list; the message says why, without the argument."""


def check_call(arguments: Sequence[str], jobs_dir: str) -> List[str]:
    """`arguments`, where the helper may call them; RefusedError where it may not.

    `jobs_dir` is the jobs folder, absolute.
    """
    if not arguments or any("\0" in word or len(word) > _LONGEST_WORD for word in arguments):
        raise RefusedError("it is no command that could be called")
    command, rest = arguments[0], list(arguments[1:])
    if command == "sbatch" and rest[:1] == ["--test-only"]:
        _check_trial(rest)
    elif command == "sbatch":
        _check_submission(rest, jobs_dir)
    elif command == "scancel":
        _check_cancellation(rest)
    elif command in _READ_ONLY:
        if not rest or not all(_READ_ONLY[command].fullmatch(word) for word in rest):
            raise RefusedError("{} may not be called with these options".format(command))
    else:
        raise RefusedError("the command is not one of sbatch, squeue, sacct, scancel, scontrol and sinfo")
    return list(arguments)


def check_jobs_dir(asked: str, root: str) -> str:
    """The jobs folder as a request spells it, where it is `root`; RefusedError where it is another one.

    Not one that lies in it either: jobs can write below, and would have their own scripts submitted.
    """
    if not os.path.isabs(asked) or os.path.normpath(asked) != asked:
        raise RefusedError("jobs_dir is not an absolute path in its simplest form")
    if os.path.realpath(asked) != os.path.realpath(root):
        raise RefusedError("jobs_dir is not the jobs folder that this helper belongs to")
    return asked


def work_folder(path: str, jobs_dir: str) -> str:
    """The `work/` folder of an attempt, relative to `jobs_dir`; RefusedError for any other path."""
    relative = _below(path, jobs_dir)
    if not _WORK_FOLDER.fullmatch(relative):
        raise RefusedError("it is not the work folder of an attempt in the jobs folder")
    return relative


def _check_submission(rest: Sequence[str], jobs_dir: str) -> None:
    """`sbatch --parsable --chdir=…/attempts/N/work …/attempts/N/job.sh`, both real and the portal's."""
    if len(rest) != 3 or rest[0] != "--parsable" or not rest[1].startswith("--chdir="):
        raise RefusedError("sbatch may not be called with these options")
    script = _below(rest[2], jobs_dir)
    found = _SCRIPT.fullmatch(script)
    if found is None:
        raise RefusedError("the script is not the job.sh of an attempt in the jobs folder")
    attempt = found.group(1)
    if rest[1] != "--chdir={}/{}/work".format(jobs_dir, attempt):
        raise RefusedError("the working directory is not the script's own work folder")
    _check_no_links(jobs_dir, script, stat.S_ISREG)
    _check_no_links(jobs_dir, "{}/work".format(attempt), stat.S_ISDIR)


def _check_trial(rest: Sequence[str]) -> None:
    """`sbatch --test-only …options… --wrap=:`: what it asks for, and a script that does nothing."""
    if len(rest) < 2 or rest[-1] != "--wrap=:" or not all(_TRIAL_OPTION.fullmatch(word) for word in rest[1:-1]):
        raise RefusedError("sbatch --test-only may not be called with these options")


def _check_cancellation(rest: Sequence[str]) -> None:
    """`scancel --name=NAME ID`: ids are reused, so never an id without the name that it must have."""
    if len(rest) != 2 or not _CANCEL_OPTION.fullmatch(rest[0]) or not _JOB_ID.fullmatch(rest[1]):
        raise RefusedError("scancel may be called with a name and one id only")


def _below(path: str, jobs_dir: str) -> str:
    if not path.startswith(jobs_dir + "/"):
        raise RefusedError("the path does not lie in the jobs folder")
    return path[len(jobs_dir) + 1 :]


def _check_no_links(jobs_dir: str, relative: str, is_right_kind: Callable[[int], bool]) -> None:
    path = jobs_dir
    steps = relative.split("/")
    for number, name in enumerate(steps, start=1):
        path = "{}/{}".format(path, name)
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise RefusedError("{} cannot be seen: {}".format(relative, error.strerror)) from error
        is_right = is_right_kind(mode) if number == len(steps) else stat.S_ISDIR(mode)
        if not is_right:
            raise RefusedError("{} has a step that is a link or of the wrong kind".format(relative))
