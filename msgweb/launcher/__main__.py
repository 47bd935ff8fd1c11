"""The launcher's command line: `python -m msgweb.launcher run`, `demo`, and `postgres` for the supervisor."""

import argparse
import signal
import sys
from types import FrameType

from msgweb.errors import MsgwebError
from msgweb.home import home
from msgweb.launcher import demo
from msgweb.launcher.cluster import open_cluster
from msgweb.launcher.launch import Installation, running


class Asked(BaseException):
    """Somebody asked us to stop; not an Exception, so that nothing on the way takes it for a failure."""


def _ask(number: int, frame: FrameType | None) -> None:
    raise Asked


def announce(installation: Installation) -> None:
    """Tell the person at the terminal where to look and how to get in."""
    credentials = installation.credentials()
    web, stomp = credentials["web"], credentials["stomp"]
    lines = [
        "",
        f"Msgweb is ready: open {web['url']}",
        "",
        f"  log in     {web['username']} / {web['password']}",
        f"  STOMP      {stomp['host']}:{stomp['port']}, login {stomp['login']}",
        f"             passcode {stomp['passcode']}",
        f"  REST       {credentials['api']['url']}docs/",
        f"  all of it  {installation.home / 'credentials.json'}",
        f"  logs       {installation.run / 'log'}",
    ]
    cluster = installation.cluster
    if cluster is not None:
        lines.append(f"  database   PostgreSQL {cluster.binaries.version} in {cluster.data}")
        if not cluster.place.is_relative_to(installation.home):
            lines.append(f"             (there, because its account {cluster.account.name} cannot enter this folder)")
    print("\n".join([*lines, "", "Stop it with Ctrl-C."]), flush=True)


def run() -> None:
    """`make run`: start everything, say where it is, and keep it until somebody asks to stop."""
    print("Starting Msgweb ...", flush=True)
    with running(home()) as installation:
        announce(installation)
        try:
            installation.keep()
        except Asked:
            print("\nStopping ...", flush=True)
            raise


def main() -> int:
    """Read the command line and run it; an expected failure is one sentence on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m msgweb.launcher", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="start everything, until Ctrl-C or SIGTERM")
    commands.add_parser("demo", help="start a temporary installation, clone a brand over STOMP, stop")
    serve = commands.add_parser("postgres", help="become the embedded Postgres server")
    serve.add_argument("--no-fsync", action="store_true", help="for tests: survives a kill, not a power cut")
    options = parser.parse_args()
    try:
        if options.command == "postgres":
            folder = home()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            open_cluster(folder, durable=not options.no_fsync).serve()
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(how, _ask)
        if options.command == "demo":
            demo.run()
        else:
            run()
    except Asked:
        print("Stopped.", flush=True)
    except (MsgwebError, ValueError) as error:  # a ValueError is a listening address that cannot be read
        print(f"msgweb: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
