"""The engine's statements, by name. `-- name: x` begins each in queries.sql."""

import re
from pathlib import Path

_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)

QUERIES: dict[str, str] = {
    name: re.sub(r"^--.*\n?", "", text, flags=re.MULTILINE).strip().rstrip(";")
    for name, text in _NAMED.findall(Path(__file__).with_name("queries.sql").read_text())
}
