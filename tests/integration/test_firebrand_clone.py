"""The clone of a brand on a real database and real files: equal to its source, whatever happens on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connections
from pytest_django import Settings

from apps.firebrand import cloning, media
from apps.firebrand.errors import BrandExists, CloneDiffers, MediaDamaged, Superseded, UnknownBrand
from apps.firebrand.links import HtmlWalk, Kind, Link
from apps.firebrand.models import (
    Brand,
    BrandSetting,
    Category,
    CloneRun,
    MediaFile,
    Page,
    Price,
    Product,
    ProductImage,
    Template,
    Translation,
)
from apps.firebrand.palettes import PRESETS
from apps.firebrand.requests import CloneRequest
from apps.firebrand.seeding import seed_brand
from apps.firebrand.tasks import clone_brand
from apps.jobs import JobCancelled, JobContext
from apps.jobs.models import Job, Step
from msgweb.database import conninfo_of
from msgweb.home import REPOSITORY

pytestmark = pytest.mark.django_db
# Real commits, seen by other connections. Naming the apps lets the clean-up cascade to the broker's own tables.
committed = pytest.mark.django_db(transaction=True, available_apps=[app.name for app in apps.get_app_configs()])

NAME, DOMAIN = "Ember & Oak", "ember.example"
ASKED: dict[str, Any] = {
    "brand": "ember",
    "name": "Frost <& Fir>",
    "domain": "frost.test",
    "slug": "frost",
    "palette": {"primary": "#1f5673", "accent": "#e07a5f"},
}
REQUEST = CloneRequest.parse(**ASKED)


class Killed(BaseException):
    """The worker's death: no `except Exception` sees it, as none sees SIGKILL."""


class Witness:
    """A transport that keeps what is said, and calls a hook at each word."""

    def __init__(self, hook: Callable[[str], None] = lambda what: None) -> None:
        self.said: list[tuple[int, int, str]] = []
        self.lines: list[tuple[str, str]] = []
        self._hook = hook

    def progress(self, done: int, total: int, text: str) -> None:
        self.said.append((done, total, text))
        self._hook("progress")

    def log(self, level: str, text: str) -> None:
        self.lines.append((level, text))
        self._hook("log")

    @property
    def cancelled(self) -> bool:
        self._hook("checkpoint")
        return False


def context_of(job: uuid.UUID, attempt: int = 1, witness: Any = None) -> JobContext:
    return JobContext(job, attempt, "firebrand.development", witness or Witness())


def killing(after: int, of: tuple[str, ...] = ("progress", "log", "checkpoint")) -> Callable[[str], None]:
    """A hook that kills at the word number `after`, from 0, of such words."""
    heard = 0

    def hook(what: str) -> None:
        nonlocal heard
        heard += what in of
        if heard > after:
            raise Killed

    return hook


@pytest.fixture(autouse=True)
def media_root(settings: Settings, tmp_path: Path) -> Path:
    settings.MEDIA_ROOT = tmp_path / "media"
    return tmp_path / "media"


@pytest.fixture
def source(media_root: Path) -> Brand:
    return seed(30)


