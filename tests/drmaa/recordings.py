"""What the real Grid Engine printed, from tests/data/grid-engine/ (see `record_outputs`)."""

import json
from pathlib import Path

from portal.schedulers.helper import Result

DATA = Path(__file__).parents[1] / "data" / "grid-engine" / "8.1.9"


def recorded(name: str) -> Result:
    """How the command ended."""
    errors = DATA / f"{name}.err"
    about = json.loads((DATA / f"{name}.json").read_text())
    return Result(
        about["exit_code"], (DATA / f"{name}.out").read_text(), errors.read_text() if errors.exists() else "", None
    )


def recorded_id(name: str) -> str:
    """The id of the job that became that."""
    ids: dict[str, str] = json.loads((DATA / "qacct.json").read_text())["ids"]
    return ids[name]
