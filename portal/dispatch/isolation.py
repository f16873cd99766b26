"""One job's trouble is its own: the others of the same round get their turn all the same."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from portal.errors import PortalError, StaleEpochError
from portal.transfer.folders import NodesUnreachableError

log = structlog.get_logger()


@contextmanager
def kept_apart(name: str) -> Iterator[None]:
    """Log what goes wrong inside, to be tried again in a later round.

    Only StaleEpochError ends the round, and NodesUnreachableError, with which nobody else would fare better.
    """
    try:
        yield
    except (StaleEpochError, NodesUnreachableError):
        raise
    except (PortalError, OSError) as error:
        log.warning("cannot be settled yet", name=name, error=str(error))
    except Exception:
        log.exception("cannot be settled", name=name)