def seed(products: int) -> Brand:
    return seed_brand(name=NAME, domain=DOMAIN, slug="ember", palette=PRESETS["ember"], products=products, seed="tests")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of some rows, so that a small brand takes many."""
    sizes = {"prices": 37, "translations": 37, "media": 5, "verify_files": 11, "pages": 3, "verify_pages": 4}
    for name, step in cloning.STEPS.items():
        monkeypatch.setitem(cloning.STEPS, name, replace(step, size=min(step.size, sizes.get(name, 9))))


class Canon(HtmlWalk):
    """Writes names that are the same in the source and in each clone in place of ids and paths."""

    def __init__(self, brand: Brand) -> None:
        super().__init__(brand.domain)
        self._names: dict[Kind, dict[int, str]] = {
            "product": dict(Product.objects.filter(brand=brand).values_list("pk", "sku")),
            "category": dict(Category.objects.filter(brand=brand).values_list("pk", "slug")),
        }
        self._folder = f"firebrand/{brand.slug}/"

    def link(self, link: Link, origin: str) -> str:
        key = link.key
        if isinstance(key, int):
            key = self._names[link.kind][key]
        elif link.kind == "media":
            assert key.startswith(self._folder)
            key = key.removeprefix(self._folder)
        return f"{origin}[{link.kind} {key}]{link.tail}"

    def identity(self, kind: Kind, key: int) -> int:
        return sum(map(ord, self._names[kind][key]))


def canonical(brand: Brand) -> str:
    """Everything that a brand has, rows and bytes, in an order and with names that do not depend on ids."""
    canon = Canon(brand)
    of = {"brand": brand}
    folder = f"firebrand/{brand.slug}/"

    def media_of(file: MediaFile) -> list[Any]:
        path = file.path.removeprefix(folder)
        return [path, file.sha256, media.checksum(file.file.read_bytes()), file.size, file.kind, file.alt]

    dump = {
        "palette": brand.palette,
        "categories": sorted(
            (c.slug, c.name, c.position, c.parent.slug if c.parent else "")
            for c in Category.objects.filter(**of).select_related("parent")
        ),
        "products": sorted(
            (p.sku, p.slug, p.name, p.description, p.stock, p.listed_at.isoformat(), p.category.slug)
            for p in Product.objects.filter(**of).select_related("category")
        ),
        "prices": sorted(
            (p.product.sku, p.price_list, p.currency, str(p.amount))
            for p in Price.objects.filter(**of).select_related("product")
        ),
        "translations": sorted(
            (
                t.product.sku if t.product else "",
                t.category.slug if t.category else "",
                t.language,
                t.name,
                t.description,
            )
            for t in Translation.objects.filter(**of).select_related("product", "category")
        ),
        "media": sorted(map(media_of, MediaFile.objects.filter(**of))),
        "images": sorted(
            (i.product.sku, i.position, i.media.path.removeprefix(folder))
            for i in ProductImage.objects.filter(**of).select_related("product", "media")
        ),
        "templates": sorted(
            (t.slug, canon.css(t.content) if t.slug.endswith(".css") else canon.html(t.content))
            for t in Template.objects.filter(**of)
        ),
        "pages": sorted((p.slug, p.title, p.position, canon.html(p.html)) for p in Page.objects.filter(**of)),
        "settings": sorted(
            (s.key, json.dumps(s.value, sort_keys=True).replace(folder, "")) for s in BrandSetting.objects.filter(**of)
        ),
        "files": sorted(
            file.relative_to(brand.folder).as_posix() for file in brand.folder.rglob("*") if file.is_file()
        ),
    }
    return json.dumps(dump, indent=1, ensure_ascii=False, sort_keys=True)


def expected(source: Brand) -> str:
    """The canonical form that a clone by `REQUEST` must have, made from the source by plain replacement."""
    text = canonical(source).replace(DOMAIN, REQUEST.domain)
    for spelled in (lambda name: name, escape):
        text = text.replace(spelled(NAME), spelled(REQUEST.name))
    for role, colour in REQUEST.changes.items():
        text = text.replace(source.palette[role], colour)
    return text


def without_seconds(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("seconds", "attempts")}


def cloned() -> Brand:
    return Brand.objects.get(slug="frost")


def remove_clone() -> None:
    brand = cloned()
    cloning.remove_brand(brand)


def test_a_clone_is_like_its_source_but_for_what_was_asked(source: Brand) -> None:
    before = canonical(source)
    witness = Witness()
    report = clone_brand(context_of(uuid.uuid4(), witness=witness), **ASKED)
    clone = cloned()
    assert canonical(clone) == expected(source)
    assert canonical(source) == before
    assert (clone.state, clone.name, clone.domain) == ("active", REQUEST.name, "frost.test")
    assert clone.cloned_from == source
    assert cloning.counts(clone) == cloning.counts(source) == report["rows"]
    assert report["files"] == MediaFile.objects.filter(brand=source).count()
    assert report["bytes"] == sum(MediaFile.objects.filter(brand=source).values_list("size", flat=True))
    assert report["seconds"] > 0
    assert report["changed"]["domain"] == [DOMAIN, "frost.test"]
    assert report["changed"]["palette"] == {
        "primary": ["#a8452c", "#1f5673"],
        "accent": ["#e9a23b", "#e07a5f"],
    }
    assert report["changed"]["links"] > 50
    assert report["changed"]["names"] > 10
    assert report["changed"]["links_to_nowhere"] == 0


def test_progress_only_grows_and_ends_at_its_total(source: Brand, small_chunks: None) -> None:
    witness = Witness()
    cloning.clone_brand(context_of(uuid.uuid4(), witness=witness), REQUEST)
    done = [done for done, _, _ in witness.said]
    assert done == sorted(done)
    assert len({total for _, total, _ in witness.said}) == 1
    assert witness.said[-1][0] == witness.said[-1][1]
    assert "products 30 of 30" in [text for _, _, text in witness.said]


def test_killed_after_each_single_word_it_ends_with_the_same_result(source: Brand, small_chunks: None) -> None:
    whole = without_seconds(cloning.clone_brand(context_of(uuid.uuid4()), REQUEST))
    remove_clone()
    job, attempts, seconds = uuid.uuid4(), 0, 0.0
    while True:
        attempts += 1
        try:
            # The first two of an attempt tell of its start; killed at the fourth, it has done a chunk or two.
            report = cloning.clone_brand(context_of(job, attempts, Witness(killing(3, ("progress", "log")))), REQUEST)
        except Killed:
            run = CloneRun.objects.get(job_id=job)
            assert cloned().state == ("cloning" if run.report is None else "active")
            assert run.seconds >= seconds
            seconds = run.seconds
            assert attempts < 500
        else:
            break
    assert attempts > 20
    assert canonical(cloned()) == expected(source)
    assert without_seconds(report) == whole
    assert report["attempts"] in (attempts, attempts - 1)  # the last death may have come after the last commit
    assert report["seconds"] == pytest.approx(seconds, abs=0.05)
    assert Brand.objects.count() == 2


@pytest.mark.parametrize("share", range(12))
def test_killed_at_any_word_it_goes_on_and_ends_with_the_same_result(
    source: Brand, small_chunks: None, share: int
) -> None:
    words = 0

    def count(what: str) -> None:
        nonlocal words
        words += 1

    cloning.clone_brand(context_of(uuid.uuid4(), witness=Witness(count)), REQUEST)
    remove_clone()
    job = uuid.uuid4()
    with pytest.raises(Killed):
        cloning.clone_brand(context_of(job, 1, Witness(killing(after=words * share // 12))), REQUEST)
    witness = Witness()
    cloning.clone_brand(context_of(job, 2, witness), REQUEST)
    assert canonical(cloned()) == expected(source)
    assert len(witness.said) <= words


@pytest.mark.parametrize(
    ("module", "name"), [("os", "fsync"), ("pathlib.Path", "replace"), ("apps.firebrand.media", "verify")]
)
@pytest.mark.parametrize("at", [1, 4, 7, 33])
def test_killed_within_a_chunk_it_does_the_chunk_again(
    source: Brand, small_chunks: None, monkeypatch: pytest.MonkeyPatch, module: str, name: str, at: int
) -> None:
    """Between the file and its row: the file is there, the transaction is not."""
    job, calls = uuid.uuid4(), 0
    original = {"fsync": os.fsync, "replace": Path.replace, "verify": media.verify}[name]

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(*arguments)
        if calls == at:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", dying)
        with pytest.raises(Killed):
            cloning.clone_brand(context_of(job), REQUEST)
    cloning.clone_brand(context_of(job, 2), REQUEST)
    assert canonical(cloned()) == expected(source)


def test_a_job_that_is_run_again_after_its_end_answers_with_the_same_report(source: Brand) -> None:
    job = uuid.uuid4()
    report = cloning.clone_brand(context_of(job), REQUEST)
    assert cloning.clone_brand(context_of(job, 2), REQUEST) == report
    assert Brand.objects.count() == 2


def test_an_attempt_that_was_taken_for_dead_may_not_write_beside_its_successor(
    source: Brand, small_chunks: None
) -> None:
    job = uuid.uuid4()
    heard = 0
    newest: dict[str, Any] = {}

    def hook(what: str) -> None:
        nonlocal heard
        heard += 1
        if heard == 20:  # the old attempt pauses here, alive, while the new one does the whole work
            newest.update(cloning.clone_brand(context_of(job, 2), REQUEST))

    with pytest.raises(Superseded) as caught:
        cloning.clone_brand(context_of(job, 1, Witness(hook)), REQUEST)
    assert caught.value.code == "superseded"
    assert newest["attempts"] == 2
    assert canonical(cloned()) == expected(source)
    assert cloned().state == "active"


def test_an_attempt_that_begins_late_is_refused(source: Brand) -> None:
    job = uuid.uuid4()
    with pytest.raises(Killed):
        cloning.clone_brand(context_of(job, 3, Witness(killing(after=9))), REQUEST)
    for late in (2, 3):
        with pytest.raises(Superseded):
            cloning.clone_brand(context_of(job, late), REQUEST)
    cloning.clone_brand(context_of(job, 4), REQUEST)
    assert canonical(cloned()) == expected(source)


def test_a_damaged_source_file_fails_clearly_stays_invisible_and_is_mended_by_a_later_attempt(
    source: Brand, small_chunks: None
) -> None:
    job = uuid.uuid4()
    damaged = MediaFile.objects.filter(brand=source).order_by("pk")[17]
    whole = damaged.file.read_bytes()
    damaged.file.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(MediaDamaged, match=damaged.path) as caught:
        cloning.clone_brand(context_of(job), REQUEST)
    assert caught.value.code == "media_damaged"
    assert cloned().state == "failed"
    damaged.file.unlink()
    with pytest.raises(MediaDamaged, match="missing"):
        cloning.clone_brand(context_of(job, 2), REQUEST)
    damaged.file.write_bytes(whole)
    report = cloning.clone_brand(context_of(job, 3), REQUEST)
    assert report["attempts"] == 3
    assert cloned().state == "active"
    assert canonical(cloned()) == expected(source)


def test_a_copy_that_is_lost_before_the_check_is_copied_again(source: Brand, small_chunks: None) -> None:
    job = uuid.uuid4()

    def lose(what: str) -> None:
        run = CloneRun.objects.filter(job_id=job).first()
        if run and run.step == "verify_rows":
            raise Killed

    with pytest.raises(Killed):
        cloning.clone_brand(context_of(job, 1, Witness(lose)), REQUEST)
    files = [file.file for file in MediaFile.objects.filter(brand=cloned()).order_by("pk")]
    files[3].unlink()
    files[8].write_bytes(b"no picture")
    (cloned().folder / "products" / ".leftover.jpg.part").write_bytes(b"half a picture")
    witness = Witness()
    cloning.clone_brand(context_of(job, 2, witness), REQUEST)
    assert canonical(cloned()) == expected(source)
    assert len([line for level, line in witness.lines if level == "warning"]) == 2


@pytest.mark.parametrize("at", [0, 1, 9, 25, 40])
def test_cancelled_it_leaves_no_row_and_no_file(source: Brand, small_chunks: None, media_root: Path, at: int) -> None:
    class Cancelling(Witness):
        checks = 0

        @property
        def cancelled(self) -> bool:
            self.checks += 1
            return self.checks > at

    job = uuid.uuid4()
    before = canonical(source)
    with pytest.raises(JobCancelled):
        cloning.clone_brand(context_of(job, 1, Cancelling()), REQUEST)
    assert list(Brand.objects.values_list("slug", flat=True)) == ["ember"]
    for model in (Category, Product, Price, Translation, MediaFile, ProductImage, Template, Page, BrandSetting):
        assert not model._default_manager.exclude(brand=source).exists()
    assert not (media_root / "firebrand" / "frost").exists()
    assert CloneRun.objects.get(job_id=job).step == "cancelled"
    assert canonical(source) == before
    cloning.clone_brand(context_of(uuid.uuid4()), REQUEST)
    assert canonical(cloned()) == expected(source)


def test_a_source_that_is_changed_meanwhile_gives_no_brand(source: Brand, small_chunks: None) -> None:
    def meddle(what: str) -> None:
        run = CloneRun.objects.filter(source=source).first()
        if run and run.step == "media":
            Price.objects.filter(brand=source, currency="GBP").delete()

    with pytest.raises(CloneDiffers, match="prices") as caught:
        cloning.clone_brand(context_of(uuid.uuid4(), witness=Witness(meddle)), REQUEST)
    assert caught.value.code == "clone_differs"
    assert cloned().state == "failed"


def test_a_row_of_the_source_that_refers_to_another_brand_is_not_copied(source: Brand) -> None:
    other = seed_brand(
        name="Other", domain="other.test", slug="other", palette=PRESETS["moss"], products=3, seed="other"
    )
    product = Product.objects.filter(brand=source).first()
    assert product is not None
    product.category = Category.objects.filter(brand=other)[0]
    product.save()
    with pytest.raises(CloneDiffers, match="refers to nothing"):
        cloning.clone_brand(context_of(uuid.uuid4()), REQUEST)
    assert cloned().state == "failed"


def test_a_link_of_the_source_that_leads_nowhere_is_counted_and_leads_nowhere(source: Brand) -> None:
    page = Page.objects.get(brand=source, slug="about")
    page.html += '<a href="/p/999999-gone">gone</a><img src="/media/firebrand/ember/gone.jpg">'
    page.save()
    report = cloning.clone_brand(context_of(uuid.uuid4()), REQUEST)
    assert report["changed"]["links_to_nowhere"] == 2
    html = Page.objects.get(brand=cloned(), slug="about").html
    assert '<a href="/p/0-gone">' in html
    assert "999999" not in html


def test_a_child_that_was_made_before_its_parent_keeps_its_place_in_the_tree(source: Brand) -> None:
    child = Category.objects.filter(brand=source, parent=None).order_by("pk")[0]
    child.parent = Category.objects.create(brand=source, slug="all", name="Everything")
    child.save()
    cloning.clone_brand(context_of(uuid.uuid4()), REQUEST)
    assert canonical(cloned()) == expected(source)


@pytest.mark.parametrize(
    "change", [{"slug": "ember", "domain": "free.test"}, {"slug": "free", "domain": "ember.example"}]
)
def test_a_slug_or_domain_that_is_taken_is_refused(source: Brand, change: dict[str, str]) -> None:
    with pytest.raises(BrandExists) as caught:
        clone_brand(context_of(uuid.uuid4()), **{**ASKED, **change})
    assert caught.value.code == "brand_exists"
    assert Brand.objects.count() == 1
    assert not CloneRun.objects.exists()


@pytest.mark.parametrize("state", ["cloning", "failed"])
def test_only_an_active_brand_can_be_cloned(source: Brand, state: str) -> None:
    Brand.objects.update(state=state)
    with pytest.raises(UnknownBrand) as caught:
        cloning.clone_brand(context_of(uuid.uuid4()), REQUEST)
    assert caught.value.code == "unknown_brand"
    with pytest.raises(UnknownBrand):
        clone_brand(context_of(uuid.uuid4()), **{**ASKED, "brand": "no such"})


def job_row(state: str) -> uuid.UUID:
    job = Job.objects.create(
        namespace="firebrand.development", task="firebrand.clone_brand", queue="firebrand", state=state
    )
    return job.id


@pytest.mark.parametrize("state", ["running", "ready", "waiting"])
def test_a_clone_in_the_making_holds_its_name(source: Brand, state: str) -> None:
    with pytest.raises(Killed):
        cloning.clone_brand(context_of(job_row(state), 1, Witness(killing(after=12))), REQUEST)
    with pytest.raises(BrandExists):
        cloning.clone_brand(context_of(job_row("running")), REQUEST)


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
def test_the_remains_of_a_clone_whose_job_has_ended_give_way(source: Brand, small_chunks: None, state: str) -> None:
    dead = job_row(state)
    with pytest.raises(Killed):
        cloning.clone_brand(context_of(dead, 1, Witness(killing(after=60))), REQUEST)
    remains = cloned().pk
    cloning.clone_brand(context_of(job_row("running")), REQUEST)
    assert cloned().pk != remains
    assert canonical(cloned()) == expected(source)
    with pytest.raises(BrandExists):
        cloning.clone_brand(context_of(dead, 2), REQUEST)


@committed
def test_of_two_jobs_that_want_the_same_name_at_once_one_gets_it(media_root: Path) -> None:
    source = seed(5)
    jobs = [job_row("running"), job_row("running")]
    both = threading.Barrier(2)
    results: dict[uuid.UUID, object] = {}

    def run(job: uuid.UUID) -> None:
        both.wait(20)
        try:
            results[job] = cloning.clone_brand(context_of(job), REQUEST)
        except BrandExists as error:
            results[job] = error.code
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(isinstance(result, dict) for result in results.values()) == [False, True]
    assert "brand_exists" in results.values()
    assert canonical(cloned()) == expected(source)


@committed
def test_of_two_attempts_at_once_the_newer_one_makes_the_brand(media_root: Path) -> None:
    """Real connections: the old attempt sits in the middle of a chunk, its transaction open, when the new one comes."""
    source = seed(30)
    job = uuid.uuid4()
    in_chunk, go_on = threading.Event(), threading.Event()
    outcome: list[object] = []
    original = media.copy

    def slow_copy(*arguments: Any) -> None:
        original(*arguments)
        if threading.current_thread().name == "old" and not in_chunk.is_set():
            in_chunk.set()
            assert go_on.wait(30)

    def run_old() -> None:
        try:
            cloning.clone_brand(context_of(job, 1), REQUEST)
        except Superseded as error:
            outcome.append(error.code)
        finally:
            connections.close_all()

    media.copy = slow_copy
    try:
        old = threading.Thread(target=run_old, name="old")
        old.start()
        assert in_chunk.wait(30)
        timer = threading.Timer(0.2, go_on.set)  # the new attempt is by then waiting for the old one's lock
        timer.start()
        report = cloning.clone_brand(context_of(job, 2), REQUEST)
        old.join(60)
        timer.join()
    finally:
        media.copy = original
        go_on.set()
    assert outcome == ["superseded"]
    assert report["attempts"] == 2
    assert canonical(cloned()) == expected(source)


WORKER = """
import json, os, sys, uuid
import django
django.setup()
from django.apps import apps
from django.conf import settings
settings.MEDIA_ROOT = sys.argv[1]
from apps.firebrand.tasks import clone_brand
from apps.jobs import JobContext

