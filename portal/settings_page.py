"""The page of all settings, from their own descriptions: `python -m portal.settings_page > docs/settings.md`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from portal.settings import Settings

_HEAD = """\
# Settings

In `portal.toml`, one table a section; every key also as a variable `PORTAL_SECTION__KEY` (two underscores between
the parts), which wins over the file. Relative paths are relative to the settings file, and without one to the
working directory. A key that does not exist, or a value that is not right, ends the start with one line that says
which and why.
"""


def settings_page() -> str:
    """The page as Markdown, with one line a setting."""
    return "\n".join([_HEAD, *_sections(Settings, "")])


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        if not _is_section(field):
            continue
        yield f"## [{prefix}{name}]\n\n{inner.__doc__}\n\n| key | default | meaning |\n| --- | --- | --- |"
        yield from (_row(key, value) for key, value in inner.model_fields.items() if not _is_section(value))
        yield ""
        yield from _sections(inner, f"{prefix}{name}.")


def _is_section(field: FieldInfo) -> bool:
    inner: Any = field.annotation
    return isinstance(inner, type) and issubclass(inner, BaseModel)


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{field.alias or name}` | {_default(field)} | {field.description}{_choices(field)} |"


def _choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return f" One of {', '.join(f'`{choice}`' for choice in get_args(field.annotation))}."


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None and field.default_factory is not list:
        return "see there"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == "":
        return "none"
    if isinstance(value, Path):
        value = str(value)
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
