"""SIGKILL in mid-traffic: what was receipted arrives, what arrives again says so."""

import asyncio
import contextlib

import pytest

from tests.chaos.own_postgres import OwnPostgres, own_postgres
from tests.chaos.traffic import Traffic
from tests.installation import Installation, Postgres

__all__ = ["own_postgres"]  # a fixture

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
TOTAL = 20_000


def traffic_on(installation: Installation) -> Traffic:
    """Traffic through an installation's gateway."""
    stomp = installation.credentials["stomp"]
    return Traffic(stomp["host"], stomp["port"], stomp["login"], stomp["passcode"], "/queue/chaos", TOTAL)


def test_a_killed_gateway_loses_nothing_that_was_receipted_and_marks_what_it_repeats(
    installation: Installation,
) -> None:
    installation.start("stomp")
    traffic = traffic_on(installation)

    def fault(_: Traffic) -> None:
        installation.kill("stomp")
        installation.start("stomp")

    asyncio.run(traffic.run(fault, fault_at=TOTAL // 3))
    assert len(traffic.receipted) > TOTAL * 0.9  # at most two windows of 200 are open
    assert traffic.receipted <= traffic.seen.keys()
    assert not traffic.unmarked_repeats()


def test_a_killed_postgres_loses_nothing_that_was_receipted_and_marks_what_it_repeats(
    own_postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Postgres(own_postgres.conninfo).migrated_template() as template:
        installation = Installation(
            tmp_path_factory.mktemp("killed"), Postgres(own_postgres.conninfo).on(template.name), template.credentials
        )
        with contextlib.closing(installation):
            installation.start("stomp")
            traffic = traffic_on(installation)

            def fault(_: Traffic) -> None:
                own_postgres.kill()
                own_postgres.start()

            asyncio.run(traffic.run(fault, fault_at=TOTAL // 3))
            assert installation.running("stomp")
        assert len(traffic.receipted) == TOTAL  # no client lost its connection: the gateway lived on
        assert traffic.receipted <= traffic.seen.keys()
        assert not traffic.unmarked_repeats()
