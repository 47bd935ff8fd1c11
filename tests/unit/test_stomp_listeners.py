"""Listeners, as they are written."""

from pathlib import Path

import pytest

from apps.stomp.gateway.listeners import BadListener, Tls, parse_listener
from apps.stomp.gateway.options import GatewayOptions
from msgweb.home import Listen


def test_an_address_alone_is_plain_stomp_as_rabbitmq_speaks_it() -> None:
    listener = parse_listener("127.0.0.1:61613")
    assert (listener.place, listener.scheme, listener.dialect.name) == (Listen("127.0.0.1", 61613), "stomp", "rabbitmq")
    assert listener.options == GatewayOptions() and listener.patient and not listener.proxy
    assert str(listener) == "stomp://127.0.0.1:61613"


def test_everything_that_can_be_said() -> None:
    listener = parse_listener(
        "wss://[::1]:15673/stomp?certificate=/c.pem&key=/k.pem&client-ca=/ca.pem&client-certificates=required"
        "&origins=https://a.example,https://b.example&dialect=activemq&namespace=shop.live&anonymous=page&patient=false"
        "&prefetch=50&frame=1000000&login-seconds=2.5"
    )
    assert listener.place == Listen("::1", 15673)
    assert listener.tls == Tls(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem"), required=True)
    assert (listener.path, listener.origins) == ("/stomp", ("https://a.example", "https://b.example"))
    assert (listener.dialect.name, listener.namespace, listener.anonymous) == ("activemq", "shop.live", "page")
    assert (listener.patient, listener.options.prefetch, listener.options.login_seconds) == (False, 50, 2.5)
    assert listener.options.limits.frame == 1_000_000
    assert str(listener) == "wss://[::1]:15673/stomp"


def test_what_it_does_not_say_is_as_the_others_have_it() -> None:
    listener = parse_listener("ws://127.0.0.1:0?prefetch=7", GatewayOptions(auto_credit=5))
    assert (listener.path, listener.options.prefetch, listener.options.auto_credit) == ("/ws", 7, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://127.0.0.1:1", "stomp://, stomps://, ws://, wss://"),
        ("127.0.0.1", "host:port"),
        ("127.0.0.1:x", "Port could not be cast"),
        ("stomp://127.0.0.1:99999", "out of range"),
        ("stomp://127.0.0.1:1/ws", "only ws:// and wss:// have a path"),
        ("stomps://127.0.0.1:1", "certificate=FILE"),
        ("stomps://127.0.0.1:1?certificate=/a&client-certificates=required", "client-ca=FILE"),
        ("stomp://127.0.0.1:1?dialect=kafka", "rabbitmq or activemq"),
        ("stomp://127.0.0.1:1?dialekt=activemq", "did you mean dialect"),
        ("stomp://127.0.0.1:1?prefetch=0", "above 0"),
        ("stomp://127.0.0.1:1?prefetch=many", "above 0"),
        ("stomp://127.0.0.1:1?proxy=yes", "true or false"),
        ("stomp://127.0.0.1:1?prefetch=1&prefetch=2", "twice"),
        ("stomp://0.0.0.0:1?anonymous=page", "loopback"),
        ("stomp://shop.example:1?anonymous=page", "loopback"),
        ("stomp://127.0.0.1:1?anonymous=page&proxy=true", "exclude each other"),
    ],
)
def test_what_cannot_be_is_told_with_what_would_do(text: str, words: str) -> None:
    with pytest.raises(BadListener, match=words):
        parse_listener(text)
