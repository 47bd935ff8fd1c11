"""A gateway, its customer and an attack: what the one costs the others."""

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgweb.home import REPOSITORY
from tests.attack.attacks import ATTACKS, Attack, Target
from tests.installation import Installation, until

SECONDS = 60.0  # a deadline for a loaded machine, not an expectation
CALM_ROUNDS = 200
ROUNDS = 50
MIB = 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """What an attack came to. Times in seconds, memory in bytes.

    Attributes:
        report: what the attack did and saw.
        calm, attacked: the customer's rounds before it and during it.
        grown: by how much the gateway's resident memory grew at its highest.
        kept: by how much it had grown when the attack was over.
        cpu: processor time of the gateway.
        seconds: how long the attack took.
    """

    report: str
    calm: list[float]
    attacked: list[float]
    grown: int
    kept: int
    cpu: float
    seconds: float

    @property
    def slower(self) -> float:
        """How many times as long the customer's median round took."""
        return statistics.median(self.attacked) / statistics.median(self.calm)


class Siege:
    """A gateway under attack with a customer who notes how long each round takes."""

    def __init__(self, installation: Installation) -> None:
        stomp = installation.credentials["stomp"]
        installation.start("stomp")
        self._pid = installation.pid("stomp")
        self.target = Target(installation.stomp.port, stomp["login"], stomp["passcode"])
        self._rounds: list[tuple[float, float]] = []
        self._changed = threading.Condition()
        self._customer = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.customer", *map(str, self.target)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()

    def _listen(self) -> None:
        assert self._customer.stdout is not None
        for line in self._customer.stdout:
            ended, took = map(float, line.split())
            with self._changed:
                self._rounds.append((ended, took))
                self._changed.notify_all()

    def rounds(self, count: int, since: float) -> list[float]:
        """How long the customer's rounds took that began after `since`; at least so many.

        Raises:
            AssertionError: the customer has gone, or is not served.
        """

        def found() -> list[float]:
            return [took for ended, took in self._rounds if ended - took >= since]

        with self._changed:
            served = self._changed.wait_for(lambda: len(found()) >= count or self._customer.poll() is not None, SECONDS)
            assert self._customer.poll() is None, self._customer.stderr and self._customer.stderr.read()
            assert served, f"the customer had {len(found())} rounds of {count}"
            return found()

    def endure(self, attack: Attack, measure: float = 1.0) -> Outcome:
        """The customer alone, then with the attack."""
        calm = self.rounds(CALM_ROUNDS, time.monotonic())
        before, cpu = self._resident("VmRSS"), self._cpu()
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # the high-water mark begins anew
        begun = time.monotonic()
        report = self._run(attack, measure)
        ended = time.monotonic()
        # Where the attack was short, what it left to do counts too.
        attacked = self.rounds(ROUNDS, begun)
        highest = self._resident("VmHWM")
        cpu = self._cpu() - cpu
        until(lambda: self._connections() <= 1, SECONDS, "the attack's connections are closed")
        return Outcome(
            report, calm, attacked, max(0, highest - before), self._resident("VmRSS") - before, cpu, ended - begun
        )

    def _run(self, attack: Attack, measure: float) -> str:
        command = [sys.executable, "-m", "tests.attack.attacker", str(ATTACKS.index(attack)), str(measure)]
        done = subprocess.run(
            [*command, *map(str, self.target)], cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _resident(self, which: str) -> int:
        [line] = [one for one in Path(f"/proc/{self._pid}/status").read_text().splitlines() if one.startswith(which)]
        return int(line.split()[1]) * 1024

    def _cpu(self) -> float:
        user, system = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _connections(self) -> int:
        """Sockets of the gateway that clients are connected to."""
        mine = f":{self.target.port:04X}"
        inodes = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self._pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(mine) and fields[3] in ("01", "08"):  # established, or half-closed by the client
                    inodes.add(fields[9])
        return len(inodes)

    def close(self) -> None:
        """The customer leaves."""
        self._customer.kill()
        self._customer.wait(10)
        self._reader.join(10)
        for stream in (self._customer.stdout, self._customer.stderr):
            assert stream is not None
            stream.close()


@contextlib.contextmanager
def siege(installation: Installation) -> Iterator[Siege]:
    """A siege of the installation's gateway."""
    laid = Siege(installation)
    try:
        yield laid
    finally:
        laid.close()
