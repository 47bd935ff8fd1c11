"""The console's pages of keys, permissions and the audit log, and who may see and change them."""

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.models import Permission as ConsolePermission
from django.test import Client

from apps.accounts.models import AccessKey, AuditEntry, ClientCertificate, Namespace, Permission
from apps.accounts.permissions import Rule, Verb
from apps.accounts.standings import access_of_key

pytestmark = pytest.mark.django_db

HOME = "shop.test"


@pytest.fixture
def key() -> AccessKey:
    return AccessKey.issue("till", Namespace.objects.create(name=HOME))[0]


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("ada", password="x"))
    return client


def staff(client: Client, *permissions: str, is_staff: bool = True) -> Client:
    """Somebody with these of Django's permissions."""
    user = get_user_model().objects.create_user("rita", password="x", is_staff=is_staff)
    user.user_permissions.set(ConsolePermission.objects.filter(codename__in=permissions))
    client.force_login(user)
    return client


def settings_of(key: AccessKey, **changes: Any) -> dict[str, Any]:
    """The form of a key as its page has it."""
    form = {"title": key.title, "default_namespace": key.default_namespace.pk}
    return {**form, **({"restricted": "on"} if key.restricted else {}), **changes}


def pages_of(key: AccessKey) -> list[str]:
    return ["/access/", "/access/new/", f"/access/keys/{key.login}/", "/access/people/", "/access/log/"]


def test_a_stranger_is_asked_to_log_in_and_who_is_not_staff_is_turned_away(client: Client, key: AccessKey) -> None:
    for path in pages_of(key):
        assert client.get(path)["Location"] == f"/login/?next={path}"
    every = ConsolePermission.objects.values_list("codename", flat=True)
    staff(client, *every, is_staff=False)
    for path in pages_of(key):
        assert client.get(path).status_code == 403
    assert "/access/" not in client.get("/").content.decode()


def test_staff_see_and_change_what_their_permissions_say(client: Client, key: AccessKey) -> None:
    staff(client, "view_accesskey")
    path = f"/access/keys/{key.login}/"
    seen = [client.get(page).status_code for page in pages_of(key)]
    assert seen == [200, 403, 200, 403, 403]
    page = client.get(path).content.decode()
    assert "Revoke" not in page
    assert client.post(path, settings_of(key, title="mine")).status_code == 403
    for action in ("renew/", "revoke/", "permissions/", "certificates/"):
        assert client.post(path + action).status_code == 403
    assert client.post("/access/people/").status_code == 403
    key.refresh_from_db()
    assert (key.title, key.revoked_at) == ("till", None)


def test_a_new_key_shows_its_passcode_once_and_is_restricted_unless_decided_otherwise(admin: Client) -> None:
    home = Namespace.objects.create(name=HOME)
    assert re.search(r'name="restricted"[^>]*checked', admin.get("/access/new/").content.decode())
    form = {"title": "till", "default_namespace": home.pk, "restricted": "on", "max_connections": "5"}
    answer = admin.post("/access/new/", form)
    key = AccessKey.objects.get()
    passcode = re.search(r'id="passcode">([^<]+)<', answer.content.decode())
    assert passcode
    assert AccessKey.authenticate(key.login, passcode[1]) == key
    assert answer["Cache-Control"].startswith("max-age=0, no-cache, no-store")
    assert (key.restricted, key.max_connections) == (True, 5)
    for path in pages_of(key):
        assert passcode[1] not in admin.get(path).content.decode()


def test_a_key_that_cannot_be_is_not_made(admin: Client) -> None:
    home = Namespace.objects.create(name=HOME)
    for wrong in (
        {"title": ""},
        {"default_namespace": "99999"},
        {"max_connections": "0"},
        {"max_unacked": "x"},
        {"expires_at": "2001-01-01T00:00"},
    ):
        answer = admin.post("/access/new/", {"title": "till", "default_namespace": home.pk, **wrong})
        assert "errorlist" in answer.content.decode()
    assert not AccessKey.objects.exists()


def test_permissions_are_given_and_taken(admin: Client, key: AccessKey) -> None:
    path = f"/access/keys/{key.login}/"
    admin.post(path, settings_of(key, restricted="on"))
    admin.post(f"{path}permissions/", {"pattern": "queue/orders.*", "send": "on"})
    key.refresh_from_db()
    assert access_of_key(key).rules == (Rule(None, "queue/orders.*", frozenset({Verb.SEND})),)
    assert "queue/orders.*" in admin.get("/access/").content.decode()
    for wrong in ({"pattern": "orders", "send": "on"}, {"pattern": "queue/x"}, {"pattern": "**", "namespace": "9"}):
        assert "errorlist" in admin.post(f"{path}permissions/", wrong).content.decode()
    number = key.permissions.get().pk
    admin.post(f"/access/people/{number}/remove/")
    assert key.permissions.exists(), "it is no person's"
    admin.post(f"{path}permissions/{number}/remove/")
    assert not key.permissions.exists()


