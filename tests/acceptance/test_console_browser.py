"""The console in a real browser, against real processes: log in, clone a brand, watch the bar move, see the result."""

import contextlib
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from tests.installation import Installation
from tests.stomp_gateway import WireClient

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

SECONDS = 60.0  # a deadline for a loaded machine, not an expectation
PAGES = [
    "/",
    "/jobs/",
    "/jobs/?state=ready",
    "/schedules/",
    "/queues/",
    "/topics/",
    "/workers/",
    "/access/",
    "/access/new/",
    "/access/people/",
    "/access/log/",
    "/firebrand/",
    "/taoshop/",
    "/taoshop/orders/",
    "/api/docs/",
]
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Of this module alone: Playwright's event loop would be in the way of tests that run Django in the same thread.
    expect.set_options(timeout=SECONDS * 1000)
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


class Visitor:
    """A person at a browser.

    Attributes:
        complaints: what the browser complained of: errors of scripts, and what the page's policy forbade.
    """

    def __init__(self, installation: Installation, context: BrowserContext) -> None:
        self.installation = installation
        self.context = context
        self.complaints: list[str] = []
        context.set_default_timeout(SECONDS * 1000)
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)

    def _listen(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self, path: str) -> None:
        """Go to a page of the installation."""
        self.page.goto(f"http://{self.installation.http}{path}")

    def log_in(self) -> None:
        """Log in with the installation's account."""
        account = self.installation.credentials["web"]
        self.open("/login/")
        self.page.get_by_label("User name").fill(account["username"])
        self.page.get_by_label("Password").fill(account["password"])
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("heading", name="Overview")).to_be_visible()

    def state(self) -> str:
        """The state that the page of a job shows."""
        return self.page.locator("[data-badge]").inner_text()

    def percent(self) -> int:
        """How far the page of a job says that it is."""
        number = re.match(r"\d+", self.page.locator("[data-percent]").inner_text())
        return int(number[0]) if number else 0


@pytest.fixture
def visitor(browser: Browser, installation: Installation) -> Iterator[Visitor]:
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    try:
        yield Visitor(installation, context)
    finally:
        context.close()


