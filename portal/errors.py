"""One tree of errors: what the visitor reads, what the log says, and the HTTP status.

Every error that the portal raises on purpose is a `PortalError`. `visitor_message` is one plain sentence or two
that may be shown to anybody; `log_detail` is for the administrator and is never shown on a page. A module raises
the class that names what went wrong and chains the cause with `raise … from`.
"""

from collections.abc import Mapping


class PortalError(Exception):
    """Something the portal can explain.

    `visitor_message` is shown on pages, in the API and by the command; `log_detail` goes to the log only.
    """

    http_status = 500
    title = "Something went wrong"

    def __init__(self, visitor_message: str, *, log_detail: str = "") -> None:
        super().__init__(visitor_message)
        self.visitor_message = visitor_message
        self.log_detail = log_detail

    def __str__(self) -> str:
        return f"{self.visitor_message} ({self.log_detail})" if self.log_detail else self.visitor_message


class SettingsError(PortalError):
    """A setting is unknown, bad or missing: one line that names the key and what would be right."""

    title = "The settings are wrong"


class DefinitionError(PortalError):
    """An application's folder is wrong: one line that names the file, the key and the mistake."""

    title = "The application is broken"


class SiteError(PortalError):
    """The site is set up so that its scheduler cannot be handed jobs: they wait until an administrator changes it."""

    title = "The portal has to be set up in another way"


class InvalidInputError(PortalError):
    """What was typed into a form cannot be accepted.

    `field_errors` maps a field's name to one sentence that names the field and says what would be right.
    """

    http_status = 422
    title = "Please check the form"

    def __init__(self, field_errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(field_errors.values()))
        self.field_errors = dict(field_errors)


class NotFoundError(PortalError):
    """There is no such thing, or it is not yours to see: the two look the same."""

    http_status = 404
    title = "Not found"


class ForbiddenError(PortalError):
    """You may see this, and may not do that with it."""

    http_status = 403
    title = "Not allowed"


class ConflictError(PortalError):
    """The job is not in a state in which this can be done, or the key was used for something else."""

    http_status = 409
    title = "Not possible now"


class TooManyRequestsError(PortalError):
    """A limit was reached; the message says which one and when it ends."""

    http_status = 429
    title = "Please wait a little"


class StorageError(PortalError):
    """The jobs folder or the database cannot be written or read: nothing was accepted and nothing is lost."""

    http_status = 503
    title = "The portal cannot take jobs at the moment"


class StaleEpochError(PortalError):
    """A newer dispatcher has taken over; this one must stop and change nothing more."""


class SchedulerError(PortalError):
    """The scheduler did not answer, or said something that is not an answer. Never means that a job ended."""

    http_status = 503
    title = "The scheduler does not answer"


class MailError(PortalError):
    """A message could not be handed over.

    `permanent`: the server said that it will never take it (5xx), so that it is not tried again. `server_is_away`: no
    server could be talked to, so that no other message would fare better. `was_not_taken`: it has certainly not gone
    out; without it the answer may have been lost, so that a repeat has to be the very same message.
    """

    def __init__(
        self,
        visitor_message: str,
        *,
        log_detail: str = "",
        permanent: bool = False,
        server_is_away: bool = False,
        was_not_taken: bool = False,
    ) -> None:
        super().__init__(visitor_message, log_detail=log_detail)
        self.permanent = permanent
        self.server_is_away = server_is_away
        self.was_not_taken = was_not_taken
