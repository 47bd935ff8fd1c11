"""The engine's statements, by name. `-- name: x` begins each in queries.sql."""

import re
from collections.abc import Mapping
from pathlib import Path

from apps.broker.engine import Companion

_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)

QUERIES: dict[str, str] = {
    name: re.sub(r"^--.*\n?", "", text, flags=re.MULTILINE).strip().rstrip(";")
    for name, text in _NAMED.findall(Path(__file__).with_name("queries.sql").read_text())
}


def statements(companion: Companion | None) -> Mapping[str, str]:
    """What a writer prepares: the engine's own, and what goes along with its claims."""
    return QUERIES if companion is None else {**QUERIES, "companion": companion.statement}
