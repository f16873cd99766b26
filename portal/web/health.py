"""Whether the web process lives, and whether it can take jobs."""

import os

from flask import Blueprint, Response, jsonify

from portal.errors import StorageError
from portal.web.context import web
from portal.web.scheduler_status import scheduler_status

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """`ok` while this process answers; nothing else is asked."""
    return Response("ok\n", mimetype="text/plain")


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Whether database and jobs folder can be used; 503 where one cannot."""
    checks = {"database": _database_problem(), "jobs_folder": _jobs_folder_problem()}
    is_ready = not any(checks.values())
    body = {"ready": is_ready, **{name: problem or "ok" for name, problem in checks.items()}}
    return jsonify(body), 200 if is_ready else 503


def _database_problem() -> str:
    try:
        scheduler_status()
    except StorageError:
        return "does not answer"
    return ""


def _jobs_folder_problem() -> str:
    folder = web().jobs.folder
    try:
        folder.instance()
        free_bytes = os.statvfs(folder.root).f_bavail
    except (StorageError, OSError):
        return "cannot be read"
    if not os.access(folder.root, os.W_OK | os.X_OK):
        return "cannot be written"
    return "" if free_bytes else "is full"
