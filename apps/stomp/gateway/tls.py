"""TLS of a listener, from files."""

import asyncio
import socket
import ssl
from collections.abc import Callable

from apps.stomp.gateway.listeners import BadListener, Tls


def make_context(tls: Tls) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or later, the library's choice of ciphers.

    Raises:
        BadListener: a file that cannot be read, or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No session tickets behind the handshake of TLS 1.3: stomp.py reads in one thread and writes in another, and where
    # the first of them reads a ticket meanwhile, what the other writes can be lost in the client (CPython 3.11).
    context.num_tickets = 0
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise BadListener(f"the certificate {tls.certificate} with the key {tls.key} is no good: {error}") from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise BadListener(f"the authorities in {tls.client_ca} cannot be read: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED if tls.required else ssl.CERT_OPTIONAL
    return context


#: OpenSSL's names for what is no TLS at all; STOMP's CONNECT looks to it like that of a proxy.
_PLAIN = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"})


def report_failures(context: ssl.SSLContext, report: Callable[[str], None]) -> None:
    """Have handshakes that fail told, which asyncio keeps to itself: `report` gets `plaintext_on_tls_port`, or
    `tls_handshake` and OpenSSL's reason, such as `PEER_DID_NOT_RETURN_A_CERTIFICATE`."""

    class Reporting(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                reason = error.reason or str(error)
                report("plaintext_on_tls_port" if reason in _PLAIN else f"tls_handshake: {reason}")
                raise

    context.sslobject_class = Reporting


def acknowledge_now(transport: asyncio.BaseTransport) -> None:
    """After the handshake: let TCP acknowledge its last flight at once.

    Nothing is answered to it, so TCP would wait 40 ms for something to send its acknowledgement with, and a client
    without TCP_NODELAY holds back its CONNECT until that has come.
    """
    tcp = transport.get_extra_info("socket")
    if tcp is not None and hasattr(socket, "TCP_QUICKACK"):
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
