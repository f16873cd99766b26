"""What is typed into the fields for a job's next attempt."""

import re

from flask import request

from portal.errors import InvalidInputError
from portal.jobs.quantities import parse_memory_mib, parse_minutes, parse_node
from portal.jobs.resubmission import Changes

CHANGE_FIELDS = ("memory", "time_limit", "exclude_node")


def changes_from_form() -> Changes:
    """What was typed for the next attempts, each perhaps empty. Raises InvalidInputError."""
    memory, time_limit, exclude_node = (request.form.get(name, "") for name in CHANGE_FIELDS)
    mistakes: dict[str, str] = {}
    memory_mib = minutes = None
    nodes: tuple[str, ...] = ()
    try:
        memory_mib = parse_memory_mib(memory) if memory.strip() else None
    except ValueError as error:
        mistakes["memory"] = f"Memory: {error}."
    try:
        minutes = parse_minutes(time_limit) if time_limit.strip() else None
    except ValueError as error:
        mistakes["time_limit"] = f"Time limit: {error}."
    try:
        nodes = tuple(parse_node(name) for name in exclude_node.replace(",", " ").split())
    except ValueError as error:
        mistakes["exclude_node"] = f"Nodes to avoid: {error}."
    if mistakes:
        raise InvalidInputError(mistakes)
    return Changes(memory_mib, minutes, nodes)


def attempt_number(text: str) -> int | None:
    """The number of an attempt that a form carries; None where it is none."""
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else None
