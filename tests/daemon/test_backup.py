"""Backup and restore while jobs come in: database first, then files; elsewhere, reindexed, all of it goes on."""

import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from portal.app import build_parts
from portal.errors import StorageError
from portal.jobs.acceptance import Submission
from portal.settings import load_settings
from tests.serving import Serving
from tests.waiting import wait_until

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(500)]

SECONDS = 120
OWNER = "ann@example.org"
SETTINGS = {"PORTAL_LIMITS__MAILS_PER_HOUR_PER_PERSON": "1000"}


class Stream:
    """Somebody who sends jobs in all the time."""

    def __init__(self, folder: Path) -> None:
        settings = load_settings(folder / "portal.toml")
        self._parts = build_parts(settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.accepted: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._parts.database.close()

    def _send(self) -> None:
        while not self._stop.wait(0.5):
            try:
                submission = Submission("slow_div", {"x": "8", "y": "2"}, OWNER)
                self.accepted.append(self._parts.jobs.submit(submission).job_id)
            except StorageError:
                continue  # a busy machine


def mail_ids(folder: Path) -> dict[str, list[str]]:
    """The Message-IDs of each job's mail in a mail folder."""
    found: dict[str, list[str]] = {}
    for file in folder.glob("mail/*.eml"):
        [mail_id] = re.findall(r"^Message-ID:\s*(<\S+>)", file.read_text(), re.MULTILINE)
        found.setdefault(mail_id[1:9], []).append(mail_id)
    return found


def attempts_that_wrote(folder: Path, job_id: str) -> list[str]:
    """The starts of the program that the job's directory tells of, one claim a start."""
    return sorted(path.parts[-3] for path in (folder / "jobs" / f"job-{job_id}").glob("attempts/*/work/claim"))


def copy_files(source: Path, target: Path) -> None:
    """As an administrator does it; a file that goes while it is copied (exit code 1) is no matter."""
    done = subprocess.run(["cp", "-a", source, target], capture_output=True, text=True, check=False)
    assert all("No such file" in line for line in done.stderr.splitlines()), done.stderr


def test_a_portal_restored_elsewhere_loses_nothing_and_runs_and_mails_nothing_twice(tmp_path: Path) -> None:
    here, copy, there = tmp_path / "here", tmp_path / "copy", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "portal.toml").write_text("")
    serving = Serving(here, slow_div_seconds=0.3, settings=SETTINGS)
    try:
        serving.wait_until_ready()
        stream = Stream(here)
        stream.start()
        try:
            wait_until(lambda: len(mail_ids(here)) >= 3, SECONDS, "jobs that are through")
            before, told_before = list(stream.accepted), mail_ids(here)
            made = serving.portal("backup", str(copy), seconds=SECONDS)
            assert made.returncode == 0, made.stderr
            copy_files(here / "jobs", copy / "jobs")
        finally:
            stream.stop()
    finally:
        serving.kill_everything()
    shutil.copyfile(copy / "portal.db", there / "portal.db")
    shutil.copyfile(copy / "secret_key", there / "secret_key")
    shutil.copytree(copy / "jobs", there / "jobs", symlinks=True)
    restored = _reindexed(there)
    try:
        restored.wait_until_ready()
        for job_id in before:
            wait_until(partial(_has_succeeded, restored, job_id), SECONDS, f"the end of {job_id}")
        wait_until(lambda: set(before) <= set(mail_ids(there)) | set(mail_ids(here)), SECONDS, "all mail")
        told_again = mail_ids(there)
    finally:
        restored.kill_everything()
    assert not set(told_before) & set(told_again), "what was told before is not told again"
    assert all(count == 1 for count in Counter(i for ids in told_again.values() for i in ids).values())
    assert all(len(ids) == 1 for ids in told_again.values())
    for job_id in told_before:
        assert attempts_that_wrote(there, job_id) == ["1"], "what had ended does not run again"


def _has_succeeded(serving: Serving, job_id: str) -> bool:
    return serving.state(job_id) == "succeeded"


def _reindexed(folder: Path) -> Serving:
    """The restored portal, after `portal reindex`, at work."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "portal", "reindex"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "A dispatcher is at work" not in done.stdout
    return Serving(folder, slow_div_seconds=0.3, settings=SETTINGS)
