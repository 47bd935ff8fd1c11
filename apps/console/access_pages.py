"""Access keys, permissions and the audit log, for staff whom Django's permissions on these models allow it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import Group
from django.contrib.auth.models import Permission as ConsolePermission
from django.core.exceptions import PermissionDenied
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.accounts.actors import acting_as
from apps.accounts.models import AccessKey, AuditEntry, ClientCertificate, Namespace, Permission
from apps.console.access_forms import CertificateForm, HolderPermissionForm, KeyForm, PermissionForm

#: Entries of the audit log on a page.
LOG_ROWS = 100

View = Callable[..., HttpResponse]


def staff_with(permission: str) -> Callable[[View], View]:
    """For staff with that permission of Django's; others are told so. Strangers are asked to log in.

    What a POST changes is theirs in the audit log.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            user = request.user
            if not user.is_staff or not user.has_perm(permission):
                raise PermissionDenied
            if request.method != "POST":
                return view(request, *args, **kwargs)
            with acting_as(user.get_username()):
                return view(request, *args, **kwargs)

        return never_cache(login_required(guarded))

    return decorate


@require_safe
@staff_with("accounts.view_accesskey")
def keys(request: HttpRequest) -> HttpResponse:
    """All keys, those in use first."""
    found = AccessKey.objects.select_related("default_namespace").prefetch_related("namespaces", "permissions")
    now = timezone.now()
    rows = sorted(found, key=lambda key: (_state(key) != "in use", key.title.lower(), key.login))
    context = {"keys": [(key, _state(key)) for key in rows], "now": now}
    return render(request, "console/access_keys.html", context)


