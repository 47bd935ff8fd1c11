"""`python -m msgweb.launcher postgres`: for now the embedded server alone."""

import argparse
import sys

from msgweb.errors import MsgwebError
from msgweb.home import home
from msgweb.launcher.cluster import open_cluster


def main() -> int:
    """Read the command line and run it; an expected failure is one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m msgweb.launcher")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("postgres", help="become the embedded Postgres server")
    serve.add_argument("--no-fsync", action="store_true", help="for tests: survives a kill, not a power cut")
    options = parser.parse_args()
    try:
        folder = home()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open_cluster(folder, durable=not options.no_fsync).serve()
    except MsgwebError as error:
        print(f"msgweb: {error.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
