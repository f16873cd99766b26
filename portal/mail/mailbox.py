"""The folder of `.eml` files, read for the page `/mail`. Whatever else lies in it is passed over."""

import os
import re
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from portal.errors import NotFoundError
from portal.jobs.words import visible
from portal.mail.message import one_line, parse_message

MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_SUFFIX = ".eml"
_LINK = re.compile(r"https?://[^\s<>\"'\\]+")


@dataclass(frozen=True)
class ShownMail:
    """One message as the page shows it; every text is free of control characters."""

    name: str
    """Its file's name, for `read_message`."""
    subject: str
    to: str
    date: datetime | None
    text: str
    """The plain text."""
    links: tuple[str, ...]
    """The addresses in the text, http and https only."""


def list_messages(folder: Path, limit: int) -> list[ShownMail]:
    """The newest `limit` messages, newest first; empty where there is no folder. What is no message is left out."""
    shown: list[ShownMail] = []
    for name in _names(folder):
        if len(shown) == limit:
            break
        try:
            shown.append(read_message(folder, name))
        except NotFoundError:
            continue
    return shown


def read_message(folder: Path, name: str) -> ShownMail:
    """One message. Raises NotFoundError for anything but a regular `.eml` file of bounded size in the folder."""
    if os.sep in name or "\0" in name or name.startswith(".") or not name.endswith(_SUFFIX):
        raise _not_found()
    try:
        return _parse(name, _read(folder / name))
    except Exception as error:
        # Not only OSError: the email package raises many kinds of errors on junk; none of them is worth a broken page.
        raise _not_found() from error


def _names(folder: Path) -> list[str]:
    """The names of the `.eml` files, newest first."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                for entry in entries
                if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    return [name for _, name in sorted(found, reverse=True)]


def _read(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO that somebody put there would otherwise hold the page for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MESSAGE_MAX_BYTES:
            raise _not_found()
        return file.read(MESSAGE_MAX_BYTES)


def _parse(name: str, data: bytes) -> ShownMail:
    message = parse_message(data)
    if not message.keys():
        raise _not_found()
    body = message.get_body(preferencelist=("plain",))
    text = visible(str(body.get_content()).replace("\r\n", "\n")) if body else ""
    date = message["Date"]
    return ShownMail(
        name=name,
        subject=one_line(str(message["Subject"] or "")),
        to=one_line(str(message["To"] or "")),
        date=date.datetime if date is not None else None,
        text=text,
        links=tuple(dict.fromkeys(link.rstrip(".,;:)") for link in _LINK.findall(text))),
    )


def _not_found() -> NotFoundError:
    return NotFoundError("There is no such message.")
