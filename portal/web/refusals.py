"""Requests that are refused before any service is asked."""

from portal.errors import PortalError


class NotUnderstoodError(PortalError):
    """The body of a request cannot be read."""

    http_status = 400
    title = "Not understood"


class WrongHostError(PortalError):
    """The request came under a name that is not the portal's: somebody else's page may have sent it."""

    http_status = 400
    title = "Not at this address"


class LengthRequiredError(PortalError):
    """The body of a request comes without its length: one that was cut off could not be told from a whole one."""

    http_status = 411
    title = "Not understood"


class UnsupportedMediaError(PortalError):
    """The body of a request is of a kind that is not taken."""

    http_status = 415
    title = "Not understood"
