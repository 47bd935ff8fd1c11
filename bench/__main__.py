"""Measure our broker, RabbitMQ's STOMP plugin and ActiveMQ in turns, under the same load, and print a table.

All are started from nothing in temporary folders on the same disk; one at a time is under load, the other idles.
Nothing stays behind, after Ctrl-C neither. Figures of different machines or hours do not compare.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from bench import brokers, stompload
from bench.brokers import BenchError, Broker
from bench.jobs import side_by_side
from bench.jobs.side_by_side import SCENARIOS as JOB_SCENARIOS
from bench.scenarios import FAULTS, SCENARIOS, Row, Scenario
from msgweb.errors import MsgwebError

WARM_UP = ("queue", "--messages", "2000", "--settle", "0")  # caches and code paths; a cold first run measures those
OURS = "Msgweb"
IDLE_SHARE = 0.05  # of one core: below that a broker counts as idle
IDLE_SECONDS = 30.0
RUN_SECONDS = 300

Figures = dict[str, float]
Results = dict[str, dict[str, list[Figures]]]  # by scenario, then by broker


class Asked(BaseException):
    """Somebody asked us to stop; not an Exception, so that nothing on the way takes it for a failure."""


def _ask(number: int, frame: FrameType | None) -> None:
    raise Asked


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--scenario",
        nargs="+",
        choices=(*SCENARIOS, *JOB_SCENARIOS, "all"),
        default=["queue"],
        metavar="NAME",
        help=f"one or several of {', '.join(SCENARIOS)}, or all (default queue); or of {', '.join(JOB_SCENARIOS)}",
    )
    parser.add_argument("--repeat", type=_positive, default=3, metavar="R", help="runs of each broker (default 3)")
    parser.add_argument("--messages", type=_positive, metavar="N", help="per run, instead of the scenario's own number")
    parser.add_argument(
        "--only", nargs="+", choices=("ours", "rabbitmq", "activemq"), help="measure these brokers alone"
    )
    tools = sorted({peer.name for peer in side_by_side.PEERS})
    parser.add_argument("--tools", nargs="+", choices=tools, metavar="NAME", help=f"of jobs: {', '.join(tools)}")
    parser.add_argument("--json", action="store_true", help="one JSON object with every single run, instead of a table")
    options = parser.parse_args(arguments)
    of_jobs = [name for name in options.scenario if name in JOB_SCENARIOS]
    if of_jobs and len(of_jobs) < len(options.scenario):
        parser.error("scenarios of jobs are measured apart from the others")
    if "all" in options.scenario:
        options.scenario = list(SCENARIOS)
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


# -- measuring


def used(broker: Broker) -> float:
    """Processor time of all its processes so far, in seconds."""
    return sum(float(stompload.cpu_seconds(pid)) for pid in broker.pids.values())


def machine_used() -> float:
    """Processor time that the whole machine has been busy for, in seconds over all cores."""
    user, nice, system, _idle, _wait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / float(stompload.TICKS)


def await_idle(running: list[Broker]) -> None:
    """Wait until what the last run left to do (vacuum, checkpoints, queues' files) is done, but not for ever."""
    deadline = time.monotonic() + IDLE_SECONDS
    while time.monotonic() < deadline:
        before, began = sum(map(used, running)), time.monotonic()
        time.sleep(0.5)
        if sum(map(used, running)) - before <= IDLE_SHARE * len(running) * (time.monotonic() - began):
            return


def load(broker: Broker, *arguments: str) -> Figures:
    """Run stompload once; its figures, and those of FAULTS that are not 0 among them.

    Raises:
        BenchError: the broker refused, closed a connection or took too long.
    """
    command = [
        *(sys.executable, str(Path(stompload.__file__).resolve()), *arguments),
        *broker.arguments.get("", ()),
        *broker.arguments.get(arguments[0], ()),
        *("--port", str(broker.port), "--login", broker.login, "--passcode", broker.passcode),
        *("--json", "--timeout", str(RUN_SECONDS)),
    ]
    for name, pid in broker.pids.items():
        command += ["--pid", f"{name}={pid}"]
    generator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        output, errors = generator.communicate()
    finally:
        if generator.poll() is None:
            generator.kill()
            generator.wait()
    if generator.returncode:
        raise BenchError(f"{broker.name}: {errors.decode(errors='replace').strip()}")
    figures: Figures = json.loads(output)["runs"][0]
    return figures


def measure(broker: Broker, running: list[Broker], scenario: Scenario, messages: int | None) -> Figures:
    """One run, with `others`: how many cores other programs of this machine kept busy meanwhile."""
    await_idle(running)
    before = machine_used() - sum(map(used, running)) - _generators_used()
    began = time.monotonic()
    count = (scenario.counted, str(messages or scenario.messages))
    figures = load(broker, scenario.command, *count, *scenario.arguments)
    after = machine_used() - sum(map(used, running)) - _generators_used()
    figures["others"] = max(0.0, (after - before) / (time.monotonic() - began))
    return figures


def _generators_used() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def compare(running: list[Broker], options: argparse.Namespace) -> tuple[Results, list[str]]:
    """All runs, and what went wrong. The brokers take turns, so that a busy minute hits both.

    A scenario that fails has no results; the others are measured all the same.

    Raises:
        BenchError: a broker does not even pass the warm-up.
    """
    for broker in running:
        load(broker, *WARM_UP)
    results: Results = {}
    failures = []
    for name in options.scenario:
        turns = list(running)
        if SCENARIOS[name].quorum:
            turns += [brokers.quorum(broker) for broker in running if broker.name == "RabbitMQ"]
        by_broker: dict[str, list[Figures]] = {broker.name: [] for broker in turns}
        try:
            for number in range(1, options.repeat + 1):
                for broker in turns:
                    figures = measure(broker, running, SCENARIOS[name], options.messages)
                    by_broker[broker.name].append(figures)
                    row = SCENARIOS[name].rows[-1]
                    unit = " KiB" if row.less else "/s"
                    _say(f"  {name} {number}/{options.repeat} {broker.name}: {figures[row.rate]:,.0f}{unit}")
        except BenchError as error:
            _say(f"  {name} failed: {error}")
            failures.append(f"{name} failed: {error}")
        else:
            results[name] = by_broker
    return results, failures


# -- reporting


def faults(results: Results) -> list[str]:
    """What must not be: messages lost, repeated, out of order or left over."""
    return [
        f"{scenario}, {broker}, run {number}: {fault} {figures[fault]:g}"
        for scenario, by_broker in results.items()
        for broker, runs in by_broker.items()
        for number, figures in enumerate(runs, 1)
        for fault in FAULTS
        if figures.get(fault)
    ]


def table(results: Results, names: list[str]) -> str:
    """The results as a table in Markdown."""
    heads = ["scenario", *(f"{name} /s (or as said), median (min-max)" for name in names)]
    heads += ["to the better"] if len(names) > 1 and names[0] == OURS else []
    heads += [f"{name} CPU µs" for name in names] + [f"{name} p50 / p99 ms" for name in names]
    heads += ["generator, cores", "others, cores"]
    lines = [heads, ["---", *("---:" for _ in heads[1:])]]
    for scenario, by_broker in results.items():
        for row in SCENARIOS[scenario].rows:
            sides = [by_broker.get(name, []) for name in names]
            lines.append(_line(row, sides, ratio=len(names) > 1 and names[0] == OURS))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def _line(row: Row, sides: list[list[Figures]], *, ratio: bool) -> list[str]:
    """A line of the table; a broker that was not measured here has no runs, and a dash."""

    def median(runs: list[Figures], figure: str) -> float:
        return statistics.median(run[figure] for run in runs)

    def figures(runs: list[Figures], show: Callable[[list[Figures]], str]) -> str:
        return show(runs) if runs else "-"

    def rate(runs: list[Figures]) -> str:
        rates = [run[row.rate] for run in runs]
        return f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"

    def processor(runs: list[Figures]) -> str:
        parts = [name for name in ("gateway", "postgres") if f"{row.prefix}{name}_us_per_op" in runs[0]]
        detail = " + ".join(f"{median(runs, f'{row.prefix}{name}_us_per_op'):.0f}" for name in parts)
        return f"{median(runs, f'{row.prefix}broker_us_per_op'):.0f}" + (f" ({detail})" if detail else "")

    def delay(runs: list[Figures]) -> str:
        if row.latency is None:
            return "-"
        return f"{median(runs, f'{row.latency}_p50_ms'):.2f} / {median(runs, f'{row.latency}_p99_ms'):.2f}"

    cells = [row.title, *(figures(runs, rate) for runs in sides)]
    if ratio:
        first, *others = [median(runs, row.rate) for runs in sides if runs]
        cells.append(f"{min(others) / first:.2f}" if row.less else f"{first / max(others):.2f}")
    cells += [figures(runs, processor) for runs in sides] + [figures(runs, delay) for runs in sides]
    for figure in (f"{row.prefix}gen_cpu", "others"):
        cells.append(" / ".join(f"{median(runs, figure):.2f}" for runs in sides if runs))
    return cells


def _say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def _report(results: Results, running: list[Broker], wrong: list[str], facts: dict[str, Any]) -> None:
    versions = {broker.name: {"version": broker.version, "disk": broker.fsync} for broker in running}
    if facts.pop("json"):
        print(json.dumps({**facts, "brokers": versions, "faults": wrong, "results": results}, ensure_ascii=False))
        return
    names = {broker.name: None for broker in running} | {name: None for one in results.values() for name in one}
    print(table(results, list(names)))
    print()
    for name, told in versions.items():
        print(f"{name}: {told['version']}; {told['disk']}")
    print(f"Machine: {facts['cores']} cores, {facts['system']}; {facts['began']} to {facts['ended']}")
    print(f"Load average: {facts['load_before']} before, {facts['load_after']} after (these runs included)")
    print(f"Faults (lost, repeated, misordered, left over): {'; '.join(wrong) or 'none'}")


def _jobs(options: argparse.Namespace) -> int:
    try:
        return side_by_side.compare(
            options.scenario,
            options.repeat,
            options.messages,
            tools=["msgweb"] if options.only == ["ours"] else options.tools,
            as_json=options.json,
        )
    except Asked:
        _say("Stopped.")
        return 130
    except (BenchError, MsgwebError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def main(arguments: list[str] | None = None) -> int:
    """0; or 1 when it cannot be measured or a message was lost, repeated, misordered or left over."""
    options = parse(arguments)
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, _ask)
    if not Path("/proc/stat").exists():
        print("bench: the processor time of a broker is read from /proc, which is not here", file=sys.stderr)
        return 1
    if options.scenario[0] in JOB_SCENARIOS:
        return _jobs(options)
    peers = {
        "rabbitmq": (brokers.rabbitmq, brokers.why_no_rabbitmq()),
        "activemq": (brokers.activemq, brokers.why_no_activemq()),
    }
    wanted = options.only or ["ours", *peers]
    for name, (_, missing) in peers.items():
        if name in wanted and missing:
            _say(missing)
            wanted.remove(name)
    if not wanted:
        return 1
    try:
        with ExitStack() as stack:
            running: list[Broker] = []
            facts: dict[str, Any] = {
                "json": options.json,
                "command": "python -m bench " + " ".join(sys.argv[1:]),
                "began": _now(),
                "load_before": _load(),
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            }
            try:
                _say("Starting ...")
                if "ours" in wanted:
                    running.append(stack.enter_context(brokers.ours()))
                running += [stack.enter_context(peers[name][0]()) for name in peers if name in wanted]
                results, failures = compare(running, options)
            finally:
                # A second Ctrl-C must not leave half of it running; the stack ends the brokers after this.
                for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(how, signal.SIG_IGN)
                _say("Stopping ...")
            wrong = failures + faults(results)
            _report(results, running, wrong, facts | {"ended": _now(), "load_after": _load()})
    except Asked:
        _say("Stopped.")
        return 130
    except (BenchError, MsgwebError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if wrong else 0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _load() -> str:
    return " ".join(f"{one:.2f}" for one in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
