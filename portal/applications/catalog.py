"""The applications of a site: everything in its templates folder, loaded and checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from portal.applications.definition import Application, load_application
from portal.applications.lint import Finding, lint_program
from portal.applications.rendering import check_results_template, render_program
from portal.applications.texts import quoted
from portal.errors import DefinitionError, NotFoundError, SettingsError


class BrokenApplicationError(DefinitionError):
    """The application exists and cannot be used until its author has mended it."""

    http_status = 503
    title = "This application is out of order"


@dataclass(frozen=True)
class Catalog:
    """What was loaded from a templates folder. One broken application does not hide the others."""

    applications: Mapping[str, Application]
    broken: Mapping[str, DefinitionError]
    warnings: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, templates_dir: Path, site: Mapping[str, object]) -> "Catalog":
        """The applications in `templates_dir`, sorted by title; `site` is what their programs may use.

        Raises SettingsError, which names `portal.templates_dir`, where the folder is missing or cannot be read.
        """
        applications: list[Application] = []
        broken: dict[str, DefinitionError] = {}
        warnings: dict[str, tuple[Finding, ...]] = {}
        for directory in _folders(templates_dir):
            try:
                application, found = load_checked(directory, site)
            except DefinitionError as error:
                broken[directory.name] = error
            else:
                applications.append(application)
                warnings |= {application.name: tuple(found)} if found else {}
        applications.sort(key=lambda application: (application.title.casefold(), application.name))
        return cls({application.name: application for application in applications}, broken, warnings)

    def get(self, name: str) -> Application:
        """The application called `name`.

        Raises NotFoundError for an unknown one and BrokenApplicationError, a DefinitionError, for a broken one, whose
        mistake is in its `log_detail`.
        """
        if name in self.applications:
            return self.applications[name]
        if name in self.broken:
            raise BrokenApplicationError(
                f"The application {quoted(name)} cannot be used at the moment: its definition has a mistake.",
                log_detail=str(self.broken[name]),
            ) from self.broken[name]
        raise NotFoundError(f"There is no application called {quoted(name)}.")


def load_checked(directory: Path, site: Mapping[str, object]) -> tuple[Application, list[Finding]]:
    """The application in `directory` with the lint's warnings.

    Raises DefinitionError, one line, for the first mistake in its files and for an error that the lint finds.
    """
    application = load_application(directory)
    check_results_template(application)
    findings = lint_program(application, render_program(application, site))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise DefinitionError(f"{errors[0]}{more}")
    return application, findings


def _folders(templates_dir: Path) -> list[Path]:
    try:
        entries = sorted(templates_dir.iterdir())
    except OSError as error:
        raise SettingsError(
            f"portal.templates_dir: should be the folder of the applications; {templates_dir}: {error.strerror}"
        ) from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
