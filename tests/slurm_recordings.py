"""What a real Slurm printed, as the portal's own calls would have made it print it.

`tests/data/slurm/<version>/` was recorded with `-o '%i|%F|%K|%j|%T|%r|%N|%S|…'` and `sacct -P`; the portal asks for
other fields and another separator. Here the recorded values are put into the portal's form.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "slurm" / "22.05.8"
SEPARATOR = "|abcdefgh|"


def recorded(name: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one recording."""
    about = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    error = FOLDER / f"{name}.err"
    return (
        about["exit_code"],
        (FOLDER / f"{name}.out").read_text("utf-8"),
        error.read_text("utf-8") if error.exists() else "",
    )


def queue_answer(name: str, separator: str = SEPARATOR) -> str:
    """A recorded queue as the answer to `slurm_calls.queue_call`, without exit codes, which were not recorded."""
    rows = (line.split("|") for line in recorded(name)[1].splitlines())
    return "".join(
        record(separator, job, word_name, state, reason, "0", nodes, start, "N/A")
        for job, _, _, word_name, state, reason, nodes, start, *_ in rows
    )


def accounting_answer(name: str, separator: str = SEPARATOR) -> str:
    """Recorded accounting as the answer to `slurm_calls.accounting_calls`."""
    rows = (line.split("|") for line in recorded(name)[1].splitlines())
    return "".join(
        record(separator, job, word_name, state, exit_code, reason, nodes, start, end, submit)
        for job, word_name, state, exit_code, _, nodes, submit, start, end, reason, *_ in rows
    )


def record(separator: str, *fields: str) -> str:
    """One record as squeue `-O` and sacct `-p` write it: a separator behind each field, too."""
    return "".join(f"{field}{separator}" for field in fields) + "\n"
