"""Makes a believable brand of any size: rows by `bulk_create`, pictures drawn, all from one seed.

Files first, then all rows in one transaction: a brand is there as a whole or not at all.
"""

import random
from collections.abc import Iterable
from html import escape

from django.db import IntegrityError, transaction
from django.utils.text import slugify

from apps.firebrand import media, pictures
from apps.firebrand.assortment import DEPARTMENTS, LANGUAGES, PRICE_LISTS, Item, Words, items
from apps.firebrand.errors import BrandExists
from apps.firebrand.models import (
    Brand,
    BrandSetting,
    Category,
    MediaFile,
    Page,
    Price,
    Product,
    ProductImage,
    Template,
    Translation,
)
from apps.firebrand.palettes import Palette

BATCH = 1000
STORY_EVERY = 25  # products for each story page


def seed_brand(*, name: str, domain: str, slug: str, palette: Palette, products: int, seed: str) -> Brand:
    """Make a brand.

    Raises:
        BrandExists: the slug or the domain is taken.
    """
    if Brand.objects.filter(slug=slug).exists() or Brand.objects.filter(domain=domain).exists():
        raise BrandExists(f"a brand with the slug {slug} or the domain {domain} exists already")
    brand = Brand(slug=slug, name=name, domain=domain, palette=palette)
    assortment = list(items(products, seed))
    files = _draw(brand, assortment, seed)
    try:
        with transaction.atomic():
            brand.save()
            _Rows(brand, assortment, files, random.Random(f"{seed}/pages")).write()
    except IntegrityError as error:
        raise BrandExists(f"a brand with the slug {slug} or the domain {domain} exists already") from error
    return brand


def _draw(brand: Brand, assortment: list[Item], seed: str) -> list[MediaFile]:
    """All pictures: one for each product, in its order, then the banners, then the logo."""
    pictures_folder = brand.folder / "products"
    for folder in (pictures_folder, brand.folder / "banners"):
        folder.mkdir(parents=True, exist_ok=True)
    files = []

    def add(kind: MediaFile.Kind, data: bytes, alt: str, *path: str) -> None:
        file = MediaFile(
            path=media.path_in(brand, *path), sha256=media.checksum(data), size=len(data), kind=kind, alt=alt
        )
        media.write(file.file, data)
        files.append(file)

    for item in assortment:
        data = pictures.product(item.shape, brand.palette, f"{seed}/{item.number}")
        add(MediaFile.Kind.PRODUCT, data, item.texts["en"][0], "products", f"{item.sku.lower()}.jpg")
    for department, (words, _) in enumerate(DEPARTMENTS):
        data = pictures.banner(brand.palette, f"{seed}/banner/{department}")
        add(MediaFile.Kind.BANNER, data, f"{words.en} by {brand.name}", "banners", f"{slugify(words.en)}.jpg")
    add(MediaFile.Kind.LOGO, pictures.logo(brand.palette, f"{seed}/logo"), brand.name, "logo.png")
    return files


