"""The tables of `application.toml` other than the parameters."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from portal.applications.fields import AnswerRegex, DirectiveValue, Line, PathInWork, VariableName, WholeNumber
from portal.applications.mistakes import wrong_key
from portal.applications.texts import first_unsafe_in_line, quoted

MOST_MINUTES = 10 * 366 * 24 * 60
MOST_MIB = 1024**3
"""More of either is a mistake, whoever asks."""
_MOST_CPUS = 100_000


class Section(BaseModel):
    """A table: no other keys than these, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(Section):
    """What one attempt asks the scheduler for, and up to what a visitor may raise it."""

    time_limit_minutes: WholeNumber = Field(5, ge=1, le=MOST_MINUTES)
    memory_mib: WholeNumber = Field(256, ge=1, le=MOST_MIB)
    cpus: WholeNumber = Field(1, ge=1, le=_MOST_CPUS)
    gres: DirectiveValue | None = None
    partition: DirectiveValue | None = None
    time_limit_minutes_max: WholeNumber | None = Field(None, ge=1, le=MOST_MINUTES)
    memory_mib_max: WholeNumber | None = Field(None, ge=1, le=MOST_MIB)
    cpus_max: WholeNumber | None = Field(None, ge=1, le=_MOST_CPUS)

    @model_validator(mode="after")
    def _most_is_not_less(self) -> Self:
        for name in ("time_limit_minutes", "memory_mib", "cpus"):
            usual, most = getattr(self, name), getattr(self, f"{name}_max")
            if most is not None and most < usual:
                raise wrong_key(f"should be at least {name}, which is {usual}", f"{name}_max")
        return self

    def as_texts(self) -> dict[str, str]:
        """What an attempt gets unless somebody raised it, by key, for `config.ini`; what is not asked for is absent."""
        asked = {
            "time_limit_minutes": self.time_limit_minutes,
            "memory_mib": self.memory_mib,
            "cpus": self.cpus,
            "gres": self.gres,
            "partition": self.partition,
        }
        return {name: str(value) for name, value in asked.items() if value is not None}


class Success(Section):
    """When a program that has ended has succeeded."""

    rule: Literal["exit_code", "no_stderr", "exit_code_and_no_stderr"] = "exit_code"


class Answer(Section):
    """Where the short answer is: the one group of `pattern`, in `file` below the job's working directory."""

    file: PathInWork = "output.txt"
    pattern: AnswerRegex


class OutputFile(Section):
    """A file that the program makes, offered on the results page."""

    path: PathInWork
    title: Line
    kind: Literal["text", "table", "fasta", "image", "file"] = "text"

    @model_validator(mode="before")
    @classmethod
    def _title_from_path(cls, data: object) -> object:
        if isinstance(data, dict) and "title" not in data and "path" in data:
            return {**data, "title": data["path"]}
        return data


class Environment(Section):
    """What the program's environment holds besides the portal's own; `pass` are variables of the dispatcher."""

    set_: dict[VariableName, str] = Field(default_factory=dict, alias="set")
    pass_: tuple[VariableName, ...] = Field(default=(), alias="pass")

    @field_validator("set_")
    @classmethod
    def _values_are_lines(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if first_unsafe_in_line(value) is not None:
                raise wrong_key("should be one line without control characters", name)
        return variables

    @model_validator(mode="after")
    def _set_or_passed(self) -> Self:
        for name in self.pass_:
            if name in self.set_:
                raise wrong_key(f"should not name {quoted(name)}, which is set", "pass")
        return self


class Policy(Section):
    """What happens to a job when something other than its program fails, and how long it is kept."""

    on_node_failure: Literal["resubmit", "hold"] = "resubmit"
    max_attempts: WholeNumber = Field(3, ge=1, le=10)
    out_of_memory: Literal["warn", "fail"] = "warn"
    retention_days: WholeNumber = Field(90, ge=1, le=36_500)


class Example(Section):
    """Values with which a visitor can fill in the form to try it."""

    title: Line
    inputs: dict[str, object] = Field(default_factory=dict)
