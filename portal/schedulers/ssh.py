"""The helper on a cluster's login node, over one persistent SSH connection.

Only the host keys of `known_hosts_file` are accepted and only `key_file` is offered: no agent, no other key, no
password. Each failure is one line for the log that says what to look at.
"""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko
import structlog

from portal.errors import SchedulerError
from portal.schedulers.commands import MOST_ANSWER_BYTES, NO_ANSWER, UNREACHABLE, NotReachedError, silent_end

log = structlog.get_logger()

_KEEP_ALIVE_SECONDS = 15
_CHUNK = 65536
_EXIT_SECONDS = 5.0
"""From the end of the output to the exit status."""


@dataclass(frozen=True)
class SshTarget:
    """Where the login node is, and how to get in."""

    host: str
    port: int
    user: str
    key_file: Path
    known_hosts_file: Path
    connect_timeout_seconds: float


class SshConnection:
    """One connection for all that goes to the cluster, opened when it is first needed and again after a loss.

    Any thread may call it.
    """

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._client: paramiko.SSHClient | None = None

    def open_channel(self) -> paramiko.Channel:
        """A channel in which nothing runs yet; over a new connection where the old one turns out to be gone.

        Raises NotReachedError.
        """
        with self._lock:
            if self._client is not None:
                try:
                    return self._channel_of(self._client)
                except (OSError, EOFError, paramiko.SSHException) as error:
                    log.info("the SSH connection was lost and is opened again", error=str(error))
                    self._drop()
            self._client = connect(self._target)
            try:
                return self._channel_of(self._client)
            except (OSError, EOFError, paramiko.SSHException) as error:
                self._drop()
                raise _not_reached(self._target, f"gives no session: {error}") from error

    def close(self) -> None:
        """End it, with all that goes on in it; harmless when called twice."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._client is not None:
            with suppress(Exception):
                self._client.close()
            self._client = None

    def _channel_of(self, client: paramiko.SSHClient) -> paramiko.Channel:
        transport = client.get_transport()
        if transport is None or not transport.is_active():
            raise paramiko.SSHException("it is closed")
        return transport.open_session(timeout=self._target.connect_timeout_seconds)


class SshRunner:
    """Runs the helper through a connection. Any thread may call it."""

    def __init__(self, connection: SshConnection, command: str, most_bytes: int = MOST_ANSWER_BYTES) -> None:
        """`command` is what a key without a forced command is to run; one with it runs that."""
        self._connection = connection
        self._command = command
        self._most_bytes = most_bytes

    def run(self, request: bytes, timeout_seconds: float) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        channel = self._connection.open_channel()
        # Some of paramiko's calls know no time-out: closing the connection ends them.
        watchdog = threading.Timer(_left(deadline), self.close)
        watchdog.start()
        try:
            return self._exchange(channel, request, deadline)
        except (OSError, EOFError, paramiko.SSHException) as error:
            # After a time-out, too: perhaps nobody is there any more, and the next call shall not wait for the same.
            self.close()
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                detail = f"no answer over SSH in {timeout_seconds:g} s"
            else:
                detail = f"the SSH connection broke: {error or type(error).__name__}"
            raise SchedulerError(NO_ANSWER, log_detail=detail) from error
        finally:
            watchdog.cancel()
            channel.close()

    def close(self) -> None:
        self._connection.close()

    def _exchange(self, channel: paramiko.Channel, request: bytes, deadline: float) -> bytes:
        channel.settimeout(_left(deadline))
        channel.exec_command(self._command)
        channel.sendall(request)
        channel.shutdown_write()
        answer = bytearray()
        while chunk := self._receive(channel, deadline):
            answer += chunk
            if len(answer) > self._most_bytes:
                raise SchedulerError(NO_ANSWER, log_detail=f"the helper wrote more than {self._most_bytes} bytes")
        if not channel.status_event.wait(min(_EXIT_SECONDS, _left(deadline))) or channel.exit_status == -1:
            raise EOFError(f"it was cut after {len(answer)} bytes of the answer")
        if not answer:
            raise silent_end(channel.exit_status, channel.recv_stderr(_CHUNK) if channel.recv_stderr_ready() else b"")
        return bytes(answer)

    @staticmethod
    def _receive(channel: paramiko.Channel, deadline: float) -> bytes:
        channel.settimeout(_left(deadline))
        return channel.recv(_CHUNK)


def connect(target: SshTarget) -> paramiko.SSHClient:
    """A connection that is ready; NotReachedError, whose `log_detail` is one line, where there is none to be had."""
    key = _read_key(target)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.load_system_host_keys(str(target.known_hosts_file))
    except (OSError, ValueError) as error:
        problem = str(getattr(error, "strerror", "") or "is not a file of host keys")
        raise _bad_file("known_hosts_file", target.known_hosts_file, problem) from error
    try:
        sock = socket.create_connection((target.host, target.port), target.connect_timeout_seconds)
        # paramiko does not: each small packet would wait for the other side's acknowledgement, 40 ms each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise _not_reached(target, f"cannot be connected to: {error.strerror or error}") from error
    try:
        _log_in(client, sock, target, key)
    except BaseException:
        client.close()
        sock.close()
        raise
    return client


def _log_in(client: paramiko.SSHClient, sock: socket.socket, target: SshTarget, key: paramiko.PKey) -> None:
    seconds = target.connect_timeout_seconds
    try:
        client.connect(
            target.host,
            target.port,
            target.user,
            pkey=key,
            sock=sock,
            timeout=seconds,
            banner_timeout=seconds,
            auth_timeout=seconds,
            channel_timeout=seconds,
            allow_agent=False,
            look_for_keys=False,
        )
        transport = client.get_transport()
        if transport is None:
            raise EOFError("it was closed at once")
        transport.set_keepalive(_KEEP_ALIVE_SECONDS)
    except paramiko.BadHostKeyException as error:
        problem = f"shows another host key than {target.known_hosts_file} has: it was set up anew, or is not it"
        raise _not_reached(target, problem) from error
    except paramiko.AuthenticationException as error:
        problem = f"does not let {target.user} in with {target.key_file}: {error}"
        raise _not_reached(target, problem) from error
    except paramiko.SSHException as error:
        if "not found in known_hosts" in str(error):
            raise _not_reached(target, f"has no host key in {target.known_hosts_file}") from error
        raise _not_reached(target, f"does not speak SSH as it should: {error}") from error
    except (OSError, EOFError) as error:
        problem = f"closed the connection before it was ready: {error or type(error).__name__}"
        raise _not_reached(target, problem) from error


def _read_key(target: SshTarget) -> paramiko.PKey:
    """The private key. No message may hold anything of its content."""
    try:
        return paramiko.PKey.from_path(target.key_file)
    except OSError as error:
        raise _bad_file("key_file", target.key_file, error.strerror or "cannot be read") from error
    except TypeError as error:
        # What cryptography raises where a password is needed.
        problem = "has a passphrase, which nobody is there to type: use a key without one"
        raise _bad_file("key_file", target.key_file, problem) from error
    except Exception as error:
        if "encrypted" in str(error) or isinstance(error, paramiko.PasswordRequiredException):
            problem = "has a passphrase, which nobody is there to type: use a key without one"
        else:
            problem = "is not a private key that can be used"
        raise _bad_file("key_file", target.key_file, problem) from None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _not_reached(target: SshTarget, problem: str) -> NotReachedError:
    return NotReachedError(UNREACHABLE, log_detail=f"{target.host}:{target.port} {' '.join(problem.split())}")


def _bad_file(setting: str, file: Path, problem: str) -> NotReachedError:
    return NotReachedError(UNREACHABLE, log_detail=f"scheduler.ssh.{setting}: {file}: {problem}")
