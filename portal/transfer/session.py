"""One SFTP session over the cluster's connection, opened when it is first needed and again after a loss."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from paramiko.sftp_client import SFTPClient

from portal.errors import PortalError
from portal.schedulers.commands import NotReachedError
from portal.schedulers.ssh import SshConnection
from portal.transfer.folders import FILES_UNREACHABLE, NodesUnreachableError
from portal.transfer.remote_files import RefusedThereError, is_alive


class SftpSession:
    """For one thread. Each answer of the server has to come within `answer_seconds`."""

    def __init__(self, connection: SshConnection, answer_seconds: float) -> None:
        self._connection = connection
        self._answer_seconds = answer_seconds
        self._open_client: SFTPClient | None = None

    @contextmanager
    def client(self) -> Iterator[SFTPClient]:
        """The session's client. What the server refuses is OSError.

        Raises NodesUnreachableError where there is no session to be had, or it is lost on the way.
        """
        if self._open_client is not None and not is_alive(self._open_client):
            self.close()
        client = self._open_client or self._open()
        try:
            yield client
        except (PortalError, RefusedThereError):
            raise
        except OSError as error:
            if is_alive(client) and not isinstance(error, TimeoutError):
                raise
            self.close()
            raise _unreachable(f"the SFTP session broke: {error or type(error).__name__}") from error
        except (
            Exception
        ) as error:  # paramiko's own are of many kinds: garbage on the wire, the end of it, half a packet
            self.close()
            raise _unreachable(f"the SFTP session broke: {error or type(error).__name__}") from error

    def close(self) -> None:
        """End the session, and not the connection; harmless when called twice."""
        if self._open_client is not None:
            with suppress(Exception):
                self._open_client.close()
            self._open_client = None

    def _open(self) -> SFTPClient:
        try:
            channel = self._connection.open_channel()
        except NotReachedError as error:
            raise _unreachable(error.log_detail) from error
        channel.settimeout(self._answer_seconds)
        # To ask for a subsystem knows no time-out: closing the connection ends it.
        watchdog = threading.Timer(self._answer_seconds, self._connection.close)
        watchdog.start()
        try:
            channel.invoke_subsystem("sftp")
            self._open_client = SFTPClient(channel)
        except Exception as error:  # what a login script prints is garbage to SFTP
            channel.close()
            said = error or type(error).__name__
            raise _unreachable(
                f"the login node gives no SFTP (the key's line must not have --no-sftp): {said}"
            ) from error
        finally:
            watchdog.cancel()
        return self._open_client


def _unreachable(detail: str) -> NodesUnreachableError:
    return NodesUnreachableError(FILES_UNREACHABLE, log_detail=" ".join(detail.split()))
