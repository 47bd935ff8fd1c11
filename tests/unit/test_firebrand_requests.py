"""What a clone may be asked for with."""

from typing import Any

import pytest

from apps.firebrand.palettes import PRESETS, ROLES
from apps.firebrand.requests import CloneRequest
from msgweb.errors import MsgwebError

GOOD: dict[str, Any] = {"brand": "ember", "name": "Frost & Fir", "domain": "frost.example"}


def test_slug_and_domain_are_made_fit() -> None:
    request = CloneRequest.parse(**{**GOOD, "name": "  Frost & Fir ", "domain": "Frost.Example"})
    assert (request.name, request.slug, request.domain) == ("Frost & Fir", "frost-fir", "frost.example")
    assert request.changes == {}


def test_a_long_name_gives_a_slug_that_fits() -> None:
    assert CloneRequest.parse(**{**GOOD, "name": "a " * 40}).slug == "-".join("a" * 30)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "bad_name"),
        ({"name": "   "}, "bad_name"),
        ({"name": None}, "bad_name"),
        ({"name": 7}, "bad_name"),
        ({"name": "x" * 81}, "bad_name"),
        ({"name": "a\nb"}, "bad_name"),
        ({"name": "a\0b"}, "bad_name"),
        ({"name": "日本"}, "bad_name"),
        ({"slug": "Not a slug"}, "bad_name"),
        ({"slug": "../up"}, "bad_name"),
        ({"slug": "media"}, "bad_name"),
        ({"slug": "x" * 61}, "bad_name"),
        ({"slug": 5}, "bad_name"),
        ({"domain": ""}, "bad_domain"),
        ({"domain": None}, "bad_domain"),
        ({"domain": "localhost"}, "bad_domain"),
        ({"domain": "a..b"}, "bad_domain"),
        ({"domain": "-a.example"}, "bad_domain"),
        ({"domain": "a-.example"}, "bad_domain"),
        ({"domain": "10.0.0.1"}, "bad_domain"),
        ({"domain": "https://a.example"}, "bad_domain"),
        ({"domain": "a.example/x"}, "bad_domain"),
        ({"domain": "a.example\n"}, None),
        ({"domain": "ä.example"}, "bad_domain"),
        ({"domain": f"{'a' * 64}.example"}, "bad_domain"),
        ({"domain": ".".join(["a" * 60] * 5)}, "bad_domain"),
        ({"palette": "red"}, "bad_palette"),
        ({"palette": ["#112233"]}, "bad_palette"),
        ({"palette": {"primary": "red"}}, "bad_palette"),
        ({"palette": {"primary": "#12345"}}, "bad_palette"),
        ({"palette": {"primary": "#112233; } body { x: y"}}, "bad_palette"),
        ({"palette": {"primary": None}}, "bad_palette"),
        ({"palette": {"border": "#112233"}}, "bad_palette"),
        ({"palette": {"primary": "#AABBCC"}}, None),
    ],
)
def test_bad_input_has_a_stable_code(change: dict[str, Any], code: str | None) -> None:
    if code is None:
        CloneRequest.parse(**{**GOOD, **change})
        return
    with pytest.raises(MsgwebError) as caught:
        CloneRequest.parse(**{**GOOD, **change})
    assert caught.value.code == code
    assert caught.value.status == 400


def test_every_preset_has_every_role() -> None:
    assert all(tuple(palette) == ROLES for palette in PRESETS.values())
