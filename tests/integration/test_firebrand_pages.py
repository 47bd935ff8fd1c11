"""The brands, a brand as a shop, and its media."""

import re
import uuid
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from apps.accounts.models import Namespace
from apps.firebrand import cloning
from apps.firebrand.models import Brand, Category, CloneRun, MediaFile, Page, Product, Template
from apps.firebrand.palettes import PRESETS
from apps.firebrand.requests import CloneRequest
from apps.firebrand.seeding import seed_brand
from apps.jobs import JobContext
from apps.jobs.models import Job

pytestmark = pytest.mark.django_db

ADDRESS = re.compile(r'(?:href|src)="(/[^"]*)"')


class Silent:
    cancelled = False

    def progress(self, done: int, total: int, text: str) -> None:
        pass

    def log(self, level: str, text: str) -> None:
        pass


@pytest.fixture(autouse=True)
def brand(settings: Settings, tmp_path: Path) -> Brand:
    settings.MEDIA_ROOT = tmp_path / "media"
    Namespace.objects.get_or_create(name="firebrand.development")
    return seed_brand(
        name="Ember & Oak", domain="ember.example", slug="ember", palette=PRESETS["ember"], products=60, seed="pages"
    )


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_user("ada"))
    return client


def clone(name: str = "Frost") -> Brand:
    request = CloneRequest.parse(brand="ember", name=name, domain=f"{name.lower()}.test", palette=PRESETS["fjord"])
    cloning.clone_brand(JobContext(uuid.uuid4(), 1, "firebrand.development", Silent()), request)
    return Brand.objects.get(name=name)


def failed_clone(state: str) -> Brand:
    """What a clone leaves behind that met a damaged file."""
    file = MediaFile.objects.filter(brand__slug="ember")[7].file
    file.write_bytes(b"damaged")
    job = Job.objects.create(
        namespace="firebrand.development", task="firebrand.clone_brand", queue="firebrand", state=state
    )
    request = CloneRequest.parse(brand="ember", name="Frost", domain="frost.test")
    with pytest.raises(cloning.MediaDamaged):
        cloning.clone_brand(JobContext(job.id, 1, "firebrand.development", Silent()), request)
    return Brand.objects.get(slug="frost")


@pytest.mark.parametrize("name", ["brands", "brand", "theme", "media", "page", "remove"])
def test_nothing_is_shown_without_a_log_in(client: Client, name: str) -> None:
    arguments = {"brands": [], "media": ["ember/logo.png"], "page": ["ember", "home"]}.get(name, ["ember"])
    address = reverse(f"firebrand:{name}", args=arguments)
    answer = client.post(address) if name == "remove" else client.get(address)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(reverse("console:login"))


def test_every_link_and_picture_of_a_shop_is_there(browser: Client) -> None:
    """All own addresses that the pages of a clone hold, followed to the end: none is broken, none leaves the clone."""
    shop = reverse("firebrand:brand", args=[clone().slug])
    elsewhere = ("/firebrand/ember/", "/firebrand/media/ember/")
    seen, todo = set(), [shop]
    while todo:
        address = todo.pop().replace("&amp;", "&").partition("#")[0]
        if address in seen:
            continue
        seen.add(address)
        answer = browser.get(address)
        assert answer.status_code == 200, address
        if answer.headers["Content-Type"].startswith("text/html"):
            body = answer.content.decode().partition('<div class="shop">')[2]
            found = ADDRESS.findall(body.replace('href="?', f'href="{address.partition("?")[0]}?'))
            assert not [link for link in found if link.startswith(elsewhere)]
            todo += [link for link in found if link.startswith(("/firebrand/", "/media/"))]
            assert "ember.example" not in body
    paths = {address.partition("?")[0] for address in seen}
    kinds = {kind: sum(f"/{kind}/" in path for path in paths) for kind in ("p", "c", "pages", "media")}
    assert kinds["p"] == 60
    assert kinds["c"] == 16
    assert kinds["pages"] == 12
    assert kinds["media"] > 60