class _Rows:
    """The rows of a brand that is being made, in the order in which they need each other."""

    def __init__(self, brand: Brand, assortment: list[Item], files: list[MediaFile], rng: random.Random) -> None:
        self._brand = brand
        self._assortment = assortment
        self._files = files
        self._rng = rng
        self._departments: list[Category] = []
        self._shelves: dict[tuple[int, int], Category] = {}
        self._products: list[Product] = []

    def write(self) -> None:
        self._write_categories()
        self._write_products()
        for file in self._files:
            file.brand = self._brand
        MediaFile.objects.bulk_create(self._files, batch_size=BATCH)
        ProductImage.objects.bulk_create(self._images(), batch_size=BATCH)
        Template.objects.bulk_create(
            Template(brand=self._brand, slug=slug, content=content) for slug, content in self._templates()
        )
        Page.objects.bulk_create(self._pages(), batch_size=BATCH)
        BrandSetting.objects.bulk_create(
            BrandSetting(brand=self._brand, key=key, value=value) for key, value in self._settings().items()
        )

    def _category(self, words: Words, parent: Category | None, position: int) -> Category:
        return Category(brand=self._brand, parent=parent, slug=slugify(words.en), name=words.en, position=position)

    def _write_categories(self) -> None:
        self._departments = [self._category(words, None, at) for at, (words, _) in enumerate(DEPARTMENTS)]
        Category.objects.bulk_create(self._departments)
        for department, (_, shelves) in enumerate(DEPARTMENTS):
            for at, shelf in enumerate(shelves):
                category = self._category(shelf.name, self._departments[department], at)
                self._shelves[department, at] = category
        Category.objects.bulk_create(self._shelves.values())
        named = [(category, DEPARTMENTS[at][0]) for at, category in enumerate(self._departments)]
        named += [(category, DEPARTMENTS[d][1][at].name) for (d, at), category in self._shelves.items()]
        Translation.objects.bulk_create(
            Translation(brand=self._brand, category=category, language=language, name=words.in_language(language))
            for category, words in named
            for language in LANGUAGES
        )

    def _write_products(self) -> None:
        self._products = [
            Product(
                brand=self._brand,
                category=self._shelves[item.department, item.shelf],
                sku=item.sku,
                slug=f"{slugify(item.texts['en'][0])}-{item.number}",
                name=item.texts["en"][0],
                description=item.texts["en"][1],
                stock=item.stock,
            )
            for item in self._assortment
        ]
        Product.objects.bulk_create(self._products, batch_size=BATCH)
        sold = list(zip(self._products, self._assortment, strict=True))
        Price.objects.bulk_create(
            (
                Price(brand=self._brand, product=product, price_list=price_list, currency=currency, amount=amount)
                for product, item in sold
                for (price_list, currency), amount in zip(PRICE_LISTS, item.prices, strict=True)
            ),
            batch_size=BATCH,
        )
        Translation.objects.bulk_create(
            (
                Translation(
                    brand=self._brand,
                    product=product,
                    language=language,
                    name=item.texts[language][0],
                    description=item.texts[language][1],
                )
                for product, item in sold
                for language in LANGUAGES
            ),
            batch_size=BATCH,
        )

    def _images(self) -> list[ProductImage]:
        """Each product's own picture; every fourth is also seen beside its neighbour on the shelf."""
        images = []
        for at, product in enumerate(self._products):
            images.append(ProductImage(brand=self._brand, product=product, media=self._files[at]))
            neighbour = at + len(self._shelves)
            if at % 4 == 0 and neighbour < len(self._products):
                images.append(
                    ProductImage(brand=self._brand, product=product, media=self._files[neighbour], position=1)
                )
        return images

    # Pages and templates

    @property
    def _origin(self) -> str:
        return f"https://{self._brand.domain}"

    def _banner(self, department: int) -> MediaFile:
        return self._files[len(self._assortment) + department]

    def _product_link(self, product: Product, *, absolute: bool) -> str:
        return f"{self._origin if absolute else ''}/p/{product.pk}-{product.slug}"

    def _category_link(self, category: Category, *, absolute: bool) -> str:
        return f"{self._origin if absolute else ''}/c/{category.pk}-{category.slug}"

    def _figure(self, at: int) -> str:
        """A product in the text: its picture, linked, with its number for the scripts of a shop."""
        product, file = self._products[at], self._files[at]
        name, source = escape(product.name), f"{self._origin}/media/{file.path}"
        return (
            f'<figure class="shop-figure" data-product="{product.pk}">'
            f'<a href="{self._product_link(product, absolute=at % 2 == 0)}">'
            f'<img src="{source}" srcset="{source} 1x" alt="{name}" width="240" height="240" loading="lazy"></a>'
            f"<figcaption>{name}</figcaption></figure>"
        )

    def _figures(self, chosen: Iterable[int]) -> str:
        return f'<div class="shop-figures">{"".join(map(self._figure, chosen))}</div>'

    def _banner_image(self, department: int, origin: str, alt: str) -> str:
        return (
            f'<img class="shop-banner" src="{origin}/media/{self._banner(department).path}" alt="{escape(alt)}" '
            'width="960" height="320">'
        )

    def _rule(self) -> str:
        """A line with a dot in it, in the brand's own colours."""
        palette = self._brand.palette
        return (
            '<svg class="shop-rule" viewBox="0 0 240 12" width="240" height="12" aria-hidden="true">'
            f'<path d="M0 6h108M132 6h108" stroke="{palette["secondary"]}"/>'
            f'<circle cx="120" cy="6" r="5" fill="{palette["accent"]}"/></svg>'
        )

    def _pages(self) -> list[Page]:
        name, domain, origin = escape(self._brand.name), self._brand.domain, self._origin
        pages = [
            (
                "home",
                f"Welcome to {self._brand.name}",
                self._banner_image(0, origin, self._brand.name)
                + f"<p>{name} makes quiet things for the home, few at a time. Begin with "
                + ", ".join(
                    f'<a href="{self._category_link(category, absolute=True)}" data-category="{category.pk}">'
                    f"{escape(category.name.lower())}</a>"
                    for category in self._departments
                )
                + f', or read <a href="{origin}/pages/about">who we are</a>.</p>{self._rule()}'
                + self._figures(range(min(4, len(self._products)))),
            ),
            (
                "about",
                f"About {self._brand.name}",
                self._banner_image(1, "", f"Where {self._brand.name} began")
                + f"<p>{name} began with one kiln and one lamp. Today some thirty workshops make for us, and each "
                f"of them signs what it makes.</p>{self._rule()}"
                f"<p>We sell at {domain} only. Have a question? Write to "
                f'<a href="mailto:hello@{domain}">hello@{domain}</a>, or see <a href="/pages/shipping">how '
                "we ship</a>.</p>",
            ),
            (
                "shipping",
                "Shipping and returns",
                f"<p>{name} ships from one store, three times a week, by train where there is one. What you do "
                f'not love you send back within 60 days: <a href="{origin}/pages/contact#returns">how to</a>.</p>',
            ),
            (
                "contact",
                "Contact",
                f'<p>{name}, customer care, <a href="mailto:care@{domain}?subject=Order">care@{domain}</a>.</p>'
                f'<h2 id="returns">Returns</h2><p>Write to returns@{domain}; the label comes within the hour. '
                f'Our papers: <a href="{origin}/pages/imprint">imprint</a>. We are not related to '
                '<a href="https://www.example.org/p/1-lamps">other makers of lamps</a>.</p>',
            ),
            (
                "imprint",
                "Imprint",
                f"<p>{name}. Responsible for www.{domain} and the shops below {domain}: the owners of {name}.</p>",
            ),
        ]
        for department, category in enumerate(self._departments):
            chosen = [at for at, item in enumerate(self._assortment) if item.department == department][:4]
            pages.append(
                (
                    f"guide-{category.slug}",
                    f"A guide to {category.name.lower()}",
                    f"{self._banner_image(department, origin, category.name)}"
                    f'<p>What to look for, and what we would buy ourselves from <a href="'
                    f'{self._category_link(category, absolute=False)}">{escape(category.name.lower())}</a>.</p>'
                    f"{self._figures(chosen)}{self._rule()}<p>Back"
                    f' to <a href="{origin}/pages/home">{name}</a>.</p>',
                )
            )
        pages += [self._story(number) for number in range(len(self._products) // STORY_EVERY)]
        return [
            Page(brand=self._brand, slug=slug, title=title, html=html, position=at)
            for at, (slug, title, html) in enumerate(pages)
        ]

    def _story(self, number: int) -> tuple[str, str, str]:
        """A page about some products of the assortment, drawn by lot."""
        chosen = self._rng.sample(range(len(self._products)), min(4, len(self._products)))
        first = self._products[chosen[0]]
        series = first.name.split(" ")[0]
        links = ", ".join(
            f'<a href="{self._product_link(self._products[at], absolute=at % 3 != 0)}?from=story-{number}&amp;at={at}">'
            f"{escape(self._products[at].name)}</a>"
            for at in chosen
        )
        return (
            f"story-{number:04d}",
            f"A room with {series}",
            f"<p>We asked a friend of {escape(self._brand.name)} to furnish one room around "
            f'<a href="{self._product_link(first, absolute=True)}">{series}</a>. It took an afternoon, {len(chosen)} '
            f"things and a good deal of tea.</p>{self._figures(chosen)}{self._rule()}<p>Seen here: {links}. More at "
            f'<a href="{self._origin}/pages/home">{self._brand.domain}</a>.</p>',
        )

    def _templates(self) -> list[tuple[str, str]]:
        palette, name, domain = self._brand.palette, escape(self._brand.name), self._brand.domain
        roles = "\n".join(f"  --brand-{role}: {colour};" for role, colour in palette.items())
        logo = self._files[-1]
        shelves = " ".join(
            f'<a href="{self._category_link(category, absolute=True)}">{escape(category.name)}</a>'
            for category in self._departments
        )
        return [
            (
                "theme.css",
                f"/* The colours of {domain}. */\n.shop {{\n{roles}\n}}\n"
                f".shop ::selection {{ background: {palette['accent']}; color: {palette['text']}; }}\n"
                ".shop-hero { background-image: "
                f"url({self._origin}/media/{self._banner(0).path}); }}\n",
            ),
            (
                "header.html",
                f'<a class="shop-mark" href="{self._origin}/"><img src="{self._origin}/media/{logo.path}" alt="" '
                f'width="40" height="40"><span>{name}</span></a>'
                f'<nav class="shop-shelves" aria-label="Departments">{shelves}</nav>',
            ),
            (
                "footer.html",
                f'<p>{name} · <a href="{self._origin}/pages/about">About</a> · '
                f'<a href="/pages/shipping">Shipping</a> · <a href="/pages/contact">Contact</a> · '
                f'<a href="{self._origin}/pages/imprint">Imprint</a> · '
                f'<a href="mailto:hello@{domain}">hello@{domain}</a></p>',
            ),
        ]

    def _settings(self) -> dict[str, object]:
        name, domain = self._brand.name, self._brand.domain
        return {
            "shop.title": f"{name}: quiet things for the home",
            "shop.url": f"https://{domain}/",
            "shop.languages": ["en", *LANGUAGES],
            "shop.currencies": sorted({currency for _, currency in PRICE_LISTS}),
            "mail.from": f"{name} <hello@{domain}>",
            "mail.orders": f"orders@{domain}",
            "checkout.free_shipping_from": {"EUR": "80.00", "USD": "90.00", "GBP": "70.00"},
            "checkout.guest": True,
            "theme.colours": dict(self._brand.palette),
            "theme.logo": f"https://{domain}/media/{self._files[-1].path}",
            "legal.imprint": f"https://www.{domain}/pages/imprint",
        }
