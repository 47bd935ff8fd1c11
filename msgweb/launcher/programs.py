"""The command of each long-running process, and the supervisor's configuration that keeps them running."""

import os
import shlex
import sys
from pathlib import Path

from msgweb.home import REPOSITORY, Listen, http_listen, stomp_listen

#: The processes in the group that starts and stops together; Postgres is apart, first to start and last to stop.
SERVING = ("web", "stomp", "worker")


def command(name: str) -> list[str]:
    """The command of `web`, `stomp`, `worker` or `postgres`, to be run in the repository's root."""
    manage = [sys.executable, str(REPOSITORY / "manage.py")]
    return {
        "web": [sys.executable, "-m", "gunicorn", "-c", str(REPOSITORY / "msgweb" / "gunicorn_conf.py")],
        "stomp": [*manage, "runstomp"],
        "worker": [*manage, "runworker"],
        "postgres": [sys.executable, "-m", "msgweb.launcher", "postgres"],
    }[name]


def listening() -> dict[str, Listen]:
    """Where the installation will listen, by the variable that moves it.

    Raises:
        ValueError: a variable is not host:port.
    """
    return {"MSGWEB_HTTP": http_listen(), "MSGWEB_STOMP": stomp_listen()}


def supervisor_config(run: Path, socket: Path, *, embedded: bool) -> str:
    """The text of supervisord.conf.

    The serving processes do not start by themselves: the launcher starts them once the database is migrated. A process
    that dies is started again without end, at growing intervals, because what keeps it from starting (a database that
    recovers) usually passes.
    """
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "nodaemon": "true",
            "pidfile": run / "supervisord.pid",
            "logfile": run / "supervisord.log",
            "logfile_maxbytes": "1MB",
            "logfile_backups": "1",
            "directory": REPOSITORY,
            "silent": "true",
        },
        "unix_http_server": {"file": socket, "chmod": "0600"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "group:serving": {"programs": ",".join(SERVING), "priority": "20"},
    }
    for name in (*(["postgres"] if embedded else []), *SERVING):
        sections[f"program:{name}"] = {
            "command": shlex.join(command(name)),
            "directory": REPOSITORY,
            "autostart": "true" if name == "postgres" else "false",
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "1000000",
            "redirect_stderr": "true",
            "stdout_logfile": run / "log" / f"{name}.log",
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "2",
            "priority": "10" if name == "postgres" else "20",
            # Postgres: SIGINT is its fast shutdown, which does not wait for clients. A worker hands its job back
            # on a second SIGTERM, which the launcher sends; what is killed in the end loses nothing either.
            "stopsignal": "INT" if name == "postgres" else "TERM",
            "stopwaitsecs": "30" if name == "postgres" else "10",
            "killasgroup": "true",
        }
    if os.geteuid() == 0:
        sections["supervisord"]["user"] = "root"  # or it warns that it was not told
    lines = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        # A per cent sign begins a substitution in supervisor's files.
        lines += [f"{key} = {str(value).replace('%', '%%')}" for key, value in options.items()]
        lines.append("")
    return "\n".join(lines)
