#!/usr/bin/env python
"""The one entry point: `manage.py help` lists the commands."""

import os
import sys

from msgweb.descriptors import occupy_standard_streams


def main() -> None:
    """Run one management command with the project's settings."""
    occupy_standard_streams()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
