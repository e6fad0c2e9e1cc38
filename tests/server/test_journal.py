"""The journal: what is written down stays, what is torn is dropped, what is of something else is refused."""

import hashlib
from pathlib import Path

import pytest

from kinochrome_proto.errors import OutputInTheWay
from kinochrome_server.journal import Journal, Record, film_identity

ME = {"film": {"size": 3, "ends": "aa"}, "settings": {"codec": "h264"}}


def finished(journal: Journal, index: int, content: bytes = b"chunk", lost: bool = False) -> Record:
    journal.chunk_file(index).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    record = Record(index, f"source{index}", 24, lost, len(content), digest, ("a warning",) if lost else ())
    journal.add(record)
    return record


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "film.kinochrome"
    with Journal(folder, ME) as journal:
        records = {index: finished(journal, index) for index in (2, 0)}
    with Journal(folder, ME) as journal:
        assert journal.records == records
        assert journal.usable(0, "source0", lenient=False) == records[0]
        assert journal.usable(1, "source1", lenient=False) is None
        journal.remove()
    assert not folder.exists()


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_line_is_dropped_and_the_rest_kept(cut: int, tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        first = finished(journal, 0)
        finished(journal, 1)
    lines = tmp_path / "j" / "journal"
    lines.write_bytes(lines.read_bytes()[:-cut])
    with Journal(tmp_path / "j", ME) as journal:
        assert journal.records == {0: first}
        assert not journal.chunk_file(1).exists()  # it is of no use, and would stay for ever
        finished(journal, 1)
    with Journal(tmp_path / "j", ME) as journal:
        assert set(journal.records) == {0, 1}


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        finished(journal, 0)
        finished(journal, 1)
    lines = tmp_path / "j" / "journal"
    data = bytearray(lines.read_bytes())
    data[-20] ^= 4
    lines.write_bytes(data)
    with Journal(tmp_path / "j", ME) as journal:
        assert set(journal.records) == {0}


def test_a_damaged_or_missing_chunk_is_made_anew(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        finished(journal, 0)
        finished(journal, 1)
        finished(journal, 2)
        journal.chunk_file(0).write_bytes(b"chunK")
        journal.chunk_file(1).unlink()
    with Journal(tmp_path / "j", ME) as journal:
        assert journal.usable(0, "source0", lenient=False) is None
        assert journal.usable(1, "source1", lenient=False) is None
        assert journal.usable(2, "source2", lenient=False) is not None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({**ME, "settings": {"codec": "ffv1"}}, "codec was h264, is ffv1"),
        ({**ME, "film": {"size": 4, "ends": "aa"}}, "size was 3, is 4"),
    ],
)
def test_a_journal_of_something_else_is_named_and_refused(other: dict[str, object], words: str, tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        finished(journal, 0)
    with pytest.raises(OutputInTheWay, match=f"j holds an unfinished run .*{words}.*--restart"):
        Journal(tmp_path / "j", other)
    with Journal(tmp_path / "j", ME) as journal:
        assert set(journal.records) == {0}  # refused, not thrown away
    with Journal(tmp_path / "j", other, restart=True) as journal:
        assert journal.records == {}
        assert not journal.chunk_file(0).exists()


def test_a_segment_that_has_changed_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        finished(journal, 0)
        with pytest.raises(OutputInTheWay, match="another film, or the film has changed since"):
            journal.usable(0, "other packets", lenient=False)


def test_what_leniency_left_out_is_not_taken_by_a_run_without_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        record = finished(journal, 0, lost=True)
        assert journal.usable(0, "source0", lenient=True) == record
        assert journal.usable(0, "source0", lenient=False) is None


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME), pytest.raises(OutputInTheWay, match="another run is colouring this film"):
        Journal(tmp_path / "j", ME)


def test_nothing_is_left_of_a_run_that_finished_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", ME) as journal:
        journal.passing_file("half").write_bytes(b"x")
    assert not (tmp_path / "j").exists()


def test_somebody_elses_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "holiday.jpg").write_bytes(b"x")
    with Journal(tmp_path / "j", ME) as journal:
        journal.remove()
    assert [entry.name for entry in (tmp_path / "j").iterdir()] == ["holiday.jpg"]


def test_films_that_differ_at_their_ends_or_in_size_are_told_apart(tmp_path: Path) -> None:
    base = bytes(3 << 20)
    variants = [base, base + b"x", b"x" + base[1:], base[:-1] + b"x"]
    told = set()
    for content in variants:
        (tmp_path / "film").write_bytes(content)
        with (tmp_path / "film").open("rb") as file:
            told.add(str(film_identity(file)))
    assert len(told) == len(variants)