def test_certificates_are_given_and_taken(admin: Client, key: AccessKey) -> None:
    path = f"/access/keys/{key.login}/certificates/"
    admin.post(path, {"name": "shop-7.example.com"})
    certificate = ClientCertificate.objects.get(key=key, name="shop-7.example.com")
    assert "errorlist" in admin.post(path, {"name": "shop-7.example.com"}).content.decode()
    admin.post(f"{path}{certificate.pk}/remove/")
    assert not ClientCertificate.objects.exists()


def test_a_key_gets_a_new_passcode_and_is_revoked_for_good(admin: Client, key: AccessKey) -> None:
    path = f"/access/keys/{key.login}/"
    before = key.passcode_hash
    passcode = re.search(r'id="passcode">([^<]+)<', admin.post(f"{path}renew/").content.decode())
    assert passcode
    assert AccessKey.authenticate(key.login, passcode[1]).passcode_hash != before
    admin.post(f"{path}revoke/")
    key.refresh_from_db()
    moment = key.revoked_at
    assert moment is not None
    admin.post(f"{path}revoke/")
    assert admin.post(f"{path}renew/").status_code == 404
    key.refresh_from_db()
    assert key.revoked_at == moment
    assert "revoked" in admin.get("/access/").content.decode()


def test_people_and_groups_are_given_permissions(admin: Client) -> None:
    bob = get_user_model().objects.create_user("bob")
    group = Group.objects.create(name="support")
    admin.post("/access/people/", {"user": bob.pk, "pattern": "queue/a", "receive": "on"})
    admin.post("/access/people/", {"group": group.pk, "pattern": "topic/#", "manage": "on"})
    for wrong in ({}, {"user": bob.pk, "group": group.pk}):
        answer = admin.post("/access/people/", {"pattern": "**", "send": "on", **wrong})
        assert "choose a person or a group" in answer.content.decode()
    page = admin.get("/access/people/").content.decode()
    assert "bob" in page
    assert "group support" in page
    admin.post(f"/access/people/{Permission.objects.get(user=bob).pk}/remove/")
    assert [str(one.group) for one in Permission.objects.all()] == ["support"]


def test_the_audit_log_says_who_did_what_by_names(admin: Client, key: AccessKey) -> None:
    other = Namespace.objects.create(name="shop.other")
    path = f"/access/keys/{key.login}/"
    admin.post(path, settings_of(key, default_namespace=other.pk, title="till 2"))
    entry = AuditEntry.objects.filter(kind="access key", action="changed").get()
    assert entry.actor == "ada"
    page = " ".join(re.sub("<[^>]+>", " ", admin.get("/access/log/").content.decode()).split())
    assert "title: till → till 2" in page
    assert "default_namespace: shop.test → shop.other" in page
    assert "till 2" not in admin.get("/access/log/?subject=somebody").content.decode().partition("<section")[2]


def test_the_audit_log_goes_page_by_page(admin: Client) -> None:
    AuditEntry.objects.bulk_create(
        AuditEntry(actor="ada", action="changed", kind="access key", subject=f"key {number:03}")
        for number in range(150)
    )
    first = admin.get("/access/log/?subject=key").content.decode()
    assert first.count("key 1") >= 50
    assert "key 010" not in first
    older = re.search(r"\?before=(\d+)", first)
    assert older
    second = admin.get(f"/access/log/?before={older[1]}&subject=key").content.decode()
    assert "key 010" in second
    assert "key 149" not in second
    for nonsense in ("x", "-1", "9" * 30, "²"):
        assert admin.get(f"/access/log/?before={nonsense}").status_code == 200


def test_the_admin_s_changes_are_their_author_s_too(admin: Client, key: AccessKey) -> None:
    admin.post("/admin/accounts/accesskey/", {"action": "revoke", "_selected_action": [key.pk], "index": "0"})
    entry = AuditEntry.objects.filter(kind="access key").order_by("-id")[0]
    assert (entry.actor, entry.action, set(entry.changes)) == ("ada", "changed", {"revoked_at"})
    for path in ("accounts/accesskey/add/", f"accounts/accesskey/{key.pk}/change/", "auth/user/", "auth/group/add/"):
        assert admin.get(f"/admin/{path}").status_code == 200
    assert admin.get("/admin/accounts/auditentry/").status_code == 200
    assert admin.get("/admin/accounts/auditentry/add/").status_code == 403
