"""`make test-django`: the tests of Django's Tasks API on the other versions of Django that have it.

Django 6.0 and 6.1 need Python 3.12; each version gets a virtual environment of its own, `.venv-django6.0` and so on,
with the pinned requirements but for Django and what follows from it.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = {"6.0": "Django>=6.0,<6.1", "6.1": "Django>=6.1,<6.2"}
PYTHONS = ("3.14", "3.13", "3.12")
TESTS = (
    "tests/integration/test_django_tasks.py",
    "tests/integration/test_jobs_testing.py",
    "tests/unit/test_jobs_options.py",
)
#: Pinned for Django 5.2 or Python 3.11, or no part of a test run.
LEFT_OUT = re.compile(
    r"^(django(-stubs.*|-tasks)?|mypy.*|djangorestframework-stubs|playwright|uv|ruff|import-linter|grimp|check-jsonschema)$",
    re.IGNORECASE,
)


def python() -> str | None:
    """A Python that is new enough."""
    found = [f"python{version}" for version in PYTHONS]
    found += sorted(map(str, Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python")), reverse=True)
    for candidate in found:
        try:
            subprocess.run([candidate, "-c", "import venv"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return None


def requirements() -> list[str]:
    """The pinned packages that a test run needs, but for Django."""
    lines = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    pinned = re.findall(r"^([A-Za-z0-9._-]+)(\[[^\]]*\])?==([^ ;\\]+)", lines, re.MULTILINE)
    return sorted({f"{name}{extra}=={version}" for name, extra, version in pinned if not LEFT_OUT.match(name)})


def environment(newest: str, version: str) -> Path:
    """The interpreter of that version's environment, made if it is missing."""
    folder = ROOT / f".venv-django{version}"
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([newest, "-m", "venv", folder], check=True)
        wanted = [*requirements(), VERSIONS[version]]
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return interpreter


def main() -> int:
    """0 if the tests pass on each."""
    newest = python()
    if newest is None:
        print("Django 6.0 and 6.1 need Python 3.12 or newer, and there is none here", file=sys.stderr)
        return 1
    failed = []
    for version in VERSIONS:
        print(f"Django {version}", flush=True)
        interpreter = environment(newest, version)
        if subprocess.run([interpreter, "-m", "pytest", "-q", *TESTS, *sys.argv[1:]], cwd=ROOT).returncode:
            failed.append(version)
    if failed:
        print(f"failed on Django {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
