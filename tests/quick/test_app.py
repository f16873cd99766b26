"""What a start refuses before anything is written."""

from pathlib import Path

import pytest

from portal.app import build_parts
from portal.errors import SettingsError
from portal.jobs.acceptance import Submission
from portal.settings import load_settings


def test_a_jobs_folder_that_is_not_mounted_is_not_replaced_by_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = build_parts(load_settings())
    parts.jobs.submit(Submission("slow_div", {"x": "8", "y": "2"}, "ann@example.org"))
    parts.database.close()
    (tmp_path / "jobs").rename(tmp_path / "away")
    (tmp_path / "jobs").mkdir()
    with pytest.raises(SettingsError, match=r"portal\.jobs_dir: .* is it mounted\?"):
        build_parts(load_settings())
    assert list((tmp_path / "jobs").iterdir()) == []
