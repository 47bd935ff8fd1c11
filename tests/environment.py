"""A pytest plugin that gives the tests a data folder of their own, before Django's settings are read.

Loaded early (`-p tests.environment` in pyproject.toml): pytest-django reads the settings before any conftest.py. The
database is `DATABASE_URL`'s server if that is set, else an embedded one below the temporary data folder, started when
the first test asks for it.
"""

import os
import tempfile
from pathlib import Path

#: /tmp and not pytest's own folder, which only its user can enter: as root the embedded server runs as somebody else.
HOME = Path(tempfile.mkdtemp(prefix="msgweb-test-"))

for name in [name for name in os.environ if name.startswith("MSGWEB_") and name != "MSGWEB_REQUIRE_ALL"]:
    del os.environ[name]  # what a developer has set for their own installation must not reach the tests
os.environ["MSGWEB_HOME"] = str(HOME)
