"""The rules of STOMP 1.0, 1.1 and 1.2, by their ids. Those about frames and states, on the core alone."""

import pytest

from apps.stomp.protocol import heartbeat
from apps.stomp.protocol.connection import ServerConnection
from apps.stomp.protocol.encoder import MessageEncoder, connected, error
from apps.stomp.protocol.events import (
    Abort,
    Ack,
    Begin,
    Commit,
    Connect,
    Disconnect,
    Event,
    Nack,
    Send,
    Subscribe,
    Unsubscribe,
    Violation,
)
from apps.stomp.protocol.heartbeat import Beats, HeartBeat
from apps.stomp.protocol.parser import Limits

VERSIONS = ["1.0", "1.1", "1.2"]
FROM_1_1 = ["1.1", "1.2"]


def opened(version: str, limits: Limits | None = None) -> ServerConnection:
    connection = ServerConnection(limits)
    connection.receive(f"CONNECT\naccept-version:{version}\n\n\0".encode())
    connection.accept("s", "server")
    assert connection.version == version
    return connection


def said(version: str, data: bytes, limits: Limits | None = None) -> list[Event]:
    return opened(version, limits).receive(data)


def sent(version: str, data: bytes) -> Send:
    [event] = said(version, data)
    assert type(event) is Send, event
    return event


def violation(version: str, data: bytes, limits: Limits | None = None) -> Violation:
    event = said(version, data, limits)[-1]
    assert type(event) is Violation, event
    return event


# -- frames


@pytest.mark.parametrize("version", VERSIONS)
def test_f1_a_frame_is_command_headers_body_nul_and_any_line_ends(version: str) -> None:
    events = said(version, b"\n\nSEND\ndestination:/queue/a\n\nhello\0\n\n\nSEND\ndestination:/queue/b\n\n\0\n")
    assert [(e.head.destination, e.body) for e in events if type(e) is Send] == [
        ("/queue/a", b"hello"),
        ("/queue/b", b""),
    ]


def test_f1_lines_may_end_with_cr_lf() -> None:
    events = said(
        "1.2", b"SEND\r\ndestination:/queue/a\r\nx:y\r\n\r\nhel\r\nlo\0\r\nBEGIN\r\ntransaction:t\r\n\r\n\0\r\n"
    )
    assert type(events[0]) is Send and events[0].body == b"hel\r\nlo" and events[0].head.headers == b"x:y\n"
    assert events[1:] == [Begin("t", None)]


@pytest.mark.parametrize("version", FROM_1_1)
def test_f2_headers_are_utf_8_and_names_are_case_sensitive(version: str) -> None:
    send = sent(version, "SEND\ndestination:/queue/ä\nDestination:x\n\n\0".encode())
    assert send.head.destination == "/queue/ä"
    assert send.head.headers == b"Destination:x\n"
    assert violation(version, b"SEND\ndestination:/queue/\xff\n\n\0").error.code == "malformed_header"
    assert violation(version, b"send\ndestination:/queue/a\n\n\0").error.code == "unknown_command"


@pytest.mark.parametrize("version", FROM_1_1)
def test_f3_escapes_are_decoded_in_names_and_values(version: str) -> None:
    [event] = said(version, rb"SUBSCRIBE%id:a\cb\\c\nd%destination:/queue/a%n\cm:v%%".replace(b"%", b"\n") + b"\0")
    assert type(event) is Subscribe
    assert event.id == "a:b\\c\nd"
    assert event.headers["n:m"] == "v"


def test_f3_1_2_decodes_the_carriage_return() -> None:
    [event] = said("1.2", rb"SUBSCRIBE%id:a\rb%destination:q%%".replace(b"%", b"\n") + b"\0")
    assert type(event) is Subscribe and event.id == "a\rb"


@pytest.mark.parametrize(("version", "escape"), [("1.1", rb"\r"), ("1.1", rb"\t"), ("1.2", rb"\t"), ("1.2", b"\\")])
@pytest.mark.parametrize("frame", [b"SEND\ndestination:q\nx:a%\n\n\0", b"BEGIN\ntransaction:a%\n\n\0"])
def test_f4_an_undefined_escape_is_fatal(version: str, escape: bytes, frame: bytes) -> None:
    event = violation(version, frame.replace(b"%", escape))
    assert (event.error.code, event.fatal) == ("undefined_escape", True)


def test_f4_an_undefined_escape_in_a_receipt_is_fatal() -> None:
    assert violation("1.2", b"SEND\ndestination:q\nreceipt:\\t\n\n\0").error.code == "undefined_escape"


