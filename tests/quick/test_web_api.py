"""The REST interface."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from portal.jobs.states import JobState
from tests.quick.test_web_form import BAD_INTEGERS
from tests.web_portal import EMAIL, WebPortal, make_everything, make_portal

KEY = "0123456789abcdef"


@pytest.fixture
def portal(tmp_path: Path) -> WebPortal:
    return make_portal(tmp_path, templates_dir=make_everything(tmp_path))


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory: pytest.TempPathFactory) -> WebPortal:
    """One portal for all the cases after which nothing may have been made."""
    folder = tmp_path_factory.mktemp("unspoilt")
    return make_portal(folder, templates_dir=make_everything(folder))


def post(portal: WebPortal, body: Any = None, key: str | None = None, **changes: Any) -> TestResponse:
    if body is None:
        body = {"application": "slow_div", "inputs": {"x": 8, "y": 2}, "email": EMAIL} | changes
        body = {name: value for name, value in body.items() if value is not ...}
    headers = {} if key is None else {"Idempotency-Key": key}
    return portal.app.test_client().post("/api/v1/jobs", json=body, headers=headers)


def assert_problem(response: TestResponse, status: int, *fields: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = response.get_json(force=True)
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    assert [error["field"] for error in body.get("errors", [])] == list(fields)
    return body


def test_a_job_is_sent_in_and_followed(portal: WebPortal) -> None:
    response = post(portal)
    assert response.status_code == 201
    job = response.get_json()
    assert response.headers["Location"] == f"/api/v1/jobs/{job['job_id']}"
    assert job["state"] == "accepted"
    assert job["inputs"] == {"x": 8, "y": 2}
    assert job["results_url"] == f"http://127.0.0.1:8080/jobs/{job['job_id']}"
    assert "Set-Cookie" not in response.headers
    headers = {"X-Job-Key": job["access_key"]}
    shown = portal.browser.get(f"/api/v1/jobs/{job['job_id']}", headers=headers)
    assert shown.status_code == 200
    assert "access_key" not in shown.get_json()
    portal.move(job["job_id"], JobState.SUBMITTING)
    cancelled = portal.browser.post(f"/api/v1/jobs/{job['job_id']}/cancel", headers=headers)
    assert cancelled.status_code == 200
    assert portal.parts.jobs.record(job["job_id"]).job.cancel_asked_at is not None
    portal.move(job["job_id"], JobState.CANCELLED)
    assert_problem(portal.browser.post(f"/api/v1/jobs/{job['job_id']}/cancel", headers=headers), 409)


def test_the_key_opens_the_files_as_well(portal: WebPortal) -> None:
    job = post(portal).get_json()
    (portal.work(job["job_id"]) / "output.txt").write_text("The answer is: 4\n")
    headers = {"X-Job-Key": job["access_key"]}
    program = portal.app.test_client()
    (output,) = program.get(f"/api/v1/jobs/{job['job_id']}", headers=headers).get_json()["outputs"]
    path = output["url"].removeprefix("http://127.0.0.1:8080")
    assert program.get(path, headers=headers).text == "The answer is: 4\n"
    assert program.get(path).status_code == 404


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_page_of_another_site_may_not_send_jobs_in(unspoilt: WebPortal, header: dict[str, str]) -> None:
    fields = {"application": "slow_div", "x": "8", "y": "2", "email": EMAIL}
    response = unspoilt.app.test_client().post(
        "/api/v1/jobs", data=fields, content_type="multipart/form-data", headers=header
    )
    assert_problem(response, 403)
    assert unspoilt.job_folders() == []


def test_cookies_count_for_nothing(portal: WebPortal) -> None:
    job_id = portal.job()
    assert_problem(portal.browser.get(f"/api/v1/jobs/{job_id}"), 404)
    assert_problem(portal.browser.post(f"/api/v1/jobs/{job_id}/cancel"), 404)


@pytest.mark.parametrize("key", ["", "wrong", "é"])
def test_a_wrong_key_looks_like_an_unknown_job(portal: WebPortal, key: str) -> None:
    job_id = post(portal).get_json()["job_id"]
    wrong = portal.browser.get(f"/api/v1/jobs/{job_id}", headers={"X-Job-Key": key})
    unknown = portal.browser.get("/api/v1/jobs/bcdfghjk", headers={"X-Job-Key": key})
    assert assert_problem(wrong, 404) == assert_problem(unknown, 404)


@pytest.mark.parametrize("field", ["x", "y"])
@pytest.mark.parametrize("value", [*BAD_INTEGERS, 1.5, True, None, [], [8], {}, {"a": 1}, "\ud800"])
def test_a_bad_value_names_its_field(unspoilt: WebPortal, field: str, value: Any) -> None:
    inputs = {"x": 8, "y": 2} | {field: value}
    assert_problem(post(unspoilt, inputs=inputs), 422, field)
    assert unspoilt.job_folders() == []


def test_numbers_of_any_size(portal: WebPortal) -> None:
    number = "9" * 1000
    body = '{"application":"slow_div","inputs":{"x":%s,"y":2},"email":"ann@example.org"}'
    response = portal.browser.post("/api/v1/jobs", data=body % number, content_type="application/json")
    assert response.status_code == 201
    assert response.get_json()["inputs"]["x"] == int(number)
    too_long = portal.browser.post("/api/v1/jobs", data=body % ("9" * 5000), content_type="application/json")
    assert_problem(too_long, 422, "x")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"email": "ann"}, ["email"]),
        ({"email": "a@example.org\nBcc: b@example.org"}, ["email"]),
        ({"email": "a@example.org,b@example.org"}, ["email"]),
        ({"email": "Ann <a@example.org>"}, ["email"]),
        ({"email": "\ud800@example.org"}, ["email"]),
        ({"email": ...}, ["email"]),
        ({"email": 5}, ["email"]),
        ({"application": "nothing"}, ["application"]),
        ({"application": ...}, ["application"]),
        ({"application": []}, ["application"]),
        ({"inputs": ...}, ["inputs"]),
        ({"inputs": [1]}, ["inputs"]),
        ({"inputs": {"x": 8}}, ["y"]),
        ({"inputs": {"x": 8, "y": 2, "z": 1}}, ["z"]),
        ({"inputs": {}}, ["x", "y"]),
        ({"token": "a" * 32}, ["token"]),
    ],
)
def test_what_is_wrong_is_named(unspoilt: WebPortal, changes: dict[str, Any], fields: list[str]) -> None:
    assert_problem(post(unspoilt, **changes), 422, *fields)
    assert unspoilt.job_folders() == []


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN", '{"a": Infinity}', "[]", "5", '"x"', "\xff"])
def test_what_is_not_json(unspoilt: WebPortal, text: str) -> None:
    response = unspoilt.browser.post("/api/v1/jobs", data=text.encode("latin-1"), content_type="application/json")
    assert_problem(response, 400)


def test_other_kinds_addresses_and_methods(portal: WebPortal) -> None:
    assert_problem(portal.browser.post("/api/v1/jobs", data="x=8", content_type="text/plain"), 415)
    assert_problem(portal.browser.post("/api/v1/jobs", data={"x": "8"}), 415)
    assert_problem(portal.browser.get("/api/v1/nothing"), 404)
    refused = portal.browser.delete("/api/v1/jobs/bcdfghjk/cancel")
    assert_problem(refused, 405)
    assert "POST" in refused.headers["Allow"]
    assert_problem(portal.browser.get("/api/v1/jobs", headers={"Host": "evil.example"}), 400)


def test_the_same_idempotency_key_is_the_same_job(portal: WebPortal) -> None:
    first, second = post(portal, key=KEY), post(portal, key=KEY)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.get_json() == second.get_json()
    assert second.get_json()["access_key"]
    same_person = post(portal, key=KEY, email="Ann@Example.org")
    assert same_person.get_json()["job_id"] == first.get_json()["job_id"]
    other_person = post(portal, key=KEY, email="bob@example.org")
    assert other_person.status_code == 201
    assert other_person.get_json()["job_id"] != first.get_json()["job_id"]


def test_an_idempotency_key_for_something_else_is_a_conflict(portal: WebPortal) -> None:
    post(portal, key=KEY)
    body = assert_problem(post(portal, key=KEY, inputs={"x": 9, "y": 2}), 409)
    assert "access_key" not in body
    assert len([name for name in portal.job_folders() if name.startswith("job-")]) == 1


@pytest.mark.parametrize("key", ["", "short", "a" * 15])
def test_a_short_idempotency_key_is_refused(unspoilt: WebPortal, key: str) -> None:
    assert_problem(post(unspoilt, key=key), 422, "Idempotency-Key")


def test_without_a_key_each_call_is_a_job(portal: WebPortal) -> None:
    assert post(portal).get_json()["job_id"] != post(portal).get_json()["job_id"]


def file_of(content: bytes, name: str = "q.fasta") -> dict[str, str]:
    return {"filename": name, "content_base64": base64.b64encode(content).decode()}


def test_a_file_in_json_and_in_a_multipart_body(portal: WebPortal) -> None:
    inputs = {"sequence": ">a\nMKV", "query": file_of(b"ACGT")}
    first = post(portal, application="everything", inputs=inputs)
    assert first.status_code == 201
    assert first.get_json()["inputs"]["query"] == "q.fasta"
    data = {"application": "everything", "email": EMAIL, "sequence": ">a", "query": (io.BytesIO(b"ACGT"), "q.fasta")}
    second = portal.browser.post("/api/v1/jobs", data=data)
    assert second.status_code == 201
    for job in (first.get_json(), second.get_json()):
        assert (portal.parts.folder.job(job["job_id"]).inputs / "query").read_bytes() == b"ACGT"


@pytest.mark.parametrize(
    "value",
    [
        {"filename": "x"},
        {"filename": "x", "content_base64": "not base64!"},
        {"filename": "x", "content_base64": "QQ=="} | {"more": 1},
        {"filename": 5, "content_base64": "QQ=="},
        "text",
        file_of(b"x" * (1024 * 1024 + 1)),
    ],
)
def test_a_bad_file_names_its_field(unspoilt: WebPortal, value: Any) -> None:
    response = post(unspoilt, application="everything", inputs={"sequence": ">a", "query": value})
    assert_problem(response, 422, "query")
    assert unspoilt.job_folders() == []


def test_too_much_is_413(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, templates_dir=make_everything(tmp_path), limits={"upload_mib": 1})
    body = post(portal, application="everything", inputs={"sequence": ">a", "query": file_of(b"x" * 1_100_000)})
    assert "1 MiB" in assert_problem(body, 413)["detail"]
    huge = portal.browser.post("/api/v1/jobs", data=b" " * 10_000_000, content_type="application/json")
    assert_problem(huge, 413)
    assert portal.job_folders() == []


def test_storage_that_fails_is_503(portal: WebPortal) -> None:
    portal.parts.folder.root.rename(portal.parts.folder.root.with_name("away"))
    body = assert_problem(post(portal), 503)
    assert "reference" in body
    assert str(portal.parts.folder.root) not in str(body)
