"""A mistake in an application's file as one line: `FILE: KEY: what would be right`."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from portal.applications.texts import one_line, quoted
from portal.applications.values import ParameterType

_WHAT_IS_RIGHT = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a number",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list",
    "dict_type": "should be a table",
    "model_type": "should be a table",
    "model_attributes_type": "should be a table",
    "missing": "is missing",
    "union_tag_not_found": "is missing",
}


def wrong_key(problem: str, *key: int | str) -> PydanticCustomError:
    """The error for a model's validator to raise where one of the model's keys does not go with the others."""
    return PydanticCustomError("wrong_key", "{problem}", {"key": key, "problem": problem})


def first_mistake(error: ValidationError, known_keys: Sequence[str]) -> str:
    """`KEY: what would be right`, in one line, for the first of the mistakes, and how many more there are."""
    details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    key = _key(details[0])
    return one_line(f"{key}: {_problem(details[0], known_keys)}{more}" if key else _problem(details[0], known_keys))


def _key(details: ErrorDetails) -> str:
    """`parameters[1].minimum`, counted from 0 as in `parameters[0]`."""
    parts = list(details["loc"])
    if len(parts) > 2 and parts[0] == "parameters" and parts[2] in get_args(ParameterType):
        del parts[2]  # the type by which pydantic chose the model; it is no key of the file
    if details["type"] == "wrong_key":
        parts += details["ctx"]["key"]
    if details["type"].startswith("union_tag"):
        parts.append("type")
    return _joined([part for part in parts if part != "[key]"])


def _joined(parts: Sequence[int | str]) -> str:
    key = ""
    for part in parts:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _problem(details: ErrorDetails, known_keys: Sequence[str]) -> str:
    kind = details["type"]
    context: dict[str, Any] = details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(details["loc"][-1]), known_keys)
    if kind == "union_tag_invalid":
        return f"should be one of {context['expected_tags']}"
    if kind in _WHAT_IS_RIGHT:
        return _WHAT_IS_RIGHT[kind]
    return details["msg"].removeprefix("Value error, ").replace("Input should", "should")


def _unknown_key(key: str, known_keys: Sequence[str]) -> str:
    close = get_close_matches(key, [known for known in known_keys if known != key], n=1)
    return f"there is no such key here{f'; perhaps {quoted(close[0])} is meant' if close else ''}"
