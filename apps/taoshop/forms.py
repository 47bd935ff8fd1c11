"""The checkout form: who orders, and how many of each product."""

import uuid
from typing import Any

from django import forms
from django.forms import BoundField
from django.http import QueryDict

from apps.taoshop.models import Product

MOST_OF_ONE = 99


class CheckoutForm(forms.Form):
    """Name, e-mail, a quantity for each product, and the token that makes a double submit one order."""

    token = forms.UUIDField(widget=forms.HiddenInput, error_messages={"required": "Please send the form again."})
    name = forms.CharField(
        label="Your name",
        max_length=100,
        widget=forms.TextInput({"autocomplete": "name"}),
        error_messages={"required": "Please tell us your name."},
    )
    email = forms.EmailField(
        label="E-mail",
        widget=forms.EmailInput({"autocomplete": "email"}),
        error_messages={
            "required": "Please tell us where to send the confirmation.",
            "invalid": "That is no e-mail address; it looks like ann@example.org.",
        },
    )

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data, initial={"token": uuid.uuid4()}, use_required_attribute=False, label_suffix="")
        self.products = list(Product.objects.all())
        for product in self.products:
            self.fields[f"quantity_{product.pk}"] = forms.IntegerField(
                label=f"How many of {product.title}",
                required=False,
                min_value=0,
                max_value=MOST_OF_ONE,
                widget=forms.NumberInput({"data-price-cents": product.price_cents, "inputmode": "numeric"}),
                error_messages={
                    "invalid": "A whole number, please.",
                    "min_value": "None at least.",
                    "max_value": f"{MOST_OF_ONE} at most; write to us if you need more.",
                },
            )

    def clean(self) -> dict[str, Any]:
        """At least one of something."""
        cleaned = super().clean() or self.cleaned_data
        wrong = any(name.startswith("quantity_") for name in self.errors)
        if not wrong and not self.quantities():
            self.add_error(None, "Please choose at least one product.")
        return cleaned

    def quantities(self) -> dict[Product, int]:
        """How many of each product that is ordered."""
        chosen = {product: self.cleaned_data.get(f"quantity_{product.pk}") for product in self.products}
        return {product: quantity for product, quantity in chosen.items() if quantity}

    def shelf(self) -> list[tuple[Product, BoundField]]:
        """The products with their fields, for the page."""
        return [(product, self[f"quantity_{product.pk}"]) for product in self.products]

    def renew(self) -> None:
        """Give a form that is shown again a fresh token: sending it once more is a second order."""
        self.data = {**self.data, "token": str(uuid.uuid4())}