class Transport:
    cancelled = False
    def progress(self, done, total, text):
        os.write(1, b"p")
    def log(self, level, text):
        pass

context = JobContext(uuid.UUID(sys.argv[2]), int(sys.argv[3]), "firebrand.development", Transport())
clone_brand(context, **json.loads(sys.argv[4]))
os.write(1, b"!")
"""


@pytest.mark.chaos
@committed
def test_kill_9_again_and_again_gives_one_whole_brand(media_root: Path) -> None:
    source = seed(300)
    job = uuid.uuid4()
    environment = {**os.environ, "DATABASE_URL": conninfo_of(settings.DATABASES["default"])}
    for attempt in range(1, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(media_root), str(job), str(attempt), json.dumps(ASKED)],
            stdout=subprocess.PIPE,
            env=environment,
            cwd=REPOSITORY,
        )
        assert process.stdout is not None
        with process.stdout as stream:
            said = stream.read(2 + attempt % 7)  # dies after as many words, somewhere in the chunk that follows
            process.send_signal(signal.SIGKILL)
            said += stream.read()
        process.wait(30)
        if b"!" in said:
            break
        over = CloneRun.objects.filter(job_id=job, report__isnull=False).exists()
        assert cloned().state == ("active" if over else "cloning")
    else:
        pytest.fail("it never came to an end")
    assert attempt > 3
    assert cloned().state == "active"
    assert canonical(cloned()) == expected(source)
    assert Brand.objects.count() == 2


FORKING = """
import json, os, signal, sys, time, uuid
import django
django.setup()
from django.conf import settings
from django.db import connections
settings.MEDIA_ROOT = sys.argv[1]
from apps.firebrand.tasks import clone_brand
from apps.jobs import JobContext
from apps.jobs.steps import KeptSteps

