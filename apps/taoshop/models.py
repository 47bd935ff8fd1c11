"""What the shop sells and what was ordered. Prices are whole cents."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone


def euros(cents: int) -> str:
    """`1234` as `€12.34`."""
    return f"€{cents // 100:,}.{cents % 100:02d}"


class Product(models.Model):
    """Something to buy. Its picture is `static/taoshop/<sku>.svg`."""

    sku = models.SlugField(unique=True)
    title = models.CharField(max_length=100)
    blurb = models.CharField(max_length=200)
    price_cents = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    position = models.PositiveSmallIntegerField(default=0, help_text="The order on the page.")

    class Meta:
        ordering = ["position", "title"]

    def __str__(self) -> str:
        return self.title

    @property
    def price(self) -> str:
        """The price, for people."""
        return euros(self.price_cents)

    @property
    def picture(self) -> str:
        """The picture's name among the static files."""
        return f"taoshop/{self.sku}.svg"


class Order(models.Model):
    """An order as it was placed; it never changes.

    `token` comes from the form that it was placed with: the same form, sent twice, is one order.
    """

    token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    email = models.EmailField()
    total_cents = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"order {self.number}"

    def get_absolute_url(self) -> str:
        """The customer's own page; its address cannot be guessed."""
        return reverse("taoshop:thanks", args=[self.token])

    @property
    def number(self) -> int:
        """What the order is called in mails and on the picking list."""
        return 1000 + self.pk

    @property
    def total(self) -> str:
        """The total, for people."""
        return euros(self.total_cents)


class OrderLine(models.Model):
    """So many of a product, at the price and under the title of that day."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="+")
    title = models.CharField(max_length=100)
    quantity = models.PositiveSmallIntegerField(validators=[MinValueValidator(1)])
    price_cents = models.PositiveIntegerField()

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["order", "product"], name="taoshop_one_line_a_product")]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.title}"

    @property
    def total(self) -> str:
        """What the line costs, for people."""
        return euros(self.quantity * self.price_cents)
