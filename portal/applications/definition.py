"""An application as its folder says it is: `application.toml`, `program.sh.j2`, and what may lie beside them."""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from portal.applications.fields import Line, Prose, Shell
from portal.applications.mistakes import first_mistake, wrong_key
from portal.applications.parameters import Parameter, validate_value
from portal.applications.sections import Answer, Environment, Example, OutputFile, Policy, Resources, Section, Success
from portal.applications.texts import one_line, quoted
from portal.errors import DefinitionError, InvalidInputError

DEFINITION_FILE = "application.toml"
PROGRAM_FILE = "program.sh.j2"
RESULTS_FILE = "results.html.j2"
EXAMPLES_DIR = "examples"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

ModelT = TypeVar("ModelT", bound=BaseModel)


class Definition(Section):
    """The contents of `application.toml`."""

    title: Line
    description: Prose = ""
    submit_label: Line = "Run"
    shell: Shell = "/bin/sh"
    parameters: tuple[Parameter, ...] = Field(default=(), max_length=200)
    resources: Resources = Resources()
    success: Success = Success()
    answer: Answer | None = None
    outputs: tuple[OutputFile, ...] = Field(default=(), max_length=200)
    environment: Environment = Environment()
    policy: Policy = Policy()

    @field_validator("parameters")
    @classmethod
    def _names_differ(cls, parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
        _refuse_second("name", [parameter.name for parameter in parameters])
        return parameters

    @field_validator("outputs")
    @classmethod
    def _paths_differ(cls, outputs: tuple[OutputFile, ...]) -> tuple[OutputFile, ...]:
        _refuse_second("path", [output.path for output in outputs])
        return outputs


def _refuse_second(key: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise wrong_key(f"should be another: {quoted(name)} is there already", index, key)


class Application(Definition):
    """An application, loaded and checked. `name` is its folder's; nothing is read from the folder after loading."""

    name: str
    directory: Path
    program_template: str = Field(repr=False)
    results_template: str | None = Field(None, repr=False)
    examples: dict[str, Example] = Field(default_factory=dict)

    @property
    def program_file(self) -> Path:
        """The file of the program's template, for messages."""
        return self.directory / PROGRAM_FILE


def load_application(directory: Path) -> Application:
    """The application in `directory`, checked as far as that goes without the site's settings (see Catalog).

    Raises DefinitionError: one line that names the file, the key and what would be right.
    """
    name = directory.absolute().name
    if not _NAME.fullmatch(name):
        raise DefinitionError(
            one_line(f"{directory}: the folder's name should be lower-case letters, digits and “_”, a letter first")
        )
    definition = _load_table(directory / DEFINITION_FILE, Definition)
    return Application.model_validate(
        {
            **{key: getattr(definition, key) for key in Definition.model_fields},
            "name": name,
            "directory": directory,
            "program_template": _read_text(directory / PROGRAM_FILE),
            "results_template": _read_if_there(directory / RESULTS_FILE),
            "examples": _load_examples(directory / EXAMPLES_DIR, definition),
        }
    )


def _load_table(file: Path, model: type[ModelT]) -> ModelT:
    text = _read_text(file)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of more than 4,300 digits
        raise _mistake(file, f"is not TOML: {error}") from error
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise _mistake(file, first_mistake(error, _all_keys(model))) from error


def _read_if_there(file: Path) -> str | None:
    return _read_text(file) if file.exists() else None


def _read_text(file: Path) -> str:
    """The text with its line ends as they are, so that the lint can see them."""
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise _mistake(file, "is missing") from error
    except OSError as error:
        raise _mistake(file, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _mistake(file, f"should be UTF-8, which line {line} is not") from error


def _load_examples(directory: Path, definition: Definition) -> dict[str, Example]:
    """The examples by name, in the order of their files' names; other files there are the author's own."""
    files = sorted(directory.glob("*.toml")) if directory.is_dir() else []
    return {file.stem: _load_example(file, definition) for file in files}


def _load_example(file: Path, definition: Definition) -> Example:
    """An example whose values would be accepted. It may leave fields open: the visitor fills in the rest."""
    example = _load_table(file, Example)
    parameters = {parameter.name: parameter for parameter in definition.parameters}
    for name, raw in example.inputs.items():
        if name not in parameters:
            raise _mistake(file, f"inputs.{name}: the application has no such parameter")
        try:
            validate_value(parameters[name], raw)
        except InvalidInputError as error:
            raise _mistake(file, f"inputs.{name}: {error.visitor_message}") from error
    return example


def _mistake(file: Path, problem: str) -> DefinitionError:
    return DefinitionError(one_line(f"{file}: {problem}"))


def _all_keys(model: type[BaseModel]) -> list[str]:
    """Every key that may stand somewhere in the file: what a mistyped one is compared with."""
    schema: dict[str, Any] = model.model_json_schema(by_alias=True)
    tables = [schema, *schema.get("$defs", {}).values()]
    return sorted({key for table in tables for key in table.get("properties", {})})
