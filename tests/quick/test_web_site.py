"""What holds for every page: headers, hosts, limits, errors, and what is left when storage fails."""

import io
import resource
import shutil
from email.message import EmailMessage
from pathlib import Path

import pytest
from flask import Flask
from structlog.testing import capture_logs

from portal.web.headers import CONTENT_SECURITY_POLICY
from tests.web_portal import EMAIL, WebPortal, make_everything, make_portal

MIB = 1024 * 1024


@pytest.fixture
def portal(tmp_path: Path) -> WebPortal:
    return make_portal(tmp_path, templates_dir=make_everything(tmp_path))


def addresses(app: Flask, job_id: str) -> list[tuple[str, str]]:
    """Every route of the URL map with something for each of its variables."""
    values = {"job_id": job_id, "name": "slow_div", "path": "output.txt", "filename": "theme.css"}
    adapter = app.url_map.bind("localhost")
    found = []
    for rule in app.url_map.iter_rules():
        arguments = {
            name: "css/bootstrap.min.css" if "bootstrap" in rule.endpoint else values[name] for name in rule.arguments
        }
        path = adapter.build(rule.endpoint, arguments)
        found += [(method, path) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]
    return found


def test_every_route_bears_the_security_headers(portal: WebPortal) -> None:
    job_id = portal.job()
    (portal.work(job_id) / "output.txt").write_text("x")
    routes = addresses(portal.app, job_id)
    assert len(routes) > 15
    for method, path in [*routes, ("GET", "/nothing"), ("PUT", "/"), ("GET", "/static/nothing.css")]:
        response = portal.browser.open(path, method=method)
        assert response.status_code < 500, (method, path)
        headers = response.headers
        policy = headers["Content-Security-Policy"]
        assert policy == CONTENT_SECURITY_POLICY or policy.startswith("sandbox; default-src 'none'"), path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Permissions-Policy" in headers
        assert "Strict-Transport-Security" not in headers
        response.close()


def test_hsts_under_https(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, portal={"base_url": "https://portal.example.org"})
    assert "Strict-Transport-Security" in portal.browser.get("/").headers


def test_the_templates_hold_to_the_content_security_policy() -> None:
    folder = Path(__file__).parents[2] / "portal" / "web" / "templates"
    for file in folder.iterdir():
        text = file.read_text()
        assert "style=" not in text, file
        assert "<style" not in text, file
        assert "|safe" not in text, file
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), file
        assert "https://" not in text, file


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.0.0.1:5000", "[::1]:8080", "LOCALHOST", "other.example"]
)
def test_our_own_hosts(tmp_path: Path, host: str) -> None:
    portal = make_portal(tmp_path, portal={"trusted_hosts": ["other.example"]})
    assert portal.browser.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "", "a b", "[", "10.0.0.1"]
)
def test_other_hosts_are_refused(portal: WebPortal, host: str) -> None:
    response = portal.browser.get("/", headers={"Host": host})
    assert response.status_code == 400
    page = response.get_data(as_text=True)
    assert "does not answer under that name" in page
    assert "evil.example" not in page


def test_not_bound_to_loopback_only_the_public_name_counts(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, portal={"base_url": "https://portal.example.org", "bind": "0.0.0.0:8080"})
    assert portal.browser.get("/", headers={"Host": "portal.example.org"}).status_code == 200
    assert portal.browser.get("/", headers={"Host": "localhost"}).status_code == 400


def test_links_never_come_from_the_host_header(portal: WebPortal) -> None:
    response = portal.send_division()
    assert (response.location or "").startswith("/jobs/")
    for path in ("//", "/jobs//", "//evil.example/jobs", "///jobs"):
        answer = portal.browser.get("/", environ_overrides={"PATH_INFO": path})
        assert answer.location is None


def test_beneath_a_path(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, portal={"base_url": "http://localhost/portal"})
    for address in ("/portal", "/portal/jobs", "/jobs"):  # a proxy may take the path away or leave it
        page = portal.browser.get(address)
        assert page.status_code == 200
        assert 'href="/portal/static/theme.css"' in page.get_data(as_text=True)
    assert portal.send_division().status_code == 303


