"""Foreign programs for tests, such as PHP scripts: started, listened to line by line, ended."""

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path


class Program:
    """A running program whose output the test can wait for.

    Attributes:
        lines: what it has written so far, both streams, without line ends.
    """

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: Path | None = None) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """All that it has written."""
        return "\n".join(self.lines)

    def wait_for(self, text: str, seconds: float = 30, count: int = 1) -> str:
        """The line that holds the text for the `count`-th time.

        Raises:
            AssertionError: it did not come in time.
        """

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, seconds), f"no {text!r} in:\n{self.output}"
            return found()[count - 1]

    def wait(self, seconds: float = 60) -> int:
        """Wait until it ends by itself; its exit code.

        Raises:
            AssertionError: it did not.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.output}") from None
        self._reader.join(10)
        return code

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, which)

    def close(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
