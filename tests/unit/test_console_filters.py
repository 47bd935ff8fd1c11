"""How the console says figures and spans of time."""

import uuid
from datetime import timedelta

import pytest
from django.template import Context, Template

from apps.console.job_pages import Filter, _summary
from apps.console.templatetags import console


@pytest.mark.parametrize(
    ("span", "text"),
    [(0, "0 ms"), (0.34, "340 ms"), (2.34, "2.3 s"), (89, "89 s"), (90, "2 min"), (5400, "2 h"), (200_000, "2 d")],
)
def test_a_span_is_told_in_one_unit(span: float, text: str) -> None:
    assert console.seconds(span) == text
    assert console.seconds(timedelta(seconds=span)) == text


def test_no_span_is_empty() -> None:
    assert console.seconds(None) == ""


def test_a_count_says_where_it_stopped() -> None:
    assert console.capped(9_999) == "9,999"
    assert console.capped(10_000) == "10,000+"


def test_json_in_a_page_is_escaped() -> None:
    page = Template("{% load console %}{{ value|pretty }}").render(Context({"value": {"a": "<script>"}}))
    assert "<script>" not in page


def test_a_job_id_is_shortened_to_what_people_compare() -> None:
    assert console.short_id(uuid.UUID(int=0)) == "00000000"


def test_a_filter_keeps_its_parts_in_links() -> None:
    chosen = Filter("failed", "a.b", "x.y")
    assert chosen.query(state="") == "?task=a.b&namespace=x.y"
    assert Filter("", "", "").query() == "?"


def test_a_result_is_summed_up_by_its_plain_values() -> None:
    result = {"product_rows": 41235, "brand": "nord", "changed": ["name"], "ok": True, "seconds": 1.5}
    assert _summary(result) == [("Product rows", "41,235"), ("Brand", "nord"), ("Seconds", "1.5")]
    assert _summary([1, 2]) == []
    assert _summary("done") == [("Result", "done")]
