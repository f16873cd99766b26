"""From the form to the job: what is accepted, what comes back, and what never becomes a job."""

import io
import re
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest

from portal.web.form import default_texts, example_texts
from tests.web_portal import EMAIL, WebPortal, make_everything, make_portal

BAD_INTEGERS = [
    "1.5",
    "abc",
    "",
    "   ",
    "1_000",
    "١٢",
    "１２",
    "8" * 5000,
    "--help",
    "-x",
    "'8'",
    '"8"',
    "`8`",
    "$(reboot)",
    "8; reboot",
    "8\n9",
    "8\r\nX: y",
    "8\x00",
    "{{ 7*7 }}",
    "{% raw %}",
    "%(x)s",
    "[settings]",
    "0x10",
    "1e3",
    "NaN",
    "½",
    "../../etc/passwd",
]


@pytest.fixture
def portal(tmp_path: Path) -> WebPortal:
    return make_portal(tmp_path, templates_dir=make_everything(tmp_path))


def test_the_way_from_form_to_page(portal: WebPortal) -> None:
    response = portal.send_division()
    assert response.status_code == 303
    assert re.fullmatch("/jobs/[a-z]{8}", response.location or "")
    page = portal.browser.get(response.location or "").get_data(as_text=True)
    assert "Accepted" in page
    assert "Slow division" in page
    assert EMAIL in page


def test_a_single_application_is_the_start_page(tmp_path: Path) -> None:
    portal = make_portal(tmp_path)
    page = portal.browser.get("/").get_data(as_text=True)
    assert 'name="x"' in page
    assert 'action="/applications/slow_div/jobs"' in page


def test_several_applications_are_cards(portal: WebPortal) -> None:
    page = portal.browser.get("/").get_data(as_text=True)
    assert 'href="/applications/slow_div"' in page
    assert 'href="/applications/everything"' in page
    assert "Everything &lt;b&gt;at once&lt;/b&gt;" in page


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory: pytest.TempPathFactory) -> WebPortal:
    """One portal for all the cases after which nothing may have been made."""
    return make_portal(tmp_path_factory.mktemp("unspoilt"))


@pytest.mark.parametrize("field", ["x", "y"])
@pytest.mark.parametrize("typed", BAD_INTEGERS)
def test_a_bad_number_comes_back_beside_its_field(unspoilt: WebPortal, field: str, typed: str) -> None:
    response = unspoilt.send_division(**{field: typed})
    page = response.get_data(as_text=True)
    assert response.status_code == 422
    assert unspoilt.job_folders() == []
    tag = re.search(rf'<input[^>]* name="{field}"[^>]*>', page)
    assert tag is not None
    assert "is-invalid" in tag[0]
    assert 'aria-invalid="true"' in tag[0]
    assert "autofocus" in tag[0]
    assert f'aria-describedby="{field}-error {field}-help"' in tag[0]
    assert f'id="{field}-error"' in page


def test_what_was_typed_stays(portal: WebPortal) -> None:
    response = portal.send_division('<i>"8"</i>', "7", email="ann@", token="a" * 32)
    page = response.get_data(as_text=True)
    assert 'value="&lt;i&gt;&#34;8&#34;&lt;/i&gt;"' in page
    assert 'value="7"' in page
    assert 'value="ann@"' in page
    assert 'name="token" value="' + "a" * 32 in page
    assert page.count("autofocus") == 1


@pytest.mark.parametrize("number", ["-8", "0", "+8", " 8 ", "9" * 1000])
def test_whole_numbers_of_any_size_are_taken(portal: WebPortal, number: str) -> None:
    assert portal.send_division(number).status_code == 303


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ann",
        "ann@example.org\nBcc: all@example.org",
        "ann@example.org\r\n",
        "ann@example.org, bob@example.org",
        "ann@example.org bob@example.org",
        "Ann <ann@example.org>",
        "<ann@example.org>",
        "ann@example.org\x00",
        "a" * 300 + "@example.org",
    ],
)
def test_email_is_one_bare_address(portal: WebPortal, email: str) -> None:
    response = portal.send_division(email=email)
    if email.strip() == EMAIL:
        assert response.status_code == 303  # a line end behind it is white space
        return
    assert response.status_code == 422
    assert 'id="email-error"' in response.get_data(as_text=True)
    assert portal.job_folders() == []