def test_f5_headers_are_encoded_by_the_version_of_the_receiver() -> None:
    kept = sent("1.2", rb"SEND%destination:q%k\cey:a\cb\\c\nd\re%%".replace(b"%", b"\n") + b"\0").head.headers
    frames = {v: MessageEncoder(v, "0", "q", ackable=False).encode(b"1", kept, b"") for v in VERSIONS}
    assert b"\n" + rb"k\cey:a\cb\\c\nd\re" + b"\n" in frames["1.2"]
    assert b"\n" + rb"k\cey:a\cb\\c\nd" + b"\re\n" in frames["1.1"]
    assert b"\n" + rb"k\cey:a:b\c d e".replace(rb"\c ", b"\\c ") + b"\n" in frames["1.0"]


def test_f5_connected_has_no_escapes() -> None:
    assert b"\nserver:a:b\\c\n" in connected("1.2", "s", "a:b\\c", "0,0")


def test_f5_connect_has_no_escapes() -> None:
    [event] = ServerConnection().receive(b"CONNECT\naccept-version:1.2\nlogin:a\npasscode:x:y\\t\\z\n\n\0")
    assert type(event) is Connect and event.passcode == "x:y\\t\\z"


@pytest.mark.parametrize("version", FROM_1_1)
def test_f6_blanks_belong_to_the_value(version: str) -> None:
    assert sent(version, b"SEND\ndestination:q\nx: a \n\n\0").head.headers == b"x: a \n"


def test_f6_1_0_clients_may_pad() -> None:
    send = sent("1.0", b"SEND\ndestination: q\nreceipt: 5\ncontent-length: 2\nx: a\n\nhi\0")
    assert (send.head.destination, send.receipt, send.body, send.head.headers) == ("q", b"5", b"hi", b"x:a\n")


