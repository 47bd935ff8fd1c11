"""A brand: its catalogue, its pages, its media files, and the run that makes one brand out of another.

Each row belongs to one brand by `brand`, also where that follows from another reference: a clone copies, counts and
checks table by table without a join. Rows that others refer to (`Category`, `Product`, `MediaFile`) remember in
`source_id` the row that they were copied from; `(brand, source_id)` is unique, so it is at once the map from old to new
ids and the proof that no row was copied twice.
"""

from pathlib import Path
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from apps.firebrand.palettes import ROLES


def source_is_unique(name: str) -> models.UniqueConstraint:
    """The constraint that makes `source_id` a map; rows that were not copied have none."""
    return models.UniqueConstraint(fields=["brand", "source_id"], name=name)


class Brand(models.Model):
    """A shop of its own: name, domain, colours, and everything that refers to it."""

    class State(models.TextChoices):
        ACTIVE = "active", "active"
        CLONING = "cloning", "being cloned"
        FAILED = "failed", "failed"

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=80)
    domain = models.CharField(max_length=253, unique=True, help_text="The host that its pages link to, in lower case.")
    palette = models.JSONField(help_text='Colours by role, such as {"primary": "#a8452c"}.')
    state = models.CharField(max_length=10, choices=State.choices, default=State.ACTIVE)
    cloned_from = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="clones")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def colours(self) -> list[tuple[str, str]]:
        """Role and colour, in the order of the roles; JSON objects in the database keep none."""
        return [(role, self.palette[role]) for role in ROLES if role in self.palette]

    @property
    def folder(self) -> Path:
        """Where its files live; nothing of another brand does."""
        return Path(settings.MEDIA_ROOT) / "firebrand" / self.slug


class BrandRow(models.Model):
    """What belongs to a brand. The index serves the copying in chunks: the next rows of a brand after an id."""

    brand = models.ForeignKey(Brand, on_delete=models.CASCADE, db_index=False, related_name="+")

    class Meta:
        abstract = True
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["brand", "id"], name="firebrand_%(class)s_next")]


class BrandSetting(BrandRow):
    """One setting of a shop: texts, switches, addresses, colours."""

    key = models.CharField(max_length=60)
    value = models.JSONField()

    class Meta(BrandRow.Meta):
        constraints = [models.UniqueConstraint(fields=["brand", "key"], name="firebrand_setting_key")]

    def __str__(self) -> str:
        return self.key


class Category(BrandRow):
    """A shelf of the shop; a tree by `parent`."""

    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="children")
    slug = models.SlugField(max_length=80)
    name = models.CharField(max_length=120)
    position = models.PositiveIntegerField(default=0)
    source_id = models.BigIntegerField(null=True, editable=False)

    class Meta(BrandRow.Meta):
        constraints = [
            models.UniqueConstraint(fields=["brand", "slug"], name="firebrand_category_slug"),
            source_is_unique("firebrand_category_source"),
        ]
        verbose_name_plural = "categories"

    def __str__(self) -> str:
        return self.name


class Product(BrandRow):
    """What is sold."""

    category = models.ForeignKey(Category, on_delete=models.CASCADE, related_name="products")
    sku = models.CharField(max_length=40)
    slug = models.SlugField(max_length=120)
    name = models.CharField(max_length=160)
    description = models.TextField()
    stock = models.PositiveIntegerField(default=0)
    listed_at = models.DateTimeField(default=timezone.now)
    source_id = models.BigIntegerField(null=True, editable=False)

    class Meta(BrandRow.Meta):
        constraints = [
            models.UniqueConstraint(fields=["brand", "slug"], name="firebrand_product_slug"),
            models.UniqueConstraint(fields=["brand", "sku"], name="firebrand_product_sku"),
            source_is_unique("firebrand_product_source"),
        ]

    def __str__(self) -> str:
        return self.name