def test_a_body_of_100_mb_is_413_and_leaves_nothing(portal: WebPortal) -> None:
    fields = portal.form_fields("everything")
    body = b"x" * (100 * 1000 * 1000)
    for content_type in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=abc"):
        response = portal.browser.post("/applications/everything/jobs", data=body, content_type=content_type)
        assert response.status_code == 413
        assert "at most 32 MiB" in response.get_data(as_text=True)
    long = portal.send({"sequence": "x" * (33 * MIB), **fields}, "everything")
    assert long.status_code == 413
    assert portal.job_folders() == []


def test_a_body_without_its_length_is_refused(portal: WebPortal) -> None:
    for address in ("/applications/slow_div/jobs", "/api/v1/jobs"):
        response = portal.browser.post(
            address,
            input_stream=io.BytesIO(b"x=8&y=2"),
            content_type="application/x-www-form-urlencoded",
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert response.status_code == 411
        assert "Content-Length" in response.get_data(as_text=True)


def test_too_many_fields(portal: WebPortal) -> None:
    response = portal.send({f"f{i}": "1" for i in range(400)} | {"sequence": ">a", "query": None}, "everything")
    assert response.status_code in (413, 422)
    assert portal.job_folders() == []


def test_guessing_is_limited(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, limits={"misses_per_minute_per_ip": 5})
    job_id = portal.job()
    guesses = ["/jobs/bcdfghjk", "/jobs/bcdfghjk/state", "/jobs/bcdfghjk/files/x", "/api/v1/jobs/bcdfghjk"]
    guesses.append(f"/jobs/{job_id}?key=wrong")
    assert [portal.browser.get(guess).status_code for guess in guesses] == [404] * 5
    stranger = portal.app.test_client()
    for path in (f"/jobs/{job_id}", "/jobs/bcdfghjk"):
        refused = stranger.get(path)
        assert refused.status_code == 429
        assert "try again in a minute" in refused.get_data(as_text=True)
    assert portal.browser.get("/api/v1/jobs/bcdfghjk").content_type == "application/problem+json"
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 200, "whose job it is, is not locked out"
    assert portal.browser.get("/jobs").status_code == 200


def test_a_missing_file_of_ones_own_job_is_no_guess(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, limits={"misses_per_minute_per_ip": 1})
    job_id = portal.job()
    for _ in range(3):
        assert portal.browser.get(f"/jobs/{job_id}/files/missing").status_code == 404
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 200


def test_the_log_has_no_keys(portal: WebPortal) -> None:
    with capture_logs() as entries:
        portal.browser.get("/jobs/bcdfghjk?key=geheim")
        portal.browser.get("/x\x1b[31m")
    assert "geheim" not in str(entries)
    requests = [entry for entry in entries if entry["event"] == "request"]
    assert requests[0]["path"] == "/jobs/bcdfghjk"
    assert requests[0]["status"] == 404
    assert requests[1]["path"] == "/x%1B%5B31m"
    assert requests[1]["milliseconds"] >= 0


def test_health_and_readiness(portal: WebPortal) -> None:
    assert portal.browser.get("/healthz").get_data() == b"ok\n"
    assert portal.browser.get("/readyz").get_json() == {"ready": True, "database": "ok", "jobs_folder": "ok"}
    portal.parts.folder.root.rename(portal.parts.folder.root.with_name("away"))
    response = portal.browser.get("/readyz")
    assert response.status_code == 503
    assert response.get_json()["jobs_folder"] != "ok"


def break_database(portal: WebPortal) -> None:
    portal.parts.database.close()
    file = portal.parts.database.sqlite_file
    assert file is not None
    for path in file.parent.glob(file.name + "*"):
        path.unlink()
    file.mkdir()


def test_a_dead_database(portal: WebPortal) -> None:
    fields = portal.form_fields()
    job_id = portal.job()
    break_database(portal)
    assert portal.browser.get("/readyz").status_code == 503
    assert portal.browser.get("/healthz").status_code == 200
    with capture_logs() as entries:
        response = portal.browser.get(f"/jobs/{job_id}")
    page = response.get_data(as_text=True)
    assert response.status_code == 503
    assert "database does not answer" in page
    reference = next(entry["reference"] for entry in entries if "reference" in entry)
    assert reference in page
    before = portal.job_folders()
    data = {"x": "8", "y": "2", "email": EMAIL, **fields}
    assert portal.browser.post("/applications/slow_div/jobs", data=data).status_code == 503
    assert portal.job_folders() == before


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_jobs_folder_that_cannot_be_used(portal: WebPortal, kind: str) -> None:
    fields = portal.form_fields()
    root = portal.parts.folder.root
    away = root.rename(root.with_name("away"))
    if kind == "a file":
        root.touch()
    response = portal.send_division(**fields)
    assert response.status_code == 503
    page = response.get_data(as_text=True)
    assert "cannot write to its disk" in page
    assert str(root) not in page
    root.unlink(missing_ok=True)
    away.rename(root)
    assert portal.job_folders() == []
    assert portal.send_division(**fields).status_code == 303


def test_a_full_disk_leaves_nothing(portal: WebPortal) -> None:
    fields = portal.form_fields("everything") | {"sequence": "A" * 990_000}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this: the input of the job fails in the middle, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, limits[1]))
    try:
        response = portal.send(fields, "everything")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert response.status_code == 503
    assert portal.job_folders() == []
    assert portal.send(fields, "everything").status_code == 303


