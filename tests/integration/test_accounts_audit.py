"""Every change of access is written down, whoever makes it and however."""

from typing import Any

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection
from django.utils import timezone

from apps.accounts.actors import acting_as
from apps.accounts.models import AccessKey, AuditEntry, Namespace, Permission


def entries(kind: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Actor, action, subject, changes; the oldest first."""
    found = AuditEntry.objects.filter(kind=kind).order_by("id")
    return [(entry.actor, entry.action, entry.subject, entry.changes) for entry in found]


@pytest.mark.django_db
def test_a_keys_life_is_in_the_log_without_its_secret() -> None:
    home = Namespace.objects.create(name="shop.test")
    with acting_as("ada"):
        key, passcode = AccessKey.issue("till", home)
    with acting_as("bob"):
        Permission.objects.create(key=key, namespace=home, pattern="queue/orders", send=True)
        AccessKey.objects.filter(pk=key.pk).update(max_connections=5, revoked_at=timezone.now())
    subject = f"till ({key.login})"
    created, changed = entries("access key")
    assert created[:3] == ("ada", "created", subject)
    assert created[3] == {"title": "till", "default_namespace_id": home.pk, "passcode_hash": "***"}
    assert changed[:3] == ("bob", "changed", subject)
    assert changed[3]["max_connections"] == {"from": None, "to": 5}
    assert set(changed[3]) == {"max_connections", "revoked_at"}
    assert entries("permission") == [
        ("bob", "created", subject, {"namespace_id": home.pk, "pattern": "queue/orders", "send": True})
    ]
    text = str(list(AuditEntry.objects.values()))
    assert passcode not in text
    assert key.passcode_hash not in text


@pytest.mark.django_db
def test_what_was_changed_past_django_is_the_database_roles() -> None:
    home = Namespace.objects.create(name="shop.test")
    key, _ = AccessKey.issue("till", home)
    with acting_as("ada"):
        pass
    with connection.cursor() as cursor:
        cursor.execute("UPDATE accounts_accesskey SET restricted = true")
        cursor.execute("SELECT session_user")
        role = cursor.fetchone()[0]
    actor, action, _, changes = entries("access key")[-1]
    assert (actor, action) == (f"database role {role}", "changed")
    assert changes == {"restricted": {"from": False, "to": True}}
    key.delete()
    assert entries("access key")[-1][1] == "deleted"


@pytest.mark.django_db
def test_people_and_their_groups_are_in_the_log_and_their_log_ins_are_not() -> None:
    user = get_user_model().objects.create_user("ada", password="secret")
    user.last_login = timezone.now()
    user.save(update_fields=["last_login"])
    user.first_name = "Ada"
    user.save()
    assert [entry[1] for entry in entries("user")] == ["created"]
    assert user.password not in str(entries("user"))
    user.set_password("other")
    user.is_active = False
    user.save()
    assert entries("user")[-1][3] == {"password": "***", "is_active": {"from": True, "to": False}}
    group = Group.objects.create(name="support")
    group.user_set.add(user)
    Permission.objects.create(group=group, pattern="**", receive=True)
    assert entries("group of a user")[-1][2] == "ada"
    assert entries("permission")[-1][2] == "group support"
    user.delete()
    assert entries("user")[-1][1:3] == ("deleted", "ada")


@pytest.mark.django_db(transaction=True)
def test_a_change_that_is_committed_wakes_who_listens_once_and_one_that_is_none_does_not(conninfo: str) -> None:
    home = Namespace.objects.create(name="shop.test")
    key, _ = AccessKey.issue("till", home)
    with psycopg.connect(conninfo, autocommit=True) as listener:
        listener.execute("LISTEN msgweb_access")
        with acting_as("ada"):
            key.restricted = True
            key.save()
            Permission.objects.create(key=key, pattern="queue/orders", send=True)
        assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1
        key.save()
        with connection.cursor() as cursor:
            cursor.execute("NOTIFY msgweb_access, 'the end'")
        assert [each.payload for each in listener.notifies(timeout=10, stop_after=1)] == ["the end"]


@pytest.mark.django_db
def test_a_change_is_noted_whatever_the_search_path_is() -> None:
    key, _ = AccessKey.issue("till", Namespace.objects.create(name="shop.test"))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL search_path = pg_catalog")
        cursor.execute("UPDATE public.accounts_accesskey SET title = 'other' WHERE id = %s", [key.pk])
        cursor.execute("SET LOCAL search_path TO DEFAULT")
    assert entries("access key")[-1][3] == {"title": {"from": "till", "to": "other"}}
