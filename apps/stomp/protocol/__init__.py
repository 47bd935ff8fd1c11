"""STOMP 1.0, 1.1 and 1.2 without I/O: bytes in, events out, frames as bytes back.

`parser` cuts and checks frames, `connection` is the server's state machine, `encoder` makes frames, `headers` knows the
escapes of each version, `heartbeat` the arithmetic, `events` and `errors` what comes out. Imports the standard library
alone; the gateway and tests import it.
"""
