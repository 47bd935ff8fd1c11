"""What a task says by `print` and by `logging` while it runs: lines of its job's log, in their order."""

import io
import logging
import sys
from collections.abc import Callable

#: Takes a level and a line; returns whether a job is running that wanted it.
Sink = Callable[[str, str], bool]

PARTIAL_LIMIT = 64 * 1024  # characters that may wait for the end of their line


class JobStream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`. What nobody's job said goes to the stream behind it."""

    def __init__(self, level: str, sink: Sink, behind: io.TextIOBase) -> None:
        self._level = level
        self._sink = sink
        self._behind = behind
        self._partial = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The descriptor behind, for child processes; their output is read from there."""
        return self._behind.fileno()

    def write(self, text: str) -> int:
        *lines, self._partial = (self._partial + text).split("\n")
        if len(self._partial) > PARTIAL_LIMIT:
            lines.append(self._partial)
            self._partial = ""
        for line in lines:
            self._pass_on(line)
        return len(text)

    def end_line(self) -> None:
        """Take what is there as a line: its job has ended."""
        if self._partial:
            line, self._partial = self._partial, ""
            self._pass_on(line)

    def flush(self) -> None:
        self._behind.flush()

    def _pass_on(self, line: str) -> None:
        if not self._sink(self._level, line):
            self._behind.write(line + "\n")
            self._behind.flush()


class JobLogHandler(logging.Handler):
    """Sends log records to the job that runs, else to the stream behind."""

    def __init__(self, sink: Sink, behind: io.TextIOBase) -> None:
        super().__init__()
        self._sink = sink
        self._behind = behind

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if record.levelno >= logging.ERROR:
                level = "error"
            elif record.levelno >= logging.WARNING:
                level = "warning"
            else:
                level = "info" if record.levelno >= logging.INFO else "debug"
            for line in text.splitlines() or [""]:
                if not self._sink(level, line):
                    self._behind.write(f"{record.levelname} {record.name} {line}\n")
                    self._behind.flush()
        except Exception:  # noqa: BLE001  a line that cannot be logged must not fail the task: logging's own rule
            self.handleError(record)


def take_over(sink: Sink) -> tuple[JobStream, JobStream]:
    """Put the streams and the log handler of this process in place of the usual ones.

    Handlers that write to the terminal give way: their lines would come twice.
    """
    out, err = sys.__stdout__, sys.__stderr__
    assert isinstance(out, io.TextIOBase)
    assert isinstance(err, io.TextIOBase)
    root = logging.getLogger()
    loggers = [root, *(known for known in root.manager.loggerDict.values() if isinstance(known, logging.Logger))]
    for logger in loggers:
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream in (out, err, sys.stdout, sys.stderr):
                logger.removeHandler(handler)
    root.addHandler(JobLogHandler(sink, err))
    streams = JobStream("info", sink, out), JobStream("warning", sink, err)
    sys.stdout, sys.stderr = streams
    return streams
