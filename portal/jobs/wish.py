"""The wish that a job run again: a new attempt with the same inputs, perhaps with other resources or other nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from portal.clock import parse_utc_text, utc_text
from portal.jobs.sizes import size_in_words
from portal.jobs.states import JobState

_MIB = 1024 * 1024


@dataclass(frozen=True)
class ResubmitWish:
    """What was asked for, whole: the dispatcher needs nothing else to open the attempt."""

    after_attempt: int
    """The attempt that counted when it was asked: once another does, the wish is spent."""
    asked_at: datetime
    by: str
    from_state: JobState
    """The job's state when it was asked: one that has succeeded since does not run again."""
    resources: Mapping[str, Any]
    """All that the new attempt may use, also what nobody changed."""
    changed: tuple[str, ...] = ()
    """The keys of `resources` that were asked to be other than before."""
    excluded_nodes: tuple[str, ...] = ()
    """The nodes to avoid besides those that the attempt before avoided."""
    unfinished: bool = False
    """It was asked of a job that had not ended: it runs again only if the scheduler does not have it any more."""

    def as_json(self) -> dict[str, Any]:
        """For `job.json` and for the database."""
        return {
            "after_attempt": self.after_attempt,
            "asked_at": utc_text(self.asked_at),
            "by": self.by,
            "from_state": self.from_state.value,
            "resources": dict(self.resources),
            "changed": list(self.changed),
            "excluded_nodes": list(self.excluded_nodes),
            "unfinished": self.unfinished,
        }

    @classmethod
    def from_json(cls, values: object) -> "ResubmitWish | None":
        """What `as_json` gave; None for nothing. Raises ValueError for anything else."""
        if values is None:
            return None
        try:
            if not isinstance(values, dict) or not isinstance(values["resources"], dict):
                raise ValueError("not a wish")
            return cls(
                after_attempt=int(values["after_attempt"]),
                asked_at=parse_utc_text(values["asked_at"]),
                by=str(values["by"]),
                from_state=JobState(values["from_state"]),
                resources=values["resources"],
                changed=tuple(str(name) for name in values["changed"]),
                excluded_nodes=tuple(str(name) for name in values["excluded_nodes"]),
                unfinished=bool(values["unfinished"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a wish: {error}") from error

    def in_words(self) -> str:
        """`with 16 GiB of memory, not on node1`; empty where nothing was asked to be different."""
        memory, minutes = (
            int(self.resources[name]) if name in self.changed else None for name in ("memory_mib", "time_limit_minutes")
        )
        return changes_in_words(memory, minutes, self.excluded_nodes)


def changes_in_words(memory_mib: int | None, time_limit_minutes: int | None, excluded_nodes: Sequence[str]) -> str:
    """`with 16 GiB of memory and 90 minutes at most, not on node1`; empty where nothing is to be different."""
    amounts = [f"{size_in_words(memory_mib * _MIB)} of memory"] if memory_mib is not None else []
    amounts += [f"{time_limit_minutes} minutes at most"] if time_limit_minutes is not None else []
    parts = [f"with {' and '.join(amounts)}"] if amounts else []
    parts += [f"not on {', '.join(excluded_nodes)}"] if excluded_nodes else []
    return ", ".join(parts)
