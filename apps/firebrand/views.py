"""The brands, each brand as a small shop, and its media files."""

import mimetypes
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Count, Prefetch, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.cache import get_conditional_response, patch_cache_control
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.firebrand import cloning
from apps.firebrand.forms import CloneForm
from apps.firebrand.links import Link, Localiser
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
)
from apps.firebrand.palettes import ROLES
from apps.firebrand.tasks import clone_brand
from apps.jobs.models import Progress
from apps.jobs.submit import submit
from msgweb.errors import MsgwebError

BRANDS_ON_A_PAGE = 12
PRODUCTS_ON_A_PAGE = 24
PICTURES_OF_A_BRAND = 5
REPORTED = tuple(step.table for step in cloning.STEPS.values() if step.counts)
#: A file of up to this many bytes is answered in one piece: under ASGI Django feeds a file object through a thread,
#: block by block, which costs more than reading a picture.
ONE_PIECE = 1024 * 1024


def namespace() -> str:
    """Where the clones that are asked for on these pages wait."""
    return str(getattr(settings, "FIREBRAND_NAMESPACE", "firebrand.development"))


# The brands


@dataclass(slots=True)
class Card:
    """A brand as it stands in the list."""

    brand: Brand
    products: int
    pictures: list[ProductImage]
    logo: MediaFile | None
    form: CloneForm | None
    run: CloneRun | None
    progress: Progress | None
    removable: bool


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def brands(request: HttpRequest) -> HttpResponse:
    """The list of brands; POST asks for a clone of one and leads to its job."""
    asked: dict[int, CloneForm] = {}
    if request.method == "POST":
        brand = get_object_or_404(Brand, slug=request.POST.get("brand", ""), state=Brand.State.ACTIVE)
        form = CloneForm(brand, request.POST)
        if form.is_valid():
            try:
                with transaction.atomic():
                    job = submit(
                        namespace(), clone_brand.name, form.arguments(), requested_by=str(request.user.get_username())
                    )
            except MsgwebError as error:
                form.add_error(None, error.message)
            else:
                return redirect("console:job", job.pk)
        asked[brand.pk] = form
    page = Paginator(Brand.objects.order_by("-created_at", "-pk"), BRANDS_ON_A_PAGE).get_page(request.GET.get("page"))
    cards = _cards(list(page.object_list), asked)
    context = {"page": page, "cards": cards, "asked": bool(asked)}
    return render(request, "firebrand/brands.html", context, status=400 if asked else 200)


def _cards(brands: list[Brand], asked: dict[int, CloneForm]) -> list[Card]:
    of = {"brand__in": brands}
    products = dict(Product.objects.filter(**of).values_list("brand").annotate(Count("pk")))
    logos = {file.brand_id: file for file in MediaFile.objects.filter(**of, kind=MediaFile.Kind.LOGO)}
    runs = {run.target_id: run for run in CloneRun.objects.filter(target__in=brands)}
    progress = Progress.objects.in_bulk([run.job_id for run in runs.values()])
    cards = []
    for brand in brands:
        active = brand.state == Brand.State.ACTIVE
        run = runs.get(brand.pk)
        first = Product.objects.filter(brand=brand).order_by("pk").values("pk")[:PICTURES_OF_A_BRAND]
        cards.append(
            Card(
                brand=brand,
                products=products.get(brand.pk, 0),
                pictures=list(
                    ProductImage.objects.filter(product__in=first, position=0)
                    .select_related("media")
                    .order_by("product")
                )
                if active
                else [],
                logo=logos.get(brand.pk) if active else None,
                form=asked.get(brand.pk) or CloneForm(brand) if active else None,
                run=run,
                progress=progress.get(run.job_id) if run and not active else None,
                removable=run is not None and not active and cloning.is_over(run),
            )
        )
    return cards


@require_POST
@login_required
def remove(request: HttpRequest, slug: str) -> HttpResponse:
    """Remove the remains of a clone whose job has ended without success."""
    brand = get_object_or_404(Brand, slug=slug)
    if cloning.remove_leftovers(brand.slug, brand.domain):
        messages.success(request, f"Removed what was left of {brand.name}.")
    else:
        messages.error(request, f"{brand.name} cannot be removed: only the remains of a clone that failed can.")
    return redirect("firebrand:brands")


