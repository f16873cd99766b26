"""What a real Slurm printed, as the portal's own calls would have made it print it.

`tests/data/slurm/<version>/` was recorded with `-o '%i|%F|%K|%j|%T|%r|%N|%S|…'` and `sacct -P`; the portal asks for
other fields and another separator. Here the recorded values are put into the portal's form. `portal-…` and `pair-…`
are the portal's own calls.
"""

import json
from pathlib import Path

DATA = Path(__file__).parent / "data" / "slurm"
VERSIONS = tuple(sorted(folder.name for folder in DATA.iterdir() if folder.is_dir()))
OLDEST = VERSIONS[0]
SEPARATOR = "|abcdefgh|"
RECORDED_SEPARATOR = "|recorded|"
"""Of the recordings of the portal's own calls."""


def recorded(name: str, version: str = OLDEST) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one recording."""
    folder = DATA / version
    about = json.loads((folder / f"{name}.json").read_text("utf-8"))
    error = folder / f"{name}.err"
    return (
        about["exit_code"],
        (folder / f"{name}.out").read_text("utf-8"),
        error.read_text("utf-8") if error.exists() else "",
    )


def recordings(pattern: str) -> list[tuple[str, str]]:
    """Version and name of each recording whose name is like that."""
    return [(file.parent.name, file.stem) for file in sorted(DATA.glob(f"*/{pattern}.json"))]


def queue_answer(name: str, separator: str = SEPARATOR, version: str = OLDEST) -> str:
    """A recorded queue as the answer to `slurm_calls.queue_call`, without exit codes, which were not recorded."""
    rows = (line.split("|") for line in recorded(name, version)[1].splitlines())
    return "".join(
        record(separator, job, word_name, state, reason, "0", nodes, start, "N/A")
        for job, _, _, word_name, state, reason, nodes, start, *_ in rows
    )


def accounting_answer(name: str, separator: str = SEPARATOR, version: str = OLDEST) -> str:
    """Recorded accounting as the answer to `slurm_calls.accounting_calls`."""
    rows = (line.split("|") for line in recorded(name, version)[1].splitlines())
    return "".join(
        record(separator, job, word_name, state, exit_code, reason, nodes, start, end, submit)
        for job, word_name, state, exit_code, _, nodes, submit, start, end, reason, *_ in rows
    )


def record(separator: str, *fields: str) -> str:
    """One record as squeue `-O` and sacct `-p` write it: a separator behind each field, too."""
    return "".join(f"{field}{separator}" for field in fields) + "\n"
