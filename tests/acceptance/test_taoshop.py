"""Taoshop, whole: an order through the web, heard by the warehouse in PHP and by the mailer in Python."""

import re
import sys
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from msgweb.home import REPOSITORY
from tests.installation import Installation
from tests.programs import Program


def order(installation: Installation, name: str, email: str) -> str:
    """Order two of the first product, as a browser would; the thank-you page."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    shop = f"http://{installation.http}/taoshop/"
    with browser.open(shop, timeout=30) as answer:
        page = answer.read().decode()
    form = dict(re.findall(r'name="(csrfmiddlewaretoken|token)" value="([^"]+)"', page))
    quantity = re.findall(r'name="(quantity_\d+)"', page)[0]
    data = urllib.parse.urlencode({**form, "name": name, "email": email, quantity: "2"}).encode()
    with browser.open(urllib.request.Request(shop, data, {"Referer": shop}), timeout=30) as answer:
        assert "/thanks/" in answer.url
        return str(answer.read().decode())


@pytest.mark.needs("php")
def test_an_order_reaches_the_warehouse_and_the_mailer(installation: Installation, tmp_path: Path) -> None:
    installation.start("web", "stomp")
    installation.manage("seed_taoshop")
    mails = tmp_path / "mails"
    warehouse = Program(["php", str(REPOSITORY / "clients/php/examples/warehouse.php"), "1"], installation.env)
    mailer = Program(
        [sys.executable, "manage.py", "taoshop_mailer", "--limit", "1", "--folder", str(mails)],
        installation.env,
        cwd=REPOSITORY,
    )
    try:
        warehouse.wait_for("the warehouse listens")
        mailer.wait_for("the mailer listens")
        page = order(installation, "Ann Lee", "ann@example.org")
        assert "Thank you, Ann Lee" in page

        assert warehouse.wait(30) == 0, warehouse.output
        assert re.search(r"order \d+ for Ann Lee", warehouse.output)
        assert re.search(r" 2 x longjing", warehouse.output)

        assert mailer.wait(30) == 0, mailer.output
        [mail] = mails.iterdir()
        text = mail.read_text()
        assert "To: ann@example.org" in text
        assert "Longjing" in text
    finally:
        warehouse.close()
        mailer.close()
