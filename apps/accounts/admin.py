"""Namespaces, access keys, permissions and the audit log in Django's admin. The console has pages of its own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from apps.accounts.actors import acting_as
from apps.accounts.models import AccessKey, AuditEntry, ClientCertificate, Namespace, Permission


def _by_who_asks(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def audited(self: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return view(self, request, *args, **kwargs)
        with acting_as(request.user.get_username()):
            return view(self, request, *args, **kwargs)

    return audited


class AuditedAdmin(admin.ModelAdmin):
    """Whose changes the audit log names."""

    changeform_view = _by_who_asks(admin.ModelAdmin.changeform_view)
    changelist_view = _by_who_asks(admin.ModelAdmin.changelist_view)
    delete_view = _by_who_asks(admin.ModelAdmin.delete_view)


@admin.register(Namespace)
class NamespaceAdmin(AuditedAdmin):
    """A namespace's name is what clients log in to, so it is fixed once made."""

    list_display = ("name", "created_at")
    search_fields = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Namespace | None = None) -> tuple[str, ...]:
        return ("name", "created_at") if obj else ("created_at",)


class PermissionInline(admin.TabularInline):
    """What a key, a person or a group may do to destinations."""

    model = Permission
    extra = 0


class KeyPermissionInline(PermissionInline):
    fields = ("namespace", "pattern", "send", "receive", "manage")


class PersonPermissionInline(PermissionInline):
    fields = ("namespace", "pattern", "send", "receive", "manage")
    verbose_name = "permission on destinations"
    verbose_name_plural = "permissions on destinations"


class CertificateInline(admin.TabularInline):
    """The names in TLS certificates that log in as this key or person."""

    model = ClientCertificate
    extra = 0
    fields = ("name",)


@admin.register(AccessKey)
class AccessKeyAdmin(AuditedAdmin):
    """Makes keys and revokes them. A passcode is shown once, in the message after saving."""

    list_display = ("login", "title", "default_namespace", "restricted", "created_at", "expires_at", "revoked_at")
    list_filter = ("default_namespace", "restricted", "revoked_at")
    search_fields = ("login", "title")
    fields = (
        *("title", "default_namespace", "namespaces", "restricted", "expires_at"),
        *("max_connections", "max_subscriptions", "max_sends_per_second", "max_unacked"),
        *("login", "created_at", "revoked_at"),
    )
    readonly_fields = ("login", "created_at", "revoked_at")
    filter_horizontal = ("namespaces",)
    inlines = (KeyPermissionInline, CertificateInline)
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


@admin.register(AuditEntry)
class AuditEntryAdmin(admin.ModelAdmin):
    """Can be read, and not be changed."""

    list_display = ("at", "actor", "action", "kind", "subject")
    list_filter = ("kind", "action")
    search_fields = ("actor", "subject")
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


admin.site.unregister([User, Group])


@admin.register(User)
class AuditedUserAdmin(AuditedAdmin, UserAdmin):
    """People, with what they may do to destinations."""

    inlines = (PersonPermissionInline, CertificateInline)
    user_change_password = _by_who_asks(UserAdmin.user_change_password)


@admin.register(Group)
class AuditedGroupAdmin(AuditedAdmin, GroupAdmin):
    """Groups of people, with what they may do to destinations."""

    inlines = (PersonPermissionInline,)
