"""An application's own part of a job's page, `results.html.j2`: rendered apart from the portal's own templates."""

from typing import Any

import structlog
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from portal.applications.definition import Application
from portal.jobs.states import JobState
from portal.jobs.store import JobRecord
from portal.jobs.view import Output, input_value

log = structlog.get_logger("portal.web")

# No loader and none of Flask's globals: the template sees plain data and nothing of the portal.
_environment = ImmutableSandboxedEnvironment(autoescape=True)


def render_results(application: Application | None, record: JobRecord, outputs: list[Output]) -> Markup:
    """What the application says of a job that succeeded; empty where it says nothing, or where its template fails."""
    if application is None or not application.results_template or record.job.state is not JobState.SUCCEEDED:
        return Markup()
    data: dict[str, Any] = {
        "answer": record.result.answer if record.result else None,
        "inputs": {row.name: input_value(row) for row in record.inputs},
        "outputs": [{"path": file.path, "title": file.title, "size_bytes": file.size_bytes} for file in outputs],
    }
    try:
        return Markup(_environment.from_string(application.results_template).render(data))  # noqa: S704  # autoescaped
    except Exception as error:  # a template can raise anything, and the job's page stands without it
        log.error("results.html.j2 failed", application=application.name, error=str(error))
        return Markup()