def test_f7_1_0_has_no_escapes_and_values_may_hold_colons() -> None:
    send = sent("1.0", b"SEND\ndestination:q\nurl:http://x/\\n\n\n\0")
    assert send.head.headers == rb"url:http\c//x/\\n" + b"\n"
    assert b"\nurl:http://x/\\n\n" in MessageEncoder("1.0", "0", "q", ackable=False).encode(
        b"1", send.head.headers, b""
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_f8_the_first_of_repeated_headers_wins(version: str) -> None:
    send = sent(version, b"SEND\ndestination:a\ndestination:b\nreceipt:1\nreceipt:2\nx:1\nx:2\n\n\0")
    assert (send.head.destination, send.receipt, send.head.fields[b"x"]) == ("a", b"1", b"1")
    [begin] = said(version, b"BEGIN\ntransaction:a\ntransaction:b\n\n\0")
    assert begin == Begin("a", None)


@pytest.mark.parametrize("version", VERSIONS)
def test_f9_content_length_octets_are_read_then_nul(version: str) -> None:
    assert sent(version, b"SEND\ndestination:q\ncontent-length:5\n\na\0b\0c\0").body == b"a\0b\0c"
    event = violation(version, b"SEND\ndestination:q\ncontent-length:5\n\nabcdefg\0")
    assert (event.error.code, event.fatal) == ("malformed_frame", True)


def test_f9_a_content_length_that_is_no_number_is_malformed() -> None:
    for value in (b"-1", b"1_0", b"+5", b"0x5", b"", b"5 "):
        code = violation("1.2", b"SEND\ndestination:q\ncontent-length:" + value + b"\n\nabcde\0").error.code
        assert code == "malformed_header", value


@pytest.mark.parametrize("version", VERSIONS)
def test_f10_a_body_with_nul_carries_content_length(version: str) -> None:
    frame = MessageEncoder(version, "0", "q", ackable=False).encode(b"1", b"", b"a\0b")
    assert frame.endswith(b"\ncontent-length:3\n\na\0b\0\n")


def test_f11_error_with_a_body_carries_content_length_and_type() -> None:
    frame = error("1.2", "bad", "no: way")
    head, _, body = frame.partition(b"\n\n")
    assert b"\ncontent-type:text/plain\n" in head
    assert head.endswith(b"content-length:%d" % len(body.removesuffix(b"\0\n")))


@pytest.mark.parametrize("version", FROM_1_1)
def test_f12_only_send_has_a_body(version: str) -> None:
    event = violation(version, b"SUBSCRIBE\nid:0\ndestination:q\n\nbody\0")
    assert event.error.code == "malformed_frame"


def test_f12_1_0_a_body_of_subscribe_is_ignored() -> None:
    [event] = said("1.0", b"SUBSCRIBE\ndestination:q\n\nbody\0")
    assert type(event) is Subscribe


def test_f13_content_type_passes_unchanged_and_none_is_invented() -> None:
    assert sent("1.2", b"SEND\ndestination:q\ncontent-type:x/y;z=1\n\n\0").head.headers == b"content-type:x/y;z=1\n"
    assert sent("1.2", b"SEND\ndestination:q\n\n\0").head.headers == b""


@pytest.mark.parametrize("version", FROM_1_1)
def test_f14_an_empty_value_is_legal_and_an_empty_name_is_not(version: str) -> None:
    assert sent(version, b"SEND\ndestination:q\nx:\n\n\0").head.headers == b"x:\n"
    assert violation(version, b"SEND\ndestination:q\n:x\n\n\0").error.code == "malformed_header"
    assert violation(version, b"SEND\ndestination:q\nx\n\n\0").error.code == "malformed_header"


# -- limits


def test_l1_limits_on_header_count_line_length_command_and_body() -> None:
    limits = Limits(frame=1000, headers=4, line=50)
    allowed = b"SEND\ndestination:q\na:1\nb:2\n" + b"c:" + b"x" * 48 + b"\n\n" + b"x" * 800 + b"\0"
    assert type(said("1.2", allowed, limits)[0]) is Send
    for data in (
        b"SEND\ndestination:q\na:1\nb:2\nc:3\nd:4\n\n\0",
        b"SEND\ndestination:q\nc:" + b"x" * 49 + b"\n\n\0",
        b"SEND\ndestination:q\ncontent-length:1001\n\n",
        b"SEND\ndestination:q\ncontent-length:99999999999999999999999\n\n",
        b"SEND\ndestination:q\n\n" + b"x" * 1000,
        b"SEND\n" + b"x:y\n" * 51,
        b"X" * 33,
    ):
        event = violation("1.2", data, limits)
        assert (event.error.code, event.fatal) == ("limit_exceeded", True), data


def test_l1_a_frame_before_log_in_is_small() -> None:
    [event] = ServerConnection().receive(b"CONNECT\nx:" + b"y" * 70_000)
    assert type(event) is Violation and event.error.code == "limit_exceeded"


def test_l1_a_body_before_log_in_is_no_way_around_that() -> None:
    connection = ServerConnection()
    events = connection.receive(b"CONNECT\nx:y\n\n")
    for _ in range(70):
        events += connection.receive(b"z" * 1000)
    [event] = events
    assert type(event) is Violation and event.error.code == "limit_exceeded"


def test_l2_after_a_limit_nothing_more_is_read_and_the_receipt_is_known() -> None:
    connection = opened("1.2", Limits(frame=100))
    [event] = connection.receive(b"SEND\ndestination:q\nreceipt:7\ncontent-length:101\n\n")
    assert type(event) is Violation and event.receipt == b"7"
    assert connection.state == "closed"
    assert connection.receive(b"\0SEND\ndestination:q\n\n\0") == []


# -- connecting


@pytest.mark.parametrize("command", [b"CONNECT", b"STOMP"])
def test_c1_stomp_is_connect(command: bytes) -> None:
    [event] = ServerConnection().receive(command + b"\naccept-version:1.2\nlogin:me\npasscode:p\nhost:h\n\n\0")
    assert type(event) is Connect and (event.login, event.passcode, event.host) == ("me", "p", "h")


def test_c2_no_accept_version_means_1_0() -> None:
    connection = ServerConnection()
    connection.receive(b"CONNECT\nlogin: me\n\n\0")
    assert connection.version == "1.0"


@pytest.mark.parametrize(
    ("offer", "version"), [("1.0,1.1,1.2", "1.2"), ("1.1,1.0", "1.1"), ("1.2, 1.9", "1.2"), ("1.0", "1.0")]
)
def test_c3_the_highest_common_version(offer: str, version: str) -> None:
    connection = ServerConnection()
    connection.receive(f"CONNECT\naccept-version:{offer}\n\n\0".encode())
    assert f"\nversion:{version}\n".encode() in connection.accept("s", "x")


def test_c4_no_common_version_names_those_that_are_spoken() -> None:
    connection = ServerConnection()
    [event] = connection.receive(b"CONNECT\naccept-version:2.0,0.9\n\n\0")
    assert type(event) is Violation and event.fatal
    assert b"\nversion:1.0,1.1,1.2\n" in connection.error(event.error.code, event.error.message)


def test_a_second_connect_is_refused() -> None:
    assert violation("1.2", b"CONNECT\naccept-version:1.2\n\n\0").error.code == "already_connected"


@pytest.mark.parametrize("frame", [b"SEND\ndestination:q\n\n\0", b"DISCONNECT\n\n\0", b"MESSAGE\n\n\0"])
def test_a_frame_before_connect_is_refused(frame: bytes) -> None:
    [event] = ServerConnection().receive(frame)
    assert type(event) is Violation and event.error.code == "not_connected"


# -- heart-beats


def test_b1_no_header_means_no_beats() -> None:
    connection = opened("1.2")
    assert connection.beats == Beats(0, 0)


@pytest.mark.parametrize(
    ("client", "server", "beats"),
    [
        ((0, 0), (100, 100), (0, 0)),
        ((500, 50), (100, 200), (500, 100)),
        ((50, 500), (100, 200), (200, 500)),
        ((9, 9), (0, 0), (0, 0)),
    ],
)
def test_b2_each_direction_at_the_slower_of_offer_and_wish(
    client: tuple[int, int], server: tuple[int, int], beats: tuple[int, int]
) -> None:
    assert heartbeat.agree(HeartBeat(*client), HeartBeat(*server)) == beats


def test_b2_a_heart_beat_header_that_is_no_pair_is_refused() -> None:
    for value in (b"1", b"a,b", b"1,-1", b"1,2,3"):
        [event] = ServerConnection().receive(b"CONNECT\naccept-version:1.2\nheart-beat:" + value + b"\n\n\0")
        assert type(event) is Violation and event.error.code == "bad_header", value


def test_b4_beats_make_no_event() -> None:
    assert said("1.2", b"\n\n\r\n\n") == []


def test_b5_the_receiver_is_tolerant() -> None:
    assert [heartbeat.read_deadline(ms) for ms in (100, 5_000, 30_000)] == [5_100, 10_000, 60_000]


# -- what each frame needs


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("rule", "frame"),
    [
        ("S1", b"SEND\nreceipt:r\n\n\0"),
        ("U1", b"SUBSCRIBE\nid:0\nreceipt:r\n\n\0"),
        ("N1", b"UNSUBSCRIBE\nreceipt:r\n\n\0"),
        ("A1", b"ACK\nreceipt:r\n\n\0"),
        ("A3", b"NACK\nreceipt:r\n\n\0"),
        ("T1", b"BEGIN\nreceipt:r\n\n\0"),
        ("T1", b"COMMIT\nreceipt:r\n\n\0"),
        ("T1", b"ABORT\nreceipt:r\n\n\0"),
    ],
)
def test_s1_u1_n1_a1_a3_t1_a_missing_header_is_named(version: str, rule: str, frame: bytes) -> None:
    event = violation(version, frame)
    assert event.error.code == "missing_header"
    assert event.receipt == b"r"
    assert event.fatal == (version != "1.0")


