"""The Messaging API against a server that follows a script: what the API does when the server does not behave.

How the API works with the real gateway is tested in tests/acceptance.
"""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from apps.messaging import ConnectionFailed, Messaging, OutcomeUnknown, Refused, ReplyTimeout, RequestFailed
from tests.scripted_server import Frame, Peer, Server, answer, confirm, deliver, welcome


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def messaging(server: Server) -> Iterator[Messaging]:
    with Messaging("127.0.0.1", server.port, "login", "passcode", "shop.test", timeout=5) as messaging:
        yield messaging


def test_it_enters_its_namespace_with_its_key(server: Server, messaging: Messaging) -> None:
    messaging.send("mails", {"to": "ann"}, priority=7, headers={"x-kind": "a:b"})
    [(_, login, _)] = server.sent("CONNECT")
    assert (login["host"], login["login"], login["passcode"]) == ("shop.test", "login", "passcode")
    [(_, headers, body)] = server.sent("SEND")
    assert body == b'{"to":"ann"}'
    assert headers["destination"] == "/queue/mails"
    assert headers["content-type"] == "application/json"
    assert (headers["persistent"], headers["priority"], headers["x-kind"]) == ("true", "7", "a:b")


def test_a_lost_receipt_is_reported_as_an_unknown_outcome(server: Server, messaging: Messaging) -> None:
    server.script = lambda peer, frame: peer.hang_up()
    with pytest.raises(OutcomeUnknown) as unknown:
        messaging.send("mails", "x")
    assert unknown.value.code == "outcome_unknown"
    assert len(server.sent("SEND")) == 1, "the library must not send again on its own"


def test_a_late_receipt_is_reported_as_an_unknown_outcome(server: Server, messaging: Messaging) -> None:
    messaging.send("mails", "x")  # it has connected: only the receipt is late
    server.script = lambda peer, frame: None
    with pytest.raises(OutcomeUnknown):
        messaging.send("mails", "x", timeout=0.3)


def test_an_error_for_a_frame_is_raised_with_the_servers_code(server: Server, messaging: Messaging) -> None:
    def refuse(peer: Peer, frame: Frame) -> None:
        peer.write("ERROR", {"message": "no", "code": "bad_destination", "receipt-id": frame[1]["receipt"]})

    server.script = refuse
    with pytest.raises(Refused, match="no") as refused:
        messaging.send("mails", "x")
    assert refused.value.code == "bad_destination"


def test_a_refused_login_is_not_tried_again(server: Server, messaging: Messaging) -> None:
    server.on_connect = lambda peer, frame: peer.write("ERROR", {"message": "wrong", "code": "access_refused"})
    with pytest.raises(Refused) as refused:
        messaging.send("mails", "x")
    assert refused.value.code == "access_refused"
    assert len(server.sent("CONNECT")) == 1


def test_a_server_that_is_not_ready_is_tried_again(server: Server, messaging: Messaging) -> None:
    def first_away(peer: Peer, frame: Frame) -> None:
        if len(server.sent("CONNECT")) == 1:
            peer.write("ERROR", {"message": "the database is away", "code": "unavailable"})
            peer.hang_up()
        else:
            welcome(peer, frame)

    server.on_connect = first_away
    messaging.send("mails", "x")
    assert len(server.sent("CONNECT")) == 2


