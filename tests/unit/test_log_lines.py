"""The log's lines are those of the standard library's formatter."""

import logging
import sys

import pytest

from msgweb.log_lines import LineFormatter


@pytest.mark.parametrize("created", [0.0, 1_764_183_350.0004, 1_764_183_350.9996, 1_764_183_351.5])
def test_a_line_is_what_the_standard_library_makes_of_it(created: float) -> None:
    usual = logging.Formatter("{asctime} {levelname} {name} {message}", style="{")
    ours = LineFormatter()
    for later in (0.0, 0.25, 1.0, 0.0):
        record = logging.LogRecord("a.b", logging.INFO, "", 0, "%s of %d", ("x", 5), None)
        record.created = created + later
        record.msecs = float(int((record.created - int(record.created)) * 1000))
        assert ours.format(record) == usual.format(record)


def test_a_traceback_stands_below_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 0, "it failed", (), sys.exc_info())
    line, *traceback = LineFormatter().format(record).split("\n")
    assert line.endswith("ERROR a.b it failed")
    assert traceback[0].startswith("Traceback") and traceback[-1] == "ValueError: why"
