"""The fuzzer in short form: tests/fuzzing.py runs for as long as one likes."""

from pathlib import Path

import pytest

from tests import fuzzing


@pytest.mark.slow
def test_mutated_films_are_coloured_or_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    tally = fuzzing.run(100, 3, tmp_path, workers=1, budget_s=120)
    assert tally.faults == []
    assert tally.ends["coloured"] > 5 < tally.ends["BadFilm"]
    assert sum(tally.ends.values()) > 20  # on a busy machine the budget ends it before all are done