def test_the_brands_show_pictures_counts_and_a_form_each(browser: Client) -> None:
    clone()
    body = browser.get(reverse("firebrand:brands")).content.decode()
    assert body.count('name="domain"') == 2
    assert body.count("60 products") == 2
    assert "Ember &amp; Oak" in body
    picture = re.findall(r'src="([^"]+)"', body.partition('class="brand-strip"')[2])[0]
    assert browser.get(picture).headers["Content-Type"] == "image/jpeg"


def test_to_ask_for_a_clone_makes_a_job_and_leads_to_it(browser: Client) -> None:
    answer = browser.post(
        reverse("firebrand:brands"), {"brand": "ember", "name": " Frost & Fir ", "domain": "", "palette": "fjord"}
    )
    job = Job.objects.get()
    assert answer.status_code == 302
    assert answer.headers["Location"] == reverse("console:job", args=[job.id])
    assert (job.namespace, job.task, job.queue) == ("firebrand.development", "firebrand.clone_brand", "firebrand")
    assert job.requested_by == "ada"
    assert job.arguments == {
        "brand": "ember",
        "name": "Frost & Fir",
        "domain": "frost-fir.example",
        "palette": PRESETS["fjord"],
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": ""}, "required"),
        ({"name": "日本"}, "slug"),
        ({"domain": "no domain"}, "host name"),
        ({"name": "Ember Oak", "domain": "ember.example"}, "exists already"),
        ({"palette": "neon"}, "valid choice"),
    ],
)
def test_a_mistake_is_said_beside_the_form_and_no_job_is_made(
    browser: Client, change: dict[str, str], complaint: str
) -> None:
    form = {"brand": "ember", "name": "Frost", "domain": "frost.test", "palette": "keep", **change}
    answer = browser.post(reverse("firebrand:brands"), form)
    assert answer.status_code == 400
    assert complaint in answer.content.decode()
    assert '<details class="clone" open>' in answer.content.decode()
    assert not Job.objects.exists()


def test_a_missing_namespace_is_said_and_not_a_server_error(browser: Client) -> None:
    Namespace.objects.all().delete()
    form = {"brand": "ember", "name": "Frost", "domain": "frost.test", "palette": "keep"}
    answer = browser.post(reverse("firebrand:brands"), form)
    assert answer.status_code == 400
    assert "namespace" in answer.content.decode()


def test_a_clone_shows_its_report(browser: Client) -> None:
    brand = clone()
    body = browser.get(reverse("firebrand:brand", args=[brand.slug])).content.decode()
    assert "Cloned from" in body
    assert "ember.example → frost.test" in body
    assert str(CloneRun.objects.get(target=brand).job_id) in body


@pytest.mark.parametrize("state", ["cloning", "failed"])
def test_a_brand_that_is_not_active_is_invisible(browser: Client, state: str) -> None:
    product = Product.objects.all()[0]
    category = Category.objects.all()[0]
    Brand.objects.update(state=state)
    for name, arguments in {
        "brand": ["ember"],
        "theme": ["ember"],
        "category": ["ember", category.pk],
        "product": ["ember", product.pk],
        "page": ["ember", "home"],
        "media": ["ember/logo.png"],
    }.items():
        assert browser.get(reverse(f"firebrand:{name}", args=arguments)).status_code == 404


def test_a_row_of_another_brand_is_not_shown_in_this_one(browser: Client) -> None:
    brand = clone()
    strange = Product.objects.filter(brand__slug="ember")[0]
    assert browser.get(reverse("firebrand:product", args=[brand.slug, strange.pk])).status_code == 404


def test_the_theme_has_the_new_colours_and_leads_here(browser: Client) -> None:
    clone()
    answer = browser.get(reverse("firebrand:theme", args=["frost"]))
    css = answer.content.decode()
    assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
    assert f"--brand-primary: {PRESETS['fjord']['primary']}" in css
    assert "url(/firebrand/media/frost/banners/" in css


def test_the_pages_of_the_catalogue_join_without_gap_or_repeat_both_ways(browser: Client) -> None:
    address = reverse("firebrand:brand", args=["ember"])
    forth, query = [], ""
    while True:
        body = browser.get(address + query).content.decode()
        forth.append(re.findall(r"/p/(\d+)/", body.partition("shop-products")[2]))
        more = re.search(r'rel="next" href="(\?after=\d+)"', body)
        if not more:
            break
        query = more[1]
    back = [forth[-1]]
    while before := re.search(r'rel="prev" href="(\?before=\d+)"', body):
        body = browser.get(address + before[1]).content.decode()
        back.insert(0, re.findall(r"/p/(\d+)/", body.partition("shop-products")[2]))
    everything = [str(pk) for pk in Product.objects.order_by("pk").values_list("pk", flat=True)]
    assert [pk for page in forth for pk in page] == everything
    assert [pk for page in back for pk in page] == everything
    assert len(forth) == 3


