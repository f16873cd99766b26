"""Text from outside: which characters are refused, and how it is shown in a message."""

import re
import unicodedata

MAX_SHOWN = 40

# They change the order in which a line is shown, so that what is read is not what is there (CVE-2021-42574).
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control, surrogate, line separator and paragraph separator: each can end a line somewhere, or cannot be written.
_NEVER_IN_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_NEVER_IN_PROSE = frozenset({"Cc", "Cs"})


def quoted(text: str) -> str:
    """`“text”` for a message: at most 40 characters of it, and nothing that a terminal or a page would act on."""
    shown = "".join(char if char.isprintable() else _escaped(char) for char in text[:MAX_SHOWN])
    return f"“{shown}{'…' if len(text) > MAX_SHOWN else ''}”"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """`text` without its own quotes and with what is not printable escaped; not shortened. For the administrator."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def first_unsafe_in_line(text: str) -> str | None:
    """The first character that a single-line value must not hold, or None."""
    for char in text:
        if unicodedata.category(char) in _NEVER_IN_A_LINE or char in _BIDI_CONTROLS:
            return char
    return None


def first_unsafe_in_prose(text: str) -> str | None:
    """The first character that a text of several lines must not hold, or None; line feeds and tabs are fine."""
    for char in text:
        if char not in "\n\t" and unicodedata.category(char) in _NEVER_IN_PROSE:
            return char
    return None


def character_name(char: str) -> str:
    """How a message names a character that cannot be shown: `a line break`, `the character U+0000`."""
    if char in "\n\r\u2028\u2029\x85":
        return "a line break"
    return "a tab" if char == "\t" else f"the character U+{ord(char):04X}"


def as_single_line(text: str) -> str:
    """`text` in Unicode's composed form (NFC) and without white space around it.

    The composed form comes first: it turns a few characters into ASCII ones, which must not escape later checks.
    """
    return unicodedata.normalize("NFC", text).strip()


def with_unix_line_ends(text: str) -> str:
    """`text` with every CR LF and lone CR as LF: a browser sends CR LF whatever was typed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def display_filename(name: str) -> str:
    """The name of an uploaded file, for people only: never a path, at most 200 characters, never empty."""
    base = re.split(r"[/\\]", name)[-1]
    kept = "".join(char for char in as_single_line(base) if first_unsafe_in_line(char) is None).strip()[:200]
    return kept if kept not in ("", ".", "..") else "file"
