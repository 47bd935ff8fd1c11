"""The memory of a gateway: with a million messages waiting and a slow consumer, and for each idle connection.

Proportional set size as Linux counts it, which shares what processes share.
"""

import json
import resource
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from bench import brokers

WAITING = 1_000_000
SECONDS = 20.0
IDLE = 5_000


def memory(pid: int) -> float:
    """In MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def connect(port: int, login: str, passcode: str) -> socket.socket:
    """A client that has logged in."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(f"CONNECT\naccept-version:1.2\nhost:/\nlogin:{login}\npasscode:{passcode}\n\n\0".encode())
    if not client.recv(4096).startswith(b"CONNECTED"):
        raise brokers.BenchError("the gateway did not let us in")
    return client


def main() -> int:
    """0, or 1 when it cannot be measured."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with ExitStack() as stack:
            place = stack.enter_context(brokers.installation())
            key = json.loads((place.home / "credentials.json").read_text())["stomp"]
            gateway = stack.enter_context(brokers.gateway(place, key["login"], key["passcode"]))
            fresh = memory(gateway.pid)
            print(f"a fresh gateway: {fresh:.1f} MiB", flush=True)
            idle = [connect(place.stomp, key["login"], key["passcode"]) for _ in range(IDLE)]
            time.sleep(1)
            with_idle = memory(gateway.pid)
            print(
                f"{IDLE:,} idle connections: {with_idle:.1f} MiB ({with_idle * 1.048576:.1f} MB), "
                f"{(with_idle - fresh) * 1024 / IDLE:.1f} KiB each"
            )
            for client in idle:
                client.close()
            with psycopg.connect(place.conninfo, autocommit=True) as connection:
                connection.execute(
                    "INSERT INTO msgweb.message (destination, persistent, headers, body) SELECT msgweb.destination_id("
                    "(SELECT name FROM accounts_namespace ORDER BY id LIMIT 1), 'queue', 'backlog'), true, '', %s"
                    " FROM generate_series(1, %s)",
                    [b"x" * 1024, WAITING],
                )
            client = connect(place.stomp, key["login"], key["passcode"])
            client.sendall(
                b"SUBSCRIBE\nid:0\ndestination:/queue/backlog\nack:client-individual\nprefetch-count:200\n\n\0"
            )
            highest, began, buffer = 0.0, time.monotonic(), b""
            client.settimeout(1)
            while time.monotonic() - began < SECONDS:
                try:
                    buffer += client.recv(65536)
                except TimeoutError:
                    pass
                frame, end, rest = buffer.partition(b"\0")
                if end:
                    buffer = rest
                    ack = next(line[4:] for line in frame.split(b"\n") if line.startswith(b"ack:"))
                    client.sendall(b"ACK\nid:%b\n\n\0" % ack)
                highest = max(highest, memory(gateway.pid))
                time.sleep(1)
            print(f"{WAITING:,} waiting, a consumer that acks one a second: at most {highest:.1f} MiB")
            gateway.send_signal(signal.SIGTERM)
    except brokers.BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