@pytest.mark.parametrize("query", ["?after=x", "?before=-1", "?after=99999999999999999999999", "?after=²"])
def test_a_bad_place_in_the_catalogue_shows_its_beginning(browser: Client, query: str) -> None:
    assert browser.get(reverse("firebrand:brand", args=["ember"]) + query).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["../firebrand/ember/logo.png", "ember/../../../etc/passwd", "ember/%2e%2e/x", "ember//logo.png", "/etc/passwd"],
)
def test_no_path_leads_out_of_the_media_on_record(browser: Client, path: str, settings: Settings) -> None:
    secret = Path(settings.MEDIA_ROOT) / "firebrand" / "ember" / "secret.txt"
    secret.write_text("not on record")
    assert browser.get(f"/firebrand/media/{path}").status_code in (301, 404)
    assert browser.get("/firebrand/media/ember/secret.txt").status_code == 404


def test_a_media_file_is_cached_by_its_checksum(browser: Client) -> None:
    file = MediaFile.objects.filter(kind="product")[0]
    first = browser.get(file.get_absolute_url())
    assert first.getvalue() == file.file.read_bytes()
    assert first.headers["ETag"] == f'"{file.sha256}"'
    assert "private" in first.headers["Cache-Control"]
    again = browser.get(file.get_absolute_url(), headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_a_large_media_file_is_streamed(browser: Client) -> None:
    file = MediaFile.objects.get(kind="logo")
    file.file.write_bytes(b"x" * 1_500_000)
    MediaFile.objects.filter(pk=file.pk).update(size=1_500_000)
    answer = browser.get(file.get_absolute_url())
    assert answer.streaming
    assert len(answer.getvalue()) == 1_500_000


def test_a_media_file_that_is_missing_is_not_a_server_error(browser: Client) -> None:
    file = MediaFile.objects.get(kind="logo")
    file.file.unlink()
    assert browser.get(file.get_absolute_url()).status_code == 404


def test_a_name_that_is_html_stays_text_everywhere(browser: Client) -> None:
    name = "<script>alert(1)</script>"
    request = CloneRequest.parse(brand="ember", name=name, domain="x.test", slug="x")
    cloning.clone_brand(JobContext(uuid.uuid4(), 1, "firebrand.development", Silent()), request)
    for address in (
        reverse("firebrand:brands"),
        reverse("firebrand:brand", args=["x"]),
        reverse("firebrand:page", args=["x", "about"]),
    ):
        body = browser.get(address).content.decode()
        assert "<script>alert" not in body
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert not Page.objects.filter(html__contains="<script").exists()
    assert not Template.objects.filter(content__contains="<script").exists()


def test_the_remains_of_a_failed_clone_are_shown_and_can_be_removed(browser: Client) -> None:
    brand = failed_clone("failed")
    body = browser.get(reverse("firebrand:brands")).content.decode()
    assert "clone failed" in body
    assert browser.post(reverse("firebrand:remove", args=[brand.slug])).status_code == 302
    assert not Brand.objects.filter(pk=brand.pk).exists()
    assert not brand.folder.exists()


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_clone_that_will_be_tried_again_cannot_be_removed(browser: Client, state: str) -> None:
    brand = failed_clone(state)
    assert "Remove what is left" not in browser.get(reverse("firebrand:brands")).content.decode()
    browser.post(reverse("firebrand:remove", args=[brand.slug]))
    assert Brand.objects.filter(pk=brand.pk).exists()


def test_an_active_brand_cannot_be_removed(browser: Client) -> None:
    brand = clone()
    browser.post(reverse("firebrand:remove", args=[brand.slug]))
    browser.post(reverse("firebrand:remove", args=["ember"]))
    assert Brand.objects.filter(state="active").count() == 2
    assert brand.folder.exists()
