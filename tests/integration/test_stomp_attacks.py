"""The attacks of `make attack` in a smaller measure: the gateway's memory is bounded, its customers are served."""

import statistics
from collections.abc import Iterator

import pytest

from tests.attack.attacks import ATTACKS, Attack
from tests.attack.siege import Siege, siege
from tests.installation import Installation, Postgres, Template

MEASURE = 0.2
#: Loaded machines are slow by themselves; a gateway that an attack brings to a stand is slower still.
SLOW = 0.05
TIMES = 20


@pytest.fixture(scope="module")
def besieged(postgres: Postgres, template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """One gateway for all attacks: what one leaves behind the next would show."""
    with postgres.copy_of(template) as database:
        installation = Installation(tmp_path_factory.mktemp("besieged"), database, template.credentials)
        try:
            with siege(installation) as laid:
                yield laid
        finally:
            installation.close()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_costs_bounded_memory_and_its_neighbour_is_served(besieged: Siege, attack: Attack) -> None:
    outcome = besieged.endure(attack, MEASURE)
    assert outcome.grown <= attack.most, outcome.report
    assert statistics.median(outcome.attacked) < TIMES * max(statistics.median(outcome.calm), SLOW), outcome.report
    if attack.answered:
        assert "the end" not in outcome.report
