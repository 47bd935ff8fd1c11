"""The fuzzer's corpus, and some seconds of the fuzzer itself; minutes of it are `make fuzz`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from msgweb.home import REPOSITORY
from tests.fuzz.target import check

CORPUS = sorted((REPOSITORY / "tests/fuzz/corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_the_fuzzer_knows_holds(path: Path) -> None:
    check(path.read_bytes())


def test_the_target_sees_a_parser_that_depends_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.stomp.protocol.parser import Parser

    monkeypatch.setattr(Parser, "_worth_parsing", lambda self: len(self._pending) % 2 == 0)
    with pytest.raises(AssertionError):
        list(map(check, (path.read_bytes() for path in CORPUS)))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
def test_seconds_of_fuzzing_find_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "5", "--found", str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0 and not list(tmp_path.iterdir()), ended.stdout + ended.stderr
    assert int(ended.stderr.partition("stat::number_of_executed_units:")[2].split()[0]) > 100, ended.stderr
