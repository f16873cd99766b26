"""A mail server that can be killed: `python -m tests.chaos.mail_server PORT FOLDER`. Each message is a file at once."""

import re
import sys
import threading
import uuid
from collections import defaultdict
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from portal.mail.message import parse_message
from tests.mail_bench import plain_text

_SINGLE = re.compile(r"<([a-z]{8})\.\d+\.[a-z]+@")
_IN_A_DIGEST = re.compile("^([a-z]{8})  ", re.MULTILINE)


class Keeper:
    """Writes what it is given, then says so; between the two it may be killed, and the message comes again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        beside = self._folder / f"{uuid.uuid4().hex}.part"
        beside.write_bytes(envelope.content)
        beside.rename(beside.with_suffix(".eml"))
        return "250 OK"


def received(folder: Path) -> dict[str, set[str]]:
    """From each job's id to the Message-IDs of all mail about it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file in folder.glob("*.eml"):
        message = parse_message(file.read_bytes())
        message_id = str(message["Message-ID"])
        single = _SINGLE.match(message_id)
        for job_id in [single[1]] if single else _IN_A_DIGEST.findall(plain_text(message)):
            found[job_id].add(message_id)
    return dict(found)


def main(port: int, folder: Path) -> None:
    """Serve until killed."""
    Controller(Keeper(folder), hostname="127.0.0.1", port=port).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
