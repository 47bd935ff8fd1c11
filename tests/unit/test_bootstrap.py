"""`msgweb/bootstrap.py`, which makes the virtual environment: what it says to old Pythons and when it does nothing."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from msgweb.home import REPOSITORY


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it drops its own folder from the search path, so it is given one to drop."""
    spec = importlib.util.spec_from_file_location("bootstrap", REPOSITORY / "msgweb" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", ["the script's folder", *sys.path])
    spec.loader.exec_module(module)
    return module


def test_an_old_python_is_told_which_one_is_needed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (3, 99))
    with pytest.raises(bootstrap.Failed) as failed:
        bootstrap.find_python()
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert str(failed.value) == (
        f"Msgweb needs Python 3.99 or newer; {sys.executable} is {found}, and there is no newer one in PATH."
    )


def test_the_running_python_is_preferred(bootstrap: ModuleType) -> None:
    assert bootstrap.find_python() == sys.executable


def test_what_is_installed_already_is_not_installed_again(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.setattr(bootstrap, "PYTHON", sys.executable)
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / "installed"))
    monkeypatch.setattr(bootstrap, "run", lambda command, what: ran.append(command))
    (tmp_path / "a.txt").write_text("django==5.2\n")
    (tmp_path / "b.txt").write_text("pytest==9\n")

    bootstrap.install(["a.txt"])
    bootstrap.install(["a.txt"])
    assert len(ran) == 1
    bootstrap.install(["a.txt", "b.txt"])
    bootstrap.install(["a.txt"])
    assert len(ran) == 2
    (tmp_path / "a.txt").write_text("django==5.3\n")
    bootstrap.install(["a.txt"])
    bootstrap.install(["a.txt", "b.txt"])  # b.txt is known to be there
    assert len(ran) == 3


def test_an_installation_that_failed_does_not_look_complete(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(command: list[str], what: str) -> None:
        raise bootstrap.Failed(what)

    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.setattr(bootstrap, "PYTHON", sys.executable)
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / "installed"))
    monkeypatch.setattr(bootstrap, "run", fail)
    (tmp_path / "a.txt").write_text("django==5.2\n")
    (tmp_path / "installed").write_text("something older\n")
    with pytest.raises(bootstrap.Failed):
        bootstrap.install(["a.txt"])
    assert not (tmp_path / "installed").exists()
