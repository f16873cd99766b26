"""Job ids: eight letters that can be read over the phone. Access does not rest on them."""

import re
import secrets

ALPHABET = "bcdfghjkmnpqrstvwxyz"
"""Consonants without `l`: no id spells a word, and none looks like a number."""
LENGTH = 8

_PATTERN = re.compile(f"[{ALPHABET}]{{{LENGTH}}}")


def new_job_id() -> str:
    """A random id. It is unique only once `mkdir` of its directory has succeeded."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def is_job_id(text: str) -> bool:
    """True where `text` has the form of an id; says nothing of whether there is such a job."""
    return _PATTERN.fullmatch(text) is not None
