"""`make attack`: each attack at its full measure, and a table of what it cost. Exit code 1 when a bound was broken."""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from tests import environment
from tests.attack.attacks import ATTACKS, MIB
from tests.attack.siege import Outcome, siege
from tests.installation import Installation, postgres_server

HEAD = (
    "| attack | what it did and saw | customer's round, calm p50 / p99 ms | attacked p50 / p99 ms | ratio of p50 "
    "| gateway grew by, at most MiB | of it kept MiB | its CPU, cores |"
)


def main() -> int:
    """All of them, or those whose name holds a word."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("words", nargs="*", help="only attacks whose names hold one of these")
    options = parser.parse_args()
    chosen = [attack for attack in ATTACKS if not options.words or any(word in attack.name for word in options.words)]
    broken = []
    try:
        with (
            postgres_server() as server,
            server.migrated_template() as template,
            server.copy_of(template) as database,
            tempfile.TemporaryDirectory() as home,
        ):
            installation = Installation(Path(home), database, template.credentials)
            try:
                print(HEAD + "\n|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
                with siege(installation) as laid:
                    for attack in chosen:
                        outcome = laid.endure(attack)
                        print(row(attack.name, outcome), flush=True)
                        if outcome.grown > attack.most:
                            broken.append(f"{attack.name}: the gateway grew by {outcome.grown // MIB} MiB")
            finally:
                installation.close()
    finally:
        shutil.rmtree(environment.HOME, ignore_errors=True)
    print(f"Bounds broken: {'; '.join(broken) or 'none'}")
    return 1 if broken else 0


def row(name: str, outcome: Outcome) -> str:
    """A line of the table."""
    cells = [
        name,
        outcome.report,
        times(outcome.calm),
        times(outcome.attacked),
        f"{outcome.slower:.1f}",
        f"{outcome.grown / MIB:.0f}",
        f"{outcome.kept / MIB:.0f}",
        f"{outcome.cpu / max(outcome.seconds, 0.01):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def times(rounds: list[float]) -> str:
    """Median and 99th percentile in milliseconds."""
    return f"{statistics.median(rounds) * 1000:.1f} / {statistics.quantiles(rounds, n=100)[98] * 1000:.1f}"


if __name__ == "__main__":
    sys.exit(main())
