"""The fuzzer over colorizer files in short form: tests/model_fuzzing.py runs for as long as one likes."""

from pathlib import Path

import pytest

from kinochrome_server import colorizers
from tests import model_fuzzing


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_files_are_refused_in_a_line_or_paint(count: int, tmp_path: Path) -> None:
    tally = model_fuzzing.run(count, seed=1, folder=tmp_path)
    assert tally.faults == []
    assert sum(tally.ends.values()) == count
    assert tally.ends["BadColorizer"] > count / 2 and tally.ends["paints"] > count / 50
    assert tally.reached_runtime > count / 10
    assert all(tally.refusals[kind] for kind in ("bytes", "bytes, sealed", "splice, sealed", "fields, sealed"))


@pytest.mark.slow
def test_the_shipped_file_mutated_is_refused_or_paints(tmp_path: Path) -> None:
    tally = model_fuzzing.run(60, seed=2, folder=tmp_path, found=[colorizers.load().content])
    assert tally.faults == []
    assert tally.ends["BadColorizer"] > 20 and tally.reached_runtime > 5


def test_a_child_that_dies_or_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_fuzzing, "LONGEST_S", 0.0)
    child = model_fuzzing.Child()
    try:
        assert child.try_out(tmp_path / "none.onnx")["end"] == "hangs"
        monkeypatch.setattr(model_fuzzing, "LONGEST_S", 60.0)
        child._process.kill()
        child._process.wait()
        assert child.try_out(tmp_path / "none.onnx")["end"] == "died"
        assert child.try_out(tmp_path / "none.onnx")["end"] == "UnknownColorizer"
    finally:
        child.end()
