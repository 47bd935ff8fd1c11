"""Ask our broker (each dialect), RabbitMQ's STOMP plugin and ActiveMQ the same questions, and print the answers.

The table of docs/reference/migration.md is this program's output.
"""

import sys
from contextlib import ExitStack

from bench import brokers
from bench.brokers import BenchError, Broker
from bench.probes import PROBES, Probe, place
from msgweb.errors import MsgwebError


def answer(probe: Probe, broker: Broker) -> str:
    """What the broker does, in a few words; what the experiment did not expect is said too."""
    with place(broker) as there:
        try:
            return probe.ask(there)
        except (OSError, ValueError, KeyError, IndexError) as error:
            return f"unexpected: {type(error).__name__} {error}"


def main() -> int:
    """0, or 1 where a broker cannot be started."""
    try:
        with ExitStack() as stack:
            running = [*stack.enter_context(brokers.ours_in_both_dialects())]
            for start, missing in (
                (brokers.rabbitmq, brokers.why_no_rabbitmq()),
                (brokers.activemq, brokers.why_no_activemq()),
            ):
                if missing:
                    print(missing, file=sys.stderr)
                else:
                    running.append(stack.enter_context(start()))
            print("|   | " + " | ".join(broker.name for broker in running) + " |")
            print("|---|" + "---|" * len(running))
            for probe in PROBES:
                print(f"| {probe.question} | {' | '.join(answer(probe, broker) for broker in running)} |", flush=True)
            print()
            for broker in running:
                print(f"{broker.name}: {broker.version}")
    except (BenchError, MsgwebError) as error:
        print(f"probe: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