class Price(BrandRow):
    """A product's price in one price list and one currency."""

    product = models.ForeignKey(Product, on_delete=models.CASCADE, db_index=False, related_name="prices")
    price_list = models.CharField(max_length=20)
    currency = models.CharField(max_length=3)
    amount = models.DecimalField(max_digits=12, decimal_places=2)

    class Meta(BrandRow.Meta):
        constraints = [
            models.UniqueConstraint(fields=["product", "price_list", "currency"], name="firebrand_price_key")
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


class Translation(BrandRow):
    """A product's or a category's texts in one further language; the row itself holds the English ones."""

    product = models.ForeignKey(
        Product, on_delete=models.CASCADE, null=True, blank=True, db_index=False, related_name="translations"
    )
    category = models.ForeignKey(
        Category, on_delete=models.CASCADE, null=True, blank=True, db_index=False, related_name="translations"
    )
    language = models.CharField(max_length=8)
    name = models.CharField(max_length=160)
    description = models.TextField(blank=True)

    class Meta(BrandRow.Meta):
        constraints = [
            models.UniqueConstraint(fields=["product", "language"], name="firebrand_translation_of_product"),
            models.UniqueConstraint(fields=["category", "language"], name="firebrand_translation_of_category"),
            models.CheckConstraint(
                condition=models.Q(product=None, category__isnull=False)
                | models.Q(product__isnull=False, category=None),
                name="firebrand_translation_of_one_thing",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.language})"


class MediaFile(BrandRow):
    """A file on disk, under MEDIA_ROOT, in its brand's own folder."""

    class Kind(models.TextChoices):
        PRODUCT = "product"
        BANNER = "banner"
        LOGO = "logo"

    path = models.CharField(max_length=300, unique=True, help_text="Relative to MEDIA_ROOT.")
    sha256 = models.CharField(max_length=64, help_text="In hexadecimal.")
    size = models.PositiveBigIntegerField(help_text="In bytes.")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    alt = models.CharField(max_length=200, blank=True)
    source_id = models.BigIntegerField(null=True, editable=False)

    class Meta(BrandRow.Meta):
        constraints = [source_is_unique("firebrand_mediafile_source")]

    def __str__(self) -> str:
        return self.path

    @property
    def file(self) -> Path:
        """Where its bytes are."""
        return Path(settings.MEDIA_ROOT) / self.path

    def get_absolute_url(self) -> str:
        """Where a browser finds it."""
        return reverse("firebrand:media", args=[self.path.removeprefix("firebrand/")])


class ProductImage(BrandRow):
    """Which pictures show a product, in order."""

    product = models.ForeignKey(Product, on_delete=models.CASCADE, db_index=False, related_name="images")
    media = models.ForeignKey(MediaFile, on_delete=models.CASCADE, related_name="+")
    position = models.PositiveIntegerField(default=0)

    class Meta(BrandRow.Meta):
        constraints = [models.UniqueConstraint(fields=["product", "position"], name="firebrand_image_position")]

    def __str__(self) -> str:
        return f"picture {self.position} of product {self.product_id}"


class Template(BrandRow):
    """A part of the shop's look: a style sheet, a header, a footer. `*.css` or `*.html` by its slug."""

    slug = models.CharField(max_length=60)
    content = models.TextField()

    class Meta(BrandRow.Meta):
        constraints = [models.UniqueConstraint(fields=["brand", "slug"], name="firebrand_template_slug")]

    def __str__(self) -> str:
        return self.slug


class Page(BrandRow):
    """A page of content. Its HTML links to the brand's own things by domain and id; see `links` for the grammar."""

    slug = models.SlugField(max_length=100)
    title = models.CharField(max_length=200)
    html = models.TextField()
    position = models.PositiveIntegerField(default=0)

    class Meta(BrandRow.Meta):
        constraints = [models.UniqueConstraint(fields=["brand", "slug"], name="firebrand_page_slug")]

    def __str__(self) -> str:
        return self.title


class CloneRun(models.Model):
    """How far one clone job has come. One job, one run, at most one brand.

    `step` and `cursor` are written in the transaction that writes the rows they speak of, so a run whose worker died
    goes on exactly behind the last row that was committed.
    """

    job_id = models.UUIDField(primary_key=True)
    source = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="+")
    target = models.OneToOneField(Brand, on_delete=models.SET_NULL, null=True, related_name="clone_run")
    attempt = models.PositiveIntegerField(help_text="The job's newest attempt here: older ones may not write any more.")
    step = models.CharField(max_length=40)
    cursor = models.BigIntegerField(default=0, help_text="The source row's id behind which the step goes on.")
    done = models.PositiveBigIntegerField(default=0, help_text="In units of work; see cloning.STEPS.")
    total = models.PositiveBigIntegerField(default=0, help_text="In units of work.")
    counters = models.JSONField(default=dict, help_text="What was copied and changed so far, for the report.")
    seconds = models.FloatField(default=0, help_text="Worked, over all attempts, up to the last commit.")
    report = models.JSONField(null=True, help_text="The job's result, once the brand is active.")
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"clone {self.job_id} at {self.step}"
