"""JSON objects from files that a job can write: hostile until each field has been checked.

Messages name the field and the rule, never the value, so that they may go into a log or onto a page as they
are.
"""

import json
import math
import os
from typing import Dict, List, NoReturn, Optional, Tuple

from .durable import AnyPath
from .times import is_utc_text


def printable(text: str, longest: int) -> str:
    """`text` as `Fields.text` accepts it: what is not printable becomes `?`, what is too long is cut."""
    return "".join(character if character.isprintable() else "?" for character in text)[:longest]


def read_capped(path: AnyPath, max_bytes: int) -> bytes:
    """A file's content, at most one byte more than `max_bytes`, so that a parser sees what is too long.

    OSError where there is none or it cannot be read. Links are not followed and a FIFO does not block.
    """
    descriptor = os.open(os.fspath(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes + 1)


def encode_object(fields: Dict[str, object]) -> bytes:
    """ASCII, one field a line, for `cat`. ValueError for a NaN or an infinity."""
    return (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode("ascii")


class Fields:
    """One JSON object whose fields are taken one by one; each method raises ValueError for what is wrong."""

    def __init__(self, data: bytes, what: str, max_bytes: int) -> None:
        """`what` names the file in messages."""
        self._what = what
        if len(data) > max_bytes:
            self._refuse("is longer than {} bytes".format(max_bytes))
        self._fields = self._load(data)

    def text(self, name: str, longest: int) -> str:
        """A string of 1 to `longest` printable characters."""
        value = self._take(name)
        if not isinstance(value, str):
            self._refuse("{} is not a string".format(name))
        if not value or len(value) > longest:
            self._refuse("{} must have 1 to {} characters".format(name, longest))
        if not value.isprintable():
            self._refuse("{} holds characters that cannot be printed".format(name))
        return value

    def optional_text(self, name: str, longest: int) -> Optional[str]:
        """As `text`, or null."""
        return None if self._is_null(name) else self.text(name, longest)

    def choice(self, name: str, choices: Tuple[str, ...]) -> str:
        """One of the strings in `choices`."""
        value = self._take(name)
        if not isinstance(value, str) or value not in choices:
            self._refuse("{} must be one of {}".format(name, ", ".join(choices)))
        return value

    def utc_time(self, name: str) -> str:
        """A moment as `times` writes it."""
        value = self._take(name)
        if not isinstance(value, str) or not is_utc_text(value):
            self._refuse("{} is not a time in UTC".format(name))
        return value

    def optional_utc_time(self, name: str) -> Optional[str]:
        """As `utc_time`, or null."""
        return None if self._is_null(name) else self.utc_time(name)

    def integer(self, name: str, lowest: int, highest: int) -> int:
        """A whole number within these bounds, both included."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse("{} is not a whole number".format(name))
        if not lowest <= value <= highest:
            self._refuse("{} must be from {} to {}".format(name, lowest, highest))
        return value

    def optional_integer(self, name: str, lowest: int, highest: int) -> Optional[int]:
        """As `integer`, or null."""
        return None if self._is_null(name) else self.integer(name, lowest, highest)

    def optional_number(self, name: str, highest: float) -> Optional[float]:
        """A finite number from 0 to `highest`, or null."""
        if self._is_null(name):
            return None
        value = self._take(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self._refuse("{} is not a number".format(name))
        # The comparison comes first: an integer may be too large to become a float.
        if not 0 <= value <= highest or not math.isfinite(value):
            self._refuse("{} must be from 0 to {:g}".format(name, highest))
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false, nothing that merely looks like it."""
        value = self._take(name)
        if not isinstance(value, bool):
            self._refuse("{} must be true or false".format(name))
        return value

    def optional_flag(self, name: str) -> Optional[bool]:
        """As `flag`, or null."""
        return None if self._is_null(name) else self.flag(name)

    def require(self, condition: bool, rule: str) -> None:
        """ValueError with `rule` unless `condition` holds."""
        if not condition:
            self._refuse(rule)

    def no_more(self) -> None:
        """ValueError where a field is left that nobody took."""
        if self._fields:
            self._refuse("has a field that does not belong there")

    def _load(self, data: bytes) -> Dict[str, object]:
        try:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError("{}: is not JSON as the wrapper writes it".format(self._what)) from error
        if not isinstance(value, dict):
            self._refuse("is not a JSON object")
        return value

    def _is_null(self, name: str) -> bool:
        """Takes the field where it is null; leaves it where it is anything else."""
        if name in self._fields and self._fields[name] is None:
            del self._fields[name]
            return True
        return False

    def _take(self, name: str) -> object:
        if name not in self._fields:
            self._refuse("{} is missing".format(name))
        return self._fields.pop(name)

    def _refuse(self, problem: str) -> NoReturn:
        raise ValueError("{}: {}".format(self._what, problem))


def _unique(pairs: List[Tuple[str, object]]) -> Dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key occurs twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError("{} is not a number".format(name))
