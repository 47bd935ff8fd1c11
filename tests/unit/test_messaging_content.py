"""Bodies and content types of the Messaging API for Python."""

import pytest

from apps.messaging import BadBody, Message, Progress, content


@pytest.mark.parametrize(
    ("body", "data", "content_type"),
    [
        ({"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'.encode(), "application/json"),
        ([], b"[]", "application/json"),
        (12, b"12", "application/json"),
        (None, b"null", "application/json"),
        ("grüß", "grüß".encode(), "text/plain;charset=utf-8"),
        (b"\x00\xff", b"\x00\xff", "application/octet-stream"),
        (bytearray(b"ab"), b"ab", "application/octet-stream"),
    ],
)
def test_a_value_survives_the_way_there_and_back(body: object, data: bytes, content_type: str) -> None:
    assert content.encode(body) == (data, content_type)
    assert content.decode(data, content_type) == body


@pytest.mark.parametrize("body", [{1, 2}, object(), {"a": float("nan")}, {("a",): 1}])
def test_what_json_cannot_write_is_refused(body: object) -> None:
    with pytest.raises(BadBody) as refused:
        content.encode(body)
    assert refused.value.code == "bad_body"


@pytest.mark.parametrize(
    ("data", "content_type", "body"),
    [
        (b'{"a":1}', "application/problem+json; charset=utf-8", {"a": 1}),
        ("é".encode("latin-1"), "text/plain; charset=ISO-8859-1", "é"),
        (b"<p>", "text/html", "<p>"),
        (b"text", None, b"text"),
        (b"text", "", b"text"),
        (b"text", "nonsense", b"text"),
        (b"\x89PNG", "image/png", b"\x89PNG"),
    ],
)
def test_a_received_body_is_read_by_its_content_type(data: bytes, content_type: str | None, body: object) -> None:
    assert content.decode(data, content_type) == body


@pytest.mark.parametrize(
    ("data", "content_type"),
    [(b"{", "application/json"), (b"\xff", "text/plain"), (b"x", "text/plain;charset=klingon")],
)
def test_bytes_that_are_not_what_they_claim_are_reported_and_kept(data: bytes, content_type: str) -> None:
    message = Message("/queue/a", {"content-type": content_type}, data, answer=lambda *_: None)
    with pytest.raises(BadBody):
        _ = message.body
    assert message.data == data


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 0, 0), (1, 3, 33), (3, 3, 100), (5, 3, 100)])
def test_progress_is_a_percentage_between_0_and_100(done: int, total: int, percent: int) -> None:
    assert Progress(done, total).percent == percent
