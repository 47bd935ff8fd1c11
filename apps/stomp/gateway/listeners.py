"""Where a gateway listens, and how it speaks there. A gateway may have several listeners, each written as a URL:

    stomp://127.0.0.1:61613
    stomp://0.0.0.0:61614?dialect=activemq&namespace=shop.live
    stomps://0.0.0.0:61612?certificate=/etc/msgweb/cert.pem&key=/etc/msgweb/key.pem&client-ca=/etc/msgweb/ca.pem
    ws://127.0.0.1:15674/ws?origins=https://shop.example
    wss://0.0.0.0:15673/ws?certificate=...&key=...

`host:port` alone means `stomp://host:port`. What may stand after the question mark is said at `Listener` and at
`options.GatewayOptions`, with hyphens for underscores.
"""

import difflib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from apps.stomp.gateway.options import GatewayOptions
from apps.stomp.protocol.dialects import DIALECTS, RABBITMQ, Dialect
from apps.stomp.protocol.parser import Limits
from msgweb.errors import BadRequest
from msgweb.home import Listen

SCHEMES = ("stomp", "stomps", "ws", "wss")
WEBSOCKET_PATH = "/ws"


class BadListener(BadRequest):
    """A listener that cannot be; the message says why and what would do."""

    code = "bad_listener"


class Tls(NamedTuple):
    """Files in PEM.

    Attributes:
        certificate: with those between it and the authority.
        client_ca: the authorities whose client certificates are accepted as log-in; None: none are asked for.
        required: a client without a certificate is turned away.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """One place to listen.

    Attributes:
        place: port 0 asks for a free one.
        tls: None: in the clear.
        path: of the WebSocket; None: bare TCP.
        origins: from which web pages may open the WebSocket, as browsers write them (`https://shop.example`), `*`
            for all. Empty: only pages of the same host, and clients that are no browsers.
        dialect: `rabbitmq` or `activemq`.
        namespace: the default one here, for a `host` that names none; empty: that of the login.
        proxy: a PROXY protocol header (version 1 or 2) comes before anything else; only a load balancer may reach such
            a port.
        anonymous: the login of clients that show none; only on a loopback address.
        patient: a client that holds messages may miss its heart-beats while its TCP connection lives: PHP cannot beat
            while it works.
        options: limits and defaults.
        shown: its URL without settings, for the log, where each connection is a line.
    """

    place: Listen
    tls: Tls | None = None
    path: str | None = None
    origins: tuple[str, ...] = ()
    dialect: Dialect = RABBITMQ
    namespace: str | None = None
    proxy: bool = False
    anonymous: str | None = None
    patient: bool = True
    options: GatewayOptions = field(default_factory=GatewayOptions)
    shown: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", f"{self.scheme}://{self.place}{self.path or ''}")
        if self.anonymous is not None and not _is_loopback(self.place.host):
            raise BadListener(f"{self}: anonymous clients are let in on a loopback address only, such as 127.0.0.1")
        if self.anonymous is not None and self.proxy:
            raise BadListener(
                f"{self}: behind a proxy every client seems to be near; anonymous and proxy exclude each other"
            )

    @property
    def scheme(self) -> str:
        """How its URL begins."""
        return ("ws" if self.path else "stomp") + ("s" if self.tls else "")

    def __str__(self) -> str:
        return self.shown


def parse_listener(text: str, options: GatewayOptions | None = None) -> Listener:
    """Read a listener from its URL.

    Args:
        options: what holds where the URL says nothing.

    Raises:
        BadListener: it cannot be.
    """
    if "://" not in text:
        text = f"stomp://{text}"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise BadListener(f"{text!r} is no listener: {error}") from error
    if url.scheme not in SCHEMES:
        raise BadListener(f"{text!r} is no listener: it begins with {', '.join(f'{one}://' for one in SCHEMES)}")
    if not host or port is None:
        raise BadListener(f"{text!r} is no listener: write {url.scheme}://host:port, such as stomp://127.0.0.1:61613")
    websocket = url.scheme.startswith("ws")
    if url.path.strip("/") and not websocket:
        raise BadListener(f"{text!r}: only ws:// and wss:// have a path")
    asked = _query(text, url.query)
    base = options or GatewayOptions()
    reader = _Reader(text, asked)
    dialect = reader.take("dialect", lambda value: DIALECTS[value], RABBITMQ, " or ".join(DIALECTS))
    listener = Listener(
        Listen(host, port),
        tls=_tls(reader, text) if url.scheme in ("stomps", "wss") else None,
        path=(url.path.rstrip("/") or WEBSOCKET_PATH) if websocket else None,
        origins=tuple(
            reader.take("origins", lambda value: value.split(","), [], "https://a.example,https://b.example")
        ),
        dialect=dialect,
        namespace=reader.take("namespace", str, None, "a namespace"),
        proxy=reader.take("proxy", _flag, False, "true or false"),
        anonymous=reader.take("anonymous", str, None, "a login"),
        patient=reader.take("patient", _flag, True, "true or false"),
        options=_options(reader, base),
    )
    reader.finish()
    return listener


class _Reader:
    """What stands after the question mark, each taken once."""

    def __init__(self, text: str, asked: dict[str, str]) -> None:
        self._text = text
        self._asked = asked
        self._known: list[str] = []

    def take(self, name: str, read: Callable[[str], Any], default: Any, example: str) -> Any:
        self._known.append(name)
        value = self._asked.pop(name, None)
        if value is None:
            return default
        try:
            return read(value)
        except (KeyError, ValueError) as error:
            raise BadListener(f"{self._text!r}: {name} is {example}, not {value!r}") from error

    def finish(self) -> None:
        for name in self._asked:
            near = difflib.get_close_matches(name, self._known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(self._known)}"
            raise BadListener(f"{self._text!r}: listeners have no {name!r}{hint}")


def _query(text: str, query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    asked = dict(pairs)
    if len(asked) != len(pairs):
        raise BadListener(f"{text!r} says something twice")
    return asked


def _tls(reader: _Reader, text: str) -> Tls:
    certificate = reader.take("certificate", Path, None, "a file")
    key = reader.take("key", Path, certificate, "a file")
    client_ca = reader.take("client-ca", Path, None, "a file")
    required = reader.take("client-certificates", _required, False, "optional or required")
    if certificate is None:
        raise BadListener(f"{text!r} needs ?certificate=FILE&key=FILE")
    if required and client_ca is None:
        raise BadListener(f"{text!r}: client-certificates=required needs client-ca=FILE")
    return Tls(certificate, key, client_ca, required)


def _options(reader: _Reader, base: GatewayOptions) -> GatewayOptions:
    changed: dict[str, Any] = {}
    for one in fields(GatewayOptions):
        kind = {"int": int, "float": float}.get(getattr(one.type, "__name__", str(one.type)))
        if kind is not None:
            value = reader.take(one.name.replace("_", "-"), _positive(kind), None, "a number above 0")
            if value is not None:
                changed[one.name] = value
    limits: dict[str, int] = {}
    for one in fields(Limits):
        value = reader.take(one.name.replace("_", "-"), _positive(int), None, "a number above 0")
        if value is not None:
            limits[one.name] = value
    return replace(base, **changed, limits=replace(base.limits, **limits))


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(value: str) -> Any:
        number = kind(value)
        if not 0 < number < 2**40:
            raise ValueError(value)
        return number

    return read


def _flag(value: str) -> bool:
    return {"true": True, "false": False}[value]


def _required(value: str) -> bool:
    return {"optional": False, "required": True}[value]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
