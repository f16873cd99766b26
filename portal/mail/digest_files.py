"""Digests on disk, in `jobs/.mail/`: who belongs to one (`.json`), and the message that is sent (`.eml`).

The list of members is written before the commit that binds them and removed after the one that says that it went
out, so that neither a crash nor the loss of the database can lead to the same outcomes in another message.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from portal.jobs.directory import DIGESTS_FOLDER_MODE, FILE_MODE, JobsFolder, make_folder
from portal.jobs.ids import is_job_id
from portal.jobs.models import MailOutbox
from portal.mail.ledger import Ledger
from portal.mail.letters import prepared
from portal.node.durable import write_durably

log = structlog.get_logger()

_SCHEMA = 1


@dataclass(frozen=True)
class _Members:
    """What the list of a digest says."""

    digest_id: str
    message_ids: list[str]
    job_ids: list[str]


class DigestFiles:
    """The folder of the digests that are under way; empty, or not there, at most times."""

    def __init__(self, folder: JobsFolder) -> None:
        self._jobs = folder
        self._folder = folder.digests
        self._known: set[str] = set()

    def write_members(self, digest_id: str, rows: Sequence[MailOutbox]) -> None:
        """Write down who belongs to it. Raises OSError."""
        make_folder(self._folder, DIGESTS_FOLDER_MODE)
        members = [{"job_id": row.job_id, "message_id": row.message_id} for row in rows]
        record = {"schema": _SCHEMA, "digest_id": digest_id, "members": members}
        self._known.add(_name(digest_id))
        write_durably(str(self._file(digest_id, "json")), json.dumps(record, indent=1).encode(), FILE_MODE)

    def write_message(self, digest_id: str, data: bytes) -> None:
        """Write the message. Raises OSError."""
        make_folder(self._folder, DIGESTS_FOLDER_MODE)
        write_durably(str(self._file(digest_id, "eml")), data, FILE_MODE)

    def message(self, digest_id: str) -> bytes | None:
        """The message as it was written; None where it was not."""
        return prepared(self._file(digest_id, "eml"), digest_id)

    def remove(self, digest_id: str) -> None:
        """It has gone out, or is none any more. What cannot be removed now is removed by a later `recover`."""
        try:
            self._file(digest_id, "eml").unlink(missing_ok=True)
            self._file(digest_id, "json").unlink(missing_ok=True)
        except OSError as error:
            log.warning("a digest could not be removed", digest=digest_id, error=str(error))
        self._known.discard(_name(digest_id))

    def recover(self, ledger: Ledger) -> None:
        """Look at what a predecessor left: members that are still owed belong to their digest, whatever the database
        says, and what has gone out is removed. Raises StorageError, and OSError."""
        if not self._folder.is_dir():
            return
        for file in sorted(self._folder.glob("*.json")):
            if file.stem not in self._known:
                self._recover(file, ledger)

    def _recover(self, file: Path, ledger: Ledger) -> None:
        members = _read_members(file)
        if members is None:
            log.error("a list of a digest's members cannot be read", file=str(file))
            self._known.add(file.stem)
            return
        rows = ledger.with_message_ids(members.message_ids)
        if any(row.sent_at is None and row.refused_at is None for row in rows):
            bound = ledger.put_into_digest(members.message_ids, members.digest_id)
            self._known.add(file.stem)
            log.info("a digest is taken up again", digest=members.digest_id, bound=bound)
        elif rows or not any(self._jobs.job(job_id).path.exists() for job_id in members.job_ids):
            self.remove(members.digest_id)
        # Else the directories are there and their rows are not, yet: they come when the directories are adopted.

    def _file(self, digest_id: str, suffix: str) -> Path:
        return self._folder / f"{_name(digest_id)}.{suffix}"


def _name(digest_id: str) -> str:
    """`0f3a….34` of `<digest.0f3a….34@portal.example.org>`."""
    return digest_id.strip("<>").partition("@")[0].removeprefix("digest.")


def _read_members(file: Path) -> _Members | None:
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
        pairs = [(str(member["job_id"]), str(member["message_id"])) for member in record["members"]]
        digest_id = str(record["digest_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    is_ours = _name(digest_id) == file.stem and all(is_job_id(job_id) for job_id, _ in pairs)
    return _Members(digest_id, [name for _, name in pairs], [job_id for job_id, _ in pairs]) if is_ours else None
