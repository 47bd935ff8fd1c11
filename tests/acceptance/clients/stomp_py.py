"""stomp.py, whichever release is first on the path. Arguments: step, port, login, passcode, queue, version."""

import json
import logging
import os
import queue as queues
import sys
import threading
import time
from typing import Any

import stomp

SECONDS = 20.0
STEP, PORT, LOGIN, PASSCODE, QUEUE, VERSION = sys.argv[1:]


def say(*words: str) -> None:
    """A fact for the test."""
    print(*words, flush=True)


class Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Hands over what comes, in the order in which it comes."""

    def __init__(self) -> None:
        self.messages: queues.SimpleQueue[Any] = queues.SimpleQueue()
        self.receipts: queues.SimpleQueue[Any] = queues.SimpleQueue()
        self.lost = threading.Event()

    def on_message(self, frame: Any) -> None:
        self.messages.put(frame)

    def on_receipt(self, frame: Any) -> None:
        self.receipts.put(frame)

    def on_error(self, frame: Any) -> None:
        say("error", frame.headers["message"])

    def on_disconnected(self) -> None:
        self.lost.set()


class Client:
    """One connection and the subscription `s`."""

    def __init__(self, beats: tuple[int, int] = (0, 0)) -> None:
        options: dict[str, Any] = {"reconnect_sleep_initial": 0.05, "reconnect_attempts_max": 200}
        options |= {"reconnect_sleep_increase": 0, "reconnect_sleep_jitter": 0}
        if VERSION != "1.0":
            options["heartbeats"] = beats
        self.connection = getattr(stomp, f"Connection{VERSION.replace('.', '')}")([("127.0.0.1", PORT)], **options)
        if authority := os.environ.get("STOMP_CA"):
            self.connection.set_ssl(for_hosts=[("127.0.0.1", PORT)], ca_certs=authority)
        self.listener = Listener()
        self.connection.set_listener("test", self.listener)
        self._receipts = 0
        self.enter()

    def enter(self) -> None:
        """Connect. The library says `disconnected` before it has cleaned up, so the first attempts may go wrong."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.connection.connect(LOGIN, PASSCODE, wait=True)
                return
            except (OSError, stomp.exception.StompException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def message(self) -> Any:
        """The next MESSAGE."""
        return self.listener.messages.get(timeout=SECONDS)

    def receipt(self, receipt: str) -> None:
        """The next RECEIPT, which must be that one."""
        assert self.listener.receipts.get(timeout=SECONDS).headers["receipt-id"] == receipt

    def confirmed(self, verb: Any, *arguments: Any, **options: Any) -> None:
        """A frame with a receipt, which is awaited."""
        self._receipts += 1
        receipt = f"r-{self._receipts}"
        verb(*arguments, receipt=receipt, **options)
        self.receipt(receipt)

    def subscribe(self) -> None:
        """The queue, three messages at a time."""
        headers = {"prefetch-count": "3", "receipt": "s"}
        self.connection.subscribe(QUEUE, "s", "client-individual", headers)
        self.receipt("s")

    def settle(self, verb: Any, frame: Any, **options: Any) -> None:
        """ACK or NACK, in the version's words."""
        if VERSION == "1.2":
            verb(frame.headers["ack"], **options)
        elif VERSION == "1.1":
            verb(frame.headers["message-id"], "s", **options)
        else:
            verb(frame.headers["message-id"], **options)


def talk() -> None:
    """Send, receive, ack, nack, transact."""
    client = Client()
    stomp_ = client.connection
    say("connected", VERSION)
    note = "a:b" if VERSION == "1.0" else "a:b\\c\nd"  # it decodes escapes on 1.0 too, which has none
    for body in ("one", "two", "drei ß"):
        client.confirmed(stomp_.send, QUEUE, body, headers={"persistent": "true", "note": note})
    say("sent")
    client.subscribe()
    one, two, three = client.message(), client.message(), client.message()
    say("received", one.body, two.body, three.body)
    say("note", json.dumps(one.headers["note"]))
    client.settle(stomp_.ack, one)
    client.settle(stomp_.ack, two)
    if VERSION == "1.0":  # where the library has none
        client.settle(stomp_.ack, three)
    else:
        client.settle(stomp_.nack, three)
        again = client.message()
        say("again", again.body, again.headers["redelivered"])
        client.settle(stomp_.ack, again)
    aborted = stomp_.begin()
    stomp_.send(QUEUE, "never", transaction=aborted)
    stomp_.abort(aborted)
    committed = stomp_.begin()
    stomp_.send(QUEUE, "four", transaction=committed)
    stomp_.send(QUEUE, "five", transaction=committed)
    stomp_.commit(committed)
    four, five = client.message(), client.message()
    say("committed", four.body, five.body)
    acked = stomp_.begin()
    client.settle(stomp_.ack, four, transaction=acked)
    client.settle(stomp_.ack, five, transaction=acked)
    stomp_.commit(acked)
    stomp_.disconnect()
    say("bye")


def beat() -> None:
    """Wait idly for a message."""
    client = Client((100, 100))
    client.subscribe()
    say("idle")
    message = client.message()
    say("woken", message.body)
    client.settle(client.connection.ack, message)
    client.connection.disconnect()
    say("bye")


def reconnect() -> None:
    """Lose the server while a message is held, and go on."""
    client = Client()
    client.subscribe()
    client.confirmed(client.settle, client.connection.ack, client.message())
    say("holding", client.message().body)
    assert client.listener.lost.wait(SECONDS)
    client.enter()
    client.subscribe()
    again = client.message()
    say("again", again.body, again.headers["redelivered"])
    client.confirmed(client.settle, client.connection.ack, again)
    client.connection.send(QUEUE, "third", headers={"persistent": "true"})
    third = client.message()
    client.confirmed(client.settle, client.connection.ack, third)
    say("received", third.body)
    client.connection.disconnect()
    say("bye")


logging.disable()  # of attempts that fail while there is no server
{"talk": talk, "beat": beat, "reconnect": reconnect}[STEP]()
