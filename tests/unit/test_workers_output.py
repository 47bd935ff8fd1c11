"""What a task prints and logs."""

import io
import logging

from workers.output import JobLogHandler, JobStream


class Job:
    """Takes lines while it runs."""

    def __init__(self) -> None:
        self.running = True
        self.lines: list[tuple[str, str]] = []

    def sink(self, level: str, line: str) -> bool:
        if self.running:
            self.lines.append((level, line))
        return self.running


def test_what_is_written_becomes_lines() -> None:
    job, behind = Job(), io.StringIO()
    stream = JobStream("info", job.sink, behind)
    print("one", "two", file=stream)
    stream.write("half ")
    assert job.lines == [("info", "one two")]
    stream.write("a line\nand")
    stream.end_line()
    stream.end_line()
    assert job.lines[1:] == [("info", "half a line"), ("info", "and")]
    assert behind.getvalue() == ""


def test_a_line_without_end_is_passed_on_before_it_fills_the_memory() -> None:
    job = Job()
    JobStream("info", job.sink, io.StringIO()).write("x" * 100_000)
    assert [len(line) for _, line in job.lines] == [100_000]


def test_without_a_job_it_goes_where_it_always_went() -> None:
    job, behind = Job(), io.StringIO()
    job.running = False
    print("to the terminal", file=JobStream("info", job.sink, behind))
    assert behind.getvalue() == "to the terminal\n"


def test_log_records_keep_their_level_and_their_traceback() -> None:
    job = Job()
    logger = logging.Logger("sample")
    logger.addHandler(JobLogHandler(job.sink, io.StringIO()))
    logger.debug("a")
    logger.info("b %d", 1)
    logger.warning("c")
    logger.critical("d")
    assert job.lines == [("debug", "a"), ("info", "b 1"), ("warning", "c"), ("error", "d")]
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("e")
    assert job.lines[4] == ("error", "e")
    assert job.lines[-1] == ("error", "ValueError: why")