def test_a_lost_connection_is_replaced_for_the_next_message(server: Server, messaging: Messaging) -> None:
    def once(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if len(server.sent("SEND")) == 1:
            peer.hang_up()

    server.script = once
    messaging.send("mails", "1")
    # Whether the loss is noticed before or while the second is sent: it arrives, or says that it is unknown.
    try:
        messaging.send("mails", "2")
    except OutcomeUnknown:
        messaging.send("mails", "2")
    assert [body for _, _, body in server.sent("SEND")][-1] == b"2"
    assert len(server.sent("CONNECT")) == 2


def test_nobody_there_is_said_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(ConnectionFailed), Messaging("127.0.0.1", port, "a", "b") as messaging:
        messaging.send("mails", "x", timeout=0.5)
    assert time.monotonic() - begun < 3


def test_a_silent_server_is_given_up_at_the_deadline(server: Server) -> None:
    server.on_connect = lambda peer, frame: None
    with pytest.raises(ConnectionFailed), Messaging("127.0.0.1", server.port, "a", "b") as messaging:
        messaging.send("mails", "x", timeout=0.5)


def test_a_request_hears_of_acceptance_progress_and_result(server: Server, messaging: Messaging) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        answer(peer, frame, "accepted", b'{"job":"1","status_url":"http://x/status"}')
        confirm(peer, frame)
        answer(peer, frame, "progress", b'{"done":1,"total":2,"text":"half"}')
        answer(peer, frame, "result", b'{"rows":7}')

    server.script = work
    heard: list[str] = []
    reply = messaging.request(
        "clone", {"a": 1}, on_progress=lambda p: heard.append(str(p)), on_accepted=lambda a: heard.append(a.status_url)
    )
    assert heard == ["http://x/status", " 50% half"]
    assert (reply.body, reply.status_url) == ({"rows": 7}, "http://x/status")
    [(_, headers, _)] = server.sent("SEND")
    assert headers["destination"] == "/task/clone"
    assert (headers["reply-to"], headers["progress"]) == ("/temp-queue/replies", "true")
    assert headers["correlation-id"] == reply.job_id


def test_a_failed_job_is_raised_with_its_code(server: Server, messaging: Messaging) -> None:
    server.script = lambda peer, frame: (
        confirm(peer, frame),
        answer(peer, frame, "error", b'{"code":"bad_brand","message":"no such brand"}'),
    )[0]
    with pytest.raises(RequestFailed, match="no such brand") as failed:
        messaging.request("clone", {})
    assert failed.value.code == "bad_brand"


def test_a_reply_that_does_not_come_names_the_job(server: Server, messaging: Messaging) -> None:
    messaging.send("mails", "x")  # it has connected: only the reply is late
    with pytest.raises(ReplyTimeout) as late:
        messaging.request("clone", {}, timeout=1)
    _, (_, headers, _) = server.sent("SEND")
    assert late.value.job_id == headers["correlation-id"]


def test_a_task_is_asked_for_again_under_its_id_when_the_connection_is_lost(
    server: Server, messaging: Messaging
) -> None:
    def lose_the_first(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if len(server.sent("SEND")) == 1:
            peer.hang_up()
        else:
            answer(peer, frame, "result", b"3")

    server.script = lose_the_first
    assert messaging.request("clone", {}).body == 3
    first, second = server.sent("SEND")
    assert first[1]["correlation-id"] == second[1]["correlation-id"]


def test_a_request_to_a_queue_is_not_repeated(server: Server, messaging: Messaging) -> None:
    def lose(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        peer.hang_up()

    server.script = lose
    with pytest.raises(OutcomeUnknown):
        messaging.request("/queue/thumbnails", {})
    assert len(server.sent("SEND")) == 1


def test_a_message_is_acknowledged_after_its_handler_and_returned_when_it_raised(
    server: Server, messaging: Messaging
) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE":
            deliver(peer, frame, "1", "2", "3")

    server.script = work
    seen: list[str] = []

    def handler(message: object) -> None:
        seen.append(message.body)  # type: ignore[attr-defined]
        if seen[-1] == "2":
            raise RuntimeError("cannot")

    messaging.on("work", handler, prefetch=3)
    assert messaging.run(limit=3) == 3
    messaging.close()
    assert seen == ["1", "2", "3"]
    [(_, subscribed, _)] = server.sent("SUBSCRIBE")
    assert (subscribed["ack"], subscribed["prefetch-count"]) == ("client-individual", "3")
    verdicts = [(command, headers["id"]) for command, headers, _ in server.frames if command in ("ACK", "NACK")]
    assert verdicts == [("ACK", "ack-1"), ("NACK", "ack-2"), ("ACK", "ack-3")]


def test_after_a_lost_connection_it_listens_again(server: Server, messaging: Messaging) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE":
            if len(server.sent("SUBSCRIBE")) == 1:
                peer.hang_up()
            else:
                deliver(peer, frame, "7")

    server.script = work
    seen: list[str] = []
    messaging.on("work", lambda message: seen.append(message.body))
    assert messaging.run(limit=1) == 1
    assert seen == ["7"]


def test_a_topics_messages_need_no_ack(server: Server, messaging: Messaging) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE":
            deliver(peer, frame, "1", kind="topic")

    server.script = work
    messaging.on("/topic/work", lambda message: None)
    assert messaging.run(limit=1) == 1
    messaging.close()
    assert server.sent("SUBSCRIBE")[0][1]["ack"] == "auto"
    assert not server.sent("ACK")


def test_stop_ends_run(server: Server, messaging: Messaging) -> None:
    messaging.on("work", lambda message: None)
    threading.Timer(0.1, messaging.stop).start()
    assert messaging.run() == 0


def test_stop_ends_run_while_nobody_answers(server: Server, messaging: Messaging) -> None:
    messaging.on("work", lambda message: None)
    refused = threading.Event()

    def refuse(peer: Peer, frame: Frame) -> None:
        peer.hang_up()
        refused.set()

    server.on_connect = refuse
    server.script = lambda peer, frame: peer.hang_up()
    messaging._connection.send("NACK", {"id": "1"})  # type: ignore[union-attr]
    thread = threading.Thread(target=lambda: (refused.wait(5), messaging.stop()))
    thread.start()
    assert messaging.run() == 0
    thread.join()


def test_handlers_may_answer(server: Server, messaging: Messaging) -> None:
    def work(peer: Peer, frame: Frame) -> None:
        confirm(peer, frame)
        if frame[0] == "SUBSCRIBE" and frame[1]["destination"] == "/queue/work":
            peer.write(
                "MESSAGE",
                {
                    "subscription": frame[1]["id"],
                    "message-id": "1",
                    "ack": "1",
                    "destination": "/queue/work",
                    "reply-to": "/job/j-1",
                    "job-id": "j-1",
                    "correlation-id": "c-1",
                },
                b"x",
            )

    def handler(message: object) -> None:
        message.progress(1, 2, "half")  # type: ignore[attr-defined]
        message.reply({"ok": True})  # type: ignore[attr-defined]

    server.script = work
    messaging.on("work", handler)
    messaging.run(limit=1)
    progress, result = server.sent("SEND")
    assert progress[1]["job-event"] == "progress"
    assert "receipt" not in progress[1], "progress is best effort"
    assert result[1]["job-event"] == "result"
    assert (result[1]["destination"], result[1]["correlation-id"], result[1]["job-id"]) == ("/job/j-1", "c-1", "j-1")
    assert result[2] == b'{"ok":true}'


def test_after_close_nothing_is_sent(messaging: Messaging) -> None:
    messaging.close()
    with pytest.raises(ConnectionFailed, match="closed"):
        messaging.send("mails", "x")
