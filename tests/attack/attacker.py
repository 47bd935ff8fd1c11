"""One attack in a process of its own. Arguments: its place in `attacks.ATTACKS`, measure, port, login, passcode.

It runs at the lowest priority: attackers come from other machines, and must not win against the customer by taking the
processor of this one.
"""

import os
import sys

from tests.attack.attacks import ATTACKS, Target


def main(number: str, measure: str, port: str, login: str, passcode: str) -> None:
    """Do it, and print what came of it."""
    os.nice(19)
    print(ATTACKS[int(number)].run(Target(int(port), login, passcode), float(measure)))


if __name__ == "__main__":
    main(*sys.argv[1:])
