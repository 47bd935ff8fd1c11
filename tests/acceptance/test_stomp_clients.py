"""The STOMP clients that people have, against real gateways: each sends, receives, acks, nacks, transacts, beats, and
goes on after the gateway was killed. What each says is in `tests/acceptance/clients`."""

from typing import Any

import pytest

from apps.stomp.protocol.heartbeat import HeartBeat
from tests.foreign_clients import CLIENTS, Conversations, ForeignClient, Proxy, conversations
from tests.installation import Installation
from tests.stomp_gateway import SECONDS, RunningGateway, WireClient, gateway, gateway_with, queue, stomp_database

__all__ = ["conversations", "gateway", "queue", "stomp_database"]  # fixtures

GUEST = ("guest", "a:secret")


def each(clients: list[ForeignClient]) -> Any:
    """A parameter for each client, skipped where what it needs is missing."""
    return [
        pytest.param(client, marks=[pytest.mark.needs(client.needs)] if client.needs else [], id=str(client))
        for client in clients
    ]


@pytest.mark.parametrize("client", each(CLIENTS))
def test_it_sends_receives_acks_nacks_and_transacts(
    client: ForeignClient, conversations: Conversations, gateway: RunningGateway, queue: str
) -> None:
    program = conversations.start(client, "talk", gateway.port, *GUEST, queue)
    assert program.wait() == 0, program.output
    expected = [f"connected {client.version}", "sent", "received one two drei ß", f"note {client.note}"]
    expected += ["again drei ß true"] if client.nacks else []
    assert program.lines == [*expected, "committed four five", "bye"]
    # Nothing is left: neither what was acked nor what was aborted.
    wire = gateway.connected()
    wire.confirmed("SUBSCRIBE", id=0, destination=queue, ack="client")
    wire.confirmed("SEND", b"the only one", destination=queue)
    assert wire.expect("MESSAGE").body == b"the only one"


@pytest.mark.parametrize("client", each([client for client in CLIENTS if client.beats]))
def test_it_beats_and_is_beaten_to_while_it_waits(
    client: ForeignClient, conversations: Conversations, stomp_database: str, queue: str
) -> None:
    with gateway_with(stomp_database, heart_beat=HeartBeat(100, 100)) as gateway:
        proxy = Proxy(gateway.port)
        try:
            program = conversations.start(client, "beat", proxy.port, *GUEST, queue)
            program.wait_for("idle")
            proxy.forget()
            for side in ("client", "server"):
                assert set(proxy.await_beats(side, 4, SECONDS)) == set(b"\n"), program.output
            wire = gateway.connected()
            wire.confirmed("SEND", b"enough", destination=queue)
            assert program.wait() == 0, program.output
            assert program.lines == ["idle", "woken enough", "bye"]
        finally:
            proxy.close()


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("client", each(list({client.name: client for client in CLIENTS}.values())))
def test_it_goes_on_where_it_was_after_the_gateway_was_killed(
    client: ForeignClient, conversations: Conversations, installation: Installation
) -> None:
    queue = "/queue/orders"
    key = installation.credentials["stomp"]
    installation.start("stomp")
    wire = WireClient(installation.stomp.port)
    wire.send("CONNECT", accept_version="1.2", login=key["login"], passcode=key["passcode"])
    wire.expect("CONNECTED")
    for body in (b"first", b"second"):
        wire.confirmed("SEND", body, destination=queue, persistent="true")
    wire.close()
    program = conversations.start(client, "reconnect", installation.stomp.port, key["login"], key["passcode"], queue)
    program.wait_for("holding second")
    installation.kill("stomp")
    installation.start("stomp")
    assert program.wait() == 0, program.output + installation.logs()
    assert program.lines == ["holding second", "again second true", "received third", "bye"]
    assert installation.query("SELECT count(*) FROM msgweb.message") == [(0,)]
