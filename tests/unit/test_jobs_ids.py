"""Ids of jobs: version 7 of RFC 9562, in the order of time."""

import pickle
import uuid
from datetime import UTC, datetime
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from apps.jobs.ids import id_of, ids_from, new_id, text_of


@given(microseconds=st.integers(0, 2**47 * 1000), portion=st.integers(1, 5))
def test_ids_stand_in_the_order_of_their_moments_and_tell_them(microseconds: int, portion: int) -> None:
    ids = list(islice(ids_from(microseconds, portion), 3000))
    assert ids == sorted(ids)
    assert [one.int >> 80 for one in ids] == [(microseconds + n) // 1000 for n in range(3000)]
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert len({one.int & (1 << 62) - 1 for one in ids}) == 3000


def test_an_id_is_of_this_moment() -> None:
    before, job, after = datetime.now(UTC), new_id(), datetime.now(UTC)
    moment = job.int >> 80
    assert int(before.timestamp() * 1000) <= moment <= int(after.timestamp() * 1000)


@given(raw=st.binary(min_size=16, max_size=16))
def test_an_id_made_without_checks_is_like_any_other(raw: bytes) -> None:
    made, like = id_of(raw), uuid.UUID(bytes=raw)
    assert made == like
    assert (hash(made), made.is_safe, made.bytes) == (hash(like), like.is_safe, raw)
    assert text_of(raw) == str(like).encode()
    assert pickle.loads(pickle.dumps(made)) == like
