"""The named SQL statements of jobs, from `sql/*.sql`. Parameters are psycopg's `%(name)s`."""

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def _statements() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((Path(__file__).parent / "sql").glob("*.sql")):
        _, *parts = _NAME.split(path.read_text())
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--")]
            found[name] = "\n".join(lines)
    return found


def query(name: str) -> str:
    """The statement of that name, without its comments.

    Raises:
        KeyError: there is none.
    """
    return _statements()[name]
