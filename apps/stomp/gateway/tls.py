"""TLS of a listener, from files."""

import asyncio
import socket
import ssl

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


def acknowledge_now(transport: asyncio.BaseTransport) -> None:
    """After the handshake: let TCP acknowledge its last flight at once.

    Nothing is answered to it, so TCP would wait 40 ms for something to send its acknowledgement with, and a client
    without TCP_NODELAY holds back its CONNECT until that has come.
    """
    tcp = transport.get_extra_info("socket")
    if tcp is not None and hasattr(socket, "TCP_QUICKACK"):
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
