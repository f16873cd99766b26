"""The parameters of an application, and the check of everything that a visitor gives for them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from portal.applications.parameter_base import for_example
from portal.applications.parameter_types import (
    BooleanParameter,
    Choice,
    ChoiceParameter,
    FileParameter,
    IntegerParameter,
    LongTextParameter,
    NumberParameter,
    TextParameter,
)
from portal.applications.texts import quoted
from portal.applications.values import RefusedValueError, Upload, Value, as_given
from portal.errors import InvalidInputError

__all__ = [
    "BooleanParameter",
    "Choice",
    "ChoiceParameter",
    "FileParameter",
    "IntegerParameter",
    "LongTextParameter",
    "NumberParameter",
    "Parameter",
    "TextParameter",
    "Upload",
    "Value",
    "form_inputs",
    "validate_inputs",
    "validate_value",
]

MAX_UNKNOWN_FIELDS = 20

Parameter: TypeAlias = Annotated[
    IntegerParameter
    | NumberParameter
    | TextParameter
    | LongTextParameter
    | ChoiceParameter
    | BooleanParameter
    | FileParameter,
    Field(discriminator="type"),
]


def validate_value(parameter: Parameter, raw: object) -> Value | None:
    """The checked value of one parameter; None where nothing was given and it may be left out.

    `raw` is what a form or JSON gave: text, a number, true or false, None, or an Upload. The parameter's default
    plays no part here. Raises InvalidInputError with one sentence that names the label and says what would be right.
    """
    try:
        value = parameter.parse(raw)
    except RefusedValueError as error:
        raise _invalid(parameter, f"{error}.{as_given(raw)}") from error
    if value is None and parameter.required:
        raise _invalid(parameter, f"please fill this in; {parameter.noun()}{for_example(parameter)}.")
    return value


def _invalid(parameter: Parameter, problem: str) -> InvalidInputError:
    return InvalidInputError({parameter.name: f"{parameter.label}: {problem}"})


def validate_inputs(parameters: Sequence[Parameter], raw: Mapping[str, object]) -> dict[str, Value]:
    """The checked values by parameter name, in the order of the form; a parameter without a value is left out.

    A parameter that is not in `raw` at all takes its default; an empty one is empty, whatever its default (a visitor
    who clears a field means it). Raises one InvalidInputError with a sentence for each field that is wrong or that
    the application does not have.
    """
    values: dict[str, Value] = {}
    problems: dict[str, str] = {}
    for parameter in parameters:
        given = raw[parameter.name] if parameter.name in raw else getattr(parameter, "default", None)
        try:
            value = validate_value(parameter, given)
        except InvalidInputError as error:
            problems |= error.field_errors
        else:
            values |= {parameter.name: value} if value is not None else {}
    problems |= _unknown_fields(parameters, raw)
    if problems:
        raise InvalidInputError(problems)
    return values


def _unknown_fields(parameters: Sequence[Parameter], raw: Mapping[str, object]) -> dict[str, str]:
    known = {parameter.name for parameter in parameters}
    unknown = [name for name in raw if name not in known][:MAX_UNKNOWN_FIELDS]
    names = ", ".join(parameter.name for parameter in parameters)
    hint = f"it has {names}" if names else "it has none"
    return {name: f"{quoted(name)}: this application has no such field; {hint}." for name in unknown}


def form_inputs(parameters: Sequence[Parameter], form: Mapping[str, object]) -> dict[str, object]:
    """`form` with a no for each tick box that it lacks: browsers do not send one that is not ticked.

    Without this an unticked box whose default is true would be taken as ticked.
    """
    unticked = {p.name: False for p in parameters if isinstance(p, BooleanParameter) and p.name not in form}
    return {**form, **unticked}
