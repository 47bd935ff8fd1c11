"""What the words of workers outside mean."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.jobs.context import LINE_LIMIT, clean
from apps.jobs.words import Ending, Lines, Mark, meaning_of
from msgweb.errors import BadMessage

TEXTS = st.text(st.sampled_from("ab\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\0\ud800"))


@given(TEXTS)
def test_a_text_has_the_lines_that_python_finds_in_it(text: str) -> None:
    lines = Lines("info", text)
    expected = [clean(line, LINE_LIMIT) for line in text.splitlines()]
    assert len(lines) == len(expected)
    for count in range(len(expected) + 1):
        assert list(lines.first(count)) == expected[:count]


def test_a_line_is_cut_where_it_is_too_long_to_be_kept() -> None:
    [line] = Lines("info", "x" * 1_000_000).first(1)
    assert line == "x" * (LINE_LIMIT - 1) + "…"


@pytest.mark.parametrize(
    ("event", "body", "meaning"),
    [
        ("progress", {"done": 1, "total": 2}, Mark(1, 2, "")),
        ("progress", {"done": 1, "total": 2, "text": "a\0b"}, Mark(1, 2, "a\N{REPLACEMENT CHARACTER}b")),
        ("log", "a text", Lines("info", "a text")),
        ("log", {"text": 5, "level": "error"}, Lines("error", "5")),
        ("log", {}, Lines("info", "")),
        ("result", {"ä": [1, None]}, Ending("succeeded", '{"ä":[1,null]}')),
        ("cancelled", "whatever", Ending("cancelled")),
        ("error", "no", Ending("failed", error={"code": "task_failed", "message": "no", "traceback": ""})),
        (
            "error",
            {"message": "no", "code": "c", "again": False},
            Ending("failed", error={"code": "c", "message": "no", "traceback": ""}, again=False),
        ),
    ],
    ids=str,
)
def test_what_a_word_means(event: str, body: Any, meaning: object) -> None:
    assert meaning_of(event, body) == meaning


@pytest.mark.parametrize(
    ("event", "body"),
    [
        ("", {}),
        ("dance", {}),
        ("progress", [1, 2]),
        ("progress", {"done": 1, "total": 2**63}),
        ("progress", {"done": 1.0, "total": 2}),
        ("log", {"text": "x", "level": ["error"]}),
        ("result", float("nan")),
        ("result", "half a pair \ud800"),
    ],
    ids=ascii,
)
def test_what_means_nothing_is_refused(event: str, body: Any) -> None:
    with pytest.raises(BadMessage):
        meaning_of(event, body)
