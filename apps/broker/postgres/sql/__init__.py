"""The engine's statements, by name. `-- name: x` begins each in queries.sql."""

import re
from collections.abc import Mapping
from pathlib import Path

from apps.broker.engine import Companion

CLAIM_PARAMETERS = 5
_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)

QUERIES: dict[str, str] = {
    name: re.sub(r"^--.*\n?", "", text, flags=re.MULTILINE).strip().rstrip(";")
    for name, text in _NAMED.findall(Path(__file__).with_name("queries.sql").read_text())
}


def statements(companion: Companion | None) -> Mapping[str, str]:
    """What a writer prepares: the engine's own, and the claim together with what goes along with it."""
    if companion is None:
        return QUERIES
    claim, columns = QUERIES["claim"].rsplit("SELECT ", 1)
    columns, order = columns.split(" FROM taken ")
    places = {"session": "$3"} | {name: f"${place}" for place, name in enumerate(companion.names, CLAIM_PARAMETERS + 1)}
    parts = re.sub(r"%\((\w+)\)s", lambda found: places[found[1]], companion.parts)
    columns = ", ".join(f"taken.{column}" for column in columns.split(", "))
    order = order.replace("priority", "taken.priority").replace("place", "taken.place")
    found = f"SELECT {columns}, along.* FROM taken LEFT JOIN along ON along.id = taken.id {order}"  # noqa: S608
    return {**QUERIES, "claim_along": f"{claim.rstrip()},\n{parts}\n{found}"}
