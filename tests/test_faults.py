"""The service under faults, in short; `python -m tests.faults` is the long form."""

from pathlib import Path

import pytest

from tests import faults


@pytest.mark.slow
def test_nothing_is_lost_whatever_goes_wrong(tmp_path: Path) -> None:
    tally = faults.run(12, seed=3, folder=tmp_path / "service", clients=2)
    told = tally.plain()
    assert tally.good, told
    assert sum(tally.faults.values()) == 12 and len(tally.faults) >= 4, told
    assert tally.coloured + tally.refused >= 2, told
