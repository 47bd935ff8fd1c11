"""A short run of what `make chaos ARGS="--jobs 5000"` does at length."""

import pytest

from tests.chaos.jobs.campaign import campaign


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_jobs_of_all_kinds_end_as_they_should_whatever_is_killed() -> None:
    result = campaign(jobs=400, seconds=12.0, pause=1.0, seed=7)
    assert not result.wrong, "\n".join([result.summary(), *result.wrong[:20]])
    assert result.jobs >= 300
    assert sum(result.strikes.values()) >= 5
