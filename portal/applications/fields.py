"""The kinds of value that the keys of `application.toml` have, each checked with a message for its author.

Nothing is converted: TOML has types, so `cpus = "4"` is a mistake and not a number.
"""

import re
import warnings
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, AllowInfNan, BeforeValidator, Strict

from portal.applications.texts import character_name, first_unsafe_in_line, first_unsafe_in_prose

MAX_PATTERN_LENGTH = 500
_RESERVED_PARAMETERS = frozenset({"email", "csrf_token", "token"})  # the form's own fields
# What the portal itself keeps in the working directory of a job.
_PORTAL_FILES = frozenset({"claim", "heartbeat", "status.json", "mail.sent", "SUCCESS", "ERROR"})
_SHELLS = frozenset({"sh", "dash", "ash", "bash", "ksh"})


def _line(text: str) -> str:
    if not text or text != text.strip():
        raise ValueError("should be text without white space around it")
    return _line_or_nothing(text)


def _line_or_nothing(text: str) -> str:
    if (unsafe := first_unsafe_in_line(text)) is not None:
        raise ValueError(f"should be one line, without {character_name(unsafe)}")
    return text


def _prose(text: str) -> str:
    if (unsafe := first_unsafe_in_prose(text)) is not None:
        raise ValueError(f"should be plain text, without {character_name(unsafe)}")
    return text


def _matching(pattern: str, meaning: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"should be {meaning}")
        return text

    return check


def _parameter_name(name: str) -> str:
    if name in _RESERVED_PARAMETERS:
        raise ValueError(f"should be another name: {name!r} is a field that every form has")
    return name


def _compiled(pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise ValueError("should be a regular expression, as text")  # pydantic wants ValueError
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ValueError(f"should have at most {MAX_PATTERN_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what `re` only warns about will mean something else one day
            return re.compile(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ValueError(f"should be a regular expression: {error}") from error


def _pattern_of_one_group(pattern: re.Pattern[str]) -> re.Pattern[str]:
    if pattern.groups != 1:
        raise ValueError(f"should have exactly one group, (…), around the answer; it has {pattern.groups}")
    return pattern


def _path_in_work(path: str) -> str:
    parts = path.split("/")
    if first_unsafe_in_line(path) or len(path) > 255 or path.startswith("-"):
        raise ValueError("should be a short path without control characters that does not begin with “-”")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("should be a path below the job's working directory, such as results/hits.tsv")
    if path in _PORTAL_FILES:
        raise ValueError(f"should be another name: {path!r} is a file of the portal's own")
    return path


def _shell(path: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9_.+/-]+", path) or path.rpartition("/")[2] not in _SHELLS:
        raise ValueError(f"should be the absolute path of one of {', '.join(sorted(_SHELLS))}")
    return path


def _settable_variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"should name variables of letters, digits and “_”, which {name!r} is not")
    if name in ("PATH", "IFS", "ENV", "BASH_ENV") or name.startswith(("LD_", "input_")):
        raise ValueError(f"should not name {name}, which decides what runs or is the portal's own")
    return name


Flag = Annotated[bool, Strict()]
WholeNumber = Annotated[int, Strict()]
RealNumber = Annotated[float, Strict(), AllowInfNan(allow_inf_nan=False)]
Line = Annotated[str, AfterValidator(_line)]
LineOrNothing = Annotated[str, AfterValidator(_line_or_nothing)]
Prose = Annotated[str, AfterValidator(_prose)]
Regex = Annotated[re.Pattern[str], BeforeValidator(_compiled)]
AnswerRegex = Annotated[Regex, AfterValidator(_pattern_of_one_group)]
PathInWork = Annotated[str, AfterValidator(_path_in_work)]
Shell = Annotated[str, AfterValidator(_shell)]
VariableName = Annotated[str, AfterValidator(_settable_variable)]
ParameterName = Annotated[
    str,
    AfterValidator(
        _matching(r"[a-z][a-z0-9_]{0,63}", "lower-case letters, digits and “_”, a letter first, at most 64")
    ),
    AfterValidator(_parameter_name),
]
# It goes into a directive line of the batch script, where a space would begin another option.
DirectiveValue = Annotated[
    str, AfterValidator(_matching(r"[A-Za-z0-9_.:+=,-]{1,200}", "letters, digits and any of _ . : + = , - only"))
]
