"""TLS of a listener, from files."""

import ssl

from apps.stomp.gateway.listeners import BadListener, Tls


def make_context(tls: Tls) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or later, the library's choice of ciphers.

    Raises:
        BadListener: a file that cannot be read, or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
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