@pytest.mark.parametrize("version", FROM_1_1)
def test_u1_ids_are_unique_on_a_connection(version: str) -> None:
    frame = b"SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0"
    assert violation(version, frame + frame).error.code == "duplicate_subscription"
    events = said(version, frame + b"UNSUBSCRIBE\nid:0\n\n\0" + frame)
    assert [type(event) for event in events] == [Subscribe, Unsubscribe, Subscribe]


def test_u2_ack_modes() -> None:
    frame = b"SUBSCRIBE\nid:0\ndestination:q\n%b\n\0"
    for line, mode in ((b"", "auto"), (b"ack:auto\n", "auto"), (b"ack:client\n", "client")):
        [event] = said("1.2", frame % line)
        assert type(event) is Subscribe and event.ack == mode
    [event] = said("1.2", frame % b"ack:client-individual\n")
    assert type(event) is Subscribe and event.ack == "client-individual"
    assert violation("1.2", frame % b"ack:bogus\n").error.code == "bad_header"


def test_n1_1_0_unsubscribes_by_id_or_destination() -> None:
    by_id = b"SUBSCRIBE\nid:7\ndestination:/queue/a\n\n\0UNSUBSCRIBE\nid:7\n\n\0"
    by_destination = b"SUBSCRIBE\nid:7\ndestination:/queue/a\n\n\0UNSUBSCRIBE\ndestination:/queue/a\n\n\0"
    nameless = b"SUBSCRIBE\ndestination:/queue/a\n\n\0UNSUBSCRIBE\ndestination:/queue/a\n\n\0"
    for data, identifier in ((by_id, "7"), (by_destination, "7"), (nameless, "/queue/a")):
        event = said("1.0", data)[-1]
        assert type(event) is Unsubscribe and event.id == identifier
    assert violation("1.0", b"UNSUBSCRIBE\nid:7\n\n\0").error.code == "unknown_subscription"


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.0", b"message-id:17\n"),
        ("1.1", b"message-id:17\nsubscription:0\n"),
        ("1.1", b"subscription:0\nmessage-id:17\n"),
        ("1.2", b"id:17\n"),
    ],
)
def test_a1_ack_names_the_message(version: str, headers: bytes) -> None:
    assert said(version, b"ACK\n" + headers + b"\n\0") == [Ack([b"17"], None, None)]
    assert said(version, b"ACK\n" + headers + b"receipt:r\n\n\0") == [Ack([b"17"], None, b"r")]
    [event] = said(version, b"NACK\n" + headers + b"\n\0")
    assert type(event) is Nack and event.ids == [b"17"]


