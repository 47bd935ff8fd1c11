"""The named SQL statements of a clone.

A file holds statements, each behind a line `-- name: <name>`; comments say what they do, with which parameters and
locks.
"""

import re
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _statements(file: str) -> dict[str, str]:
    parts = _NAME.split((Path(__file__).parent / file).read_text("utf-8"))
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


COPY = _statements("copy.sql")
VERIFY = _statements("verify.sql")
REMOVE = _statements("remove.sql")
