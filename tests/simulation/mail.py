"""The mail server: takes messages, puts them off, refuses them, is out, and loses its answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage

from portal.errors import MailError
from portal.mail.message import parse_message
from tests.simulation.world import World


@dataclass(frozen=True)
class Delivery:
    """One message that the server answers for."""

    at: float
    message_id: str
    digest: str
    """Of all its bytes."""
    by_node: bool


class MailServer:
    """`portal.mail.transport.Transport`, and what the wrapper's `smtplib` talks to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_out = False
        self.deliveries: list[Delivery] = []
        self.refused: set[str] = set()
        """Message-IDs of what it said that it would never take."""

    def send(self, message: EmailMessage) -> None:
        """Take a message from the portal. Raises MailError."""
        world, faults = self._world, self._world.faults
        message_id = str(message["Message-ID"])
        world.before_step(f"mail {message_id}")
        if self.is_out:
            raise MailError("The mail server does not answer.")
        if faults.strikes("mail put off by the server"):
            raise MailError("The mail server does not take the message.", log_detail="451 later")
        if faults.strikes("mail refused for good"):
            self.refused.add(message_id)
            world.say(f"mail: {message_id} refused for good")
            raise MailError("The mail server does not take the address.", log_detail="550 no", permanent=True)
        self._take(message, by_node=False)
        world.advance(world.between("mail", 0.01, 2) if faults.strikes("slow scheduler call") else 0)
        world.after_step(f"mail {message_id}")
        if faults.strikes("mail taken, reply lost"):
            raise MailError("The mail server does not answer.")

    def send_from_node(self, data: bytes) -> None:
        """Take a message from a wrapper. Raises OSError."""
        self._world.before_step("mail")
        if self.is_out or self._world.faults.strikes("mail put off by the server"):
            raise OSError("451 later")
        self._take(parse_message(data), by_node=True)
        self._world.after_step("mail")
        if self._world.faults.strikes("mail taken, reply lost"):
            raise OSError("the connection broke")

    def _take(self, message: EmailMessage, *, by_node: bool) -> None:
        message_id = str(message["Message-ID"])
        digest = hashlib.sha256(message.as_bytes()).hexdigest()
        self.deliveries.append(Delivery(self._world.seconds, message_id, digest, by_node))
        self._world.say(f"MAIL {message_id} {'from a node' if by_node else ''}")


class NodeSmtp:
    """`smtplib.SMTP` as `portal.node.mail` uses it."""

    server: MailServer

    def __init__(self, _host: str, _port: int, timeout: float) -> None:
        pass

    def sendmail(self, _sender: str, _recipients: Sequence[str], data: bytes) -> None:
        self.server.send_from_node(data)

    def quit(self) -> None:
        """Say goodbye."""

    def close(self) -> None:
        """Hang up."""