def _state(key: AccessKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= timezone.now() else "in use"


@require_http_methods(["GET", "HEAD", "POST"])
@staff_with("accounts.add_accesskey")
def new_key(request: HttpRequest) -> HttpResponse:
    """Make a key. Its passcode is on the page that answers, and nowhere else: not in a session, not in a message."""
    form = KeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        passcode = form.instance.renew_passcode()
        key = form.save()
        return _key_page(request, key, passcode=passcode)
    return render(request, "console/access_key_new.html", {"form": form})


@require_http_methods(["GET", "HEAD", "POST"])
@staff_with("accounts.view_accesskey")
def key_page(request: HttpRequest, login: str) -> HttpResponse:
    """A key with its permissions; a POST changes its settings."""
    shown = get_object_or_404(AccessKey, login=login)
    if request.method != "POST":
        return _key_page(request, shown)
    if not request.user.has_perm("accounts.change_accesskey"):
        raise PermissionDenied
    form = KeyForm(request.POST, instance=shown)
    if not form.is_valid():
        return _key_page(request, get_object_or_404(AccessKey, login=login), form=form)
    form.save()
    messages.success(request, "Saved. Open connections follow within seconds.")
    return redirect("console:access_key", login)


def _key_page(request: HttpRequest, key: AccessKey, *, passcode: str = "", **forms: "ModelForm[Any]") -> HttpResponse:
    context = {
        "key": key,
        "state": _state(key),
        "passcode": passcode,
        "permissions": key.permissions.select_related("namespace"),
        "certificates": key.certificates.all(),
        "may_change": request.user.has_perm("accounts.change_accesskey"),
        "form": KeyForm(instance=key),
        "permission_form": PermissionForm(instance=Permission(key=key)),
        "certificate_form": CertificateForm(),
        **forms,
    }
    return render(request, "console/access_key.html", context)


@require_POST
@staff_with("accounts.change_accesskey")
def renew(request: HttpRequest, login: str) -> HttpResponse:
    """Draw another passcode; the old one ends."""
    key = get_object_or_404(AccessKey, login=login, revoked_at=None)
    passcode = key.renew_passcode()
    key.save(update_fields=["passcode_hash"])
    return _key_page(request, key, passcode=passcode)


@require_POST
@staff_with("accounts.change_accesskey")
def revoke(request: HttpRequest, login: str) -> HttpResponse:
    """End a key, for good."""
    if AccessKey.objects.filter(login=login, revoked_at=None).update(revoked_at=timezone.now()):
        messages.success(request, "The key is revoked. Its open connections end within seconds.")
    return redirect("console:access_key", login)


@require_POST
@staff_with("accounts.change_accesskey")
def add_permission(request: HttpRequest, login: str) -> HttpResponse:
    """One more thing that a key may do."""
    key = get_object_or_404(AccessKey, login=login)
    form = PermissionForm(request.POST, instance=Permission(key=key))
    return _saved(request, form, key, "permission_form")


@require_POST
@staff_with("accounts.change_accesskey")
def remove_permission(request: HttpRequest, login: str, number: int) -> HttpResponse:
    """One thing less that a key may do."""
    Permission.objects.filter(key__login=login, pk=number).delete()
    return redirect("console:access_key", login)


@require_POST
@staff_with("accounts.change_accesskey")
def add_certificate(request: HttpRequest, login: str) -> HttpResponse:
    """A name in a certificate that logs in as this key."""
    key = get_object_or_404(AccessKey, login=login)
    form = CertificateForm(request.POST, instance=ClientCertificate(key=key))
    return _saved(request, form, key, "certificate_form")


@require_POST
@staff_with("accounts.change_accesskey")
def remove_certificate(request: HttpRequest, login: str, number: int) -> HttpResponse:
    """That name logs in no more."""
    ClientCertificate.objects.filter(key__login=login, pk=number).delete()
    return redirect("console:access_key", login)


def _saved(request: HttpRequest, form: "ModelForm[Any]", key: AccessKey, name: str) -> HttpResponse:
    if not form.is_valid():
        return _key_page(request, key, **{name: form})  # type: ignore[arg-type]  # never the passcode
    form.save()
    return redirect("console:access_key", key.login)


@require_http_methods(["GET", "HEAD", "POST"])
@staff_with("accounts.view_permission")
def people(request: HttpRequest) -> HttpResponse:
    """What people and groups may do to destinations; a POST adds to it."""
    form = HolderPermissionForm(request.POST or None)
    if request.method == "POST":
        if not request.user.has_perm("accounts.add_permission"):
            raise PermissionDenied
        if form.is_valid():
            form.save()
            return redirect("console:access_people")
    found = Permission.objects.filter(key=None).select_related("user", "group", "namespace")
    context = {
        "permissions": sorted(found, key=lambda one: (one.user is None, str(one.user or one.group), one.pk)),
        "form": form,
        "may_add": request.user.has_perm("accounts.add_permission"),
        "may_remove": request.user.has_perm("accounts.delete_permission"),
    }
    return render(request, "console/access_people.html", context)


@require_POST
@staff_with("accounts.delete_permission")
def remove_from_person(request: HttpRequest, number: int) -> HttpResponse:
    """One thing less that a person or a group may do."""
    Permission.objects.filter(key=None, pk=number).delete()
    return redirect("console:access_people")


@require_safe
@staff_with("accounts.view_auditentry")
def log(request: HttpRequest) -> HttpResponse:
    """Who changed whose access when, the newest first; pages go by key."""
    entries = AuditEntry.objects.all()
    before, subject = request.GET.get("before", ""), request.GET.get("subject", "").replace("\0", "")
    if before.isascii() and before.isdigit() and len(before) < 19:
        entries = entries.filter(id__lt=int(before))
    if subject:
        entries = entries.filter(subject__icontains=subject)
    found = list(entries[: LOG_ROWS + 1])
    names = _names()
    context = {
        "entries": [
            (
                entry,
                [
                    (field.removesuffix("_id"), _named(names, field, old), _named(names, field, new))
                    for field, old, new in entry.rows()
                ],
            )
            for entry in found[:LOG_ROWS]
        ],
        "older": found[LOG_ROWS - 1].pk if len(found) > LOG_ROWS else None,
        "newest": bool(before),
        "subject": subject,
    }
    return render(request, "console/access_log.html", context)


def _names() -> dict[str, dict[Any, str]]:
    """What the ids in the log's entries stand for, by the name of the column."""
    namespaces = dict(Namespace.objects.values_list("pk", "name"))
    return {
        "namespace_id": namespaces,
        "default_namespace_id": namespaces,
        "group_id": dict(Group.objects.values_list("pk", "name")),
        "permission_id": dict(ConsolePermission.objects.values_list("pk", "codename")),
    }


def _named(names: dict[str, dict[Any, str]], field: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(names.get(field, {}).get(value, value))
