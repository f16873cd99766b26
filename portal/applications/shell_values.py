"""Values as shell text. The only place where something a visitor typed is written into a script."""

import re
from collections.abc import Mapping

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def single_quoted(text: str) -> str:
    """`text` as one word of a POSIX shell: within single quotes nothing but the single quote itself means anything.

    Raises ValueError for a NUL, which no shell variable and no argument can hold.
    """
    if "\0" in text:
        raise ValueError("a shell value cannot hold a NUL character")
    return "'" + text.replace("'", "'\\''") + "'"


def shell_assignments(values: Mapping[str, str]) -> str:
    """Lines such as `input_x='8'`, one assignment a parameter, each with its line end; the head of `program.sh`.

    `values` maps a parameter's name to its text, and to `""` where an optional parameter has no value: an assignment
    that is left out would let the environment's variable of that name through. Raises ValueError for a name that is
    not a parameter's, and for a NUL.
    """
    return "".join(f"{_variable(name)}={single_quoted(text)}\n" for name, text in values.items())


def _variable(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a parameter's name: {name!r}")
    return f"input_{name}"
