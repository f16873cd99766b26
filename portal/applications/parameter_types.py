"""The types of parameter: what an application's author may say about each, and how a value of it is checked.

Each class is one `type`. `parse` takes what a form or JSON gave and returns the canonical value, None where nothing
was given, or raises RefusedValueError with what would be right.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from portal.applications.fields import (
    Flag,
    Line,
    LineOrNothing,
    RealNumber,
    Regex,
    WholeNumber,
)
from portal.applications.mistakes import wrong_key
from portal.applications.numerals import MAX_DIGITS, integer_from, number_from
from portal.applications.parameter_base import BaseParameter, for_example, needed
from portal.applications.texts import (
    as_single_line,
    character_name,
    display_filename,
    first_unsafe_in_line,
    first_unsafe_in_prose,
    quoted,
    with_unix_line_ends,
)
from portal.applications.values import RefusedValueError, Upload, Value, is_blank

_MIB = 1024 * 1024
_TRUE = frozenset({"on", "true", "1", "yes"})
_FALSE = frozenset({"off", "false", "0", "no"})


class _Numeric(BaseParameter):
    unit: LineOrNothing = ""

    def _check_range(self, value: float, minimum: float | None, maximum: float | None) -> None:
        unit = f" {self.unit}" if self.unit else ""
        if minimum is not None and value < minimum:
            raise RefusedValueError(f"must be at least {_shown(minimum)}{unit}")
        if maximum is not None and value > maximum:
            raise RefusedValueError(f"must be at most {_shown(maximum)}{unit}")


def _check_limits(minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and maximum is not None and minimum > maximum:
        raise wrong_key(f"should be at least minimum, which is {_shown(minimum)}", "maximum")


def _example_within(wanted: float, default: float | None, minimum: float | None, maximum: float | None) -> str:
    if default is not None:
        return _shown(default)
    if minimum is not None and minimum > wanted:
        return _shown(minimum)
    return _shown(maximum if maximum is not None and maximum < wanted else wanted)


def _shown(number: float) -> str:
    """A number as people write it: a limit of 100 is kept as 100.0 where the parameter is a `number`."""
    return str(int(number)) if isinstance(number, float) and abs(number) < 1e15 and number.is_integer() else str(number)


class IntegerParameter(_Numeric):
    """A whole number of any size up to 1,000 digits."""

    type: Literal["integer"]
    default: WholeNumber | None = None
    minimum: WholeNumber | None = None
    maximum: WholeNumber | None = None

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        _check_limits(self.minimum, self.maximum)
        return self

    def noun(self) -> str:
        return "a whole number"

    def example(self) -> str:
        return _example_within(2, self.default, self.minimum, self.maximum)

    def parse(self, raw: object) -> Value | None:
        if is_blank(raw):
            return None
        try:
            number = integer_from(raw)
        except OverflowError as error:
            raise RefusedValueError(f"a whole number can have at most {MAX_DIGITS:,} digits here") from error
        if number is None:
            raise needed(self)
        self._check_range(number, self.minimum, self.maximum)
        return Value("integer", str(number), number)


class NumberParameter(_Numeric):
    """A number in decimal or exponent notation, kept as a float."""

    type: Literal["number"]
    default: RealNumber | None = None
    minimum: RealNumber | None = None
    maximum: RealNumber | None = None

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        _check_limits(self.minimum, self.maximum)
        return self

    def noun(self) -> str:
        return "a number"

    def example(self) -> str:
        return _example_within(2.5, self.default, self.minimum, self.maximum)

    def parse(self, raw: object) -> Value | None:
        if is_blank(raw):
            return None
        try:
            number = number_from(raw)
        except OverflowError as error:
            raise RefusedValueError("a number between about 1e-300 and 1e300 in size is needed, or 0") from error
        if number is None:
            raise needed(self)
        self._check_range(number, self.minimum, self.maximum)
        return Value("number", repr(number), number)


class TextParameter(BaseParameter):
    """One line of text, in Unicode's composed form, without white space around it."""

    type: Literal["text"]
    default: str = ""
    pattern: Regex | None = None
    # 10,000 characters of four bytes are well below what Linux takes as one argument (128 KiB).
    max_length: WholeNumber = Field(1000, ge=1, le=10_000)
    unit: LineOrNothing = ""
    allow_leading_dash: Flag = False

    def noun(self) -> str:
        return "one line of text"

    def example(self) -> str:
        return self.default

    def parse(self, raw: object) -> Value | None:
        if is_blank(raw):
            return None
        if not isinstance(raw, str):
            raise needed(self)
        text = as_single_line(raw)
        _check_length(text, self.max_length)
        unsafe = first_unsafe_in_line(text)
        if unsafe is not None:
            raise RefusedValueError(f"must be one line of plain text, without {character_name(unsafe)}")
        if text.startswith("-") and not self.allow_leading_dash:
            # A program would take it for an option of its own.
            raise RefusedValueError("must not begin with “-”")
        _check_pattern(self, text)
        return Value("text", text, text)


