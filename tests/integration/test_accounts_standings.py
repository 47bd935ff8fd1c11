"""Log-in against the real keys, people and certificates, and what became of it since."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User
from django.contrib.auth.models import Permission as ConsolePermission
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.errors import LoginRefused
from apps.accounts.models import AccessKey, ClientCertificate, Namespace, Permission
from apps.accounts.permissions import EVERYTHING, Access, Rule, Verb
from apps.accounts.standings import (
    Identity,
    KeyLimits,
    Standing,
    log_in_by_certificate,
    log_in_by_key,
    log_in_by_name,
    log_in_by_password,
    standings,
)

pytestmark = pytest.mark.django_db

HOME = "shop.test"


@pytest.fixture
def home() -> Namespace:
    return Namespace.objects.create(name=HOME)


@pytest.fixture
def issued(home: Namespace) -> tuple[AccessKey, str]:
    return AccessKey.issue("a test", home, [Namespace.objects.create(name="shop.other")])


@pytest.fixture
def ada() -> User:
    return get_user_model().objects.create_user("ada", password="right")


def enter(issued: tuple[AccessKey, str]) -> Standing:
    """Log in by that key."""
    standing = log_in_by_key(issued[0].login, issued[1])
    assert standing is not None
    return standing


def still(identity: Identity) -> Standing | None:
    """What somebody may do now; None: nothing."""
    return standings([identity]).get(identity)


# -- keys


def test_a_key_without_restriction_may_do_everything_in_its_namespaces(issued: tuple[AccessKey, str]) -> None:
    standing = enter(issued)
    assert (standing.login, standing.namespace) == (issued[0].login, HOME)
    assert standing.access == Access(frozenset({HOME, "shop.other"}))
    assert still(standing.identity) == standing


def test_a_restricted_key_may_do_what_its_permissions_say(issued: tuple[AccessKey, str], home: Namespace) -> None:
    key = issued[0]
    Permission.objects.create(key=key, namespace=home, pattern="queue/orders.*", send=True)
    assert enter(issued).access.rules is None, "permissions count once the key is restricted"
    key.restricted = True
    key.save()
    assert enter(issued).access.rules == (Rule(HOME, "queue/orders.*", frozenset({Verb.SEND})),)
    key.permissions.all().delete()
    assert enter(issued).access.rules == ()


def test_wrong_credentials_are_refused(issued: tuple[AccessKey, str]) -> None:
    login, passcode = issued[0].login, issued[1]
    for wrong in ((login, "x"), (login, ""), ("nul\0", passcode), (login, "nul\0")):
        with pytest.raises(LoginRefused):
            log_in_by_key(*wrong)
    assert log_in_by_key("nobody", passcode) is None
    assert log_in_by_key("", "") is None


@pytest.mark.parametrize("end", ["revoked", "expired", "renewed", "deleted"])
def test_a_key_that_is_no_more_stands_no_more(issued: tuple[AccessKey, str], end: str) -> None:
    key = issued[0]
    standing = enter(issued)
    key.expires_at = timezone.now() + timedelta(hours=1)
    key.save()
    assert still(standing.identity), "it expires later"
    match end:
        case "revoked":
            key.revoked_at = timezone.now()
        case "expired":
            key.expires_at = timezone.now()
        case "renewed":
            key.renew_passcode()
    key.save()
    if end == "deleted":
        key.delete()
        assert log_in_by_key(key.login, issued[1]) is None
    else:
        with pytest.raises(LoginRefused):
            log_in_by_key(key.login, issued[1])
    assert still(standing.identity) is None


def test_limits_are_those_of_the_key(issued: tuple[AccessKey, str]) -> None:
    key = issued[0]
    standing = enter(issued)
    assert standing.limits == KeyLimits()
    key.max_connections, key.max_subscriptions, key.max_sends_per_second, key.max_unacked = 1, 2, 3, 4
    key.save()
    now = still(standing.identity)
    assert now is not None
    assert now.limits == KeyLimits(connections=1, subscriptions=2, sends_per_second=3, unacked=4)


# -- people


def test_a_person_without_permissions_comes_in_and_may_do_nothing(ada: User) -> None:
    standing = log_in_by_password("ada", "right")
    assert standing.access == Access(frozenset(), ())
    assert standing.namespace is None


def test_a_person_may_do_what_their_own_and_their_groups_permissions_say(ada: User, home: Namespace) -> None:
    group = Group.objects.create(name="support")
    group.user_set.add(ada)
    Permission.objects.create(user=ada, namespace=home, pattern="queue/a", receive=True)
    assert log_in_by_password("ada", "right").namespace == HOME, "there is one alone"
    Permission.objects.create(group=group, pattern="topic/#", send=True, manage=True)
    access = log_in_by_password("ada", "right").access
    assert access.namespaces is None
    assert access.allows(Verb.RECEIVE, HOME, "queue/a")
    assert access.allows(Verb.MANAGE, "any.where", "topic/x")
    assert not access.allows(Verb.SEND, HOME, "queue/a")


def test_a_superuser_may_do_everything_and_who_may_add_jobs_may_send_everywhere(ada: User) -> None:
    ada.user_permissions.add(ConsolePermission.objects.get(codename="add_job"))
    access = log_in_by_password("ada", "right").access
    assert access.allows(Verb.SEND, HOME, "task/x")
    assert not access.allows(Verb.RECEIVE, HOME, "queue/x")
    ada.is_superuser = True
    ada.save()
    assert log_in_by_password("ada", "right").access == EVERYTHING


def test_a_wrong_password_is_refused(ada: User) -> None:
    for wrong in (("ada", "wrong"), ("ada", ""), ("nobody", "right"), ("nul\0", "right"), ("", "")):
        with pytest.raises(LoginRefused):
            log_in_by_password(*wrong)


@pytest.mark.parametrize("end", ["password", "inactive", "deleted"])
def test_a_person_who_is_gone_stands_no_more(ada: User, end: str) -> None:
    standing = log_in_by_password("ada", "right")
    assert still(standing.identity) == standing
    match end:
        case "password":
            ada.set_password("new")
            ada.save()
        case "inactive":
            ada.is_active = False
            ada.save()
        case "deleted":
            ada.delete()
    assert still(standing.identity) is None
    with pytest.raises(LoginRefused):
        log_in_by_password("ada", "right")


# -- certificates


def test_a_name_in_a_certificate_is_a_keys_or_a_persons(issued: tuple[AccessKey, str], ada: User) -> None:
    ClientCertificate.objects.create(name="shop-7.example", key=issued[0])
    ClientCertificate.objects.create(name="Ada", user=ada)
    assert log_in_by_certificate(["other.example", "shop-7.example"]).login == issued[0].login
    assert log_in_by_certificate(["Ada"]).login == "ada"
    for names in (["other.example"], [], ["nul\0"], ["shop-7.example", "Ada"]):
        with pytest.raises(LoginRefused):
            log_in_by_certificate(names)


@pytest.mark.parametrize("end", ["key", "certificate"])
def test_who_came_by_a_certificate_stands_as_long_as_it_and_the_key_do(issued: tuple[AccessKey, str], end: str) -> None:
    certificate = ClientCertificate.objects.create(name="shop-7.example", key=issued[0])
    standing = log_in_by_certificate(["shop-7.example"])
    issued[0].renew_passcode()
    issued[0].save()
    assert still(standing.identity) == standing, "no passcode was shown"
    if end == "key":
        AccessKey.objects.update(revoked_at=timezone.now())
    else:
        certificate.delete()
    assert still(standing.identity) is None
    with pytest.raises(LoginRefused):
        log_in_by_certificate(["shop-7.example"])


# -- those who show nothing


def test_who_shows_nothing_is_the_key_or_the_person_that_the_listener_names(
    issued: tuple[AccessKey, str], ada: User
) -> None:
    standing = log_in_by_name(issued[0].login)
    assert standing.access == enter(issued).access
    assert log_in_by_name("ada").login == "ada"
    for name in ("nobody", "", "nul\0"):
        with pytest.raises(LoginRefused):
            log_in_by_name(name)
    AccessKey.objects.update(revoked_at=timezone.now())
    assert still(standing.identity) is None
    with pytest.raises(LoginRefused):
        log_in_by_name(issued[0].login)


# -- permissions as rows


def test_a_permission_has_one_holder_allows_something_and_has_a_pattern(
    issued: tuple[AccessKey, str], ada: User, home: Namespace
) -> None:
    for wrong in (
        {"pattern": "**", "send": True},
        {"pattern": "**", "send": True, "key": issued[0], "user": ada},
        {"pattern": "**", "key": issued[0]},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Permission.objects.create(**wrong)
    elsewhere = Namespace.objects.create(name="far.away")
    for bad in (
        Permission(key=issued[0], pattern="orders", send=True),
        Permission(key=issued[0], pattern="queue/x"),
        Permission(key=issued[0], pattern="queue/x", send=True, namespace=elsewhere),
    ):
        with pytest.raises(ValidationError):
            bad.full_clean()
    Permission(key=issued[0], pattern="queue/x", send=True, namespace=home).full_clean()
