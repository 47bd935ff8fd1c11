"""The forms of keys and permissions."""

from datetime import datetime
from typing import Any

from django import forms
from django.contrib.auth.models import Group, User
from django.utils import timezone

from apps.accounts.models import AccessKey, ClientCertificate, Namespace, Permission

MOMENT = "%Y-%m-%dT%H:%M"


class KeyForm(forms.ModelForm):
    """An access key, but for its secret. A new one may do only what its permissions say, unless somebody decides so."""

    class Meta:
        model = AccessKey
        fields = (
            *("title", "default_namespace", "namespaces", "restricted", "expires_at"),
            *("max_connections", "max_subscriptions", "max_sends_per_second", "max_unacked"),
        )
        widgets = {
            "namespaces": forms.CheckboxSelectMultiple,
            "expires_at": forms.DateTimeInput({"type": "datetime-local"}, MOMENT),
        }
        labels = {
            "restricted": "Only what its permissions say",
            "namespaces": "Other namespaces",
            "expires_at": "Expires at (UTC)",
            "max_sends_per_second": "Sends a second",
            "max_unacked": "Unacked messages",
            "max_connections": "Connections",
            "max_subscriptions": "Subscriptions",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance.pk:
            self.initial.setdefault("restricted", True)

    def clean_expires_at(self) -> datetime | None:
        """An expiry that is past already is a mistake; a key is ended by revoking it."""
        moment: datetime | None = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now() and moment != self.instance.expires_at:
            raise forms.ValidationError("this is past; revoke the key instead")
        return moment


class PermissionForm(forms.ModelForm):
    """A permission of the holder that the instance names."""

    class Meta:
        model = Permission
        fields: tuple[str, ...] = ("pattern", "namespace", "send", "receive", "manage")
        widgets = {"pattern": forms.TextInput({"placeholder": "queue/orders.*", "autocomplete": "off"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["namespace"]
        assert isinstance(field, forms.ModelChoiceField)
        field.empty_label = "each namespace"
        key: AccessKey | None = self.instance.key
        if key is not None:
            field.queryset = Namespace.objects.filter(name__in=key.may_enter())


class HolderPermissionForm(PermissionForm):
    """A permission of a person or a group that is chosen in the form."""

    class Meta(PermissionForm.Meta):
        fields = ("user", "group", *PermissionForm.Meta.fields)

    user = forms.ModelChoiceField(User.objects.order_by("username"), required=False, label="Person", empty_label="–")
    group = forms.ModelChoiceField(Group.objects.order_by("name"), required=False, empty_label="–")

    def clean(self) -> dict[str, Any] | None:
        """Either a person or a group."""
        cleaned = super().clean()
        if bool(self.cleaned_data.get("user")) == bool(self.cleaned_data.get("group")):
            raise forms.ValidationError("choose a person or a group")
        return cleaned


class CertificateForm(forms.ModelForm):
    """A name in a TLS certificate that logs in as the key that the instance names."""

    class Meta:
        model = ClientCertificate
        fields = ("name",)
        widgets = {"name": forms.TextInput({"placeholder": "shop-7.example.com", "autocomplete": "off"})}
