"""`manage.py seed_firebrand`."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from apps.firebrand import media
from apps.firebrand.links import references
from apps.firebrand.models import Brand, Category, MediaFile, Page, Price, Product, Translation

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media_root(settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path / "media"


def seed(*arguments: str) -> str:
    out = StringIO()
    call_command("seed_firebrand", *arguments, stdout=out)
    return out.getvalue()


def test_it_makes_a_brand_of_the_size_asked_for() -> None:
    assert "with 40 products" in seed("--products", "40")
    brand = Brand.objects.get(slug="ember-oak")
    assert (brand.name, brand.domain, brand.state) == ("Ember & Oak", "ember-oak.example", "active")
    of = {"brand": brand}
    assert Product.objects.filter(**of).count() == 40
    assert Price.objects.filter(**of).count() == 160
    assert set(Price.objects.filter(**of).values_list("currency", flat=True)) == {"EUR", "USD", "GBP"}
    assert Translation.objects.filter(**of, product__isnull=False).count() == 120
    assert Category.objects.filter(**of, parent__isnull=False).count() == 11
    for file in MediaFile.objects.filter(**of):
        media.verify(file)


def test_what_its_pages_refer_to_is_there() -> None:
    seed("--products", "60")
    brand = Brand.objects.get()
    found = references(brand.domain, *Page.objects.values_list("html", flat=True))
    assert found.products and found.products <= set(Product.objects.values_list("pk", flat=True))
    assert found.categories and found.categories <= set(Category.objects.values_list("pk", flat=True))
    assert found.pages and found.pages <= set(Page.objects.values_list("slug", flat=True))
    assert found.media and found.media <= set(MediaFile.objects.values_list("path", flat=True))


def test_the_same_seed_makes_the_same_brand() -> None:
    seed("--products", "12", "--name", "One", "--seed", "7")
    seed("--products", "12", "--name", "Two", "--seed", "7")
    seed("--products", "12", "--name", "Three", "--seed", "8")
    one, two, three = (
        [
            list(
                Product.objects.filter(brand__name=name)
                .order_by("pk")
                .values_list("sku", "name", "description", "stock")
            ),
            list(MediaFile.objects.filter(brand__name=name).order_by("pk").values_list("sha256", flat=True)),
        ]
        for name in ("One", "Two", "Three")
    )
    assert one == two
    assert one != three


def test_one_product_is_a_brand_too() -> None:
    seed("--products", "1")
    assert Product.objects.count() == 1


def test_if_empty_makes_no_second_brand() -> None:
    seed("--products", "3", "--if-empty")
    assert "none was made" in seed("--products", "3", "--if-empty", "--name", "Other")
    assert Brand.objects.count() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--products", "0"],
        ["--products", "many"],
        ["--domain", "x"],
        ["--name", ""],
        ["--slug", "A b"],
        ["--palette", "neon"],
    ],
)
def test_bad_input_is_one_clear_sentence(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        seed(*arguments)
    assert not Brand.objects.exists()


def test_a_brand_that_exists_is_not_made_again() -> None:
    seed("--products", "3")
    with pytest.raises(CommandError, match="exists already"):
        seed("--products", "3")
