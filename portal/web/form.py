"""An application's form as data: what is asked, what stands in each field, and what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass

from portal.applications.definition import Application
from portal.applications.parameters import (
    BooleanParameter,
    ChoiceParameter,
    FileParameter,
    IntegerParameter,
    LongTextParameter,
    NumberParameter,
    Parameter,
    TextParameter,
)

_TICKED = frozenset({"on", "true", "1", "yes"})
_USUAL_TEXT_LENGTH = 1000
_USUAL_LONGTEXT_LENGTH = 1_000_000
_SHORT_KINDS = frozenset({"integer", "number", "choice"})


@dataclass(frozen=True)
class Option:
    """One value of a choice."""

    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True)
class FormField:
    """One field as the page shows it."""

    name: str
    kind: str
    label: str
    text: str = ""
    """What stands in it."""
    help: str = ""
    limits: str = ""
    unit: str = ""
    is_required: bool = True
    options: tuple[Option, ...] = ()
    error: str = ""
    has_focus: bool = False

    @property
    def is_ticked(self) -> bool:
        """Of a tick box."""
        return self.text.strip().lower() in _TICKED

    @property
    def is_short(self) -> bool:
        """Whether several of its kind fit beside each other."""
        return self.kind in _SHORT_KINDS

    @property
    def described_by(self) -> str:
        """The ids of the texts that belong to it, for screen readers."""
        ids = [(f"{self.name}-error", self.error), (f"{self.name}-help", self.help or self.limits)]
        return " ".join(name for name, text in ids if text)


@dataclass(frozen=True)
class FieldGroup:
    """Fields that belong together."""

    title: str
    fields: tuple[FormField, ...]

    @property
    def rows(self) -> list[list[FormField]]:
        """The fields as they lie: short ones that follow each other share a row."""
        rows: list[list[FormField]] = []
        for field in self.fields:
            if rows and field.is_short and rows[-1][-1].is_short:
                rows[-1].append(field)
            else:
                rows.append([field])
        return rows


@dataclass(frozen=True)
class Form:
    """A form, ready to be shown."""

    application: Application
    groups: tuple[FieldGroup, ...]
    email: FormField
    token: str
    other_problems: tuple[str, ...] = ()
    """Mistakes that belong to no field of the form, a sentence each."""

    @property
    def bad_fields(self) -> list[FormField]:
        """The fields with a mistake, from the top."""
        fields = [field for group in self.groups for field in group.fields]
        return [field for field in [*fields, self.email] if field.error]

    @property
    def has_files(self) -> bool:
        """Whether files can be chosen."""
        return any(field.kind == "file" for group in self.groups for field in group.fields)


def make_form(
    application: Application,
    typed: Mapping[str, str],
    *,
    email: str,
    token: str,
    upload_mib: int,
    errors: Mapping[str, str] | None = None,
) -> Form:
    """The form with `typed` in its fields; the first field with a mistake gets the focus."""
    errors = errors or {}
    names = [parameter.name for parameter in application.parameters] + ["email"]
    first_bad = next((name for name in names if name in errors), None)
    fields = {
        parameter.name: _field(parameter, typed.get(parameter.name, ""), upload_mib, errors, first_bad)
        for parameter in application.parameters
    }
    return Form(
        application=application,
        groups=_groups(application, fields),
        email=_email_field(email, errors, first_bad),
        token=token,
        other_problems=tuple(text for name, text in errors.items() if name not in names),
    )


def default_texts(application: Application) -> dict[str, str]:
    """What stands in a fresh form."""
    return {parameter.name: _text(getattr(parameter, "default", None)) for parameter in application.parameters}


def example_texts(application: Application, name: str) -> dict[str, str]:
    """What stands in the form filled in with one of the application's examples; the defaults where there is none."""
    example = application.examples.get(name)
    inputs = example.inputs if example else {}
    return default_texts(application) | {key: _text(value) for key, value in inputs.items()}


def _groups(application: Application, fields: Mapping[str, FormField]) -> tuple[FieldGroup, ...]:
    titles = list(dict.fromkeys(parameter.group for parameter in application.parameters))
    return tuple(
        FieldGroup(title, tuple(fields[p.name] for p in application.parameters if p.group == title)) for title in titles
    )


def _field(
    parameter: Parameter, text: str, upload_mib: int, errors: Mapping[str, str], first_bad: str | None
) -> FormField:
    return FormField(
        name=parameter.name,
        kind=parameter.type,
        label=parameter.label,
        text=text,
        help=parameter.help,
        limits=_limits(parameter, upload_mib),
        unit=getattr(parameter, "unit", ""),
        is_required=parameter.required and not isinstance(parameter, BooleanParameter),
        options=_options(parameter, text),
        error=errors.get(parameter.name, ""),
        has_focus=parameter.name == first_bad,
    )


def _email_field(email: str, errors: Mapping[str, str], first_bad: str | None) -> FormField:
    return FormField(
        name="email",
        kind="email",
        label="Email",
        text=email,
        help="A message with a link to the result goes to this address.",
        error=errors.get("email", ""),
        has_focus=first_bad == "email",
    )


def _options(parameter: Parameter, text: str) -> tuple[Option, ...]:
    if not isinstance(parameter, ChoiceParameter):
        return ()
    return tuple(Option(choice.value, choice.label, choice.value == text) for choice in parameter.choices)


def _limits(parameter: Parameter, upload_mib: int) -> str:
    match parameter:
        case IntegerParameter() | NumberParameter():
            return _range(parameter.minimum, parameter.maximum)
        case TextParameter() if parameter.max_length < _USUAL_TEXT_LENGTH:
            return f"At most {parameter.max_length} characters."
        case LongTextParameter() if parameter.max_length < _USUAL_LONGTEXT_LENGTH:
            return f"At most {parameter.max_length:,} characters."
        case FileParameter():
            return f"At most {min(parameter.maximum_mib or upload_mib, upload_mib)} MiB."
        case _:
            return ""


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f"From {_text(minimum)} to {_text(maximum)}."
    if minimum is not None:
        return f"At least {_text(minimum)}."
    return f"At most {_text(maximum)}." if maximum is not None else ""


def _text(value: object) -> str:
    """A default, a limit or an example's value as a person would type it."""
    if isinstance(value, bool):
        return "true" if value else ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "" if value is None else str(value)
