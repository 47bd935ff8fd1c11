"""Where the Messaging API finds out where to connect to."""

import json
from pathlib import Path

import pytest

from apps.messaging import BadCredentials, Credentials

STOMP = {"host": "10.0.0.1", "port": 61613, "login": "mw1", "passcode": "s3cret", "namespace": "shop.test"}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_file_says_all(tmp_path: Path) -> None:
    found = Credentials.from_file(write(tmp_path / "c.json", {"stomp": STOMP, "web": {}}))
    assert found == Credentials("10.0.0.1", 61613, "mw1", "s3cret", "shop.test")


def test_the_passcode_is_not_shown() -> None:
    assert "s3cret" not in repr(Credentials("h", 1, "l", "s3cret"))


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    write(tmp_path / "credentials.json", {"stomp": STOMP})
    found = Credentials.from_environment(
        {"MSGWEB_HOME": str(tmp_path), "MSGWEB_STOMP": "[::1]:7000", "MSGWEB_NAMESPACE": "shop.live"}
    )
    assert found == Credentials("::1", 7000, "mw1", "s3cret", "shop.live")


def test_without_a_file_a_login_and_a_passcode_will_do() -> None:
    found = Credentials.from_environment({"MSGWEB_LOGIN": "me", "MSGWEB_PASSCODE": "pass"})
    assert found == Credentials("127.0.0.1", 61613, "me", "pass", None)


@pytest.mark.parametrize("content", [[], {}, {"stomp": []}, {"stomp": {"host": "h"}}, {"stomp": STOMP | {"port": "x"}}])
def test_a_file_that_lacks_something_is_named(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadCredentials, match=r"c\.json") as refused:
        Credentials.from_file(write(tmp_path / "c.json", content))
    assert refused.value.code == "bad_credentials"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match="nowhere"):
        Credentials.from_environment({"MSGWEB_CREDENTIALS": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("address", ["here", ":61613", "here:0", "here:99999", "here:port"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadCredentials, match="MSGWEB_STOMP"):
        Credentials.from_environment({"MSGWEB_LOGIN": "a", "MSGWEB_PASSCODE": "b", "MSGWEB_STOMP": address})
