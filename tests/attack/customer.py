"""A well-behaved client in a process of its own: it sends a message with a receipt, receives it, acks, again and again.

Arguments: port, login, passcode. It writes a line for each round: when it ended (CLOCK_MONOTONIC) and how long it took,
in seconds. A round that fails ends it with a traceback.
"""

import sys
import time

from bench.wire import Wire

QUEUE = "/queue/attack.customer"


def main(port: str, login: str, passcode: str) -> None:
    """Until it is killed."""
    wire = Wire(int(port))
    wire.send("CONNECT", accept_version="1.2", login=login, passcode=passcode)
    expect(wire, "CONNECTED")
    wire.send("SUBSCRIBE", id=0, destination=QUEUE, ack="client-individual", receipt="s")
    expect(wire, "RECEIPT")
    number = 0
    while True:
        number += 1
        body = b"%d" % number
        begun = time.monotonic()
        wire.send("SEND", body, destination=QUEUE, persistent="true", receipt=number)
        answers = {frame.command: frame for frame in wire.read(2)}
        assert set(answers) == {"RECEIPT", "MESSAGE"}, answers
        message = answers["MESSAGE"]
        assert message.body == body, f"{body!r} was expected: {message}"
        wire.send("ACK", id=message.headers["ack"], receipt="a")
        expect(wire, "RECEIPT")
        now = time.monotonic()
        print(f"{now} {now - begun}", flush=True)


def expect(wire: Wire, command: str) -> None:
    """The next frame is of that command."""
    frames = wire.read(1)
    assert [frame.command for frame in frames] == [command], frames


if __name__ == "__main__":
    main(*sys.argv[1:])