class LongTextParameter(BaseParameter):
    """Text of many lines, such as sequences; the program gets it as a file."""

    type: Literal["longtext"]
    default: str = ""
    pattern: Regex | None = None
    max_length: WholeNumber = Field(1_000_000, ge=1, le=1_000_000_000)

    def noun(self) -> str:
        return "some text"

    def example(self) -> str:
        return ""

    def parse(self, raw: object) -> Value | None:
        if is_blank(raw):
            return None
        if not isinstance(raw, str):
            raise needed(self)
        text = with_unix_line_ends(raw)
        _check_length(text, self.max_length)
        unsafe = first_unsafe_in_prose(text)
        if unsafe is not None:
            raise RefusedValueError(f"must be plain text, without {character_name(unsafe)}")
        _check_pattern(self, text)
        return Value("longtext", text, text, text.encode("utf-8"))


class Choice(BaseModel):
    """One of the values of a choice, and what people read for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Line
    label: Line


def _as_choice(data: Any) -> Any:
    if isinstance(data, str):
        return {"value": data, "label": data}
    if isinstance(data, dict) and "label" not in data and "value" in data:
        return {**data, "label": data["value"]}
    return data


class ChoiceParameter(BaseParameter):
    """Exactly one of the values that the author lists."""

    type: Literal["choice"]
    choices: tuple[Annotated[Choice, BeforeValidator(_as_choice)], ...] = Field(max_length=10_000)
    default: str = ""

    @model_validator(mode="after")
    def _choices_in_order(self) -> Self:
        values = [choice.value for choice in self.choices]
        if not values:
            raise wrong_key("should list at least one value", "choices")
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise wrong_key(f"should list {quoted(twice)} once", "choices")
        return self

    def noun(self) -> str:
        shown = [choice.value for choice in self.choices[:8]]
        return f"one of {', '.join(shown)}{' …' if len(self.choices) > len(shown) else ''}"

    def example(self) -> str:
        return ""

    def parse(self, raw: object) -> Value | None:
        if is_blank(raw):
            return None
        if not isinstance(raw, str) or raw not in {choice.value for choice in self.choices}:
            raise needed(self)
        return Value("choice", raw, raw)


class BooleanParameter(BaseParameter):
    """Yes or no. Nothing given is no, as with a tick box, so `required` asks for nothing."""

    type: Literal["boolean"]
    default: Flag = False

    def noun(self) -> str:
        return "true or false"

    def example(self) -> str:
        return ""

    def parse(self, raw: object) -> Value | None:
        word = raw.strip().lower() if isinstance(raw, str) else raw
        if word is True or (isinstance(word, str) and word in _TRUE):
            return Value("boolean", "true", json=True)
        if word is False or is_blank(word) or (isinstance(word, str) and word in _FALSE):
            return Value("boolean", "false", json=False)
        raise needed(self)


class FileParameter(BaseParameter):
    """An uploaded file."""

    type: Literal["file"]
    maximum_mib: WholeNumber | None = Field(None, ge=1, le=4096)

    def noun(self) -> str:
        return "a file"

    def example(self) -> str:
        return ""

    def parse(self, raw: object) -> Value | None:
        if is_blank(raw):
            return None
        if not isinstance(raw, Upload):
            raise needed(self)
        if not raw.content:
            if self.required:
                raise RefusedValueError("the file must not be empty")
            return None
        if self.maximum_mib is not None and len(raw.content) > self.maximum_mib * _MIB:
            raise RefusedValueError(f"the file must have at most {self.maximum_mib} MiB")
        name = display_filename(raw.filename)
        return Value("file", name, name, raw.content)


def _check_length(text: str, max_length: int) -> None:
    if len(text) > max_length:
        raise RefusedValueError(f"must have at most {max_length:,} characters, and has {len(text):,}")


def _check_pattern(parameter: TextParameter | LongTextParameter, text: str) -> None:
    """The whole text must match. What a good one looks like is the author's to say, in `help`."""
    if parameter.pattern is not None and not parameter.pattern.fullmatch(text):
        hint = f": {parameter.help.rstrip('.')}" if parameter.help else for_example(parameter)
        raise RefusedValueError(f"does not have the form that is needed{hint}")
