"""The PROXY protocol, versions 1 and 2 (https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt): who the client of
a load balancer is.

The header is read from the socket itself, byte for byte, before anything else sees the connection: what follows may be
a TLS handshake.
"""

import asyncio
import ipaddress
import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE_LIMIT = 107  # bytes of a version 1 header, its CR LF included
BLOCK_LIMIT = 4096  # bytes of a version 2 header behind its first 16


class BadProxyHeader(Exception):
    """What came is no PROXY header."""


async def read_header(connection: socket.socket) -> tuple[str, int] | None:
    """Read the header from a non-blocking socket, and no byte more.

    Returns:
        The client's address and port; None where the balancer speaks for itself (a health check) or does not know.

    Raises:
        BadProxyHeader: something else came.
        OSError: the connection broke.
    """
    start = await _exactly(connection, len(SIGNATURE))
    if start == SIGNATURE:
        return await _read_version_2(connection)
    if start.startswith(b"PROXY "):
        return await _read_version_1(connection, start)
    raise BadProxyHeader("the connection did not begin with a PROXY header")


async def _read_version_1(connection: socket.socket, line: bytes) -> tuple[str, int] | None:
    while not line.endswith(b"\r\n"):
        if len(line) >= LINE_LIMIT:
            raise BadProxyHeader(f"a PROXY line has at most {LINE_LIMIT} bytes")
        line += await _exactly(connection, 1)
    words = line[:-2].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise BadProxyHeader(f"{line!r} is no PROXY line")
    try:
        return str(ipaddress.ip_address(words[2])), int(words[4])
    except ValueError as error:
        raise BadProxyHeader(f"{line!r} is no PROXY line: {error}") from error


async def _read_version_2(connection: socket.socket) -> tuple[str, int] | None:
    version, family, length = struct.unpack("!BBH", await _exactly(connection, 4))
    if version >> 4 != 2 or version & 15 > 1 or length > BLOCK_LIMIT:
        raise BadProxyHeader("a PROXY header of version 2 that cannot be")
    block = await _exactly(connection, length) if length else b""
    if version & 15 == 0:  # LOCAL
        return None
    if family == 0x11 and length >= 12:
        return str(ipaddress.IPv4Address(block[:4])), struct.unpack("!H", block[8:10])[0]
    if family == 0x21 and length >= 36:
        return str(ipaddress.IPv6Address(block[:16])), struct.unpack("!H", block[32:34])[0]
    return None


async def _exactly(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        part = await loop.sock_recv(connection, count - len(data))
        if not part:
            raise BadProxyHeader("the connection ended within its PROXY header")
        data += part
    return data
