"""A queue's settings: what they are, how they are written, which of them cannot be together."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.db import connections, transaction

from apps.broker.engine import parse_address
from apps.broker.sqlstates import translated
from msgweb.errors import BadRequest

_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"(\d{1,18})\s*([kKMG])?")
_BYTES = {"k": 1_000, "K": 1_000, "M": 1_000_000, "G": 1_000_000_000, None: 1}
_CYCLE_LIMIT = 20  # dead-letter queues in a row


class UnknownSetting(BadRequest):
    """A setting that queues do not have."""

    code = "unknown_setting"


class BadSetting(BadRequest):
    """A value that a setting cannot have, alone or together with the others."""

    code = "bad_setting"


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What a queue does beyond order and competing consumers. None: the default.

    Attributes:
        message_ttl: seconds until a message expires at the latest; the default for those that do not say.
        on_expiry: `drop` (the default) or `dead-letter`.
        max_deliveries: after so many failed deliveries (nacked, or the consumer vanished) a message goes to the dead
            letters; default: never.
        retry_delay: seconds until a failed message comes again, doubled with each failure; default 0.
        retry_delay_max: seconds; default an hour.
        dead_letter_queue: its name; default `DLQ.<queue>`.
        max_length: messages that may wait.
        max_bytes: bytes of headers and bodies that may wait.
        overflow: `refuse` (the default: the sender gets an error) or `drop-head` (the oldest go to the dead letters).
        paused: messages are taken, none is delivered.
        exclusive: one consumer at a time.
        expires_after: seconds without a consumer and a send after which the queue goes, with what waits in it.
        deduplication: seconds for which a message's key is remembered; default ten minutes.
        keep_for: seconds for which acked messages are kept.
        keep_messages: how many acked messages are kept.
    """

    message_ttl: float | None = None
    on_expiry: str | None = None
    max_deliveries: int | None = None
    retry_delay: float | None = None
    retry_delay_max: float | None = None
    dead_letter_queue: str | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str | None = None
    paused: bool = False
    exclusive: bool = False
    expires_after: float | None = None
    deduplication: float | None = None
    keep_for: float | None = None
    keep_messages: int | None = None


NAMES = tuple(field.name for field in fields(QueueSettings))


def get(namespace: str, queue: str, *, using: str = "default") -> QueueSettings:
    """A queue's settings.

    Raises:
        NotFound: there is no such queue.
    """
    with translated(), connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(NAMES)} FROM msgweb.destination WHERE id = msgweb.queue_id(%s, %s)",
            [namespace, queue],
        )
        return QueueSettings(*cursor.fetchone())


def change(namespace: str, queue: str, settings: Mapping[str, Any], *, using: str = "default") -> QueueSettings:
    """Change some of a queue's settings; the queue is made if it is missing. Every process knows it by its next batch.

    Args:
        settings: by name; None: the default. Spans are seconds, or written like `30s`, `5m`, `2h`, `7d`; sizes are
            numbers, or written like `10k`, `64M`.

    Raises:
        UnknownSetting, BadSetting, BadDestination: it cannot be; nothing has changed.
        NotFound: there is no such namespace.
    """
    checked = {name: _checked(name, value) for name, value in settings.items()}
    name = parse_address(namespace, f"/queue/{queue}").name
    with translated(), transaction.atomic(using), connections[using].cursor() as cursor:
        cursor.execute("SELECT msgweb.destination_id(%s, 'queue', %s)", [namespace, name])
        (identifier,) = cursor.fetchone()
        cursor.execute(
            f"SELECT {', '.join(NAMES)} FROM msgweb.destination WHERE id = %s FOR NO KEY UPDATE", [identifier]
        )
        before = QueueSettings(*cursor.fetchone())
        after = QueueSettings(**{one: checked.get(one, getattr(before, one)) for one in NAMES})
        _check_together(after)
        _check_cycle(cursor, namespace, name, after)
        changed = [one for one in NAMES if getattr(before, one) != getattr(after, one)]
        if changed:
            cursor.execute(
                f"UPDATE msgweb.destination SET {', '.join(f'{one} = %s' for one in changed)} WHERE id = %s",
                [*(getattr(after, one) for one in changed), identifier],
            )
    return after


