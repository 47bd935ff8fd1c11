"""What can go wrong in a conversation, as types with stable codes.

StompError
├── LocalProtocolError          our own side asked for what the state does not allow: a bug here
└── RemoteProtocolError         the peer broke the protocol
    ├── MalformedFrame          the stream cannot be trusted any more
    │   ├── MalformedHeader
    │   ├── UndefinedEscape
    │   └── NotStomp            another protocol on this port
    │       ├── TlsHello
    │       └── HttpRequest
    ├── FrameLimitExceeded
    ├── UnsupportedVersion
    ├── NotConnected            a frame before CONNECT
    ├── AlreadyConnected        a second CONNECT
    ├── UnknownCommand
    ├── MissingHeader
    ├── BadHeaderValue
    ├── DuplicateSubscription, UnknownSubscription
    └── DuplicateTransaction, UnknownTransaction

The codes go into the ERROR frame's `code` header and into the log.
"""


class StompError(Exception):
    """Base of the tree. `code` is stable and machine-readable."""

    code = "stomp_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class LocalProtocolError(StompError):
    """This side asked for something that the conversation's state does not allow."""

    code = "local_protocol_error"


class RemoteProtocolError(StompError):
    """The peer broke the protocol.

    Attributes:
        fatal: the connection must end in every version. Where it is False, a 1.0 connection goes on after the ERROR;
            1.1 and 1.2 end with any ERROR.
    """

    code = "protocol_error"
    fatal = True


class MalformedFrame(RemoteProtocolError):
    """The bytes are no frame; where the next one begins is unknown."""

    code = "malformed_frame"


class MalformedHeader(MalformedFrame):
    """A header line without a colon, without a name, or not in UTF-8."""

    code = "malformed_header"


class UndefinedEscape(MalformedFrame):
    """A backslash before a character that the version does not define (STOMP 1.2, "Value Encoding")."""

    code = "undefined_escape"


class NotStomp(MalformedFrame):
    """Another protocol. `answer` is what such a peer may understand, perhaps nothing."""

    code = "not_stomp"
    answer = b""


class TlsHello(NotStomp):
    """A TLS handshake on a port without TLS."""

    code = "tls_on_plain_port"


class HttpRequest(NotStomp):
    """An HTTP request on a STOMP port."""

    code = "http_on_stomp_port"
    answer = (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 42\r\nConnection: close\r\n\r\n"
        b"This port speaks STOMP. HTTP is elsewhere."
    )


class WithoutWebSocket(NotStomp):
    """STOMP on a port where it is to come within a WebSocket."""

    code = "stomp_on_websocket_port"
    answer = (
        b"ERROR\nmessage:this port speaks STOMP over WebSocket\ncode:stomp_on_websocket_port\n"
        b"content-type:text/plain\n\nThis port speaks STOMP over WebSocket. Plain STOMP is elsewhere.\n\0\n"
    )


class FrameLimitExceeded(RemoteProtocolError):
    """A frame over one of the limits that protect the server."""

    code = "limit_exceeded"


class UnsupportedVersion(RemoteProtocolError):
    """CONNECT offered no version that the server speaks."""

    code = "unsupported_version"


class NotConnected(RemoteProtocolError):
    """The first frame was not CONNECT or STOMP."""

    code = "not_connected"


class AlreadyConnected(RemoteProtocolError):
    """CONNECT on a connection that has one."""

    code = "already_connected"


class UnknownCommand(RemoteProtocolError):
    """A command that no version defines for clients."""

    code = "unknown_command"

    def __init__(self, message: str, *, fatal: bool = True) -> None:
        super().__init__(message)
        self.fatal = fatal


class MissingHeader(RemoteProtocolError):
    """A header that the frame needs is not there."""

    code = "missing_header"
    fatal = False


class BadHeaderValue(RemoteProtocolError):
    """A header's value is none of those that are allowed."""

    code = "bad_header"
    fatal = False


class DuplicateSubscription(RemoteProtocolError):
    """SUBSCRIBE with an id that is in use on the connection."""

    code = "duplicate_subscription"
    fatal = False


class UnknownSubscription(RemoteProtocolError):
    """UNSUBSCRIBE of what was not subscribed."""

    code = "unknown_subscription"
    fatal = False


class DuplicateTransaction(RemoteProtocolError):
    """BEGIN of a transaction that is open."""

    code = "duplicate_transaction"
    fatal = False


class UnknownTransaction(RemoteProtocolError):
    """A frame names a transaction that is not open."""

    code = "unknown_transaction"
    fatal = False
