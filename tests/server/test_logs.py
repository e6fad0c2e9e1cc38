"""The log: every line says which job and whose it is about, for people and for machines."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from kinochrome_server import about, logs

log = logging.getLogger("kinochrome_server.somewhere")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[logs.Format], Callable[[], list[str]]]]:
    """Logs in a format from here on; gives what reads the lines. The root logger is as it was afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def configure(format: logs.Format) -> Callable[[], list[str]]:
        root.handlers = []
        logs.configure(format)
        return lambda: capsys.readouterr().err.splitlines()

    yield configure
    root.handlers = before
    root.setLevel(level)


Configure = Callable[[logs.Format], Callable[[], list[str]]]


def test_json_lines_parse_and_say_job_and_owner(lines: Configure) -> None:
    said = lines("json")
    with logs.about("0a1b", "alice"):
        log.info("coloured %d frames", 24, extra={"frames": 24})
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.exception("a fault: %s", "ä\n\x1b[31m{")
    log.warning("of no job")
    first, second, third = map(json.loads, said())
    assert (first["message"], first["job"], first["owner"], first["frames"]) == (
        "coloured 24 frames",
        "0a1b",
        "alice",
        24,
    )
    assert first["level"] == "info" and first["logger"] == "kinochrome_server.somewhere"
    when = datetime.fromisoformat(first["time"])
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert second["message"] == "a fault: ä\n\x1b[31m{" and "ValueError: two\nlines" in second["error"]
    assert "job" not in third and "owner" not in third


def test_text_lines_cannot_be_forged_by_what_a_caller_says(lines: Configure) -> None:
    said = lines("text")
    with logs.about("0a1b", "alice"):
        log.info("refused: %s", "x\n2026-01-01 00:00:00 INFO all is well\x1b[2J\u2028ä")
    (line,) = said()
    assert " INFO [0a1b] refused: x\\n2026-01-01" in line and "\\x1b[2J" in line and line.endswith("\\u2028ä")


def test_each_thread_speaks_of_its_own_job(lines: Configure) -> None:
    said = lines("json")
    together = threading.Barrier(8)

    def work(number: int) -> None:
        with logs.about(f"job{number}", f"owner{number}"):
            for _ in range(20):
                together.wait(10)
                log.info("%d", number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    records = list(map(json.loads, said()))
    assert len(records) == 160
    assert all(one["job"] == f"job{one['message']}" and one["owner"] == f"owner{one['message']}" for one in records)


def test_what_extra_says_counts_before_the_thread(lines: Configure) -> None:
    said = lines("json")
    with logs.about("0a1b", "alice"):
        log.info("handed over", extra={"job": "ffff", "owner": "bob"})
    (record,) = map(json.loads, said())
    assert (record["job"], record["owner"]) == ("ffff", "bob")


def test_afterwards_the_thread_is_as_it_was() -> None:
    with logs.about("0a1b", "alice"), logs.about("0c2d"):
        assert (about.job.get(), about.owner.get()) == ("0c2d", "alice")
    assert (about.job.get(), about.owner.get()) == ("", about.LOCAL)
