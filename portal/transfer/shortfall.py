"""What of a job's results stayed on the cluster: written down beside the attempt, and in sentences for the visitor."""

import json
from dataclasses import asdict, dataclass

import structlog

from portal.jobs.directory import FILE_MODE, AttemptDirectory
from portal.jobs.sizes import size_in_words
from portal.jobs.words import visible
from portal.node.durable import write_durably
from portal.node.listing import MOST_DEPTH, MOST_FILES

log = structlog.get_logger()

KEPT_DAYS = 7
"""How long after a job's end its copy stays there: as long as a late word from the node may still correct it."""
_MOST_KEPT = 20
_MOST_NAMED = 5


@dataclass(frozen=True)
class LeftFile:
    """One that did not fit."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Shortfall:
    """All that was left, and why."""

    left: tuple[LeftFile, ...]
    """For their size."""
    most_bytes: int
    too_many: bool
    too_deep: int
    unreadable: int
    odd_names: int


def write_shortfall(attempt: AttemptDirectory, shortfall: Shortfall) -> None:
    """Durably. Raises OSError."""
    fields = asdict(shortfall) | {
        "left": [[file.path, file.size_bytes] for file in shortfall.left[:_MOST_KEPT]],
        "left_files": len(shortfall.left),
        "left_bytes": sum(file.size_bytes for file in shortfall.left),
    }
    write_durably(str(attempt.results), (json.dumps(fields, indent=1) + "\n").encode(), FILE_MODE)


def shortfall_in_words(attempt: AttemptDirectory) -> str | None:
    """Sentences for the visitor; None where nothing is known to have stayed there."""
    try:
        fields = json.loads(attempt.results.read_bytes())
        sentences = [*_of_size(fields), *_of_others(fields)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("a report of results cannot be read", path=str(attempt.results), error=str(error))
        return None
    return " ".join([*sentences, f"It is kept there for {KEPT_DAYS} days."]) if sentences else None


def _of_size(fields: dict[str, object]) -> list[str]:
    number, left = fields["left_files"], fields["left"]
    if not number or not isinstance(number, int) or not isinstance(left, list):
        return []
    named = [f"{visible(str(path))} ({size_in_words(int(size))})" for path, size in left[:_MOST_NAMED]]
    more = [f"and {number - len(named)} more"] if number > len(named) else []
    count = "One file" if number == 1 else f"{number} files"
    total, most = size_in_words(int(str(fields["left_bytes"]))), size_in_words(int(str(fields["most_bytes"])))
    names = ", ".join([*named, *more])
    reason = f"since at most {most} of a job's results are brought here"
    return [f"{count} ({total}) stayed on the cluster, {reason}: {names}."]


def _of_others(fields: dict[str, object]) -> list[str]:
    counted = [
        ("too_deep", f"folders more than {MOST_DEPTH} deep"),
        ("unreadable", "files or folders that cannot be read there"),
        ("odd_names", "files or folders whose names are no text"),
    ]
    sentences = [f"Left there, too: {what} ({fields[key]})." for key, what in counted if fields[key]]
    if fields["too_many"]:
        sentences.append(f"Of more than {MOST_FILES:,} files only so many were brought here.")
    return sentences
