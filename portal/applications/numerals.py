"""Numbers as people type them and as JSON carries them. ASCII digits only: `int` and `float` would take far more."""

import math
import re

MAX_DIGITS = 1000
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LARGEST = 10**MAX_DIGITS


def integer_from(raw: object) -> int | None:
    """The whole number that `raw` (text or a JSON integer) is; None where it is none.

    Raises OverflowError over 1,000 digits: arbitrary length would cost quadratic time.
    """
    if isinstance(raw, int) and not isinstance(raw, bool):
        if abs(raw) >= _LARGEST:
            raise OverflowError
        return raw
    if not isinstance(raw, str) or not _INTEGER.fullmatch(text := raw.strip()):
        return None
    if len(text.lstrip("+-")) > MAX_DIGITS:
        raise OverflowError
    return int(text)


def number_from(raw: object) -> float | None:
    """The finite number that `raw` (text in decimal or exponent notation, or a JSON number) is; None where it is none.

    Raises OverflowError where it is too large for a float, or too close to 0 to be told from it: a value must not
    change silently. The result is never -0.0.
    """
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        number = float(raw)
        return number + 0.0 if math.isfinite(number) else None
    if not isinstance(raw, str) or not _NUMBER.fullmatch(text := raw.strip()):
        return None
    number = float(text)
    mantissa = re.split("[eE]", text)[0]
    if math.isinf(number) or (number == 0 and re.search("[1-9]", mantissa)):
        raise OverflowError
    return number + 0.0
