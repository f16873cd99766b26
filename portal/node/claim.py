"""The claim: the file that decides, once and for all, who may start an attempt's program.

It lies in `work/`, where the job can write, so `parse` trusts nothing. The dispatcher takes it too, where it
gives an attempt up, so that a start that comes late finds it taken.
"""

import os
from typing import NamedTuple, Optional

from .durable import AnyPath, create_exclusively
from .strict_json import Fields, encode_object

FILE_NAME = "claim"
MAX_BYTES = 65536
LONGEST_TEXT = 255

_HIGHEST_PID = 2**31 - 1


class Claim(NamedTuple):
    """Who took an attempt, where and when."""

    by: str
    """`wrapper` (the program starts) or `dispatcher` (it never will)."""
    scheduler_id: Optional[str]
    """The job that the wrapper runs in; None only for the dispatcher."""
    name: str
    """The job's name in the scheduler."""
    host: str
    pid: int
    at: str
    """UTC."""


def take(work_dir: AnyPath, claim: Claim) -> bool:
    """True for exactly one of all that ever try, and then it is on the disk; False where it is taken already.

    OSError where neither can be said, and ValueError for a claim that `parse` would refuse; do not start
    then.
    """
    return create_exclusively(os.path.join(os.fspath(work_dir), FILE_NAME), encode(claim))


def encode(claim: Claim) -> bytes:
    """The bytes of the file; `parse` of them gives `claim` back. ValueError for what `parse` would refuse."""
    data = encode_object(dict(claim._asdict()))
    parse(data)
    return data


def parse(data: bytes) -> Claim:
    """What the file says; ValueError, whose message may be shown, for anything not exactly right."""
    fields = Fields(data, FILE_NAME, MAX_BYTES)
    claim = Claim(
        by=fields.choice("by", ("wrapper", "dispatcher")),
        scheduler_id=fields.optional_text("scheduler_id", LONGEST_TEXT),
        name=fields.text("name", LONGEST_TEXT),
        host=fields.text("host", LONGEST_TEXT),
        pid=fields.integer("pid", 1, _HIGHEST_PID),
        at=fields.utc_time("at"),
    )
    fields.no_more()
    has_id = claim.scheduler_id is not None
    fields.require(has_id or claim.by == "dispatcher", "scheduler_id is missing from a wrapper's claim")
    return claim
