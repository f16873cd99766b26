"""What all types of parameter have in common."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from portal.applications.fields import Flag, Line, LineOrNothing, ParameterName, Prose
from portal.applications.mistakes import wrong_key
from portal.applications.values import RefusedValueError, Value


class BaseParameter(BaseModel):
    """What every type has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ParameterName
    label: Line
    help: Prose = ""
    group: LineOrNothing = ""
    required: Flag = True

    @model_validator(mode="before")
    @classmethod
    def _label_from_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str) and "label" not in data:
            return {**data, "label": data["name"].replace("_", " ").capitalize()}
        return data

    @model_validator(mode="after")
    def _default_is_valid(self) -> Self:
        try:
            self.parse(getattr(self, "default", None))
        except RefusedValueError as error:
            raise wrong_key(str(error), "default") from error
        return self

    def noun(self) -> str:
        """What is wanted, as in `a whole number`."""
        raise NotImplementedError

    def example(self) -> str:
        """A value that would be accepted; empty where none is known."""
        raise NotImplementedError

    def parse(self, raw: object) -> Value | None:
        """The checked value; None where nothing was given."""
        raise NotImplementedError


def for_example(parameter: BaseParameter) -> str:
    """`, for example 2`; empty where no example is known."""
    return f", for example {example}" if (example := parameter.example()) else ""


def needed(parameter: BaseParameter) -> RefusedValueError:
    """The refusal that says what is wanted, for the caller to raise."""
    return RefusedValueError(f"{parameter.noun()} is needed{for_example(parameter)}")
