r"""Header text: the escapes of each version, and the one form in which headers are kept.

Kept headers are `name:value\n` lines escaped as STOMP 1.2 does. Where no backslash occurs, the same bytes are right in
every version; that is nearly always, so a MESSAGE costs no work on its headers.
"""

import re

from apps.stomp.protocol.errors import MalformedHeader, UndefinedEscape

_ESCAPES = {"\\": r"\\", "\r": r"\r", "\n": r"\n", ":": r"\c"}
_ESCAPES_TABLE = str.maketrans(_ESCAPES)
_ESCAPES_11_TABLE = str.maketrans({"\\": r"\\", "\n": r"\n", ":": r"\c"})
_UNESCAPES = {b"\\\\": b"\\", b"\\r": b"\r", b"\\n": b"\n", b"\\c": b":"}
_ESCAPE = re.compile(rb"\\.?", re.DOTALL)
_NOT_IN_10 = str.maketrans({"\r": " ", "\n": " "})


def unescape(text: bytes, version: str) -> bytes:
    """Decode a name or a value as the version says; 1.0 has no escapes.

    Raises:
        UndefinedEscape: STOMP 1.2, "Value Encoding": "Undefined escape sequences such as \\t MUST be treated as fatal
            protocol errors"; in 1.1 that holds for \\r too.
    """
    if version == "1.0" or b"\\" not in text:
        return text

    def replace(match: re.Match[bytes]) -> bytes:
        sequence = match[0]
        if sequence not in _UNESCAPES or (sequence == b"\\r" and version == "1.1"):
            raise UndefinedEscape(f"the escape {sequence.decode(errors='replace')!r} is not defined in STOMP {version}")
        return _UNESCAPES[sequence]

    return _ESCAPE.sub(replace, text)


def decode(text: bytes, version: str) -> str:
    """Bytes of a name or value as text, escapes left alone.

    STOMP 1.0 names no encoding: what is not UTF-8 there is taken for Latin-1, which old clients send.

    Raises:
        MalformedHeader: not UTF-8, from 1.1 on.
    """
    try:
        return text.decode()
    except UnicodeDecodeError:
        if version == "1.0":
            return text.decode("latin-1")
        raise MalformedHeader("a header is not in UTF-8") from None


def escape(text: str, version: str) -> bytes:
    """Encode a name or value for a frame of the version; never for CONNECTED, which has no escapes.

    1.0 cannot carry line ends at all: they become blanks, or a value could end its line and add headers.
    """
    if version == "1.2":
        return text.translate(_ESCAPES_TABLE).encode()
    if version == "1.1":
        return text.translate(_ESCAPES_11_TABLE).encode()
    return text.translate(_NOT_IN_10).encode()


def canonical(name: bytes, value: bytes, version: str) -> bytes:
    """One received header as a kept line, without its line end.

    A bare colon in a value is accepted in every version, since clients send it, and kept escaped.
    """
    return b"%b:%b" % (
        escape(decode(unescape(name, version), version), "1.2"),
        escape(decode(unescape(value, version), version), "1.2"),
    )


def for_version(kept: bytes, version: str) -> bytes:
    r"""Kept headers as a frame of the version carries them.

    1.1 knows no `\r`, so the carriage return goes bare (it ends no line there). 1.0 has no escapes: values go bare,
    and names keep theirs, or a colon in a name would move into the value.
    """
    if version == "1.2" or b"\\" not in kept:
        return kept
    lines = []
    for line in kept.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if version == "1.1":
            name = escape(unescape(name, "1.2").decode(), "1.1")
            value = escape(unescape(value, "1.2").decode(), "1.1")
        else:
            value = escape(unescape(value, "1.2").decode(), "1.0")
        lines.append(b"%b:%b\n" % (name, value))
    return b"".join(lines)
