"""What each watched process is: the portal's own commands, with waits that are cut short, under the eyes of `hooks`."""

import logging
import os
import sys
import tempfile
import threading
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy.engine.default import DefaultDialect
from werkzeug.serving import WSGIRequestHandler, make_server

from portal import app
from portal.applications.catalog import Catalog
from portal.cli import main
from portal.dispatch import adoption, answers, dispatcher
from portal.jobs.acceptance import Submission
from portal.logging_setup import configure_logging
from portal.mail.transport import Transport, transport_from_settings
from portal.schedulers import client, helper, local, slurm_scheduler
from portal.schedulers.base import Scheduler
from portal.settings import Settings, load_settings
from tests.crash import mutants
from tests.crash.hooks import Watch

PORT = "port"
MAILS = "handed_over"
"""One line for each message that the transport took: its Message-ID."""

_VERBS = ("submit", "observe", "cancel", "find", "health")
_TIMES: tuple[tuple[Any, str, float], ...] = (
    (dispatcher, "LOOK_SECONDS", 0.1),
    (dispatcher, "ADOPT_EVERY_SECONDS", 0.5),
    (adoption, "ADOPTION_SECONDS", 1.0),
    (dispatcher, "ADOPTION_SECONDS", 1.0),
    (answers, "RETRY_SECONDS", 1.0),
    (answers, "LOOK_AGAIN_SECONDS", 0.3),
    (client, "LOOK_SECONDS", 0.05),
    (client, "BEAT_SECONDS", 0.3),
    (client, "FENCE_SECONDS", 2.0),
    (local, "LEASE_SECONDS", 3.0),
    (slurm_scheduler, "CONTROLLER_SECONDS", 5.0),
    (app, "LOCAL_CALL_SECONDS", 2.0),
    (helper, "_MARGIN_SECONDS", 1.0),
)
"""Times only, each of which no test could sit out: nothing is decided in another way."""


def run(role: str, folder: Path) -> None:
    """Be this process until it ends."""
    for where, name, seconds in _TIMES:
        mock.patch.object(where, name, seconds).start()
    mock.patch.object(app, "LocalScheduler", _short_leases).start()
    mutants.break_portal()
    watch = Watch(role, str(folder))
    watch.install()
    watch.wrap_commits(DefaultDialect)
    if role == "web":
        _serve(folder, watch)
        return
    _watch_parts(watch, folder)
    slots = ["--slots=4"] if role == "client" else []
    sys.argv = ["portal", "--config", str(folder / "portal.toml"), role, *slots]
    main()


def warm_up(shared: Path) -> None:
    """Load the applications, and do once what is slow the first time that a process does it."""
    configure_logging(logging.ERROR)
    catalog = Catalog.load(shared / "templates", app.site_facts(Settings()))
    if not catalog.applications:
        return  # each run has its own
    mock.patch.object(Catalog, "load", return_value=catalog).start()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PORTAL_PORTAL__JOBS_DIR"] = f"{folder}/jobs"
        os.environ["PORTAL_PORTAL__DATABASE_URL"] = f"sqlite:///{folder}/portal.db"
        settings = load_settings(None)
        for name in ("JOBS_DIR", "DATABASE_URL"):
            del os.environ[f"PORTAL_PORTAL__{name}"]
        parts = app.build_parts(settings)
        application = next(iter(catalog.applications))
        app.create_app(settings, parts).test_client().get(f"/applications/{application}")
        parts.jobs.submit(Submission(application, {"x": "1", "sequence": "A"}, "ann@example.org"))
        one = app.build_dispatcher(parts)
        one._dispatch.leadership.take(threading.Event())
        one.turn()
        one._dispatch.leadership.release()
        parts.database.close()


def _short_leases(database: Any, clock: Any) -> local.LocalScheduler:
    return local.LocalScheduler(database, clock, local.LEASE_SECONDS)


def _watch_parts(watch: Watch, folder: Path) -> None:
    """Wrap the scheduler and the mail transport as the process builds them."""
    build_scheduler, make_transport = app.build_scheduler, transport_from_settings

    def watched_scheduler(parts: app.Parts) -> Scheduler:
        scheduler = build_scheduler(parts)
        for verb in _VERBS:
            watch.wrap(scheduler, verb, "scheduler")
        return scheduler

    def watched_transport(settings: Settings) -> Transport:
        transport = make_transport(settings)
        send = transport.send

        def send_and_count(message: EmailMessage) -> None:
            send(message)
            watch.unseen(partial(_append, folder / MAILS, str(message["Message-ID"])))

        transport.send = send_and_count  # type: ignore[method-assign]
        watch.wrap(transport, "send", "mail")
        return transport

    mock.patch.object(app, "build_scheduler", watched_scheduler).start()
    mock.patch.object(app, "transport_from_settings", watched_transport).start()


def _serve(folder: Path, watch: Watch) -> None:
    """The web application behind a server of one thread; its port is in a file."""
    application = app.create_app(load_settings(folder / "portal.toml"))
    server = make_server("127.0.0.1", 0, application, request_handler=_Quiet)
    watch.unseen(partial(_put, folder / PORT, str(server.port)))
    server.serve_forever()


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


def _append(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(line + "\n")


def _put(file: Path, text: str) -> None:
    beside = file.with_name(file.name + ".new")
    beside.write_text(text)
    beside.replace(file)
