"""Wrong settings are named before anything starts."""

import pytest
from pytest_django import Settings

from msgweb.checks import check_environment
from msgweb.home import Listen, listen
from msgweb.launcher.programs import supervisor_config


def _ids() -> list[str | None]:
    return [message.id for message in check_environment(None)]


def test_the_defaults_are_fine() -> None:
    assert _ids() == []


@pytest.mark.parametrize("text", ["61613", "localhost:", ":61613", "localhost:0", "localhost:65536", "localhost:stomp"])
def test_an_address_that_is_not_host_and_port_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MSGWEB_STOMP", text)
    assert _ids() == ["msgweb.E001"]


@pytest.mark.parametrize("url", ["msgweb.example.com", "ftp://msgweb.example.com", "https://"])
def test_a_public_address_that_no_browser_can_open_is_named(settings: Settings, url: str) -> None:
    settings.MSGWEB_PUBLIC_URL = url
    assert _ids() == ["msgweb.E002"]


@pytest.mark.parametrize("seconds", [0.0, -5.0, 10_000.0])
def test_a_lease_that_makes_no_sense_is_named(settings: Settings, seconds: float) -> None:
    settings.MSGWEB_LEASE_SECONDS = seconds
    assert _ids() == ["msgweb.E003"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_limit_for_who_holds_up_vacuum_that_makes_no_sense_is_named(settings: Settings, seconds: float) -> None:
    settings.MSGWEB_HORIZON_SECONDS = seconds
    assert _ids() == ["msgweb.E004"]


def test_debug_pages_for_everybody_are_warned_of(settings: Settings) -> None:
    settings.DEBUG = True
    settings.ALLOWED_HOSTS = ["*"]
    assert _ids() == ["msgweb.W001"]


def test_ipv6_addresses_are_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSGWEB_HTTP", "[::1]:8000")
    found = listen("MSGWEB_HTTP", "127.0.0.1:8000")
    assert found == Listen("::1", 8000)
    assert str(found) == "[::1]:8000"


def test_a_per_cent_sign_in_a_path_survives_the_supervisors_substitution(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = tmp_path_factory.mktemp("50%off")
    text = supervisor_config(run, run / "supervisor.sock", embedded=True)
    assert f"file = {str(run).replace('%', '%%')}/supervisor.sock" in text
    assert "[program:postgres]" in text
    assert "[program:postgres]" not in supervisor_config(run, run / "supervisor.sock", embedded=False)