def _checked(name: str, value: Any) -> Any:
    if name not in NAMES:
        near = difflib.get_close_matches(name.replace("-", "_"), NAMES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(NAMES)}"
        raise UnknownSetting(f"queues have no setting {name[:60]!r}{hint}")
    if value is None:
        return False if name in ("paused", "exclusive") else None
    return _READERS[name](name, value)


def _span(name: str, value: Any) -> float:
    seconds = _number(name, value) if not isinstance(value, str) else None
    if isinstance(value, str):
        found = _SPAN.fullmatch(value.strip())
        if found is None:
            raise BadSetting(f"{name} is a time such as 30s, 5m, 2h or 7d, not {value[:40]!r}")
        seconds = float(found[1]) * _SECONDS[found[2]]
    assert seconds is not None
    least = 0 if name.startswith("retry") else 0.001
    if not least <= seconds <= 3e9:
        raise BadSetting(f"{name} is a time of {least:g} s or more, not {seconds:g} s")
    return seconds


def _size(name: str, value: Any) -> int:
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise BadSetting(f"{name} is a number such as 1000, 10k, 64M or 2G, not {value[:40]!r}")
        value = int(found[1]) * _BYTES[found[2]]
    number = _number(name, value)
    limit = 2**31 - 1 if name == "max_deliveries" else 2**62
    if number != int(number) or not 1 <= number <= limit:
        raise BadSetting(f"{name} is a whole number of 1 or more, not {value}")
    return int(number)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadSetting(f"{name} is a number, not {str(value)[:40]!r}")
    return value


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off"):
        return value.lower() in ("true", "yes", "on")
    if not isinstance(value, bool):
        raise BadSetting(f"{name} is true or false, not {str(value)[:40]!r}")
    return value


def _one_of(*allowed: str) -> Callable[[str, Any], str]:
    def read(name: str, value: Any) -> str:
        if value not in allowed:
            raise BadSetting(f"{name} is {' or '.join(allowed)}, not {str(value)[:40]!r}")
        return str(value)

    return read


def _queue_name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadSetting(f"{name} is a queue's name, not {str(value)[:40]!r}")
    return parse_address("", f"/queue/{value.removeprefix('/queue/')}").name


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "message_ttl": _span,
    "on_expiry": _one_of("drop", "dead-letter"),
    "max_deliveries": _size,
    "retry_delay": _span,
    "retry_delay_max": _span,
    "dead_letter_queue": _queue_name,
    "max_length": _size,
    "max_bytes": _size,
    "overflow": _one_of("refuse", "drop-head"),
    "paused": _flag,
    "exclusive": _flag,
    "expires_after": _span,
    "deduplication": _span,
    "keep_for": _span,
    "keep_messages": _size,
}


def _check_together(settings: QueueSettings) -> None:
    if settings.overflow is not None and settings.max_length is None and settings.max_bytes is None:
        raise BadSetting("overflow says what a full queue does: set max_length or max_bytes as well")
    delay, most = settings.retry_delay, settings.retry_delay_max
    if delay is not None and most is not None and most < delay:
        raise BadSetting(f"retry_delay_max ({most:g} s) is less than retry_delay ({delay:g} s)")


def _check_cycle(cursor: Any, namespace: str, name: str, settings: QueueSettings) -> None:
    """A message that is given up must come to rest: no queue may be its own dead-letter queue, by others neither."""
    passed = [name]
    target = settings.dead_letter_queue
    while target is not None:
        if target in passed:
            raise BadSetting(f"dead letters would go in a circle: {' -> '.join([*passed, target])}")
        passed.append(target)
        if len(passed) > _CYCLE_LIMIT:
            raise BadSetting(f"more than {_CYCLE_LIMIT} dead-letter queues in a row")
        cursor.execute(
            "SELECT dead_letter_queue FROM msgweb.destination WHERE namespace = %s AND kind = 'queue' AND name = %s",
            [namespace, target],
        )
        row = cursor.fetchone()
        target = row[0] if row else None