def ask(installation: Installation, task: str, **arguments: Any) -> dict[str, Any]:
    """Ask for a job over REST, as a program would."""
    body = {"namespace": installation.credentials["stomp"]["namespace"], "task": task, "arguments": arguments}
    request = urllib.request.Request(
        f"http://{installation.http}/api/v1/jobs",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {installation.credentials['api']['token']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        job: dict[str, Any] = json.load(answer)
    return job


@pytest.fixture
def held(installation: Installation, tmp_path: Path) -> dict[str, Any]:
    """A job that runs until the file `go` is there, in an installation that runs."""
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    installation.start("web")
    installation.start("worker", arguments=("--queue", "samples"))
    return ask(installation, "samples.hold", folder=str(tmp_path))


def test_rates_and_drawings_move_by_themselves(installation: Installation, visitor: Visitor) -> None:
    namespace = installation.credentials["stomp"]["namespace"]
    send = "SELECT msgweb.send(%s, '/queue/orders', 'x'::text, '{}'::jsonb)"
    installation.query(send, (namespace,))
    installation.query("DELETE FROM msgweb.tally")  # that it was sent is not to be among the figures below
    installation.start("web")
    visitor.log_in()
    row = visitor.page.locator("tr", has_text="orders")
    visitor.open("/queues/")
    expect(row.locator("svg title")).to_have_text("Last 10 minutes: nothing")
    installation.query(  # as if two hours of it had been seen; the page is not loaded again
        "INSERT INTO msgweb.statistic (resolution, at, destination, sent, delivered, acked)"
        " SELECT 10, date_bin('10 seconds', now(), '2000-01-01') + n * interval '10 seconds', id, 120, 120, 30"
        " FROM msgweb.destination, generate_series(-720, 60) AS n WHERE name = 'orders'"
    )
    told = "Last 10 minutes: in 12 a second, at most 12; acked 3 a second, at most 3"
    expect(row.locator("svg title")).to_have_text(told)
    visitor.page.get_by_role("link", name="orders").click()
    expect(visitor.page.locator("figure.chart").first).to_contain_text("In 12")
    visitor.page.get_by_role("link", name="a day").click()
    expect(visitor.page.locator("figure.chart svg title").first).to_contain_text("Messages a second, last day: In 12")
    for size in (DESKTOP, PHONE):
        visitor.page.set_viewport_size(size)  # type: ignore[arg-type]
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert visitor.complaints == []


def test_figures_move_on_though_an_answer_is_lost(installation: Installation, visitor: Visitor) -> None:
    installation.start("web")
    visitor.log_in()
    asked: list[Route] = []  # by the page itself; the first of them is not answered

    def answer(route: Route) -> None:
        if "hx-request" in route.request.headers:
            asked.append(route)
            if len(asked) == 1:
                return
        route.continue_()

    visitor.page.route("**/queues/", answer)
    visitor.open("/queues/")
    expect(visitor.page.get_by_text("No queue yet")).to_be_visible()
    send = "SELECT msgweb.send(%s, '/queue/orders', 'x'::text, '{}'::jsonb)"
    installation.query(send, (installation.credentials["stomp"]["namespace"],))
    expect(visitor.page.locator("tr", has_text="orders")).to_be_visible()
    assert len(asked) >= 2


def test_a_brand_is_cloned_and_watched(installation: Installation, visitor: Visitor) -> None:
    installation.manage("seed_firebrand", "--products", "1000")
    installation.start()
    visitor.log_in()
    page = visitor.page
    visitor.open("/firebrand/")
    page.get_by_text("Clone", exact=True).first.click()
    page.locator("input[name=name]:visible").fill("Fjord & Pine")
    page.locator("button[type=submit]:visible", has_text="Clone").click()
    if "/jobs/" not in page.url:
        page.locator('a[href^="/jobs/"]').first.click()

    expect(page.locator("[data-badge]")).to_have_text("running")
    seen: list[int] = []
    deadline = time.monotonic() + SECONDS
    while visitor.state() == "running":  # no reload: the page moves by itself
        assert time.monotonic() < deadline, seen
        if (percent := visitor.percent()) not in seen:
            seen.append(percent)
        page.wait_for_timeout(20)
    moving = [percent for percent in seen if 0 < percent < 100]
    assert len(moving) >= 3, seen
    assert seen == sorted(seen)

    expect(page.locator("[data-badge]")).to_have_text("succeeded")
    assert visitor.percent() == 100
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    expect(page.locator("#outcome .code")).to_contain_text('"products": 1000')
    expect(page.locator("#log .line").last).to_contain_text("Fjord & Pine is ready")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    lines = page.locator("#log .line").all_inner_texts()
    page.reload()
    assert page.locator("#log .line").all_inner_texts() == lines  # neither lost nor doubled
    assert visitor.complaints == []


def test_a_running_job_is_cancelled(held: dict[str, Any], visitor: Visitor) -> None:
    visitor.log_in()
    visitor.open(f"/jobs/{held['id']}/")
    expect(visitor.page.locator("[data-percent]")).to_have_text("10 %")
    visitor.page.on("dialog", lambda dialog: dialog.accept())
    visitor.page.get_by_role("button", name="Cancel").click()
    expect(visitor.page.locator("[data-badge]")).to_have_text("cancelled")
    expect(visitor.page.locator("#details")).to_contain_text("cancelled")
    assert visitor.complaints == []


def test_a_question_that_is_answered_with_no_cancels_nothing(held: dict[str, Any], visitor: Visitor) -> None:
    visitor.log_in()
    visitor.open(f"/jobs/{held['id']}/")
    asked: list[str] = []

    def dismiss(dialog: Any) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    visitor.page.on("dialog", dismiss)
    visitor.page.get_by_role("button", name="Cancel").click()
    assert len(asked) == 1
    assert visitor.state() == "running"
    assert visitor.installation.query("SELECT cancel_requested_at FROM jobs_job") == [(None,)]


def test_a_page_goes_on_where_it_was_when_the_web_process_is_replaced(
    held: dict[str, Any], visitor: Visitor, tmp_path: Path
) -> None:
    visitor.log_in()
    visitor.open(f"/jobs/{held['id']}/")
    expect(visitor.page.locator("[data-percent]")).to_have_text("10 %")
    begun = time.monotonic()
    visitor.installation.stop("web", seconds=20)
    assert time.monotonic() - begun < 5, "an open stream held up the stop"
    expect(visitor.page.get_by_text("The connection is lost")).to_be_visible()
    (tmp_path / "go").touch()  # the job ends while there is no web process
    visitor.installation.start("web")
    expect(visitor.page.locator("[data-badge]")).to_have_text("succeeded")
    expect(visitor.page.get_by_text("The connection is lost")).to_be_hidden()
    expect(visitor.page.get_by_role("heading", name="Result")).to_be_visible()


def test_the_person_who_waits_watches_without_a_log_in(held: dict[str, Any], visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(held["status_url"])
    expect(page.get_by_role("heading", name="In progress")).to_be_visible()
    expect(page.locator("[data-percent]")).to_have_text("10 %")
    (tmp_path / "go").touch()
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    expect(page.locator("#outcome")).to_contain_text("Ended")
    assert visitor.complaints == []


def test_a_browser_without_scripts_sees_the_job_too(
    held: dict[str, Any], browser: Browser, installation: Installation, visitor: Visitor
) -> None:
    visitor.log_in()
    state = visitor.context.storage_state()
    context = browser.new_context(java_script_enabled=False, storage_state=state)
    try:
        plain = Visitor(installation, context)
        expect(visitor.page.locator("#live")).to_contain_text("10 %")  # it runs
        plain.open(f"/jobs/{held['id']}/")
        expect(plain.page.locator("[data-badge]")).to_have_text("running")
        expect(plain.page.locator("[data-percent]")).to_have_text("10 %")
        plain.page.get_by_role("button", name="Cancel").click()
        plain.open(f"/jobs/{held['id']}/")
        expect(plain.page.locator("[data-badge]")).to_have_text("cancelled")  # by the page's own refresh
    finally:
        context.close()


def test_the_overview_refreshes_itself(held: dict[str, Any], visitor: Visitor, tmp_path: Path) -> None:
    visitor.log_in()
    row = visitor.page.locator("tr", has_text="samples.hold")
    expect(row.locator(".badge")).to_have_text("running")
    link = row.get_by_role("link")
    link.focus()
    (tmp_path / "go").touch()
    expect(row.locator(".badge")).to_have_text("succeeded")
    expect(link).to_be_focused()  # a refresh may not take the keyboard away from anybody
    assert visitor.complaints == []


def test_who_reads_back_in_a_log_is_left_there(installation: Installation, visitor: Visitor, tmp_path: Path) -> None:
    installation.env["MSGWEB_TASK_MODULES"] = "tests.sample_tasks"
    installation.start("web")
    visitor.log_in()
    job = ask(installation, "samples.flood", lines=300)
    page = visitor.page
    visitor.open(f"/jobs/{job['id']}/")
    expect(page.locator("[data-badge]")).to_have_text("ready")
    installation.start("worker", arguments=("--queue", "samples"))
    log = page.locator("#log")
    expect(log.locator(".line").last).to_contain_text("line 299")
    position = "log => Math.round(log.scrollHeight - log.clientHeight - log.scrollTop)"
    assert log.evaluate(position) <= 2  # it followed
    log.evaluate("log => { log.scrollTop = 0; }")
    expect(page.get_by_role("button", name="Follow the log")).to_be_visible()
    assert log.evaluate("log => log.scrollTop") == 0
    page.get_by_role("button", name="Follow the log").click()
    assert log.evaluate(position) <= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_and_keeps_to_its_policy(
    scheme: str, browser: Browser, held: dict[str, Any], installation: Installation
) -> None:
    installation.manage("seed_firebrand", "--products", "20")
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)  # type: ignore[arg-type]
    try:
        visitor = Visitor(installation, context)
        visitor.log_in()
        for path in [*PAGES, f"/jobs/{held['id']}/"]:
            visitor.open(path)
            expect(visitor.page.locator("h1").first).to_be_visible()
            wide, seen = visitor.page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert wide <= seen, path
            assert visitor.complaints == [], path
            unnamed = visitor.page.evaluate(
                """[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
                   .filter(e => e.checkVisibility() && !e.labels?.length && !e.ariaLabel).map(e => e.outerHTML)"""
            )
            assert path == "/api/docs/" or unnamed == [], path
    finally:
        context.close()


def test_a_shop_gets_its_key_uses_it_and_loses_it(visitor: Visitor) -> None:
    visitor.installation.start("web", "stomp")
    visitor.log_in()
    page = visitor.page
    page.get_by_role("link", name="Access").click()
    page.get_by_role("link", name="New key").click()
    page.get_by_label("Title").fill("The shop's till")
    page.get_by_label("Default namespace").select_option("taoshop.development")
    page.get_by_role("button", name="Make the key").click()
    passcode = page.locator("#passcode").inner_text()
    page.get_by_label("Pattern").fill("queue/orders.*")
    page.get_by_label("Send", exact=True).check()
    page.get_by_role("button", name="Allow").click()
    expect(page.get_by_role("cell", name="queue/orders.*")).to_be_visible()
    expect(page.locator("#passcode")).to_have_count(0)
    login = page.url.rstrip("/").rpartition("/")[2]
    client = WireClient(visitor.installation.stomp.port)
    with contextlib.closing(client):
        client.send("CONNECT", accept_version="1.2", login=login, passcode=passcode)
        client.expect("CONNECTED")
        client.confirmed("SEND", b"x", destination="/queue/orders.new")
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_text("The key is revoked.")).to_be_visible()
        client.expect_error("access_refused")
        client.expect_end()
    page.get_by_role("link", name="Access").click()
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("cell", name="revoked_at:")).to_be_visible()
    assert visitor.complaints == []
