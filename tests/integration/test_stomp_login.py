"""Log-in by access key, against the real keys."""

import pytest
from django.db import OperationalError

from apps.accounts.models import AccessKey, Namespace
from apps.stomp.gateway.access import principal_of
from apps.stomp.gateway.ports import Credentials, Principal
from msgweb.errors import AccessRefused, Unavailable

pytestmark = pytest.mark.django_db


@pytest.fixture
def key() -> tuple[str, str]:
    default = Namespace.objects.create(name="shop.test")
    other = Namespace.objects.create(name="shop.other")
    Namespace.objects.create(name="shop.closed")
    key, passcode = AccessKey.issue("a test", default, [other])
    return key.login, passcode


@pytest.mark.parametrize(
    ("host", "namespace"),
    [
        (None, "shop.test"),
        ("", "shop.test"),
        ("localhost", "shop.test"),
        ("/", "shop.test"),
        ("shop.test", "shop.test"),
        ("shop.other", "shop.other"),
        ("no.such", "shop.test"),
        ("nul\0", "shop.test"),
    ],
)
def test_host_names_a_namespace_or_nothing(key: tuple[str, str], host: str | None, namespace: str) -> None:
    assert principal_of(Credentials(*key, host)) == Principal(key[0], namespace)


def test_a_namespace_that_the_key_does_not_open_is_refused(key: tuple[str, str]) -> None:
    with pytest.raises(AccessRefused, match=r"shop\.closed"):
        principal_of(Credentials(*key, "shop.closed"))


def test_wrong_credentials_are_refused(key: tuple[str, str]) -> None:
    login, passcode = key
    for wrong in ((login, "x"), ("x", passcode), (login, ""), ("", ""), ("nul\0", passcode), (login, "nul\0")):
        with pytest.raises(AccessRefused):
            principal_of(Credentials(*wrong, None))


def test_a_database_that_is_away_is_not_a_wrong_passcode(key: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(AccessKey, "authenticate", away)
    with pytest.raises(Unavailable):
        principal_of(Credentials(*key, None))
