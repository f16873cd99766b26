"""Keys that give access to one job. Nothing secret is stored: any process can work the key out again.

A key is HMAC-SHA256(secret key; purpose, job id, generation), cut to 128 bits. Raising a job's generation withdraws
every key that was made for it.
"""

import base64
import hashlib
import hmac
import os
import secrets
from enum import StrEnum
from pathlib import Path

from portal.errors import SettingsError

KEY_BYTES = 16
SECRET_BYTES = 32


class Purpose(StrEnum):
    """What a key allows."""

    VIEW = "view"
    """Mailed: shows the job, and never changes anything."""
    OWNER = "owner"
    """The `access_key` of an anonymous API caller: may cancel, resubmit and delete."""


class Keys:
    """Makes and checks keys with the portal's one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def key(self, purpose: Purpose, job_id: str, generation: int) -> str:
        """The key as 26 lower-case letters and digits."""
        message = f"{purpose}\0{job_id}\0{generation}".encode()
        digest = hmac.new(self._secret, message, hashlib.sha256).digest()[:KEY_BYTES]
        return base64.b32encode(digest).decode().rstrip("=").lower()

    def is_valid(self, given: str, purpose: Purpose, job_id: str, generation: int) -> bool:
        """True where `given` is the key; takes the same time whatever is wrong with it."""
        return hmac.compare_digest(given.encode(), self.key(purpose, job_id, generation).encode())

    def cookie_secret(self) -> bytes:
        """What signs cookies; not the secret itself, so that neither use can harm the other."""
        return hmac.new(self._secret, b"cookies", hashlib.sha256).digest()


def load_or_make_secret(file: Path) -> bytes:
    """The secret in `file`, made (0600) where there is none. Two processes that start at once get the same one.

    Raises SettingsError, naming `portal.secret_key_file`, where it cannot be read or made, or is too short.
    """
    try:
        if not file.exists():
            _make_secret(file)
        secret = bytes.fromhex(file.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise SettingsError(f"portal.secret_key_file: {file} cannot be used: {error}") from error
    if len(secret) < SECRET_BYTES:
        raise SettingsError(f"portal.secret_key_file: {file} should hold at least {SECRET_BYTES} bytes as hex digits")
    return secret


def _make_secret(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(SECRET_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link, not a rename: where another process was first, its secret stays.
        try:
            os.link(beside, file)
        except FileExistsError:
            return
    finally:
        beside.unlink()
