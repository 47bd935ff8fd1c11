"""Namespaces and access keys in Django's admin."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from apps.accounts.models import AccessKey, Namespace


@admin.register(Namespace)
class NamespaceAdmin(admin.ModelAdmin):
    """A namespace's name is what clients log in to, so it is fixed once made."""

    list_display = ("name", "created_at")
    search_fields = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Namespace | None = None) -> tuple[str, ...]:
        return ("name", "created_at") if obj else ("created_at",)


@admin.register(AccessKey)
class AccessKeyAdmin(admin.ModelAdmin):
    """Makes keys and revokes them. A passcode is shown once, in the message after saving."""

    list_display = ("login", "title", "default_namespace", "created_at", "revoked_at")
    list_filter = ("default_namespace", "revoked_at")
    search_fields = ("login", "title")
    fields = ("title", "default_namespace", "namespaces", "login", "created_at", "revoked_at")
    readonly_fields = ("login", "created_at", "revoked_at")
    filter_horizontal = ("namespaces",)
    actions = ("revoke",)

    def save_model(self, request: HttpRequest, obj: AccessKey, form: ModelForm, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        passcode = obj.renew_passcode()
        super().save_model(request, obj, form, change)
        self.message_user(
            request,
            f"login {obj.login}, passcode {passcode}: note the passcode now, it is not kept and not shown again",
            messages.WARNING,
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A key is revoked, not deleted: whoever reads old log lines must still be able to tell whose it was."""
        return False

    @admin.action(description="Revoke the selected access keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Refuse these keys from now on."""
        count = queryset.filter(revoked_at=None).update(revoked_at=timezone.now())
        self.message_user(request, f"{count} access keys revoked")
