"""Under which account the embedded server runs: our own, or an ordinary one where we are root.

PostgreSQL refuses to run as root. The account must then be able to enter the data folder, through all its parents.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgweb.launcher.errors import CannotStart

ORDINARY = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine.

    Attributes:
        other: whether it is not the account of this process, so that starting a program means changing to it.
    """

    uid: int
    gid: int
    name: str
    other: bool

    def subprocess_options(self) -> dict[str, Any]:
        """What `subprocess` needs to start a program under this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.other else {}

    def become(self) -> None:
        """Change this process to the account, for good."""
        if self.other:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)

    def can_run(self, command: Sequence[str]) -> bool:
        """Whether the command ends with success under this account."""
        try:
            ended = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self.subprocess_options()
            )
        except OSError:
            return False
        return ended.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """Whether the folder can be reached and searched, asked of the system itself: access lists count too."""
        return not self.other or self.can_run(["/bin/sh", "-c", 'cd "$0"', str(folder)])

    def own(self, path: Path) -> None:
        """Make the account the owner of a file or folder of ours."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def server_account() -> Account:
    """The account of the embedded server.

    Raises:
        CannotStart: we are root and there is no ordinary account.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(uid, os.getegid(), str(uid), other=False)
    for name in ORDINARY:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, name, other=True)
    raise CannotStart(
        f"PostgreSQL does not run as root, and here is no account named {' or '.join(ORDINARY)}; "
        "run as an ordinary user, or set DATABASE_URL."
    )
