"""A well-behaved client in a process of its own: it sends a message with a receipt, receives it, acks, again and again.

Arguments: port, login, passcode. It writes a line for each round: when it ended (CLOCK_MONOTONIC) and how long it took,
in seconds. A round that fails ends it with a traceback.
"""

import sys
import time

from tests.stomp_gateway import WireClient

QUEUE = "/queue/attack.customer"


def main(port: str, login: str, passcode: str) -> None:
    """Until it is killed."""
    client = WireClient(int(port))
    client.send("CONNECT", accept_version="1.2", login=login, passcode=passcode)
    client.expect("CONNECTED")
    client.confirmed("SUBSCRIBE", id=0, destination=QUEUE, ack="client-individual")
    number = 0
    while True:
        number += 1
        body = b"%d" % number
        begun = time.monotonic()
        client.confirmed("SEND", body, destination=QUEUE, persistent="true")
        message = client.expect("MESSAGE")
        assert message.body == body, f"{body!r} was expected: {message}"
        client.confirmed("ACK", id=message["ack"])
        now = time.monotonic()
        print(f"{now} {now - begun}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