class Transport:
    cancelled = False
    def progress(self, done, total, text): pass
    def log(self, level, text): pass

def attempt(job, number, arguments):
    context = JobContext(job, number, "firebrand.development", Transport(), KeptSteps(job, number))
    clone_brand(context, **arguments)
    os._exit(0)

for line in sys.stdin:
    job, number, arguments, seconds = json.loads(line)
    connections.close_all()
    child = os.fork()
    if child == 0:
        attempt(uuid.UUID(job), number, arguments)
    began = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
"""


@pytest.mark.chaos
@pytest.mark.slow
@committed
def test_killed_at_twenty_random_moments_it_ends_each_time_with_the_same_brand(media_root: Path) -> None:
    source = seed(120)
    environment = {**os.environ, "DATABASE_URL": conninfo_of(settings.DATABASES["default"])}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(media_root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(job: Job, number: int, seconds: float | None) -> tuple[int, float]:
        assert process.stdin is not None
        assert process.stdout is not None
        Job.objects.filter(id=job.id).update(state="running", attempt=number)
        process.stdin.write((json.dumps([str(job.id), number, ASKED, seconds]) + "\n").encode())
        process.stdin.flush()
        code, took = json.loads(process.stdout.readline())
        return int(code), float(took)

    def job() -> Job:
        return Job.objects.create(namespace="firebrand.development", task="firebrand.clone_brand", queue="firebrand")

    with process, process.stdin, process.stdout:
        first = job()
        code, whole = run(first, 1, None)
        assert code == 0
        want = expected(source)
        assert canonical(cloned()) == want
        assert set(Step.objects.filter(job=first).values_list("name", flat=True)) == set(cloning.STEPS)
        gone_on = 0
        for _ in range(20):
            remove_clone()
            again = job()
            code, _ = run(again, 1, random.uniform(0, whole))
            assert code in (0, -signal.SIGKILL)
            kept = set(Step.objects.filter(job=again).values_list("name", flat=True))
            assert run(again, 2, None)[0] == 0
            assert canonical(cloned()) == want
            assert set(Step.objects.filter(job=again, attempt=1).values_list("name", flat=True)) == kept
            gone_on += bool(kept)
        assert gone_on > 3
        assert Brand.objects.count() == 2
