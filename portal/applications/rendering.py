"""The text of `program.sh.j2`, from the site's settings and the application's resources and nothing else.

What a visitor typed is never given to a template: quoting inside templates cannot be made safe. The values stand
before the rendered text as shell assignments (see `shell_values`).
"""

import re
from collections.abc import Mapping
from typing import NoReturn

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from portal.applications.definition import RESULTS_FILE, Application
from portal.applications.shell_values import single_quoted
from portal.applications.texts import one_line
from portal.errors import DefinitionError

_TEMPLATE = "<template>"  # what Jinja2 calls a template that came from no file
_RESOURCE = re.compile(r"[A-Za-z0-9_.:+=,-]*")


def render_program(
    application: Application, site: Mapping[str, object], resources: Mapping[str, object] | None = None
) -> str:
    """The script as the author wrote it, with `site`, `resources` and `application` filled in; without the inputs.

    `resources` are those of the attempt where they differ from the application's own (same keys as
    `Resources.as_texts`). One that is not asked for is an empty text. The filter `single_quoted` makes a site's
    setting one word of the shell. Raises DefinitionError with the file and the line where the template is wrong,
    and ValueError for a resource that could not stand in a directive.
    """
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # it is a shell script, not HTML
        keep_trailing_newline=True,
    )
    environment.filters["single_quoted"] = single_quoted
    asked = _resources(application, resources or {})
    try:
        return environment.from_string(application.program_template).render(
            site=dict(site),
            resources=asked,
            application={"name": application.name, "title": application.title},
        )
    except Exception as error:  # a template can raise anything, such as ZeroDivisionError
        _refuse(application, error)


def check_results_template(application: Application) -> None:
    """Raises DefinitionError where `results.html.j2` is not a template; what it uses is seen when it is rendered."""
    if application.results_template is None:
        return
    try:
        ImmutableSandboxedEnvironment(autoescape=True).parse(application.results_template)
    except TemplateSyntaxError as error:
        file = application.directory / RESULTS_FILE
        raise DefinitionError(one_line(f"{file}: line {error.lineno}: {error.message}")) from error


def _resources(application: Application, changed: Mapping[str, object]) -> dict[str, str]:
    texts = {"gres": "", "partition": ""} | application.resources.as_texts()
    texts |= {name: str(value) for name, value in changed.items()}
    for name, text in texts.items():
        if not _RESOURCE.fullmatch(text):
            raise ValueError(f"not a value for a directive: {name} = {text!r}")
    return texts


def _refuse(application: Application, error: Exception) -> NoReturn:
    line = _line_of(error)
    where = f"{application.program_file}: line {line}" if line else f"{application.program_file}"
    what = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    if "comment tag" in what:  # the shell's ${#x} is the usual reason
        what += "; “{#” begins a comment of the template, and {% raw %}${#x}{% endraw %} is the shell's"
    if isinstance(error, UndefinedError):
        what += "; a template may use site, resources and application"
    raise DefinitionError(one_line(f"{where}: {what}")) from error


def _line_of(error: Exception) -> int | None:
    """The template's line, which Jinja2 puts into the traceback of whatever is raised while it renders."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TEMPLATE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
