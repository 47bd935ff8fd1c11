"""docs/reference/migration.md against our gateway: what its table says of us, each probe finds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.brokers import Broker
from bench.probe import answer
from bench.probes import PROBES, Probe
from msgweb.home import REPOSITORY
from tests.stomp_gateway import RunningGateway, stomp_database

__all__ = ["stomp_database"]  # fixtures

ATTEMPTS = 3  # a probe takes silence for an answer, and a loaded machine is silent for long
COLUMNS = ("Msgweb", "Msgweb, dialect=activemq")


@pytest.fixture(scope="module")
def brokers(stomp_database: str) -> Iterator[list[Broker]]:
    listeners = ("stomp://127.0.0.1:0", "stomp://127.0.0.1:0?dialect=activemq")
    with RunningGateway(stomp_database, listeners=listeners) as running:
        yield [
            Broker(name, "", port, "guest", "a:secret", {}, "")
            for name, port in zip(COLUMNS, running.ports, strict=True)
        ]


def table() -> dict[str, list[str]]:
    """The answers of the document, by question: ours first."""
    lines = (REPOSITORY / "docs/reference/migration.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0][1:3] == list(COLUMNS)
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.mark.slow
def test_the_table_says_what_each_probe_finds(brokers: list[Broker]) -> None:
    told = table()
    assert list(told) == [probe.question for probe in PROBES]

    def differs(probe: Probe) -> list[str]:
        found = []
        for broker, expected in zip(brokers, told[probe.question], strict=False):
            answers = []
            while len(answers) < ATTEMPTS and expected not in answers:
                answers.append(answer(probe, broker))
            if expected not in answers:
                found.append(f"{probe.question}, {broker.name}: {expected!r} is told, and {answers} found")
        return found

    with ThreadPoolExecutor(8) as pool:
        differences = [line for lines in pool.map(differs, PROBES) for line in lines]
    assert not differences, "\n".join(differences)