def test_a_mistake_of_the_portals_own(portal: WebPortal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("portal.web.applications.render_page", fail)
    break_database(portal)  # the page needs none
    with capture_logs() as entries:
        response = portal.browser.get("/")
    page = response.get_data(as_text=True)
    assert response.status_code == 500
    assert "secret detail" not in page
    assert next(entry["reference"] for entry in entries if "reference" in entry) in page


def test_a_broken_application_is_out_of_order(tmp_path: Path) -> None:
    templates = make_everything(tmp_path)
    shutil.copytree(templates / "everything", templates / "broken")
    (templates / "broken" / "application.toml").write_text("title = 5")
    portal = make_portal(tmp_path, templates_dir=templates)
    response = portal.browser.get("/applications/broken")
    assert response.status_code == 503
    assert "application.toml" not in response.get_data(as_text=True)


def test_the_mail_page_is_off_unless_it_is_asked_for(portal: WebPortal) -> None:
    for path in ("/mail", "/mail/1.eml"):
        assert portal.browser.get(path).status_code == 404
    assert 'href="/mail"' not in portal.browser.get("/").get_data(as_text=True)


def test_the_mail_page(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, mail={"show_page": True})
    assert "No mail yet" in portal.browser.get("/mail").get_data(as_text=True)
    message = EmailMessage()
    message["Subject"] = "Done: <b>8 / 2</b>"
    message["To"] = EMAIL
    message.set_content("See http://127.0.0.1:8080/jobs/bcdfghjk?key=abc\n<script>alert(1)</script>")
    (tmp_path / "mail").mkdir(exist_ok=True)
    (tmp_path / "mail" / "1.eml").write_bytes(message.as_bytes())
    listed = portal.browser.get("/mail").get_data(as_text=True)
    assert "Done: &lt;b&gt;8 / 2&lt;/b&gt;" in listed
    assert 'href="/mail/1.eml"' in listed
    page = portal.browser.get("/mail/1.eml").get_data(as_text=True)
    assert 'href="http://127.0.0.1:8080/jobs/bcdfghjk?key=abc"' in page
    assert "<script>alert" not in page
    for name in ("nothing.eml", "..%2Fportal.db", "secret_key"):
        assert portal.browser.get(f"/mail/{name}").status_code == 404


def test_where_results_are_brought_from_a_cluster_apart_the_pages_say_how_much(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    ssh = {"host": "login", "user": "jobs", "key_file": file, "known_hosts_file": file, "remote_jobs_dir": "/lab/jobs"}
    portal = make_portal(tmp_path, scheduler={"kind": "slurm-ssh", "ssh": ssh}, limits={"results_mib": 2048})
    assert "Up to 2 GiB of its results are brought here" in portal.browser.open("/applications/slow_div").text
    assert "up to 2 GiB" in portal.browser.open("/help").text
    job_id = portal.job()
    assert "is brought here from the cluster once it has ended" in portal.browser.open(f"/jobs/{job_id}").text


def test_where_files_are_shared_nothing_is_said_of_bringing_them(portal: WebPortal) -> None:
    for path in ("/applications/slow_div", "/help"):
        assert "brought here" not in portal.browser.open(path).text
