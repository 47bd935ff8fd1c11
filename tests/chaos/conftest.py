"""Fixtures for the tests of the checker."""

import pytest

from tests.chaos.stories import Story


@pytest.fixture
def story() -> Story:
    """A story in which nothing has happened yet."""
    return Story()
