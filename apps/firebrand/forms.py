"""The form that asks for a clone."""

from typing import Any

from django import forms
from django.db.models import Q
from django.http import QueryDict
from django.utils.text import slugify

from apps.firebrand.models import Brand
from apps.firebrand.palettes import PRESETS
from apps.firebrand.requests import SLUG_LIMIT, valid_domain, valid_name, valid_slug
from msgweb.errors import MsgwebError

KEEP = "keep"


class CloneForm(forms.Form):
    """Name, domain and colours of a new brand. What the task checks again, so that a mistake is seen at once."""

    name = forms.CharField(
        max_length=80, widget=forms.TextInput(attrs={"placeholder": "Frost & Fir", "autocomplete": "off"})
    )
    domain = forms.CharField(
        required=False,
        max_length=253,
        widget=forms.TextInput(
            attrs={
                "placeholder": "made from the name",
                "autocomplete": "off",
                "autocapitalize": "none",
                "inputmode": "url",
            }
        ),
    )
    palette = forms.ChoiceField(choices=[(KEEP, "as it is"), *((name, name) for name in PRESETS)], initial=KEEP)

    def __init__(self, brand: Brand, data: QueryDict | None = None) -> None:
        super().__init__(data, auto_id=f"clone-{brand.pk}-%s")
        self._brand = brand

    @property
    def swatches(self) -> list[tuple[str, str, list[tuple[str, str]], bool]]:
        """Value, label, colours and whether it is chosen, for each choice of colours."""
        chosen = self["palette"].value()
        offered = [(KEEP, "as it is", self._brand.colours)]
        offered += [(name, name, list(palette.items())) for name, palette in PRESETS.items()]
        return [(value, label, colours, value == chosen) for value, label, colours in offered]

    def clean_name(self) -> str:
        try:
            name = valid_name(self.cleaned_data["name"])
            valid_slug(self._slug(name))
        except MsgwebError as error:
            raise forms.ValidationError(error.message) from error
        return name

    def clean_domain(self) -> str:
        domain = self.cleaned_data["domain"]
        if not domain and "name" in self.cleaned_data:
            domain = f"{self._slug(self.cleaned_data['name'])}.example"
        if not domain:
            return ""
        try:
            return valid_domain(domain)
        except MsgwebError as error:
            raise forms.ValidationError(error.message) from error

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = self.cleaned_data
        if "name" in data and "domain" in data:
            taken = Brand.objects.filter(Q(slug=self._slug(data["name"])) | Q(domain=data["domain"]))
            if taken.exclude(state=Brand.State.FAILED).exists():
                raise forms.ValidationError("A brand with that name or domain exists already.")
        return data

    def arguments(self) -> dict[str, Any]:
        """The arguments of the task `firebrand.clone_brand`."""
        data = self.cleaned_data
        arguments = {"brand": self._brand.slug, "name": data["name"], "domain": data["domain"]}
        if data["palette"] != KEEP:
            arguments["palette"] = PRESETS[data["palette"]]
        return arguments

    @staticmethod
    def _slug(name: str) -> str:
        return slugify(name)[:SLUG_LIMIT].strip("-")
