"""The tokens that open event streams."""

import uuid

import pytest

from apps.console.tokens import TokenExpired, grant_of, stream_path, stream_token
from msgweb.errors import AccessRefused


def test_a_token_opens_what_it_was_made_for() -> None:
    job = str(uuid.uuid4())
    assert grant_of("job", stream_token("job", job)).value == job
    assert grant_of("topic", stream_token("topic", "orders.new", "taoshop.test")) == (
        "topic",
        "orders.new",
        "taoshop.test",
    )


def test_a_token_of_one_kind_opens_no_other() -> None:
    token = stream_token("status", str(uuid.uuid4()))
    with pytest.raises(AccessRefused):
        grant_of("job", token)


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: "x" + t, lambda _: "", lambda t: t + "é"])
def test_a_token_that_was_changed_opens_nothing(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AccessRefused):
        grant_of("job", change(stream_token("job", "1")))


def test_an_old_token_says_that_it_is_old() -> None:
    with pytest.raises(TokenExpired):
        grant_of("job", stream_token("job", "1"), lifetime=-1)


def test_a_topic_needs_its_namespace() -> None:
    with pytest.raises(ValueError, match="namespace"):
        stream_token("topic", "orders.new")


def test_a_path_carries_a_token_that_needs_no_quoting() -> None:
    path = stream_path("job", str(uuid.uuid4()))
    assert path.startswith("/events/job/")
    assert set(path) <= set("/:-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
