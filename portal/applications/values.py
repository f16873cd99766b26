"""What comes in for a parameter, and what it becomes once it is checked."""

from dataclasses import dataclass, field
from typing import Literal

from portal.applications.texts import MAX_SHOWN, display_filename, quoted

ParameterType = Literal["integer", "number", "text", "longtext", "choice", "boolean", "file"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as a form or the API sent it. `filename` is whatever the sender said."""

    filename: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Value:
    """A checked value in its canonical form.

    `text` goes into `config.ini` and into the script; for a file it is its name, for display only. `json` is what the
    REST object shows. `content` is set for a file and for long text, which lie in `inputs/`: the program then gets
    the path of that file instead of `text`.
    """

    kind: ParameterType
    text: str
    json: int | float | str | bool
    content: bytes | None = field(default=None, repr=False)

    @property
    def filename(self) -> str:
        """The uploaded file's name, for display only; empty for everything that is not a file."""
        return self.text if self.kind == "file" else ""


class RefusedValueError(ValueError):
    """A value cannot be accepted; the message is what would be right, without the label and without a full stop."""


def is_blank(raw: object) -> bool:
    """True where nothing was given: no value, white space only, or the nameless empty file that browsers send."""
    if isinstance(raw, Upload):
        return not raw.filename and not raw.content
    return raw is None or (isinstance(raw, str) and not raw.strip())


def as_given(raw: object) -> str:
    """A sentence that repeats what was given, for the end of a message; with a space before it."""
    match raw:
        case Upload():
            return f" You sent the file {quoted(display_filename(raw.filename))}."
        case bool():
            return f" You sent {'true' if raw else 'false'}."
        case str():
            return f" You typed {quoted(raw.strip())}."
        case float():
            return f" You typed {quoted(repr(raw))}."
        case int():
            # Python refuses to write out integers of more than 4,300 digits.
            return f" You typed {quoted(str(raw))}." if abs(raw) < 10**MAX_SHOWN else ""
        case _:
            return ""