# A brand as a shop


class Shop:
    """A brand's own look around each of its pages."""

    def __init__(self, slug: str) -> None:
        self.brand = get_object_or_404(Brand.objects.select_related("cloned_from"), slug=slug, state=Brand.State.ACTIVE)
        self._localiser = Localiser(self.brand.domain, self.address)

    def address(self, link: Link) -> str:
        """Where something of the brand's is found here."""
        here: list[Any] = [self.brand.slug]
        match link.kind:
            case "product":
                return reverse("firebrand:product", args=[*here, link.key])
            case "category":
                return reverse("firebrand:category", args=[*here, link.key])
            case "page":
                # A slug of another form than the address can hold is of no page either.
                slug = str(link.key) if str(link.key).replace("-", "").replace("_", "").isalnum() else "-"
                return reverse("firebrand:page", args=[*here, slug])
            case "media":
                return reverse("firebrand:media", args=[str(link.key).removeprefix("firebrand/") or "-"])
            case _:
                return reverse("firebrand:brand", args=here)

    def html(self, html: str) -> SafeString:
        """HTML of the brand's own, its links leading to this site.

        It is the brand's and shown as it is; what a clone puts into it (name, domain, colours) is checked and escaped
        when it is written. No script in it runs: the site's Content-Security-Policy allows none.
        """
        return mark_safe(self._localiser.html(html))  # noqa: S308

    def css(self, css: str) -> str:
        """A style sheet of the brand's own, its addresses leading to this site."""
        return self._localiser.css(css)

    def context(self) -> dict[str, Any]:
        """What every page of the shop needs."""
        templates = dict(
            Template.objects.filter(brand=self.brand, slug__in=["header.html", "footer.html"]).values_list(
                "slug", "content"
            )
        )
        title = BrandSetting.objects.filter(brand=self.brand, key="shop.title").values_list("value", flat=True).first()
        run = CloneRun.objects.filter(target=self.brand).first()
        report = run.report if run else None
        return {
            "brand": self.brand,
            "shop_title": title or self.brand.name,
            "header": self.html(templates.get("header.html", "")),
            "footer": self.html(templates.get("footer.html", "")),
            "run": run,
            "report": report,
            "rows": sum(report["rows"].values()) if report else 0,
            "tables": [(table.replace("_", " "), report["rows"][table]) for table in REPORTED] if report else [],
            "recoloured": [
                (role, report["changed"]["palette"][role]) for role in ROLES if role in report["changed"]["palette"]
            ]
            if report
            else [],
            "departments": Category.objects.filter(brand=self.brand, parent=None).order_by("position", "pk"),
        }

    def render(self, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        """A page of the shop."""
        return render(request, template, {**self.context(), **context})


@require_safe
@login_required
def brand(request: HttpRequest, slug: str) -> HttpResponse:
    """The shop's front: everything that it sells."""
    shop = Shop(slug)
    pages = Page.objects.filter(brand=shop.brand).order_by("position", "pk")[:24]
    products = Product.objects.filter(brand=shop.brand)
    return _catalogue(request, shop, products, {"pages": pages, "front": True})


@require_safe
@login_required
def category(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """A category and what is below it."""
    shop = Shop(slug)
    chosen = get_object_or_404(Category.objects.select_related("parent"), brand=shop.brand, pk=pk)
    children = list(Category.objects.filter(brand=shop.brand, parent=chosen).order_by("position", "pk"))
    products = Product.objects.filter(brand=shop.brand, category__in=[chosen, *children])
    shelves = children or list(
        Category.objects.filter(brand=shop.brand, parent=chosen.parent).order_by("position", "pk")
    )
    return _catalogue(request, shop, products, {"category": chosen, "shelves": shelves})


def _catalogue(request: HttpRequest, shop: Shop, products: QuerySet[Product], context: dict[str, Any]) -> HttpResponse:
    """Products in the order of their ids, a page after or before one of them."""
    after, before = (_number(request.GET.get(name)) for name in ("after", "before"))
    shown = products.prefetch_related(
        Prefetch("images", ProductImage.objects.filter(position=0).select_related("media"), to_attr="pictures"),
        Prefetch("prices", Price.objects.filter(price_list="retail", currency="EUR"), to_attr="retail"),
    )
    if before:
        found = list(shown.filter(pk__lt=before).order_by("-pk")[: PRODUCTS_ON_A_PAGE + 1])
        rest = len(found) > PRODUCTS_ON_A_PAGE
        found = found[:PRODUCTS_ON_A_PAGE][::-1]
        earlier, later = rest, True
    else:
        found = list(shown.filter(pk__gt=after).order_by("pk")[: PRODUCTS_ON_A_PAGE + 1])
        later = len(found) > PRODUCTS_ON_A_PAGE
        found = found[:PRODUCTS_ON_A_PAGE]
        earlier = bool(after)
    context |= {
        "products": found,
        "count": products.count(),
        "before": found[0].pk if found and earlier else None,
        "after": found[-1].pk if found and later else None,
        "begun": bool(after or before),
    }
    return shop.render(request, "firebrand/catalogue.html", context)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 19 else 0


@require_safe
@login_required
def product(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """A product with its pictures, prices and texts in all languages."""
    shop = Shop(slug)
    found = get_object_or_404(Product.objects.select_related("category__parent"), brand=shop.brand, pk=pk)
    context = {
        "product": found,
        "pictures": found.images.select_related("media").order_by("position"),
        "prices": found.prices.order_by("-price_list", "currency"),
        "translations": found.translations.order_by("language"),
        "beside": Product.objects.filter(brand=shop.brand, category=found.category, pk__gt=found.pk)
        .order_by("pk")
        .prefetch_related(
            Prefetch("images", ProductImage.objects.filter(position=0).select_related("media"), to_attr="pictures"),
            Prefetch("prices", Price.objects.filter(price_list="retail", currency="EUR"), to_attr="retail"),
        )[:4],
    }
    return shop.render(request, "firebrand/product.html", context)


@require_safe
@login_required
def page(request: HttpRequest, slug: str, page: str) -> HttpResponse:
    """A page of the brand's, its links leading to this site."""
    shop = Shop(slug)
    found = get_object_or_404(Page, brand=shop.brand, slug=page)
    return shop.render(request, "firebrand/page.html", {"page": found, "html": shop.html(found.html)})


@require_safe
@login_required
def theme(request: HttpRequest, slug: str) -> HttpResponse:
    """The brand's style sheet."""
    shop = Shop(slug)
    content = Template.objects.filter(brand=shop.brand, slug="theme.css").values_list("content", flat=True).first()
    response = HttpResponse(shop.css(content or ""), content_type="text/css; charset=utf-8")
    patch_cache_control(response, private=True, max_age=60)
    return response


@require_safe
@login_required
def media(request: HttpRequest, path: str) -> HttpResponseBase:
    """A media file of an active brand.

    Only what is on record is served, by exactly that path, so no path can lead elsewhere.
    """
    known = MediaFile.objects.filter(path=f"firebrand/{path}", brand__state=Brand.State.ACTIVE)
    file = None if "\0" in path else known.first()
    if file is None:
        raise Http404("there is no such media file")
    etag = f'"{file.sha256}"'
    response: HttpResponseBase | None = get_conditional_response(request, etag=etag)
    if response is None:
        content_type = mimetypes.guess_type(file.path)[0] or "application/octet-stream"
        try:
            if file.size <= ONE_PIECE:
                response = HttpResponse(file.file.read_bytes(), content_type=content_type)
            else:
                response = FileResponse(file.file.open("rb"), content_type=content_type)
        except FileNotFoundError:
            raise Http404(f"media file {file.path} is missing") from None
        # What is opened on its own (an SVG, an HTML file) may not run anything in this site's name.
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    response.headers["ETag"] = etag
    patch_cache_control(response, private=True, max_age=300)
    return response