def test_missing_and_unknown_fields(portal: WebPortal) -> None:
    missing = portal.send({"x": "8", "y": None, "email": None})
    assert missing.status_code == 422
    assert "Denominator: please fill this in" in missing.get_data(as_text=True)
    unknown = portal.send_division(z="<b>")
    assert unknown.status_code == 422
    assert "this application has no such field" in unknown.get_data(as_text=True)
    assert portal.job_folders() == []


def test_unknown_application(portal: WebPortal) -> None:
    for response in (portal.browser.get("/applications/nothing"), portal.send({}, application="nothing")):
        assert response.status_code in (400, 404)
    fields = portal.form_fields()
    assert portal.browser.post("/applications/nothing/jobs", data=fields).status_code == 404


def test_the_same_form_twice_is_one_job(portal: WebPortal) -> None:
    fields = portal.form_fields()
    first, second = portal.send_division(**fields), portal.send_division(**fields)
    assert first.location == second.location
    assert second.status_code == 303
    changed = portal.send_division("9", **fields)
    assert changed.location != first.location
    assert len([name for name in portal.job_folders() if name.startswith("job-")]) == 2


def test_a_double_click_is_one_job_that_the_browser_sees(portal: WebPortal) -> None:
    data = {"x": "8", "y": "2", "email": EMAIL, **portal.form_fields()}
    cookie = portal.browser.get_cookie("session")
    assert cookie is not None
    places: list[str | None] = []

    def click() -> None:
        browser = portal.app.test_client()
        browser.set_cookie("session", cookie.value)
        places.append(browser.post("/applications/slow_div/jobs", data=data).location)

    clicks = [threading.Thread(target=click) for _ in range(2)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    assert len(set(places)) == 1
    assert portal.browser.get(places[0] or "").status_code == 200


def test_every_type_of_parameter(portal: WebPortal) -> None:
    response = portal.send(
        {
            "count": "3",
            "ratio": "1e-5",
            "title": "Mice; 'rats'",
            "sequence": ">a\r\nMKV\r\n",
            "database": "large",
            "query": (io.BytesIO(b">q\nACGT\n"), "../../q.fasta"),
        },
        "everything",
    )
    assert response.status_code == 303
    job_id = (response.location or "").rpartition("/")[2]
    record = portal.parts.jobs.record(job_id)
    texts = {row.name: row.text for row in record.inputs}
    assert texts["strict"] == "false"  # the box was not ticked, whatever its default
    assert (portal.parts.folder.job(job_id).inputs / "sequence").read_text() == ">a\nMKV\n"
    page = portal.browser.get(response.location or "").get_data(as_text=True)
    assert "q.fasta, 8 bytes" in page
    assert "../" not in page.replace("&#39;", "'")
    assert "The &lt;large&gt; one" in page
    assert "1e-05 mm" in page


def test_a_file_must_be_chosen_again_and_the_page_says_so(portal: WebPortal) -> None:
    response = portal.send({"count": "99", "sequence": "", "query": (io.BytesIO(b"ACGT"), "q.fasta")}, "everything")
    page = response.get_data(as_text=True)
    assert response.status_code == 422
    assert "choose the file again" in page
    assert "must be at most 10" in page
    assert 'enctype="multipart/form-data"' in page


def test_defaults_examples_units_and_groups(portal: WebPortal) -> None:
    fresh = portal.browser.get("/applications/everything").get_data(as_text=True)
    assert re.search(r'value="3" id="field-count"', fresh)
    assert "From 1 to 10." in fresh
    assert "<span>mm</span>" in fresh
    assert "<legend>Numbers</legend>" in fresh
    assert re.search(r"<input[^>]*checked[^>]*name=\"strict\"", fresh)
    assert '<option value="small" selected>' in fresh
    assert 'inputmode="numeric"' in fresh
    assert 'type="number"' not in fresh
    example = portal.browser.get("/applications/everything?example=short").get_data(as_text=True)
    assert re.search(r'value="7" id="field-count"', example)
    assert not re.search(r"<input[^>]*checked[^>]*name=\"strict\"", example)
    assert portal.browser.get("/applications/everything?example=nothing").status_code == 200


def test_default_and_example_texts(portal: WebPortal) -> None:
    application = portal.parts.catalog.get("everything")
    assert default_texts(application)["ratio"] == "0.5"
    assert example_texts(application, "short")["count"] == "7"


def test_change_inputs_fills_in_an_earlier_job(portal: WebPortal) -> None:
    job_id = portal.job("77", "11")
    page = portal.browser.get(f"/applications/slow_div?from={job_id}").get_data(as_text=True)
    assert 'value="77"' in page
    assert 'value="11"' in page
    stranger = portal.app.test_client()
    assert stranger.get(f"/applications/slow_div?from={job_id}").status_code == 404


def test_the_address_is_remembered(portal: WebPortal) -> None:
    response = portal.send_division(email="ann+bücher@example.org")
    cookie = next(text for text in response.headers.getlist("Set-Cookie") if text.startswith("email="))
    for part in ("HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=31536000"):
        assert part in cookie
    assert "Secure" not in cookie
    assert unquote(cookie.split(";")[0].removeprefix("email=")) == "ann+bücher@example.org"
    assert "ann+bücher@example.org" in portal.browser.get("/applications/slow_div").get_data(as_text=True)


@pytest.mark.parametrize("junk", ["%0d%0aSet-Cookie:x", "%ff%fe", "<script>", "a,b@c.org", "%00", "x" * 3000])
def test_junk_in_the_cookie_is_ignored(portal: WebPortal, junk: str) -> None:
    portal.browser.set_cookie("email", junk)
    page = portal.browser.get("/applications/slow_div")
    assert page.status_code == 200
    assert 'value="" id="field-email"' in page.get_data(as_text=True)


def test_the_address_is_remembered_only_for_what_was_accepted(portal: WebPortal) -> None:
    response = portal.send_division("abc")
    assert not any(text.startswith("email=") for text in response.headers.getlist("Set-Cookie"))


def test_cookies_are_secure_under_https(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, portal={"base_url": "https://portal.example.org"})
    form = portal.browser.get("/applications/slow_div", base_url="https://portal.example.org")
    session = next(text for text in form.headers.getlist("Set-Cookie") if text.startswith("session="))
    for part in ("HttpOnly", "SameSite=Lax", "Secure", "Path=/"):
        assert part in session
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form.get_data(as_text=True)))
    sent = portal.browser.post(
        "/applications/slow_div/jobs",
        data={"x": "8", "y": "2", "email": EMAIL, **fields},
        base_url="https://portal.example.org",
    )
    assert sent.status_code == 303
    assert any(text.startswith("email=") and "Secure" in text for text in sent.headers.getlist("Set-Cookie"))


def test_without_a_csrf_token_the_form_comes_back_as_it_was(portal: WebPortal) -> None:
    response = portal.browser.post("/applications/slow_div/jobs", data={"x": "123", "y": "2", "email": EMAIL})
    page = response.get_data(as_text=True)
    assert response.status_code == 400
    assert "Here it is again" in page
    assert 'value="123"' in page
    assert portal.job_folders() == []
    wrong = portal.send_division(csrf_token="wrong")
    assert wrong.status_code == 400


def test_a_form_left_open_for_months_is_still_taken(portal: WebPortal) -> None:
    fields = portal.form_fields()
    portal.clock.advance(60 * 24 * 3600)
    assert portal.send_division(**fields).status_code == 303


def test_pages_with_forms_are_not_stored(portal: WebPortal) -> None:
    for address in ("/", "/applications/slow_div", portal.send_division().location or ""):
        assert portal.browser.get(address).headers["Cache-Control"] == "no-store"