def test_a2_an_ack_may_join_a_transaction_that_is_open() -> None:
    events = said("1.2", b"BEGIN\ntransaction:t\n\n\0ACK\nid:1\ntransaction:t\n\n\0")
    assert events[1] == Ack([b"1"], "t", None)
    assert violation("1.2", b"ACK\nid:1\ntransaction:t\n\n\0").error.code == "unknown_transaction"


@pytest.mark.parametrize("command", [b"COMMIT", b"ABORT", b"SEND\ndestination:q"])
def test_t1_a_transaction_that_is_not_open_is_refused(command: bytes) -> None:
    assert violation("1.2", command + b"\ntransaction:t\n\n\0").error.code == "unknown_transaction"


def test_t3_open_transactions_have_distinct_ids() -> None:
    begin, commit = b"BEGIN\ntransaction:t\n\n\0", b"COMMIT\ntransaction:t\n\n\0"
    assert violation("1.2", begin + begin).error.code == "duplicate_transaction"
    events = said("1.2", begin + commit + begin + b"ABORT\ntransaction:t\n\n\0" + begin)
    assert [type(event) for event in events] == [Begin, Commit, Begin, Abort, Begin]


def test_d1_nothing_after_disconnect_is_read() -> None:
    connection = opened("1.2")
    events = connection.receive(b"SEND\ndestination:q\n\n\0DISCONNECT\nreceipt:1\n\n\0SEND\ndestination:q\n\n\0")
    assert [type(event) for event in events] == [Send, Disconnect]
    assert connection.receive(b"SEND\ndestination:q\n\n\0") == []


@pytest.mark.parametrize("version", VERSIONS)
def test_x1_an_unknown_command_is_an_error(version: str) -> None:
    event = violation(version, b"HELLO\nreceipt:r\n\n\0")
    assert (event.error.code, event.receipt, event.fatal) == ("unknown_command", b"r", True)


def test_section_5_other_protocols_are_recognised() -> None:
    for data, code in ((b"\x16\x03\x01\x02\x00", "tls_on_plain_port"), (b"GET / HTTP/1.1\r\n", "http_on_stomp_port")):
        [event] = ServerConnection().receive(data)
        assert type(event) is Violation and event.error.code == code


# -- what real clients force (section 2), as far as the core decides


def test_client_5_php_copies_content_length_to_acks_so_it_counts_on_send_only() -> None:
    assert said("1.1", b"ACK\nmessage-id:1\nsubscription:0\ncontent-length:300\n\n\0") == [Ack([b"1"], None, None)]


def test_client_6_php_echoes_headers_so_the_servers_own_are_not_kept() -> None:
    data = b"SEND\na:1\nreceipt:1\ndestination:q\ntransaction:t\ncontent-length:0\nmessage-id:5\nsubscription:0\n"
    rest = b"ack:5\nb:2\nredelivered:true\ndelivery-count:2\n\n\0"
    events = said("1.2", b"BEGIN\ntransaction:t\n\n\0" + data + rest)
    assert type(events[1]) is Send and events[1].head.headers == b"a:1\nb:2\n"


def test_client_11_pecl_never_unescapes_so_no_backslash_where_the_specification_needs_none() -> None:
    kept = sent("1.1", b"SEND\ndestination:q\nreply-to:/queue/a b\nx:{a;b}\n\n\0").head.headers
    assert b"\\" not in MessageEncoder("1.1", "0", "/queue/a", ackable=True).encode(b"1", kept, b"")
