"""How a line of the log looks."""

import logging


class LineFormatter(logging.Formatter):
    """`2026-11-26 18:55:40,123 INFO apps.stomp.gateway.connections connection listener=...`

    As `logging.Formatter` with the style `{asctime} {levelname} {name} {message}`, in less time: a page of PHP is a
    connection, and a connection is a line.
    """

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name} {message}", style="{")
        self._second = -1
        self._shown = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's name)
        """As in the standard library; the text of a second is made once."""
        second = int(record.created)
        if second != self._second:
            self._shown = super().formatTime(record)[: -len(",123")]
            self._second = second
        return f"{self._shown},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback, if there is one."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.name} {record.getMessage()}"
